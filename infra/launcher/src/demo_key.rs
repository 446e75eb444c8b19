//! The API key of `headrace up`: for whoever tries it out, so with every scope, and for the demo workspace
//! alone. It is kept in the data directory and stays the same as long as the database knows it.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context as _;
use ingress_consumer::control::{ApiKeyView, CreatedApiKey, NewWideApiKey};
use reqwest::{Client, StatusCode};
use runtime::access::{ApiKey, Scope};

use crate::connection::expect;
use crate::demo::WORKSPACE;

const FILE: &str = "api-key";
const NAME: &str = "headrace up";

/// The key that `data` remembers if the core at `core` still knows it, or else a new one. `client` passes
/// for one of the services.
pub async fn key(client: &Client, core: &str, data: &Path) -> anyhow::Result<String> {
    let (keys, path) = (format!("{core}/v1/api-keys"), data.join(FILE));
    let remembered = std::fs::read_to_string(&path).unwrap_or_default();
    if let Ok(key) = remembered.trim().parse::<ApiKey>() {
        let url = format!("{keys}/{}", key.id);
        let answer = client.get(&url).send().await?;
        if answer.status() != StatusCode::NOT_FOUND {
            let known: ApiKeyView = expect(answer).await?.json().await?;
            if fits(&known) && opens(client, core, &key).await? {
                return Ok(key.expose());
            }
            // Nobody needs it any more.
            expect(client.delete(&url).send().await?).await?;
        }
    }
    let new = NewWideApiKey {
        name: NAME.to_owned(),
        workspaces: [WORKSPACE.parse()?].into(),
        scopes: Scope::ALL.into(),
        expires_at: None,
    };
    let answer = client.post(keys).json(&new).send().await?;
    let made: CreatedApiKey = expect(answer).await?.json().await?;
    remember(&path, &made.key).with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(made.key)
}

/// Whether `key` allows what a new one would.
fn fits(key: &ApiKeyView) -> bool {
    key.state == "active" && key.workspaces == [WORKSPACE] && key.scopes == Scope::ALL
}

/// Whether the file holds the key's secret too: the database may be another one's.
async fn opens(client: &Client, core: &str, key: &ApiKey) -> anyhow::Result<bool> {
    let request = client
        .get(format!("{core}/v1/me"))
        .bearer_auth(key.expose());
    let answer = request.send().await?;
    Ok(answer.status() != StatusCode::UNAUTHORIZED && expect(answer).await.is_ok())
}

/// Replaces the file as a whole, readable to its owner alone.
fn remember(path: &Path, key: &str) -> std::io::Result<()> {
    let next = path.with_extension("next");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&next)?;
    writeln!(file, "{key}")?;
    file.sync_all()?;
    std::fs::rename(next, path)
}

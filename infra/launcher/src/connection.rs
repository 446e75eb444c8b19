//! `headrace connection`: connections to providers, through the control API.

use std::collections::BTreeMap;
use std::io::{Write as _, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use ingress_consumer::control::NewConnection;
use private_services::NAME;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Client, ClientBuilder, Response};
use runtime::http::Problem;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared_model::ConnectionId;

use crate::{cli, env_file};

/// What to do about connections.
#[derive(Debug, Subcommand)]
pub enum ConnectionCommand {
    /// Add a connection; prints it as JSON.
    Add(AddArguments),
    /// List a workspace's connections, one JSON object a line.
    List(TargetArguments),
    /// Poll a connection now instead of when it is due.
    Poll {
        /// Where.
        #[command(flatten)]
        target: TargetArguments,
        /// The connection's id.
        id: ConnectionId,
    },
    /// Stop polling a connection until it is resumed.
    Pause {
        /// Where.
        #[command(flatten)]
        target: TargetArguments,
        /// The connection's id.
        id: ConnectionId,
    },
    /// Poll a paused connection again.
    Resume {
        /// Where.
        #[command(flatten)]
        target: TargetArguments,
        /// The connection's id.
        id: ConnectionId,
    },
    /// Remove a connection.
    Remove {
        /// Where.
        #[command(flatten)]
        target: TargetArguments,
        /// The connection's id.
        id: ConnectionId,
    },
}

/// Which API and workspace.
#[derive(Debug, Args)]
pub struct TargetArguments {
    /// The workspace.
    #[arg(long, short)]
    pub(crate) workspace: String,
    #[command(flatten)]
    pub(crate) api: ApiArguments,
}

/// Which API.
#[derive(Debug, Args)]
pub struct ApiArguments {
    /// Base URL of the API [default: that of the system that runs on the data directory].
    #[arg(long, env = "API_URL", value_name = "URL")]
    api: Option<String>,
    /// API key or token [default: that of the system that runs on the data directory].
    #[arg(long, env = "API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
    /// Data directory of the running system.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// A connection to add.
#[derive(Debug, Args)]
pub struct AddArguments {
    #[command(flatten)]
    target: TargetArguments,
    /// The provider's protocol.
    #[arg(long, default_value = "viriciti")]
    provider: String,
    /// How data come: `stream` is a websocket, `poll` an HTTP API that the core asks, `push` is delivered
    /// with `headrace ingest` or over HTTP.
    #[arg(long, default_value = "stream")]
    kind: String,
    /// The provider's URL, such as `wss://sdk.viriciti.com/api/v2/live`; none for `push`.
    #[arg(long, value_name = "URL", default_value = "")]
    endpoint: String,
    /// Where the credential is: `env:NAME` or `file:PATH`, as the publisher (`stream`) or the core (`poll`) sees them.
    #[arg(long, value_name = "REFERENCE")]
    credential: Option<String>,
    /// A vehicle and its labels, such as `bus-1=soc,odo,speed,gps,power`; may be repeated.
    #[arg(long = "vehicle", value_name = "ID=LABELS", value_parser = vehicle)]
    vehicles: Vec<(String, Vec<String>)>,
    /// Further settings as a JSON object, such as `{"register_unknown":false}`.
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = settings)]
    settings: Value,
}

fn settings(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn vehicle(text: &str) -> Result<(String, Vec<String>), String> {
    let (id, labels) = text.split_once('=').ok_or("write ID=LABEL,LABEL,…")?;
    Ok((
        id.to_owned(),
        labels.split(',').map(str::to_owned).collect(),
    ))
}

impl TargetArguments {
    /// The API's base URL.
    pub(crate) fn base(&self) -> anyhow::Result<String> {
        self.api.base()
    }

    fn url(&self) -> anyhow::Result<String> {
        Ok(format!(
            "{}/v1/workspaces/{}/connections",
            self.base()?,
            self.workspace
        ))
    }
}

impl ApiArguments {
    /// The API's base URL.
    pub(crate) fn base(&self) -> anyhow::Result<String> {
        match &self.api {
            Some(api) => Ok(api.trim_end_matches('/').to_owned()),
            None => self.running("API_URL").context(
                "no running system was found; name its API with --api or its data with --data",
            ),
        }
    }

    /// A client that comes with the API key.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        Ok(self.client_builder()?.build()?)
    }

    /// The same, to be configured further.
    pub(crate) fn client_builder(&self) -> anyhow::Result<ClientBuilder> {
        runtime::telemetry::install_tls();
        let key = self.api_key.clone().or_else(|| self.running("API_KEY"));
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            let mut value = HeaderValue::try_from(format!("Bearer {key}"))
                .context("the API key holds what a header cannot")?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(Client::builder().default_headers(headers))
    }

    /// What the env file of the running system says of `name`.
    fn running(&self, name: &str) -> Option<String> {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let user = std::env::var_os("XDG_DATA_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(home?.join(".local/share")));
        let places = match &self.data {
            Some(data) => vec![data.clone()],
            None => user
                .into_iter()
                .chain([PathBuf::from("/var/lib")])
                .map(|parent| parent.join(NAME))
                .collect(),
        };
        places.iter().find_map(|place| env_file::read(place, name))
    }
}

impl ConnectionCommand {
    fn api(&self) -> &ApiArguments {
        match self {
            Self::Add(add) => &add.target.api,
            Self::List(target)
            | Self::Poll { target, .. }
            | Self::Pause { target, .. }
            | Self::Resume { target, .. }
            | Self::Remove { target, .. } => &target.api,
        }
    }
}

/// Runs the command.
#[must_use]
pub fn main(command: ConnectionCommand) -> ExitCode {
    cli::run(run(command))
}

async fn run(command: ConnectionCommand) -> anyhow::Result<()> {
    let client = command.api().client()?;
    match command {
        ConnectionCommand::Add(arguments) => {
            let url = arguments.target.url()?;
            let new = arguments.into_connection()?;
            let answer = client.post(url).json(&new).send().await?;
            println!("{:#}", expect(answer).await?.json::<Value>().await?);
        }
        ConnectionCommand::List(target) => {
            print_list(&client, &target.url()?, &()).await?;
        }
        ConnectionCommand::Poll { target, id } => act(&client, &target, id, "poll").await?,
        ConnectionCommand::Pause { target, id } => act(&client, &target, id, "pause").await?,
        ConnectionCommand::Resume { target, id } => act(&client, &target, id, "resume").await?,
        ConnectionCommand::Remove { target, id } => {
            expect(
                client
                    .delete(format!("{}/{id}", target.url()?))
                    .send()
                    .await?,
            )
            .await?;
        }
    }
    Ok(())
}

/// Asks the core to do something with a connection.
async fn act(
    client: &Client,
    target: &TargetArguments,
    id: ConnectionId,
    action: &str,
) -> anyhow::Result<()> {
    let url = format!("{}/{id}/{action}", target.url()?);
    expect(client.post(url).send().await?).await?;
    Ok(())
}

impl AddArguments {
    fn into_connection(self) -> anyhow::Result<NewConnection> {
        let Value::Object(mut settings) = self.settings else {
            bail!("--settings is not a JSON object");
        };
        if !self.vehicles.is_empty() {
            let vehicles: BTreeMap<_, _> = self.vehicles.into_iter().collect();
            settings.insert("vehicles".to_owned(), json!(vehicles));
        }
        Ok(NewConnection {
            provider: self.provider,
            kind: self.kind,
            endpoint: self.endpoint,
            credential: self.credential,
            settings: Value::Object(settings),
        })
    }
}

/// The answer, or the problem that it tells of.
pub(crate) async fn expect(answer: Response) -> anyhow::Result<Response> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    match answer.json::<Problem>().await {
        Ok(problem) => bail!("{}", problem.detail),
        Err(_) => bail!("the API answered {status}"),
    }
}

/// A page of a list.
#[derive(Debug, Deserialize)]
struct Page {
    items: Vec<Value>,
    next: Option<Value>,
}

/// Prints what `filter` names of the list at `url`, all of its pages, one JSON object a line.
pub(crate) async fn print_list(
    client: &Client,
    url: &str,
    filter: &impl Serialize,
) -> anyhow::Result<()> {
    for_each_page(client, url, filter, |items| {
        let mut out = stdout().lock();
        for item in items {
            writeln!(out, "{item}")?;
        }
        Ok(())
    })
    .await
}

/// Hands what `filter` names of the list at `url` to `take`, page by page.
pub(crate) async fn for_each_page(
    client: &Client,
    url: &str,
    filter: &impl Serialize,
    mut take: impl FnMut(Vec<Value>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut after = None;
    loop {
        let cursor = after.map(|after: Value| ("after", after));
        let request = client.get(url).query(filter).query(cursor.as_slice());
        let page: Page = expect(request.send().await?).await?.json().await?;
        take(page.items)?;
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

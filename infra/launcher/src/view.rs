//! What commands that look at a running system share: which API and workspace, and how tables look.

use anyhow::{Context as _, bail};
use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use reqwest::Client;
use serde::Deserialize;

use crate::connection::{ApiArguments, expect};

/// Which API, and which of its workspaces.
#[derive(Debug, Args)]
pub struct ViewArguments {
    /// The workspace [default: the only one that the API key reaches].
    #[arg(long, short, value_name = "NAME")]
    pub(crate) workspace: Option<String>,
    #[command(flatten)]
    pub(crate) api: ApiArguments,
}

/// What `GET /v1/me` says of the API key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Me {
    /// The workspaces that it reaches; none if that is all of them.
    pub(crate) workspaces: Option<Vec<String>>,
    /// What it may do.
    pub(crate) scopes: Vec<String>,
}

impl Me {
    /// Asks the API at `base`.
    pub(crate) async fn ask(client: &Client, base: &str) -> anyhow::Result<Self> {
        let answer = client.get(format!("{base}/v1/me")).send().await?;
        Ok(expect(answer).await?.json().await?)
    }

    /// Whether the key may see what belongs to no workspace.
    pub(crate) fn operates(&self) -> bool {
        self.scopes.iter().any(|scope| scope == "operate")
    }
}

impl ViewArguments {
    /// The workspace's URL in the API.
    pub(crate) async fn url(&self, client: &Client) -> anyhow::Result<String> {
        let base = self.api.base()?;
        let workspace = match &self.workspace {
            Some(workspace) => workspace.clone(),
            None => only(Me::ask(client, &base).await?.workspaces)?,
        };
        Ok(format!("{base}/v1/workspaces/{workspace}"))
    }
}

/// The one workspace that a key reaches.
fn only(workspaces: Option<Vec<String>>) -> anyhow::Result<String> {
    let workspaces = workspaces.context("the API key reaches all workspaces; name one with -w")?;
    match workspaces.as_slice() {
        [workspace] => Ok(workspace.clone()),
        [] => bail!("the API key reaches no workspace"),
        several => bail!(
            "the API key reaches {}; name one with -w",
            several.join(", ")
        ),
    }
}

/// A table without lines, headed by `titles`.
pub(crate) fn table<const N: usize>(titles: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(titles);
    table
}

/// A table's text, without blanks where lines end.
pub(crate) fn text(table: &Table) -> String {
    table
        .lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

/// An age as a person reads it: `12s`, `5m`, `3h`, `2d`.
pub(crate) fn age(seconds: f64) -> String {
    const UNITS: [(f64, &str); 3] = [(86_400.0, "d"), (3600.0, "h"), (60.0, "m")];
    let (size, unit) = UNITS
        .into_iter()
        .find(|(size, _)| seconds >= *size)
        .unwrap_or((1.0, "s"));
    format!("{:.0}{unit}", (seconds / size).floor())
}

/// What comes from others, without what would command the terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|letter| {
            if letter.is_control() {
                '\u{fffd}'
            } else {
                letter
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_workspace_needs_no_name() {
        let of = |names: &[&str]| only(Some(names.iter().map(ToString::to_string).collect()));
        assert_eq!(of(&["demo"]).unwrap(), "demo");
        let several = of(&["depot", "demo"]).unwrap_err().to_string();
        assert!(several.contains("depot, demo") && several.contains("-w"));
        assert!(of(&[]).is_err() && only(None).is_err());
    }

    #[test]
    fn an_age_is_in_the_largest_unit_that_it_fills() {
        for (seconds, text) in [
            (0.0, "0s"),
            (59.9, "59s"),
            (60.0, "1m"),
            (3599.0, "59m"),
            (86_399.0, "23h"),
            (200_000.0, "2d"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn a_name_commands_no_terminal() {
        assert_eq!(plain("bus\u{1b}[2J\n"), "bus\u{fffd}[2J\u{fffd}");
        assert_eq!(plain("Bus №7 / Süd"), "Bus №7 / Süd");
    }
}

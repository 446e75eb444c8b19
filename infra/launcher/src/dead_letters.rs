//! `headrace dead-letters`: messages that the broker gave up, through the control API.

use std::io::{Write as _, stdout};
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use ingress_consumer::control::{DeadLetterFilter, DeadLetterOrder, DeadLetterOutcome};
use reqwest::Client;
use serde_json::{Value, json};
use shared_model::ConnectionId;

use crate::cli;
use crate::connection::{ApiArguments, expect, for_each_page};
use crate::parked::merge;

/// What to do about dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// List them, a line each.
    List {
        /// Where.
        #[command(flatten)]
        api: ApiArguments,
        /// Which.
        #[command(flatten)]
        filter: FilterArguments,
        /// Write one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Show one with its content, why it is dead, and what would become of it now.
    Show {
        /// Where.
        #[command(flatten)]
        api: ApiArguments,
        /// The letter's id.
        id: i64,
    },
    /// Put them back into the ingress queue.
    Replay(OrderArguments),
    /// Discard them for good; prints how many.
    Discard(OrderArguments),
}

/// Which dead letters: those for which everything holds that is given.
#[derive(Debug, Args)]
pub struct FilterArguments {
    /// Only of this workspace.
    #[arg(long, short)]
    workspace: Option<String>,
    /// Only of this connection.
    #[arg(long, value_name = "ID")]
    connection: Option<ConnectionId>,
    /// Only those given up for this reason, such as `delivery_limit`.
    #[arg(long)]
    reason: Option<String>,
    /// Only those that were replayed (`true`) or were not (`false`).
    #[arg(long)]
    replayed: Option<bool>,
}

/// What to do with which.
#[derive(Debug, Args)]
pub struct OrderArguments {
    #[command(flatten)]
    api: ApiArguments,
    #[command(flatten)]
    filter: FilterArguments,
    /// Those with these ids.
    ids: Vec<i64>,
    /// All of them.
    #[arg(long)]
    all: bool,
    /// Only say what would be.
    #[arg(long)]
    dry_run: bool,
    /// Write JSON: an object a letter, and one for the sum.
    #[arg(long)]
    json: bool,
}

impl DeadLettersCommand {
    fn api(&self) -> &ApiArguments {
        match self {
            Self::List { api, .. } | Self::Show { api, .. } => api,
            Self::Replay(order) | Self::Discard(order) => &order.api,
        }
    }
}

/// Runs the command.
#[must_use]
pub fn main(command: DeadLettersCommand) -> ExitCode {
    cli::run(run(command))
}

async fn run(command: DeadLettersCommand) -> anyhow::Result<()> {
    let client = command.api().client()?;
    match command {
        DeadLettersCommand::List { api, filter, json } => {
            list(&client, &url(&api)?, filter, json).await
        }
        DeadLettersCommand::Show { api, id } => {
            let url = format!("{}/{id}", url(&api)?);
            let answer = client.get(url).send().await?;
            println!("{:#}", expect(answer).await?.json::<Value>().await?);
            Ok(())
        }
        DeadLettersCommand::Replay(arguments) => order(&client, "replay", arguments).await,
        DeadLettersCommand::Discard(arguments) => order(&client, "discard", arguments).await,
    }
}

fn url(api: &ApiArguments) -> anyhow::Result<String> {
    Ok(format!("{}/v1/dead-letters", api.base()?))
}

async fn list(
    client: &Client,
    url: &str,
    filter: FilterArguments,
    json: bool,
) -> anyhow::Result<()> {
    let filter = filter.into_filter(Vec::new());
    let mut count = 0;
    for_each_page(client, url, &filter, |letters| {
        count += letters.len();
        let mut out = stdout().lock();
        for letter in letters {
            let letter = if json {
                letter.to_string()
            } else {
                line(&letter)
            };
            writeln!(out, "{letter}")?;
        }
        Ok(())
    })
    .await?;
    if !json {
        println!("{count} dead letters");
    }
    Ok(())
}

/// A letter as a person reads it.
fn line(item: &Value) -> String {
    let text = |name: &str| match &item[name] {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let state = match &item["replayed_at"] {
        Value::Null => "waiting".to_owned(),
        _ => format!("replayed {}", text("replayed_at")),
    };
    format!(
        "{}  {}  partition {}  workspace {}  connection {}  {} frames, {} bytes  died {} in {} ({})  {state}",
        text("id"),
        text("message_id"),
        text("partition"),
        text("workspace"),
        text("connection"),
        text("frames"),
        text("size"),
        text("died_at"),
        text("queue"),
        text("reason"),
    )
}

/// Gives the order until there is nothing left to do, and prints the sum.
async fn order(client: &Client, verb: &str, arguments: OrderArguments) -> anyhow::Result<()> {
    let url = format!("{}/{verb}", url(&arguments.api)?);
    let (dry_run, json) = (arguments.dry_run, arguments.json);
    let filter = arguments.filter.into_filter(arguments.ids);
    if filter == DeadLetterFilter::default() && !arguments.all {
        bail!("name which dead letters by their ids, with --workspace, --reason, …, or --all");
    }
    let mut order = DeadLetterOrder {
        filter,
        dry_run,
        after: None,
        limit: None,
    };
    let mut sum = DeadLetterOutcome::default();
    loop {
        let request = client.post(&url).json(&order);
        let outcome: DeadLetterOutcome = expect(request.send().await?).await?.json().await?;
        sum.letters += outcome.letters;
        merge(&mut sum.verdicts, outcome.verdicts);
        for item in outcome.items {
            match &item.now {
                _ if json => println!("{}", json!(item)),
                Some(now) => println!(
                    "{}  {}  {}  {}",
                    item.id,
                    item.message_id,
                    now.explanation,
                    json!(now.verdicts)
                ),
                None => println!("{}  {}  replayed", item.id, item.message_id),
            }
        }
        sum.failed = outcome.failed;
        order.after = outcome.next;
        if order.after.is_none() || sum.failed.is_some() {
            break;
        }
    }
    if json {
        println!(
            "{}",
            json!({
                "dry_run": dry_run, "letters": sum.letters, "verdicts": sum.verdicts,
                "failed": sum.failed,
            })
        );
    } else {
        let done = match (verb, dry_run) {
            ("replay", false) => "replayed",
            ("replay", true) => "would be replayed",
            (_, false) => "discarded",
            (_, true) => "would be discarded",
        };
        println!("{} dead letters {done}", sum.letters);
    }
    match sum.failed {
        None => Ok(()),
        Some(failed) => bail!(
            "the replay stopped at dead letter {}: {}; run it again once that is over",
            failed.id,
            failed.reason
        ),
    }
}

impl FilterArguments {
    fn into_filter(self, ids: Vec<i64>) -> DeadLetterFilter {
        DeadLetterFilter {
            ids: (!ids.is_empty()).then_some(ids),
            workspace: self.workspace,
            connection: self.connection.map(|id| id.0),
            reason: self.reason,
            replayed: self.replayed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_known_and_shows_what_is_not() {
        let item = json!({"id": 7, "message_id": "m", "partition": "2", "workspace": null,
            "connection": null, "frames": 3, "size": 90, "died_at": null, "queue": "ingress.2",
            "reason": "delivery_limit", "replayed_at": null});
        let line = line(&item);
        for part in [
            "7  m",
            "workspace -",
            "3 frames",
            "ingress.2 (delivery_limit)",
            "waiting",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
}

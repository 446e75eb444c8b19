//! `headrace parked`: a workspace's parked frames, through the control API.

use std::collections::BTreeMap;
use std::io::{Write as _, stdout};
use std::process::ExitCode;

use anyhow::bail;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use ingress_consumer::control::{ParkedFilter, ParkedOrder, ParkedOutcome};
use reqwest::Client;
use serde_json::{Value, json};
use shared_model::ConnectionId;

use crate::cli;
use crate::connection::{ApiArguments, TargetArguments, expect, print_list};

/// What to do about parked frames.
#[derive(Debug, Subcommand)]
pub enum ParkedCommand {
    /// List them, one JSON object a line.
    List {
        /// Where.
        #[command(flatten)]
        target: TargetArguments,
        /// Which.
        #[command(flatten)]
        filter: FilterArguments,
    },
    /// Show one with its body.
    Show {
        /// Where.
        #[command(flatten)]
        target: TargetArguments,
        /// The parked frame's id.
        id: i64,
    },
    /// Discard them for good; prints how many.
    Discard(OrderArguments),
    /// Offer them again; prints what became of them.
    Replay(OrderArguments),
}

/// Which parked frames: those for which everything holds that is given.
#[derive(Debug, Args)]
pub struct FilterArguments {
    /// Only of this provider.
    #[arg(long)]
    provider: Option<String>,
    /// Only of this connection.
    #[arg(long, value_name = "ID")]
    connection: Option<ConnectionId>,
    /// Only those parked for this reason, such as `invalid_value`.
    #[arg(long)]
    reason: Option<String>,
    /// Only those parked then or later (RFC 3339).
    #[arg(long, value_name = "TIME")]
    from: Option<DateTime<Utc>>,
    /// Only those parked before (RFC 3339).
    #[arg(long, value_name = "TIME")]
    to: Option<DateTime<Utc>>,
}

/// What to do with which.
#[derive(Debug, Args)]
pub struct OrderArguments {
    #[command(flatten)]
    target: TargetArguments,
    #[command(flatten)]
    filter: FilterArguments,
    /// Only the one with this id.
    #[arg(long)]
    id: Option<i64>,
    /// All of the workspace's.
    #[arg(long)]
    all: bool,
    /// Only say what would be.
    #[arg(long)]
    dry_run: bool,
}

impl ParkedCommand {
    fn api(&self) -> &ApiArguments {
        match self {
            Self::List { target, .. } | Self::Show { target, .. } => &target.api,
            Self::Discard(order) | Self::Replay(order) => &order.target.api,
        }
    }
}

/// Runs the command.
#[must_use]
pub fn main(command: ParkedCommand) -> ExitCode {
    cli::run(run(command))
}

async fn run(command: ParkedCommand) -> anyhow::Result<()> {
    let client = command.api().client()?;
    match command {
        ParkedCommand::List { target, filter } => {
            print_list(&client, &url(&target)?, &filter.into_filter(None)).await
        }
        ParkedCommand::Show { target, id } => {
            let url = format!("{}/{id}", url(&target)?);
            let answer = client.get(url).send().await?;
            println!("{:#}", expect(answer).await?.json::<Value>().await?);
            Ok(())
        }
        ParkedCommand::Discard(arguments) => order(&client, "discard", arguments).await,
        ParkedCommand::Replay(arguments) => order(&client, "replay", arguments).await,
    }
}

fn url(target: &TargetArguments) -> anyhow::Result<String> {
    let base = target.base()?;
    Ok(format!("{base}/v1/workspaces/{}/parked", target.workspace))
}

/// Gives the order until there is nothing left to do, and prints the sum.
async fn order(client: &Client, verb: &str, arguments: OrderArguments) -> anyhow::Result<()> {
    let url = format!("{}/{verb}", url(&arguments.target)?);
    let filter = arguments.filter.into_filter(arguments.id);
    if filter == ParkedFilter::default() && !arguments.all {
        bail!("name which parked frames with --id, --reason, …, or --all");
    }
    let mut order = ParkedOrder {
        filter,
        dry_run: arguments.dry_run,
        after: None,
        limit: None,
    };
    let mut sum = ParkedOutcome::default();
    loop {
        let request = client.post(&url).json(&order);
        let outcome: ParkedOutcome = expect(request.send().await?).await?.json().await?;
        sum.frames += outcome.frames;
        sum.copies += outcome.copies;
        merge(&mut sum.verdicts, outcome.verdicts);
        merge(&mut sum.reasons, outcome.reasons);
        if arguments.dry_run {
            for item in outcome.items {
                writeln!(stdout(), "{}", json!(item))?;
            }
        }
        order.after = outcome.next;
        if order.after.is_none() {
            break;
        }
    }
    println!(
        "{}",
        json!({
            "dry_run": arguments.dry_run, "frames": sum.frames, "copies": sum.copies,
            "verdicts": sum.verdicts, "reasons": sum.reasons,
        })
    );
    Ok(())
}

pub(crate) fn merge(into: &mut BTreeMap<String, u64>, from: BTreeMap<String, u64>) {
    for (name, count) in from {
        *into.entry(name).or_default() += count;
    }
}

impl FilterArguments {
    fn into_filter(self, id: Option<i64>) -> ParkedFilter {
        ParkedFilter {
            id,
            provider: self.provider,
            connection: self.connection.map(|id| id.0),
            reason: self.reason,
            from: self.from,
            to: self.to,
        }
    }
}

//! `headrace dead-events`: events that the broker refused too often, through the control API.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use ingress_consumer::control::{RedriveOrder, RedriveOutcome};
use reqwest::Client;
use serde_json::{Value, json};

use crate::cli;
use crate::connection::{ApiArguments, TargetArguments, expect, print_list};

/// What to do about dead events.
#[derive(Debug, Subcommand)]
pub enum DeadEventsCommand {
    /// List them, one JSON object a line.
    List(TargetArguments),
    /// Show one with its event.
    Show {
        /// Where.
        #[command(flatten)]
        target: TargetArguments,
        /// The event's id, shard:offset.
        id: String,
    },
    /// Have the relay publish them once more; prints how many.
    Redrive(RedriveArguments),
}

/// Which dead events to redrive.
#[derive(Debug, Args)]
pub struct RedriveArguments {
    #[command(flatten)]
    target: TargetArguments,
    /// The events' ids, shard:offset.
    ids: Vec<String>,
    /// All of the workspace's.
    #[arg(long)]
    all: bool,
    /// Only say how many.
    #[arg(long)]
    dry_run: bool,
}

impl DeadEventsCommand {
    fn api(&self) -> &ApiArguments {
        match self {
            Self::List(target) | Self::Show { target, .. } => &target.api,
            Self::Redrive(redrive) => &redrive.target.api,
        }
    }
}

/// Runs the command.
#[must_use]
pub fn main(command: DeadEventsCommand) -> ExitCode {
    cli::run(run(command))
}

async fn run(command: DeadEventsCommand) -> anyhow::Result<()> {
    let client = command.api().client()?;
    match command {
        DeadEventsCommand::List(target) => {
            print_list(&client, &url(&target)?, &[("limit", "1000")]).await
        }
        DeadEventsCommand::Show { target, id } => {
            let url = format!("{}/{id}", url(&target)?);
            let answer = client.get(url).send().await?;
            println!("{:#}", expect(answer).await?.json::<Value>().await?);
            Ok(())
        }
        DeadEventsCommand::Redrive(arguments) => redrive(&client, arguments).await,
    }
}

fn url(target: &TargetArguments) -> anyhow::Result<String> {
    let base = target.base()?;
    Ok(format!(
        "{base}/v1/workspaces/{}/dead-events",
        target.workspace
    ))
}

/// Gives the order until there is nothing left to do, and prints the sum.
async fn redrive(client: &Client, arguments: RedriveArguments) -> anyhow::Result<()> {
    if arguments.ids.is_empty() != arguments.all {
        bail!("name the dead events by their ids, shard:offset, or write --all");
    }
    let url = format!("{}/redrive", url(&arguments.target)?);
    let order = RedriveOrder {
        ids: arguments.ids,
        all: arguments.all,
        dry_run: arguments.dry_run,
    };
    let mut events = 0;
    loop {
        let request = client.post(&url).json(&order);
        let outcome: RedriveOutcome = expect(request.send().await?).await?.json().await?;
        events += outcome.events;
        if !(outcome.more && order.all) {
            break;
        }
    }
    println!("{}", json!({"dry_run": order.dry_run, "events": events}));
    Ok(())
}

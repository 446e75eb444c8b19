//! `headrace subscribers`: who reads the event log, through the control API.

use std::process::ExitCode;

use clap::Subcommand;
use ingress_consumer::control::SubscriberPage;
use reqwest::Client;
use serde_json::json;

use crate::cli;
use crate::connection::{ApiArguments, expect};

/// What to do about subscribers of the event log.
#[derive(Debug, Subcommand)]
pub enum SubscribersCommand {
    /// List them with how far each is behind, one JSON object a line.
    List {
        /// Where.
        #[command(flatten)]
        api: ApiArguments,
    },
    /// Forget one that does not come back: the log is not kept for it any more.
    Forget {
        /// Where.
        #[command(flatten)]
        api: ApiArguments,
        /// Its name.
        name: String,
    },
}

/// Runs the command.
#[must_use]
pub fn main(command: SubscribersCommand) -> ExitCode {
    cli::run(run(command))
}

async fn run(command: SubscribersCommand) -> anyhow::Result<()> {
    runtime::telemetry::install_tls();
    let client = Client::new();
    match command {
        SubscribersCommand::List { api } => {
            let url = format!("{}/v1/subscribers", api.base()?);
            let answer = expect(client.get(url).send().await?).await?;
            for subscriber in answer.json::<SubscriberPage>().await?.items {
                println!("{}", json!(subscriber));
            }
        }
        SubscribersCommand::Forget { api, name } => {
            let mut url = reqwest::Url::parse(&format!("{}/v1/subscribers", api.base()?))?;
            url.path_segments_mut()
                .map_err(|()| anyhow::anyhow!("the API's URL has no path"))?
                .push(&name);
            expect(client.delete(url).send().await?).await?;
        }
    }
    Ok(())
}

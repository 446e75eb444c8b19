//! `headrace subscribers`: who reads the event log, through the control API.

use std::process::ExitCode;

use anyhow::anyhow;
use clap::Subcommand;
use ingress_consumer::control::SubscriberPage;
use reqwest::Url;
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
    /// Say that one was built anew after the log was restored: what it reports from now on counts.
    Reset {
        /// Where.
        #[command(flatten)]
        api: ApiArguments,
        /// Its name.
        name: String,
    },
}

impl SubscribersCommand {
    fn api(&self) -> &ApiArguments {
        match self {
            Self::List { api } | Self::Forget { api, .. } | Self::Reset { api, .. } => api,
        }
    }
}

/// Runs the command.
#[must_use]
pub fn main(command: SubscribersCommand) -> ExitCode {
    cli::run(run(command))
}

async fn run(command: SubscribersCommand) -> anyhow::Result<()> {
    let client = command.api().client()?;
    match command {
        SubscribersCommand::List { api } => {
            let answer = expect(client.get(url(&api, &[])?).send().await?).await?;
            for subscriber in answer.json::<SubscriberPage>().await?.items {
                println!("{}", json!(subscriber));
            }
        }
        SubscribersCommand::Forget { api, name } => {
            expect(client.delete(url(&api, &[&name])?).send().await?).await?;
        }
        SubscribersCommand::Reset { api, name } => {
            expect(client.post(url(&api, &[&name, "reset"])?).send().await?).await?;
        }
    }
    Ok(())
}

fn url(api: &ApiArguments, path: &[&str]) -> anyhow::Result<Url> {
    let mut url = Url::parse(&api.base()?)?;
    url.path_segments_mut()
        .map_err(|()| anyhow!("the API's URL cannot have a path"))?
        .pop_if_empty()
        .extend(["v1", "subscribers"].iter().chain(path));
    Ok(url)
}

//! `headrace webhook`: a workspace's webhooks, through their API.

use std::collections::BTreeSet;
use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::bail;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use projections::reactions::{Filters, NewWebhook, Recover, WebhookPatch};
use reqwest::{Client, RequestBuilder};
use serde::Deserialize;
use serde_json::Value;

use crate::cli;
use crate::connection::{ApiArguments, TargetArguments, expect};

/// What to do about webhooks.
#[derive(Debug, Subcommand)]
pub enum WebhookCommand {
    /// Add a webhook; prints it as JSON, with its secret.
    Add(AddArguments),
    /// List a workspace's webhooks, one JSON object a line.
    List(TargetArguments),
    /// Show a webhook.
    Show {
        /// Which.
        #[command(flatten)]
        which: WebhookArguments,
        /// With its secret.
        #[arg(long)]
        secret: bool,
    },
    /// Remove a webhook.
    Remove(WebhookArguments),
    /// Call a disabled webhook again, from now on.
    Enable(WebhookArguments),
    /// Call a webhook no more until it is enabled.
    Disable(WebhookArguments),
    /// Make a new secret; the old one signs along for a while.
    Rotate(WebhookArguments),
    /// List what is to be sent and was, newest first, one JSON object a line; or show one delivery.
    Deliveries {
        /// Which webhook.
        #[command(flatten)]
        which: WebhookArguments,
        /// Only those that are `pending`, `succeeded`, `failed` or `skipped`.
        #[arg(long, conflicts_with = "delivery")]
        status: Option<String>,
        /// The most that are listed.
        #[arg(long, default_value_t = 100, conflicts_with = "delivery")]
        limit: usize,
        /// Show this one, with body and attempts.
        #[arg(long, value_name = "ID")]
        delivery: Option<String>,
    },
    /// Send again: one delivery, or all that failed or were skipped since a time.
    Redeliver {
        /// Which webhook.
        #[command(flatten)]
        which: WebhookArguments,
        /// The delivery.
        #[arg(
            long,
            value_name = "ID",
            required_unless_present = "since",
            conflicts_with = "since"
        )]
        delivery: Option<String>,
        /// All made then or later (RFC 3339).
        #[arg(long, value_name = "TIME")]
        since: Option<DateTime<Utc>>,
    },
    /// Send an event of type `webhook.test`; prints the delivery.
    Test(WebhookArguments),
}

/// Which webhook.
#[derive(Debug, Args)]
pub struct WebhookArguments {
    #[command(flatten)]
    target: TargetArguments,
    /// The webhook's id.
    id: String,
}

/// A webhook to add.
#[derive(Debug, Args)]
pub struct AddArguments {
    #[command(flatten)]
    target: TargetArguments,
    /// What is called.
    url: String,
    /// What you call it.
    #[arg(long, default_value = "")]
    description: String,
    /// A type of events, such as `vehicle.snapshot.changed`; may be repeated [default: all].
    #[arg(long = "event-type", value_name = "TYPE")]
    event_types: Vec<String>,
    /// Only events about this vehicle; may be repeated.
    #[arg(long = "vehicle", value_name = "ID")]
    vehicles: Vec<String>,
    /// Only events with something from this provider; may be repeated.
    #[arg(long = "provider", value_name = "NAME")]
    providers: Vec<String>,
    /// The secret, `whsec_…` [default: one is made].
    #[arg(long, env = "WEBHOOK_SECRET", hide_env_values = true)]
    secret: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Listed {
    items: Vec<Value>,
    next: Option<String>,
}

impl WebhookCommand {
    fn api(&self) -> &ApiArguments {
        match self {
            Self::Add(add) => &add.target.api,
            Self::List(target) => &target.api,
            Self::Remove(which)
            | Self::Enable(which)
            | Self::Disable(which)
            | Self::Rotate(which)
            | Self::Test(which)
            | Self::Show { which, .. }
            | Self::Deliveries { which, .. }
            | Self::Redeliver { which, .. } => &which.target.api,
        }
    }
}

/// Runs the command.
#[must_use]
pub fn main(command: WebhookCommand) -> ExitCode {
    cli::run(run(command))
}

async fn run(command: WebhookCommand) -> anyhow::Result<()> {
    let client = command.api().client()?;
    match command {
        WebhookCommand::Add(arguments) => {
            let url = url(&arguments.target)?;
            print(client.post(url).json(&arguments.into_webhook())).await
        }
        WebhookCommand::List(target) => list(&client, &url(&target)?, &[], usize::MAX).await,
        WebhookCommand::Show { which, secret } => {
            print(client.get(which.url()?)).await?;
            if secret {
                print(client.get(format!("{}/secret", which.url()?))).await?;
            }
            Ok(())
        }
        WebhookCommand::Remove(which) => {
            expect(client.delete(which.url()?).send().await?).await?;
            Ok(())
        }
        WebhookCommand::Enable(which) => print(switch(&client, &which, true)?).await,
        WebhookCommand::Disable(which) => print(switch(&client, &which, false)?).await,
        WebhookCommand::Rotate(which) => {
            print(client.post(format!("{}/secret/rotate", which.url()?))).await
        }
        WebhookCommand::Deliveries {
            which,
            status,
            limit,
            delivery,
        } => {
            let url = format!("{}/deliveries", which.url()?);
            if let Some(id) = delivery {
                return print(client.get(format!("{url}/{id}"))).await;
            }
            let filter = status.map(|status| ("status", status));
            list(&client, &url, filter.as_slice(), limit).await
        }
        WebhookCommand::Redeliver {
            which,
            delivery,
            since,
        } => {
            let url = which.url()?;
            match (delivery, since) {
                (Some(id), _) => {
                    print(client.post(format!("{url}/deliveries/{id}/redeliver"))).await
                }
                (None, Some(since)) => {
                    let order = Recover { since };
                    print(client.post(format!("{url}/recover")).json(&order)).await
                }
                (None, None) => bail!("name what to send again with --delivery or --since"),
            }
        }
        WebhookCommand::Test(which) => print(client.post(format!("{}/test", which.url()?))).await,
    }
}

fn url(target: &TargetArguments) -> anyhow::Result<String> {
    let base = target.base()?;
    Ok(format!(
        "{base}/v1/workspaces/{}/webhooks",
        target.workspace
    ))
}

impl WebhookArguments {
    fn url(&self) -> anyhow::Result<String> {
        Ok(format!("{}/{}", url(&self.target)?, self.id))
    }
}

fn switch(
    client: &Client,
    which: &WebhookArguments,
    enabled: bool,
) -> anyhow::Result<RequestBuilder> {
    let patch = WebhookPatch {
        enabled: Some(enabled),
        ..WebhookPatch::default()
    };
    Ok(client.patch(which.url()?).json(&patch))
}

/// Prints the answer.
async fn print(request: RequestBuilder) -> anyhow::Result<()> {
    let answer = expect(request.send().await?).await?;
    writeln!(stdout(), "{:#}", answer.json::<Value>().await?)?;
    Ok(())
}

/// Prints up to `most` items of a list, page by page.
async fn list(
    client: &Client,
    url: &str,
    filter: &[(&str, String)],
    most: usize,
) -> anyhow::Result<()> {
    let mut left = most;
    let mut after = None;
    while left > 0 {
        let cursor = after.map(|after: String| ("after", after));
        let request = client.get(url).query(filter).query(cursor.as_slice());
        let page: Listed = expect(request.send().await?).await?.json().await?;
        for item in page.items.iter().take(left) {
            writeln!(stdout(), "{item}")?;
        }
        left = left.saturating_sub(page.items.len());
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    Ok(())
}

impl AddArguments {
    fn into_webhook(self) -> NewWebhook {
        let set = |list: Vec<String>| (!list.is_empty()).then(|| BTreeSet::from_iter(list));
        NewWebhook {
            url: self.url,
            description: self.description,
            event_types: set(self.event_types),
            filters: Filters {
                vehicles: set(self.vehicles),
                providers: set(self.providers),
            },
            secret: self.secret,
        }
    }
}

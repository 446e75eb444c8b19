//! `headrace keys`: a workspace's API keys, through their API.

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use ingress_consumer::control::NewApiKey;
use ingress_consumer::lifetime;
use runtime::access::Scope;
use runtime::clock;
use serde_json::Value;

use crate::cli;
use crate::connection::{ApiArguments, TargetArguments, expect, print_list};

/// What to do about API keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key for a workspace; prints it as JSON, with the key in the field `key`, which is not shown
    /// again.
    Create(CreateArguments),
    /// List a workspace's keys, the revoked ones too, one JSON object a line.
    List(TargetArguments),
    /// Revoke a key for good.
    Revoke {
        /// Where.
        #[command(flatten)]
        target: TargetArguments,
        /// The key's id: the 16 digits behind `hr_`.
        id: String,
    },
}

/// A key to make.
#[derive(Debug, Args)]
pub struct CreateArguments {
    #[command(flatten)]
    target: TargetArguments,
    /// What you call it.
    #[arg(long)]
    name: String,
    /// What it may do; may be repeated: `read` data, `ingest` frames, `manage` connections, webhooks and
    /// keys, `operate` the installation. None that your own key does not have.
    #[arg(long = "scope", value_name = "SCOPE", required = true)]
    scopes: Vec<Scope>,
    /// After what time it ends, such as 90days [default: never].
    #[arg(long, value_name = "DURATION", value_parser = lifetime, conflicts_with = "expires_at")]
    expires_in: Option<Duration>,
    /// When it ends (RFC 3339).
    #[arg(long, value_name = "TIME")]
    expires_at: Option<DateTime<Utc>>,
}

impl KeysCommand {
    fn api(&self) -> &ApiArguments {
        match self {
            Self::Create(create) => &create.target.api,
            Self::List(target) | Self::Revoke { target, .. } => &target.api,
        }
    }
}

impl CreateArguments {
    fn into_key(self, now: DateTime<Utc>) -> NewApiKey {
        NewApiKey {
            name: self.name,
            scopes: self.scopes.into_iter().collect(),
            expires_at: self
                .expires_in
                .map_or(self.expires_at, |after| Some(now + after)),
        }
    }
}

/// Runs the command.
#[must_use]
pub fn main(command: KeysCommand) -> ExitCode {
    cli::run(run(command))
}

async fn run(command: KeysCommand) -> anyhow::Result<()> {
    let client = command.api().client()?;
    match command {
        KeysCommand::Create(arguments) => {
            let url = url(&arguments.target)?;
            let request = client.post(url).json(&arguments.into_key(clock::now()));
            let answer = expect(request.send().await?).await?;
            writeln!(stdout(), "{:#}", answer.json::<Value>().await?)?;
            Ok(())
        }
        KeysCommand::List(target) => {
            print_list(&client, &url(&target)?, &[("limit", "1000")]).await
        }
        KeysCommand::Revoke { target, id } => {
            let url = format!("{}/{id}", url(&target)?);
            expect(client.delete(url).send().await?).await?;
            Ok(())
        }
    }
}

fn url(target: &TargetArguments) -> anyhow::Result<String> {
    let base = target.base()?;
    Ok(format!(
        "{base}/v1/workspaces/{}/api-keys",
        target.workspace
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: KeysCommand,
    }

    #[test]
    fn a_key_ends_when_it_is_said_to() {
        let now: DateTime<Utc> = "2026-01-02T03:04:05Z".parse().unwrap();
        let parse = |rest: &str| {
            let line = format!("keys create -w depot --name board --scope read {rest}");
            let line = Line::try_parse_from(line.split_whitespace()).unwrap();
            let KeysCommand::Create(arguments) = line.command else {
                panic!("it is `create`");
            };
            arguments.into_key(now)
        };
        assert_eq!(parse("").expires_at, None);
        let in_a_day = Some(now + Duration::from_hours(24));
        assert_eq!(parse("--expires-in 1day").expires_at, in_a_day);
        let then = "--expires-at 2026-01-03T03:04:05Z";
        assert_eq!(parse(then).expires_at, in_a_day);
        let scopes: Vec<_> = parse("--scope ingest").scopes.into_iter().collect();
        assert_eq!(scopes, [Scope::Read, Scope::Ingest]);
    }
}

//! The core as a process of its own, with its commands beside its service.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use runtime::access::{AuditLog as _, Change, Principal, Scope};
use runtime::{Context, clock, db, service};
use shared_model::WorkspaceId;

use crate::access::PgAccess;
use crate::config::ConsumerConfig;
use crate::control::{NewWideApiKey, make_api_key};
use crate::store::MIGRATIONS;

const LONGEST_LIFETIME: Duration = Duration::from_hours(100 * 366 * 24);

/// The service's own commands.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Make an API key in the database, such as a deployment's first one, and print it; it is not shown
    /// again.
    CreateKey(CreateKeyArguments),
}

/// For how long a key is good, as it is written on a command line.
pub fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if !(Duration::from_secs(1)..=LONGEST_LIFETIME).contains(&lifetime) {
        return Err("write a duration from 1s to 100years, or leave it out".to_owned());
    }
    Ok(lifetime)
}

/// The key to make.
#[derive(Debug, Clone, Args)]
pub struct CreateKeyArguments {
    /// What you call it.
    #[arg(long)]
    name: String,
    /// A workspace that it reaches; may be repeated.
    #[arg(long = "workspace", value_name = "NAME", required = true)]
    workspaces: Vec<WorkspaceId>,
    /// What it may do: `read`, `ingest`, `manage` or `operate`; may be repeated.
    #[arg(long = "scope", value_name = "SCOPE", required = true)]
    scopes: Vec<Scope>,
    /// After what time it ends, such as 90days [default: never].
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    expires_in: Option<Duration>,
}

/// The service as a process of its own.
#[must_use]
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    service::run_with_commands(
        arguments,
        "ingress-consumer",
        Some(&MIGRATIONS),
        |context, config| async { crate::start(context, config).await.map(drop) },
        |context, config, Command::CreateKey(arguments)| async move {
            let key = create_key(&context, config, arguments).await?;
            println!("{key}");
            Ok(())
        },
    )
}

/// Makes the key; its maker is called `command`.
async fn create_key(
    context: &Context,
    config: ConsumerConfig,
    arguments: CreateKeyArguments,
) -> anyhow::Result<String> {
    let pool = db::open(context, &config.database)?;
    db::require_schema(&pool, &MIGRATIONS, context.stopping()).await?;
    let principal = Principal {
        name: "command".to_owned(),
        ..Principal::internal()
    };
    let new = NewWideApiKey {
        name: arguments.name,
        workspaces: arguments.workspaces.into_iter().collect(),
        scopes: arguments.scopes.into_iter().collect(),
        expires_at: arguments.expires_in.map(|after| clock::now() + after),
    };
    // Whoever has the database's password could do anything, but what is done this way is told.
    let log = PgAccess::new(pool.clone());
    let entry = log.begin(&asked(&principal)).await?;
    let made = make_api_key(&pool, &principal, new).await;
    let status = made.as_ref().map_or_else(|problem| problem.status, |_| 201);
    log.conclude(entry, status).await?;
    made.map(|made| made.key)
        .map_err(|problem| anyhow!(problem.detail))
}

/// The change as if it had been asked for over the API.
fn asked(principal: &Principal) -> Change {
    Change {
        principal: principal.name.clone(),
        workspace: None,
        method: "POST".to_owned(),
        route: "/v1/api-keys".to_owned(),
        path: "/v1/api-keys".to_owned(),
        trace_id: None,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn a_key_is_asked_for_with_its_workspaces_and_scopes() {
        let parse = |line: &str| Line::try_parse_from(line.split(' '));
        let line = "core create-key --name n --workspace a --workspace b --scope read --scope manage \
                    --expires-in 90days";
        let Command::CreateKey(asked) = parse(line).unwrap().command;
        assert_eq!(
            asked.workspaces,
            ["a", "b"].map(|name| name.parse().unwrap())
        );
        assert_eq!(asked.scopes, [Scope::Read, Scope::Manage]);
        assert_eq!(asked.expires_in, Some(Duration::from_hours(90 * 24)));
        for wrong in [
            "core create-key --name n --workspace a",
            "core create-key --name n --scope read",
            "core create-key --name n --workspace A --scope read",
            "core create-key --name n --workspace a --scope admin",
            "core create-key --name n --workspace a --scope read --expires-in 1000years",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}

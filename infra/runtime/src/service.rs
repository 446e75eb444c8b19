//! The one `main` that all services share.
//!
//! Arguments, configuration, telemetry, signals, start, drain, exit code:
//! 0 when asked to stop; 1 when a task gave up or the drain took too long; 64 for wrong arguments;
//! 78 for a wrong configuration.

use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::backoff::Stopped;
use crate::config::{self, Config};
use crate::db::Migrations;
use crate::{Context, db, telemetry};

const EXIT_FAILURE: u8 = 1;
const EXIT_USAGE: u8 = 64;
const EXIT_CONFIG: u8 = 78;

#[derive(Debug, Parser)]
struct Arguments<C: Subcommand> {
    /// TOML file with settings; the environment overrides it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and exit.
    #[arg(long)]
    check_config: bool,
    /// Print the configuration in force, without secrets, and exit.
    #[arg(long)]
    print_config: bool,
    #[command(subcommand)]
    command: Option<Command<C>>,
}

#[derive(Debug, Subcommand)]
enum Command<C: Subcommand> {
    /// Bring the service's database schema up to date and exit.
    Migrate,
    #[command(flatten)]
    Own(C),
}

/// The commands of a service that has none of its own.
#[derive(Debug, Subcommand)]
enum NoCommand {}

/// Runs a service to its end with the process's own arguments. `start` returns once the service's
/// tasks run on the context.
pub fn run<C, S, F>(
    name: &'static str,
    migrations: Option<&'static Migrations>,
    start: S,
) -> ExitCode
where
    C: Config,
    S: FnOnce(Context, C) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    run_with(std::env::args_os().skip(1), name, migrations, start)
}

/// Runs a service to its end with `arguments`; see [`run`].
pub fn run_with<C, S, F>(
    arguments: impl Iterator<Item = OsString>,
    name: &'static str,
    migrations: Option<&'static Migrations>,
    start: S,
) -> ExitCode
where
    C: Config,
    S: FnOnce(Context, C) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let own = |_, _, command: NoCommand| async move { match command {} };
    run_with_commands(arguments, name, migrations, start, own)
}

/// Runs a service that has commands of its own, or one of these: with a context that is asked to stop
/// as a service's is, and what was configured. See [`run_with`].
pub fn run_with_commands<C, S, F, X, O, G>(
    arguments: impl Iterator<Item = OsString>,
    name: &'static str,
    migrations: Option<&'static Migrations>,
    start: S,
    own: O,
) -> ExitCode
where
    C: Config,
    S: FnOnce(Context, C) -> F,
    F: Future<Output = anyhow::Result<()>>,
    X: Subcommand,
    O: FnOnce(Context, C, X) -> G,
    G: Future<Output = anyhow::Result<()>>,
{
    use clap::{CommandFactory, FromArgMatches};
    let arguments = std::iter::once(name.into()).chain(arguments);
    let matches = Arguments::<X>::command()
        .name(name)
        .try_get_matches_from(arguments);
    let arguments = match matches.and_then(|matches| Arguments::<X>::from_arg_matches(&matches)) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Printing help to a closed pipe is no failure worth another message.
            error.print().unwrap_or_default();
            return if error.use_stderr() {
                EXIT_USAGE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let config: C = match config::load(arguments.config.as_deref()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{name}: {error}");
            return EXIT_CONFIG.into();
        }
    };
    if arguments.print_config {
        println!("{}", config::print(&config));
        return ExitCode::SUCCESS;
    }
    if arguments.check_config {
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{name}: the async runtime does not start: {error}");
            return EXIT_FAILURE.into();
        }
    };
    let telemetry = telemetry::init(name, telemetry::Output::Stderr);
    let result = runtime.block_on(async {
        match arguments.command {
            Some(Command::Migrate) => migrate(&config, migrations).await,
            Some(Command::Own(command)) => {
                let start = |context, config| own(context, config, command);
                run_command(name, config, start).await
            }
            None => serve(name, config, start).await,
        }
    });
    telemetry.flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(service = name, "{error:#}");
            // Some of what is configured can only be tried.
            if error.is::<config::Problems>() {
                EXIT_CONFIG.into()
            } else {
                EXIT_FAILURE.into()
            }
        }
    }
}

async fn migrate<C: Config>(config: &C, migrations: Option<&Migrations>) -> anyhow::Result<()> {
    match (config.database(), migrations) {
        (Some(database), Some(migrations)) => Ok(db::migrate(database, migrations).await?),
        _ => anyhow::bail!("this service has no database"),
    }
}

/// Runs a command to its end; a signal asks it to stop.
async fn run_command<C, S, F>(name: &'static str, config: C, command: S) -> anyhow::Result<()>
where
    S: FnOnce(Context, C) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let context = Context::new(name, instance_name());
    let mut signals = Signals::listen()?;
    let done = tokio::select! {
        done = command(context.clone(), config) => done,
        _ = signals.next() => Err(Stopped.into()),
    };
    // What the command began must end, but how the command went is what counts.
    let stopped = context.stop().await;
    done.and(stopped.map_err(Into::into))
}

async fn serve<C, S, F>(name: &'static str, config: C, start: S) -> anyhow::Result<()>
where
    S: FnOnce(Context, C) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let context = Context::new(name, instance_name());
    let mut signals = Signals::listen()?;
    tracing::info!(service = name, instance = context.instance(), "starting");
    start(context.clone(), config).await?;
    tokio::select! {
        signal = signals.next() => tracing::info!("asked to stop by {signal}"),
        () = context.stop_requested() => {}
    }
    let second_signal = async {
        signals.next().await;
        tracing::warn!("asked to stop again: letting go of what is in hand");
        context.letting_go().cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        stopped = context.stop() => stopped?,
        () = second_signal => {}
    }
    tracing::info!(service = name, "stopped");
    Ok(())
}

/// The signals that ask a process to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one, and names it.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The instance's name: the host's, which is the pod's in Kubernetes, and the process id.
#[must_use]
pub fn instance_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_else(|| "localhost".to_owned());
    format!("{}-{}", host.trim(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq, Subcommand)]
    enum Own {
        /// Mend something.
        Mend {
            #[arg(long)]
            all: bool,
        },
    }

    #[test]
    fn a_service_has_its_own_commands_beside_those_of_all() {
        let parse = |arguments: &[&str]| {
            let arguments = ["service"].iter().chain(arguments);
            Arguments::<Own>::try_parse_from(arguments).map(|arguments| arguments.command)
        };
        let own = parse(&["mend", "--all"]).unwrap();
        assert!(matches!(own, Some(Command::Own(Own::Mend { all: true }))));
        let migrate = parse(&["--config", "x.toml", "migrate"]).unwrap();
        assert!(matches!(migrate, Some(Command::Migrate)));
        assert!(parse(&["break"]).is_err());
        let help = parse(&["--help"]).unwrap_err().to_string();
        assert!(help.contains("Mend something") && help.contains("migrate"));
        assert!(Arguments::<NoCommand>::try_parse_from(["service", "mend"]).is_err());
        assert!(Arguments::<NoCommand>::try_parse_from(["service", "migrate"]).is_ok());
    }
}

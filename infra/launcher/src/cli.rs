//! The `headrace` command line.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::connection::ConnectionCommand;
use crate::dead_events::DeadEventsCommand;
use crate::dead_letters::DeadLettersCommand;
use crate::ingest::IngestArguments;
use crate::keys::KeysCommand;
use crate::parked::ParkedCommand;
use crate::reconcile::ReconcileArguments;
use crate::status::StatusArguments;
use crate::subscribers::SubscribersCommand;
use crate::tail::TailArguments;
use crate::vehicles::VehiclesArguments;
use crate::webhook::WebhookCommand;
use crate::{
    connection, dead_events, dead_letters, gateway, ingest, keys, parked, reconcile, services,
    status, subscribers, tail, up, vehicles, webhook,
};

#[derive(Debug, Parser)]
#[command(
    name = "headrace",
    version,
    about = "Telematics ingress for operators of electric fleets"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on this machine (the default).
    Up(UpArguments),
    /// Run only a private broker and database.
    Services(DataArguments),
    /// Show on one screen how the fleet and the pipeline are doing.
    Status(StatusArguments),
    /// List vehicles with their latest values.
    Vehicles(VehiclesArguments),
    /// Write a workspace's events as they happen.
    Tail(TailArguments),
    /// Add, list and remove connections to providers.
    #[command(subcommand)]
    Connection(ConnectionCommand),
    /// Make, list and revoke API keys.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Deliver frames to a connection of kind push: each line of a file is one.
    Ingest(IngestArguments),
    /// List, show, discard and replay frames that could not be read.
    #[command(subcommand)]
    Parked(ParkedCommand),
    /// List, explain, replay and discard messages that the broker gave up.
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// List who reads the event log; forget one that does not come back.
    #[command(subcommand)]
    Subscribers(SubscribersCommand),
    /// List, show and redrive events that the broker refused too often.
    #[command(subcommand)]
    DeadEvents(DeadEventsCommand),
    /// Prove that everything adds up: exit code 0 if it does, 1 if something is missing, 3 if something
    /// is late.
    Reconcile(ReconcileArguments),
    /// Manage webhooks: whom to tell of events, and what became of it.
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// Bring every schema of a database up to date.
    Migrate {
        /// The database.
        #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
        database_url: String,
    },
    /// Print a script that completes this command line in a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Run the gateway in front of the services' APIs, configured from the environment.
    Gateway {
        /// The gateway's own arguments; see `headrace gateway -- --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run one service in this process, configured from the environment.
    Service {
        /// End when standard input does, which its parent holds.
        #[arg(long, hide = true)]
        end_with_parent: bool,
        /// Which.
        name: String,
        /// The service's own arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// Where the private servers keep their data.
#[derive(Debug, Clone, Default, Args)]
pub struct DataArguments {
    /// Directory of the private servers' data [default: /var/lib/headrace as root, else
    /// ~/.local/share/headrace].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// Arguments of `headrace up`.
#[derive(Debug, Clone, Args)]
pub struct UpArguments {
    /// Where the private servers keep their data.
    #[command(flatten)]
    pub data: DataArguments,
    /// How many vehicles the simulated provider has.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub vehicles: u16,
    /// How often a driving vehicle reports, in Hz.
    #[arg(long, value_name = "HZ", default_value_t = 1.0, value_parser = rate)]
    pub rate: f64,
    /// Start no simulated provider and no demo workspace.
    #[arg(long)]
    pub no_simulator: bool,
    /// Run each service as a process of its own.
    #[arg(long)]
    pub processes: bool,
    /// Where the gateway listens [default: 127.0.0.1:8080, or a free port if that is taken].
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// After what time without a message a vehicle is stale, such as 5m or 10s.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub stale_after: Option<Duration>,
    /// After what time without a message a vehicle is offline.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub offline_after: Option<Duration>,
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate| (0.01..=100.0).contains(rate))
        .ok_or_else(|| "write a number from 0.01 to 100".to_owned())
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    main_with(std::env::args_os())
}

/// Runs the command line `arguments`, which begins with the command's name.
#[must_use]
pub fn main_with(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    match Cli::parse_from(arguments).command {
        None => {
            let defaults = Cli::parse_from(["headrace", "up"]);
            let Some(Command::Up(arguments)) = defaults.command else {
                return ExitCode::FAILURE;
            };
            up::main(arguments)
        }
        Some(Command::Up(arguments)) => up::main(arguments),
        Some(Command::Services(arguments)) => up::services_main(arguments),
        Some(Command::Status(arguments)) => status::main(arguments),
        Some(Command::Vehicles(arguments)) => vehicles::main(arguments),
        Some(Command::Tail(arguments)) => tail::main(arguments),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "headrace", &mut script);
            run(async { Ok(io::stdout().write_all(&script)?) })
        }
        Some(Command::Connection(command)) => connection::main(command),
        Some(Command::Keys(command)) => keys::main(command),
        Some(Command::Ingest(arguments)) => ingest::main(arguments),
        Some(Command::Parked(command)) => parked::main(command),
        Some(Command::DeadLetters(command)) => dead_letters::main(command),
        Some(Command::Subscribers(command)) => subscribers::main(command),
        Some(Command::DeadEvents(command)) => dead_events::main(command),
        Some(Command::Reconcile(arguments)) => reconcile::main(arguments),
        Some(Command::Webhook(command)) => webhook::main(command),
        Some(Command::Gateway { arguments }) => gateway::main(arguments),
        Some(Command::Migrate { database_url }) => services::migrate_main(&database_url),
        Some(Command::Service {
            end_with_parent,
            name,
            arguments,
        }) => services::main(&name, arguments, end_with_parent),
    }
}

/// Runs a short command to its end, and says on standard error why it failed.
pub(crate) fn run(command: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if has_no_reader(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("headrace: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether whoever reads the output has seen enough of it, as `head` has.
fn has_no_reader(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_has_help() {
        fn look(command: &clap::Command, path: &str, lacking: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            if command.get_about().is_none() {
                lacking.push(path.clone());
            }
            for argument in command.get_arguments() {
                let is_hidden = argument.is_hide_set();
                if !is_hidden && argument.get_help().is_none() {
                    lacking.push(format!("{path} --{}", argument.get_id()));
                }
            }
            for command in command.get_subcommands() {
                look(command, &path, lacking);
            }
        }
        let mut lacking = Vec::new();
        look(&Cli::command(), "", &mut lacking);
        assert!(lacking.is_empty(), "{lacking:?}");
    }

    #[test]
    fn a_shell_completes_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "headrace", &mut script);
            let script = String::from_utf8(script).unwrap();
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell} {command}");
            }
        }
    }

    #[test]
    fn a_rate_that_cannot_be_is_refused() {
        for bad in ["0", "-1", "fast", "NaN", "1000"] {
            assert!(
                Cli::try_parse_from(["headrace", "up", "--rate", bad]).is_err(),
                "{bad}"
            );
        }
    }
}

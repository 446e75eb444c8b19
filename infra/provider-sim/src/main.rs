//! `provider-sim`: the simulated provider as a program. Stops on SIGTERM or SIGINT with exit code 0.

use clap::Parser;
use humantime_serde::re::humantime::parse_duration;
use provider_sim::{DEFAULT_API_KEY, Flaws, Simulator, SimulatorConfig};
use std::{
    error::Error,
    io::{self, IsTerminal},
    net::SocketAddr,
    process::ExitCode,
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A simulated ViriCiti provider: a fleet of buses behind a real websocket at /api/v2/live, and a control API at /control.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// An accepted API key; several are separated by commas
    #[arg(
        long = "api-key",
        env = "PROVIDER_SIM_API_KEY",
        hide_env_values = true,
        value_delimiter = ',',
        default_value = DEFAULT_API_KEY
    )]
    api_keys: Vec<String>,
    /// Size of the fleet, bus-1 to bus-N
    #[arg(long, default_value_t = 20)]
    vehicles: usize,
    /// How often a driving vehicle reports each label, in hertz
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// What everything random is drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The least time from a subscription to its first data
    #[arg(long, default_value = "500ms", value_parser = parse_duration)]
    authorisation_delay: Duration,
    /// How often a parked vehicle reports
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    parked_every: Duration,
    /// The mean lifetime of a socket; 0s keeps sockets open
    #[arg(long, default_value = "5m", value_parser = parse_duration)]
    disconnect_every: Duration,
    /// How many frames may wait for one socket before it misses some
    #[arg(long, default_value_t = 1024)]
    outbox_frames: usize,
    /// Probability that a value is blank
    #[arg(long, default_value_t = Flaws::default().blank)]
    blank_rate: f64,
    /// Probability that a value is null
    #[arg(long, default_value_t = Flaws::default().null)]
    null_rate: f64,
    /// Probability that a position is 0|0
    #[arg(long, default_value_t = Flaws::default().zero_position)]
    zero_position_rate: f64,
    /// Probability that a datum comes late, after newer ones
    #[arg(long, default_value_t = Flaws::default().late)]
    late_rate: f64,
}

impl Arguments {
    fn into_config(self) -> SimulatorConfig {
        SimulatorConfig {
            listen: self.listen,
            api_keys: self.api_keys,
            vehicles: self.vehicles,
            rate: self.rate,
            seed: self.seed,
            authorisation_delay: self.authorisation_delay,
            parked_every: self.parked_every,
            disconnect_every: Some(self.disconnect_every).filter(|every| !every.is_zero()),
            outbox_frames: self.outbox_frames,
            flaws: Flaws {
                blank: self.blank_rate,
                null: self.null_rate,
                zero_position: self.zero_position_rate,
                late: self.late_rate,
            },
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    match run(arguments.into_config()).await {
        Ok(code) => code,
        Err(error) => {
            let cause = error.source().map(ToString::to_string);
            tracing::error!(%error, cause, "the simulator did not start");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: SimulatorConfig) -> Result<ExitCode, Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (vehicles, rate) = (config.vehicles, config.rate);
    let simulator = Simulator::start(config)?;
    tracing::info!(
        live = simulator.live_url(),
        control = simulator.url(),
        vehicles,
        rate,
        "simulator listens"
    );
    let code = tokio::select! {
        _ = terminate.recv() => ExitCode::SUCCESS,
        _ = interrupt.recv() => ExitCode::SUCCESS,
        () = simulator.ended() => {
            tracing::error!("the simulator ended by itself");
            ExitCode::FAILURE
        }
    };
    let stats = simulator.stats();
    simulator.stop().await;
    tracing::info!(
        sent = stats.frames_sent,
        skipped = stats.frames_skipped,
        connections = stats.connections_accepted,
        "simulator stopped"
    );
    Ok(code)
}

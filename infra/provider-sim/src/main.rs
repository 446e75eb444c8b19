//! `provider-sim`: a simulated provider as a program. Stops on SIGTERM or SIGINT with exit code 0.

mod arguments;

use arguments::Arguments;
use clap::Parser;
use provider_sim::{PolledConfig, PolledSimulator, Simulator, SimulatorConfig};
use std::{
    error::Error,
    io::{self, IsTerminal},
    process::ExitCode,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let result = match arguments.polled() {
        Some(config) => run_polled(config).await,
        None => run(arguments.into_config()).await,
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            let cause = error.source().map(ToString::to_string);
            tracing::error!(%error, cause, "the simulator did not start");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: SimulatorConfig) -> Result<ExitCode, Box<dyn Error>> {
    let stop = Stop::new()?;
    let (vehicles, rate) = (config.vehicles, config.rate);
    let simulator = Simulator::start(config)?;
    tracing::info!(
        live = simulator.live_url(),
        control = simulator.url(),
        vehicles,
        rate,
        "simulator listens"
    );
    let code = stop.or(simulator.ended()).await;
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

async fn run_polled(config: PolledConfig) -> Result<ExitCode, Box<dyn Error>> {
    let stop = Stop::new()?;
    let (provider, vehicles) = (config.provider.name(), config.drives.len());
    let simulator = PolledSimulator::start(config)?;
    tracing::info!(
        endpoint = simulator.url(),
        control = simulator.control_url(),
        provider,
        vehicles,
        "simulator listens"
    );
    let code = stop.or(simulator.ended()).await;
    let stats = simulator.stats();
    simulator.stop().await;
    tracing::info!(
        requests = stats.requests,
        records = stats.records_served,
        "simulator stopped"
    );
    Ok(code)
}

/// The signals that ask to stop, heard from before the start.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for a signal, or for the end of the simulator, which is a fault.
    async fn or(mut self, ended: impl Future<Output = ()>) -> ExitCode {
        tokio::select! {
            _ = self.terminate.recv() => ExitCode::SUCCESS,
            _ = self.interrupt.recv() => ExitCode::SUCCESS,
            () = ended => {
                tracing::error!("the simulator ended by itself");
                ExitCode::FAILURE
            }
        }
    }
}

//! The simulated provider and the demo workspace that is connected to it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use ingress_consumer::control::{ConnectionView, NewConnection};
use provider_sim::{Simulator, SimulatorConfig};
use reqwest::Client;
use serde::Deserialize;
use serde_json::json;

/// The demo's workspace.
pub const WORKSPACE: &str = "demo";
const LABELS: [&str; 5] = ["soc", "odo", "speed", "gps", "power"];

#[derive(Debug, Deserialize)]
struct Listed {
    items: Vec<ConnectionView>,
}

/// Starts the simulated provider, on the port that it had before if that is free.
pub fn simulator(data: &Path, vehicles: u16, rate: f64) -> anyhow::Result<Simulator> {
    let memory = data.join("simulator.address");
    let before = std::fs::read_to_string(&memory)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let config = |listen: SocketAddr| SimulatorConfig {
        listen,
        vehicles: vehicles.into(),
        rate,
        parked_every: Duration::from_secs(30),
        ..SimulatorConfig::default()
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let simulator = match before.map(|address| Simulator::start(config(address))) {
        Some(Ok(simulator)) => simulator,
        _ => Simulator::start(config(any)).context("the simulated provider does not start")?,
    };
    let address = simulator.url().trim_start_matches("http://").to_owned();
    std::fs::write(memory, address)?;
    Ok(simulator)
}

/// Connects the demo workspace to the simulator: keeps the connection of an earlier run if it still
/// fits, and replaces it if not.
pub async fn connect(
    client: &Client,
    api: &str,
    data: &Path,
    simulator: &Simulator,
    vehicles: u16,
) -> anyhow::Result<()> {
    let key = data.join("simulator.key");
    std::fs::write(&key, provider_sim::DEFAULT_API_KEY)?;
    let subscription: serde_json::Map<_, _> = (1..=vehicles)
        .map(|n| (format!("bus-{n}"), json!(LABELS)))
        .collect();
    let wanted = NewConnection {
        provider: "viriciti".to_owned(),
        kind: "stream".to_owned(),
        endpoint: simulator.live_url(),
        credential: Some(format!("file:{}", key.display())),
        settings: json!({ "vehicles": subscription }),
    };
    let url = format!("{api}/v1/workspaces/{WORKSPACE}/connections");
    let listed: Listed = client
        .get(format!("{url}?limit=1000"))
        .send()
        .await?
        .error_for_status()?
        .json()
        .await?;
    let fits = |found: &ConnectionView| {
        found.endpoint == wanted.endpoint
            && found.credential == wanted.credential
            && found.settings == wanted.settings
    };
    if listed.items.iter().any(fits) {
        return Ok(());
    }
    // Only what an earlier demo made: connections that people added to the workspace stay.
    for old in listed
        .items
        .iter()
        .filter(|found| found.credential == wanted.credential)
    {
        client
            .delete(format!("{url}/{}", old.id))
            .send()
            .await?
            .error_for_status()?;
    }
    client
        .post(&url)
        .json(&wanted)
        .send()
        .await?
        .error_for_status()?;
    Ok(())
}

//! The simulated providers and the demo workspace that is connected to them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use ingress_consumer::control::{ConnectionView, NewConnection};
use provider_sim::{PolledConfig, PolledProvider, PolledSimulator, Simulator, SimulatorConfig};
use reqwest::Client;
use serde::Deserialize;
use serde_json::{Value, json};

/// The demo's workspace.
pub const WORKSPACE: &str = "demo";
const LABELS: [&str; 5] = ["soc", "odo", "speed", "gps", "power"];
/// The vehicle that two providers report about.
pub const SHARED_VEHICLE: &str = "bus-1";
/// How many vehicles each polled provider has.
const POLLED_VEHICLES: usize = 5;
/// How often the polled providers are asked.
const POLL_EVERY: &str = "5s";
const ANYWHERE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

#[derive(Debug, Deserialize)]
struct Listed {
    items: Vec<ConnectionView>,
}

/// The simulated providers: one streams, the others are polled.
#[derive(Debug)]
pub struct Providers {
    vehicles: u16,
    stream: Simulator,
    polled: Vec<PolledSimulator>,
}

impl Providers {
    /// Starts them, each on the port that it had before if that is free.
    pub fn start(data: &Path, vehicles: u16, rate: f64) -> anyhow::Result<Self> {
        let stream = on_its_port(&data.join("simulator.address"), |listen| {
            Simulator::start(SimulatorConfig {
                listen,
                vehicles: vehicles.into(),
                rate,
                parked_every: Duration::from_secs(30),
                ..SimulatorConfig::default()
            })
        });
        let stream = stream.context("the simulated provider does not start")?;
        remember(&data.join("simulator.address"), &stream.url())?;
        let mut polled = Vec::new();
        for provider in PolledProvider::ALL {
            let memory = data.join(format!("simulator-{}.address", provider.name()));
            let started = on_its_port(&memory, |listen| {
                PolledSimulator::start(PolledConfig {
                    listen,
                    drives: drives(provider),
                    late: 0.02,
                    ..PolledConfig::new(provider)
                })
            });
            let started = started
                .with_context(|| format!("the simulated {} does not start", provider.name()))?;
            remember(&memory, &started.control_url())?;
            polled.push(started);
        }
        Ok(Self {
            vehicles,
            stream,
            polled,
        })
    }

    /// The address of the one that streams.
    #[must_use]
    pub fn stream_url(&self) -> String {
        self.stream.url()
    }

    /// Names of the providers, and the base addresses of their control APIs.
    #[must_use]
    pub fn control_urls(&self) -> Vec<(&'static str, String)> {
        let polled = self.polled.iter();
        let polled = polled.map(|found| (found.provider().name(), found.control_url()));
        std::iter::once(("viriciti", self.stream.url()))
            .chain(polled)
            .collect()
    }

    /// Connects the demo workspace to all of them: keeps the connections of an earlier run that still
    /// fit, and replaces those that do not.
    pub async fn connect(&self, client: &Client, api: &str, data: &Path) -> anyhow::Result<()> {
        let mut wanted = vec![self.stream_connection(data)?];
        for polled in &self.polled {
            wanted.push(poll_connection(polled, data)?);
        }
        let url = format!("{api}/v1/workspaces/{WORKSPACE}/connections");
        let listed: Listed = client
            .get(format!("{url}?limit=1000"))
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?;
        for wanted in &wanted {
            connect(client, &url, &listed.items, wanted).await?;
        }
        Ok(())
    }

    fn stream_connection(&self, data: &Path) -> anyhow::Result<NewConnection> {
        let key = data.join("simulator.key");
        std::fs::write(&key, provider_sim::DEFAULT_API_KEY)?;
        let subscription: serde_json::Map<_, _> = (1..=self.vehicles)
            .map(|n| (format!("bus-{n}"), json!(LABELS)))
            .collect();
        Ok(NewConnection {
            provider: "viriciti".to_owned(),
            kind: "stream".to_owned(),
            endpoint: self.stream.live_url(),
            credential: Some(credential(&key)),
            settings: json!({ "vehicles": subscription }),
        })
    }

    /// Stops them.
    pub async fn stop(self) {
        self.stream.stop().await;
        for polled in self.polled {
            polled.stop().await;
        }
    }
}

/// What the vehicles of `provider` drive. The first of Samsara's is the first of the streaming
/// provider's, and all others are vehicles of their own.
fn drives(provider: PolledProvider) -> Vec<usize> {
    let (first, own) = match provider {
        PolledProvider::Rfms => (None, 20_000),
        PolledProvider::Samsara => (Some(0), 30_000),
        PolledProvider::Geotab => (None, 40_000),
    };
    first
        .into_iter()
        .chain(own..)
        .take(POLLED_VEHICLES)
        .collect()
}

/// Starts something on the port that `memory` remembers, or else on any.
fn on_its_port<T, E>(memory: &Path, start: impl Fn(SocketAddr) -> Result<T, E>) -> Result<T, E> {
    let before = std::fs::read_to_string(memory)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    match before.map(&start) {
        Some(Ok(started)) => Ok(started),
        _ => start(ANYWHERE),
    }
}

fn remember(memory: &Path, url: &str) -> std::io::Result<()> {
    std::fs::write(memory, url.trim_start_matches("http://"))
}

fn credential(key: &Path) -> String {
    format!("file:{}", key.display())
}

fn poll_connection(simulator: &PolledSimulator, data: &Path) -> anyhow::Result<NewConnection> {
    let name = simulator.provider().name();
    let key: PathBuf = data.join(format!("simulator-{name}.key"));
    std::fs::write(&key, simulator.credential())?;
    Ok(NewConnection {
        provider: name.to_owned(),
        kind: "poll".to_owned(),
        endpoint: simulator.url(),
        credential: Some(credential(&key)),
        settings: poll_settings(simulator),
    })
}

fn poll_settings(simulator: &PolledSimulator) -> Value {
    let mut settings = json!({ "interval": POLL_EVERY });
    if simulator.provider() == PolledProvider::Samsara {
        let first = simulator.vehicles().into_iter().take(1);
        let mapped: serde_json::Map<_, _> = first.map(|id| (id, json!(SHARED_VEHICLE))).collect();
        settings["vehicle_ids"] = mapped.into();
    }
    settings
}

/// Makes the connection that is `wanted`, unless `found` has it already.
async fn connect(
    client: &Client,
    url: &str,
    found: &[ConnectionView],
    wanted: &NewConnection,
) -> anyhow::Result<()> {
    let fits = |found: &ConnectionView| {
        found.endpoint == wanted.endpoint
            && found.credential == wanted.credential
            && found.settings == wanted.settings
    };
    if found.iter().any(fits) {
        return Ok(());
    }
    // Only what an earlier demo made: connections that people added to the workspace stay.
    let outdated = found
        .iter()
        .filter(|found| found.credential == wanted.credential);
    for old in outdated {
        client
            .delete(format!("{url}/{}", old.id))
            .send()
            .await?
            .error_for_status()?;
    }
    let answer = client.post(url).json(wanted).send().await?;
    let status = answer.status();
    if !status.is_success() {
        let provider = &wanted.provider;
        let said = answer.text().await?;
        bail!("the demo cannot be connected to {provider}: {status}: {said}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn one_vehicle_is_seen_by_two_providers_and_no_other_is() {
        let all: Vec<_> = PolledProvider::ALL.into_iter().flat_map(drives).collect();
        assert_eq!(all.len(), 3 * POLLED_VEHICLES);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        // The streaming provider has 10,000 at the most.
        assert_eq!(all.iter().filter(|drive| **drive < 10_000).count(), 1);
    }

    #[tokio::test]
    async fn the_shared_vehicle_is_the_first_of_samsara() {
        let data = tempfile::tempdir().unwrap();
        let providers = Providers::start(data.path(), 2, 1.0).unwrap();
        let connections: Vec<_> = providers
            .polled
            .iter()
            .map(|polled| poll_connection(polled, data.path()).unwrap())
            .collect();
        let names: Vec<_> = connections.iter().map(|found| &*found.provider).collect();
        assert_eq!(names, ["rfms", "samsara", "geotab"]);
        let samsara = &connections[1].settings;
        let first = &providers.polled[1].vehicles()[0];
        assert_eq!(samsara["vehicle_ids"][first.as_str()], SHARED_VEHICLE);
        assert!(connections[0].settings.get("vehicle_ids").is_none());
        let urls = providers.control_urls();
        providers.stop().await;

        let again = Providers::start(data.path(), 2, 1.0).unwrap();
        assert_eq!(again.control_urls(), urls, "they come back where they were");
        again.stop().await;
    }
}

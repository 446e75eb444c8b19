//! The line of live counts, from the same metrics and APIs that operators use.

use std::fmt;

use reqwest::Client;
use serde::Deserialize;
use serde_json::Value;

/// Where the counts come from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Pages of metrics that together hold each service's once.
    pub metrics: Vec<String>,
    /// The broker's management API, and its login.
    pub management: (String, String, String),
    /// The health summary.
    pub health: String,
}

/// What the line shows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts {
    frames_in: u64,
    rows_polled: u64,
    accepted: u64,
    duplicates: u64,
    stale: u64,
    parked: u64,
    queue_depth: u64,
    events: u64,
    lag: u64,
    vehicles_fresh: u64,
    vehicles_stale: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "frames in {}  rows polled {}  accepted {}  duplicates {}  stale {}  parked {}  queue depth {}  \
             events {}  lag {}  vehicles fresh {} / stale {}",
            self.frames_in,
            self.rows_polled,
            self.accepted,
            self.duplicates,
            self.stale,
            self.parked,
            self.queue_depth,
            self.events,
            self.lag,
            self.vehicles_fresh,
            self.vehicles_stale,
        )
    }
}

#[derive(Debug, Deserialize)]
struct Queue {
    name: String,
    #[serde(default)]
    messages: u64,
}

impl Sources {
    /// Counts, as far as those who know them answer.
    pub async fn count(&self, client: &Client) -> reqwest::Result<Counts> {
        let mut pages = String::new();
        for url in &self.metrics {
            pages.push_str(&client.get(url).send().await?.text().await?);
        }
        let (management, user, password) = &self.management;
        let queues: Vec<Queue> = client
            .get(format!("{management}/api/queues?columns=name,messages"))
            .basic_auth(user, Some(password))
            .send()
            .await?
            .json()
            .await?;
        let health: Value = client.get(&self.health).send().await?.json().await?;
        let verdict = |name: &str| {
            sum(
                &pages,
                "headrace_acceptance_observations_total",
                &format!("verdict=\"{name}\""),
            )
        };
        let vehicles = |freshness: &str| health[freshness].as_u64().unwrap_or_default();
        Ok(Counts {
            frames_in: sum(&pages, "headrace_publisher_frames_total", ""),
            rows_polled: sum(&pages, "headrace_polling_rows_total", ""),
            accepted: verdict("accepted"),
            duplicates: verdict("duplicate"),
            stale: verdict("stale"),
            parked: sum(&pages, "headrace_acceptance_parked_frames_total", ""),
            queue_depth: depth(&queues),
            events: sum(&pages, "headrace_relay_events_total", ""),
            lag: sum(&pages, "headrace_relay_lag_events", ""),
            vehicles_fresh: vehicles("fresh"),
            vehicles_stale: vehicles("stale"),
        })
    }
}

fn depth(queues: &[Queue]) -> u64 {
    let is_partition = |queue: &&Queue| {
        queue
            .name
            .strip_prefix("ingress.")
            .is_some_and(|n| n.parse::<u32>().is_ok())
    };
    queues
        .iter()
        .filter(is_partition)
        .map(|queue| queue.messages)
        .sum()
}

/// The sum over a metric's series whose labels contain `label`, in Prometheus' text format.
fn sum(page: &str, metric: &str, label: &str) -> u64 {
    page.lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(metric)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            if !(labels.is_empty() || labels.starts_with('{')) || !labels.contains(label) {
                return None;
            }
            value.parse::<f64>().ok()
        })
        // Counters are whole numbers, far below 2^53.
        .map(|value| format!("{value:.0}").parse::<u64>().unwrap_or_default())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_one_metric_are_added_up_by_label() {
        let page = "# TYPE a_total counter\n\
                    a_total{verdict=\"accepted\",provider=\"x\"} 3\n\
                    a_total{provider=\"y\",verdict=\"accepted\"} 4\n\
                    a_total{verdict=\"stale\"} 5\n\
                    a_total_more 100\n";
        assert_eq!(sum(page, "a_total", "verdict=\"accepted\""), 7);
        assert_eq!(sum(page, "a_total", ""), 12);
        assert_eq!(sum(page, "b_total", ""), 0);
    }

    #[test]
    fn depth_is_that_of_the_partitions_alone() {
        let queue = |name: &str, messages| Queue {
            name: name.to_owned(),
            messages,
        };
        let queues = [
            queue("ingress.0", 2),
            queue("ingress.1", 3),
            queue("ingress.dead", 50),
        ];
        assert_eq!(depth(&queues), 5);
    }
}

//! `headrace tail`: a workspace's events as they happen.
//!
//! A stream that ends is taken up behind the last event that was written, so that nothing is left out
//! and nothing is written twice. It ends for good where that cannot be: the log no longer holds what
//! follows.

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use eventsource_stream::{Event, EventStreamError, Eventsource};
use futures_util::StreamExt;
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use runtime::backoff::Backoff;
use runtime::http::Problem;
use serde_json::Value;
use shared_model::CloudEvent;
use shared_model::event::EventType;

use crate::cli;
use crate::connection::expect;
use crate::view::{self, ViewArguments};

const SOONEST: Duration = Duration::from_millis(500);
const LATEST: Duration = Duration::from_secs(15);
/// Heartbeats come every 15 s unless the server is told otherwise; what is silent for longer is gone.
const SILENCE_LIMIT: Duration = Duration::from_mins(2);
const LAST_EVENT_ID: &str = "last-event-id";

/// Which events to write.
#[derive(Debug, Args)]
pub struct TailArguments {
    #[command(flatten)]
    view: ViewArguments,
    /// Only of this vehicle.
    #[arg(long, value_name = "ID")]
    vehicle: Option<String>,
    /// Only of this type, such as `vehicle.snapshot.changed`; may be repeated.
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Begin behind the event with this id, which `--json` writes as `position`, instead of now.
    #[arg(long, value_name = "POSITION")]
    after: Option<String>,
    /// End after so many events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Write one JSON object a line: the event, and the position behind it.
    #[arg(long)]
    json: bool,
}

/// Runs `headrace tail`.
#[must_use]
pub fn main(arguments: TailArguments) -> ExitCode {
    cli::run(run(arguments))
}

async fn run(arguments: TailArguments) -> anyhow::Result<()> {
    let builder = arguments.view.api.client_builder()?;
    let client = builder.read_timeout(SILENCE_LIMIT).build()?;
    let url = live(
        &arguments.view.url(&client).await?,
        arguments.vehicle.as_deref(),
    )?;
    let mut tail = Tail {
        position: arguments.after.clone(),
        left: arguments.count,
        json: arguments.json,
    };
    let mut backoff = Backoff::new(SOONEST, LATEST);
    while tail.left != Some(0) {
        let before = tail.position.clone();
        let request = request(&client, &url, &arguments, before.as_deref());
        match tail.follow(request).await {
            Ok(()) => {}
            Err(Ended::ForGood(error)) => return Err(error),
            Err(Ended::ForNow(reason)) => eprintln!("headrace: {reason}; going on"),
        }
        if tail.position != before {
            backoff.reset();
        }
        if tail.left != Some(0) {
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }
    Ok(())
}

/// Where the events are: of a workspace, or of one of its vehicles, whose id may hold anything.
fn live(workspace: &str, vehicle: Option<&str>) -> anyhow::Result<Url> {
    let mut url = Url::parse(workspace).context("the API's URL is none")?;
    url.path_segments_mut()
        .map_err(|()| anyhow!("the API's URL cannot have a path"))?
        .extend(
            vehicle
                .map(|vehicle| ["vehicles", vehicle])
                .iter()
                .flatten(),
        )
        .push("live");
    Ok(url)
}

fn request(
    client: &Client,
    url: &Url,
    arguments: &TailArguments,
    position: Option<&str>,
) -> RequestBuilder {
    let mut query = Vec::new();
    if !arguments.types.is_empty() {
        query.push(("types", arguments.types.join(",")));
    }
    let request = client.get(url.clone()).query(&query);
    match position {
        Some(position) => request.header(LAST_EVENT_ID, position),
        None => request,
    }
}

/// Why a stream has ended.
enum Ended {
    /// It may be taken up again.
    ForNow(String),
    /// It cannot.
    ForGood(anyhow::Error),
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        Self::ForGood(error.into())
    }
}

struct Tail {
    /// Behind the last event that was written.
    position: Option<String>,
    /// How many events to write yet.
    left: Option<u64>,
    json: bool,
}

impl Tail {
    /// Writes what the answer to `request` tells until it ends.
    async fn follow(&mut self, request: RequestBuilder) -> Result<(), Ended> {
        let answer = request.send().await;
        let answer = answer.map_err(|error| Ended::ForNow(chain(&error)))?;
        let status = answer.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(Ended::ForNow(format!("the API answered {status}")));
        }
        let answer = expect(answer).await.map_err(Ended::ForGood)?;
        let mut events = answer.bytes_stream().eventsource();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.take(event)?,
                Err(EventStreamError::Transport(error)) => {
                    return Err(Ended::ForNow(chain(&error)));
                }
                Err(error) => return Err(Ended::ForGood(error.into())),
            }
            if self.left == Some(0) {
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, event: Event) -> Result<(), Ended> {
        // The last word too has the position: that of a stream of which nothing was asked for lately.
        let position = (!event.id.is_empty()).then_some(event.id);
        if event.event == "end" {
            self.position = position.or(self.position.take());
            return Err(ended(&event.data));
        }
        if let Ok(told) = serde_json::from_str::<CloudEvent>(&event.data) {
            if self.json {
                let line = serde_json::json!({"position": position, "event": told});
                writeln!(stdout(), "{line}")?;
            } else {
                writeln!(stdout(), "{}", written(&told))?;
            }
            self.left = self.left.map(|left| left.saturating_sub(1));
        }
        self.position = position.or(self.position.take());
        Ok(())
    }
}

/// What the server's last word means.
fn ended(data: &str) -> Ended {
    match serde_json::from_str::<Problem>(data) {
        Ok(problem) if problem.kind.ends_with(":log-truncated") => {
            Ended::ForGood(anyhow!("{}", view::plain(&problem.detail)))
        }
        Ok(problem) => Ended::ForNow(view::plain(&problem.detail)),
        Err(_) => Ended::ForNow("the server ended the stream".to_owned()),
    }
}

fn chain(error: &reqwest::Error) -> String {
    runtime::telemetry::chain(error).to_string()
}

/// An event as a person reads it.
fn written(event: &CloudEvent) -> String {
    let subject = event
        .subject
        .as_deref()
        .map(view::plain)
        .unwrap_or_default();
    format!(
        "{}  {:<26}  {subject}  {}",
        event.time.format("%H:%M:%S%.3f"),
        view::plain(&event.kind),
        summary(event)
    )
    .trim_end()
    .to_owned()
}

/// What is worth knowing of an event in a line.
fn summary(event: &CloudEvent) -> String {
    let data = &event.data;
    let text = |name: &str| data[name].as_str().map(view::plain).unwrap_or_default();
    match EventType::from_name(&event.kind) {
        Some(EventType::VehicleSnapshotChanged) => {
            let changed = data["changed"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            let changed: Vec<_> = changed
                .iter()
                .filter_map(Value::as_str)
                .map(|name| format!("{}={}", view::plain(name), value(&data["signals"][name])))
                .collect();
            format!("v{} {}", data["version"], changed.join(" "))
        }
        Some(EventType::VehiclesSeen) => {
            let count = data["vehicles"].as_array().map_or(0, Vec::len);
            format!("{count} vehicles")
        }
        Some(EventType::VehicleHealthChanged) => {
            format!(
                "{} -> {} {}",
                text("previous"),
                text("freshness"),
                text("cause")
            )
        }
        Some(EventType::ConnectionStatusChanged) => {
            format!("{} {}", text("status"), text("reason"))
        }
        Some(EventType::ProviderIncidentChanged) => format!("{} {}", text("state"), text("reason")),
        Some(EventType::VehicleRegistered) => text("provider"),
        None => String::new(),
    }
}

/// A signal's value with its unit.
fn value(signal: &Value) -> String {
    let unit = signal["unit"].as_str().unwrap_or_default();
    match &signal["value"] {
        Value::Object(position) => {
            let degrees = |name: &str| {
                position
                    .get(name)
                    .and_then(Value::as_f64)
                    .unwrap_or_default()
            };
            format!("{:.5},{:.5}", degrees("latitude"), degrees("longitude"))
        }
        other => view::plain(&format!("{other}{unit}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared_model::WorkspaceId;
    use shared_model::event::LogPosition;
    use shared_model::time::from_unix_millis;

    use super::*;

    fn event(kind: EventType, data: Value) -> CloudEvent {
        let position = LogPosition {
            shard: 0,
            offset: 7,
            logged_at: from_unix_millis(1_511_436_694_000).unwrap(),
        };
        let workspace = WorkspaceId::new("demo").unwrap();
        let subject = Some("bus-1".to_owned());
        CloudEvent::new(&position, kind, workspace, subject, None, data)
    }

    #[test]
    fn the_last_word_of_a_stream_says_where_to_go_on_too() {
        let mut tail = Tail {
            position: Some("of the last event".to_owned()),
            left: None,
            json: true,
        };
        let mut end = Event {
            event: "end".to_owned(),
            data: "{}".to_owned(),
            ..Event::default()
        };
        assert!(tail.take(end.clone()).is_err());
        assert_eq!(tail.position.as_deref(), Some("of the last event"));
        end.id = "an hour on".to_owned();
        assert!(tail.take(end).is_err());
        assert_eq!(tail.position.as_deref(), Some("an hour on"));
    }

    #[test]
    fn an_event_is_a_line() {
        let data = json!({"version": 3, "changed": ["state_of_charge", "position"], "signals": {
            "state_of_charge": {"value": 81.5, "unit": "%"},
            "position": {"value": {"latitude": 52.1, "longitude": 4.5}, "unit": "deg"}}});
        let line = written(&event(EventType::VehicleSnapshotChanged, data));
        assert_eq!(
            line,
            "11:31:34.000  vehicle.snapshot.changed    bus-1  v3 state_of_charge=81.5% position=52.10000,4.50000"
        );
        let data = json!({"previous": "fresh", "freshness": "stale", "cause": "source_silent"});
        let line = written(&event(EventType::VehicleHealthChanged, data));
        assert!(line.ends_with("fresh -> stale source_silent"), "{line}");
    }

    #[test]
    fn a_vehicle_is_one_part_of_the_path() {
        let of = |vehicle| {
            live("http://api/v1/workspaces/w", vehicle)
                .unwrap()
                .to_string()
        };
        assert_eq!(of(None), "http://api/v1/workspaces/w/live");
        assert_eq!(
            of(Some("Bus 1/2, north")),
            "http://api/v1/workspaces/w/vehicles/Bus%201%2F2,%20north/live"
        );
    }

    #[test]
    fn a_stream_is_taken_up_again_unless_what_follows_is_gone() {
        let data = |name: &str| json!(Problem::bad_request(name, "why")).to_string();
        assert!(matches!(ended(&data("slow-reader")), Ended::ForNow(why) if why == "why"));
        assert!(matches!(ended(&data("log-truncated")), Ended::ForGood(_)));
        assert!(matches!(ended("not JSON"), Ended::ForNow(_)));
    }

    #[test]
    fn the_position_is_behind_what_was_written() {
        let mut tail = Tail {
            position: None,
            left: Some(2),
            json: false,
        };
        let told = event(
            EventType::VehicleRegistered,
            json!({"provider": "viriciti"}),
        );
        let of = |id: &str| Event {
            event: told.kind.clone(),
            data: json!(told).to_string(),
            id: id.to_owned(),
            retry: None,
        };
        assert!(tail.take(of("1")).is_ok() && tail.take(of("2")).is_ok());
        assert_eq!((tail.position.as_deref(), tail.left), (Some("2"), Some(0)));
    }
}

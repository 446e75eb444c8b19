//! The screen of `headrace status`. Pure.

use super::report::{Health, Pipeline, Report};
use crate::view::{age, plain, table, text};

/// The report as a person reads it.
pub(super) fn screen(report: &Report) -> String {
    let mut screen = format!(
        "Headrace at {}, {}\n\n",
        plain(&report.api),
        report.at.format("%Y-%m-%d %H:%M:%SZ")
    );
    if report.workspaces.is_empty() && report.away.is_empty() {
        screen += "The API key reaches every workspace; name one with -w to see its vehicles.\n";
    } else {
        screen += &fleet(&report.workspaces);
    }
    for away in &report.away {
        screen.extend(["\nNo answer of ", &plain(away), "\n"]);
    }
    match &report.pipeline {
        Some(pipeline) => screen + "\n" + &of_pipeline(pipeline),
        None if !report.away.is_empty() => screen,
        None => screen + "\nThe pipeline is shown to keys with the scope operate.\n",
    }
}

fn fleet(workspaces: &[Health]) -> String {
    let mut fleet = table([
        "workspace",
        "vehicles",
        "fresh",
        "stale",
        "offline",
        "never seen",
        "incidents",
        "connections",
    ]);
    for of in workspaces {
        let connections: Vec<_> = of
            .connections
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(status, count)| format!("{count} {}", plain(status)))
            .collect();
        fleet.add_row([
            plain(&of.workspace),
            of.vehicles.to_string(),
            of.fresh.to_string(),
            of.stale.to_string(),
            of.offline.to_string(),
            of.never_seen.to_string(),
            of.open_incidents.to_string(),
            connections.join(", "),
        ]);
    }
    text(&fleet)
}

fn of_pipeline(pipeline: &Pipeline) -> String {
    let mut rows = table(["pipeline", "", ""]);
    let partitions = &pipeline.ingress.partitions;
    let unconsumed = partitions
        .iter()
        .filter(|of| of.consumers == Some(0))
        .count();
    let each: Vec<_> = partitions
        .iter()
        .map(|of| {
            of.messages
                .map_or_else(|| "?".to_owned(), |count| count.to_string())
        })
        .collect();
    let waiting = match pipeline.ingress.messages {
        Some(count) => format!("{count} messages wait"),
        None => "the broker does not answer".to_owned(),
    };
    let consumed = match unconsumed {
        0 => String::new(),
        some => format!("; {some} without a consumer"),
    };
    rows.add_row([
        "ingress",
        &waiting,
        &format!("by partition {}{consumed}", each.join(" ")),
    ]);
    let behind: u64 = pipeline.relay.iter().map(|shard| shard.lag_events).sum();
    let oldest = pipeline
        .relay
        .iter()
        .filter_map(|shard| shard.waiting_seconds);
    rows.add_row(["relay", &events(behind), &since(oldest.reduce(f64::max))]);
    for of in &pipeline.subscribers {
        rows.add_row([
            &plain(&of.name),
            &events(of.lag_events),
            &since(of.lag_seconds),
        ]);
    }
    for of in &pipeline.publishers {
        rows.add_row([
            "publisher",
            &format!("{} streams", of.streams),
            &plain(&of.instance),
        ]);
    }
    let parked: u64 = pipeline.parked.iter().map(|of| of.frames).sum();
    let reasons: Vec<_> = pipeline
        .parked
        .iter()
        .map(|of| format!("{} {}", of.frames, plain(&of.reason)))
        .collect();
    rows.add_row(["parked", &format!("{parked} frames"), &reasons.join(", ")]);
    let dead = format!(
        "{} letters, {} events",
        pipeline.dead_letters, pipeline.dead_events
    );
    rows.add_row(["dead", &dead, ""]);
    text(&rows)
}

fn events(behind: u64) -> String {
    format!("{behind} events behind")
}

fn since(seconds: Option<f64>) -> String {
    seconds
        .filter(|seconds| *seconds >= 1.0)
        .map_or_else(String::new, |seconds| {
            format!("the oldest for {}", age(seconds))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared_model::time::from_unix_millis;

    use super::*;

    fn report() -> Report {
        let health = json!({"workspace": "demo", "vehicles": 35, "fresh": 33, "stale": 2, "offline": 0,
            "never_seen": 0, "connections": {"subscribed": 4, "silent": 0}, "open_incidents": 1,
            "causes": {"source_silent": 2}});
        let pipeline = json!({
            "ingress": {"messages": 12, "partitions": [
                {"partition": 0, "queue": "ingress.0", "messages": 12, "consumers": 1, "max_bytes": 1},
                {"partition": 1, "queue": "ingress.1", "messages": 0, "consumers": 0, "max_bytes": 1}]},
            "relay": [{"shard": 0, "head": 9, "relayed": 6, "lag_events": 3, "waiting_seconds": 75.0}],
            "subscribers": [{"name": "snapshot", "lag_events": 5, "lag_seconds": 0.2, "seen_at": null}],
            "publishers": [{"instance": "host-1", "streams": 4, "seen_at": null}],
            "parked": [{"reason": "invalid_syntax", "frames": 2}], "dead_letters": 1, "dead_events": 0,
            "management_url": null});
        Report {
            at: from_unix_millis(1_511_436_694_000).unwrap(),
            api: "http://127.0.0.1:8080".to_owned(),
            workspaces: vec![serde_json::from_value(health).unwrap()],
            pipeline: Some(serde_json::from_value(pipeline).unwrap()),
            away: Vec::new(),
        }
    }

    fn has(screen: &str, words: &str) -> bool {
        let joined = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        screen.lines().map(joined).any(|line| line == words)
    }

    #[test]
    fn the_screen_shows_the_fleet_and_the_pipeline() {
        let screen = screen(&report());
        for words in [
            "Headrace at http://127.0.0.1:8080, 2017-11-23 11:31:34Z",
            "demo 35 33 2 0 0 1 4 subscribed",
            "ingress 12 messages wait by partition 12 0; 1 without a consumer",
            "relay 3 events behind the oldest for 1m",
            "snapshot 5 events behind",
            "publisher 4 streams host-1",
            "parked 2 frames 2 invalid_syntax",
            "dead 1 letters, 0 events",
        ] {
            assert!(has(&screen, words), "{words} is not in\n{screen}");
        }
    }

    #[test]
    fn what_is_not_known_is_said() {
        let mut report = report();
        report.workspaces.clear();
        let pipeline = report.pipeline.as_mut().unwrap();
        pipeline.ingress.messages = None;
        pipeline.ingress.partitions[0].messages = None;
        let shown = screen(&report);
        assert!(
            shown.contains("the broker does not answer") && shown.contains("? 0"),
            "{shown}"
        );
        assert!(shown.contains("name one with -w"), "{shown}");
        report.pipeline = None;
        assert!(screen(&report).contains("scope operate"));
        report.away = vec!["the pipeline: 503".to_owned()];
        let shown = screen(&report);
        assert!(
            shown.contains("No answer of the pipeline: 503") && !shown.contains("scope operate")
        );
    }

    #[test]
    fn json_keeps_what_the_api_said() {
        let json = json!(report());
        assert_eq!(json["workspaces"][0]["causes"]["source_silent"], 2);
        assert_eq!(json["pipeline"]["relay"][0]["relayed"], 6);
    }
}

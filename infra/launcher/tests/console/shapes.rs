//! What the fake gateway answers beside vehicles and their counts.

use serde_json::{Value, json};

pub fn pipeline() -> Value {
    let partition = |partition: u32, messages: u64| json!({"partition": partition, "queue": format!("ingress.{partition}"), "messages": messages, "consumers": 1, "max_bytes": 268_435_456});
    let shard = |shard: u32, lag: u64| json!({"shard": shard, "head": 1200 + lag, "relayed": 1200, "lag_events": lag, "waiting_seconds": (lag > 0).then_some(0.4)});
    let subscriber = |name: &str, lag: u64| json!({"name": name, "lag_events": lag, "lag_seconds": (lag > 0).then_some(1.5), "seen_at": "2026-11-28T10:00:00Z"});
    json!({
        "ingress": {"partitions": [partition(0, 12), partition(1, 0), partition(2, 48), partition(3, 3)], "messages": 63},
        "relay": [shard(0, 0), shard(1, 4), shard(2, 0), shard(3, 0)],
        "subscribers": [subscriber("health", 2), subscriber("snapshot", 0)],
        "publishers": [{"instance": "host-5207", "streams": 1, "seen_at": "2026-11-28T10:00:00Z", "draining": false,
            "backpressure": [{"reason": "window_full", "streams": 1}]}],
        "parked": [{"reason": "unknown_label", "frames": 3}],
        "dead_letters": 0, "dead_events": 0, "management_url": "http://127.0.0.1:15672",
    })
}

/// What a workspace has at the path `of`.
pub fn of_workspace(of: &[&str]) -> Option<Value> {
    const CONNECTION: &str = "01a208fc-7b61-76a0-9d73-294bf534c311";
    let items = match of {
        ["health", "connections"] => json!([
            {"workspace": "demo", "connection": CONNECTION, "provider": "viriciti", "status": "subscribed",
                "since": "2026-11-28T09:00:00Z", "reason": null, "error": null, "frames_per_minute": 1260, "reconnects": 0},
        ]),
        ["streams"] => json!([
            {"connection": CONNECTION, "provider": "viriciti", "owner": "host-5207", "epoch": 3, "lease_until": null,
                "outgoing": null, "state": "subscribed", "since": null, "session": null, "frames": 68_123,
                "last_frame_at": "2026-11-28T10:00:00Z", "reconnects": 0, "last_error": null, "paused": "window_full", "reported_at": null},
        ]),
        ["polls"] => json!([
            {"connection": CONNECTION, "provider": "rfms", "paused": false, "owner": null, "epoch": 4, "feeds": [
                {"feed": "vehiclepositions", "state": "ok", "last_success_at": "2026-11-28T10:00:00Z", "consecutive_failures": 0,
                    "next_due_at": null, "pages": 1, "rows": 5, "read_until": null, "lag_seconds": 2.5, "last_error": null, "last_error_at": null},
                {"feed": "vehiclestatuses", "state": "failing", "last_success_at": null, "consecutive_failures": 3,
                    "next_due_at": null, "pages": 0, "rows": 0, "read_until": null, "lag_seconds": null, "last_error": "the provider answered 500", "last_error_at": null},
            ]},
        ]),
        ["parked"] => json!([
            {"id": 1, "workspace": "demo", "provider": "viriciti", "connection": CONNECTION, "session": null, "partition": 0,
                "number": 4, "received_at": null, "parked_at": "2026-11-28T09:59:00Z", "last_at": "2026-11-28T09:59:00Z",
                "reason": "not_json", "detail": "expected <b>value</b> at line 1", "size": 1234, "attempts": 0, "repeats": 2},
        ]),
        _ => return None,
    };
    Some(json!({"items": items, "next": null}))
}

/// What `vehicle` has at the path `of` below it.
pub fn of_vehicle(vehicle: &Value, of: &[&str]) -> Option<Value> {
    let (name, freshness) = (&vehicle["vehicle"], &vehicle["freshness"]);
    let charge = &vehicle["signals"]["state_of_charge"];
    Some(match of {
        ["health"] => {
            json!({"workspace": "demo", "vehicle": name, "freshness": freshness, "last_received_at": "2026-11-28T10:00:00Z",
            "since": "2026-11-28T09:30:00Z", "cause": if freshness == "stale" { json!("source_silent") } else { Value::Null },
            "incident": null, "provider": "viriciti", "connection": null, "stale_after_seconds": 300, "offline_after_seconds": 3600})
        }
        ["health", "history"] => json!({"items": [
            {"vehicle": name, "found_at": "2026-11-28T09:30:00Z", "freshness": freshness, "previous": "stale", "cause": null, "incident": null,
                "provider": "viriciti", "since": "2026-11-28T09:30:00Z", "last_received_at": "2026-11-28T09:30:00Z", "number": 2},
            {"vehicle": name, "found_at": "2026-11-28T08:10:00Z", "freshness": "stale", "previous": "fresh", "cause": "source_silent", "incident": null,
                "provider": "viriciti", "since": "2026-11-28T08:10:00Z", "last_received_at": "2026-11-28T08:05:00Z", "number": 1},
        ], "next": null}),
        ["verdicts"] => json!({"items": [
            {"decided_at": "2026-11-28T10:00:00Z", "verdict": "accepted", "signal": "state_of_charge", "reading": charge, "against": null, "clock_ahead": false},
            {"decided_at": "2026-11-28T09:59:00Z", "verdict": "stale", "signal": "state_of_charge", "reading": charge, "against": charge, "clock_ahead": true},
        ]}),
        ["events"] => json!({"items": [
            {"type": "vehicle.snapshot.changed", "time": "2026-11-28T10:00:00Z", "subject": name, "data":
                {"vehicle": name, "version": 1, "changed": ["state_of_charge"], "signals": {"state_of_charge": charge}}},
            {"type": "vehicle.registered", "time": "2026-11-28T08:00:00Z", "subject": name, "data": {"vehicle": name, "provider": "viriciti"}},
        ], "next": null}),
        _ => return None,
    })
}

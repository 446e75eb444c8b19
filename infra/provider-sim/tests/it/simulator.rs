//! The simulated fleet.

use crate::client::{Client, End, KEY, eventually, http, refused, soon};
use futures_util::SinkExt;
use provider_sim::{Flaws, Simulator, SimulatorConfig, StartError, Stats};
use serde_json::{Value, json};
use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};
use tokio::{net::TcpSocket, time::Instant};
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

const DELAY: Duration = Duration::from_millis(100);

/// A fast fleet in which parked buses report as often as the others, so that no test depends on the time of day.
fn fast() -> SimulatorConfig {
    SimulatorConfig {
        vehicles: 6,
        rate: 50.0,
        authorisation_delay: DELAY,
        parked_every: Duration::from_millis(1),
        disconnect_every: None,
        flaws: Flaws::NONE,
        ..SimulatorConfig::default()
    }
}

#[tokio::test]
async fn only_a_known_key_opens_the_socket() {
    let simulator = Simulator::start(fast()).unwrap();
    let live = simulator.live_url();
    assert_eq!(refused(&live, None).await, 401);
    assert_eq!(refused(&live, Some("wrong")).await, 401);
    assert_eq!(refused(&format!("{live}?apiKey=wrong"), None).await, 401);
    let elsewhere = live.replace("/live", "/elsewhere");
    assert_eq!(refused(&elsewhere, Some(KEY)).await, 404);
    assert_eq!(simulator.stats().connections_accepted, 0);

    let with_key = format!("{live}?apiKey={KEY}");
    let (_by_query, _) = Box::pin(tokio_tungstenite::connect_async(with_key))
        .await
        .unwrap();
    let _by_header = Client::connect(&live).await;
    let (status, _) = http(&simulator.url(), "GET /api/v2/live", "").await;
    assert!((400..500).contains(&status), "{status} without an upgrade");
    eventually("two connections", || {
        (simulator.stats().connections == 2).then_some(())
    })
    .await;
    simulator.stop().await;
}

#[tokio::test]
async fn the_confirmation_comes_first_and_the_data_after_the_delay() {
    let simulator = Simulator::start(fast()).unwrap();
    let mut client = Client::connect(&simulator.live_url()).await;
    let subscription = r#"{ "vehicles": {"bus-1":["soc","gps"], "bus-2":["odo"]} }"#;
    let asked = Instant::now();
    client.send(subscription).await;
    assert_eq!(client.text().await, subscription, "verbatim");

    let first = client.datum().await;
    assert!(first.at - asked >= DELAY, "after {:?}", first.at - asked);
    for datum in client.data(60).await {
        match (datum.vid.as_str(), datum.label.as_str()) {
            ("bus-1", "soc") | ("bus-2", "odo") => assert!(datum.value.is_f64(), "{datum:?}"),
            ("bus-1", "gps") => {
                let (lat, lon) = datum.value.as_str().unwrap().split_once('|').unwrap();
                assert!((51.9..52.2).contains(&lat.parse::<f64>().unwrap()));
                assert!((5.0..5.3).contains(&lon.parse::<f64>().unwrap()));
            }
            _ => panic!("nobody asked for {datum:?}"),
        }
    }
    simulator.stop().await;
}

#[tokio::test]
async fn unknown_vehicles_and_labels_are_confirmed_and_silent() {
    let simulator = Simulator::start(fast()).unwrap();
    let vehicles: HashMap<String, [&str; 2]> = (1..=500)
        .map(|number| (format!("bus-{number}"), ["speed", "proprietary.accelpedal"]))
        .collect();
    let subscription = json!({"vehicles": vehicles}).to_string();
    let mut client = Client::subscribed(&simulator.live_url(), &subscription).await;
    let data = client.data(120).await;
    assert!(data.iter().all(|datum| datum.label == "speed"));
    let vids: BTreeSet<_> = data.into_iter().map(|datum| datum.vid).collect();
    let fleet: BTreeSet<_> = (1..=6).map(|number| format!("bus-{number}")).collect();
    assert_eq!(vids, fleet);
    simulator.stop().await;
}

#[tokio::test]
async fn a_second_subscription_replaces_the_first() {
    let simulator = Simulator::start(fast()).unwrap();
    let first = r#"{"vehicles":{"bus-1":["soc"]}}"#;
    let second = r#"{"vehicles":{"bus-2":["odo"]}}"#;
    let mut client = Client::subscribed(&simulator.live_url(), first).await;
    client.data(5).await;
    client.send(second).await;
    assert_eq!(client.answer().await, second);
    for datum in client.data(30).await {
        assert_eq!((datum.vid.as_str(), datum.label.as_str()), ("bus-2", "odo"));
    }
    assert_eq!(simulator.stats().subscriptions, 1);
    simulator.stop().await;
}

#[tokio::test]
async fn debug_commands_and_nonsense_are_answered() {
    let simulator = Simulator::start(fast()).unwrap();
    let mut client = Client::connect(&simulator.live_url()).await;
    client.send("show query").await;
    assert_eq!(client.text().await, r#"{"vehicles":{}}"#);
    client.send("show acl").await;
    let acl: Value = serde_json::from_str(&client.text().await).unwrap();
    assert_eq!(acl["type"], "acl");
    assert_eq!(acl["payload"]["vehicles"].as_object().unwrap().len(), 6);
    for nonsense in ["hello", "{}", r#"{"vehicles":7}"#] {
        client.send(nonsense).await;
        let error: Value = serde_json::from_str(&client.text().await).unwrap();
        assert_eq!(error["type"], "error");
        assert!(error["payload"].is_string());
    }
    let subscription = r#"{"vehicles":{"bus-3":["power"]}}"#;
    client.send(subscription).await;
    assert_eq!(client.text().await, subscription);
    client.send("show query").await;
    assert_eq!(client.answer().await, subscription);
    simulator.stop().await;
}

#[tokio::test]
async fn paused_vehicles_are_silent_until_resumed() {
    let simulator = Simulator::start(fast()).unwrap();
    let base = simulator.url();
    let subscription = r#"{"vehicles":{"bus-1":["odo"],"bus-2":["odo"]}}"#;
    let mut client = Client::subscribed(&simulator.live_url(), subscription).await;
    let before = client.data(10).await;
    assert!(before.iter().any(|datum| datum.vid == "bus-1"));

    let (code, counts) = http(&base, "POST /control/pause", r#"{"vehicles":["bus-1"]}"#).await;
    assert_eq!((code, &counts["paused"]), (200, &json!(1)));
    // Everything up to this answer may still be from before the pause.
    client.send("show query").await;
    client.answer().await;
    let grace = client.datum().await.time + 100;
    loop {
        let datum = client.datum().await;
        assert!(datum.vid == "bus-2" || datum.time < grace, "{datum:?}");
        if datum.time > grace + 400 {
            break;
        }
    }

    assert_eq!(http(&base, "POST /control/pause", "").await.0, 200);
    soon("silence", async {
        while !client.is_silent_for(Duration::from_millis(300)).await {}
    })
    .await;
    let (code, counts) = http(&base, "POST /control/resume", "").await;
    assert_eq!((code, &counts["paused"]), (200, &json!(0)));
    let after = client.data(10).await;
    assert!(after.iter().any(|datum| datum.vid == "bus-1"));

    for (body, reason) in [
        (r#"{"vehicles":["bus-99"]}"#, "bus-99"),
        ("nonsense", "unreadable"),
    ] {
        let (status, answer) = http(&base, "POST /control/pause", body).await;
        assert_eq!(status, 400);
        assert!(answer["error"].as_str().unwrap().contains(reason));
    }
    assert_eq!(simulator.stats().paused, 0);
    simulator.stop().await;
}

#[tokio::test]
async fn a_disconnected_client_comes_back_and_has_to_subscribe_again() {
    let simulator = Simulator::start(fast()).unwrap();
    let subscription = r#"{"vehicles":{"bus-1":["odo"]}}"#;
    let mut client = Client::subscribed(&simulator.live_url(), subscription).await;
    let before = client.data(3).await.pop().unwrap();
    assert_eq!(
        http(&simulator.url(), "POST /control/disconnect", "")
            .await
            .0,
        200
    );
    assert!(matches!(client.end().await, End::Closed { code: 1001, .. }));

    let mut again = Client::connect(&simulator.live_url()).await;
    again.send("show query").await;
    assert_eq!(again.text().await, r#"{"vehicles":{}}"#);
    assert!(
        again.is_silent_for(2 * DELAY).await,
        "nothing is asked for yet"
    );
    again.send(subscription).await;
    assert_eq!(again.text().await, subscription);
    let after = again.datum().await;
    assert!(after.time > before.time + 150, "nothing is replayed");
    let stats = simulator.stats();
    assert_eq!((stats.connections, stats.connections_accepted), (1, 2));
    simulator.stop().await;
}

#[tokio::test]
async fn every_client_gets_its_own_copy() {
    let simulator = Simulator::start(fast()).unwrap();
    let subscription = r#"{"vehicles":{"bus-1":["odo","soc"],"bus-4":["gps"]}}"#;
    let mut one = Client::subscribed(&simulator.live_url(), subscription).await;
    let mut two = Client::subscribed(&simulator.live_url(), subscription).await;
    let collect = async |client: &mut Client| -> Vec<_> {
        let data = client.data(200).await.into_iter();
        data.map(|d| (d.time, d.vid, d.label, d.value.to_string()))
            .collect()
    };
    let (one, two) = tokio::join!(collect(&mut one), collect(&mut two));
    let from = one[0].0.max(two[0].0) + 1;
    let until = one[199].0.min(two[199].0);
    let between = |data: Vec<(i64, String, String, String)>| -> Vec<_> {
        data.into_iter()
            .filter(|d| (from..until).contains(&d.0))
            .collect()
    };
    let (one, two) = (between(one), between(two));
    assert!(one.len() > 20, "{} in common", one.len());
    assert_eq!(one, two);
    simulator.stop().await;
}

#[tokio::test]
async fn sockets_end_after_a_random_lifetime() {
    let simulator = Simulator::start(SimulatorConfig {
        disconnect_every: Some(Duration::from_millis(50)),
        ..fast()
    })
    .unwrap();
    let mut ends = Vec::new();
    for _ in 0..20 {
        ends.push(Client::connect(&simulator.live_url()).await.end().await);
    }
    assert!(ends.contains(&End::Cut), "{ends:?}");
    assert!(ends.iter().any(|end| *end != End::Cut), "{ends:?}");
    simulator.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_a_full_outbox_and_no_more() {
    let simulator = Simulator::start(SimulatorConfig {
        vehicles: 40,
        rate: 100.0,
        outbox_frames: 512,
        authorisation_delay: Duration::ZERO,
        ..fast()
    })
    .unwrap();
    let vehicles: HashMap<String, [&str; 6]> = (1..=40)
        .map(|number| {
            let labels = ["soc", "odo", "speed", "gps", "power", "energy"];
            (format!("bus-{number}"), labels)
        })
        .collect();
    let subscription = json!({"vehicles": vehicles}).to_string();

    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address = simulator.url()["http://".len()..].parse().unwrap();
    let stream = socket.connect(address).await.unwrap();
    let mut request = simulator.live_url().into_client_request().unwrap();
    request
        .headers_mut()
        .insert("x-api-key", HeaderValue::from_static(KEY));
    let (mut sleeper, _) = client_async(request, stream).await.unwrap();
    sleeper.send(Message::text(subscription)).await.unwrap();

    let mut last: Option<Stats> = None;
    let stuck = eventually("a full outbox", || {
        let now = simulator.stats();
        let reference = *last.get_or_insert(now);
        if now.frames_sent != reference.frames_sent {
            last = Some(now);
        }
        (now.frames_skipped > reference.frames_skipped + 10_000).then_some(now)
    })
    .await;
    assert!(stuck.frames_sent < 30_000, "{stuck:?}");

    // The others do not notice.
    let one = r#"{"vehicles":{"bus-1":["odo"]}}"#;
    let mut reader = Client::subscribed(&simulator.live_url(), one).await;
    let mut times: Vec<_> = reader
        .data(50)
        .await
        .iter()
        .map(|datum| datum.time)
        .collect();
    times.dedup();
    assert_eq!(times.len(), 50);
    soon("the stop", simulator.stop()).await;
    drop(sleeper);
}

#[tokio::test]
async fn a_stopped_simulator_leaves_nothing_behind() {
    let simulator = Simulator::start(fast()).unwrap();
    let live = simulator.live_url();
    let mut client = Client::subscribed(&live, r#"{"vehicles":{"bus-1":["odo"]}}"#).await;
    let end = tokio::spawn(async move { client.end().await });
    soon("the stop", simulator.stop()).await;
    assert!(matches!(end.await.unwrap(), End::Closed { code: 1001, .. }));
    assert!(Client::connect_as(&live, KEY).await.is_err());

    // Dropping is enough to end all tasks, only without waiting for it.
    let simulator = Simulator::start(fast()).unwrap();
    let mut client = Client::connect(&simulator.live_url()).await;
    drop(simulator);
    client.end().await;
}

#[tokio::test]
async fn health_and_counts_are_served() {
    let simulator = Simulator::start(fast()).unwrap();
    assert_eq!(
        http(&simulator.url(), "GET /control/healthz", "").await.0,
        200
    );
    let mut client =
        Client::subscribed(&simulator.live_url(), r#"{"vehicles":{"bus-1":["odo"]}}"#).await;
    client.data(5).await;
    let (code, body) = http(&simulator.url(), "GET /control/stats", "").await;
    let stats: Stats = serde_json::from_value(body).unwrap();
    assert_eq!(code, 200);
    assert_eq!(
        (stats.connections, stats.subscriptions, stats.vehicles),
        (1, 1, 6)
    );
    assert!(stats.frames_sent >= 5);
    assert_eq!(stats.frames_skipped, 0);
    simulator.stop().await;
}

#[tokio::test]
async fn settings_out_of_range_are_refused() {
    let flaws = Flaws {
        blank: 2.0,
        ..Flaws::NONE
    };
    let configs = [
        (
            "rate",
            SimulatorConfig {
                rate: 0.0,
                ..fast()
            },
        ),
        (
            "rate",
            SimulatorConfig {
                rate: f64::NAN,
                ..fast()
            },
        ),
        ("flaws", SimulatorConfig { flaws, ..fast() }),
        (
            "outbox_frames",
            SimulatorConfig {
                outbox_frames: 0,
                ..fast()
            },
        ),
    ];
    for (expected, config) in configs {
        let error = Simulator::start(config).expect_err(expected);
        assert!(matches!(error, StartError::Setting { key, .. } if key == expected));
    }
    let taken = Simulator::start(fast()).unwrap();
    let listen = taken.url()["http://".len()..].parse().unwrap();
    let error = Simulator::start(SimulatorConfig { listen, ..fast() }).unwrap_err();
    assert!(matches!(error, StartError::Listen { address, .. } if address == listen));
}

//! What changes while one looks, and what is shown while that cannot be known.

use serde_json::json;

use crate::driven::{Driven, eventually};
use crate::fake::{Fake, KEY, vehicle};

const CHARGE: &str = "document.querySelector('.vehicles tbody td:nth-child(3)').textContent";
const STATUS: &str = "document.querySelector('.vehicles tbody td:nth-child(2)').textContent";
const LINK: &str = "document.getElementById('link-state').textContent";

fn snapshot(version: u64, charge: f64) -> serde_json::Value {
    json!({"vehicle": "bus-1", "version": version, "revision": version, "last_received_at": "2026-11-28T10:00:03Z",
        "changed": ["state_of_charge"], "signals": vehicle("bus-1", "fresh", charge, 52.0, 5.0)["signals"]})
}

#[tokio::test(flavor = "multi_thread")]
async fn values_change_as_events_come_and_go_on_where_the_stream_was_cut() {
    let fake = Fake::start([vehicle("bus-1", "fresh", 50.0, 52.0, 5.0)]).await;
    let driven = Driven::signed_in(&fake.url, KEY).await;
    // The mark does not stay.
    let watch = "window.same = true; new MutationObserver((seen) => { window.marked ||= seen.some((one) => one.target.matches('td.changed')); }).observe(document.querySelector('.vehicles tbody'), { subtree: true, attributeFilter: ['class'] })";
    driven.evaluate(&format!("{{ {watch} }}")).await;
    driven.until(&format!("{LINK} === 'Live'")).await;
    fake.tell("vehicle.snapshot.changed", snapshot(2, 61.5));
    driven.until(&format!("{CHARGE} === '61.5 %'")).await;
    driven
        .until("window.marked && !document.querySelector('.vehicles td.changed')")
        .await;
    // What is older changes nothing; what comes behind it is seen.
    fake.tell("vehicle.snapshot.changed", snapshot(1, 10.0));
    fake.tell(
        "vehicle.health.changed",
        json!({"vehicle": "bus-1", "number": 2, "freshness": "stale", "previous": "fresh",
        "cause": "source_silent", "last_received_at": "2026-11-28T10:00:03Z"}),
    );
    driven.until(&format!("{STATUS} === 'Stale'")).await;
    assert_eq!(driven.evaluate(CHARGE).await, "61.5 %");

    // The service says goodbye, or the connection is cut: either is resumed behind the last event.
    fake.send("event: end\ndata: {\"type\":\"urn:headrace:problem:stopping\"}\n\n".to_owned());
    eventually("it has come back", || fake.resumed().len() == 2).await;
    driven.until(&format!("{LINK} === 'Live'")).await;
    fake.send(String::new());
    eventually("it has come back again", || fake.resumed().len() == 3).await;
    let resumed = fake.resumed();
    assert_eq!(resumed[0], None);
    assert_eq!(resumed[1].as_deref(), Some("position-3"));
    assert_eq!(resumed[2].as_deref(), Some("position-3"));
    driven.until(&format!("{LINK} === 'Live'")).await;
    eventually("it listens", || fake.listeners() == 1).await;
    // What the log no longer has is read from the list.
    fake.put({
        let mut later = vehicle("bus-1", "fresh", 70.0, 52.0, 5.0);
        later["version"] = json!(9);
        later
    });
    fake.send("event: end\ndata: {\"type\":\"urn:headrace:problem:log-truncated\"}\n\n".to_owned());
    driven.until(&format!("{CHARGE} === '70.0 %'")).await;
    eventually("it begins anew", || fake.resumed().get(3) == Some(&None)).await;
    assert_eq!(
        driven.evaluate("window.same").await,
        true,
        "the page was loaded again"
    );
    driven.close(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_what_is_older_is_shown_all_the_same() {
    let at = |version: u64, charge: f64| {
        let mut bus = vehicle("bus-1", "fresh", charge, 52.0, 5.0);
        bus["version"] = json!(version);
        bus
    };
    let fake = Fake::start([at(9, 90.0), vehicle("bus-2", "fresh", 50.0, 52.0, 5.0)]).await;
    let driven = Driven::signed_in(&fake.url, KEY).await;
    driven.until(&format!("{LINK} === 'Live'")).await;
    driven.shows("1–2 of 2").await;
    fake.tell("vehicle.snapshot.changed", snapshot(10, 91.0));
    driven.until(&format!("{CHARGE} === '91.0 %'")).await;
    // The stream says so …
    fake.put(at(5, 20.0));
    fake.send("event: end\ndata: {\"type\":\"urn:headrace:problem:log-restored\"}\n\n".to_owned());
    driven.until(&format!("{CHARGE} === '20.0 %'")).await;
    eventually("it begins anew", || fake.resumed() == [None, None]).await;
    eventually("it listens", || fake.listeners() == 1).await;
    // … or it is refused where it would go on; a vehicle's own page is read anew as well.
    driven.evaluate("location.hash = '#/vehicles/bus-1'").await;
    driven.shows("Heard through").await;
    fake.tell("vehicle.snapshot.changed", snapshot(6, 21.0));
    let signals = "document.querySelector('.signals tbody').textContent";
    driven.until(&format!("{signals}.includes('21.0 %')")).await;
    fake.put(at(3, 11.0));
    fake.restore();
    fake.send(String::new());
    driven.until(&format!("{signals}.includes('11.0 %')")).await;
    let resumed = fake.resumed();
    assert_eq!(resumed[2..], [Some("position-2".to_owned()), None]);
    driven.close(&["409"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_live_stream_values_come_all_the_same_and_it_is_said() {
    let fake = Fake::start([vehicle("bus-1", "fresh", 50.0, 52.0, 5.0)]).await;
    fake.has_live(false);
    let driven = Driven::signed_in(&fake.url, KEY).await;
    driven.until(&format!("{LINK} === 'Every 5 s'")).await;
    let mut later = vehicle("bus-1", "stale", 33.0, 52.0, 5.0);
    later["version"] = json!(2);
    fake.put(later);
    driven
        .until(&format!("{CHARGE} === '33.0 %' && {STATUS} === 'Stale'"))
        .await;
    driven.close(&["404"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_shown_is_said_and_what_is_known_stays() {
    let fake = Fake::start([vehicle("bus-1", "fresh", 50.0, 52.0, 5.0)]).await;
    let driven = Driven::signed_in(&fake.url, KEY).await;
    for (status, said) in [
        (429, "Too many requests"),
        (503, "A part of Headrace is away"),
        (403, "This key may not see that"),
    ] {
        fake.refuse(status);
        driven.shows(said).await;
        assert_eq!(driven.evaluate(CHARGE).await, "50.0 %");
        fake.refuse(200);
        driven
            .until("document.getElementById('notice').hidden")
            .await;
    }
    let offline =
        |is| json!({"offline": is, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1});
    driven
        .page
        .send("Network.emulateNetworkConditions", offline(true))
        .await
        .unwrap();
    driven.shows("cannot be reached").await;
    driven.until(&format!("{LINK} === 'Offline'")).await;
    driven
        .page
        .send("Network.emulateNetworkConditions", offline(false))
        .await
        .unwrap();
    driven
        .until("document.getElementById('notice').hidden")
        .await;
    // A page that is loaded while nobody answers waits, and goes on with the key that it has.
    fake.refuse(503);
    driven.evaluate("location.hash = '#/pipeline'").await;
    driven.shows("From the providers").await;
    driven.page.send("Page.reload", json!({})).await.unwrap();
    driven.shows("Waiting for Headrace").await;
    fake.refuse(200);
    driven.shows("Ingress queues").await;
    fake.refuse(401);
    driven.shows("sign in again").await;
    driven.until("document.activeElement?.id === 'key'").await;
    driven
        .close(&["429", "503", "403", "401", "ERR_INTERNET_DISCONNECTED"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streams_text_is_read_however_it_is_cut() {
    let fake = Fake::start([vehicle("bus-1", "fresh", 50.0, 52.0, 5.0)]).await;
    let driven = Driven::open(&fake.url).await;
    driven.until("document.activeElement?.id === 'key'").await;
    let script = r"(async () => {
        const script = document.querySelector('script[type=module]').src;
        const { EventStream } = await import(script.replace('app.js', 'sse.js'));
        const text = ': hello\r\nretry: 200\r\n\r\nid: 1\nevent: a\ndata: x\ndata:y\n\nid: 2\rdata:  z\r\rdata: no end';
        const read = (size) => {
            const stream = new EventStream();
            const events = [];
            for (let at = 0; at < text.length; at += size) events.push(...stream.push(text.slice(at, at + size)));
            return JSON.stringify([events, stream.retry]);
        };
        return [1, 2, 3, 5, 7, 1000].map(read);
    })()";
    let read = driven.evaluate(script).await;
    let expected = json!([[
        {"id": "1", "type": "a", "data": "x\ny"},
        {"id": "2", "type": "message", "data": " z"},
    ], 200]);
    for one in read.as_array().unwrap() {
        let one: serde_json::Value = serde_json::from_str(one.as_str().unwrap()).unwrap();
        assert_eq!(one, expected);
    }
    driven.close(&[]).await;
}

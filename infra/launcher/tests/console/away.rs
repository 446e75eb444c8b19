//! What is shown while one of the services is away, and once it is back.

use serde_json::{Value, json};

use crate::driven::Driven;
use crate::fake::{Fake, KEY, vehicle};
use crate::paths::Api;

const CHARGE: &str = "document.querySelector('.vehicles tbody td:nth-child(3)')?.textContent";
const AWAY: &str = "A part of Headrace is away";

fn bus(version: u64, charge: f64) -> Value {
    let mut bus = vehicle("bus-1", "fresh", charge, 52.0, 5.0);
    bus["version"] = json!(version);
    bus
}

#[tokio::test(flavor = "multi_thread")]
async fn all_vehicles_are_read_once_the_service_that_was_away_at_first_is_back() {
    let fake = Fake::start([bus(1, 50.0)]).await;
    fake.put_away(Api::Snapshot, 503);
    let driven = Driven::open(&fake.url).await;
    driven.sign_in(KEY).await;
    driven.shows(AWAY).await;
    // The counts come from another service, and so does the stream.
    driven.shows("1 vehicle").await;
    driven
        .until("document.getElementById('link-state').textContent === 'Live'")
        .await;
    fake.put_back(Api::Snapshot);
    // That it is all of them is only known once they have been read.
    driven.shows("1–1 of 1").await;
    driven
        .until("document.getElementById('notice').hidden")
        .await;
    driven.close(&["503"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_shown_without_freshness_and_freshness_without_values() {
    let fake = Fake::start([bus(1, 50.0)]).await;
    for status in [404, 503] {
        fake.put_away(Api::Health, status);
        fake.put(bus(1, 50.0));
        let driven = Driven::signed_in(&fake.url, KEY).await;
        driven
            .until("!document.getElementById('notice').hidden")
            .await;
        // No event tells of it.
        fake.put(bus(2, 33.0));
        driven.until(&format!("{CHARGE} === '33.0 %'")).await;
        driven.evaluate("location.hash = '#/vehicles/bus-1'").await;
        driven
            .until("document.querySelector('.signals tbody')?.textContent.includes('33.0 %')")
            .await;
        fake.put(bus(3, 44.0));
        driven
            .until("document.querySelector('.signals tbody').textContent.includes('44.0 %')")
            .await;
        driven
            .until("!document.getElementById('notice').hidden")
            .await;
        driven.close(&["404", "503"]).await;
        fake.put_back(Api::Health);
    }

    fake.put_away(Api::Snapshot, 503);
    let driven = Driven::open(&fake.url).await;
    driven.sign_in(KEY).await;
    driven.shows(AWAY).await;
    driven.evaluate("location.hash = '#/vehicles/bus-1'").await;
    driven.shows("Heard through").await;
    driven.close(&["503"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_of_the_pipeline_go_with_what_they_are_the_sums_of() {
    let fake = Fake::start([bus(1, 50.0)]).await;
    let driven = Driven::signed_in(&fake.url, KEY).await;
    driven.evaluate("location.hash = '#/pipeline'").await;
    driven.shows("ingress.3").await;
    let tiles = "document.querySelectorAll('.pipeline .tile').length";
    driven.until(&format!("{tiles} > 0")).await;
    fake.put_away(Api::Core, 503);
    driven.shows(AWAY).await;
    driven.until(&format!("{tiles} === 0")).await;
    fake.put_back(Api::Core);
    driven.until(&format!("{tiles} > 0")).await;
    driven.close(&["503"]).await;
}

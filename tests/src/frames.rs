//! ViriCiti frames for tests, and random ones in which every value tells where it came from.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

/// A frame of the v2 protocol: one label of one vehicle at one time (Unix milliseconds).
#[must_use]
pub fn frame(vehicle: &str, label: &str, value: Value, time: i64) -> String {
    json!({"type": "vehicles", "payload":
        {"vid": vehicle, "label": label, "value": value, "time": time}})
    .to_string()
}

/// Names of `count` vehicles.
#[must_use]
pub fn vehicles(count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("bus-{n}")).collect()
}

/// Settings of a connection that subscribes all labels of `vehicles`.
#[must_use]
pub fn subscription(vehicles: &[String]) -> Value {
    let labels = json!(["soc", "odo", "speed", "gps", "power"]);
    let of: serde_json::Map<_, _> = vehicles
        .iter()
        .map(|vehicle| (vehicle.clone(), labels.clone()))
        .collect();
    json!({"vehicles": of})
}

/// `count` frames of `vehicles`, spread over them and their labels, in the ten minutes before
/// `now` (Unix milliseconds). Each carries a value that no other frame of its vehicle and label has.
#[must_use]
pub fn drives(seed: u64, vehicles: &[String], count: usize, now: i64) -> Vec<String> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut frames: Vec<_> = (0..count)
        .map(|n| {
            let vehicle = &vehicles[n % vehicles.len()];
            let step = n / vehicles.len();
            #[expect(clippy::cast_precision_loss, reason = "steps are few")]
            let unique = step as f64 * 0.001;
            let (label, value) = match step % 5 {
                0 => ("soc", json!(40.0 + unique)),
                1 => ("odo", json!(88_000.0 + unique)),
                2 => ("speed", json!(unique)),
                3 => ("power", json!(-50.0 + unique)),
                _ => ("gps", json!(format!("{}|{}", 52.0 + unique, 5.0 - unique))),
            };
            frame(vehicle, label, value, now - random.random_range(0..600_000))
        })
        .collect();
    frames.shuffle(&mut random);
    frames
}

/// `items` in another order, the same for the same seed.
#[must_use]
pub fn shuffled<T: Clone>(seed: u64, items: &[T]) -> Vec<T> {
    let mut items = items.to_vec();
    items.shuffle(&mut StdRng::seed_from_u64(seed));
    items
}

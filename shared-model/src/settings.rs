//! A connection's settings: those that many connections have stand beside the provider's own.

use serde_json::{Map, Value};

/// Takes the members called `keys` out of `settings`; the rest comes second, as it stood. What is no
/// object has no such members.
#[must_use]
pub fn take(settings: &Value, keys: &[&str]) -> (Value, Value) {
    let Value::Object(settings) = settings else {
        return (Value::Object(Map::new()), settings.clone());
    };
    let (own, rest): (Map<_, _>, Map<_, _>) = settings
        .clone()
        .into_iter()
        .partition(|(key, _)| keys.contains(&key.as_str()));
    (Value::Object(own), Value::Object(rest))
}

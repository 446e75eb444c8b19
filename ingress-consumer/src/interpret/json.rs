//! What the interpreters of JSON share: values that may be absent, blank or of the wrong type.

use chrono::{DateTime, TimeZone, Utc};
use serde_json::{Map, Value};
use shared_model::{Signal, SignalValue};

use super::{Item, Observed, Reason, SourceUnit, Unreadable};

/// What is before this was said by a clock that was never set. 2000-01-01.
const EARLIEST_SECONDS: i64 = 946_684_800;

/// `frame` as JSON.
pub fn parse(frame: &[u8]) -> Result<Value, Unreadable> {
    serde_json::from_slice(frame)
        .map_err(|error| Unreadable::new(Reason::InvalidSyntax, format!("not JSON: {error}")))
}

/// A number, `None` for one that is absent, null or blank; the error says what stands there instead.
/// Numbers in text are numbers.
pub fn number(value: Option<&Value>) -> Result<Option<f64>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => Ok(number.as_f64()),
        Some(Value::String(text)) => number_in_text(text),
        other => Err(format!("expected a number, found {}", show(other))),
    }
}

/// The number that `text` holds, `None` if it is blank.
pub fn number_in_text(text: &str) -> Result<Option<f64>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| format!("expected a number, found {text:?}"))
}

/// An RFC 3339 time.
pub fn rfc3339(name: &str, value: Option<&Value>) -> Result<DateTime<Utc>, Unreadable> {
    let at = value
        .and_then(Value::as_str)
        .and_then(|text| DateTime::parse_from_rfc3339(text).ok())
        .map(|at| at.to_utc());
    plausible_time(at).ok_or_else(|| {
        let detail = format!("{name} is {}, not an RFC 3339 time", show(value));
        Unreadable::new(Reason::InvalidTime, detail)
    })
}

/// `at`, unless it is so early that the clock was never set.
pub fn plausible_time(at: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    at.filter(|at| *at >= Utc.timestamp_nanos(EARLIEST_SECONDS * 1_000_000_000))
}

/// What `number` of a `signal` in `unit` means, if the sender has one.
pub fn quantity(
    device: &str,
    signal: Signal,
    unit: SourceUnit,
    number: Option<f64>,
    observed_at: DateTime<Utc>,
) -> Item {
    let value = number.and_then(|number| SignalValue::number(unit.to_canonical(number)));
    item(device, signal, value, observed_at)
}

/// What a point on the earth means, if the sender has one.
pub fn position(
    device: &str,
    latitude: Option<f64>,
    longitude: Option<f64>,
    observed_at: DateTime<Utc>,
) -> Item {
    let value = latitude
        .zip(longitude)
        .and_then(|(latitude, longitude)| SignalValue::position(latitude, longitude));
    item(device, Signal::Position, value, observed_at)
}

/// What `value` means: an implausible one is none.
pub fn item(
    device: &str,
    signal: Signal,
    value: Option<SignalValue>,
    observed_at: DateTime<Utc>,
) -> Item {
    let device = device.to_owned();
    match value.filter(|value| signal.is_plausible(*value)) {
        Some(value) => Item::Observed(Observed {
            device,
            signal,
            value,
            observed_at,
        }),
        None => Item::NoValue { device, signal },
    }
}

/// What a record says of one device, statement by statement.
pub struct Statements<'a> {
    device: &'a str,
    items: &'a mut Vec<Item>,
}

impl<'a> Statements<'a> {
    /// Statements about `device`, added to `items`.
    pub fn of(device: &'a str, items: &'a mut Vec<Item>) -> Self {
        Self { device, items }
    }

    /// Adds one.
    pub fn push(&mut self, item: Item) {
        self.items.push(item);
    }

    /// The `signal` that `object` holds under `key`, each of its units worth `1 / parts` of `unit`. A
    /// key that is not there says nothing; one that is there without a number says that there is none.
    pub fn quantity(
        &mut self,
        signal: Signal,
        unit: (SourceUnit, f64),
        (object, key): (&Map<String, Value>, &str),
        observed_at: DateTime<Utc>,
    ) -> Result<(), Unreadable> {
        let Some(value) = object.get(key) else {
            return Ok(());
        };
        let (unit, parts) = unit;
        let number = number_at(key, Some(value))?.map(|number| number / parts);
        self.push(quantity(self.device, signal, unit, number, observed_at));
        Ok(())
    }

    /// The position that `object` holds in `latitude` and `longitude`.
    pub fn position(
        &mut self,
        object: &Map<String, Value>,
        observed_at: DateTime<Utc>,
    ) -> Result<(), Unreadable> {
        let latitude = number_at("latitude", object.get("latitude"))?;
        let longitude = number_at("longitude", object.get("longitude"))?;
        self.push(position(self.device, latitude, longitude, observed_at));
        Ok(())
    }

    /// That there is no `signal`.
    pub fn none(&mut self, signal: Signal) {
        self.push(Item::NoValue {
            device: self.device.to_owned(),
            signal,
        });
    }
}

/// The number that `value` is; the error names `key`.
pub fn number_at(key: &str, value: Option<&Value>) -> Result<Option<f64>, Unreadable> {
    number(value)
        .map_err(|detail| Unreadable::new(Reason::InvalidValue, format!("{key}: {detail}")))
}

/// What `object` holds under `key`, unless that is null or blank.
pub fn present<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let is_blank = |value: &Value| value.as_str().is_some_and(|text| text.trim().is_empty());
    let value = object.get(key)?;
    (!value.is_null() && !is_blank(value)).then_some(value)
}

/// The time under the first of `keys` that has one.
pub fn first_time(object: &Map<String, Value>, keys: &[&str]) -> Result<DateTime<Utc>, Unreadable> {
    let found = keys
        .iter()
        .find_map(|key| present(object, key).map(|value| (*key, value)));
    match found {
        Some((key, value)) => rfc3339(key, Some(value)),
        None => rfc3339(keys.first().copied().unwrap_or_default(), None),
    }
}

/// The id of a device, which is text or a whole number.
pub fn device(key: &str, value: Option<&Value>) -> Result<String, Unreadable> {
    match value {
        Some(Value::String(device)) => Ok(device.clone()),
        Some(Value::Number(device)) if device.is_u64() => Ok(device.to_string()),
        other => Err(Unreadable::new(
            Reason::InvalidVehicle,
            format!("{key} is {}", show(other)),
        )),
    }
}

/// `value` as an object; the error names what it should have been.
pub fn object<'a>(name: &str, value: &'a Value) -> Result<&'a Map<String, Value>, Unreadable> {
    value.as_object().ok_or_else(|| {
        let detail = format!("{name} is {}, not an object", show(Some(value)));
        Unreadable::new(Reason::UnknownShape, detail)
    })
}

/// A value for an error message, cut short.
pub fn show(value: Option<&Value>) -> String {
    value.map_or_else(
        || "nothing".to_owned(),
        |value| value.to_string().chars().take(80).collect(),
    )
}

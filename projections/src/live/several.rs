//! The vehicles of an event of several, found once and then told apart without reading JSON again. Pure.

use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::event::LogEvent;

/// Where in an event's line each of its vehicles is.
#[derive(Debug)]
pub(super) struct Several {
    /// The event's data.
    data: Range<usize>,
    /// Each vehicle, and what is said of it.
    vehicles: Vec<(String, Range<usize>)>,
}

#[derive(Deserialize)]
struct WithData<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct Seen<'a> {
    #[serde(borrow)]
    vehicles: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Named {
    vehicle: String,
}

impl Several {
    /// The vehicles of `event`; none if it is not of several, or does not read as such.
    pub(super) fn of(event: &LogEvent) -> Option<Self> {
        if !event.is_of_several() {
            return None;
        }
        let line = &event.line;
        let WithData { data } = serde_json::from_slice(line).ok()?;
        let seen: Seen<'_> = serde_json::from_str(data.get()).ok()?;
        let vehicles = seen.vehicles.into_iter().map(|text| {
            let named: Named = serde_json::from_str(text.get()).ok()?;
            Some((named.vehicle, place(line, text)?))
        });
        Some(Self {
            data: place(line, data)?,
            vehicles: vehicles.collect::<Option<_>>()?,
        })
    }

    /// The vehicles, in order.
    pub(super) fn vehicles(&self) -> impl Iterator<Item = &str> {
        self.vehicles.iter().map(|(vehicle, _)| vehicle.as_str())
    }

    /// The event, whose line is `line`, with only what it tells of the vehicles at `kept` of
    /// [`vehicles`](Self::vehicles); none if that is nothing.
    pub(super) fn narrowed(&self, line: &[u8], kept: &[usize]) -> Option<Bytes> {
        let texts = kept.iter().map(|at| {
            let (_, place) = self.vehicles.get(*at)?;
            line.get(place.clone())
        });
        let texts: Vec<_> = texts.collect::<Option<_>>()?;
        if texts.is_empty() {
            return None;
        }
        let (before, behind) = (line.get(..self.data.start)?, line.get(self.data.end..)?);
        let texts = texts.join(&b","[..]);
        Some(
            [before, b"{\"vehicles\":[", &texts, b"]}", behind]
                .concat()
                .into(),
        )
    }
}

/// Where `part`, which was read out of `line`, is in it.
fn place(line: &[u8], part: &RawValue) -> Option<Range<usize>> {
    let part = part.get();
    let start = part.as_ptr().addr().checked_sub(line.as_ptr().addr())?;
    let end = start + part.len();
    (end <= line.len()).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::live::event::tests::line;

    #[test]
    fn an_event_of_several_vehicles_is_narrowed_to_some() {
        let said =
            |vehicle: &str| json!({"vehicle": vehicle, "version": 1.0, "signals": {"x\u{e9}": 2}});
        let data = json!({"vehicles": [said("a"), said("b"), said("c")]});
        let event = LogEvent::read(line(41, "demo", "vehicles.seen", data)).unwrap();
        let several = Several::of(&event).unwrap();
        assert_eq!(several.vehicles().collect::<Vec<_>>(), ["a", "b", "c"]);
        for (kept, left) in [(&[0, 2][..], &["a", "c"][..]), (&[1], &["b"])] {
            let narrowed = several.narrowed(&event.line, kept).unwrap();
            let mut expected: Value = serde_json::from_slice(&event.line).unwrap();
            let left: Vec<_> = left.iter().map(|vehicle| said(vehicle)).collect();
            expected["data"] = json!({"vehicles": left});
            assert_eq!(
                serde_json::from_slice::<Value>(&narrowed).unwrap(),
                expected
            );
        }
        assert!(several.narrowed(&event.line, &[]).is_none());
        assert!(several.narrowed(&event.line, &[3]).is_none());
    }

    #[test]
    fn what_is_not_of_several_vehicles_is_not_taken_apart() {
        for (kind, data) in [
            (
                "vehicle.registered",
                json!({"vehicles": [{"vehicle": "a"}]}),
            ),
            ("vehicles.seen", json!({"vehicle": "a"})),
            ("vehicles.seen", json!({"vehicles": ["a"]})),
        ] {
            let event = LogEvent::read(line(1, "demo", kind, data)).unwrap();
            assert!(Several::of(&event).is_none());
        }
    }
}

//! What the tests of interpreters and feeds share.

use chrono::{DateTime, Utc};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::{Map, Value};
use shared_model::{Signal, SignalValue};

use super::feed::{Access, Feed, Response};
use super::{Interpret, Interpretation, Item, Observed, Reason};

/// A time.
pub fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// The answer 200 with `body`.
pub fn answer(body: &str) -> Response {
    Response {
        status: 200,
        headers: Vec::new(),
        body: body.to_owned().into(),
        received_at: at("2026-07-01T12:00:00Z"),
    }
}

/// What `frame` reports.
#[track_caller]
pub fn items(interpreter: &dyn Interpret, frame: &str) -> Vec<Item> {
    match interpreter.interpret(frame.as_bytes()).unwrap() {
        Interpretation::Report(items) => items,
        other @ Interpretation::Control(_) => panic!("{other:?}"),
    }
}

/// Why `frame` cannot be read.
#[track_caller]
pub fn reason(interpreter: &dyn Interpret, frame: &str) -> Reason {
    interpreter.interpret(frame.as_bytes()).unwrap_err().reason
}

/// The first observation of `signal`.
#[track_caller]
pub fn observed(items: &[Item], signal: Signal) -> &Observed {
    let found = items.iter().find_map(|item| match item {
        Item::Observed(observed) if observed.signal == signal => Some(observed),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no {signal} in {items:?}"))
}

/// All numbers of `signal`, in order.
pub fn numbers(items: &[Item], signal: Signal) -> Vec<f64> {
    let numbers = items.iter().filter_map(|item| match item {
        Item::Observed(Observed {
            signal: found,
            value: SignalValue::Number(number),
            ..
        }) if *found == signal => Some(*number),
        _ => None,
    });
    numbers.collect()
}

/// Bytes: any at all, and `sample` with some of its own replaced.
pub fn bytes(sample: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let sample = sample.as_bytes().to_vec();
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
    let edited = edits.prop_map(move |edits| {
        let mut edited = sample.clone();
        for (index, byte) in edits {
            let index = index.index(edited.len());
            edited[index] = byte;
        }
        edited
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..300), edited]
}

/// JSON: any at all, and `sample` with parts of it replaced by any.
pub fn json_like(sample: &str) -> impl Strategy<Value = Value> + use<> {
    let sample: Value = serde_json::from_str(sample).unwrap();
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any_json()), 1..4);
    let edited = edits.prop_map(move |edits| {
        let mut edited = sample.clone();
        for (index, value) in edits {
            let mut left = index.index(nodes(&edited));
            replace(&mut edited, &mut left, &value);
        }
        edited
    });
    prop_oneof![any_json(), edited]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![
            "",
            " ",
            "NaN",
            "-1e999",
            "0001-01-01T00:00:00Z",
            "+262142-12-31T23:59:59Z"
        ])
        .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..4)
                .prop_map(|members| Value::Object(Map::from_iter(members))),
        ]
    })
}

fn children(value: &mut Value) -> Vec<&mut Value> {
    match value {
        Value::Array(values) => values.iter_mut().collect(),
        Value::Object(members) => members.values_mut().collect(),
        _ => Vec::new(),
    }
}

fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(values) => values.iter().map(nodes).sum(),
        Value::Object(members) => members.values().map(nodes).sum(),
        _ => 0,
    }
}

/// Replaces the node that comes after `left` others.
fn replace(at: &mut Value, left: &mut usize, value: &Value) -> bool {
    if *left == 0 {
        *at = value.clone();
        return true;
    }
    *left -= 1;
    children(at)
        .into_iter()
        .any(|child| replace(child, left, value))
}

/// That `frame` makes no interpreter panic, and that what it refuses says why.
pub fn reads_or_refuses(interpreter: &dyn Interpret, frame: &[u8]) -> Result<(), TestCaseError> {
    match interpreter.interpret(frame) {
        Err(unreadable) => prop_assert!(!unreadable.detail.is_empty()),
        Ok(Interpretation::Control(_)) => {}
        Ok(Interpretation::Report(items)) => {
            for item in items {
                if let Item::Observed(observed) = item {
                    prop_assert!(observed.signal.is_plausible(observed.value));
                }
            }
        }
    }
    Ok(())
}

/// That no answer makes a feed panic, that a page's cursor can be asked from, and that a page that says
/// "more" goes on.
pub fn pages_or_fails(
    feed: &dyn Feed,
    name: &str,
    cursor: &Value,
    body: &[u8],
) -> Result<(), TestCaseError> {
    let access = Access {
        credential: Some("database/user:password"),
        session: None,
    };
    let now = at("2026-07-01T12:00:00Z");
    let response = Response {
        body: body.to_vec().into(),
        ..answer("")
    };
    for cursor in [None, Some(cursor)] {
        let asked = feed.request(name, cursor, &access, now);
        match feed.read(name, cursor, &response) {
            Err(failure) => prop_assert!(!failure.to_string().is_empty()),
            Ok(page) => {
                let next = feed.request(name, page.cursor.as_ref().or(cursor), &access, now);
                prop_assert!(!page.more || next != asked, "the same is asked for at once");
            }
        }
    }
    Ok(())
}

//! ViriCiti's REST API: the latest values, and the history of one label of one vehicle.
//!
//! What is found is put into the form that the socket has, values and times as they were sent, so
//! that it is interpreted by the same rules.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::dialect::{Bodies, Question, Series, UnreadableAnswer};

/// A value with its time; either may be missing.
#[derive(Deserialize)]
struct Sample<'a> {
    #[serde(borrow)]
    time: Option<&'a RawValue>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
}

/// What is subscribed to.
pub(crate) fn series(settings: &Value) -> Vec<Series> {
    let vehicles = settings.get("vehicles").and_then(Value::as_object);
    let vehicles = vehicles.into_iter().flatten();
    vehicles
        .flat_map(|(vid, labels)| {
            let labels = labels.as_array().into_iter().flatten();
            labels.filter_map(Value::as_str).map(|label| Series {
                device: vid.clone(),
                label: label.to_owned(),
            })
        })
        .collect()
}

/// `POST /api/v2/state`
pub(crate) fn latest(base: &Url, series: &[Series]) -> Question {
    let mut labels = BTreeMap::<_, Vec<_>>::new();
    for Series { device, label } in series {
        labels.entry(device).or_default().push(label);
    }
    Question {
        url: path(base, &["api", "v2", "state"]),
        body: Some(json!(labels).to_string()),
    }
}

pub(crate) fn read_latest(answer: &[u8]) -> Result<Bodies<'_>, UnreadableAnswer> {
    type Labels<'a> = BTreeMap<Cow<'a, str>, Option<Sample<'a>>>;
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct State<'a>(#[serde(borrow)] BTreeMap<Cow<'a, str>, Option<Labels<'a>>>);

    let state: State<'_> = serde_json::from_slice(answer)?;
    let frames = state.0.into_iter().flat_map(|(vid, labels)| {
        let labels = labels.into_iter().flatten();
        labels.filter_map(move |(label, sample)| frame(&vid, &label, &sample?))
    });
    Ok(Box::new(frames))
}

/// `GET /api/v1/time/<vid>`, every value: the step is 1 unless one is given.
pub(crate) fn history(base: &Url, series: &Series, from: i64, to: i64) -> Question {
    let mut url = path(base, &["api", "v1", "time", &series.device]);
    url.query_pairs_mut()
        .append_pair("label", &series.label)
        .append_pair("start", &from.to_string())
        .append_pair("end", &to.to_string());
    Question { url, body: None }
}

pub(crate) fn read_history<'a>(
    series: &'a Series,
    answer: &'a [u8],
) -> Result<Bodies<'a>, UnreadableAnswer> {
    let samples: Vec<Sample<'_>> = serde_json::from_slice(answer)?;
    let frames = samples
        .into_iter()
        .filter_map(|sample| frame(&series.device, &series.label, &sample));
    Ok(Box::new(frames))
}

fn path(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    // A URL with a host, which http:// and https:// ones always have, can have a path.
    if let Ok(mut path) = url.path_segments_mut() {
        path.clear().extend(segments);
    }
    url
}

/// A datum as the socket would bring it; none where there is no value.
fn frame(vid: &str, label: &str, sample: &Sample<'_>) -> Option<Bytes> {
    #[derive(Serialize)]
    struct Frame<'a> {
        r#type: &'static str,
        payload: Payload<'a>,
    }
    #[derive(Serialize)]
    struct Payload<'a> {
        vid: &'a str,
        label: &'a str,
        value: &'a RawValue,
        time: &'a RawValue,
    }
    let frame = Frame {
        r#type: "vehicles",
        payload: Payload {
            vid,
            label,
            value: sample.value?,
            time: sample.time?,
        },
    };
    // Text and JSON that was read before: nothing here that JSON cannot hold.
    serde_json::to_vec(&frame).ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(device: &str, label: &str) -> Series {
        Series {
            device: device.to_owned(),
            label: label.to_owned(),
        }
    }

    fn base() -> Url {
        Url::parse("https://sdk.viriciti.com/").unwrap()
    }

    fn texts(frames: Bodies<'_>) -> Vec<String> {
        frames
            .map(|frame| String::from_utf8(frame.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn what_is_subscribed_to_is_asked_for() {
        let settings = json!({"vehicles": {"bus-1": ["soc", "odo"], "Süd 1/2": ["gps"]}});
        let all = series(&settings);
        assert_eq!(
            all,
            [of("Süd 1/2", "gps"), of("bus-1", "soc"), of("bus-1", "odo")]
        );
        let question = latest(&base(), &all);
        assert_eq!(
            question.url.as_str(),
            "https://sdk.viriciti.com/api/v2/state"
        );
        assert_eq!(
            question.body.as_deref(),
            Some(r#"{"Süd 1/2":["gps"],"bus-1":["soc","odo"]}"#)
        );
        let question = history(&base(), &all[0], 1000, 2000);
        assert_eq!(
            question.url.as_str(),
            "https://sdk.viriciti.com/api/v1/time/S%C3%BCd%201%2F2?label=gps&start=1000&end=2000"
        );
        assert_eq!(question.body, None);
    }

    #[test]
    fn the_latest_values_become_frames_and_no_value_becomes_none() {
        let answer = br#"{"bus-1":{"soc":{"time":1511436694000,"value":72.80},"odo":null,
            "gps":{"time":1,"value":"52.1|5.1"},"power":{"time":1,"value":null},"x":{"value":1}},
            "bus-2":null}"#;
        assert_eq!(
            texts(read_latest(answer).unwrap()),
            [
                r#"{"type":"vehicles","payload":{"vid":"bus-1","label":"gps","value":"52.1|5.1","time":1}}"#,
                r#"{"type":"vehicles","payload":{"vid":"bus-1","label":"soc","value":72.80,"time":1511436694000}}"#,
            ]
        );
        assert!(read_latest(b"[]").is_err());
        assert!(read_latest(b"<html>").is_err());
    }

    #[test]
    fn a_history_becomes_frames_as_it_was_sent() {
        let series = of("bus-1", "odo");
        let answer = br#"[{"time":1564617600000,"value":76.9},{"time":1564617700000,"value":77},{"time":1564617800000,"value":null}]"#;
        assert_eq!(
            texts(read_history(&series, answer).unwrap()),
            [
                r#"{"type":"vehicles","payload":{"vid":"bus-1","label":"odo","value":76.9,"time":1564617600000}}"#,
                r#"{"type":"vehicles","payload":{"vid":"bus-1","label":"odo","value":77,"time":1564617700000}}"#,
            ]
        );
        let error = read_history(&series, br#"{"error":"secret"}"#)
            .err()
            .unwrap();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

//! ViriCiti's live API.
//!
//! The key goes into a header: as a parameter of the URL it would show in logs. One text frame asks
//! for labels by vehicle, and is echoed. A datum is `{"type":"vehicles","payload":{"vid":…}}`, in
//! version 1 `{"vid":…}`.

pub(super) mod rest;

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, json};

use super::SettingsError;

pub(super) const CREDENTIAL_HEADER: &str = "x-api-key";

pub(super) fn subscription(settings: &Value) -> Result<String, SettingsError> {
    match settings.get("vehicles") {
        Some(vehicles @ Value::Object(labels)) if !labels.is_empty() => {
            Ok(json!({ "vehicles": vehicles }).to_string())
        }
        _ => Err(SettingsError {
            rule: "`vehicles` names no vehicle; write {\"vehicles\": {\"<vid>\": [\"soc\", …]}}",
        }),
    }
}

pub(super) fn device(body: &[u8]) -> Option<Cow<'_, str>> {
    let message: Message<'_> = serde_json::from_slice(body).ok()?;
    let vid = message.vid.or_else(|| message.payload?.vid)?;
    Some(vid.0)
}

pub(super) fn label(body: &[u8]) -> Option<Cow<'_, str>> {
    let message: Message<'_> = serde_json::from_slice(body).ok()?;
    let label = message.label.or_else(|| message.payload?.label)?;
    Some(label.0)
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    vid: Option<Text<'a>>,
    #[serde(borrow)]
    label: Option<Text<'a>>,
    #[serde(borrow)]
    payload: Option<Payload<'a>>,
}

#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow)]
    vid: Option<Text<'a>>,
    #[serde(borrow)]
    label: Option<Text<'a>>,
}

/// Inside of an option, a bare `Cow` would be read as owned.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subscription_holds_the_vehicles_and_nothing_else() {
        let settings = json!({"vehicles": {"bus-1": ["soc", "odo"]}, "labels": {"soc": "%"}});
        assert_eq!(
            subscription(&settings).unwrap(),
            r#"{"vehicles":{"bus-1":["soc","odo"]}}"#
        );
    }

    #[test]
    fn settings_without_vehicles_are_refused() {
        for settings in [
            json!({}),
            json!(null),
            json!({"vehicles": ["bus-1"]}),
            json!({"vehicles": {}}),
        ] {
            assert!(subscription(&settings).is_err(), "{settings}");
        }
    }

    #[test]
    fn a_datum_shows_its_vehicle() {
        for (frame, vid) in [
            (
                r#"{"type":"vehicles","payload":{"vid":"bus-1","label":"soc","value":72.8,"time":1}}"#,
                Some("bus-1"),
            ),
            (
                r#"{"time":1,"value":"52.5|13.4","label":"gps","vid":"gillig_1430"}"#,
                Some("gillig_1430"),
            ),
            (r#"{"payload":{"vid":"S\u00fcd \"1\""}}"#, Some("Süd \"1\"")),
            (r#"{"vid":null,"payload":{"vid":"bus-2"}}"#, Some("bus-2")),
            (r#"{"vehicles":{"bus-1":["soc"]}}"#, None),
            (r#"{"type":"error","payload":"no such vehicle"}"#, None),
            (r#"{"type":"vehicles","payload":{"vid":17}}"#, None),
            (r#"{"ready":true}"#, None),
            ("show acl", None),
            ("", None),
        ] {
            assert_eq!(device(frame.as_bytes()).as_deref(), vid, "{frame}");
        }
        assert_eq!(device(&[0xff, 0x00]), None);
    }

    #[test]
    fn a_datum_shows_its_label() {
        for (frame, expected) in [
            (
                r#"{"type":"vehicles","payload":{"vid":"bus-1","label":"soc"}}"#,
                Some("soc"),
            ),
            (r#"{"time":1,"label":"gps","vid":"bus-1"}"#, Some("gps")),
            (r#"{"vehicles":{"bus-1":["soc"]}}"#, None),
            (r#"{"payload":{"vid":"bus-1","label":7}}"#, None),
            ("show acl", None),
        ] {
            assert_eq!(label(frame.as_bytes()).as_deref(), expected, "{frame}");
        }
    }

    #[test]
    fn a_plain_name_is_not_copied() {
        let frame = br#"{"payload":{"vid":"bus-1"}}"#;
        assert!(matches!(device(frame), Some(Cow::Borrowed("bus-1"))));
    }
}

//! What a query or a body may name, checked where it is read: what the description says of a value is
//! what is taken.

use chrono::{DateTime, Datelike, Utc};
use serde::{Deserialize, Deserializer};
use shared_model::{Provider, WorkspaceId};

/// The longest reason that is looked for.
const LONGEST_WORD: usize = 64;

/// A row's id, as the database counts.
#[derive(Deserialize)]
#[serde(try_from = "i64")]
pub struct RowId(i64);

/// A reason's name.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub struct Word(String);

/// A time of RFC 3339, whose years have four digits; the database does not know all that are further off.
#[derive(Deserialize)]
#[serde(try_from = "DateTime<Utc>")]
pub struct Moment(DateTime<Utc>);

/// The value of an optional member, checked as a `C`.
pub fn optional<'de, C, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    C: Deserialize<'de> + Into<T>,
    D: Deserializer<'de>,
{
    Ok(Option::<C>::deserialize(deserializer)?.map(Into::into))
}

/// The optional ids of rows.
pub fn row_ids<'de, D>(deserializer: D) -> Result<Option<Vec<i64>>, D::Error>
where
    D: Deserializer<'de>,
{
    let ids = Option::<Vec<RowId>>::deserialize(deserializer)?;
    Ok(ids.map(|ids| ids.into_iter().map(Into::into).collect()))
}

/// An optional row's id.
pub fn row_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    optional::<RowId, _, _>(deserializer)
}

/// An optional reason's name.
pub fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    optional::<Word, _, _>(deserializer)
}

/// An optional time.
pub fn moment<'de, D>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error>
where
    D: Deserializer<'de>,
{
    optional::<Moment, _, _>(deserializer)
}

/// An optional workspace.
pub fn workspace<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    optional::<WorkspaceId, _, _>(deserializer)
}

/// An optional provider.
pub fn provider<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    optional::<Provider, _, _>(deserializer)
}

impl TryFrom<i64> for RowId {
    type Error = &'static str;

    fn try_from(id: i64) -> Result<Self, Self::Error> {
        if id < 0 {
            return Err("an id is 0 or more");
        }
        Ok(Self(id))
    }
}

impl From<RowId> for i64 {
    fn from(id: RowId) -> Self {
        id.0
    }
}

impl TryFrom<DateTime<Utc>> for Moment {
    type Error = &'static str;

    fn try_from(at: DateTime<Utc>) -> Result<Self, Self::Error> {
        // An offset may move a time out of its year.
        if (-1..=10_000).contains(&at.year()) {
            return Ok(Self(at));
        }
        Err("a time is between the years 0000 and 9999")
    }
}

impl From<Moment> for DateTime<Utc> {
    fn from(moment: Moment) -> Self {
        moment.0
    }
}

impl TryFrom<String> for Word {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_word = text.len() <= LONGEST_WORD
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if is_word {
            return Ok(Self(text));
        }
        Err("a reason is up to 64 of a-z, 0-9 and '_'")
    }
}

impl From<Word> for String {
    fn from(word: Word) -> Self {
        word.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    struct Asked {
        #[serde(default, deserialize_with = "row_id")]
        id: Option<i64>,
        #[serde(default, deserialize_with = "row_ids")]
        ids: Option<Vec<i64>>,
        #[serde(default, deserialize_with = "word")]
        reason: Option<String>,
        #[serde(default, deserialize_with = "moment")]
        from: Option<DateTime<Utc>>,
        #[serde(default, deserialize_with = "workspace")]
        workspace: Option<String>,
        #[serde(default, deserialize_with = "provider")]
        provider: Option<String>,
    }

    fn read(asked: Value) -> Result<Asked, String> {
        serde_json::from_value(asked).map_err(|error| error.to_string())
    }

    #[test]
    fn what_can_be_stored_is_taken() {
        let read = read(
            json!({"id": 7, "ids": [0, i64::MAX], "reason": "delivery_limit",
            "from": "9999-12-31T23:59:59-01:00", "workspace": "w", "provider": null}),
        )
        .unwrap();
        assert_eq!(read.id, Some(7));
        assert_eq!(read.ids, Some(vec![0, i64::MAX]));
        assert!(read.from.is_some());
        assert_eq!(read.reason.as_deref(), Some("delivery_limit"));
        assert_eq!(
            (read.workspace.as_deref(), read.provider),
            (Some("w"), None)
        );
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_rule() {
        for (asked, rule) in [
            (json!({"id": -1}), "0 or more"),
            (json!({"ids": [1, -1]}), "0 or more"),
            (json!({"id": u64::MAX}), "i64"),
            (json!({"reason": "a\u{0}"}), "a-z"),
            (json!({"reason": "a".repeat(65)}), "64"),
            (json!({"from": "+200000-01-01T00:00:00Z"}), "9999"),
            (json!({"from": "-9000-01-01T00:00:00Z"}), "0000"),
            (json!({"workspace": "W"}), "a-z"),
            (json!({"provider": ""}), "a-z"),
        ] {
            let error = read(asked.clone()).unwrap_err();
            assert!(error.contains(rule), "{asked}: {error}");
        }
    }
}

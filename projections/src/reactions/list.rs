//! Lists in settings: one text with commas, as in the environment, or an array, as in a file.

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serializer, de};

pub(super) fn serialize<S: Serializer, T: Display>(
    list: &[T],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let written: Vec<_> = list.iter().map(ToString::to_string).collect();
    serializer.serialize_str(&written.join(", "))
}

pub(super) fn deserialize<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Items(Vec<String>),
    }
    let items = match Written::deserialize(deserializer)? {
        Written::Text(text) => text.split(',').map(str::to_owned).collect(),
        Written::Items(items) => items,
    };
    let items = items.iter().map(|item| item.trim());
    items
        .filter(|item| !item.is_empty())
        .map(|item| {
            item.parse().map_err(|error| {
                de::Error::custom(format!(
                    "{item:?} is not usable ({error}); separate items by commas"
                ))
            })
        })
        .collect()
}

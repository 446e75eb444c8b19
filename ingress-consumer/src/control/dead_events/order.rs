//! Which dead events to redrive.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use runtime::http::Problem;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type,
};
use utoipa::{PartialSchema, ToSchema};

use crate::store::blocked_event::Place;

/// How many events one request redrives at most.
pub const MOST: i64 = 1000;

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.shard, self.offset)
    }
}

impl FromStr for Place {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let parse = || {
            let (shard, offset) = text.split_once(':')?;
            let is_number = |text: &str, longest| {
                (1..=longest).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
            };
            // As the description says, and less than the database can count to.
            if !is_number(shard, 9) || !is_number(offset, 18) {
                return None;
            }
            Some(Self {
                shard: shard.parse().ok()?,
                offset: offset.parse().ok()?,
            })
        };
        parse().ok_or_else(|| {
            let detail =
                format!("{text:?} is no event; write its id, shard:offset, such as 2:1041");
            Problem::bad_request("invalid-event-id", detail)
        })
    }
}

/// Which dead events to redrive: those with these ids, or all of the workspace's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedriveOrder {
    /// Their ids, `shard:offset`.
    #[serde(default)]
    pub ids: Vec<String>,
    /// All of them, up to 1000 at once.
    #[serde(default)]
    pub all: bool,
    /// Only say how many.
    #[serde(default)]
    pub dry_run: bool,
}

// Either `ids` or `all`, which a derived schema cannot say.
impl PartialSchema for RedriveOrder {
    fn schema() -> RefOr<Schema> {
        let id = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^[0-9]{1,9}:[0-9]{1,18}$"))
            .build();
        let ids = ArrayBuilder::new()
            .description(Some("The events' ids, `shard:offset`."))
            .items(id.clone())
            .min_items(Some(1))
            .max_items(Some(1000))
            .examples([json!(["2:1041"])]);
        let none = ArrayBuilder::new()
            .description(Some("None: all are meant."))
            .items(id)
            .max_items(Some(0));
        OneOfBuilder::new()
            .description(Some(
                "Those with these ids, or all of the workspace's, up to 1000 at once.",
            ))
            .item(Self::with(false).property("ids", ids).required("ids"))
            .item(Self::with(true).property("ids", none).required("all"))
            .into()
    }
}

impl ToSchema for RedriveOrder {
    fn name() -> Cow<'static, str> {
        "RedriveOrder".into()
    }
}

/// What became of the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RedriveOutcome {
    /// Whether this only says what would be.
    pub dry_run: bool,
    /// How many events are, or would be, handed to the relay.
    pub events: u64,
    /// Whether there may be more: order the same again.
    pub more: bool,
}

impl RedriveOrder {
    /// The members that go with `ids`.
    fn with(all: bool) -> ObjectBuilder {
        let is_all = ObjectBuilder::new()
            .schema_type(Type::Boolean)
            .description(Some("All of them, up to 1000 at once."))
            .enum_values(Some([all]));
        let dry_run = ObjectBuilder::new()
            .schema_type(Type::Boolean)
            .description(Some("Only say how many."));
        ObjectBuilder::new()
            .property("all", is_all)
            .property("dry_run", dry_run)
            .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)))
    }

    /// The ids' places; none for all.
    pub(super) fn places(&self) -> Result<Option<Vec<Place>>, Problem> {
        if self.all != self.ids.is_empty() {
            let detail = "name the events with ids, or write all: true";
            return Err(Problem::bad_request("invalid-order", detail));
        }
        if self.ids.len() > MOST.unsigned_abs().try_into().unwrap_or(usize::MAX) {
            let detail = format!("there are {} ids; write {MOST} or less", self.ids.len());
            return Err(Problem::bad_request("too-many-ids", detail));
        }
        if self.all {
            return Ok(None);
        }
        let places: Result<Vec<_>, _> = self.ids.iter().map(|id| id.parse()).collect();
        places.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_names_what_it_is_about() {
        let order = |ids: &[&str], all| RedriveOrder {
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            all,
            dry_run: false,
        };
        assert_eq!(order(&[], true).places().unwrap(), None);
        let place = Place {
            shard: 2,
            offset: 1041,
        };
        assert_eq!(
            order(&["2:1041"], false).places().unwrap(),
            Some(vec![place])
        );
        assert_eq!(place.to_string(), "2:1041");
        for (ids, all) in [(vec![], false), (vec!["1:1"], true)] {
            let problem = order(&ids, all).places().unwrap_err();
            assert!(problem.detail.contains("all: true"), "{}", problem.detail);
        }
        for id in [
            "",
            "1",
            "1:",
            ":1",
            "-1:1",
            "1:-1",
            "1:x",
            "+1:1",
            "1:99999999999999999999",
            "9999999999:1",
        ] {
            let problem = order(&[id], false).places().unwrap_err();
            assert!(
                problem.detail.contains("shard:offset"),
                "{}",
                problem.detail
            );
        }
        let many = vec!["1:1"; 1001];
        assert!(
            order(&many, false)
                .places()
                .unwrap_err()
                .detail
                .contains("1000")
        );
    }
}

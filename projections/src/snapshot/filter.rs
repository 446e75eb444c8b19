//! Which vehicles a list is about. Pure.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use runtime::http::Problem;
use serde::{Deserialize, Serialize};
use shared_model::Provider;
use utoipa::IntoParams;
use xxhash_rust::xxh3::xxh3_64;

use crate::health::Freshness;

/// No vehicle's id is longer.
const LONGEST_SEARCH: usize = 128;

/// The filters as a query writes them. All that are given must hold.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct FilterQuery {
    /// Vehicles that are as fresh as one of these, separated by commas.
    #[param(value_type = Option<Vec<Freshness>>, inline, style = Form, explode = false, min_items = 1)]
    freshness: Option<String>,
    /// Vehicles that were last heard from through this provider, or that it registered and that never were.
    #[param(pattern = "^[a-z][a-z0-9-]{0,31}$")]
    provider: Option<String>,
    /// Vehicles with a state of charge of at least so many per cent.
    #[param(value_type = Option<f64>, minimum = 0, maximum = 100)]
    soc_min: Option<String>,
    /// Vehicles with a state of charge of at most so many per cent.
    #[param(value_type = Option<f64>, minimum = 0, maximum = 100)]
    soc_max: Option<String>,
    /// Vehicles whose position lies in this box: west, south, east and north in degrees (WGS 84), separated
    /// by commas. A west that is greater than the east crosses the antimeridian.
    #[param(value_type = Option<Vec<f64>>, style = Form, explode = false, min_items = 4, max_items = 4,
        example = json!([4.7, 52.2, 5.1, 52.5]))]
    bbox: Option<String>,
    /// Vehicles of which any signal was observed at this time or later (RFC 3339).
    #[param(value_type = Option<DateTime<Utc>>)]
    observed_since: Option<String>,
    /// Vehicles whose id contains this text, in whatever case.
    #[param(min_length = 1, max_length = 128)]
    search: Option<String>,
}

/// Which vehicles to list. The default is all.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Filter {
    pub(super) freshness: Option<BTreeSet<Freshness>>,
    pub(super) provider: Option<Provider>,
    pub(super) soc_min: Option<f64>,
    pub(super) soc_max: Option<f64>,
    pub(super) bbox: Option<Bbox>,
    pub(super) observed_since: Option<DateTime<Utc>>,
    pub(super) search: Option<String>,
}

/// A box on the map, in degrees. A `west` that is greater than `east` crosses the antimeridian.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Bbox {
    pub(super) west: f64,
    pub(super) south: f64,
    pub(super) east: f64,
    pub(super) north: f64,
}

impl FilterQuery {
    /// The parameters.
    pub(super) const NAMES: &[&str] = &[
        "freshness",
        "provider",
        "soc_min",
        "soc_max",
        "bbox",
        "observed_since",
        "search",
    ];

    /// What is asked for; a problem that says what is wrong with it.
    pub(super) fn read(self) -> Result<Filter, Problem> {
        let soc = |name, text: Option<String>| text.map(|text| soc(name, &text)).transpose();
        let filter = Filter {
            freshness: self.freshness.as_deref().map(freshness).transpose()?,
            provider: self.provider.map(provider).transpose()?,
            soc_min: soc("soc_min", self.soc_min)?,
            soc_max: soc("soc_max", self.soc_max)?,
            bbox: self.bbox.as_deref().map(bbox).transpose()?,
            observed_since: self.observed_since.as_deref().map(time).transpose()?,
            search: self.search.map(search).transpose()?,
        };
        if let (Some(least), Some(most)) = (filter.soc_min, filter.soc_max)
            && least > most
        {
            return Err(invalid(format!("soc_min {least} is above soc_max {most}")));
        }
        Ok(filter)
    }
}

impl Filter {
    /// What tells this filter from others: the same in every process.
    pub(super) fn fingerprint(&self) -> u64 {
        // Plain data with text keys, so it is JSON.
        xxh3_64(&serde_json::to_vec(self).unwrap_or_default())
    }
}

fn invalid(detail: String) -> Problem {
    Problem::bad_request("invalid-filter", detail)
}

fn freshness(text: &str) -> Result<BTreeSet<Freshness>, Problem> {
    let one = |name: &str| {
        let known = Freshness::ALL.into_iter().find(|of| of.name() == name);
        known.ok_or_else(|| {
            let names = Freshness::ALL.map(Freshness::name).join(", ");
            invalid(format!(
                "freshness has {name:?}; write some of {names}, separated by commas"
            ))
        })
    };
    text.split(',').map(|name| one(name.trim())).collect()
}

fn provider(text: String) -> Result<Provider, Problem> {
    Provider::new(text).map_err(|error| invalid(error.to_string()))
}

/// A finite number; `NaN` and what is too large to be one are none.
fn number(text: &str) -> Option<f64> {
    text.trim()
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite())
}

fn soc(name: &str, text: &str) -> Result<f64, Problem> {
    let within = |number: &f64| (0.0..=100.0).contains(number);
    number(text)
        .filter(within)
        .ok_or_else(|| invalid(format!("{name} is {text:?}; write a number from 0 to 100")))
}

fn bbox(text: &str) -> Result<Bbox, Problem> {
    let wrong = |what: &str| {
        invalid(format!(
            "bbox is {text:?}: {what}; write west,south,east,north in degrees"
        ))
    };
    let numbers: Option<Vec<f64>> = text.split(',').map(number).collect();
    let numbers = numbers.ok_or_else(|| wrong("one of them is no number"))?;
    let &[west, south, east, north] = &numbers[..] else {
        return Err(wrong("it has not four numbers"));
    };
    if ![west, east].iter().all(|of| (-180.0..=180.0).contains(of)) {
        return Err(wrong("a longitude is not within -180 and 180"));
    }
    if ![south, north].iter().all(|of| (-90.0..=90.0).contains(of)) {
        return Err(wrong("a latitude is not within -90 and 90"));
    }
    if south > north {
        return Err(wrong("the south is above the north"));
    }
    Ok(Bbox {
        west,
        south,
        east,
        north,
    })
}

fn time(text: &str) -> Result<DateTime<Utc>, Problem> {
    let time = DateTime::parse_from_rfc3339(text).map(|time| time.to_utc());
    time.ok()
        // Year 0 is none to the database.
        .filter(|time| *time >= DateTime::UNIX_EPOCH)
        .map(shared_model::time::to_micros)
        .ok_or_else(|| {
            invalid(format!(
                "observed_since is {text:?}; write a time from 1970 on such as 2026-11-23T15:18:20Z \
                 (RFC 3339; a + is written %2B)"
            ))
        })
}

fn search(text: String) -> Result<String, Problem> {
    let length = text.chars().count();
    if length == 0 || length > LONGEST_SEARCH || text.chars().any(char::is_control) {
        return Err(invalid(format!(
            "search is {text:?}; write 1 to {LONGEST_SEARCH} characters, none of them a control \
             character"
        )));
    }
    Ok(text)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The filter that the given parameters make.
    pub(crate) fn read(parameters: &[(&str, &str)]) -> Result<Filter, Problem> {
        let object = parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), serde_json::json!(value)))
            .collect();
        let query: FilterQuery = serde_json::from_value(serde_json::Value::Object(object)).unwrap();
        query.read()
    }

    #[test]
    fn what_is_asked_for_is_read() {
        let filter = read(&[
            ("freshness", "stale, fresh"),
            ("provider", "rfms"),
            ("soc_min", "0"),
            ("soc_max", "19.5"),
            ("bbox", "170,-10.5, -170,10"),
            ("observed_since", "2026-11-23T16:18:20.5+01:00"),
            ("search", "Bus №"),
        ])
        .unwrap();
        let expected = Filter {
            freshness: Some(BTreeSet::from([Freshness::Fresh, Freshness::Stale])),
            provider: Some(Provider::new("rfms").unwrap()),
            soc_min: Some(0.0),
            soc_max: Some(19.5),
            bbox: Some(Bbox {
                west: 170.0,
                south: -10.5,
                east: -170.0,
                north: 10.0,
            }),
            observed_since: Some("2026-11-23T15:18:20.5Z".parse().unwrap()),
            search: Some("Bus №".to_owned()),
        };
        assert_eq!(filter, expected);
        assert_eq!(read(&[]).unwrap(), Filter::default());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        let long = "x".repeat(129);
        for (name, value) in [
            ("freshness", ""),
            ("freshness", "fresh,"),
            ("freshness", "Fresh"),
            ("provider", ""),
            ("provider", "a\0"),
            ("soc_min", "NaN"),
            ("soc_min", "1e400"),
            ("soc_min", "-1"),
            ("soc_max", "100.1"),
            ("soc_max", "inf"),
            ("soc_max", "full"),
            ("bbox", ""),
            ("bbox", "1,2,3"),
            ("bbox", "1,2,3,4,5"),
            ("bbox", "1,2,NaN,4"),
            ("bbox", "-181,0,0,0"),
            ("bbox", "0,-91,0,0"),
            ("bbox", "0,10,0,-10"),
            ("bbox", "0,0,1e999,1"),
            ("observed_since", "yesterday"),
            ("observed_since", "0000-01-01T00:00:00Z"),
            ("observed_since", "2026-11-23T16:18:20 01:00"),
            ("search", ""),
            ("search", "\0"),
            ("search", &long),
        ] {
            let problem = read(&[(name, value)]).unwrap_err();
            assert_eq!(problem.kind, "urn:headrace:problem:invalid-filter");
            assert!(problem.detail.contains(name), "{name}: {}", problem.detail);
        }
        let problem = read(&[("soc_min", "50"), ("soc_max", "40")]).unwrap_err();
        assert!(problem.detail.contains("above soc_max"));
    }

    #[test]
    fn a_filter_is_told_from_others_by_what_it_means() {
        let fingerprint = |parameters: &[_]| read(parameters).unwrap().fingerprint();
        assert_eq!(
            fingerprint(&[("freshness", "fresh,stale")]),
            fingerprint(&[("freshness", "stale,fresh,stale")])
        );
        let different = [
            fingerprint(&[]),
            fingerprint(&[("soc_min", "5")]),
            fingerprint(&[("soc_max", "5")]),
            fingerprint(&[("search", "5")]),
            fingerprint(&[("bbox", "0,0,5,5")]),
        ];
        assert_eq!(BTreeSet::from(different).len(), different.len());
    }
}

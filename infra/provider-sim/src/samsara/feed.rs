//! Which reports a Samsara request asks for. Pure.

use super::record::TYPES;
use crate::polled::{History, Record};
use axum::{extract::Query, http::Uri};
use serde::Deserialize;
use std::collections::BTreeSet;

/// How many types a request may name.
const MOST_TYPES: usize = 3;

/// Where a customer is in the feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    /// How many of the last known values have been given; 0 once all have been.
    given: usize,
    /// Behind which report the feed goes on.
    seq: u64,
}

impl Cursor {
    /// In the form of a UUID, which tells a customer nothing.
    pub(super) fn written(self) -> String {
        let Self { given, seq } = self;
        format!("{given:08x}-0000-0000-0000-{seq:012x}")
    }

    fn read(text: &str) -> Option<Self> {
        let (given, seq) = text.split_once("-0000-0000-0000-")?;
        if (given.len(), seq.len()) != (8, 12) {
            return None;
        }
        Some(Self {
            given: usize::from_str_radix(given, 16).ok()?,
            seq: u64::from_str_radix(seq, 16).ok()?,
        })
    }
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked {
    pub(super) types: Vec<&'static str>,
    after: Option<Cursor>,
    vehicles: usize,
}

#[derive(Debug, Deserialize)]
struct Parameters {
    types: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

impl Asked {
    /// Reads the query; the error says what is wrong.
    pub(super) fn read(uri: &Uri) -> Result<Self, String> {
        let Query(found) =
            Query::<Parameters>::try_from_uri(uri).map_err(|error| error.to_string())?;
        let named = found.types.unwrap_or_default();
        let known = |name: &str| {
            let known = TYPES.into_iter().find(|known| *known == name);
            known.ok_or_else(|| format!("Invalid value for parameter 'types': '{name}'."))
        };
        let types: Vec<_> = named.split(',').map(known).collect::<Result<_, _>>()?;
        if types.len() > MOST_TYPES {
            return Err(format!(
                "Invalid value for parameter 'types': at most {MOST_TYPES} at a time."
            ));
        }
        let after = found.after.filter(|after| !after.is_empty());
        let after = after.map(|after| {
            Cursor::read(&after).ok_or_else(|| "Invalid value for parameter 'after'.".to_owned())
        });
        if found.limit.is_some_and(|limit| !(1..=512).contains(&limit)) {
            return Err("Invalid value for parameter 'limit'.".to_owned());
        }
        Ok(Self {
            types,
            after: after.transpose()?,
            vehicles: found.limit.unwrap_or(512),
        })
    }

    /// The types, as the ledger names them.
    pub(super) fn name(&self) -> String {
        let types: BTreeSet<_> = self.types.iter().copied().collect();
        types.into_iter().collect::<Vec<_>>().join(",")
    }
}

/// What an answer holds.
#[derive(Debug)]
pub(super) struct Page<'a> {
    pub(super) records: Vec<&'a Record>,
    pub(super) end: Cursor,
    pub(super) has_more: bool,
    /// It is one of the first pages.
    pub(super) is_last_known: bool,
}

/// At most `size` reports from where the customer is.
pub(super) fn page<'a>(history: &'a History, asked: &Asked, size: usize) -> Page<'a> {
    match asked.after {
        Some(Cursor { given: 0, seq }) => since(history, seq, asked.vehicles, size),
        Some(Cursor { given, seq }) => last_known(history, given, seq, asked.vehicles.min(size)),
        None => last_known(history, 0, history.last_seq(), asked.vehicles.min(size)),
    }
}

fn last_known(history: &History, given: usize, seq: u64, size: usize) -> Page<'_> {
    let mut records = history.latest(i64::MAX, seq);
    let given = given.min(records.len());
    records.drain(..given);
    let has_more = records.len() > size;
    records.truncate(size);
    let given = if has_more { given + size } else { 0 };
    Page {
        records,
        end: Cursor { given, seq },
        has_more,
        is_last_known: true,
    }
}

fn since(history: &History, seq: u64, vehicles: usize, size: usize) -> Page<'_> {
    let mut seen = BTreeSet::new();
    let records: Vec<_> = history
        .after(seq)
        .take(size)
        .take_while(|record| {
            seen.insert(record.vehicle);
            seen.len() <= vehicles
        })
        .collect();
    let seq = records.last().map_or(seq, |record| record.seq);
    Page {
        has_more: seq < history.last_seq(),
        records,
        end: Cursor { given: 0, seq },
        is_last_known: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::polled::history::tests::{NOW_MS, minute};
    use crate::samsara::record::by_vehicle;

    fn asked(query: &str) -> Result<Asked, String> {
        Asked::read(&format!("/?{query}").parse().unwrap())
    }

    #[test]
    fn at_most_three_known_types_and_a_cursor_of_ours() {
        assert_eq!(
            asked("types=gps,evChargingStatus").unwrap().name(),
            "evChargingStatus,gps"
        );
        for wrong in [
            "",
            "types=",
            "types=gps,fuel",
            "types=gps,engineStates,obdOdometerMeters,gpsOdometerMeters",
            "types=gps&after=next",
            "types=gps&limit=0",
            "types=gps&limit=513",
        ] {
            assert!(asked(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cursors_are_read_back_as_they_were_written() {
        for cursor in [Cursor { given: 0, seq: 77 }, Cursor { given: 512, seq: 0 }] {
            assert_eq!(Cursor::read(&cursor.written()), Some(cursor));
        }
    }

    #[test]
    fn the_last_known_values_come_first_and_then_each_report_once() {
        let mut history = minute(5, 0.3);
        let first = page(&history, &asked("types=gps").unwrap(), 3);
        assert!(first.has_more && first.is_last_known);
        let vehicles: Vec<_> = first.records.iter().map(|record| record.vehicle).collect();
        assert_eq!(vehicles, [0, 1, 2]);
        let known = history.last_seq();
        let go_on = |end: Cursor| asked(&format!("types=gps&after={}", end.written())).unwrap();
        let end = first.end;
        history.advance(NOW_MS + 30_000);
        let second = page(&history, &go_on(end), 3);
        assert!(!second.has_more && second.records.len() == 2);
        let mut end = second.end;
        let mut seen = Vec::new();
        loop {
            let next = page(&history, &go_on(end), 7);
            assert!(!next.is_last_known && next.records.len() <= 7);
            seen.extend(next.records.iter().map(|record| record.seq));
            end = next.end;
            if !next.has_more {
                break;
            }
        }
        assert_eq!(seen, (known + 1..=history.last_seq()).collect::<Vec<_>>());
        let empty = page(&history, &go_on(end), 7);
        assert!(empty.records.is_empty() && empty.end == end);
    }

    #[test]
    fn a_limit_bounds_the_vehicles_of_a_page_not_their_readings() {
        let history = minute(6, 0.0);
        let start = Cursor { given: 0, seq: 0 };
        let query = format!("types=gps,engineStates&limit=2&after={}", start.written());
        let asked = asked(&query).unwrap();
        let page = page(&history, &asked, 100);
        let vehicles = by_vehicle(&asked.types, &page.records);
        assert!(vehicles.len() <= 2 && page.has_more && !page.records.is_empty());
        for vehicle in vehicles {
            assert_eq!(
                vehicle["gps"][0]["time"],
                vehicle["engineStates"][0]["time"]
            );
            assert!(vehicle.get("obdOdometerMeters").is_none());
            assert!(vehicle["externalIds"]["samsara.vin"].is_string());
        }
    }
}

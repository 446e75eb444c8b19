//! Which rows a `GetFeed` asks for. Pure.

use super::{
    record,
    rpc::{Call, Failure},
};
use crate::polled::{Fact, History, Record, time};
use serde_json::Value;

/// The most rows that a customer may ask for.
const MOST_ROWS: u64 = 50_000;
/// A report has as many versions; its rows of a feed take the first ones.
const VERSIONS: u64 = 16;

/// A feed of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    LogRecord,
    StatusData,
}

/// Where a feed is to be read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Now,
    Version(u64),
    DateMs(i64),
}

/// What a `GetFeed` asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked {
    kind: Kind,
    from: From,
    rows: usize,
    diagnostic: Option<String>,
}

impl Asked {
    /// Reads the parameters of a call.
    pub(super) fn read(call: &Call, page_rows: usize) -> Result<Self, Failure> {
        let kind = match &*call.type_name {
            "LogRecord" => Kind::LogRecord,
            "StatusData" => Kind::StatusData,
            other => {
                let message = format!("typeName {other:?} has no feed");
                return Err(Failure::argument(&message));
            }
        };
        let limit = match call.params.get("resultsLimit") {
            None | Some(Value::Null) => MOST_ROWS,
            Some(limit) => limit
                .as_u64()
                .filter(|limit| (1..=MOST_ROWS).contains(limit))
                .ok_or_else(|| Failure::argument("resultsLimit is not from 1 to 50000"))?,
        };
        let search = call.params.get("search").unwrap_or(&Value::Null);
        let version = call.params.get("fromVersion").and_then(Value::as_str);
        let date = search.get("fromDate").and_then(Value::as_str);
        let from = match (version, date) {
            (Some(version), _) => u64::from_str_radix(version, 16)
                .map(From::Version)
                .map_err(|_| Failure::argument("fromVersion is not a version"))?,
            (None, Some(date)) => time::read(date)
                .map(From::DateMs)
                .ok_or_else(|| Failure::argument("fromDate is not a time"))?,
            (None, None) => From::Now,
        };
        let diagnostic = search.pointer("/diagnosticSearch/id");
        Ok(Self {
            kind,
            from,
            rows: usize::try_from(limit).unwrap_or(page_rows).min(page_rows),
            diagnostic: diagnostic.and_then(Value::as_str).map(str::to_owned),
        })
    }
}

/// A row of a feed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row<'a> {
    kind: Kind,
    pub(super) record: &'a Record,
    part: u64,
}

impl Row<'_> {
    pub(super) fn version(&self) -> u64 {
        self.record.seq * VERSIONS + self.part
    }

    /// What it says; nothing if no signal has this diagnostic.
    pub(super) fn fact(&self) -> Option<Vec<Fact>> {
        match self.kind {
            Kind::LogRecord => Some(record::log_facts(self.record)),
            Kind::StatusData => record::status_fact(self.record, self.part).map(|fact| vec![fact]),
        }
    }

    pub(super) fn written(&self) -> Value {
        match self.kind {
            Kind::LogRecord => record::log_record(self.record, self.version()),
            Kind::StatusData => record::status_data(self.record, self.part, self.version()),
        }
    }
}

/// What an answer holds.
#[derive(Debug)]
pub(super) struct Page<'a> {
    pub(super) rows: Vec<Row<'a>>,
    pub(super) to_version: u64,
}

/// The rows behind where the customer is, by version.
pub(super) fn page<'a>(history: &'a History, asked: &Asked) -> Page<'a> {
    let current = history.last_seq() * VERSIONS + VERSIONS - 1;
    let from = match asked.from {
        From::Now => current,
        From::Version(version) => version,
        From::DateMs(date_ms) => {
            let first = history
                .after(0)
                .find(|record| record.observed_ms >= date_ms);
            first.map_or(current, |record| record.seq * VERSIONS - 1)
        }
    };
    let rows = match asked.kind {
        Kind::LogRecord => 1,
        Kind::StatusData => record::ROWS,
    };
    let found = history
        .after((from / VERSIONS).saturating_sub(1))
        .flat_map(|record| {
            (0..rows).map(move |part| Row {
                kind: asked.kind,
                record,
                part,
            })
        })
        .filter(|row| row.version() > from)
        .filter(|row| {
            let wanted = asked.diagnostic.as_deref();
            wanted.is_none_or(|wanted| wanted == record::diagnostic(row.part))
        });
    let rows: Vec<_> = found.take(asked.rows).collect();
    let last = rows.last().filter(|_| rows.len() == asked.rows);
    Page {
        to_version: last.map_or(current.max(from), Row::version),
        rows,
    }
}

/// A version as customers see it: sixteen hexadecimal digits.
pub(super) fn written(version: u64) -> String {
    format!("{version:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::polled::history::tests::{NOW_MS, minute};
    use serde_json::json;

    fn asked(params: Value) -> Result<Asked, Failure> {
        let call = json!({"method": "GetFeed", "params": params});
        Asked::read(&Call::read(call.to_string().as_bytes()).unwrap(), 50_000)
    }

    #[test]
    fn a_first_call_has_no_data_and_every_row_comes_once_after_it() {
        for (kind, rows) in [("LogRecord", 1), ("StatusData", record::ROWS)] {
            let mut history = minute(4, 0.4);
            let first = page(&history, &asked(json!({"typeName": kind})).unwrap());
            assert!(first.rows.is_empty());
            let known = history.last_seq();
            let mut version = first.to_version;
            history.advance(NOW_MS + 30_000);
            let mut seen = Vec::new();
            loop {
                let from = json!({"typeName": kind, "fromVersion": written(version),
                    "resultsLimit": 7, "search": {"fromDate": "2026-01-01T00:00:00Z"}});
                let next = page(&history, &asked(from).unwrap());
                version = next.to_version;
                seen.extend(next.rows.iter().map(|row| (row.record.seq, row.part)));
                if next.rows.len() < 7 {
                    break;
                }
            }
            let all = (known + 1..=history.last_seq())
                .flat_map(|seq| (0..rows).map(move |row| (seq, row)));
            assert_eq!(seen, all.collect::<Vec<_>>(), "{kind}");
            assert_eq!(version, history.last_seq() * VERSIONS + VERSIONS - 1);
        }
    }

    #[test]
    fn a_date_says_where_to_begin_and_what_follows_may_be_older() {
        let history = minute(4, 0.4);
        let from_ms = NOW_MS - 20_000;
        let from = json!({"typeName": "LogRecord", "search": {"fromDate": time::written(from_ms)}});
        let found = page(&history, &asked(from).unwrap());
        assert!(found.rows[0].record.observed_ms >= from_ms);
        let times: Vec<_> = found
            .rows
            .iter()
            .map(|row| row.record.observed_ms)
            .collect();
        assert!(times.iter().any(|at| *at < from_ms));
        assert!(!times.is_sorted());
        assert!(found.rows.is_sorted_by_key(Row::version));
    }

    #[test]
    fn rows_are_in_the_providers_form() {
        let history = minute(1, 0.0);
        let from = json!({"typeName": "StatusData", "fromVersion": written(0)});
        let found = page(&history, &asked(from).unwrap());
        let rows: Vec<_> = found.rows.iter().map(Row::written).collect();
        assert!(rows.iter().any(|row| row["controller"].is_string()));
        assert!(rows.iter().any(|row| row["controller"]["id"].is_string()));
        assert!(rows.iter().all(|row| row["data"].is_number()));
        assert_eq!(rows[0]["device"]["id"], "b1");
        assert_eq!(rows[0]["version"], "0000000000000010");
        let one = json!({"typeName": "StatusData", "fromVersion": written(0),
            "search": {"diagnosticSearch": {"id": "DiagnosticOdometerId"}}});
        let found = page(&history, &asked(one).unwrap());
        assert_eq!(found.rows.len() * 5, rows.len());
        assert!(found.rows.iter().all(|row| row.part == 1));
    }

    #[test]
    fn what_cannot_be_asked_is_an_argument_error() {
        for wrong in [
            json!({}),
            json!({"typeName": "Trip"}),
            json!({"typeName": "LogRecord", "resultsLimit": 0}),
            json!({"typeName": "LogRecord", "resultsLimit": 50_001}),
            json!({"typeName": "LogRecord", "fromVersion": "latest"}),
            json!({"typeName": "LogRecord", "search": {"fromDate": "noon"}}),
        ] {
            let failure = asked(wrong.clone()).unwrap_err();
            assert_eq!(failure.kind, "ArgumentException", "{wrong}");
        }
    }
}

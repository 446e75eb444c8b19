//! Which reports an rFMS request asks for. Pure.

use super::record::vehicle_id;
use crate::polled::{History, Record, time};
use std::collections::BTreeMap;

/// What an API holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Collection {
    Vehicles,
    Positions,
    Statuses,
}

impl Collection {
    /// Its name as a pool of requests and in the ledger.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Vehicles => "vehicles",
            Self::Positions => "positions",
            Self::Statuses => "statuses",
        }
    }

    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Vehicles => "vehicles",
            Self::Positions => "vehiclepositions",
            Self::Statuses => "vehiclestatuses",
        }
    }

    /// How many requests a minute are allowed.
    pub(super) const fn usual_requests(self) -> u32 {
        match self {
            Self::Vehicles => 4,
            Self::Positions => 60,
            Self::Statuses => 30,
        }
    }
}

/// The one trigger that simulated vehicles have.
const TRIGGER: &str = "TIMER";
/// Our own parameter in links: behind which report the next page begins.
const PLACE: &str = "place";

/// What a request asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked {
    span: Option<Span>,
    vin: Option<String>,
    last_vin: Option<String>,
    place: u64,
    is_by_creation: bool,
    is_of_trigger: bool,
    /// Whether statuses come with their snapshot.
    pub(super) has_snapshot: bool,
}

/// From when to when, in whole seconds; the end is no part of it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Span {
    from_seconds: i64,
    to_seconds: i64,
}

impl Asked {
    /// Reads the query; the error says what is wrong.
    pub(super) fn read(collection: Collection, query: &str) -> Result<Self, String> {
        let uri = format!("/?{query}");
        let uri = uri.parse().map_err(|_| "the query is unreadable")?;
        let parameters: axum::extract::Query<BTreeMap<String, String>> =
            axum::extract::Query::try_from_uri(&uri).map_err(|error| error.to_string())?;
        let of = |key: &str| {
            parameters
                .get(key)
                .cloned()
                .filter(|value| !value.is_empty())
        };
        let latest_only = match of("latestOnly").as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => return Err(format!("latestOnly is {other}, neither true nor false")),
        };
        let from = seconds("starttime", of("starttime"))?;
        let to = seconds("stoptime", of("stoptime"))?;
        let span = from.map(|from_seconds| Span {
            from_seconds,
            to_seconds: to.unwrap_or(i64::MAX),
        });
        if collection != Collection::Vehicles && latest_only == span.is_some() {
            return Err("write either latestOnly=true or starttime".to_owned());
        }
        if to.is_some() && span.is_none() {
            return Err("stoptime goes with starttime only".to_owned());
        }
        let is_by_creation = match of("datetype").as_deref() {
            None | Some("received") => false,
            Some("created") => true,
            Some(other) => return Err(format!("datetype is {other}, not received or created")),
        };
        let place = of(PLACE).map(|place| place.parse().map_err(|_| "the link is unreadable"));
        let names =
            |key, name: &str| of(key).is_none_or(|all| all.split(',').any(|one| one == name));
        Ok(Self {
            span,
            vin: of("vin"),
            last_vin: of("lastVin"),
            place: place.transpose()?.unwrap_or(0),
            is_by_creation,
            is_of_trigger: names("triggerFilter", TRIGGER),
            has_snapshot: names("contentFilter", "SNAPSHOT"),
        })
    }

    pub(super) fn is_latest_only(&self) -> bool {
        self.span.is_none()
    }

    fn wants(&self, record: &Record) -> bool {
        let vin = self.vin.as_ref();
        self.is_of_trigger && vin.is_none_or(|vin| *vin == vehicle_id(record.vehicle))
    }

    fn stamp_ms(&self, record: &Record) -> i64 {
        if self.is_by_creation {
            record.observed_ms
        } else {
            record.received_ms
        }
    }
}

fn seconds(name: &str, text: Option<String>) -> Result<Option<i64>, String> {
    text.map(|text| {
        let ms = time::read(&text).ok_or_else(|| format!("{name} is {text}, not a time"))?;
        Ok(ms.div_euclid(1000))
    })
    .transpose()
}

/// The vehicles of a page of the fleet, and the place of the next page.
pub(super) fn fleet(
    vehicles: usize,
    asked: &Asked,
    size: usize,
) -> (impl Iterator<Item = usize> + use<>, Option<String>) {
    let last = asked.last_vin.clone().unwrap_or_default();
    let from = (0..vehicles).position(|vehicle| vehicle_id(vehicle) > last);
    let from = from.unwrap_or(vehicles);
    let to = vehicles.min(from.saturating_add(size));
    let next = (to < vehicles && to > 0).then(|| format!("lastVin={}", vehicle_id(to - 1)));
    (from..to, next)
}

/// The reports of a page, and the place of the next page.
pub(super) fn page<'a>(
    history: &'a History,
    asked: &Asked,
    now_ms: i64,
    size: usize,
) -> (Vec<&'a Record>, Option<String>) {
    let now_seconds = now_ms.div_euclid(1000);
    let Some(span) = asked.span else {
        return latest(history, asked, now_seconds, size);
    };
    let mut found: Vec<_> = history
        .after(0)
        .filter(|record| {
            let received = record.received_ms.div_euclid(1000);
            let stamp = asked.stamp_ms(record).div_euclid(1000);
            received < now_seconds && (span.from_seconds..span.to_seconds).contains(&stamp)
        })
        .filter(|record| asked.wants(record))
        .collect();
    found.sort_by_key(|record| (asked.stamp_ms(record), record.seq));
    let from = match asked.place {
        0 => 0,
        place => found
            .iter()
            .position(|record| record.seq == place)
            .map_or(0, |index| index + 1),
    };
    found.drain(..from);
    let has_more = found.len() > size;
    found.truncate(size);
    let last = found.last().filter(|_| has_more);
    let next = last.map(|record| format!("{PLACE}={}", record.seq));
    (found, next)
}

fn latest<'a>(
    history: &'a History,
    asked: &Asked,
    now_seconds: i64,
    size: usize,
) -> (Vec<&'a Record>, Option<String>) {
    let last = asked.last_vin.clone().unwrap_or_default();
    let mut found = history.latest(now_seconds * 1000, u64::MAX);
    found.retain(|record| asked.wants(record) && vehicle_id(record.vehicle) > last);
    let has_more = found.len() > size;
    found.truncate(size);
    let last = found.last().filter(|_| has_more);
    let next = last.map(|record| format!("lastVin={}", vehicle_id(record.vehicle)));
    (found, next)
}

/// `query` without what says where in a run of pages one is.
pub(super) fn without_place(query: &str) -> String {
    let is_place = |parameter: &&str| {
        let (key, _) = parameter.split_once('=').unwrap_or((parameter, ""));
        ["lastVin", PLACE].contains(&key)
    };
    let kept: Vec<_> = query
        .split('&')
        .filter(|parameter| !parameter.is_empty() && !is_place(parameter))
        .collect();
    kept.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::polled::history::tests::{NOW_MS, minute};
    use crate::polled::time::written;

    fn asked(query: &str) -> Asked {
        Asked::read(Collection::Statuses, query).unwrap()
    }

    #[test]
    fn exactly_one_of_latest_only_and_starttime() {
        let read = |query| Asked::read(Collection::Positions, query);
        assert!(read("latestOnly=true").is_ok());
        assert!(read("starttime=2026-07-01T12:00:00.123Z&stoptime=2026-07-01T13:00:00Z").is_ok());
        for wrong in [
            "",
            "latestOnly=false",
            "latestOnly=true&starttime=2026-07-01T12:00:00Z",
            "latestOnly=true&stoptime=2026-07-01T12:00:00Z",
            "starttime=noon",
            "latestOnly=yes",
            "latestOnly=true&datetype=sent",
            "latestOnly=true&place=here",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(Asked::read(Collection::Vehicles, "").is_ok());
    }

    #[test]
    fn links_lead_through_all_reports_once_even_within_a_second() {
        let history = minute(7, 0.2);
        let query = format!("starttime={}", written(NOW_MS - 60_000));
        let (all, end) = page(&history, &asked(&query), NOW_MS, usize::MAX);
        assert!(all.len() > 300 && end.is_none());
        let mut paged = Vec::new();
        let mut next = Some(query.clone());
        while let Some(link) = next {
            let (found, place) = page(&history, &asked(&link), NOW_MS, 3);
            assert!(found.len() <= 3);
            paged.extend(found);
            next = place.map(|place| format!("{query}&{place}"));
        }
        assert_eq!(paged, all);
        let splits = all
            .chunks(3)
            .collect::<Vec<_>>()
            .windows(2)
            .any(|pages| pages[0][2].received_ms / 1000 == pages[1][0].received_ms / 1000);
        assert!(splits, "a page ends within a second");
    }

    #[test]
    fn the_second_that_is_not_over_is_withheld_and_milliseconds_are_ignored() {
        let history = minute(10, 0.0);
        let now_ms = NOW_MS - 10_500;
        let query = format!("starttime={}", written(now_ms - 3_499));
        let (found, _) = page(&history, &asked(&query), now_ms, usize::MAX);
        let first = found.iter().map(|record| record.received_ms).min().unwrap();
        let last = found.iter().map(|record| record.received_ms).max().unwrap();
        let second = now_ms / 1000 * 1000;
        assert!(last < second && last >= second - 1000, "{last} {second}");
        assert!(first < second - 3000 + 500 && first >= second - 4000);
        // The next request goes on exactly there.
        let then = format!("starttime={}", written(now_ms));
        let (more, _) = page(&history, &asked(&then), now_ms + 2000, usize::MAX);
        assert!(more.iter().all(|record| record.received_ms >= second));
        assert!(!more.is_empty());
    }

    #[test]
    fn the_latest_of_each_vehicle_come_in_pages_by_vin() {
        let history = minute(5, 0.5);
        let (first, next) = page(&history, &asked("latestOnly=true"), NOW_MS, 3);
        assert_eq!(next.as_deref(), Some("lastVin=SMLTR000000000003"));
        let (rest, end) = page(
            &history,
            &asked("latestOnly=true&lastVin=SMLTR000000000003"),
            NOW_MS,
            3,
        );
        assert_eq!(end, None);
        let vehicles: Vec<_> = first.iter().chain(&rest).map(|r| r.vehicle).collect();
        assert_eq!(vehicles, [0, 1, 2, 3, 4]);
        for latest in first.iter().chain(&rest) {
            let is_newer = |record: &&Record| {
                record.vehicle == latest.vehicle
                    && record.observed_ms > latest.observed_ms
                    && record.received_ms < NOW_MS / 1000 * 1000
            };
            assert!(!history.after(0).any(|record| is_newer(&record)));
        }
    }

    #[test]
    fn filters_leave_out_what_is_not_asked_for() {
        let history = minute(3, 0.0);
        let base = format!("starttime={}", written(NOW_MS - 60_000));
        let count = |more: &str| {
            let asked = asked(&format!("{base}{more}"));
            page(&history, &asked, NOW_MS, usize::MAX).0.len()
        };
        assert!(count("&vin=SMLTR000000000002") * 3 < count("") + 5);
        assert_eq!(count("&vin=OTHER"), 0);
        assert_eq!(count("&triggerFilter=DOOR_OPENED"), 0);
        assert_eq!(count("&triggerFilter=DOOR_OPENED,TIMER"), count(""));
        assert!(asked("latestOnly=true&contentFilter=ACCUMULATED,SNAPSHOT").has_snapshot);
        assert!(!asked("latestOnly=true&contentFilter=UPTIME").has_snapshot);
    }

    #[test]
    fn a_link_keeps_what_was_asked_for() {
        assert_eq!(
            without_place("starttime=a&place=7&vin=b&lastVin=c"),
            "starttime=a&vin=b"
        );
        assert_eq!(without_place(""), "");
    }

    #[test]
    fn the_fleet_comes_in_pages() {
        let all = Asked::read(Collection::Vehicles, "").unwrap();
        let (first, next) = fleet(3, &all, 2);
        assert_eq!(first.collect::<Vec<_>>(), [0, 1]);
        let next = Asked::read(Collection::Vehicles, &next.unwrap()).unwrap();
        let (rest, end) = fleet(3, &next, 2);
        assert_eq!((rest.collect::<Vec<_>>(), end), (vec![2], None));
    }
}

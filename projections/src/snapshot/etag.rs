//! Entity tags of answers, and whether a client has an answer already. Pure.
//!
//! They are weak: `age_seconds` is another in each answer, and two answers with one tag tell the same of
//! the vehicle but for that.

use axum::http::{HeaderMap, HeaderValue, header};
use chrono::{DateTime, Utc};
use xxhash_rust::xxh3::xxh3_64;

use super::fold::Snapshot;
use crate::health::Freshness;

/// What tells a vehicle's snapshot from all that were before.
pub(super) fn of_snapshot(snapshot: &Snapshot, freshness: Freshness) -> String {
    let Snapshot {
        version, revision, ..
    } = snapshot;
    // After the core was restored the numbers come a second time, with other times.
    let heard = snapshot
        .last_received_at
        .map_or(0, |at: DateTime<Utc>| at.timestamp_micros());
    format!("W/\"{version}-{revision}-{heard:x}-{}\"", freshness.name())
}

/// What tells a list of vehicles with `tags`, and a cursor of the next page, from another.
pub(super) fn of_list<'a>(tags: impl Iterator<Item = &'a str>, next: Option<&'a str>) -> String {
    let mut all = String::new();
    for part in tags.chain(next) {
        all.push_str(part);
        all.push('\n');
    }
    format!("W/\"{:016x}\"", xxh3_64(all.as_bytes()))
}

/// Whether a request's `If-None-Match` says that the client has the answer with `tag`.
pub(super) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let opaque = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    let tag = opaque(tag);
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        // None of our tags has a comma.
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|known| known == "*" || opaque(known) == tag)
}

/// The headers of an answer with `tag`: nobody but the caller may keep it, and not use it unasked.
pub(super) fn headers(tag: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_static("private, no-cache");
    headers.insert(header::CACHE_CONTROL, value);
    if let Ok(value) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, value);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::IF_NONE_MATCH, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_tag_is_known_however_it_is_given() {
        let tag = of_snapshot(&Snapshot::default(), Freshness::NeverSeen);
        assert_eq!(tag, "W/\"0-0-0-never_seen\"");
        for known in [
            &["W/\"0-0-0-never_seen\""][..],
            &["\"0-0-0-never_seen\""],
            &["*"],
            &["\"a\", W/\"0-0-0-never_seen\""],
            &["\"a\"", "W/\"0-0-0-never_seen\""],
        ] {
            assert!(is_known(&asked(known), &tag), "{known:?}");
        }
        for other in [
            &[][..],
            &["W/\"0-0-0-fresh\""],
            &["0-0-0-never_seen"],
            &[""],
        ] {
            assert!(!is_known(&asked(other), &tag), "{other:?}");
        }
        assert_eq!(headers(&tag)[header::ETAG], tag);
    }

    #[test]
    fn whatever_a_client_may_see_has_a_tag_of_its_own() {
        let snapshot = |version, revision| Snapshot {
            version,
            revision,
            ..Snapshot::default()
        };
        let tag = |version, revision| of_snapshot(&snapshot(version, revision), Freshness::Fresh);
        let (a, b) = (tag(1, 23), tag(12, 3));
        assert_ne!(a, b);
        assert_ne!(a, of_snapshot(&snapshot(1, 23), Freshness::Stale));
        let list = |tags: [&str; 2], next| of_list(tags.into_iter(), next);
        assert_ne!(list([&a, &b], None), list([&b, &a], None));
        assert_ne!(list([&a, &b], None), list([&a, &b], Some("x")));
    }
}

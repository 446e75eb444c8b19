//! Where a page of vehicles goes on. Pure.
//!
//! Pages follow the bytes of the ids, whatever the filter, so a vehicle that comes to match or ceases to
//! moves no other. A cursor knows the filter that it was given under: with another one, what lies before it
//! would be missing.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use runtime::http::Problem;
use shared_model::VehicleId;

use crate::api;

/// The digits of a fingerprint.
const DIGITS: usize = 16;

/// The cursor of a page that goes on after `vehicle`, under a filter with `fingerprint`.
pub(super) fn write(vehicle: &str, fingerprint: u64) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{fingerprint:0DIGITS$x}{vehicle}"))
}

/// The vehicle that the page of `cursor` goes on after, under a filter with `fingerprint`.
pub(super) fn read(cursor: &str, fingerprint: u64) -> Result<VehicleId, Problem> {
    let (given, vehicle) = parts(cursor).ok_or_else(api::invalid_cursor)?;
    if given != fingerprint {
        let detail = "after is the `next` of a page with another filter; keep the filter as it was, or \
                      leave after out for the first page";
        return Err(Problem::bad_request("cursor-mismatch", detail));
    }
    Ok(vehicle)
}

fn parts(cursor: &str) -> Option<(u64, VehicleId)> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (digits, vehicle) = text.split_at_checked(DIGITS)?;
    let fingerprint = u64::from_str_radix(digits, 16).ok()?;
    Some((fingerprint, VehicleId::new(vehicle).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cursors_round_trip_under_their_filter_alone() {
        for vehicle in ["bus-1", "Bus №7 / Süd", "?"] {
            for fingerprint in [0, 7, u64::MAX] {
                let cursor = write(vehicle, fingerprint);
                assert_eq!(read(&cursor, fingerprint).unwrap().as_str(), vehicle);
                let problem = read(&cursor, fingerprint ^ 1).unwrap_err();
                assert_eq!(problem.kind, "urn:headrace:problem:cursor-mismatch");
            }
        }
    }

    proptest! {
        #[test]
        fn anything_else_is_refused(text in ".{0,40}", bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            for cursor in [text, BASE64_URL_SAFE_NO_PAD.encode(bytes)] {
                if let Err(problem) = read(&cursor, 7) {
                    let known = ["invalid-cursor", "cursor-mismatch"];
                    prop_assert!(known.iter().any(|name| problem.kind.ends_with(name)));
                }
            }
        }
    }
}

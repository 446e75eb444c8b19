//! Points in time on the wire: RFC 3339 in UTC with at most microseconds, which is also what
//! PostgreSQL stores, so that a time survives every hop unchanged.

use chrono::{DateTime, SubsecRound, Utc};

/// `time` without what lies below a microsecond.
#[must_use]
pub fn to_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(6)
}

/// The time `micros` microseconds after the Unix epoch; `None` outside of what can be represented.
#[must_use]
pub fn from_unix_micros(micros: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(micros)
}

/// The time `millis` milliseconds after the Unix epoch; `None` outside of what can be represented.
#[must_use]
pub fn from_unix_millis(millis: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(millis)
}

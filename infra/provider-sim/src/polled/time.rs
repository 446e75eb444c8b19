//! Times as the APIs write them: RFC 3339, in UTC.

use chrono::{DateTime, SecondsFormat, Utc};

/// `ms` since the Unix epoch, with milliseconds and `Z`.
pub(crate) fn written(ms: i64) -> String {
    DateTime::<Utc>::from_timestamp_millis(ms)
        .unwrap_or_default()
        .to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The same, with milliseconds only where there are any.
pub(crate) fn written_short(ms: i64) -> String {
    DateTime::<Utc>::from_timestamp_millis(ms)
        .unwrap_or_default()
        .to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// The milliseconds since the Unix epoch that `text` stands for.
pub(crate) fn read(text: &str) -> Option<i64> {
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    Some(time.timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_back_as_they_were_written() {
        assert_eq!(written(1_790_000_000_007), "2026-09-21T14:13:20.007Z");
        assert_eq!(written_short(1_790_000_000_000), "2026-09-21T14:13:20Z");
        assert_eq!(read("2026-09-21T14:13:20.007Z"), Some(1_790_000_000_007));
        assert_eq!(read("2026-09-21T16:13:20+02:00"), Some(1_790_000_000_000));
        assert_eq!(read("yesterday"), None);
    }
}

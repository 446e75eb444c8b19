//! `Retry-After`: how long a server wants to be left in peace.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{self, HeaderMap};

/// `Retry-After`, in seconds (some servers send fractions) or as a date; none for a date that has passed.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.trim().parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = DateTime::parse_from_rfc2822(text).ok()?;
    (date.to_utc() - now).to_std().ok()
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = "2015-10-21T07:27:30Z".parse().unwrap();
        for (text, seconds) in [
            ("7", Some(7.0)),
            ("0.40235", Some(0.40235)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(30.0)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", None),
            ("-1", None),
            ("inf", None),
            ("NaN", None),
            ("soon", None),
        ] {
            let value = HeaderValue::from_static(text);
            let headers = [(header::RETRY_AFTER, value)].into_iter().collect();
            let found = retry_after(&headers, now).map(|wait| wait.as_secs_f64());
            assert_eq!(found, seconds, "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}

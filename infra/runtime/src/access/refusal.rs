//! Why a request is turned away, as its sender and the metrics are told.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::metrics::Outcome;
use crate::http::Problem;

/// A request that does not get to its route.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(super) problem: Problem,
    pub(super) outcome: Outcome,
    /// When to come again, if the time is known.
    retry_after: Option<Duration>,
}

impl Refusal {
    /// The request carries no credential.
    pub(super) fn no_credential(detail: &str) -> Self {
        let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail);
        Self::new(problem, Outcome::NoCredential)
    }

    /// What the request carries cannot be read as one credential.
    pub(super) fn unreadable(detail: &str) -> Self {
        let problem = Problem::bad_request("unreadable-credential", detail);
        Self::new(problem, Outcome::UnreadableCredential)
    }

    /// The credential does not count.
    pub(super) fn invalid(name: &str, detail: impl Into<String>) -> Self {
        let problem = Problem::new(StatusCode::UNAUTHORIZED, name, detail);
        Self::new(problem, Outcome::InvalidCredential)
    }

    /// The credential is none that is known here.
    pub(super) fn unknown() -> Self {
        let detail = "the credential is not known here; it may have been revoked or have expired";
        Self::invalid("unauthorized", detail)
    }

    /// The principal may not do this.
    pub(super) fn forbidden(name: &str, detail: impl Into<String>) -> Self {
        let problem = Problem::new(StatusCode::FORBIDDEN, name, detail);
        Self::new(problem, Outcome::Forbidden)
    }

    /// The path does not take the method.
    pub(super) fn not_allowed() -> Self {
        let detail = "this path does not take this method";
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let problem = Problem::new(status, "method-not-allowed", detail);
        Self::new(problem, Outcome::NotAllowed)
    }

    /// Too much was asked in too short a time.
    pub(super) fn rate_limited(wait: Duration, detail: &str) -> Self {
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", detail);
        Self {
            retry_after: Some(wait),
            ..Self::new(problem, Outcome::RateLimited)
        }
    }

    /// Whoever could tell what the credential is worth does not answer.
    pub(super) fn unverifiable(who: &str) -> Self {
        let detail = format!(
            "the credential cannot be verified for the moment, because {who} does not answer; try again"
        );
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let problem = Problem::new(status, "credentials-unverifiable", detail);
        Self::new(problem, Outcome::Unverifiable)
    }

    fn new(problem: Problem, outcome: Outcome) -> Self {
        Self {
            problem,
            outcome,
            retry_after: None,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.problem.into_response();
        let headers = response.headers_mut();
        if self.outcome == Outcome::InvalidCredential {
            // RFC 6750: who has sent no credential is told of no error.
            let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, whole_seconds(wait).into());
        }
        response
    }
}

/// The header has whole seconds; who comes back after them must not be too early.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sent_in_vain_is_called_an_invalid_token() {
        let challenge = |refusal: Refusal| {
            let response = refusal.into_response();
            let value = response.headers().get(header::WWW_AUTHENTICATE);
            value.map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(challenge(Refusal::no_credential("x")).unwrap(), "Bearer");
        let invalid = challenge(Refusal::unknown()).unwrap();
        assert_eq!(invalid, "Bearer error=\"invalid_token\"");
        assert_eq!(challenge(Refusal::forbidden("x", "y")), None);
        assert_eq!(challenge(Refusal::unverifiable("x")), None);
    }

    #[test]
    fn the_time_to_come_again_is_never_too_early() {
        for (millis, seconds) in [(1, "1"), (1000, "1"), (1001, "2"), (59_500, "60")] {
            let refusal = Refusal::rate_limited(Duration::from_millis(millis), "x");
            let response = refusal.into_response();
            assert_eq!(response.headers()[header::RETRY_AFTER], seconds);
        }
    }
}

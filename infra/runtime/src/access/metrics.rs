//! Metrics of access control.

use std::sync::LazyLock;

use opentelemetry::KeyValue;
use opentelemetry::global;
use opentelemetry::metrics::{Counter, Meter};

use super::Kind;

static METER: LazyLock<Meter> = LazyLock::new(|| global::meter("headrace"));

static REQUESTS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_access_requests")
        .with_description("Requests by what the guard said, and by what they came with")
        .build()
});

static KEY_CHECKS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_access_key_checks")
        .with_description("API keys that were to be checked, by where the answer came from")
        .build()
});

static JWKS_FETCHES: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_access_jwks_fetches")
        .with_description("Attempts to read the keys of the tokens' issuer")
        .build()
});

/// What the guard said to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Allowed,
    NoCredential,
    UnreadableCredential,
    InvalidCredential,
    Forbidden,
    NotAllowed,
    RateLimited,
    Unverifiable,
}

impl Outcome {
    const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::NoCredential => "no_credential",
            Self::UnreadableCredential => "unreadable_credential",
            Self::InvalidCredential => "invalid_credential",
            Self::Forbidden => "forbidden",
            Self::NotAllowed => "method_not_allowed",
            Self::RateLimited => "rate_limited",
            Self::Unverifiable => "unverifiable",
        }
    }
}

/// Where it was known from what an API key is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyCheckOutcome {
    /// A recent answer.
    Hit,
    /// The source was asked.
    Miss,
    /// An older answer, because the source is away.
    Grace,
    /// From nowhere: the source is away.
    Failed,
    /// From nowhere: too many unknown keys were sent.
    Limited,
}

pub(super) fn request(outcome: Outcome, kind: Option<Kind>) {
    let kind = kind.map_or("none", Kind::name);
    let labels = [
        KeyValue::new("outcome", outcome.name()),
        KeyValue::new("kind", kind),
    ];
    REQUESTS.add(1, &labels);
}

pub(super) fn key_check(outcome: KeyCheckOutcome) {
    let outcome = match outcome {
        KeyCheckOutcome::Hit => "hit",
        KeyCheckOutcome::Miss => "miss",
        KeyCheckOutcome::Grace => "grace",
        KeyCheckOutcome::Failed => "failed",
        KeyCheckOutcome::Limited => "limited",
    };
    KEY_CHECKS.add(1, &[KeyValue::new("outcome", outcome)]);
}

pub(super) fn jwks_fetch(fetched: bool) {
    let outcome = if fetched { "ok" } else { "failed" };
    JWKS_FETCHES.add(1, &[KeyValue::new("outcome", outcome)]);
}

//! Whether a vehicle is fresh, and why not: the whole decision. Pure.
//!
//! A silence has one of three causes:
//!
//! * `provider_outage`: the connection that the vehicle is heard from through was out before the silence
//!   became a fact. It stays so until the outage is over and the vehicle has had its limit again;
//! * `pipeline_late`: not all that was said until then has been applied, so the silence is not proven;
//! * `source_silent`: the rest. Once found it stays, until the vehicle is heard from.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::freshness::{Freshness, Judgement, Limits, Run, freshness_at, later};

/// Why a vehicle that was heard from is not fresh.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    sqlx::Type,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Cause {
    /// The vehicle says nothing, as far as anybody knows.
    SourceSilent,
    /// The events that would tell may still be on their way.
    PipelineLate,
    /// The provider's connection is out.
    ProviderOutage,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 3] = [Self::SourceSilent, Self::PipelineLate, Self::ProviderOutage];

    /// The name used in JSON, tables and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SourceSilent => "source_silent",
            Self::PipelineLate => "pipeline_late",
            Self::ProviderOutage => "provider_outage",
        }
    }
}

/// An incident, as far as it matters to the vehicles behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// The incident.
    pub incident: Uuid,
    /// When it began (UTC).
    pub began: DateTime<Utc>,
    /// When it ended (UTC); none while it lasts.
    pub ended: Option<DateTime<Utc>>,
}

impl Outage {
    /// Until when it explains the silence of a vehicle with `limits`; none while it lasts.
    fn explains_until(&self, limits: Limits) -> Option<DateTime<Utc>> {
        self.ended.map(|ended| later(ended, limits.stale_after))
    }
}

/// Why a vehicle is not fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// See [`Cause::SourceSilent`].
    Silent,
    /// See [`Cause::PipelineLate`].
    Late,
    /// See [`Cause::ProviderOutage`].
    Out(Outage),
}

impl Why {
    /// The cause alone.
    #[must_use]
    pub const fn cause(self) -> Cause {
        match self {
            Self::Silent => Cause::SourceSilent,
            Self::Late => Cause::PipelineLate,
            Self::Out(_) => Cause::ProviderOutage,
        }
    }

    /// The incident, where the cause is one.
    #[must_use]
    pub const fn incident(self) -> Option<Uuid> {
        match self {
            Self::Out(outage) => Some(outage.incident),
            Self::Silent | Self::Late => None,
        }
    }
}

/// What is known beside a vehicle's receipts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// Why it was not fresh when it was judged last, if it has not been fresh since.
    pub before: Option<Why>,
    /// The outage, not over, of the connection that it is heard from through.
    pub outage: Option<Outage>,
    /// Until when everything that was said has been applied (UTC).
    pub proven_until: DateTime<Utc>,
}

/// A vehicle's freshness at one time, how long that holds, and why it is not fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The freshness. Its deadline is the end of a cause as well; a late pipeline has none.
    pub judgement: Judgement,
    /// Why it is not fresh; none if it is.
    pub why: Option<Why>,
}

/// What to make at `now` of a vehicle whose latest receipts are `heard`.
#[must_use]
pub fn judge(heard: Run, limits: Limits, evidence: &Evidence, now: DateTime<Utc>) -> Verdict {
    let mut judgement = freshness_at(heard, now, limits);
    if judgement.freshness == Freshness::Fresh {
        return Verdict {
            judgement,
            why: None,
        };
    }
    let why = why(heard, limits, evidence, judgement.since, now);
    if let Why::Out(outage) = why {
        let ends = [judgement.deadline, outage.explains_until(limits)];
        judgement.deadline = ends.into_iter().flatten().min();
    }
    Verdict {
        judgement,
        why: Some(why),
    }
}

fn why(
    heard: Run,
    limits: Limits,
    evidence: &Evidence,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Why {
    let mut silent_at = later(heard.last, limits.stale_after);
    match evidence.before {
        Some(Why::Silent) => return Why::Silent,
        Some(Why::Out(outage)) => match outage.explains_until(limits) {
            Some(end) if end <= now => silent_at = silent_at.max(end),
            _ => return Why::Out(outage),
        },
        Some(Why::Late) | None => {}
    }
    match evidence.outage {
        Some(outage) if outage.began <= silent_at => Why::Out(outage),
        _ if since > evidence.proven_until => Why::Late,
        _ => Why::Silent,
    }
}

/// Until when everything that was said has been applied, for a projection that is `lag` behind: as long
/// as that is no more than `late_after`, until `now`. Without a lag nothing is known, and nothing proven.
#[must_use]
pub fn proven_until(
    lag: Option<TimeDelta>,
    late_after: TimeDelta,
    now: DateTime<Utc>,
) -> DateTime<Utc> {
    match lag {
        None => DateTime::UNIX_EPOCH,
        Some(lag) if lag > late_after => now
            .checked_sub_signed(lag)
            .map_or(DateTime::UNIX_EPOCH, |until| {
                until.max(DateTime::UNIX_EPOCH)
            }),
        Some(_) => now,
    }
}

#[cfg(test)]
mod tests;

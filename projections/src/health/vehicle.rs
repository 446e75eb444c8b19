//! What is known of a vehicle's health, and how it moves on. Pure.
//!
//! Two things are kept apart: what the vehicle's health *is*, every change of which goes to the history,
//! and what was last *said* of it on the event bus. While an incident explains a silence nothing is said,
//! since the incident's own event stands for it; what is still so afterwards is said then.

use chrono::{DateTime, Utc};
use shared_model::event::VehicleHealthChanged;
use shared_model::{ConnectionId, Provider};
use uuid::Uuid;

use super::fold::Heard;
use super::freshness::{Freshness, Judgement, Run, later};
use super::judgement::{Cause, Evidence, Verdict, Why, judge};
use super::limits::LimitsByProvider;
use super::situation::Situation;
use crate::VehicleKey;

/// What is known of a vehicle's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vehicle {
    /// Which one.
    pub key: VehicleKey,
    /// The connection that registered it, if it is known.
    pub connection: Option<ConnectionId>,
    /// The provider that it was last heard from through, if it is known.
    pub provider: Option<Provider>,
    /// Its latest receipts; none if it was never heard from.
    pub heard: Option<Run>,
    /// Its freshness as judged last.
    pub judgement: Judgement,
    /// Why it is not fresh.
    pub cause: Option<Cause>,
    /// The incident, where that is the cause.
    pub incident: Option<Uuid>,
    /// What was last said of it.
    pub said: Option<(Freshness, Option<Cause>)>,
    /// How many times anything was said of it.
    pub number: u64,
    /// It became known just now.
    pub is_new: bool,
}

/// A change of a vehicle's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The vehicle.
    pub key: VehicleKey,
    /// The freshness before; none if the vehicle was not known.
    pub previous: Option<Freshness>,
    /// The freshness now.
    pub freshness: Freshness,
    /// When it began (UTC).
    pub since: DateTime<Utc>,
    /// Why it is not fresh.
    pub cause: Option<Cause>,
    /// The incident, where that is the cause.
    pub incident: Option<Uuid>,
    /// The provider that the vehicle was last heard from through.
    pub provider: Option<Provider>,
    /// When that was (UTC).
    pub last_received_at: Option<DateTime<Utc>>,
    /// The vehicle's number of the event that says so, and the freshness that was said before; none
    /// where an incident stands for it.
    pub said: Option<(u64, Option<Freshness>)>,
}

impl Transition {
    /// The event's data, if the change is said.
    #[must_use]
    pub fn fact(&self) -> Option<VehicleHealthChanged> {
        let (number, previous) = self.said?;
        Some(VehicleHealthChanged {
            vehicle: self.key.vehicle.clone(),
            number,
            freshness: self.freshness.name().to_owned(),
            previous: previous.map(|freshness| freshness.name().to_owned()),
            cause: self.cause.map(|cause| cause.name().to_owned()),
            incident: self.incident,
            provider: self.provider.clone(),
            since: self.since,
            last_received_at: self.last_received_at,
        })
    }
}

/// What a vehicle learns from events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Nothing.
    None,
    /// Whose it is.
    Origin,
    /// That it was heard from.
    Receipts,
}

impl Vehicle {
    /// A vehicle that becomes known at `since` (UTC).
    #[must_use]
    pub const fn new(key: VehicleKey, since: DateTime<Utc>) -> Self {
        Self {
            key,
            connection: None,
            provider: None,
            heard: None,
            judgement: Judgement::never_seen(since),
            cause: None,
            incident: None,
            said: None,
            number: 0,
            is_new: true,
        }
    }

    /// Takes in what events say, where it is news.
    pub fn take(&mut self, said: &Heard, limits: &LimitsByProvider) -> News {
        let mut news = News::None;
        if let Some(registration) = &said.registration
            && self.connection.is_none()
        {
            self.connection = Some(registration.connection);
            self.provider
                .get_or_insert_with(|| registration.provider.clone());
            news = News::Origin;
        }
        let Some((&newest, provider)) = said.receipts.last_key_value() else {
            return news;
        };
        if self.heard.is_some_and(|known| newest <= known.last) {
            return news;
        }
        if provider.is_some() {
            self.provider.clone_from(provider);
        }
        let limits = limits.of(self.provider.as_ref());
        let Some(mut run) = Run::latest(said.receipts.keys().copied(), limits) else {
            return news;
        };
        // Receipts that follow before the vehicle would have been stale go on with its run.
        if let Some(known) = self.heard
            && run.since < later(known.last, limits.stale_after)
        {
            run.since = run.since.min(known.since);
        }
        self.heard = Some(run);
        News::Receipts
    }

    /// Judges anew, and says what has changed since it was `before`.
    pub fn judge(
        &mut self,
        before: &Self,
        limits: &LimitsByProvider,
        situation: &Situation,
        now: DateTime<Utc>,
    ) -> Option<Transition> {
        let Verdict { judgement, why } = match self.heard {
            None => Verdict {
                judgement: Judgement::never_seen(self.judgement.since),
                why: None,
            },
            Some(run) => {
                let limits = limits.of(self.provider.as_ref());
                let evidence = Evidence {
                    before: self.why(situation),
                    outage: situation.outage_of(self),
                    proven_until: situation.proven_until,
                };
                judge(run, limits, &evidence, now)
            }
        };
        self.judgement = judgement;
        self.cause = why.map(Why::cause);
        self.incident = why.and_then(Why::incident);
        let is = |vehicle: &Self| {
            let freshness = vehicle.judgement.freshness;
            (freshness, vehicle.cause, vehicle.incident)
        };
        if !self.is_new && is(self) == is(before) {
            return None;
        }
        let previous = Some(before.judgement.freshness).filter(|_| !self.is_new);
        self.is_new = false;
        Some(Transition {
            key: self.key.clone(),
            previous,
            freshness: self.judgement.freshness,
            since: self.judgement.since,
            cause: self.cause,
            incident: self.incident,
            provider: self.provider.clone(),
            last_received_at: self.heard.map(|run| run.last),
            said: self.say(),
        })
    }

    /// Says how the vehicle is, unless that was said last or an incident stands for it.
    fn say(&mut self) -> Option<(u64, Option<Freshness>)> {
        let now = (self.judgement.freshness, self.cause);
        if self.cause == Some(Cause::ProviderOutage) || self.said == Some(now) {
            return None;
        }
        let previous = self.said.replace(now).map(|(freshness, _)| freshness);
        self.number += 1;
        Some((self.number, previous))
    }

    fn why(&self, situation: &Situation) -> Option<Why> {
        Some(match self.cause? {
            Cause::SourceSilent => Why::Silent,
            Cause::PipelineLate => Why::Late,
            Cause::ProviderOutage => Why::Out(situation.outage(self.incident?)),
        })
    }
}

#[cfg(test)]
mod tests;

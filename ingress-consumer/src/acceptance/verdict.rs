//! Verdicts: what became of each frame, and of each observation in it.

use shared_model::{Reading, Signal};

use crate::decide::Verdict;
use crate::store::vehicle::VehicleKey;

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameVerdict {
    /// At least one of its observations is the state now.
    Accepted,
    /// Nothing that was not known already.
    Duplicate,
    /// Something newer was known already.
    Stale,
    /// Of the same time something else was known, which wins the tie-break.
    Conflict,
    /// It holds no value of any signal.
    NoValue,
    /// It cannot be interpreted; it is kept, with the reason.
    Parked,
}

impl FrameVerdict {
    /// Every verdict.
    pub const ALL: [Self; 6] = [
        Self::Accepted,
        Self::Duplicate,
        Self::Stale,
        Self::Conflict,
        Self::NoValue,
        Self::Parked,
    ];

    /// The word for it in answers and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
            Self::Conflict => "conflict",
            Self::NoValue => "no_value",
            Self::Parked => "parked",
        }
    }
}

/// What became of a frame, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameReport {
    /// What became of it.
    pub verdict: FrameVerdict,
    /// Why, where the verdict does not say it all: of a parked frame, the reason's name and details.
    pub reason: Option<String>,
    /// What became of its observations, in their order in the frame.
    pub observations: Vec<ObservationReport>,
}

/// What became of an observation, or of a signal without a value.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservationReport {
    /// The vehicle.
    pub vehicle: VehicleKey,
    /// What was observed.
    pub signal: Signal,
    /// The value with its times and source; `None` for a signal without a value.
    pub reading: Option<Reading>,
    /// What became of it; `None` for a signal without a value.
    pub verdict: Option<Verdict>,
    /// Its clock was ahead, so its time was not believed.
    pub clock_ahead: bool,
    /// What it lost against, or is a repeat of.
    pub against: Option<Reading>,
}

impl ObservationReport {
    /// The word for what became of it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self.verdict {
            Some(verdict) => verdict.name(),
            None => FrameVerdict::NoValue.name(),
        }
    }
}

/// The verdict on a frame with these observations: the best that became of any of them.
#[must_use]
pub fn overall(observations: &[ObservationReport]) -> FrameVerdict {
    let any = |verdict| {
        observations
            .iter()
            .any(|found| found.verdict == Some(verdict))
    };
    if any(Verdict::Accepted) {
        FrameVerdict::Accepted
    } else if any(Verdict::Conflict) {
        FrameVerdict::Conflict
    } else if any(Verdict::Stale) {
        FrameVerdict::Stale
    } else if any(Verdict::Duplicate) {
        FrameVerdict::Duplicate
    } else {
        FrameVerdict::NoValue
    }
}

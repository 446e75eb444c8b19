//! Why a vehicle's state is what it is: what became of its latest observations.

use axum::extract::State;
use chrono::{DateTime, Utc};
use runtime::http::{Path, Problem};
use serde::Serialize;
use shared_model::{ConnectionId, Reading, SessionId, Signal, VehicleId};

use super::Control;
use super::connections::workspace;
use crate::store::vehicle::{self, VehicleKey};
use crate::store::verdict::{self, Rejected};

/// What became of a vehicle's latest observations.
#[derive(Debug, Serialize)]
pub struct Verdicts {
    /// The newest first.
    items: Vec<Judged>,
}

/// What became of an observation.
#[derive(Debug, Serialize)]
struct Judged {
    /// When it was decided; of what is the state, when it was received.
    decided_at: DateTime<Utc>,
    /// `accepted`, `duplicate`, `stale`, `conflict` or `no_value`.
    verdict: String,
    signal: Signal,
    /// The value with its times and source; none for a signal without a value.
    reading: Option<Reading>,
    /// What it lost against, or is a repeat of.
    against: Option<Reading>,
    /// Its clock was ahead, so it counts from when it was received.
    clock_ahead: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<ConnectionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<SessionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frame: Option<u64>,
}

impl From<Rejected> for Judged {
    fn from(rejected: Rejected) -> Self {
        Self {
            decided_at: rejected.decided_at,
            verdict: rejected.verdict,
            signal: rejected.signal,
            reading: rejected.reading,
            against: rejected.against,
            clock_ahead: rejected.clock_ahead,
            connection: Some(rejected.connection),
            session: Some(rejected.session),
            frame: Some(rejected.frame),
        }
    }
}

/// The state, signal by signal, together with the latest observations that did not become it.
pub async fn list(
    State(control): State<Control>,
    Path((name, vehicle)): Path<(String, String)>,
) -> Result<axum::Json<Verdicts>, Problem> {
    let key = VehicleKey {
        workspace: workspace(&name)?,
        vehicle: VehicleId::new(vehicle)
            .map_err(|error| Problem::bad_request("invalid-vehicle", error.to_string()))?,
    };
    let mut pg = control.pool.acquire().await?;
    let known = vehicle::load(&mut pg, &[&key]).await?.remove(&key);
    let Some(known) = known else {
        let detail = format!("workspace {} has no vehicle {}", key.workspace, key.vehicle);
        return Err(Problem::not_found("vehicle-not-found", detail));
    };
    let state = known
        .state
        .signals
        .into_iter()
        .map(|(signal, reading)| Judged {
            decided_at: reading.provenance.received_at,
            verdict: crate::decide::Verdict::Accepted.name().to_owned(),
            signal,
            clock_ahead: reading.provenance.clock_ahead,
            reading: Some(reading),
            against: None,
            connection: None,
            session: None,
            frame: None,
        });
    let rejected = verdict::recent(&mut pg, &key).await?;
    let mut items: Vec<_> = rejected
        .into_iter()
        .map(Judged::from)
        .chain(state)
        .collect();
    items.sort_by_key(|item| std::cmp::Reverse(item.decided_at));
    Ok(axum::Json(Verdicts { items }))
}

//! Why a vehicle's state is what it is: what became of its latest observations.

use axum::extract::State;
use chrono::{DateTime, Utc};
use runtime::http::{Path, Problem};
use serde::Serialize;
use shared_model::{ConnectionId, Reading, SessionId, Signal};
use utoipa::ToSchema;

use super::Control;
use super::params::AtVehicle;
use super::words::observation_verdict;
use crate::store::vehicle::{self, VehicleKey};
use crate::store::verdict::{self, Rejected};

/// What became of a vehicle's latest observations.
#[derive(Debug, Serialize, ToSchema)]
pub struct Verdicts {
    /// The newest first.
    items: Vec<JudgedObservation>,
}

/// What became of an observation.
#[derive(Debug, Serialize, ToSchema)]
struct JudgedObservation {
    /// When it was decided; of what is the state, when it was received.
    decided_at: DateTime<Utc>,
    /// `accepted`, `duplicate`, `stale`, `conflict` or `no_value`.
    #[schema(schema_with = observation_verdict)]
    verdict: String,
    /// What was observed.
    signal: Signal,
    /// The value with its times and source; none for a signal without a value.
    reading: Option<Reading>,
    /// What it lost against, or is a repeat of.
    against: Option<Reading>,
    /// Its clock was ahead, so it counts from when it was received.
    clock_ahead: bool,
    /// The connection of the frame that brought it; not of what is the state.
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<ConnectionId>,
    /// That frame's session.
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<SessionId>,
    /// That frame's number in its session.
    #[serde(skip_serializing_if = "Option::is_none")]
    frame: Option<u64>,
}

impl From<Rejected> for JudgedObservation {
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

/// List what became of a vehicle's latest observations
///
/// The state, signal by signal, together with the latest observations that did not become it and what
/// each lost against.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/vehicles/{vehicle}/verdicts",
    operation_id = "listVerdicts",
    tag = "vehicles",
    params(AtVehicle),
    responses((status = 200, description = "The newest first.", body = Verdicts)),
    security(("credential" = ["read"]))
)]
pub async fn list(
    State(control): State<Control>,
    Path(at): Path<AtVehicle>,
) -> Result<axum::Json<Verdicts>, Problem> {
    let key = VehicleKey {
        workspace: at.workspace()?,
        vehicle: at.vehicle()?,
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
        .map(|(signal, reading)| JudgedObservation {
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
        .map(JudgedObservation::from)
        .chain(state)
        .collect();
    items.sort_by_key(|item| std::cmp::Reverse(item.decided_at));
    Ok(axum::Json(Verdicts { items }))
}

//! `PUT` and `DELETE /internal/v1/publishers/{instance}`: a publisher says that it is there, is told
//! what to read, and says that it has stopped.
//!
//! There is no task that watches over leases: each heartbeat looks at all of them. So what a publisher
//! leaves behind is placed by the next heartbeat of any other, and each is told to ask again when the
//! next lease could end.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use runtime::db;
use runtime::http::{Json, Path, Problem, Query};
use serde::Deserialize;
use shared_model::ConnectionId;
use shared_model::control::{Assignment, Heartbeat, StreamAssignment};
use sqlx::{Postgres, Transaction};
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

use super::{Control, installation};
use crate::config::OwnershipConfig;
use crate::metrics;
use crate::placement::{Policy, Step, place};
use crate::store::{StoreError, session_source, status, stream};

/// How soon to ask again while a stream is on its way from one publisher to another.
const WHILE_MOVING: Duration = Duration::from_millis(500);
/// A lease is over only once its end has passed.
const AFTER_THE_END: Duration = Duration::from_millis(20);

/// What a heartbeat is answered with, but for what is fixed.
struct Answer {
    /// How many streams change hands, by how; told once the transaction is committed.
    changes: [(&'static str, usize); 3],
    publisher_epoch: u64,
    ask_again: Duration,
    takers: u32,
    say_again: Vec<ConnectionId>,
    version: String,
    streams: Option<Vec<StreamAssignment>>,
}

pub async fn heartbeat(
    State(control): State<Control>,
    Path(instance): Path<String>,
    Json(heartbeat): Json<Heartbeat>,
) -> Result<axum::Json<Assignment>, Problem> {
    check(&instance)?;
    let installation = installation(&mut *control.pool.acquire().await?).await?;
    let ownership = &control.ownership;
    let answer = db::in_tx(&control.pool, "heartbeat", |tx| {
        answer(tx, &instance, &heartbeat, ownership)
    })
    .await?
    .ok_or_else(|| {
        let detail = format!(
            "another process that goes by the name {instance:?} was started later: give each publisher \
             a host name of its own"
        );
        Problem::new(StatusCode::CONFLICT, "publisher-superseded", detail)
    })?;
    let (instance, sessions) = (&instance, &heartbeat.sessions);
    if !sessions.is_empty() {
        let age = control.patience;
        // By itself: it needs nothing of what heartbeats wait for one another for.
        db::in_tx(&control.pool, "session_sources", |mut tx| async move {
            session_source::tell(&mut tx, instance, sessions, age).await?;
            Ok::<_, StoreError>((tx, ()))
        })
        .await?;
    }
    for (change, count) in answer.changes {
        if count > 0 {
            tracing::info!(
                change,
                streams = count,
                by = instance,
                "streams changed hands"
            );
            metrics::placed(change, count as u64);
        }
    }
    Ok(axum::Json(Assignment {
        partitions: installation.partitions,
        partition_max_bytes: installation.partition_max_bytes,
        publisher_epoch: answer.publisher_epoch,
        lease_ms: millis(ownership.lease),
        ask_again_ms: millis(answer.ask_again),
        takers: answer.takers,
        say_again: answer.say_again,
        version: answer.version,
        streams: answer.streams,
    }))
}

async fn answer(
    mut tx: Transaction<'static, Postgres>,
    instance: &str,
    heartbeat: &Heartbeat,
    ownership: &OwnershipConfig,
) -> Result<(Transaction<'static, Postgres>, Option<Answer>), StoreError> {
    let pg = &mut *tx;
    stream::lock(pg).await?;
    let beat = stream::beat(pg, instance, heartbeat, ownership.lease).await?;
    let Some(publisher_epoch) = beat else {
        return Ok((tx, None));
    };
    stream::closed(pg, instance, &heartbeat.released).await?;
    stream::report(pg, instance, &heartbeat.reports, ownership.overlap).await?;

    let publishers = stream::publishers(pg).await?;
    let views = stream::views(pg).await?;
    let policy = Policy {
        moves: ownership.moves as usize,
    };
    let (mut granted, mut handed, mut asked) = (Vec::new(), Vec::new(), Vec::new());
    for step in place(&publishers, &views, policy) {
        match step {
            Step::Grant { connection, to } => granted.push((connection, to)),
            Step::HandOver { connection, to } => handed.push((connection, to)),
            Step::AskBack { connection } => asked.push(connection),
        }
    }
    stream::grant(pg, &granted).await?;
    stream::hand_over(pg, &handed, ownership.handover_limit).await?;
    stream::ask_back(pg, &asked).await?;
    let assigned = stream::assigned(pg, instance).await?;
    let version = version(&assigned);
    let streams = if heartbeat.known.as_ref() == Some(&version) {
        None
    } else {
        Some(stream::assignments(pg, &assigned).await?)
    };
    let mut ask_again = ownership.lease / 3;
    if let Some(end) = stream::next_end(pg, instance).await? {
        ask_again = ask_again.min(end + AFTER_THE_END);
    }
    if heartbeat.draining || stream::is_moving(pg, instance).await? {
        ask_again = ask_again.min(WHILE_MOVING);
    }
    let takers = publishers
        .iter()
        .filter(|publisher| !publisher.draining && publisher.instance != instance);
    let answer = Answer {
        changes: [
            ("granted", granted.len()),
            ("handed_over", handed.len()),
            ("asked_back", asked.len()),
        ],
        publisher_epoch,
        ask_again,
        say_again: status::to_be_said_again(pg, instance).await?,
        takers: u32::try_from(takers.count()).unwrap_or(u32::MAX),
        version,
        streams,
    };
    Ok((tx, Some(answer)))
}

#[derive(Debug, Deserialize)]
pub struct Leaving {
    incarnation: Uuid,
}

pub async fn leave(
    State(control): State<Control>,
    Path(instance): Path<String>,
    Query(leaving): Query<Leaving>,
) -> Result<StatusCode, Problem> {
    check(&instance)?;
    let instance = &instance;
    let left = db::in_tx(&control.pool, "leave", |mut tx| async move {
        stream::lock(&mut tx).await?;
        let left = stream::leave(&mut tx, instance, leaving.incarnation).await?;
        Ok::<_, StoreError>((tx, left))
    })
    .await?;
    if left {
        tracing::info!(instance, "a publisher has stopped");
    }
    // Who is not known, or was started anew, holds nothing under this incarnation either.
    Ok(StatusCode::NO_CONTENT)
}

fn check(instance: &str) -> Result<(), Problem> {
    if instance.is_empty() || instance.len() > 255 || instance.contains(char::is_control) {
        let detail = "an instance's name has 1 to 255 bytes and no control characters";
        return Err(Problem::bad_request("invalid-instance", detail));
    }
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The same for the same streams under the same epochs. A connection never changes, so these two
/// stand for all of it.
fn version(assigned: &[(ConnectionId, u64)]) -> String {
    let mut hash = Xxh3::new();
    for (connection, epoch) in assigned {
        hash.update(connection.0.as_bytes());
        hash.update(&epoch.to_le_bytes());
    }
    format!("{:032x}", hash.digest128())
}

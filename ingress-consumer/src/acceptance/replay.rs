//! Replays: parked frames that are offered again, after an interpreter or a connection was put right.
//!
//! A replayed frame goes the way of all frames, with the time, session and number that it had. What
//! can be read now is parked no longer, in the transaction of its effect; what still cannot stays,
//! with the reason of now. A whole message is decoded again, and its frames are new.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rangemap::RangeInclusiveSet;
use runtime::db;
use serde_json::Value;
use shared_model::envelope::Attributes;
use shared_model::{
    ConnectionId, Envelope, EnvelopeError, Frame, FrameKind, FrameOrigin, Provider, SessionId,
    WorkspaceId,
};
use sqlx::PgConnection;

use super::verdict::{FrameReport, FrameVerdict};
use super::{Acceptance, Alone, Companion, Offering, Received};
use crate::interpret::{Reason, Unreadable};
use crate::store::parked::{self, Row};
use crate::store::{StoreError, small, unsigned};

/// A parked frame that is replayed.
#[derive(Debug, Clone)]
pub struct Replaying {
    /// What is known of it.
    pub row: Row,
    /// The frame, byte for byte.
    pub body: Vec<u8>,
}

/// What a replay made of a parked frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Replayed {
    /// The parked frame.
    pub id: i64,
    /// How many copies it stands for, itself included.
    pub copies: u64,
    /// What became of it, or of each frame of a whole message.
    pub reports: Vec<FrameReport>,
}

impl Replayed {
    /// Whether it is parked still.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        // The frames of a message that is decoded are parked by themselves, and the message is not.
        matches!(self.reports.as_slice(), [report] if report.verdict == FrameVerdict::Parked)
    }
}

/// What is offered of a row.
enum Content {
    Frame(Received),
    Message(Vec<Received>),
    Nothing(Unreadable),
}

impl Acceptance {
    /// Offers parked frames again, and tells what became of each, in order. On an error, some may
    /// have had their effect; all may be replayed again.
    pub async fn replay(&self, rows: &[Replaying]) -> Result<Vec<Replayed>, StoreError> {
        self.replay_or_foresee(rows, true).await
    }

    /// What would become of parked frames, were they replayed now. Changes nothing.
    pub async fn preview_replay(&self, rows: &[Replaying]) -> Result<Vec<Replayed>, StoreError> {
        self.replay_or_foresee(rows, false).await
    }

    async fn replay_or_foresee(
        &self,
        rows: &[Replaying],
        for_good: bool,
    ) -> Result<Vec<Replayed>, StoreError> {
        let mut frames = Vec::new();
        let mut of_frames = Vec::new();
        let mut reports = BTreeMap::new();
        for row in rows {
            let id = row.row.id;
            match content(row) {
                Content::Frame(received) => {
                    frames.push(received);
                    of_frames.push(id);
                }
                Content::Message(received) => {
                    let done = if for_good {
                        self.offer(&received, &Unparked(id), Offering::Delivered)
                            .await?
                    } else {
                        self.foresee(&received, Offering::Delivered).await?
                    };
                    reports.insert(id, done);
                }
                Content::Nothing(unreadable) => {
                    if for_good {
                        self.park_again(id, &unreadable).await?;
                    }
                    let reason = format!("{}: {}", unreadable.reason.name(), unreadable.detail);
                    let report = FrameReport {
                        verdict: FrameVerdict::Parked,
                        reason: Some(reason),
                        observations: Vec::new(),
                    };
                    reports.insert(id, vec![report]);
                }
            }
        }
        if !frames.is_empty() {
            let done = if for_good {
                self.offer(&frames, &Alone, Offering::Replayed).await?
            } else {
                self.foresee(&frames, Offering::Replayed).await?
            };
            let done = done.into_iter().map(|report| vec![report]);
            reports.extend(of_frames.into_iter().zip(done));
        }
        let replayed = rows.iter().map(|Replaying { row, .. }| Replayed {
            id: row.id,
            copies: 1 + unsigned(row.repeats),
            reports: reports.remove(&row.id).unwrap_or_default(),
        });
        Ok(replayed.collect())
    }

    async fn park_again(&self, id: i64, unreadable: &Unreadable) -> Result<(), StoreError> {
        db::in_tx(&self.pool, "park_again", |mut tx| async move {
            let reason = unreadable.reason.name();
            parked::park_again(&mut tx, id, reason, &unreadable.detail).await?;
            Ok::<_, StoreError>((tx, ()))
        })
        .await
    }
}

/// The message whose frames are accepted is parked no longer.
struct Unparked(i64);

impl Companion for Unparked {
    fn write<'a>(
        &'a self,
        pg: &'a mut PgConnection,
        _reports: &'a [FrameReport],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        // Another replay may have been faster: the same frames have the same effect.
        async move { parked::remove(pg, self.0).await.map(drop) }.boxed()
    }
}

fn content(replaying: &Replaying) -> Content {
    if let Some(headers) = &replaying.row.headers {
        return match message(headers, &replaying.body) {
            Ok(received) => Content::Message(received),
            Err(unreadable) => Content::Nothing(unreadable),
        };
    }
    frame(replaying).map_or_else(
        || {
            let detail = "it was parked by a version that did not keep whose it said to be";
            Content::Nothing(Unreadable::new(Reason::ConnectionMismatch, detail))
        },
        Content::Frame,
    )
}

/// The frame as it was received; `None` if the row does not say enough.
fn frame(Replaying { row, body }: &Replaying) -> Option<Received> {
    let workspace = row.claimed_workspace.as_ref().or(row.workspace.as_ref())?;
    let partition = match row.frame_partition {
        Some(partition) => small(partition),
        None => row.identity.split('/').nth(1)?.parse().ok()?,
    };
    let origin = row.frame_origin.as_deref();
    let origin = [FrameOrigin::State, FrameOrigin::Backfill]
        .into_iter()
        .find(|known| origin == Some(known.name()));
    Some(Received {
        attributes: Arc::new(Attributes {
            provider: Provider::new(row.provider.as_deref()?).ok()?,
            workspace: WorkspaceId::new(workspace.as_str()).ok()?,
            connection: ConnectionId(row.connection?),
            session: SessionId(row.session?),
            epoch: 0,
            owner: String::new(),
        }),
        partition,
        frame: Frame {
            number: unsigned(row.frame_number?),
            received_at: row.received_at?,
            kind: FrameKind::Text,
            origin: origin.unwrap_or_default(),
            body: Bytes::copy_from_slice(body),
        },
        conflated: RangeInclusiveSet::new(),
    })
}

fn message(headers: &Value, body: &[u8]) -> Result<Vec<Received>, Unreadable> {
    let headers = headers.as_object().into_iter().flatten();
    let headers: BTreeMap<_, _> = headers
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect();
    let envelope = Envelope::decode(&headers, &Bytes::copy_from_slice(body)).map_err(|error| {
        let reason = match error {
            EnvelopeError::VersionUnknown { .. } => Reason::UnsupportedVersion,
            EnvelopeError::HeaderMissing(_)
            | EnvelopeError::HeaderInvalid { .. }
            | EnvelopeError::BodyInvalid { .. } => Reason::UndecodableEnvelope,
        };
        Unreadable::new(reason, error.to_string())
    })?;
    let attributes = Arc::new(envelope.attributes);
    let mut conflated = envelope.conflated;
    let frames = envelope.frames.into_iter().map(|frame| Received {
        attributes: Arc::clone(&attributes),
        partition: envelope.partition,
        frame,
        conflated: std::mem::take(&mut conflated),
    });
    Ok(frames.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared_model::time;

    use super::*;

    const SESSION: &str = "01890a5d-ac96-774b-bcce-b302099a8058";

    fn row() -> Row {
        let at = time::from_unix_millis(1_700_000_000_000).unwrap();
        Row {
            id: 7,
            identity: format!("{SESSION}/3/9"),
            workspace: None,
            claimed_workspace: Some("w".to_owned()),
            connection: Some("01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap()),
            provider: Some("viriciti".to_owned()),
            session: Some(SESSION.parse().unwrap()),
            frame_partition: Some(2),
            frame_number: Some(9),
            frame_origin: Some("backfill".to_owned()),
            received_at: Some(at),
            parked_at: at,
            last_at: at,
            reason: "connection_mismatch".to_owned(),
            detail: String::new(),
            headers: None,
            size: 2,
            attempts: 0,
            repeats: 0,
        }
    }

    fn of(row: Row) -> Option<Received> {
        let body = b"{}".to_vec();
        frame(&Replaying { row, body })
    }

    #[test]
    fn a_frame_is_as_it_was() {
        let received = of(row()).unwrap();
        assert_eq!(received.attributes.workspace.as_str(), "w");
        assert_eq!((received.partition, received.frame.number), (2, 9));
        assert_eq!(received.frame.origin, FrameOrigin::Backfill);
        assert_eq!(received.frame.received_at.timestamp(), 1_700_000_000);
        assert_eq!(received.frame.body.as_ref(), b"{}");
    }

    #[test]
    fn a_row_of_an_older_version_says_enough_if_its_workspace_is_known() {
        let old = Row {
            claimed_workspace: None,
            frame_partition: None,
            frame_origin: None,
            ..row()
        };
        assert!(of(old.clone()).is_none());
        let known = Row {
            workspace: Some("w".to_owned()),
            ..old
        };
        let received = of(known).unwrap();
        assert_eq!(received.partition, 3);
        assert_eq!(received.frame.origin, FrameOrigin::Live);
    }

    #[test]
    fn a_message_that_is_no_envelope_still_says_why() {
        let unreadable = message(&json!({"headrace-envelope-version": "9.0"}), b"").unwrap_err();
        assert!(matches!(
            unreadable.reason,
            Reason::UnsupportedVersion | Reason::UndecodableEnvelope
        ));
        assert!(!unreadable.detail.is_empty());
    }
}

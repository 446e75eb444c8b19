//! Why a message is dead, as far as can be told, and what would become of it now.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared_model::{Envelope, StatusReport, connection_status};
use utoipa::ToSchema;

use super::super::words::frame_verdict;
use crate::acceptance::{Acceptance, Received};
use crate::store::StoreError;
use crate::store::dead_letter::Row;

/// How many frames are told of one by one.
const TOLD: usize = 100;

/// What would become of a message, were it delivered now.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeadLetterJudgement)]
pub struct Judgement {
    /// In words.
    pub explanation: String,
    /// Frames by verdict.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub verdicts: BTreeMap<String, u64>,
    /// The first hundred frames.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<FrameJudgement>,
}

/// What would become of a frame.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FrameJudgement {
    /// Its number in the session.
    pub number: u64,
    /// What would become of it.
    #[schema(schema_with = frame_verdict)]
    pub verdict: String,
    /// Why, where the verdict does not say it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Why the broker gave the message up, in words.
#[must_use]
pub fn cause(reason: &str, queue: &str) -> String {
    let queue = if queue.is_empty() { "its queue" } else { queue };
    match reason {
        "delivery_limit" => format!(
            "it came back to {queue} more often than its limit allows: whoever had it ended, or lost \
             the broker, each time before its effect was committed"
        ),
        "rejected" => format!("a consumer of {queue} refused it"),
        "expired" => format!("its time in {queue} ran out, which is no setting of ours"),
        "maxlen" => format!("{queue} was full and is set to drop, which is no setting of ours"),
        "" => "the broker does not say why it was given up".to_owned(),
        other => format!("the broker gave it up in {queue}: {other}"),
    }
}

/// What would become of the message now. Changes nothing, and survives a message that makes the core
/// panic.
pub async fn judge(
    acceptance: &Acceptance,
    row: &Row,
    body: &[u8],
) -> Result<Judgement, StoreError> {
    let judging = AssertUnwindSafe(look(acceptance, row, body));
    match judging.catch_unwind().await {
        Ok(judged) => judged,
        Err(panic) => {
            let words = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let words = words.or_else(|| panic.downcast_ref::<String>().cloned());
            let words = words.unwrap_or_else(|| "without a word".to_owned());
            Ok(only(format!("reading it makes the core panic: {words}")))
        }
    }
}

async fn look(acceptance: &Acceptance, row: &Row, body: &[u8]) -> Result<Judgement, StoreError> {
    if row.content_type == connection_status::CONTENT_TYPE {
        return Ok(only(match StatusReport::decode(body) {
            Ok(report) => format!(
                "it says that connection {} is {}; what is newer wins",
                report.connection,
                report.status.name()
            ),
            Err(error) => format!("it would be parked whole: {error}"),
        }));
    }
    let headers = row.headers.as_object().into_iter().flatten();
    let headers: BTreeMap<_, _> = headers
        .filter_map(|(name, value)| Some((name.clone(), Value::as_str(value)?.to_owned())))
        .collect();
    let envelope = match Envelope::decode(&headers, &Bytes::copy_from_slice(body)) {
        Ok(envelope) => envelope,
        Err(error) => {
            return Ok(only(format!(
                "it is no envelope and would be parked whole: {error}"
            )));
        }
    };
    let attributes = Arc::new(envelope.attributes);
    let mut conflated = envelope.conflated;
    let frames = envelope.frames.into_iter().map(|frame| Received {
        attributes: Arc::clone(&attributes),
        partition: envelope.partition,
        frame,
        conflated: std::mem::take(&mut conflated),
    });
    let frames: Vec<_> = frames.collect();
    let reports = acceptance.preview(&frames).await?;
    let mut judgement = only("it can be read now".to_owned());
    for (received, report) in frames.iter().zip(reports) {
        let verdict = report.verdict.name().to_owned();
        *judgement.verdicts.entry(verdict.clone()).or_default() += 1;
        if judgement.frames.len() < TOLD {
            judgement.frames.push(FrameJudgement {
                number: received.frame.number,
                verdict,
                reason: report.reason,
            });
        }
    }
    Ok(judgement)
}

fn only(explanation: String) -> Judgement {
    Judgement {
        explanation,
        ..Judgement::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_names_the_queue_if_it_is_known() {
        for reason in ["delivery_limit", "rejected", "expired", "maxlen", "new"] {
            assert!(cause(reason, "ingress.3").contains("ingress.3"), "{reason}");
            assert!(cause(reason, "").contains("its queue"), "{reason}");
        }
        assert!(cause("", "").contains("does not say"));
    }
}

//! Packing: what waits for a partition becomes messages, each with its place in the window.

use rangemap::RangeInclusiveSet;
use runtime::telemetry;
use shared_model::envelope::{self, Envelope};
use shared_model::{headers, topology};
use tracing::Span;

use crate::conflate::Conflation;
use crate::parcel::Parcel;
use crate::window::{Held, Limits, Pending, PendingFrame, group};

/// The most frames of an envelope of what is left of a conflation. Every range of replaced numbers
/// ends at a frame that was not replaced, so envelopes of so few always have room for the ranges.
const SURVIVORS: usize = envelope::MOST_CONFLATED / 4;

/// A message that is ready to leave.
#[derive(Debug)]
pub(crate) struct Load {
    /// The message.
    pub(crate) parcel: Parcel,
    /// Its place in the window, kept until it is confirmed or on the disk.
    _held: Vec<Held>,
    /// What its publishing is traced as.
    pub(crate) span: Span,
}

/// Packs for one partition.
#[derive(Debug)]
pub(crate) struct Packer {
    partition: u32,
    limits: Limits,
    conflation: Conflation,
}

impl Packer {
    /// Packs for `partition` within `limits`.
    pub(crate) fn new(partition: u32, limits: Limits) -> Self {
        Self {
            partition,
            limits,
            conflation: Conflation::default(),
        }
    }

    /// Messages of all that is pending, in its order.
    pub(crate) fn pack(&mut self, pending: impl IntoIterator<Item = Pending>) -> Vec<Load> {
        self.pack_those(pending, |_, frame| Some(frame))
    }

    /// The same, but frames that may be replaced wait here.
    pub(crate) fn pack_or_conflate(
        &mut self,
        pending: impl IntoIterator<Item = Pending>,
    ) -> Vec<Load> {
        self.pack_those(pending, Conflation::offer)
    }

    /// What the frames that wait here cost in bytes; zero if there are none.
    pub(crate) fn conflated_bytes(&self) -> usize {
        self.conflation.bytes()
    }

    /// Messages of the frames that wait here.
    pub(crate) fn pack_conflated(&mut self) -> Vec<Load> {
        let limits = Limits {
            frames: self.limits.frames.min(SURVIVORS),
            ..self.limits
        };
        let frames = self.conflation.take();
        self.envelopes(frames, limits)
    }

    fn pack_those(
        &mut self,
        pending: impl IntoIterator<Item = Pending>,
        keep: impl Fn(&mut Conflation, PendingFrame) -> Option<PendingFrame>,
    ) -> Vec<Load> {
        let (mut loads, mut frames) = (Vec::new(), Vec::new());
        for pending in pending {
            match pending {
                Pending::Frame(frame) => frames.extend(keep(&mut self.conflation, frame)),
                Pending::Message(message) => {
                    loads.extend(self.envelopes(std::mem::take(&mut frames), self.limits));
                    loads.push(Load {
                        parcel: message.parcel,
                        _held: vec![message.held],
                        span: span(self.partition, 1),
                    });
                }
            }
        }
        loads.extend(self.envelopes(frames, self.limits));
        loads
    }

    fn envelopes(&mut self, frames: Vec<PendingFrame>, limits: Limits) -> Vec<Load> {
        let envelopes = group(frames, limits).into_iter();
        envelopes
            .filter_map(|frames| {
                let session = frames.first()?.attributes.session;
                let conflated = self.conflation.report(session, envelope::MOST_CONFLATED);
                load(self.partition, frames, conflated)
            })
            .collect()
    }
}

/// One envelope; none of no frames.
fn load(
    partition: u32,
    pending: Vec<PendingFrame>,
    conflated: RangeInclusiveSet<u64>,
) -> Option<Load> {
    let attributes = pending.first()?.attributes.as_ref().clone();
    let span = span(partition, pending.len());
    let (frames, held) = pending
        .into_iter()
        .map(|pending| (pending.frame, pending.held))
        .unzip();
    let envelope = Envelope {
        attributes,
        partition,
        frames,
        conflated,
    };
    let mut all_headers = envelope.encode_headers();
    if let Some(traceparent) = span.in_scope(telemetry::traceparent) {
        all_headers.insert(headers::TRACEPARENT.to_owned(), traceparent);
    }
    let parcel = Parcel {
        message_id: envelope.message_id(),
        content_type: envelope::CONTENT_TYPE.into(),
        headers: all_headers,
        body: envelope.encode_body(),
    };
    Some(Load {
        parcel,
        _held: held,
        span,
    })
}

/// A span of publishing a message that holds so many frames.
pub(crate) fn span(partition: u32, frames: usize) -> Span {
    tracing::info_span!(
        "publish ingress",
        otel.kind = "producer",
        messaging.system = "rabbitmq",
        messaging.operation.name = "publish",
        messaging.destination.name = topology::INGRESS_EXCHANGE,
        messaging.rabbitmq.destination.routing_key = partition,
        messaging.batch.message_count = frames,
    )
}

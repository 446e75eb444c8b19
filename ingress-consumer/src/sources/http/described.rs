//! What a request may be, for the API's description, and what it is answered.

use std::borrow::Cow;

use serde::Serialize;
use utoipa::openapi::schema::{ArrayBuilder, OneOfBuilder, Schema};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::request::RawEnvelope;
use crate::acceptance::verdict::FrameReport;
use crate::control::words::frame_verdict;

/// An envelope, or an array of them. Requests are read piece by piece, so there is no value of this.
pub enum IngestRequest {}

impl PartialSchema for IngestRequest {
    fn schema() -> RefOr<Schema> {
        let envelope = Ref::from_schema_name(RawEnvelope::name());
        let several = ArrayBuilder::new()
            .items(envelope.clone())
            .min_items(Some(1));
        OneOfBuilder::new()
            .description(Some("An envelope, or an array of them."))
            .item(envelope)
            .item(several)
            .into()
    }
}

impl ToSchema for IngestRequest {
    fn name() -> Cow<'static, str> {
        "IngestRequest".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((RawEnvelope::name().into(), RawEnvelope::schema()));
        RawEnvelope::schemas(schemas);
    }
}

/// What became of a request's frames.
#[derive(Debug, Serialize, ToSchema)]
pub struct IngestAnswer<'a> {
    /// Of each frame, in order over all envelopes.
    pub frames: Vec<FrameAnswer<'a>>,
}

/// What became of a frame.
#[derive(Debug, Serialize, ToSchema)]
pub struct FrameAnswer<'a> {
    /// In a word.
    #[schema(schema_with = frame_verdict)]
    verdict: &'static str,
    /// Why, where the verdict does not say it all.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl<'a> From<&'a FrameReport> for FrameAnswer<'a> {
    fn from(report: &'a FrameReport) -> Self {
        Self {
            verdict: report.verdict.name(),
            reason: report.reason.as_deref(),
        }
    }
}

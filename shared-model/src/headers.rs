//! Names of the AMQP headers that Headrace sets.

/// Version of the envelope format, `major.minor`.
pub const ENVELOPE_VERSION: &str = "headrace-envelope-version";
/// The provider's tag.
pub const PROVIDER: &str = "headrace-provider";
/// The workspace.
pub const WORKSPACE: &str = "headrace-workspace";
/// The connection's id.
pub const CONNECTION: &str = "headrace-connection";
/// The session's id.
pub const SESSION: &str = "headrace-session";
/// The partition that the frames were numbered for.
pub const PARTITION: &str = "headrace-partition";
/// The owner epoch under which the frames were read.
pub const EPOCH: &str = "headrace-epoch";
/// The publisher instance that read the frames.
pub const OWNER: &str = "headrace-owner";
/// How many frames the body holds.
pub const FRAMES: &str = "headrace-frames";
/// Numbers of frames that newer ones replaced before they were sent.
pub const CONFLATED: &str = "headrace-conflated";
/// W3C Trace Context.
pub const TRACEPARENT: &str = "traceparent";
/// The relay that published the events: an id that each of its starts makes anew.
pub const RELAY: &str = "headrace-relay";
/// The epoch that the relay has leased the events' shard under.
pub const RELAY_EPOCH: &str = "headrace-relay-epoch";

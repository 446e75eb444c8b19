//! How a stream connection is doing: what its publisher says, as a message on the ingress queue.
//!
//! It travels like frames, through the same partitions and behind the same frames, so that it is
//! neither lost while the broker is away nor ahead of what it tells of. Reports carry absolute state
//! and are ordered by `(epoch, number)`: whichever way they arrive, the latest owner's last word counts.

use bytes::Bytes;
use chrono::{DateTime, Datelike, Utc};
use serde::{Deserialize, Serialize};

use crate::envelope::YEARS;
use crate::id::{ConnectionId, Provider, SessionId, WorkspaceId};
use crate::version::Version;

/// The version that this code writes.
pub const VERSION: Version = Version { major: 1, minor: 0 };

/// The message's media type.
pub const CONTENT_TYPE: &str = "application/vnd.headrace.connection-status+json";

/// Whether a connection is alive.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionStatus {
    /// The socket is open and the subscription sent; the provider has said nothing yet.
    Connected,
    /// The provider sends.
    Subscribed,
    /// The socket is open, and nothing has come over it for a while.
    Silent,
    /// There is no socket.
    Disconnected,
}

impl ConnectionStatus {
    /// Every status.
    pub const ALL: [Self; 4] = [
        Self::Connected,
        Self::Subscribed,
        Self::Silent,
        Self::Disconnected,
    ];

    /// The status's name on the wire, in tables and in APIs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Subscribed => "subscribed",
            Self::Silent => "silent",
            Self::Disconnected => "disconnected",
        }
    }

    /// The status called `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }
}

/// What a publisher says of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StatusReport {
    /// `major.minor` of this format.
    pub version: String,
    /// The connection.
    pub connection: ConnectionId,
    /// Whose it is.
    pub workspace: WorkspaceId,
    /// Its provider.
    pub provider: Provider,
    /// The publisher.
    pub owner: String,
    /// The owner epoch.
    pub epoch: u64,
    /// Grows with each report of the owner in this epoch; not dense.
    pub number: u64,
    /// The status.
    pub status: ConnectionStatus,
    /// Since when (UTC, the publisher's clock).
    pub since: DateTime<Utc>,
    /// Why, as a word from a closed set; see the publisher's `reason` of reconnects.
    pub reason: Option<String>,
    /// What went wrong last with this owner, even if all is well since. It holds nothing that is
    /// secret.
    pub error: Option<String>,
    /// The session that is open or was open last.
    pub session: Option<SessionId>,
    /// Frames in the last minute.
    pub frames_per_minute: u64,
    /// How often the owner had to connect again.
    pub reconnects: u64,
}

/// Why a message is not a report that this code can read.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Not JSON, or not the JSON of a report.
    #[error("not a connection status")]
    Json(#[from] serde_json::Error),
    /// A format from the future.
    #[error("connection status version {found:?} is not known here (known: {}.x)", VERSION.major)]
    VersionUnknown {
        /// The version that it states.
        found: String,
    },
    /// A number or time that no reader could store.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
}

impl StatusReport {
    /// The same for the same report, however often it is sent.
    #[must_use]
    pub fn message_id(&self) -> String {
        format!("{}/{}/{}", self.connection, self.epoch, self.number)
    }

    /// The report as a message body.
    ///
    /// # Panics
    /// Never: a report is plain data with text keys.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let body = serde_json::to_vec(self).expect("a report has text keys, so it is JSON");
        Bytes::from(body)
    }

    /// Reads a message body.
    pub fn decode(body: &[u8]) -> Result<Self, StatusError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: String,
        }
        let Versioned { version } = serde_json::from_slice(body)?;
        if Version::parse(&version).is_none_or(|found| found.major != VERSION.major) {
            return Err(StatusError::VersionUnknown { found: version });
        }
        let report: Self = serde_json::from_slice(body)?;
        for (name, number) in [
            ("epoch", report.epoch),
            ("number", report.number),
            ("frames_per_minute", report.frames_per_minute),
            ("reconnects", report.reconnects),
        ] {
            // PostgreSQL counts in signed 64 bits.
            i64::try_from(number).map_err(|_| StatusError::OutOfRange(name))?;
        }
        if !YEARS.contains(&report.since.year()) {
            return Err(StatusError::OutOfRange("since"));
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> StatusReport {
        StatusReport {
            version: VERSION.to_string(),
            connection: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
            workspace: WorkspaceId::new("demo").unwrap(),
            provider: Provider::new("viriciti").unwrap(),
            owner: "publisher-0".to_owned(),
            epoch: 3,
            number: 7,
            status: ConnectionStatus::Disconnected,
            since: crate::time::from_unix_millis(1_511_436_694_000).unwrap(),
            reason: Some("closed".to_owned()),
            error: Some("the provider closed the socket: 1013 busy".to_owned()),
            session: "01890a5d-ac96-774b-bcce-b302099a8058".parse().ok(),
            frames_per_minute: 60,
            reconnects: 1,
        }
    }

    #[test]
    fn the_wire_format_is_pinned_and_reads_back() {
        insta::assert_json_snapshot!(report());
        assert_eq!(StatusReport::decode(&report().encode()).unwrap(), report());
        assert_eq!(
            report().message_id(),
            "01890a5d-ac96-774b-bcce-b302099a8057/3/7"
        );
    }

    #[test]
    fn unknown_fields_are_tolerated_and_unknown_majors_refused() {
        let mut newer = serde_json::to_value(report()).unwrap();
        newer["colour"] = "blue".into();
        newer["version"] = "1.9".into();
        assert!(StatusReport::decode(newer.to_string().as_bytes()).is_ok());
        newer["version"] = "2.0".into();
        let error = StatusReport::decode(newer.to_string().as_bytes()).unwrap_err();
        assert!(error.to_string().contains("2.0"), "{error}");
        assert!(StatusReport::decode(b"{}").is_err());
    }

    #[test]
    fn what_nobody_could_store_is_refused() {
        for (field, value) in [
            ("epoch", serde_json::json!(u64::MAX)),
            ("number", serde_json::json!(u64::MAX)),
            ("since", serde_json::json!("+262000-01-01T00:00:00Z")),
        ] {
            let mut report = serde_json::to_value(report()).unwrap();
            report[field] = value;
            let error = StatusReport::decode(report.to_string().as_bytes()).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
    }

    #[test]
    fn names_read_back() {
        for status in ConnectionStatus::ALL {
            assert_eq!(ConnectionStatus::from_name(status.name()), Some(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.name());
        }
    }
}

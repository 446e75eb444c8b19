//! Why a stream ends: what its reader is told last.

use axum::http::StatusCode;
use runtime::http::Problem;

use super::position::{Position, Unusable};

/// Why a stream ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The reader takes less than comes.
    SlowReader,
    /// The log cannot be read on from where the reader is.
    Unusable(Unusable),
    /// The service stops.
    Stopping,
    /// The stream has gone on for long enough.
    Reconnect,
    /// The credential is not good any more.
    Refused(Problem),
}

impl End {
    /// The reason as a metric has it.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::SlowReader => "slow_reader",
            Self::Unusable(Unusable::Truncated) => "log_truncated",
            Self::Unusable(Unusable::Restored | Unusable::Foreign) => "log_restored",
            Self::Stopping => "stopping",
            Self::Reconnect => "reconnect",
            Self::Refused(_) => "refused",
        }
    }

    /// What the reader is told.
    pub(super) fn problem(&self) -> Problem {
        match self {
            Self::SlowReader => Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "slow-reader",
                "events came faster than you read them: connect again with Last-Event-ID, and ask for fewer \
                 types or vehicles if it happens again",
            ),
            Self::Unusable(why) => (*why).into(),
            Self::Stopping => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "stopping",
                "the service stops: connect again with Last-Event-ID",
            ),
            Self::Reconnect => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "reconnect",
                "the stream has gone on for as long as one may: connect again with Last-Event-ID",
            ),
            Self::Refused(problem) => problem.clone(),
        }
    }

    /// The last event of the stream of a reader that is at `position`.
    pub(super) fn frame(&self, position: &Position) -> String {
        let problem = serde_json::to_string(&self.problem()).unwrap_or_default();
        format!("id: {position}\nevent: end\ndata: {problem}\n\n")
    }
}

impl From<Unusable> for Problem {
    fn from(why: Unusable) -> Self {
        match why {
            Unusable::Truncated => Self::new(
                StatusCode::GONE,
                "log-truncated",
                "the event log no longer has what follows this position: connect without one, then read the \
                 vehicles' snapshots",
            ),
            Unusable::Restored => Self::new(
                StatusCode::CONFLICT,
                "log-restored",
                "the event log was restored from a dump and is not the one that this position is of: connect \
                 without one, then read the vehicles' snapshots",
            ),
            Unusable::Foreign => invalid_position(),
        }
    }
}

/// What was sent as a position is none of this installation.
pub(super) fn invalid_position() -> Problem {
    let detail =
        "this is no id of an event of this installation; leave it out to begin with what comes now";
    Problem::bad_request("invalid-position", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_event_says_why() {
        let position = Position::new(1, vec![3]);
        let frame = End::SlowReader.frame(&position);
        let (id, rest) = frame.split_once('\n').unwrap();
        assert_eq!(id, format!("id: {position}"));
        let data = rest.strip_prefix("event: end\ndata: ").unwrap();
        let problem: Problem = serde_json::from_str(data.strip_suffix("\n\n").unwrap()).unwrap();
        assert_eq!(problem.kind, "urn:headrace:problem:slow-reader");
    }
}

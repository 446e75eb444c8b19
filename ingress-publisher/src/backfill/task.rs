//! The task that closes gaps, for one session.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use reqwest::Url;
use runtime::clock;
use shared_model::control::StreamAssignment;
use shared_model::{FrameOrigin, StreamSettings};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use super::Handed;
use super::ask::{Asker, Trouble};
use super::gaps::{Bounds, Gaps, Missing, Span};
use crate::config::{BackfillConfig, StreamConfig};
use crate::dialect::{Dialect, Series, UnreadableAnswer};
use crate::metrics;
use crate::outbound::Outbound;

/// A series of one value a second has 21,600 in it.
const LONGEST_SLICE_MS: i64 = 6 * 3_600_000;
/// Answers to slices as short as this are never too large, unless the provider ignores the bounds.
const SHORTEST_SLICE_MS: i64 = 60_000;
/// How many devices one question for the latest values names.
const DEVICES: usize = 50;

/// What the task needs.
#[derive(Debug)]
pub(crate) struct Job {
    who: Who,
    dialect: Dialect,
    base: Url,
    series: Vec<Series>,
    gaps: Gaps,
    config: BackfillConfig,
    asker: Asker,
}

/// Whose gap it is, for the log.
#[derive(Debug)]
struct Who {
    connection: String,
    workspace: String,
    provider: String,
}

/// The session is over, or has no room for ever.
struct Gone;

/// Why something is not asked for any further.
#[derive(Debug, thiserror::Error)]
enum Stuck {
    #[error(transparent)]
    Trouble(#[from] Trouble),
    #[error(transparent)]
    Unreadable(#[from] UnreadableAnswer),
}

impl Stuck {
    /// Whether other questions would fare the same.
    const fn concerns_all(&self) -> bool {
        matches!(self, Self::Trouble(Trouble::Refused(_) | Trouble::Away(_)))
    }
}

/// What came of a gap.
#[derive(Debug, Default)]
struct Outcome {
    frames: u64,
    given_up: usize,
    stuck: Option<Stuck>,
}

impl Job {
    /// The job for a session of `assignment`; `None` where the connection wants none.
    pub(crate) fn new(
        assignment: &StreamAssignment,
        dialect: Dialect,
        gaps: Gaps,
        credential: Option<HeaderValue>,
        (stream, config): (&StreamConfig, &BackfillConfig),
        outbound: &Outbound,
    ) -> Option<Self> {
        let (own, settings) = StreamSettings::split(&assignment.settings).ok()?;
        if !own.backfill {
            return None;
        }
        Some(Self {
            who: Who {
                connection: assignment.connection.to_string(),
                workspace: assignment.workspace.to_string(),
                provider: assignment.provider.to_string(),
            },
            base: base(&assignment.endpoint)?,
            series: dialect.series(&settings),
            dialect,
            gaps,
            config: config.clone(),
            asker: Asker::new(
                outbound.clone(),
                credential.map(|value| (dialect.credential_header(), value)),
                (stream.backoff_min, stream.backoff_max),
                config.requests_per_second,
            ),
        })
    }

    /// Hands over all that can be had. `live` tells that the socket has brought a datum.
    pub(crate) async fn run(mut self, hand: mpsc::Sender<Handed>, live: Arc<Notify>) {
        if self.close(&hand, &live).await.is_err() {
            tracing::debug!(
                connection = self.who.connection,
                "the session ended before its gap was closed"
            );
        }
    }

    async fn close(&mut self, hand: &mpsc::Sender<Handed>, live: &Notify) -> Result<(), Gone> {
        self.latest(hand).await?;
        if !self.gaps.any() {
            return Ok(());
        }
        // Providers take their time before the first datum; until then the gap goes on. Vehicles
        // that stand still send none for hours, so there is an end to the wait.
        if timeout(self.config.settle, live.notified()).await.is_err() {
            tracing::debug!(
                connection = self.who.connection,
                "no datum came yet; the gap counts as ended all the same"
            );
        }
        let bounds = Bounds {
            margin: self.config.margin,
            max_age: self.config.max_age,
        };
        let now = clock::now().timestamp_millis();
        let Some(missing) = self.gaps.plan(self.series.len(), now, bounds) else {
            return Ok(());
        };
        self.who.found(&missing);
        hand.send(Handed::Planned(missing.clone())).await?;
        let outcome = self.history(&missing, hand).await?;
        self.who.done(&outcome);
        Ok(())
    }

    /// The latest value of everything.
    async fn latest(&mut self, hand: &mpsc::Sender<Handed>) -> Result<(), Gone> {
        let series = std::mem::take(&mut self.series);
        let mut stuck = None;
        for chunk in by_devices(&series, DEVICES) {
            if let Err(error) = self.latest_of(chunk, hand).await? {
                let concerns_all = error.concerns_all();
                stuck.get_or_insert(error);
                if concerns_all {
                    break;
                }
            }
        }
        self.series = series;
        if let Some(error) = stuck {
            self.who.no_latest(&error);
        }
        Ok(())
    }

    async fn latest_of(
        &mut self,
        series: &[Series],
        hand: &mpsc::Sender<Handed>,
    ) -> Result<Result<(), Stuck>, Gone> {
        let question = self.dialect.latest(&self.base, series);
        let answer = match self.asker.ask(&question).await {
            Ok(answer) => answer,
            Err(trouble) => return Ok(Err(trouble.into())),
        };
        match self.dialect.read_latest(&answer.body) {
            Ok(bodies) => {
                hand_over(FrameOrigin::State, bodies, hand).await?;
                Ok(Ok(()))
            }
            Err(unreadable) => Ok(Err(unreadable.into())),
        }
    }

    /// What is missing of each series.
    async fn history(
        &mut self,
        missing: &Missing,
        hand: &mpsc::Sender<Handed>,
    ) -> Result<Outcome, Gone> {
        let mut outcome = Outcome::default();
        for (series, span) in missing.iter().enumerate() {
            let Some(span) = *span else { continue };
            let stuck = match self.history_of(series, span, &mut outcome, hand).await? {
                Ok(()) => continue,
                Err(stuck) => stuck,
            };
            outcome.given_up += 1;
            let concerns_all = stuck.concerns_all();
            outcome.stuck.get_or_insert(stuck);
            if concerns_all {
                // It stays missing, for the next session to ask for.
                let rest = missing[series + 1..].iter().flatten().count();
                outcome.given_up += rest;
                break;
            }
            hand.send(Handed::GivenUp { series }).await?;
        }
        Ok(outcome)
    }

    async fn history_of(
        &mut self,
        series: usize,
        span: Span,
        outcome: &mut Outcome,
        hand: &mpsc::Sender<Handed>,
    ) -> Result<Result<(), Stuck>, Gone> {
        let mut longest = LONGEST_SLICE_MS;
        let mut left = Some(span);
        while let Some(span) = left {
            let slice = span.first(longest);
            let of = &self.series[series];
            let question = self.dialect.history(&self.base, of, slice.from, slice.to);
            let answer = match self.asker.ask(&question).await {
                Ok(answer) => answer,
                Err(Trouble::TooLarge) if slice.length() > SHORTEST_SLICE_MS => {
                    longest = slice.length() / 2;
                    continue;
                }
                Err(trouble) => return Ok(Err(trouble.into())),
            };
            match self.dialect.read_history(of, &answer.body) {
                Ok(bodies) => {
                    outcome.frames += hand_over(FrameOrigin::Backfill, bodies, hand).await?;
                }
                Err(unreadable) => return Ok(Err(unreadable.into())),
            }
            drop(answer);
            let until = slice.to;
            hand.send(Handed::Closed { series, until }).await?;
            left = span.after(until);
        }
        Ok(Ok(()))
    }
}

impl From<mpsc::error::SendError<Handed>> for Gone {
    fn from(_: mpsc::error::SendError<Handed>) -> Self {
        Self
    }
}

/// Hands over `bodies`, as fast as the session takes them.
async fn hand_over(
    origin: FrameOrigin,
    bodies: impl Iterator<Item = Bytes>,
    hand: &mpsc::Sender<Handed>,
) -> Result<u64, Gone> {
    let mut count = 0;
    for body in bodies {
        count += 1;
        hand.send(Handed::Datum { origin, body }).await?;
    }
    Ok(count)
}

/// Cuts `series` where the device changes, after at most `most` devices.
fn by_devices(series: &[Series], most: usize) -> impl Iterator<Item = &[Series]> {
    let devices: Vec<_> = series.chunk_by(|a, b| a.device == b.device).collect();
    let ends: Vec<_> = devices
        .chunks(most)
        .scan(0, |end, chunk| {
            let begin = *end;
            *end += chunk.iter().map(|device| device.len()).sum::<usize>();
            Some((begin, *end))
        })
        .collect();
    ends.into_iter().map(|(begin, end)| &series[begin..end])
}

/// Where the provider's REST API is: the endpoint's origin, by HTTP.
fn base(endpoint: &str) -> Option<Url> {
    let mut base = Url::parse(endpoint).ok()?;
    let scheme = match base.scheme() {
        "ws" => "http",
        "wss" => "https",
        _ => return None,
    };
    base.set_scheme(scheme).ok()?;
    base.set_path("");
    base.set_query(None);
    base.set_fragment(None);
    Some(base)
}

impl Who {
    fn found(&self, missing: &Missing) {
        let spans = || missing.iter().flatten();
        let from = spans().map(|span| span.from).min().unwrap_or_default();
        let to = spans().map(|span| span.to).max().unwrap_or_default();
        metrics::backfill_gap((to - from) as f64 / 1000.0);
        tracing::info!(
            connection = self.connection,
            workspace = self.workspace,
            provider = self.provider,
            from = %at(from),
            to = %at(to),
            series = spans().count(),
            "the stream has a gap, which is closed from the provider's history"
        );
    }

    fn done(&self, outcome: &Outcome) {
        match &outcome.stuck {
            None => tracing::info!(
                connection = self.connection,
                workspace = self.workspace,
                provider = self.provider,
                frames = outcome.frames,
                "the stream's gap is closed"
            ),
            Some(stuck) => tracing::warn!(
                connection = self.connection,
                workspace = self.workspace,
                provider = self.provider,
                frames = outcome.frames,
                series = outcome.given_up,
                is_asked_again = stuck.concerns_all(),
                error = %stuck,
                "a part of the stream's gap stays open"
            ),
        }
    }

    fn no_latest(&self, stuck: &Stuck) {
        tracing::warn!(
            connection = self.connection,
            workspace = self.workspace,
            provider = self.provider,
            error = %stuck,
            "the provider does not tell the latest values"
        );
    }
}

fn at(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_api_is_at_the_endpoints_origin() {
        for (endpoint, expected) in [
            (
                "wss://sdk.viriciti.com/api/v2/live?x=1#y",
                Some("https://sdk.viriciti.com/"),
            ),
            (
                "ws://127.0.0.1:8090/api/v2/live",
                Some("http://127.0.0.1:8090/"),
            ),
            ("http://127.0.0.1/", None),
            ("nowhere", None),
        ] {
            let found = base(endpoint).map(String::from);
            assert_eq!(found.as_deref(), expected, "{endpoint}");
        }
    }

    #[test]
    fn questions_for_the_latest_values_cut_no_device_apart() {
        let series = |device: &str, label: &str| Series {
            device: device.to_owned(),
            label: label.to_owned(),
        };
        let all = [
            series("a", "soc"),
            series("a", "odo"),
            series("b", "soc"),
            series("c", "soc"),
        ];
        let cut: Vec<_> = by_devices(&all, 2).collect();
        assert_eq!(cut, [&all[..3], &all[3..]]);
        assert_eq!(by_devices(&[], 2).count(), 0);
    }
}

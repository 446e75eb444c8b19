//! Readers that come and go between processes that are not equally far; and credentials that end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::http::{HeaderMap, header};
use futures_util::future::{BoxFuture, ready};
use proptest::prelude::*;
use runtime::access::{
    Access, AccessConfig, ApiKey, InternalToken, KeyCheck, KeyGrant, KeySource, NoKeys, Scope,
};
use runtime::http::Problem;
use serde_json::{Value, json};
use shared_model::WorkspaceId;
use shared_model::log::{LogState, ShardState};
use tokio_util::sync::CancellationToken;

use super::config::LiveSettings;
use super::event::LogEvent;
use super::event::tests::line;
use super::filter::Filter;
use super::hub::Hub;
use super::position::Position;
use super::reader::{Reader, Shared};
use crate::core_log::CoreLog;

const SHARDS: usize = 3;

fn log(heads: [u64; SHARDS]) -> LogState {
    let shard = |(shard, head): (u32, &u64)| ShardState {
        shard,
        first: 1,
        head: *head,
        relayed: 0,
        restored: 0,
        waiting_since: None,
    };
    LogState {
        shards: (0..).zip(&heads).map(shard).collect(),
        generation: 1,
    }
}

/// A process without an HTTP server, which has read a part of the log.
struct Process {
    shared: Arc<Shared>,
    at: [u64; SHARDS],
}

impl Process {
    fn new(settings: LiveSettings, access: Access) -> Self {
        // Everything is in memory, so that no core is asked.
        static CORE: LazyLock<CoreLog> = LazyLock::new(|| {
            runtime::telemetry::install_tls();
            let token = InternalToken::of(&AccessConfig::default());
            CoreLog::new("http://127.0.0.1:9", &token).unwrap()
        });
        let shared = Shared {
            hub: Arc::new(Hub::new(settings.clone())),
            core: CORE.clone(),
            access,
            settings,
            stopping: CancellationToken::new(),
            reading: Shared::readings(),
        };
        shared.hub.begin(&log([0; SHARDS]));
        Self {
            shared: Arc::new(shared),
            at: [0; SHARDS],
        }
    }

    /// Reads so many further events of a shard. Every third is another workspace's.
    fn go_on(&mut self, shard: usize, events: u64) {
        let from = self.at[shard] + 1;
        self.at[shard] += events;
        let event = |offset| {
            let workspace = if offset % 3 == 0 { "other" } else { "demo" };
            let data = json!({"vehicle": format!("bus-{shard}")});
            LogEvent::read(line(offset, workspace, "vehicle.snapshot.changed", data)).unwrap()
        };
        let events = (from..=self.at[shard]).map(event).collect();
        let number = u32::try_from(shard).unwrap();
        self.shared.hub.publish(number, events, self.at[shard]);
    }

    fn reader(&self, position: Position, headers: HeaderMap) -> Reader {
        let filter = Filter::asked(WorkspaceId::new("demo").unwrap(), &[], &[]).unwrap();
        let seat = self.shared.hub.seat("anybody").unwrap();
        Reader::new(Arc::clone(&self.shared), seat, filter, headers, position)
    }

    /// How many events a reader at `position` can be sent.
    fn left(&self, position: &Position) -> usize {
        let left = |shard: usize| {
            let from = position.of(u32::try_from(shard).unwrap()) + 1;
            (from..=self.at[shard])
                .filter(|offset| offset % 3 != 0)
                .count()
        };
        (0..SHARDS).map(left).sum()
    }
}

/// The next event of a stream: its id, its name and its data.
async fn next(reader: Reader) -> (Option<(String, String, Value)>, Option<Reader>) {
    let Some((Ok(bytes), reader)) = reader.next().await else {
        return (None, None);
    };
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let field = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| Some(line.strip_prefix(name)?.trim_start().to_owned()))
    };
    let data = field("data:").map(|data| serde_json::from_str(&data).unwrap());
    let sent = data.map(|data| {
        let (id, name) = (field("id:"), field("event:"));
        (id.unwrap_or_default(), name.unwrap_or_default(), data)
    });
    (sent, Some(reader))
}

/// What happens.
#[derive(Debug, Clone)]
enum Act {
    GoOn {
        process: usize,
        shard: usize,
        events: u64,
    },
    /// The reader takes some of what there is, as a share of it.
    Take(f64),
    /// It comes back to a process.
    Move(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..2_usize, 0..SHARDS, 1..6_u64).prop_map(|(process, shard, events)| Act::GoOn {
            process,
            shard,
            events
        }),
        (0.0..=1.0).prop_map(Act::Take),
        (0..2_usize).prop_map(Act::Move),
    ]
}

/// A reader, what it knows, and what it has had: shards and offsets in order.
struct Taker {
    reader: Option<Reader>,
    position: Position,
    had: Vec<(usize, u64)>,
}

impl Taker {
    async fn open(&mut self, process: &Process) {
        self.reader = None;
        let reader = process.reader(self.position.clone(), HeaderMap::new());
        let (hello, reader) = next(reader).await;
        let (id, name, _) = hello.unwrap();
        assert_eq!((id, name.as_str()), (self.position.to_string(), "hello"));
        self.reader = reader;
    }

    async fn take(&mut self, count: usize) {
        for _ in 0..count {
            let (sent, reader) = next(self.reader.take().unwrap()).await;
            let (id, _, event) = sent.expect("an event");
            self.reader = reader;
            self.position = id.parse().unwrap();
            let shard = event["subject"]
                .as_str()
                .unwrap()
                .trim_start_matches("bus-");
            let offset = event["sequence"].as_str().unwrap().parse().unwrap();
            self.had.push((shard.parse().unwrap(), offset));
        }
    }
}

async fn play(acts: Vec<Act>) {
    let access = || Access::new(&AccessConfig::default(), Arc::new(NoKeys));
    let mut processes = [(); 2].map(|()| Process::new(LiveSettings::default(), access()));
    let mut taker = Taker {
        reader: None,
        position: Position::end_of(&log([0; SHARDS])),
        had: Vec::new(),
    };
    let mut at = 0;
    taker.open(&processes[at]).await;
    for act in acts {
        match act {
            Act::GoOn {
                process,
                shard,
                events,
            } => processes[process].go_on(shard, events),
            Act::Take(share) => {
                let left = processes[at].left(&taker.position) as f64;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a share of a small count"
                )]
                taker.take((left * share) as usize).await;
            }
            Act::Move(to) => {
                at = to;
                taker.open(&processes[at]).await;
            }
        }
    }
    let (one, other) = (processes[0].at, processes[1].at);
    let ends: [u64; SHARDS] = std::array::from_fn(|shard| one[shard].max(other[shard]));
    for (shard, end) in ends.into_iter().enumerate() {
        for process in &mut processes {
            process.go_on(shard, end - process.at[shard]);
        }
    }
    taker.take(processes[at].left(&taker.position)).await;
    for (shard, end) in ends.into_iter().enumerate() {
        let had = taker.had.iter().filter(|(of, _)| *of == shard);
        let had: Vec<_> = had.map(|(_, offset)| *offset).collect();
        let expected: Vec<_> = (1..=end).filter(|offset| offset % 3 != 0).collect();
        assert_eq!(had, expected, "shard {shard}");
    }
}

proptest! {
    #[test]
    fn each_event_comes_once_and_in_order_however_a_reader_moves_about(
        acts in prop::collection::vec(act(), 0..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(acts));
    }
}

/// A key that may be revoked.
#[derive(Debug)]
struct OneKey(AtomicBool);

impl KeySource for OneKey {
    fn check<'a>(&'a self, _: &'a KeyCheck) -> BoxFuture<'a, Result<Option<KeyGrant>, Problem>> {
        let grant = KeyGrant {
            workspaces: vec!["demo".to_owned()],
            scopes: vec![Scope::Read],
            expires_at: None,
        };
        let grant = self.0.load(Ordering::Relaxed).then_some(grant);
        Box::pin(ready(Ok(grant)))
    }
}

#[tokio::test]
async fn a_stream_ends_soon_after_its_key_was_revoked() {
    let key = Arc::new(OneKey(AtomicBool::new(true)));
    let settings = LiveSettings {
        check_access_every: Duration::from_millis(20),
        heartbeat: Duration::from_millis(50),
        ..LiveSettings::default()
    };
    let keys: Arc<dyn KeySource> = Arc::clone(&key) as _;
    let process = Process::new(settings, Access::new(&AccessConfig::default(), keys));
    let mut headers = HeaderMap::new();
    let bearer = format!("Bearer {}", ApiKey::new().unwrap().expose());
    headers.insert(header::AUTHORIZATION, bearer.parse().unwrap());
    let start = process.shared.hub.head().unwrap();
    let mut reader = process.reader(start, headers);
    // The greeting, and signs of life while the key is good.
    for _ in 0..3 {
        let (sent, rest) = next(reader).await;
        assert!(sent.is_none_or(|(_, name, _)| name == "hello"));
        reader = rest.unwrap();
    }
    key.0.store(false, Ordering::Relaxed);
    let end = loop {
        let (sent, rest) = next(reader).await;
        reader = rest.unwrap();
        if let Some(sent) = sent {
            break sent;
        }
    };
    assert_eq!(end.1, "end");
    assert_eq!(end.2["type"], "urn:headrace:problem:unauthorized");
    assert!(next(reader).await.1.is_none(), "nothing follows");
    process.shared.hub.emptied().await;
}

#[tokio::test]
async fn streams_are_told_that_the_service_stops_and_no_more_begin() {
    let access = Access::new(&AccessConfig::default(), Arc::new(NoKeys));
    let mut process = Process::new(LiveSettings::default(), access);
    let start = process.shared.hub.head().unwrap();
    let (_, reader) = next(process.reader(start, HeaderMap::new())).await;
    process.go_on(0, 1);
    // It joins as it asks for the first.
    let (first, reader) = next(reader.unwrap()).await;
    assert_eq!(first.unwrap().1, "vehicle.snapshot.changed");
    process.go_on(0, 1);
    process.shared.hub.stop();
    let refused = process.shared.hub.seat("anybody").unwrap_err();
    assert_eq!(refused.kind, "urn:headrace:problem:stopping");
    let (second, reader) = next(reader.unwrap()).await;
    assert_eq!(second.unwrap().2["sequence"], "00000000000000000002");
    let (end, _) = next(reader.unwrap()).await;
    let (_, name, problem) = end.unwrap();
    assert_eq!(name, "end");
    assert_eq!(problem["type"], "urn:headrace:problem:stopping");
}

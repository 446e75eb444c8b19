//! Readers that read the log, of a core that is as slow as the test wants it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use runtime::access::{Access, AccessConfig, InternalToken, NoKeys};
use serde_json::json;
use shared_model::WorkspaceId;
use shared_model::log::{LOG_END, LOG_GENERATION, LogState, ShardState};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::config::LiveSettings;
use super::event::LogEvent;
use super::event::tests::line;
use super::filter::Filter;
use super::hub::{Hub, Join};
use super::position::Position;
use super::reader::{Reader, Shared};
use crate::core_log::CoreLog;

/// How long the text of each event is.
const LENGTH: usize = 10_000;

/// A core with one shard.
struct Core {
    head: u64,
    /// One permit for each answer that it may give.
    may_answer: Semaphore,
    /// What was asked for: behind which offset, and how many.
    asked: Mutex<Vec<(u64, u64)>>,
    answered: AtomicU64,
}

fn event(offset: u64, kind: &str) -> bytes::Bytes {
    let data = json!({"vehicle": "bus-1", "text": "x".repeat(LENGTH)});
    line(offset, "demo", kind, data)
}

async fn answer(State(core): State<Arc<Core>>, RawQuery(query): RawQuery) -> (HeaderMap, Vec<u8>) {
    let query = query.unwrap();
    let number = |name: &str| {
        let mut pairs = query.split('&');
        let value = pairs.find_map(|pair| pair.strip_prefix(name)).unwrap();
        value.parse::<u64>().unwrap()
    };
    let (after, limit) = (number("after="), number("limit="));
    core.asked.lock().unwrap().push((after, limit));
    core.may_answer.acquire().await.unwrap().forget();
    core.answered.fetch_add(1, Ordering::Relaxed);
    let end = core.head.min(after + limit);
    let mut body = Vec::new();
    for offset in after + 1..=end {
        body.extend_from_slice(&event(offset, "vehicle.snapshot.changed"));
        body.push(b'\n');
    }
    let mut headers = HeaderMap::new();
    headers.insert(LOG_END, end.into());
    headers.insert(LOG_GENERATION, 1.into());
    (headers, body)
}

fn log(head: u64) -> LogState {
    LogState {
        shards: vec![ShardState {
            shard: 0,
            first: 1,
            head,
            relayed: 0,
            restored: 0,
            waiting_since: None,
        }],
        generation: 1,
    }
}

/// A service that has begun at the end of the log of a core with `head` events, and that core.
async fn service(head: u64, settings: LiveSettings) -> (Arc<Shared>, Arc<Core>) {
    runtime::telemetry::install_tls();
    let core = Arc::new(Core {
        head,
        may_answer: Semaphore::new(0),
        asked: Mutex::default(),
        answered: AtomicU64::new(0),
    });
    let routes = Router::new().fallback(answer).with_state(Arc::clone(&core));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let access = AccessConfig::default();
    let token = InternalToken::of(&access);
    let shared = Shared {
        hub: Arc::new(Hub::new(settings.clone())),
        core: CoreLog::new(&format!("http://{address}"), &token).unwrap(),
        access: Access::new(&access, Arc::new(NoKeys)),
        settings,
        stopping: CancellationToken::new(),
        reading: Shared::readings(),
    };
    shared.hub.begin(&log(head));
    (Arc::new(shared), core)
}

fn filter(types: &[&str]) -> Filter {
    let types: Vec<_> = types.iter().map(|&name| name.to_owned()).collect();
    Filter::asked(WorkspaceId::new("demo").unwrap(), &types, &[]).unwrap()
}

fn reader(shared: &Arc<Shared>, offset: u64) -> Reader {
    let seat = shared.hub.seat("anybody").unwrap();
    let position = Position::new(1, vec![offset]);
    Reader::new(
        Arc::clone(shared),
        seat,
        filter(&[]),
        HeaderMap::new(),
        position,
    )
}

async fn next(reader: Reader) -> (String, Reader) {
    let (sent, reader) = reader.next().await.unwrap();
    let text = String::from_utf8(sent.unwrap().to_vec()).unwrap();
    (text, reader)
}

#[tokio::test]
async fn a_page_ends_where_it_is_full() {
    let (shared, core) = service(100, LiveSettings::default()).await;
    core.may_answer.add_permits(9);
    let page = shared.read(1, 0, 3, 90, &filter(&[])).await.ok().unwrap();
    let bytes: usize = page.events.iter().map(|event| event.line.len()).sum();
    assert!((256 * 1024..256 * 1024 + 2 * LENGTH).contains(&bytes));
    assert!(page.is_full && page.end < 93);
    assert_eq!(page.events.front().unwrap().offset, 4);
    assert_eq!(page.events.back().unwrap().offset, page.end);
    // What is not wanted needs no memory.
    let wanted = filter(&["vehicle.registered"]);
    let page = shared.read(1, 0, 3, 90, &wanted).await.ok().unwrap();
    assert!(page.events.is_empty() && !page.is_full);
    assert_eq!(page.end, 93);
}

#[tokio::test]
async fn everything_comes_once_and_in_order_through_pages_that_are_full() {
    const HEAD: u64 = 200;
    let (shared, core) = service(HEAD, LiveSettings::default()).await;
    core.may_answer.add_permits(1000);
    let (_, mut reader) = next(reader(&shared, 0)).await;
    for offset in 1..=HEAD {
        let (sent, rest) = next(reader).await;
        assert!(sent.contains(&format!("{offset:020}")), "{offset}");
        reader = rest;
    }
    let asked = core.asked.lock().unwrap().clone();
    assert!(asked.len() > 3, "{asked:?}");
    // It asks for less once it was given too much.
    let limits: Vec<_> = asked.iter().map(|(_, limit)| *limit).collect();
    assert!(limits.iter().any(|limit| *limit < 100), "{asked:?}");
}

#[tokio::test]
async fn a_read_goes_on_across_signs_of_life() {
    let settings = LiveSettings {
        heartbeat: Duration::from_millis(20),
        ..LiveSettings::default()
    };
    let (shared, core) = service(1, settings).await;
    let (_, mut reader) = next(reader(&shared, 0)).await;
    for _ in 0..20 {
        let (sent, rest) = next(reader).await;
        assert!(sent.starts_with(":\n"), "{sent}");
        reader = rest;
    }
    core.may_answer.add_permits(1);
    loop {
        let (sent, rest) = next(reader).await;
        if !sent.starts_with(":\n") {
            assert!(sent.contains("event: vehicle.snapshot.changed"));
            break;
        }
        reader = rest;
    }
    assert_eq!(*core.asked.lock().unwrap(), [(0, 1)]);
}

#[tokio::test]
async fn a_reader_that_waits_for_the_core_is_told_that_the_service_stops() {
    let (shared, core) = service(1, LiveSettings::default()).await;
    let (_, waiting) = next(reader(&shared, 0)).await;
    let told = tokio::spawn(next(waiting));
    while core.asked.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    shared.stopping.cancel();
    let (sent, _) = told.await.unwrap();
    assert!(sent.contains("event: end") && sent.contains("problem:stopping"));
    assert_eq!(core.answered.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn who_has_missed_more_than_may_wait_for_one_reads_the_log() {
    let length = event(1, "vehicle.registered").len();
    for (reader_events, reader_bytes) in [(5, usize::MAX), (100, 5 * (length + 100))] {
        let settings = LiveSettings {
            reader_events,
            reader_bytes,
            ..LiveSettings::default()
        };
        let (shared, core) = service(0, settings).await;
        let all = (1..=12).map(|offset| {
            let kind = if offset <= 6 {
                "vehicle.snapshot.changed"
            } else {
                "vehicle.registered"
            };
            LogEvent::read(event(offset, kind)).unwrap()
        });
        shared.hub.publish(0, all.collect(), 12);
        let seat = shared.hub.seat("anybody").unwrap();
        let join = |offset, types: &[&str]| {
            let (position, filter) = (Position::new(1, vec![offset]), Arc::new(filter(types)));
            shared.hub.join(&seat, &position, &filter)
        };
        let Join::Behind(target) = join(6, &[]) else {
            panic!("six are more than five");
        };
        assert_eq!(target, Position::new(1, vec![12]));
        let Join::Joined(joined) = join(7, &[]) else {
            panic!("five are not more than five");
        };
        assert_eq!(joined.backlog.len(), 5);
        drop(joined);
        // What is not wanted does not count.
        let Join::Joined(joined) = join(1, &["vehicle.snapshot.changed"]) else {
            panic!("five are wanted");
        };
        assert_eq!(joined.backlog.len(), 5);
        assert!(core.asked.lock().unwrap().is_empty());
    }
}

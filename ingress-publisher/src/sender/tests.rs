//! A sender against a broker that the test plays and a spool on the disk.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rangemap::RangeInclusiveSet;
use shared_model::Envelope;
use shared_model::envelope::Attributes;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::*;
use crate::canary::Canary;
use crate::config::{SpoolConfig, WindowConfig};
use crate::pause::PauseReason;
use crate::spool::{Depth, SpoolDirectory};
use crate::testing::{self, eventually, within};
use crate::window::{Limits, Source, Topic, Window};

const LIMITS: Limits = Limits {
    frames: 256,
    bytes: 128 * 1024,
};

fn decode(message: &Message) -> Vec<u64> {
    let envelope = Envelope::decode(&message.headers, &message.body).unwrap();
    assert_eq!(envelope.message_id(), message.message_id);
    envelope.frames.iter().map(|frame| frame.number).collect()
}

type Publish = Arc<dyn Fn(Message) -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send + Sync>;

/// A sender that runs, and all that it touches.
struct Running {
    window: Window,
    source: Source,
    attributes: Arc<Attributes>,
    link: watch::Sender<LinkState>,
    let_go: CancellationToken,
    depth: Depth,
    spool: Spool,
    task: JoinHandle<Result<(), Stopped>>,
}

fn start(config: &SpoolConfig, publish: Publish) -> Running {
    start_with(&testing::config().window, config, publish)
}

fn start_with(window: &WindowConfig, config: &SpoolConfig, publish: Publish) -> Running {
    let (window, mut queues) = Window::open(1, window);
    let directory = Arc::new(SpoolDirectory::claim(config).unwrap());
    let depth = directory.depth().clone();
    let spool = Spool::open(&directory, 0).unwrap();
    let (link, state) = watch::channel(LinkState::Up);
    let let_go = CancellationToken::new();
    let sender = Sender {
        partition: 0,
        queue: queues.remove(0),
        packer: Packer::new(0, LIMITS),
        in_flight: 2,
        broker: Broker {
            publish: move |message| publish(message),
            link: state,
            let_go: let_go.clone(),
            canary: Canary::default(),
        },
        spool: spool.clone(),
        board: window.board().clone(),
    };
    Running {
        source: window.source(),
        window,
        attributes: Arc::new(testing::attributes()),
        link,
        let_go,
        depth,
        spool,
        task: tokio::spawn(sender.run()),
    }
}

impl Running {
    async fn submit(&self, number: u64, topic: Option<&str>) {
        let frame = testing::frame(number, b"{}");
        let topic = topic.map(|label| Topic {
            device: "bus-1".into(),
            label: label.into(),
        });
        let attributes = Arc::clone(&self.attributes);
        let submitted = self
            .source
            .submit(0, attributes, frame, topic, &self.let_go);
        within(submitted).await.unwrap();
    }

    /// Waits until the spool holds so many messages.
    async fn holds(&self, records: u64) {
        let held = || self.depth.report(runtime::clock::now()).held.records;
        eventually(async || (held() == records).then_some(())).await;
    }

    /// Ends the sender wherever it is.
    async fn killed(self) {
        let Self { task, spool, .. } = self;
        task.abort();
        assert!(within(task).await.unwrap_err().is_cancelled());
        // A process that is killed leaves no thread behind that has a file open; this one may, for a
        // moment.
        eventually(async || spool.is_the_last().then_some(())).await;
        drop(spool);
    }

    /// Closes the window and waits for the sender's end.
    async fn end(self) -> Result<(), Stopped> {
        let Self {
            window,
            source,
            task,
            ..
        } = self;
        drop((window, source));
        within(task).await.unwrap()
    }
}

/// A broker that answers what it is told to, and keeps what it confirms.
#[derive(Clone)]
struct Answers {
    outcome: Arc<Mutex<Outcome>>,
    confirmed: Arc<Mutex<Vec<Message>>>,
}

impl Answers {
    fn new(outcome: Outcome) -> Self {
        Self {
            outcome: Arc::new(Mutex::new(outcome)),
            confirmed: Arc::default(),
        }
    }

    fn publish(&self) -> Publish {
        let answers = self.clone();
        Arc::new(move |message| {
            let answers = answers.clone();
            Box::pin(async move {
                let outcome = *answers.outcome.lock().unwrap();
                if outcome == Outcome::Confirmed {
                    answers.confirmed.lock().unwrap().push(message);
                }
                outcome
            })
        })
    }

    fn turn(&self, outcome: Outcome) {
        *self.outcome.lock().unwrap() = outcome;
    }

    fn numbers(&self) -> Vec<u64> {
        let confirmed = self.confirmed.lock().unwrap();
        confirmed.iter().flat_map(decode).collect()
    }

    /// The numbers that were confirmed or reported as replaced.
    fn accounted(&self) -> RangeInclusiveSet<u64> {
        let mut accounted = RangeInclusiveSet::new();
        for message in self.confirmed.lock().unwrap().iter() {
            let envelope = Envelope::decode(&message.headers, &message.body).unwrap();
            accounted.extend(envelope.conflated);
            let numbers = envelope.frames.iter().map(|frame| frame.number);
            accounted.extend(numbers.map(|number| number..=number));
        }
        accounted
    }
}

fn spooled(config: &SpoolConfig) -> bool {
    let path = std::path::Path::new(&config.directory).join("0/0");
    let mut files = std::fs::read_dir(path).into_iter().flatten();
    files.any(|file| {
        file.unwrap()
            .path()
            .extension()
            .is_some_and(|end| end == "redb")
    })
}

fn spool() -> (TempDir, SpoolConfig) {
    testing::spool()
}

#[tokio::test]
async fn frames_that_wait_for_confirms_leave_together_and_none_is_lost() {
    let (_folder, config) = spool();
    let (published, mut messages) = mpsc::channel(100);
    let confirms = Arc::new(Semaphore::new(0));
    let unconfirmed = Arc::new(AtomicUsize::new(0));
    let publish: Publish = {
        let (confirms, unconfirmed) = (Arc::clone(&confirms), Arc::clone(&unconfirmed));
        Arc::new(move |message| {
            let (published, confirms) = (published.clone(), Arc::clone(&confirms));
            let unconfirmed = Arc::clone(&unconfirmed);
            Box::pin(async move {
                assert!(unconfirmed.fetch_add(1, Ordering::SeqCst) < 2);
                published.send(message).await.unwrap();
                confirms.acquire().await.unwrap().forget();
                unconfirmed.fetch_sub(1, Ordering::SeqCst);
                Outcome::Confirmed
            })
        })
    };
    let running = start(&config, publish);
    for number in 1..=2 {
        running.submit(number, None).await;
        let message = within(messages.recv()).await.unwrap();
        assert_eq!(decode(&message), [number], "a lone frame leaves at once");
    }
    for number in 3..=9 {
        running.submit(number, None).await;
    }
    confirms.add_permits(1);
    let together = within(messages.recv()).await.unwrap();
    assert_eq!(decode(&together), (3..=9).collect::<Vec<_>>());
    assert_eq!(together.routing_key, "0");
    // The window's end is the sender's, once everything is confirmed.
    assert!(!running.task.is_finished());
    confirms.add_permits(2);
    assert_eq!(running.end().await, Ok(()));
    assert!(!spooled(&config), "the broker took everything");
}

#[tokio::test]
async fn what_is_refused_is_spooled_and_published_in_order_with_the_rest_behind_it() {
    let (_folder, config) = spool();
    let answers = Answers::new(Outcome::Refused);
    let running = start(&config, answers.publish());
    for number in 1..=20 {
        running.submit(number, None).await;
    }
    eventually(async || spooled(&config).then_some(())).await;
    assert!(answers.numbers().is_empty());
    answers.turn(Outcome::Confirmed);
    running.submit(21, None).await;
    let parcel = testing::parcel("a fact", b"");
    {
        let source = running.window.source();
        let sent = source.submit_message(0, parcel, &running.let_go);
        sent.await.unwrap();
    }
    eventually(async || (answers.confirmed.lock().unwrap().len() > 1).then_some(())).await;
    eventually(async || (!spooled(&config)).then_some(())).await;
    running.submit(22, None).await;
    assert_eq!(running.end().await, Ok(()));
    let mut confirmed = answers.confirmed.lock().unwrap().clone();
    let at = confirmed
        .iter()
        .position(|message| message.message_id == "a fact");
    let fact = confirmed.remove(at.unwrap());
    assert_eq!(fact.content_type, "text/plain");
    assert_eq!(decode(&confirmed[at.unwrap() - 1]).last(), Some(&21));
    let numbers: Vec<_> = confirmed.iter().flat_map(decode).collect();
    assert_eq!(numbers, (1..=22).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stop_while_the_broker_is_away_leaves_everything_to_the_next_start() {
    let (_folder, config) = spool();
    let never: Publish = Arc::new(|_| Box::pin(std::future::pending()));
    let running = start(&config, never);
    running.submit(1, None).await;
    running.submit(2, Some("soc")).await;
    // What is on its way when the link is lost is not waited for.
    running.link.send_replace(LinkState::Away);
    running.submit(3, None).await;
    assert_eq!(running.end().await, Ok(()));

    let answers = Answers::new(Outcome::Confirmed);
    let running = start(&config, answers.publish());
    eventually(async || (answers.numbers().len() == 3).then_some(())).await;
    running.submit(4, None).await;
    assert_eq!(running.end().await, Ok(()));
    assert_eq!(answers.numbers(), [1, 2, 3, 4]);
    assert!(!spooled(&config));
}

#[tokio::test]
async fn a_hard_stop_puts_what_is_on_its_way_on_the_disk() {
    let (_folder, config) = spool();
    let never: Publish = Arc::new(|_| Box::pin(std::future::pending()));
    let running = start(&config, never);
    running.submit(1, None).await;
    running.let_go.cancel();
    assert_eq!(within(running.task).await.unwrap(), Ok(()));
    assert!(spooled(&config));
}

#[tokio::test]
async fn a_hard_stop_ends_a_sender_that_has_nothing_to_do() {
    let (_folder, config) = spool();
    let answers = Answers::new(Outcome::Confirmed);
    let running = start(&config, answers.publish());
    running.submit(1, None).await;
    eventually(async || (answers.numbers() == [1]).then_some(())).await;
    // The window stays open: only the stop can end it.
    running.let_go.cancel();
    assert_eq!(within(running.task).await.unwrap(), Ok(()));
    assert!(!spooled(&config));
}

#[tokio::test]
async fn a_stop_whose_time_is_over_waits_for_room_and_hears_a_hard_stop() {
    let (_folder, mut config) = spool();
    config.max_bytes = 2000;
    let answers = Answers::new(Outcome::Confirmed);
    let running = start(&config, answers.publish());
    running.link.send_replace(LinkState::Away);
    running.submit(1, None).await;
    eventually(async || spooled(&config).then_some(())).await;
    // It waits to be replaced, and then the spool has no room for it.
    let topic = Topic {
        device: "bus-1".into(),
        label: "soc".into(),
    };
    let (attributes, frame) = (
        Arc::clone(&running.attributes),
        testing::frame(2, &[b'x'; 5000]),
    );
    let submitted = running
        .source
        .submit(0, attributes, frame, Some(topic), &running.let_go);
    submitted.await.unwrap();
    let waits = running.window.board().source();
    let _pause = waits.begin(0);
    let Running {
        window,
        source,
        link: _link,
        let_go,
        task,
        ..
    } = running;
    drop((window, source));
    eventually(async || (waits.paused() == Some(PauseReason::SpoolFull)).then_some(())).await;
    // The clock now moves only while nobody has anything to do.
    tokio::time::pause();
    let (finished, watched) = std::sync::mpsc::channel::<()>();
    let (alarm, spins) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _alarm = alarm;
        // Nothing is ever sent: it ends with the test, or because that takes too long.
        assert!(watched.recv_timeout(Duration::from_secs(10)).is_err());
    });
    tokio::select! {
        () = tokio::time::sleep(LAST_DRAIN * 2) => {}
        _ = spins => panic!("it never rests"),
    }
    drop(finished);
    tokio::time::resume();
    let_go.cancel();
    assert_eq!(within(task).await.unwrap(), Err(Stopped));
}

#[tokio::test]
async fn a_full_spool_fills_the_window_and_a_hard_stop_says_what_it_lets_go() {
    let (_folder, mut config) = spool();
    config.max_bytes = 100;
    let answers = Answers::new(Outcome::Refused);
    let running = start(&config, answers.publish());
    let source = running.source.clone();
    let attributes = Arc::clone(&running.attributes);
    let let_go = running.let_go.clone();
    let window = testing::config().window.max_bytes as usize;
    let filling = tokio::spawn(async move {
        for number in 1.. {
            let frame = testing::frame(number, &vec![b'x'; window / 4]);
            let submitted = source.submit(0, Arc::clone(&attributes), frame, None, &let_go);
            if submitted.await.is_err() {
                break;
            }
        }
    });
    let waits = running.source.waits();
    eventually(async || (waits.paused() == Some(PauseReason::SpoolFull)).then_some(())).await;
    running.let_go.cancel();
    within(filling).await.unwrap();
    assert_eq!(running.end().await, Err(Stopped));
}

#[tokio::test]
async fn a_blocked_broker_is_the_reason_while_it_lasts() {
    let (_folder, mut config) = spool();
    config.max_bytes = 1024 * 1024;
    let answers = Answers::new(Outcome::Confirmed);
    let running = start(&config, answers.publish());
    running.link.send_replace(LinkState::Blocked);
    for number in 1..=5 {
        running.submit(number, None).await;
    }
    let waits = running.source.waits();
    let pause = waits.begin(0);
    eventually(async || (waits.paused() == Some(PauseReason::Blocked)).then_some(())).await;
    assert!(answers.numbers().is_empty());
    running.link.send_replace(LinkState::Up);
    eventually(async || (waits.paused() == Some(PauseReason::WindowFull)).then_some(())).await;
    drop(pause);
    assert_eq!(running.end().await, Ok(()));
    assert_eq!(answers.numbers(), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn while_the_broker_is_away_the_newest_frame_of_a_topic_waits_and_the_rest_is_reported() {
    let (_folder, config) = spool();
    let answers = Answers::new(Outcome::Confirmed);
    let running = start(&config, answers.publish());
    running.link.send_replace(LinkState::Away);
    running.submit(1, None).await;
    eventually(async || spooled(&config).then_some(())).await;
    for number in 2..=9 {
        let topic = if number % 2 == 0 { "soc" } else { "odo" };
        running.submit(number, Some(topic)).await;
    }
    running.link.send_replace(LinkState::Up);
    eventually(async || answers.numbers().contains(&9).then_some(())).await;
    assert_eq!(running.end().await, Ok(()));
    assert_eq!(answers.numbers().last(), Some(&9));
    assert_eq!(answers.accounted(), [1..=9].into_iter().collect());
}

#[tokio::test]
async fn frames_that_have_waited_to_be_replaced_survive_a_kill_with_the_numbers_of_the_rest() {
    let (_folder, config) = spool();
    let answers = Answers::new(Outcome::Confirmed);
    let running = start(&config, answers.publish());
    running.link.send_replace(LinkState::Away);
    running.submit(1, None).await;
    running.holds(1).await;
    for number in 2..=9 {
        let topic = if number % 2 == 0 { "soc" } else { "odo" };
        running.submit(number, Some(topic)).await;
    }
    // Once it is on the disk, all before it have been taken.
    running.submit(10, None).await;
    running.holds(2).await;
    tokio::time::pause();
    tokio::time::advance(CONFLATE_FOR).await;
    tokio::time::resume();
    running.holds(3).await;
    // It is counted before it is written, and the spool answers once it has.
    assert!(!running.spool.is_empty().await);
    running.killed().await;

    let running = start(&config, answers.publish());
    running.holds(0).await;
    assert_eq!(running.end().await, Ok(()));
    assert_eq!(answers.numbers(), [1, 10, 8, 9]);
    assert_eq!(answers.accounted(), [1..=10].into_iter().collect());
}

#[tokio::test]
async fn frames_that_wait_to_be_replaced_do_not_fill_the_window() {
    let (_folder, config) = spool();
    let mut window = testing::config().window;
    window.max_bytes = 256 * 1024;
    let answers = Answers::new(Outcome::Confirmed);
    let running = start_with(&window, &config, answers.publish());
    running.link.send_replace(LinkState::Away);
    running.submit(1, None).await;
    running.holds(1).await;
    // Each is about something of its own, and together they are more than the window holds.
    for number in 2..=2000 {
        running.submit(number, Some(&number.to_string())).await;
    }
    running.link.send_replace(LinkState::Up);
    assert_eq!(running.end().await, Ok(()));
    assert_eq!(answers.accounted(), [1..=2000].into_iter().collect());
}

#[tokio::test]
async fn a_canary_is_published_twice_alike_and_its_repeat_may_fail() {
    let parcel = testing::parcel("m-1", b"{}");
    for (repeat, percent, expected) in [
        (Outcome::Confirmed, 100.0, 2),
        (Outcome::Refused, 100.0, 2),
        (Outcome::Unknown, 100.0, 2),
        (Outcome::Confirmed, 0.0, 1),
    ] {
        let published = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&published);
        let (_up, link) = watch::channel(LinkState::Up);
        let broker = Broker {
            publish: move |message| {
                let mut seen = seen.lock().unwrap();
                seen.push(message);
                let outcome = if seen.len() == 1 {
                    Outcome::Confirmed
                } else {
                    repeat
                };
                std::future::ready(outcome)
            },
            link,
            let_go: CancellationToken::new(),
            canary: Canary::new(percent),
        };
        assert_eq!(
            broker.attempt(3, &parcel).await,
            None,
            "it is safe after the first"
        );
        let published = published.lock().unwrap();
        assert_eq!(published.len(), expected, "{repeat:?}");
        assert!(
            published
                .iter()
                .all(|message| *message == parcel.message(3))
        );
    }
}

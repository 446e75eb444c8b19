//! What the three providers have in common behind their protocols: who may ask, how often, what goes wrong, and what was said.

use crate::{
    clock::Clock,
    hub::held,
    polled::{
        Fact, Fold, History, Ledger, Limit, Limits, PolledConfig, PolledRequest, Quota, Record,
        Visits,
    },
};
use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::time::{Instant, sleep};

/// What goes wrong with a request, in place of its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolledFault {
    /// The provider says in its own way that there were too many requests, to be asked again after so many milliseconds.
    Limited {
        /// How long to wait.
        retry_after_ms: u64,
    },
    /// The provider says in its own way that it is in trouble.
    Unavailable,
    /// This status, with a plain text body.
    Status(StatusCode),
    /// 502 with a page of HTML, from the load balancer in front.
    LoadBalancer,
    /// The connection ends in the middle of the answer.
    Cut,
}

/// An answer without data. Boxed, since most answers are none.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) Box<Response>);

impl Refused {
    pub(crate) fn new(response: impl IntoResponse) -> Self {
        Self(Box::new(response.into_response()))
    }
}

/// Why there is no data in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The customer is not known.
    Stranger,
    /// Too many requests; when to ask again, in milliseconds from now, and how it stands if that is known.
    Limited(u64, Option<Quota>),
    /// The provider is in trouble.
    Unavailable,
}

/// The state of a polled provider.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) config: PolledConfig,
    pub(crate) clock: Clock,
    history: Mutex<History>,
    ledger: Mutex<Ledger>,
    limits: Mutex<Limits>,
    limit: Mutex<Option<Limit>>,
    faults: Mutex<VecDeque<PolledFault>>,
    pub(crate) visits: Arc<Visits>,
    /// The open sessions and whose they are, oldest first.
    pub(crate) sessions: Mutex<VecDeque<(String, usize)>>,
    /// Whether last pages come without a cursor.
    pub(crate) empty_end_cursor: AtomicBool,
}

/// A request as it came in.
pub(crate) struct Request {
    pub(crate) pool: &'static str,
    pub(crate) usual_limit: Limit,
    pub(crate) target: String,
    pub(crate) customer: Option<usize>,
}

impl Desk {
    pub(crate) fn new(config: PolledConfig) -> Self {
        let clock = Clock::start();
        Self {
            history: Mutex::new(History::new(&config, clock.now_ms())),
            limit: Mutex::new(config.limit),
            config,
            clock,
            ledger: Mutex::default(),
            limits: Mutex::default(),
            faults: Mutex::default(),
            visits: Arc::default(),
            sessions: Mutex::default(),
            empty_end_cursor: AtomicBool::new(false),
        }
    }

    /// Answers `request`: with the fault that is next, or with what `answer` makes of the data or of the reason for none.
    pub(crate) async fn serve(
        &self,
        request: Request,
        answer: impl FnOnce(Result<Quota, Refusal>) -> Result<Response, Refused>,
    ) -> Response {
        let at_ms = self.clock.now_ms();
        let begun = Instant::now();
        let waiting = self.visits.begin(request.customer);
        if !self.config.latency.is_zero() {
            sleep(self.config.latency).await;
        }
        let answered = match self.refusal(&request, at_ms) {
            Ok(refusal) => answer(refusal),
            Err(response) => Err(response),
        };
        let is_served = answered.is_ok();
        let response = answered.unwrap_or_else(|refused| *refused.0);
        self.visits.add(PolledRequest {
            at_ms,
            took: begun.elapsed(),
            pool: request.pool,
            target: request.target,
            customer: request.customer,
            status: response.status().as_u16(),
            is_served,
        });
        drop(waiting);
        response
    }

    /// Whether `request` may have data; the error is an answer that is no provider's own.
    fn refusal(&self, request: &Request, now_ms: i64) -> Result<Result<Quota, Refusal>, Refused> {
        match held(&self.faults).pop_front() {
            Some(PolledFault::Limited { retry_after_ms }) => {
                return Ok(Err(Refusal::Limited(retry_after_ms, None)));
            }
            Some(PolledFault::Unavailable) => return Ok(Err(Refusal::Unavailable)),
            Some(PolledFault::Status(status)) => {
                let text = status.canonical_reason().unwrap_or("Error");
                return Err(Refused::new((status, text)));
            }
            Some(PolledFault::LoadBalancer) => return Err(Refused::new(load_balancer())),
            Some(PolledFault::Cut) => return Err(Refused::new(cut())),
            None => {}
        }
        let Some(customer) = request.customer else {
            return Ok(Err(Refusal::Stranger));
        };
        let limit = held(&self.limit).unwrap_or(request.usual_limit);
        let quota = held(&self.limits).charge(customer, request.pool, limit, now_ms);
        if quota.is_exceeded {
            let wait = u64::try_from(quota.reset_ms - now_ms).unwrap_or(0);
            return Ok(Err(Refusal::Limited(wait, Some(quota))));
        }
        Ok(Ok(quota))
    }

    /// The customer with this secret.
    pub(crate) fn customer(&self, secret: &str) -> Option<usize> {
        let mut known = self.config.secrets.iter();
        known.position(|known| known.reveal() == secret)
    }

    /// All that has reached the provider by now.
    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        let mut history = held(&self.history);
        history.advance(self.clock.now_ms());
        history
    }

    /// Notes that `record` is on a page of `feed` about `vehicle` and says `facts`.
    pub(crate) fn note<'a>(
        &self,
        history: &History,
        feed: Option<&str>,
        served: impl Iterator<Item = (&'a Record, String, Vec<Fact>)>,
    ) {
        let oldest = history.after(0).next().map_or(0, |record| record.seq);
        let mut ledger = held(&self.ledger);
        for (record, vehicle, facts) in served {
            ledger.records += 1;
            for fact in facts {
                ledger.fold.add(&vehicle, fact);
            }
            if let Some(feed) = feed {
                ledger.serve(feed, record.seq, oldest);
            }
        }
    }

    /// Looks at what was served.
    pub(crate) fn ledger<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&held(&self.ledger))
    }

    /// What is known of all vehicles, whether or not somebody asked.
    pub(crate) fn known(&self, say: impl Fn(&Record) -> (String, Vec<Fact>)) -> Fold {
        let history = self.history();
        let mut fold = Fold::default();
        for record in history.latest(i64::MAX, u64::MAX) {
            let (vehicle, facts) = say(record);
            for fact in facts {
                fold.add(&vehicle, fact);
            }
        }
        fold
    }

    pub(crate) fn fail_next(&self, count: usize, fault: &PolledFault) {
        held(&self.faults).extend(std::iter::repeat_n(fault.clone(), count));
    }

    pub(crate) fn faults_left(&self) -> usize {
        held(&self.faults).len()
    }

    pub(crate) fn set_limit(&self, limit: Option<Limit>) {
        *held(&self.limit) = limit;
    }

    pub(crate) fn has_empty_end_cursor(&self) -> bool {
        self.empty_end_cursor.load(Ordering::Relaxed)
    }
}

fn load_balancer() -> Response {
    let page = "<html><head><title>502 Bad Gateway</title></head><body></body></html>";
    let kind = [(header::CONTENT_TYPE, "text/html")];
    (StatusCode::BAD_GATEWAY, kind, page).into_response()
}

/// The beginning of an answer that is longer than what comes.
fn cut() -> Response {
    let parts: [io::Result<&'static str>; 2] = [
        Ok("{\"data\":["),
        Err(io::ErrorKind::ConnectionReset.into()),
    ];
    let mut response = Response::new(Body::from_stream(stream::iter(parts)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("4096"));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

//! Geotab: JSON-RPC over `POST /apiv1`, with sessions and feeds by version.
//!
//! | method | does |
//! | --- | --- |
//! | `Authenticate` | opens a session for a database, user and password |
//! | `GetFeed` of `LogRecord` | positions and speeds |
//! | `GetFeed` of `StatusData` | everything else, a row a diagnostic |
//! | `Get` of `Device` | the fleet |
//!
//! Without `fromVersion` and `search.fromDate` a feed gives no data, only the version that it is at. Rows are ordered by version,
//! not by time. All answers have the status 200, errors too: `OverLimitException` with a whole `Retry-After`,
//! `InvalidUserException` for a session that is over and for a wrong password alike, `DbUnavailableException`.

mod feed;
mod record;
mod rpc;

use crate::{
    hub::held,
    polled::{Desk, Limit, Quota, Refusal, Refused, Request, time},
};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::header,
    response::Response,
    routing::post,
};
use rpc::{Call, Failure};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

pub(crate) use record::{facts, vehicle_id};

const DATABASE: &str = "simulated";
const USER: &str = "simulator";
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// How many sessions are open at the most; older ones are over.
const MOST_SESSIONS: usize = 100;

/// What is written into a credential file.
pub(crate) fn credential(secret: &str) -> String {
    format!("{DATABASE}/{USER}:{secret}")
}

pub(crate) fn routes(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/apiv1", post(call))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(desk)
}

async fn call(State(desk): State<Arc<Desk>>, body: Bytes) -> Response {
    let call = match Call::read(&body) {
        Ok(call) => call,
        Err(failure) => return *rpc::failed(&desk, &failure).0,
    };
    let is_login = call.method == "Authenticate";
    let (pool, requests) = match (&*call.method, &*call.type_name) {
        ("Authenticate", _) => ("Authenticate", 10),
        ("GetFeed", "LogRecord") => ("LogRecord", 60),
        ("GetFeed", "StatusData") => ("StatusData", 60),
        _ => ("other", 60),
    };
    let request = Request {
        pool,
        usual_limit: Limit::new(requests, Duration::from_mins(1)),
        target: format!("{} {}", call.method, call.type_name)
            .trim_end()
            .to_owned(),
        customer: if is_login {
            call.login(DATABASE, USER)
                .and_then(|password| desk.customer(password))
        } else {
            call.session().and_then(|session| owner(&desk, session))
        },
    };
    let customer = request.customer;
    let served = desk.serve(request, |admitted| {
        let quota = admitted.map_err(|refusal| refused(&desk, refusal))?;
        let result = match customer {
            Some(customer) if is_login => Ok(login(&desk, customer)),
            _ => answer(&desk, &call),
        };
        let mut response = match result {
            Ok(result) => rpc::succeeded(&result),
            Err(failure) => return Err(rpc::failed(&desk, &failure)),
        };
        add_quota(&mut response, quota);
        Ok(response)
    });
    served.await
}

fn owner(desk: &Desk, session: &str) -> Option<usize> {
    let sessions = held(&desk.sessions);
    let found = sessions.iter().find(|(id, _)| id == session);
    found.map(|(_, customer)| *customer)
}

fn login(desk: &Desk, customer: usize) -> Value {
    let id = format!("simulated-session-{}", desk.visits.count() + 1);
    let mut sessions = held(&desk.sessions);
    sessions.push_back((id.clone(), customer));
    if sessions.len() > MOST_SESSIONS {
        sessions.pop_front();
    }
    json!({
        "path": "ThisServer",
        "credentials": {"database": DATABASE, "userName": USER, "sessionId": id},
    })
}

fn answer(desk: &Desk, call: &Call) -> Result<Value, Failure> {
    let history = desk.history();
    match (&*call.method, &*call.type_name) {
        ("Get", "Device") => Ok((0..history.vehicles()).map(record::device).collect()),
        ("GetFeed", _) => {
            let asked = feed::Asked::read(call, desk.config.page_records())?;
            let page = feed::page(&history, &asked);
            let served = page.rows.iter().map(|row| {
                let facts = row.fact().into_iter().flatten().collect();
                (row.record, vehicle_id(row.record.vehicle), facts)
            });
            desk.note(&history, Some(&*call.type_name), served);
            let data: Vec<_> = page.rows.iter().map(feed::Row::written).collect();
            Ok(json!({"data": data, "toVersion": feed::written(page.to_version)}))
        }
        ("Get", other) => Err(Failure::argument(&format!(
            "typeName {other:?} is not known"
        ))),
        (other, _) => Err(Failure {
            kind: "MissingMethodException",
            message: format!("The method {other:?} could not be found."),
        }),
    }
}

fn refused(desk: &Desk, refusal: Refusal) -> Refused {
    match refusal {
        Refusal::Stranger => rpc::failed(desk, &Failure::invalid_user(DATABASE)),
        Refusal::Limited(wait_ms, quota) => {
            let failure = Failure {
                kind: "OverLimitException",
                message: "API calls quota exceeded.".to_owned(),
            };
            let mut response = rpc::failed(desk, &failure);
            let wait = wait_ms.div_ceil(1000).to_string();
            add(&mut response.0, header::RETRY_AFTER.as_str(), &wait);
            if let Some(quota) = quota {
                add_quota(&mut response.0, quota);
            }
            response
        }
        Refusal::Unavailable => rpc::failed(
            desk,
            &Failure {
                kind: "DbUnavailableException",
                message: "The database is not available.".to_owned(),
            },
        ),
    }
}

fn add_quota(response: &mut Response, quota: Quota) {
    let period = format!("{}s", quota.limit.period.as_secs_f64());
    add(response, "x-rate-limit-limit", &period);
    let remaining = quota.remaining.to_string();
    add(response, "x-rate-limit-remaining", &remaining);
    add(
        response,
        "x-rate-limit-reset",
        &time::written(quota.reset_ms),
    );
}

fn add(response: &mut Response, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (name.parse::<header::HeaderName>(), value.parse()) {
        response.headers_mut().insert(name, value);
    }
}

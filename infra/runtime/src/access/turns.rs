//! Turns at a service's database, so that whoever reads leaves connections to the service's own work, and
//! to each other.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use utoipa_axum::router::OpenApiRouter;

use super::{NoScope, Principal, Rule, Rules, Scope, Shares};
use crate::http::Problem;

/// How long a request usually waits for its turn.
pub const TURN_LIMIT: Duration = Duration::from_secs(3);

/// Who works with the database now. One principal has at most half of the places, and waits for them among
/// its own. Clones share the places.
#[derive(Debug, Clone)]
pub struct Turns {
    all: Arc<Semaphore>,
    own: Shares,
}

/// The permits to work with the database; whoever drops it has had its turn.
#[derive(Debug)]
pub struct Turn {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

impl Turns {
    /// Places for half of so many connections, and one at least.
    #[must_use]
    pub fn on(connections: u32) -> Self {
        let places = usize::try_from(connections / 2).unwrap_or(1).max(1);
        Self {
            all: Arc::new(Semaphore::new(places)),
            own: Shares::of_size(places.div_ceil(2)),
        }
    }

    /// The turn of `principal`, if it comes soon enough.
    pub async fn turn(&self, principal: &str, patience: Duration) -> Result<Turn, Problem> {
        let turn = async {
            let own = self.own.of(principal).acquire_owned().await?;
            let all = Arc::clone(&self.all).acquire_owned().await?;
            Ok::<_, AcquireError>(Turn {
                _all: all,
                _own: own,
            })
        };
        let Ok(Ok(turn)) = tokio::time::timeout(patience, turn).await else {
            let detail = "too much is being read; try again, or ask for less at a time";
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Err(Problem::new(status, "busy", detail));
        };
        Ok(turn)
    }
}

#[derive(Clone)]
struct InTurn {
    turns: Turns,
    rules: Arc<Rules>,
}

/// `routes`, of which each request waits for its turn; but for those of services among themselves, and for
/// frames, whose intake has bounds of its own. To be served by [`crate::http::serve`], whose guard says who
/// asks.
pub fn in_turn(routes: OpenApiRouter, turns: Turns) -> Result<OpenApiRouter, NoScope> {
    let rules = Arc::new(Rules::of(routes.get_openapi())?);
    Ok(routes.layer(middleware::from_fn_with_state(
        InTurn { turns, rules },
        wait,
    )))
}

async fn wait(
    State(InTurn { turns, rules }): State<InTurn>,
    route: MatchedPath,
    request: Request,
    next: Next,
) -> Response {
    let rule = rules.find(route.as_str(), request.method());
    let waits = matches!(rule, Rule::Scope(scope) if scope != Scope::Ingest);
    let principal = request.extensions().get::<Principal>();
    let principal = principal.filter(|principal| waits && **principal != Principal::internal());
    let Some(principal) = principal else {
        return next.run(request).await;
    };
    match turns.turn(&principal.name, TURN_LIMIT).await {
        Ok(_turn) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http;
    use axum::{Extension, Router};
    use tokio::sync::Notify;
    use tower::ServiceExt as _;
    use utoipa_axum::routes;

    use super::super::{Kind, Workspaces};
    use super::*;

    #[tokio::test]
    async fn a_turn_is_waited_for_as_long_as_said() {
        let turns = Turns::on(1);
        let first = turns.turn("a", Duration::ZERO).await.unwrap();
        let refused = turns.turn("b", Duration::from_millis(5)).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind, "urn:headrace:problem:busy");
        let release = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(first);
        };
        let patient = turns.turn("b", TURN_LIMIT);
        let (patient, ()) = tokio::join!(patient, release);
        assert!(patient.is_ok());
    }

    #[tokio::test]
    async fn who_reads_much_leaves_others_their_turn() {
        let turns = Turns::on(8);
        let own = async || turns.turn("a", Duration::from_millis(5)).await;
        let (_one, _two) = (own().await.unwrap(), own().await.unwrap());
        assert_eq!(own().await.unwrap_err().status, 503);
        assert!(turns.turn("b", Duration::from_millis(5)).await.is_ok());
    }

    /// Read what takes its time
    #[utoipa::path(get, path = "/slow", operation_id = "slow",
        responses((status = 200, description = "done")), security(("credential" = ["read"])))]
    async fn slow(Extension(done): Extension<Arc<Notify>>) {
        done.notified().await;
    }

    /// Send frames
    #[utoipa::path(post, path = "/frames", operation_id = "frames",
        responses((status = 200, description = "taken")), security(("credential" = ["ingest"])))]
    async fn frames() {}

    /// Routes with one place, asked by `principal`.
    fn service(principal: Principal, done: &Arc<Notify>) -> Router {
        let routes = OpenApiRouter::new()
            .routes(routes!(slow))
            .routes(routes!(frames));
        Router::from(in_turn(routes, Turns::on(1)).unwrap())
            .layer(Extension(Arc::clone(done)))
            .layer(Extension(principal))
    }

    async fn status(service: &Router, request: http::request::Builder) -> u16 {
        let request = request.body(Body::empty()).unwrap();
        let answer = service.clone().oneshot(request).await.unwrap();
        answer.status().as_u16()
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_its_turn_but_for_frames_and_services() {
        let reader = Principal {
            name: "key:1".to_owned(),
            kind: Kind::ApiKey,
            workspaces: Workspaces::All,
            scopes: [Scope::Read, Scope::Ingest].into(),
            expires_at: None,
        };
        for (principal, expected) in [(reader, [200, 503]), (Principal::internal(), [200, 200])] {
            let done = Arc::new(Notify::new());
            let service = service(principal, &done);
            let read = || status(&service, Request::get("/slow"));
            let frames = async {
                let taken = status(&service, Request::post("/frames")).await;
                tokio::time::sleep(2 * TURN_LIMIT).await;
                done.notify_waiters();
                taken
            };
            let (one, two, taken) = tokio::join!(read(), read(), frames);
            assert_eq!(([one, two], taken), (expected, 200));
        }
    }
}

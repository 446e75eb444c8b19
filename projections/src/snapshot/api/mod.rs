//! The snapshots' read API.
//!
//! Every answer is one statement, or one a page; a request holds a connection to the database while its
//! statement runs, and never while it waits or writes to its client. Lists look at many rows, so only half
//! of the connections are for them: single vehicles, and the projection itself, find one.

mod export;
mod list;
mod one;

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use runtime::clock;
use runtime::http::Problem;
use shared_model::{VehicleId, WorkspaceId};
use sqlx::PgPool;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::View;
use super::cutoffs::Cutoffs;
use super::fields::Fields;
use super::filter::Filter;
use super::fold::Snapshot;
use super::store::view;
use super::waits::Waits;
use crate::health::LimitsByProvider;

/// How long a list waits for its turn.
const TURN_LIMIT: Duration = Duration::from_secs(3);

/// What the routes answer from.
#[derive(Debug, Clone)]
pub(super) struct Api {
    pool: PgPool,
    limits: Arc<LimitsByProvider>,
    waits: Waits,
    /// One permit for each list that may be read at once.
    lists: Arc<Semaphore>,
    stopping: CancellationToken,
}

/// The routes and what they are described as.
pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list::list))
        .routes(routes!(one::find))
        .routes(routes!(export::export))
}

impl Api {
    /// Answers from `pool`, which has so many connections, by `limits`.
    pub(super) fn new(
        pool: PgPool,
        connections: u32,
        limits: LimitsByProvider,
        waits: Waits,
        stopping: CancellationToken,
    ) -> Self {
        let lists = usize::try_from(connections / 2).unwrap_or(1).max(1);
        Self {
            pool,
            limits: Arc::new(limits),
            waits,
            lists: Arc::new(Semaphore::new(lists)),
            stopping,
        }
    }

    /// The first `limit` vehicles of a workspace behind `after`, and when they were looked at.
    async fn list(
        &self,
        workspace: &WorkspaceId,
        after: Option<&VehicleId>,
        limit: i64,
        filter: &Filter,
    ) -> Result<(Vec<(String, Snapshot)>, DateTime<Utc>), Problem> {
        let turn = tokio::time::timeout(TURN_LIMIT, self.lists.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            let detail = "too many lists are being read; try again, or ask for less at a time";
            return Err(Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                detail,
            ));
        };
        let mut connection = self.pool.acquire().await?;
        let now = clock::now();
        let cutoffs = Cutoffs::at(now, &self.limits);
        let found = view::list(&mut connection, workspace, after, limit, filter, &cutoffs).await?;
        Ok((found, now))
    }

    fn view<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        fields: &'a Fields,
        now: DateTime<Utc>,
    ) -> View<'a> {
        View {
            workspace,
            fields,
            limits: &self.limits,
            now,
        }
    }
}

/// Refuses a query with a parameter that is not among `known`.
fn only_known(query: &[(String, String)], known: &[&[&str]]) -> Result<(), Problem> {
    let known = || known.iter().copied().flatten();
    let unknown = query
        .iter()
        .find(|(name, _)| known().all(|known| known != name));
    unknown.map_or(Ok(()), |(name, _)| {
        let known: Vec<_> = known().copied().collect();
        let detail = format!("{name:?} is no parameter; known are {}", known.join(", "));
        Err(Problem::bad_request("invalid-query", detail))
    })
}

#[cfg(test)]
mod tests {
    use utoipa::IntoParams;
    use utoipa::openapi::path::ParameterIn;

    use super::list::{FieldsQuery, PageQuery};
    use crate::snapshot::filter::FilterQuery;

    fn described<P: IntoParams>() -> Vec<String> {
        let described = P::into_params(|| Some(ParameterIn::Query));
        described.into_iter().map(|of| of.name).collect()
    }

    #[test]
    fn the_known_parameters_are_those_that_are_described() {
        assert_eq!(described::<FilterQuery>(), FilterQuery::NAMES);
        assert_eq!(described::<PageQuery>(), PageQuery::NAMES);
        assert_eq!(described::<FieldsQuery>(), FieldsQuery::NAMES);
    }
}

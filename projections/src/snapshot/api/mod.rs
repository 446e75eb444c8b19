//! The snapshots' read API.
//!
//! Every answer is one statement, or one a page; nothing holds a connection to the database while it waits
//! or writes to its client. Lists look at many rows, so only half of the connections are for them, and a
//! quarter for single vehicles, which are found together: the rest is left for the projection itself.

mod export;
mod list;
mod one;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use runtime::access::{Principal, Shares, Turns};
use runtime::clock;
use runtime::http::Problem;
use shared_model::{VehicleId, WorkspaceId};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::View;
use super::cutoffs::Cutoffs;
use super::fields::Fields;
use super::filter::Filter;
use super::finder::Finder;
use super::fold::Snapshot;
use super::store::view;
use super::waits::Waits;
use crate::health::LimitsByProvider;

/// How long a download that is under way waits for its turn: to begin it anew costs more. Who passes it on
/// gives up after 30 s in which nothing comes.
const LONG_TURN_LIMIT: Duration = Duration::from_secs(20);
/// How many requests of one principal may wait for a version at once.
const OWN_WAITS: usize = 400;

/// What the routes answer from.
#[derive(Debug, Clone)]
pub(super) struct Api {
    pool: PgPool,
    finder: Finder,
    limits: Arc<LimitsByProvider>,
    waits: Waits,
    own_waits: Shares,
    lists: Turns,
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
    /// Answers from `pool`, which has so many connections, and by `finder` what is asked of one vehicle.
    pub(super) fn new(
        pool: PgPool,
        connections: u32,
        finder: Finder,
        limits: LimitsByProvider,
        waits: Waits,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            pool,
            finder,
            limits: Arc::new(limits),
            waits,
            own_waits: Shares::of_size(OWN_WAITS),
            lists: Turns::on(connections),
            stopping,
        }
    }

    /// The first `limit` vehicles of a workspace behind `after`, and when they were looked at. Waits up to
    /// `patience` for the turn of `principal`.
    async fn list(
        &self,
        principal: &Principal,
        workspace: &WorkspaceId,
        after: Option<&VehicleId>,
        limit: i64,
        filter: &Filter,
        patience: Duration,
    ) -> Result<(Vec<(String, Snapshot)>, DateTime<Utc>), Problem> {
        let _turn = self.lists.turn(&principal.name, patience).await?;
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

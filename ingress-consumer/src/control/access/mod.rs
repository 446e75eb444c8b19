//! Who may use the APIs, and who has changed what: API keys, `/v1/me` and the audit log.

mod audit;
mod keys;
mod me;

use axum::routing::{post, put};
use sqlx::PgPool;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use audit::{AuditEntry, AuditPage};
pub use keys::{ApiKeyPage, ApiKeyView, CreatedApiKey, NewApiKey, NewWideApiKey, make};
pub use me::Me;

/// The described routes, without their state.
pub fn router() -> OpenApiRouter<PgPool> {
    OpenApiRouter::new()
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::show, keys::revoke))
        .routes(routes!(keys::list_wide, keys::create_wide))
        .routes(routes!(keys::show_wide, keys::revoke_wide))
        .routes(routes!(audit::list))
        .routes(routes!(audit::list_all))
        .routes(routes!(me::me))
}

/// All routes, those for the other services included.
pub fn routes(pool: PgPool) -> OpenApiRouter {
    router()
        .route("/internal/v1/api-keys/check", post(keys::check))
        .route("/internal/v1/audit", post(audit::begin))
        .route("/internal/v1/audit/{id}", put(audit::conclude))
        .with_state(pool)
}

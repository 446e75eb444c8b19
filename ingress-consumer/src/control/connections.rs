//! Connections: added, listed, shown and removed.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use runtime::db;
use runtime::http::{Json, PageSize, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared_model::partition::partition;
use shared_model::{ConnectionId, ConnectionKind, EventType, Provider, WorkspaceId};
use sqlx::{Postgres, Transaction};
use utoipa::{IntoParams, ToSchema};

use super::check::check;
use super::params::{AtConnection, InWorkspace};
use super::words::known_provider;
use super::{Control, installation};
use crate::acceptance::registered;
use crate::acceptance::status::events;
use crate::decide::VehicleState;
use crate::installation::Installation;
use crate::interpret::Provision;
use crate::metrics;
use crate::sources::polling::new_sessions;
use crate::store::connection::{self, Connection};
use crate::store::event_log::{self, NewEvent};
use crate::store::vehicle::{self, Vehicle, VehicleKey};
use crate::store::{StoreError, poll, status, stream};

/// A connection to add.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewConnection {
    /// The provider's protocol, such as `viriciti`.
    #[schema(schema_with = known_provider)]
    pub provider: String,
    /// `stream`: a websocket that a publisher reads; `poll`: an HTTP API that the core asks; `push`:
    /// delivered over HTTP provider-ingest.
    #[schema(value_type = ConnectionKind)]
    pub kind: String,
    /// The websocket's or the API's URL, without user, password or key; none for `push`.
    #[serde(default)]
    #[schema(
        pattern = r"^((wss?|https?)://[^\s@\u0000-\u001f\u007f-\u009f]+)?$",
        example = "wss://sdk.viriciti.com/api/v2/live"
    )]
    pub endpoint: String,
    /// Where the credential is: `env:NAME` or `file:PATH`, as the publisher (`stream`) or the core
    /// (`poll`) sees them.
    #[serde(default)]
    #[schema(pattern = r"^(env|file):.*\S", example = "env:VIRICITI_KEY")]
    pub credential: Option<String>,
    /// Settings in the provider's own terms.
    #[schema(value_type = Object, example = json!({"vehicles": {"bus-1": ["soc"]}}))]
    pub settings: Value,
}

/// A connection as shown.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Connection)]
pub struct ConnectionView {
    /// Its id.
    pub id: ConnectionId,
    /// Whose it is.
    pub workspace: WorkspaceId,
    /// The provider's protocol.
    pub provider: Provider,
    /// How its data come.
    pub kind: ConnectionKind,
    /// The websocket's or the API's URL; empty for `push`.
    pub endpoint: String,
    /// Where the credential is; never the credential.
    pub credential: Option<String>,
    /// Settings in the provider's own terms.
    #[schema(value_type = Object)]
    pub settings: Value,
    /// When it was added (UTC).
    pub created_at: DateTime<Utc>,
}

impl From<Connection> for ConnectionView {
    fn from(connection: Connection) -> Self {
        Self {
            id: connection.id,
            workspace: connection.workspace,
            provider: connection.provider,
            kind: connection.kind,
            endpoint: connection.endpoint,
            credential: connection.credential,
            settings: connection.settings,
            created_at: connection.created_at,
        }
    }
}

/// Which part of a list by connection is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// How many at most.
    #[param(minimum = 1, maximum = 1000, default = 100, nullable = false)]
    limit: Option<i64>,
    /// The `next` of the page before: the list goes on behind it.
    #[param(value_type = Option<Uuid>, nullable = false)]
    pub(super) after: Option<ConnectionId>,
}

impl Page {
    pub(super) fn size(&self) -> Result<PageSize, Problem> {
        PageSize::asked(self.limit)
    }
}

/// A page of connections.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConnectionPage {
    /// The connections, by id.
    items: Vec<ConnectionView>,
    /// Where the next page begins, if there may be one.
    next: Option<ConnectionId>,
}

pub(super) fn not_found(workspace: &WorkspaceId, id: ConnectionId) -> Problem {
    let detail = format!("workspace {workspace} has no connection {id}");
    Problem::not_found("connection-not-found", detail)
}

/// Add a connection
///
/// Makes the vehicles known that its settings name. It is checked whole, and the problem names all that
/// is wrong with it.
#[utoipa::path(
    post,
    path = "/v1/workspaces/{workspace}/connections",
    operation_id = "addConnection",
    tag = "connections",
    params(InWorkspace),
    request_body = NewConnection,
    responses((
        status = 201,
        description = "The connection as added.",
        body = ConnectionView,
        headers(("Location" = String, description = "The connection's path."))
    )),
    security(("credential" = ["manage"]))
)]
pub async fn add(
    State(control): State<Control>,
    Path(at): Path<InWorkspace>,
    Json(new): Json<NewConnection>,
) -> Result<Response, Problem> {
    let (connection, provision) = check(at.workspace()?, new, &control.allowed)?;
    let installation = installation(&mut *control.pool.acquire().await?).await?;
    let registered = db::in_tx(&control.pool, "add_connection", |tx| {
        insert(tx, installation, &connection, &provision)
    })
    .await?;
    metrics::appended("vehicle.registered", registered);
    tracing::info!(
        workspace = %connection.workspace,
        connection = %connection.id,
        provider = %connection.provider,
        vehicles = registered,
        "a connection was added"
    );
    let location = format!(
        "/v1/workspaces/{}/connections/{}",
        connection.workspace, connection.id
    );
    let mut response = (
        StatusCode::CREATED,
        axum::Json(ConnectionView::from(connection)),
    )
        .into_response();
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Stores the connection and makes the vehicles known that its settings name.
async fn insert(
    mut tx: Transaction<'static, Postgres>,
    installation: Installation,
    connection: &Connection,
    provision: &Provision,
) -> Result<(Transaction<'static, Postgres>, u64), StoreError> {
    connection::insert(&mut tx, connection).await?;
    if let Some((feed, _)) = &provision.poll {
        let feeds = new_sessions(&feed.names());
        poll::insert(&mut tx, connection.id, &feeds).await?;
    }
    let vehicles: BTreeMap<_, _> = provision
        .interpreter
        .known_devices()
        .into_iter()
        .filter_map(|device| {
            let key = VehicleKey {
                workspace: connection.workspace.clone(),
                vehicle: provision.vehicles.of(&device).ok()?,
            };
            let shard = partition(
                &connection.workspace,
                connection.id,
                &device,
                installation.partitions,
            );
            let vehicle = Vehicle {
                shard,
                registered_at: connection.created_at,
                registered_by: connection.id,
                state: VehicleState {
                    revision: 1,
                    ..VehicleState::default()
                },
            };
            Some((key, vehicle))
        })
        .collect();
    let inserted = vehicle::register(&mut tx, &vehicles).await?;
    let events: Vec<_> = inserted
        .iter()
        .filter_map(|key| {
            let vehicle = vehicles.get(key)?;
            Some(NewEvent {
                shard: vehicle.shard,
                workspace: key.workspace.clone(),
                fact: registered(key, vehicle, connection.provider.clone()),
            })
        })
        .collect();
    event_log::append(&mut tx, &events, None).await?;
    Ok((tx, events.len() as u64))
}

/// List a workspace's connections
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/connections",
    operation_id = "listConnections",
    tag = "connections",
    params(InWorkspace, Page),
    responses((status = 200, description = "A page of connections.", body = ConnectionPage)),
    security(("credential" = ["read"]))
)]
pub async fn list(
    State(control): State<Control>,
    Path(at): Path<InWorkspace>,
    Query(page): Query<Page>,
) -> Result<axum::Json<ConnectionPage>, Problem> {
    let (workspace, size) = (at.workspace()?, page.size()?);
    let mut pg = control.pool.acquire().await?;
    let found = connection::list(&mut pg, &workspace, page.after, size.to_look_for()).await?;
    let (found, next) = size.cut(found, |connection| connection.id);
    Ok(axum::Json(ConnectionPage {
        items: found.into_iter().map(Into::into).collect(),
        next,
    }))
}

/// Show a connection
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/connections/{connection}",
    operation_id = "showConnection",
    tag = "connections",
    params(AtConnection),
    responses((status = 200, description = "The connection.", body = ConnectionView)),
    security(("credential" = ["read"]))
)]
pub async fn show(
    State(control): State<Control>,
    Path(at): Path<AtConnection>,
) -> Result<axum::Json<ConnectionView>, Problem> {
    let (workspace, id) = (at.workspace()?, at.connection);
    let mut pg = control.pool.acquire().await?;
    let found = connection::find_live(&mut pg, &workspace, id).await?;
    found
        .map(|found| axum::Json(found.into()))
        .ok_or_else(|| not_found(&workspace, id))
}

/// Remove a connection
///
/// Nothing is read for it any more. Its vehicles stay, with the state that they have.
#[utoipa::path(
    delete,
    path = "/v1/workspaces/{workspace}/connections/{connection}",
    operation_id = "removeConnection",
    tag = "connections",
    params(AtConnection),
    responses((status = 204, description = "It is removed.")),
    security(("credential" = ["manage"]))
)]
pub async fn remove(
    State(control): State<Control>,
    Path(at): Path<AtConnection>,
) -> Result<StatusCode, Problem> {
    let (workspace, id) = (at.workspace()?, at.connection);
    let of = &workspace;
    let shards = installation(&mut *control.pool.acquire().await?)
        .await?
        .partitions;
    let removed = db::in_tx(&control.pool, "remove_connection", |mut tx| async move {
        // A placement that has seen the connection alive must not place it afterwards.
        stream::lock(&mut tx).await?;
        let removed = connection::remove(&mut tx, of, id).await?;
        let mut told = Vec::new();
        if removed {
            stream::forget(&mut tx, id).await?;
            poll::remove(&mut tx, id).await?;
            told.extend(status::remove(&mut tx, id).await?);
        }
        event_log::append(&mut tx, &events(&told, shards), None).await?;
        Ok::<_, StoreError>((tx, removed.then_some(told.len())))
    })
    .await?;
    let Some(told) = removed else {
        return Err(not_found(&workspace, id));
    };
    metrics::appended(EventType::ConnectionStatusChanged.name(), told as u64);
    tracing::info!(%workspace, connection = %id, "a connection was removed");
    Ok(StatusCode::NO_CONTENT)
}

//! Which service a path belongs to, from the services' descriptions.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;
use axum::Router;
use axum::routing::{MethodFilter, MethodRouter, on};
use reqwest::Client;
use runtime::access::Access;
use utoipa::openapi::OpenApi;
use utoipa::openapi::path::PathItem;

use super::Upstreams;
use super::pass::{Room, Upstream, pass};

const INGEST: &str = "/v1/provider-ingest";
/// Of provider-ingest, as it is sent; the core bounds what is in it.
const LARGEST_INGEST: usize = 16 * 1024 * 1024;

/// A service that is reachable through the gateway.
pub(super) struct Described {
    pub(super) name: &'static str,
    pub(super) description: OpenApi,
    base: fn(&Upstreams) -> &str,
}

/// Every service that has something for the public.
pub(super) fn services() -> [Described; 5] {
    let described = |name, description, base| Described {
        name,
        description,
        base,
    };
    [
        described("core", ingress_consumer::description(), |all| &all.core),
        described("snapshot", projections::snapshot::description(), |all| {
            &all.snapshot
        }),
        described("health", projections::health::description(), |all| {
            &all.health
        }),
        described("reactions", projections::reactions::description(), |all| {
            &all.reactions
        }),
        described("live", projections::live::description(), |all| &all.live),
    ]
}

/// A path that is described, and the service that answers it.
struct Route {
    path: String,
    item: PathItem,
    service: &'static str,
    base: fn(&Upstreams) -> &str,
}

/// Every path that is described, each of one service.
fn table() -> anyhow::Result<Vec<Route>> {
    let mut owners = BTreeMap::new();
    let mut table = Vec::new();
    for Described {
        name: service,
        description,
        base,
    } in services()
    {
        for (path, item) in description.paths.paths {
            if let Some(other) = owners.insert(path.clone(), service) {
                bail!("{path} is described by both {other} and {service}");
            }
            table.push(Route {
                path,
                item,
                service,
                base,
            });
        }
    }
    Ok(table)
}

/// The paths that are described, each handed to its service.
pub(super) fn routes(upstreams: &Upstreams, access: &Access) -> anyhow::Result<Router> {
    let client = Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(2))
        .build()?;
    let room = Room::default();
    let routes = table()?.into_iter().fold(Router::new(), |routes, route| {
        let base = (route.base)(upstreams).trim_end_matches('/');
        let upstream = Upstream::new(route.service, base, &client, access, &room);
        let upstream = if route.path == INGEST {
            upstream.taking(LARGEST_INGEST)
        } else {
            upstream
        };
        routes.route(&route.path, methods(&route.item).with_state(upstream))
    });
    Ok(routes)
}

/// The methods that are described; a HEAD goes where the GET goes.
fn methods(item: &PathItem) -> MethodRouter<Upstream> {
    let described = [
        (&item.get, MethodFilter::GET),
        (&item.put, MethodFilter::PUT),
        (&item.post, MethodFilter::POST),
        (&item.patch, MethodFilter::PATCH),
        (&item.delete, MethodFilter::DELETE),
    ];
    let described = described
        .into_iter()
        .filter(|(operation, _)| operation.is_some());
    described.fold(MethodRouter::new(), |methods, (_, filter)| {
        methods.merge(on(filter, pass))
    })
}

#[cfg(test)]
mod tests {
    use axum::routing::get;

    use super::*;

    #[test]
    fn every_described_path_has_one_owner_and_none_is_internal() {
        let mut routes: Router = Router::new();
        for Route { path, item, .. } in table().unwrap() {
            assert!(path.starts_with("/v1/"), "{path}");
            assert!(item.options.is_none() && item.head.is_none(), "{path}");
            // Panics where two paths cannot be told apart.
            routes = routes.route(&path, get(|| async {}));
        }
        assert!(routes.has_routes());
    }
}

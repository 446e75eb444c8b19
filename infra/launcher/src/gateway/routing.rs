//! Which service a path belongs to, from the services' descriptions.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{MethodFilter, MethodRouter, on};
use reqwest::Client;
use utoipa::openapi::OpenApi;
use utoipa::openapi::path::PathItem;

use super::Upstreams;
use super::pass::{PATIENCE, Upstream, pass};

const LARGEST_BODY: usize = 2 * 1024 * 1024;
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

/// The paths that are described, each handed to its service.
pub(super) fn routes(upstreams: &Upstreams) -> anyhow::Result<Router> {
    let client = Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(2))
        // Between two pieces of an answer: some answers go on for hours.
        .read_timeout(PATIENCE)
        .build()?;
    let mut routes = Router::new();
    let mut owners: BTreeMap<String, &str> = BTreeMap::new();
    for service in services() {
        let base = (service.base)(upstreams).trim_end_matches('/');
        let upstream = Upstream::new(service.name, base, &client);
        for (path, item) in service.description.paths.paths {
            if let Some(other) = owners.insert(path.clone(), service.name) {
                bail!("{path} is described by both {other} and {}", service.name);
            }
            let mut methods = methods(&item).with_state(upstream.clone());
            if path == INGEST {
                methods = methods.layer(DefaultBodyLimit::max(LARGEST_INGEST));
            }
            routes = routes.route(&path, methods);
        }
    }
    Ok(routes.layer(DefaultBodyLimit::max(LARGEST_BODY)))
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
    use super::*;
    use crate::gateway::GatewayConfig;

    #[test]
    fn every_described_path_has_one_owner_and_none_is_internal() {
        routes(&GatewayConfig::default().upstream).unwrap();
        let services = services();
        let paths = services
            .iter()
            .flat_map(|service| service.description.paths.paths.keys());
        for path in paths {
            assert!(path.starts_with("/v1/"), "{path}");
        }
    }
}

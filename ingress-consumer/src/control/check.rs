//! Whether a connection could work: everything that is wrong with it, said at once.

use reqwest::Url;
use runtime::http::Problem;
use runtime::{clock, credential};
use shared_model::{ConnectionId, ConnectionKind, Provider, WorkspaceId};

use super::connections::NewConnection;
use crate::config::ConnectionsConfig;
use crate::interpret::{Provision, provision};
use crate::store::connection::Connection;

/// The connection and how it is read, or everything that is wrong with it. It names nothing but what is
/// `allowed`.
pub fn check(
    workspace: WorkspaceId,
    new: NewConnection,
    allowed: &ConnectionsConfig,
) -> Result<(Connection, Provision), Problem> {
    let mut problems = Vec::new();
    let kind = ConnectionKind::from_name(&new.kind);
    if kind.is_none() {
        problems.push(format!(
            "kind is {:?}; write \"stream\", \"poll\" or \"push\"",
            new.kind
        ));
    }
    // Of an unknown kind, everything else is checked as if it were the usual one.
    let assumed = kind.unwrap_or(ConnectionKind::Stream);
    if let Some(problem) = endpoint_problem(assumed, &new.endpoint) {
        problems.push(problem);
    } else if assumed != ConnectionKind::Push && !allowed.admits_endpoint(&new.endpoint) {
        problems.push(
            "endpoint is none that this installation allows; who operates it adds it to \
             connections.endpoints of the core"
                .to_owned(),
        );
    }
    if holds_credential(&new.endpoint) {
        problems.push(
            "endpoint holds a credential in its query; write it as credential env:NAME or file:PATH"
                .to_owned(),
        );
    }
    if let Some(credential) = &new.credential
        && !["env:", "file:"].iter().any(|scheme| {
            credential
                .strip_prefix(scheme)
                .is_some_and(|name| !name.trim().is_empty())
        })
    {
        // What was written there may be the credential itself, so it is not repeated.
        problems.push("credential is not a reference; write env:NAME or file:PATH".to_owned());
    } else if let Some(Err(error)) = new.credential.as_deref().map(credential::check) {
        problems.push(error.to_string());
    } else if let Some(credential) = &new.credential
        && !allowed.admits_credential(&workspace, credential)
    {
        problems.push(
            "credential is none that this workspace may use; who operates the installation adds it to \
             connections.credentials of the core"
                .to_owned(),
        );
    }
    let provider = Provider::new(new.provider.as_str());
    let read = provider
        .as_ref()
        .map_err(ToString::to_string)
        .and_then(|provider| {
            provision(provider, assumed, &new.settings).map_err(|error| error.to_string())
        });
    match (kind, provider, read) {
        (Some(kind), Ok(provider), Ok(provision)) if problems.is_empty() => {
            let connection = Connection {
                id: ConnectionId(clock::new_id()),
                workspace,
                provider,
                kind,
                endpoint: new.endpoint,
                credential: new.credential,
                settings: new.settings,
                created_at: clock::now(),
            };
            Ok((connection, provision))
        }
        (_, _, read) => {
            problems.extend(read.err());
            Err(Problem::bad_request(
                "invalid-connection",
                problems.join("; "),
            ))
        }
    }
}

fn endpoint_problem(kind: ConnectionKind, endpoint: &str) -> Option<String> {
    let (schemes, named): (&[&str], _) = match kind {
        ConnectionKind::Stream => (&["ws://", "wss://"], "a ws:// or wss:// URL"),
        ConnectionKind::Poll => (&["http://", "https://"], "an http:// or https:// URL"),
        ConnectionKind::Push => {
            return (!endpoint.is_empty())
                .then(|| "endpoint is set; a connection of kind push has none".to_owned());
        }
    };
    let valid = schemes.iter().any(|scheme| {
        endpoint.strip_prefix(scheme).is_some_and(|host| {
            let is_odd = |c: char| c == '@' || c.is_whitespace() || c.is_control();
            !host.is_empty() && !host.contains(is_odd)
        })
    });
    if !valid {
        return Some(format!(
            "endpoint is {:?}; write {named} without a user, a password or white space",
            without_user_info(endpoint)
        ));
    }
    (kind == ConnectionKind::Poll)
        .then(|| polled_problem(endpoint))
        .flatten()
}

/// What keeps paths from being appended to `endpoint`.
fn polled_problem(endpoint: &str) -> Option<String> {
    match Url::parse(endpoint) {
        Err(error) => Some(format!("endpoint is not a URL: {error}")),
        Ok(url) if url.query().is_some() || url.fragment().is_some() => Some(
            "endpoint has a query or a fragment; one of kind poll is what the provider's paths are \
             appended to, so write it without"
                .to_owned(),
        ),
        Ok(_) => None,
    }
}

/// Whether the query names something that is a credential; ViriCiti takes its key that way too.
fn holds_credential(url: &str) -> bool {
    let query = url
        .split_once('?')
        .map_or("", |(_, query)| query)
        .to_lowercase();
    query
        .split('&')
        .filter_map(|part| part.split('=').next())
        .any(|name| {
            ["key", "token", "secret", "password"]
                .iter()
                .any(|word| name.contains(word))
        })
}

fn without_user_info(url: &str) -> String {
    let url = url.split('?').next().unwrap_or_default();
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://***@{host}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check_json(new: Value) -> Result<(Connection, Provision), String> {
        let new = serde_json::from_value(new).unwrap();
        let workspace = WorkspaceId::new("demo").unwrap();
        check(workspace, new, &ConnectionsConfig::default()).map_err(|problem| problem.detail)
    }

    #[test]
    fn a_connection_names_what_the_installation_allows() {
        let allowed = ConnectionsConfig {
            endpoints: vec!["wss://sdk.example/".to_owned()],
            credentials: vec!["file:/run/{workspace}/".to_owned()],
        };
        let problem = |endpoint: &str, credential: &str| {
            let new = json!({"provider": "viriciti", "kind": "stream", "endpoint": endpoint,
                "credential": credential, "settings": {"vehicles": {"bus-1": ["soc"]}}});
            let workspace = WorkspaceId::new("demo").unwrap();
            let checked = check(workspace, serde_json::from_value(new).unwrap(), &allowed);
            checked.err().map(|problem| problem.detail)
        };
        assert_eq!(
            problem("wss://sdk.example/live", "file:/run/demo/key"),
            None
        );
        let told = problem("wss://elsewhere/live", "file:/run/theirs/key").unwrap();
        assert!(told.contains("connections.endpoints"), "{told}");
        assert!(told.contains("connections.credentials"), "{told}");
        let push = json!({"provider": "viriciti", "kind": "push",
            "settings": {"vehicles": {"bus-1": ["soc"]}}});
        let push = serde_json::from_value(push).unwrap();
        assert!(check(WorkspaceId::new("demo").unwrap(), push, &allowed).is_ok());
    }

    #[test]
    fn a_connection_that_could_work_is_taken() {
        let taken = check_json(json!({
            "provider": "viriciti", "kind": "stream", "endpoint": "wss://sdk.viriciti.com/api/v2/live",
            "credential": "env:KEY", "settings": {"vehicles": {"bus-1": ["soc"]}},
        }));
        assert_eq!(taken.unwrap().1.interpreter.known_devices().len(), 1);
    }

    #[test]
    fn what_is_pushed_needs_no_endpoint_and_what_is_polled_an_http_one() {
        let pushed = json!({"provider": "viriciti", "kind": "push",
            "settings": {"vehicles": {"bus-1": ["soc"]}}});
        assert_eq!(check_json(pushed).unwrap().0.kind, ConnectionKind::Push);
        let detail = check_json(json!({"provider": "viriciti", "kind": "push",
            "endpoint": "wss://x", "settings": {"vehicles": {"bus-1": ["soc"]}}}))
        .unwrap_err();
        assert!(detail.contains("push has none"), "{detail}");
        let detail = check_json(json!({"provider": "viriciti", "kind": "poll",
            "endpoint": "wss://x", "settings": {"vehicles": {"bus-1": ["soc"]}}}))
        .unwrap_err();
        assert!(
            detail.contains("https://") && detail.contains("stream, push"),
            "{detail}"
        );
    }

    #[test]
    fn a_key_in_the_endpoint_is_refused() {
        let detail = check_json(json!({
            "provider": "viriciti", "kind": "stream", "endpoint": "wss://host/live?apiKey=hunter2",
            "settings": {"vehicles": {"bus-1": ["soc"]}},
        }))
        .unwrap_err();
        assert!(
            detail.contains("env:NAME") && !detail.contains("hunter2"),
            "{detail}"
        );
    }

    #[test]
    fn a_variable_of_the_services_own_is_refused() {
        let detail = check_json(json!({
            "provider": "viriciti", "kind": "stream", "endpoint": "wss://host/live",
            "credential": "env:DATABASE_URL", "settings": {"vehicles": {"bus-1": ["soc"]}},
        }))
        .unwrap_err();
        assert!(detail.contains("services' own"), "{detail}");
    }

    #[test]
    fn what_is_polled_has_an_endpoint_that_paths_can_follow() {
        for (endpoint, wrong) in [
            ("https://host/rfms?x=1", "query"),
            ("https://host/rfms#x", "fragment"),
            ("https://host:port", "not a URL"),
        ] {
            let problem = endpoint_problem(ConnectionKind::Poll, endpoint).unwrap();
            assert!(problem.contains(wrong), "{problem}");
        }
        assert_eq!(
            endpoint_problem(ConnectionKind::Poll, "https://host/rfms4"),
            None
        );
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once_and_no_secret_is_repeated() {
        let detail = check_json(json!({
            "provider": "fax", "kind": "carrier pigeon", "endpoint": "https://u:hunter2@x",
            "credential": "hunter2", "settings": {},
        }))
        .unwrap_err();
        for part in [
            "fax",
            "carrier pigeon",
            "https://***@x",
            "env:NAME",
            "viriciti",
        ] {
            assert!(detail.contains(part), "{part:?} is not in {detail}");
        }
        assert!(!detail.contains("hunter2"), "{detail}");
    }
}

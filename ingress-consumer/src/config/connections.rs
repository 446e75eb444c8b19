//! Configuration of what the connections that workspaces add may name.

use reqwest::Url;
use runtime::config::Problems;
use serde::{Deserialize, Serialize};
use shared_model::WorkspaceId;

/// Stands for the workspace of a connection.
const WORKSPACE: &str = "{workspace}";

/// What the connections that workspaces add may name. Whoever adds one chooses where its credential is
/// sent, so where workspaces are of people who do not trust one another, each has its own.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionsConfig {
    /// What the URL of an endpoint starts with; anything if there are none.
    pub endpoints: Vec<String>,
    /// What the reference of a credential starts with; anything if there are none. `{workspace}` is the
    /// name of the connection's workspace.
    pub credentials: Vec<String>,
}

impl ConnectionsConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        for start in &self.endpoints {
            // A host that goes on after the text would be another one.
            let is_whole = Url::parse(start).is_ok_and(|url| {
                matches!(url.scheme(), "ws" | "wss" | "http" | "https") && url.as_str() == start
            });
            if !is_whole {
                let fix =
                    "write the start of a URL with its whole host, such as https://api.example/";
                problems.add("connections.endpoints", start, fix);
            }
        }
        for start in &self.credentials {
            let is_reference = ["env:", "file:/"]
                .iter()
                .any(|scheme| start.starts_with(scheme));
            // Otherwise that of a workspace would be the start of another's.
            let mut ends = start.split(WORKSPACE).skip(1);
            if !is_reference || !ends.all(|rest| rest.starts_with('/')) {
                let fix = "write env:… or file:/…, with a / after {workspace}";
                problems.add("connections.credentials", start, fix);
            }
        }
    }

    /// Whether a connection may have the `endpoint`, which is a URL.
    #[must_use]
    pub fn admits_endpoint(&self, endpoint: &str) -> bool {
        // As it is sent, without `..` or another way to write the host.
        let url = Url::parse(endpoint);
        let starts_as = |start: &String| {
            url.as_ref()
                .is_ok_and(|url| url.as_str().starts_with(start))
        };
        self.endpoints.is_empty() || self.endpoints.iter().any(starts_as)
    }

    /// Whether a connection of `workspace` may have the credential that `reference` names.
    #[must_use]
    pub fn admits_credential(&self, workspace: &WorkspaceId, reference: &str) -> bool {
        if self.credentials.is_empty() {
            return true;
        }
        let climbs = reference.split('/').any(|segment| segment == "..");
        let mut starts = self.credentials.iter();
        !climbs
            && starts
                .any(|start| reference.starts_with(&start.replace(WORKSPACE, workspace.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(endpoints: &[&str], credentials: &[&str]) -> ConnectionsConfig {
        let [endpoints, credentials] =
            [endpoints, credentials].map(|all| all.iter().map(ToString::to_string).collect());
        ConnectionsConfig {
            endpoints,
            credentials,
        }
    }

    #[test]
    fn an_endpoint_is_one_of_those_hosts() {
        let only = config(
            &["https://api.example/", "wss://sdk.example:8443/live"],
            &[],
        );
        for (endpoint, expected) in [
            ("https://api.example/rfms4", true),
            ("https://API.example", true),
            ("https://api.example.evil/", false),
            ("https://api.example:8443/", false),
            ("http://api.example/", false),
            ("https://169.254.169.254/", false),
            ("wss://sdk.example:8443/live/v2", true),
            ("wss://sdk.example:8443/live/../admin", false),
            ("no URL", false),
        ] {
            assert_eq!(only.admits_endpoint(endpoint), expected, "{endpoint}");
        }
        assert!(config(&[], &[]).admits_endpoint("https://anywhere/"));
    }

    #[test]
    fn a_credential_is_one_of_its_workspace() {
        let own = config(&[], &["file:/run/secrets/{workspace}/", "env:SHARED_"]);
        let depot = WorkspaceId::new("depot").unwrap();
        for (reference, expected) in [
            ("file:/run/secrets/depot/viriciti", true),
            ("env:SHARED_KEY", true),
            ("env:OTHER_KEY", false),
            ("file:/run/secrets/depot-2/viriciti", false),
            ("file:/run/secrets/depot/../harbour/viriciti", false),
            ("file:/run/secrets/harbour/viriciti", false),
        ] {
            assert_eq!(
                own.admits_credential(&depot, reference),
                expected,
                "{reference}"
            );
        }
        assert!(config(&[], &[]).admits_credential(&depot, "env:ANY"));
    }

    #[test]
    fn what_would_let_in_more_than_is_meant_is_refused() {
        let problems = |config: ConnectionsConfig| {
            let mut problems = Problems::default();
            config.validate(&mut problems);
            format!("{:?}", problems.as_slice())
        };
        let good = config(
            &["https://api.example/", "ws://127.0.0.1:9000/"],
            &["env:FLEET_", "file:/run/{workspace}/x-"],
        );
        assert_eq!(problems(good), "[]");
        for start in [
            "https://api.example",
            "api.example",
            "ftp://api.example/",
            "",
        ] {
            let told = problems(config(&[start], &[]));
            assert!(told.contains("connections.endpoints"), "{start}: {told}");
        }
        for start in [
            "",
            "file:secrets/",
            "env:{workspace}_",
            "KEY",
            "file:/run/{workspace}",
        ] {
            let told = problems(config(&[], &[start]));
            assert!(told.contains("connections.credentials"), "{start}: {told}");
        }
    }
}

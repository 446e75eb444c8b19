//! Where the core is.

use reqwest::Url;
use runtime::config::Problems;
use serde::{Deserialize, Serialize};

/// How to reach the core.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoreConfig {
    /// Base URL of the core's control API.
    pub url: String,
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8081".to_owned(),
        }
    }
}

impl CoreConfig {
    /// Adds what is wrong.
    pub(crate) fn validate(&self, problems: &mut Problems) {
        let usable = Url::parse(&self.url)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if !usable {
            problems.add(
                "core.url",
                &self.url,
                "write the base URL of the core, such as http://127.0.0.1:8081",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_leads_to_a_host_over_http() {
        let problems = |url: &str| {
            let mut problems = Problems::default();
            let url = url.to_owned();
            CoreConfig { url }.validate(&mut problems);
            problems.as_slice().len()
        };
        assert_eq!(problems(&CoreConfig::default().url), 0);
        assert_eq!(problems("https://core.example:8443/base"), 0);
        for bad in ["", "core:8081", "amqp://core", "/core"] {
            assert_eq!(problems(bad), 1, "{bad}");
        }
    }
}

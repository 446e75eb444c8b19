//! Configuration of the gateway.

use std::time::Duration;

use axum::http::HeaderValue;
use reqwest::Url;
use runtime::access::AccessConfig;
use runtime::config::{Config, HttpConfig, Problems};
use serde::{Deserialize, Serialize};

/// The gateway's configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Where it listens.
    pub http: HttpConfig,
    /// The services behind it.
    pub upstream: Upstreams,
    /// Who may see its metrics.
    pub access: AccessConfig,
    /// Which web pages of others may use the APIs.
    pub cors: CorsConfig,
}

/// Base URLs of the services behind the gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstreams {
    /// The core's control API.
    pub core: String,
    /// The snapshot projection's read API.
    pub snapshot: String,
    /// The health projection's read API.
    pub health: String,
    /// The webhooks' API.
    pub reactions: String,
    /// What happens, as it happens.
    pub live: String,
}

/// Cross-origin requests of browsers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorsConfig {
    /// The origins whose pages may use the APIs; `*` alone for all, none by default.
    pub origins: Vec<String>,
    /// For how long a browser may remember that.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
}

impl Default for CorsConfig {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            max_age: Duration::from_mins(10),
        }
    }
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            http: HttpConfig::local(8000),
            upstream: Upstreams {
                core: "http://127.0.0.1:8081".to_owned(),
                snapshot: "http://127.0.0.1:8083".to_owned(),
                health: "http://127.0.0.1:8084".to_owned(),
                reactions: "http://127.0.0.1:8085".to_owned(),
                live: "http://127.0.0.1:8086".to_owned(),
            },
            access: AccessConfig::default(),
            cors: CorsConfig::default(),
        }
    }
}

impl Config for GatewayConfig {
    fn validate(&self, problems: &mut Problems) {
        let Upstreams {
            core,
            snapshot,
            health,
            reactions,
            live,
        } = &self.upstream;
        for (key, url) in [
            ("upstream.core", core),
            ("upstream.snapshot", snapshot),
            ("upstream.health", health),
            ("upstream.reactions", reactions),
            ("upstream.live", live),
        ] {
            if Url::parse(url).is_err() || !url.starts_with("http://") {
                problems.add(key, url, "write a URL such as http://host:8081");
            }
        }
        self.access.validate(problems);
        self.http.validate(problems);
        self.cors.validate(problems);
    }
}

impl CorsConfig {
    fn validate(&self, problems: &mut Problems) {
        let is_any = |origin: &String| origin == "*";
        if self.origins.iter().any(is_any) && self.origins.len() > 1 {
            let fix = "write `*` alone, or the origins that are meant";
            problems.add("cors.origins", &self.origins, fix);
        }
        for origin in self.origins.iter().filter(|origin| !is_any(origin)) {
            if !is_origin(origin) {
                let fix = "write origins such as https://app.example.org, without a path";
                problems.add("cors.origins", origin, fix);
            }
        }
    }
}

/// Whether `text` is an origin as browsers send it.
fn is_origin(text: &str) -> bool {
    HeaderValue::from_str(text).is_ok()
        && Url::parse(text).is_ok_and(|url| url.origin().ascii_serialization() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(origins: &[&str]) -> usize {
        let origins = origins.iter().map(|origin| (*origin).to_owned());
        let mut problems = Problems::default();
        let cors = CorsConfig {
            origins: origins.collect(),
            ..CorsConfig::default()
        };
        cors.validate(&mut problems);
        problems.as_slice().len()
    }

    #[test]
    fn origins_are_as_browsers_send_them() {
        for good in [
            &[][..],
            &["*"],
            &["https://app.example.org", "http://127.0.0.1:3000"],
        ] {
            assert_eq!(complaints(good), 0, "{good:?}");
        }
        for bad in [
            &["*", "https://app.example.org"][..],
            &["https://app.example.org/"],
            &["https://App.example.org"],
            &["app.example.org"],
            &["https://app.example.org:443"],
            &["null"],
            &[""],
        ] {
            assert_eq!(complaints(bad), 1, "{bad:?}");
        }
    }
}

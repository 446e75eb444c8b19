//! Configuration of JSON web tokens.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::config::Problems;
use crate::outbound;

const LONGEST_LEEWAY: Duration = Duration::from_mins(5);
const REFRESH: (Duration, Duration) = (Duration::from_secs(10), Duration::from_hours(24));

/// Whose JSON web tokens are taken, and where they say what their bearer may do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtConfig {
    /// Where the issuer publishes its keys (a JWK set). Without it no token is taken.
    pub jwks_url: Option<String>,
    /// What tokens say in `iss`.
    pub issuer: Option<String>,
    /// What tokens say in `aud`, perhaps beside others.
    pub audience: Option<String>,
    /// The claim that names workspaces; a JSON pointer if it starts with `/`.
    pub workspaces_claim: String,
    /// The claim that names scopes; a JSON pointer if it starts with `/`.
    pub scopes_claim: String,
    /// What a scope's name starts with in tokens.
    pub scope_prefix: String,
    /// Whether `*` in a token means all workspaces.
    pub allow_all_workspaces: bool,
    /// How far the issuer's clock may be off.
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
    /// How often the issuer's keys are read anew.
    #[serde(with = "humantime_serde")]
    pub refresh: Duration,
    /// Authorities that are trusted beside the system's for `jwks_url`.
    pub extra_ca_file: Option<PathBuf>,
    /// Whether the keys may be read without TLS.
    pub allow_http: bool,
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            jwks_url: None,
            issuer: None,
            audience: None,
            workspaces_claim: "workspaces".to_owned(),
            scopes_claim: "scope".to_owned(),
            scope_prefix: String::new(),
            allow_all_workspaces: false,
            leeway: Duration::from_secs(30),
            refresh: Duration::from_mins(5),
            extra_ca_file: None,
            allow_http: false,
        }
    }
}

impl JwtConfig {
    /// Adds what is wrong.
    pub(in crate::access) fn validate(&self, problems: &mut Problems) {
        if let Some(url) = &self.jwks_url {
            self.validate_url(url, problems);
            let missing = |value: &Option<String>| value.as_ref().is_none_or(String::is_empty);
            for (key, value, claim) in [
                ("access.jwt.issuer", &self.issuer, "iss"),
                ("access.jwt.audience", &self.audience, "aud"),
            ] {
                if missing(value) {
                    let fix = format!(
                        "is not set; write what the tokens have in `{claim}`: tokens for others would be \
                         taken otherwise"
                    );
                    problems.add_without_value(key, &fix);
                }
            }
        } else if self.issuer.is_some() || self.audience.is_some() {
            let fix = "is not set, but access.jwt.issuer or access.jwt.audience is; write the URL of the \
                       issuer's keys";
            problems.add_without_value("access.jwt.jwks_url", fix);
        }
        for (key, value) in [
            ("access.jwt.workspaces_claim", &self.workspaces_claim),
            ("access.jwt.scopes_claim", &self.scopes_claim),
        ] {
            if value.is_empty() {
                let fix = "write a claim's name, or a JSON pointer such as /realm_access/roles";
                problems.add(key, value, fix);
            }
        }
        if self.leeway > LONGEST_LEEWAY {
            let fix = "write a duration of up to 5m";
            problems.add("access.jwt.leeway", &self.leeway, fix);
        }
        if !(REFRESH.0..=REFRESH.1).contains(&self.refresh) {
            let fix = "write a duration from 10s to 1day";
            problems.add("access.jwt.refresh", &self.refresh, fix);
        }
        if let Some(path) = &self.extra_ca_file
            && let Err(error) = outbound::certificates(path)
        {
            problems.add("access.jwt.extra_ca_file", path, &error.to_string());
        }
    }

    fn validate_url(&self, url: &str, problems: &mut Problems) {
        let key = "access.jwt.jwks_url";
        let parsed = Url::parse(url).ok().filter(Url::has_host);
        if parsed.as_ref().is_some_and(|url| url.password().is_some()) {
            let fix = "holds a password, which --print-config would show; write it without";
            problems.add_without_value(key, fix);
            return;
        }
        match parsed.as_ref().map(Url::scheme) {
            Some("https") => {}
            Some("http") if self.allow_http => {}
            Some("http") => {
                let fix = "write an https:// URL: who changes what is read makes tokens of their own. \
                           access.jwt.allow_http = true takes http:// on a network that is trusted";
                problems.add(key, &url, fix);
            }
            // It may hold a password.
            _ => problems.add_without_value(key, "is no URL; write https://… of the issuer's keys"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(change: impl FnOnce(&mut JwtConfig)) -> Vec<String> {
        let mut config = JwtConfig {
            jwks_url: Some("https://id.example/keys".to_owned()),
            issuer: Some("https://id.example".to_owned()),
            audience: Some("headrace".to_owned()),
            ..JwtConfig::default()
        };
        change(&mut config);
        let mut problems = Problems::default();
        config.validate(&mut problems);
        let of = problems.as_slice().iter();
        of.map(|problem| problem.key.replace("access.jwt.", ""))
            .collect()
    }

    #[test]
    fn an_issuer_is_configured_as_a_whole_or_not_at_all() {
        assert!(problems(|_| ()).is_empty());
        assert!(problems(|config| *config = JwtConfig::default()).is_empty());
        assert_eq!(problems(|config| config.issuer = None), ["issuer"]);
        let empty = Some(String::new());
        assert_eq!(problems(|config| config.audience = empty), ["audience"]);
        assert_eq!(problems(|config| config.jwks_url = None), ["jwks_url"]);
    }

    #[test]
    fn keys_are_read_with_tls_unless_asked_otherwise() {
        let http = Some("http://id.example/keys".to_owned());
        let url = http.clone();
        assert_eq!(problems(|config| config.jwks_url = url), ["jwks_url"]);
        let allowed = |config: &mut JwtConfig| {
            config.jwks_url = http;
            config.allow_http = true;
        };
        assert!(problems(allowed).is_empty());
        let bad = "https://user:password@id.example/keys";
        for bad in ["", "id.example", "file:///etc/keys", "https:", bad] {
            let bad = Some(bad.to_owned());
            assert_eq!(problems(|config| config.jwks_url = bad), ["jwks_url"]);
        }
    }

    #[test]
    fn values_have_bounds() {
        let leeway = Duration::from_mins(6);
        assert_eq!(problems(|config| config.leeway = leeway), ["leeway"]);
        let refresh = Duration::from_secs(1);
        assert_eq!(problems(|config| config.refresh = refresh), ["refresh"]);
        let none = String::new();
        assert_eq!(
            problems(|config| config.scopes_claim = none),
            ["scopes_claim"]
        );
        let file = Some("/no/such/file".into());
        assert_eq!(
            problems(|config| config.extra_ca_file = file),
            ["extra_ca_file"]
        );
    }
}

//! Which URLs an endpoint may have. Pure.

use reqwest::Url;

use super::config::WebhooksConfig;

const LONGEST: usize = 2048;

/// Ports of protocols that take lines of text, to which a request could be a command.
const DENIED_PORTS: [u16; 13] = [0, 21, 22, 23, 25, 53, 110, 143, 465, 587, 5432, 6379, 11211];

/// Why a URL is not taken; none if it is. A name is looked at only when it is called.
pub(super) fn complaint(text: &str, config: &WebhooksConfig) -> Option<String> {
    let schemes = if config.allow_http {
        "https:// or http://"
    } else {
        "https://"
    };
    if text.len() > LONGEST {
        return Some(format!(
            "url is longer than {LONGEST} bytes; write a shorter one"
        ));
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => return Some(format!("url is not one ({error}); write a {schemes} URL")),
    };
    let scheme_taken = url.scheme() == "https" || (config.allow_http && url.scheme() == "http");
    if !scheme_taken || !url.has_host() {
        return Some(format!("url is no {schemes} URL; write one"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // Not shown: it holds a password.
        let fix = "take it out; calls are signed, and a token can be part of path or query";
        return Some(format!("url has a user or password; {fix}"));
    }
    if url.fragment().is_some() {
        return Some("url has a fragment (#…), which is never sent; take it out".to_owned());
    }
    if let Some(port) = url.port().filter(|port| DENIED_PORTS.contains(port)) {
        return Some(format!(
            "url has port {port}, which is not called; choose another"
        ));
    }
    let refused = config.address_rules().check(&url).err()?;
    Some(format!("url: {refused}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict(url: &str) -> Option<String> {
        complaint(url, &WebhooksConfig::default())
    }

    #[test]
    fn what_can_be_called_is_taken() {
        for url in [
            "https://example.com/hook?token=1",
            "https://example.com:8443/",
            "https://1.1.1.1/",
            "HTTPS://EXAMPLE.COM",
        ] {
            assert_eq!(strict(url), None, "{url}");
        }
        let config = WebhooksConfig {
            allow_http: true,
            allow_private: true,
            ..WebhooksConfig::default()
        };
        assert_eq!(complaint("http://127.0.0.1:8080/", &config), None);
    }

    #[test]
    fn what_cannot_is_refused_with_what_to_do() {
        let long = format!("https://example.com/{}", "x".repeat(LONGEST));
        for (url, part) in [
            ("", "is not one"),
            ("example.com/hook", "is not one"),
            ("http://example.com/", "is no https:// URL"),
            ("ftp://example.com/", "is no https:// URL"),
            ("https://", "is not one"),
            ("https://user:hunter2@example.com/", "user or password"),
            ("https://user@example.com/", "user or password"),
            ("https://example.com/#top", "fragment"),
            ("https://example.com:25/", "port 25"),
            ("https://127.0.0.1/", "not public"),
            ("https://0x7f.1/", "not public"),
            ("https://[::ffff:10.0.0.1]/", "not public"),
            (&long, "longer than 2048"),
        ] {
            let said = strict(url).unwrap_or_default();
            assert!(
                said.contains(part) && !said.contains("hunter2"),
                "{url}: {said}"
            );
        }
    }
}

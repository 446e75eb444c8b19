//! The client around feeds: it sends what a feed asks for and hands back what comes, whole and bounded.
//!
//! It tries nothing again: that is the schedule's. It follows no redirect, and asks no other host than
//! the endpoint's unless the provider's own protocol names one.

use std::error::Error as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Url};
use runtime::{clock, outbound};

use crate::config::PollingConfig;
use crate::interpret::feed::{Failure, Method, Request, Response};

/// Asks providers.
#[derive(Debug, Clone)]
pub struct ProviderClient {
    http: Client,
    timeout: Duration,
    largest: usize,
}

impl ProviderClient {
    /// Fails if the further authorities that the configuration names cannot be read.
    pub fn new(config: &PollingConfig) -> anyhow::Result<Self> {
        let extra = config.extra_ca_file.as_deref();
        let tls = outbound::tls(extra, "polling.extra_ca_file")?;
        Ok(Self {
            http: outbound::client(tls)?,
            timeout: config.timeout,
            largest: config.max_answer_bytes,
        })
    }

    /// The answer to `request` at `endpoint`, whatever its status.
    pub async fn ask(&self, endpoint: &str, request: &Request) -> Result<Response, Failure> {
        let url = url(endpoint, request)?;
        let asking = self
            .http
            .request(
                match request.method {
                    Method::Get => reqwest::Method::GET,
                    Method::Post => reqwest::Method::POST,
                },
                url,
            )
            .headers(headers(request)?)
            .timeout(self.timeout);
        let asking = match &request.body {
            Some(body) => asking.json(body),
            None => asking,
        };
        let answer = asking.send().await.map_err(passing)?;
        let status = answer.status().as_u16();
        let headers = answer
            .headers()
            .iter()
            .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
            .collect();
        let body = self.body(answer).await?;
        Ok(Response {
            status,
            headers,
            body,
            received_at: clock::now(),
        })
    }

    async fn body(&self, mut answer: reqwest::Response) -> Result<Bytes, Failure> {
        let too_large = || {
            let detail = format!("it is larger than {} bytes", self.largest);
            Failure::Unreadable(detail)
        };
        let told = answer.content_length().unwrap_or_default();
        if told > self.largest as u64 {
            return Err(too_large());
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(passing)? {
            if body.len() + chunk.len() > self.largest {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}

/// The host and port that `endpoint` names.
pub fn host(endpoint: &str) -> String {
    let url = Url::parse(endpoint).ok();
    let host = url.as_ref().and_then(|url| {
        let port = url.port_or_known_default()?;
        Some(format!("{}:{port}", url.host_str()?))
    });
    host.unwrap_or_default()
}

/// Where a request goes. What a provider has put into it must not lead it, and the credential, elsewhere.
fn url(endpoint: &str, request: &Request) -> Result<Url, Failure> {
    let base = request.base.as_deref().unwrap_or(endpoint);
    let parse = |text: &str| {
        Url::parse(text).map_err(|error| Failure::Refused(format!("the URL is not valid: {error}")))
    };
    let own = parse(base)?;
    if endpoint.starts_with("https:") && own.scheme() != "https" {
        let detail = "it names a server that is not asked by TLS";
        return Err(Failure::Unreadable(detail.to_owned()));
    }
    let mut url = parse(&format!("{}{}", base.trim_end_matches('/'), request.path))?;
    if url.origin() != own.origin() || !url.username().is_empty() {
        let detail = "it leads to another server";
        return Err(Failure::Unreadable(detail.to_owned()));
    }
    if !request.query.is_empty() {
        url.query_pairs_mut().extend_pairs(&request.query);
    }
    Ok(url)
}

fn headers(request: &Request) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        let unusable = || Failure::Refused(format!("header {name} cannot hold its value"));
        let mut value = HeaderValue::from_str(value).map_err(|_| unusable())?;
        value.set_sensitive(true);
        let name = HeaderName::try_from(*name).map_err(|_| unusable())?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// What broke, without the URL: its query may hold what is nobody's business.
fn passing(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    Failure::Passing(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(endpoint: &str, request: &Request) -> Result<String, Failure> {
        url(endpoint, request).map(|url| url.to_string())
    }

    #[test]
    fn a_request_goes_to_the_endpoint_with_its_parameters_encoded() {
        let mut request = Request::get("/vehiclepositions?latestOnly=true");
        request
            .query
            .push(("starttime", "2026-07-01T12:00:00+00:00".to_owned()));
        assert_eq!(
            at("https://api.example/rfms4/", &request).unwrap(),
            "https://api.example/rfms4/vehiclepositions?latestOnly=true\
             &starttime=2026-07-01T12%3A00%3A00%2B00%3A00"
        );
    }

    #[test]
    fn nothing_that_a_provider_says_leads_elsewhere_or_away_from_tls() {
        for path in ["@evil.example/x", ".evil.example/", ":81/x"] {
            let failure = at("https://api.example", &Request::get(path));
            assert!(failure.is_err(), "{failure:?}");
        }
        let mut request = Request::get("/apiv1");
        request.base = Some("https://my3.example".to_owned());
        let asked = at("https://my.example", &request);
        assert_eq!(asked.unwrap(), "https://my3.example/apiv1");
        request.base = Some("http://my3.example".to_owned());
        assert!(at("https://my.example", &request).is_err());
        assert!(at("http://my.example", &request).is_ok());
    }

    #[test]
    fn a_header_that_cannot_be_is_refused_without_its_value() {
        let mut request = Request::get("/");
        request
            .headers
            .push(("authorization", "Bearer hun\nter2".to_owned()));
        let failure = headers(&request).unwrap_err().to_string();
        assert!(
            failure.contains("authorization") && !failure.contains("ter2"),
            "{failure}"
        );
    }

    #[test]
    fn a_budget_is_kept_by_host_and_port() {
        assert_eq!(host("https://api.example/rfms4"), "api.example:443");
        assert_eq!(host("http://127.0.0.1:8080"), "127.0.0.1:8080");
        assert_eq!(host("nonsense"), "");
    }
}

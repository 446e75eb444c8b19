//! The part of RabbitMQ's management API that we use.

use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::NAME;
use crate::error::Error;
use crate::rabbitmq::encode_segment;

const TIMEOUT: Duration = Duration::from_secs(10);

/// A client for one server.
#[derive(Clone)]
pub(crate) struct Management {
    client: Client,
    port: u16,
    password: String,
}

impl Management {
    pub(crate) fn new(port: u16, password: String) -> Result<Self, Error> {
        // The HTTP client wants a TLS provider even for plain HTTP. If there is one already, it is fine with us.
        if rustls::crypto::ring::default_provider()
            .install_default()
            .is_err()
        {
            tracing::trace!("a TLS provider is installed already");
        }
        let client = Client::builder()
            .timeout(TIMEOUT)
            .no_proxy()
            // A pooled connection belongs to one async runtime; tests have many.
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self {
            client,
            port,
            password,
        })
    }

    /// Whether the server accepts AMQP connections on `port`, its own number for it.
    pub(crate) async fn listens_on(&self, port: u16) -> bool {
        let path = ["health", "checks", "port-listener", &port.to_string()];
        self.request(Method::GET, &path, None)
            .await
            .is_ok_and(|status| status.is_success())
    }

    /// Creates a virtual host, with all rights for our user. It may exist.
    pub(crate) async fn create_vhost(&self, vhost: &str) -> Result<(), Error> {
        let everything = json!({"configure": ".*", "write": ".*", "read": ".*"});
        self.expect(Method::PUT, &["vhosts", vhost], Some(json!({})))
            .await?;
        self.expect(Method::PUT, &["permissions", vhost, NAME], Some(everything))
            .await
    }

    /// Deletes a virtual host and all in it. It need not exist.
    pub(crate) async fn delete_vhost(&self, vhost: &str) -> Result<(), Error> {
        let path = ["vhosts", vhost];
        let status = self.request(Method::DELETE, &path, None).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        check(status, &Method::DELETE, &path)
    }

    async fn expect(
        &self,
        method: Method,
        path: &[&str],
        body: Option<Value>,
    ) -> Result<(), Error> {
        let status = self.request(method.clone(), path, body).await?;
        check(status, &method, path)
    }

    async fn request(
        &self,
        method: Method,
        path: &[&str],
        body: Option<Value>,
    ) -> Result<StatusCode, Error> {
        let path: Vec<String> = path.iter().copied().map(encode_segment).collect();
        let url = format!("http://127.0.0.1:{}/api/{}", self.port, path.join("/"));
        let mut request = self
            .client
            .request(method, url)
            .basic_auth(NAME, Some(&self.password));
        if let Some(body) = body {
            request = request.json(&body);
        }
        Ok(request.send().await?.status())
    }
}

fn check(status: StatusCode, method: &Method, path: &[&str]) -> Result<(), Error> {
    if status.is_success() {
        return Ok(());
    }
    Err(Error::ManagementStatus {
        request: format!("{method} /api/{}", path.join("/")),
        status: status.as_u16(),
    })
}

//! The way out: whom to trust, the client for the providers' HTTP APIs, and the one for URLs that users
//! give.

mod guard;
mod retry_after;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Client, ClientBuilder, redirect};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::{ClientConfig, RootCertStore};

pub use guard::{AddressRules, NotAllowed, is_public};
pub use retry_after::retry_after;

use guard::GuardedResolver;

const IDLE_LIMIT: Duration = Duration::from_secs(30);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Why a file gives no certificates. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// It cannot be read, or not as PEM.
    #[error("write the path of a readable file with certificates in PEM ({source})")]
    Unreadable {
        /// What is wrong with it.
        source: pem::Error,
    },
    /// It has none.
    #[error("write the path of a file with at least one certificate in PEM; this one has none")]
    Empty,
    /// One of them is no certificate of an authority.
    #[error("a certificate in it is not usable as a root ({source}); remove or replace it")]
    Unusable {
        /// What is wrong with it.
        source: rustls::Error,
    },
}

/// TLS that trusts the system's authorities and those in the file `extra`, which the setting `key`
/// names. Fails if that file cannot be read.
pub fn tls(extra: Option<&Path>, key: &'static str) -> anyhow::Result<ClientConfig> {
    client_config(roots(extra, key)?)
}

/// A client for the providers' HTTP APIs. It follows no redirect.
pub fn client(tls: ClientConfig) -> anyhow::Result<Client> {
    builder(tls)
        .build()
        .context("the HTTP client for providers")
}

/// A client for URLs that users give. It follows no redirect, uses no proxy, and connects only to what
/// `rules` allow where the host is a name; ask [`AddressRules::check`] about the URL before each call.
pub fn guarded_client(tls: ClientConfig, rules: AddressRules) -> anyhow::Result<Client> {
    builder(tls)
        .dns_resolver(Arc::new(GuardedResolver(Arc::new(rules))))
        .build()
        .context("the HTTP client for URLs of users")
}

fn builder(tls: ClientConfig) -> ClientBuilder {
    Client::builder()
        .tls_backend_preconfigured(tls)
        // The credential is for the endpoint's host and for no other; nor is a redirect a way around
        // the rules about addresses.
        .redirect(redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_LIMIT)
        .pool_idle_timeout(IDLE_LIMIT)
        .pool_max_idle_per_host(2)
}

fn roots(extra: Option<&Path>, key: &'static str) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    let (_, unusable) = roots.add_parsable_certificates(system.certs);
    if unusable > 0 || !system.errors.is_empty() {
        tracing::debug!(unusable, errors = ?system.errors, "some of the system's roots are left out");
    }
    if let Some(path) = extra {
        for certificate in certificates(path).context(key)? {
            roots.add(certificate).context(key)?;
        }
    }
    if roots.is_empty() {
        // Plain sockets work without any.
        tracing::warn!(
            "no certificate authority is known: no wss:// or https:// endpoint can be reached; \
             install the system's (package ca-certificates) or set {key}"
        );
    }
    Ok(roots)
}

fn client_config(roots: RootCertStore) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS for providers")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// The certificates in a file, each usable as a root.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificatesError> {
    let unreadable = |source| CertificatesError::Unreadable { source };
    let found = CertificateDer::pem_file_iter(path).map_err(unreadable)?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(unreadable)?;
    if found.is_empty() {
        return Err(CertificatesError::Empty);
    }
    for certificate in &found {
        RootCertStore::empty()
            .add(certificate.clone())
            .map_err(|source| CertificatesError::Unusable { source })?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(content: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        certificates(file.path()).unwrap_err().to_string()
    }

    #[test]
    fn a_file_without_usable_certificates_is_refused_with_what_to_do() {
        let missing = certificates(Path::new("/no/such/file")).unwrap_err();
        assert!(missing.to_string().contains("write the path"), "{missing}");
        assert!(complaint("").contains("at least one"));
        let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        assert!(complaint(broken).contains("readable"));
        let wrong = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        assert!(complaint(wrong).contains("not usable"));
    }

    #[test]
    fn a_wrong_file_at_the_start_names_its_key() {
        let error = tls(Some(Path::new("/no/such/file")), "stream.extra_ca_file").unwrap_err();
        assert!(
            format!("{error:#}").contains("stream.extra_ca_file"),
            "{error:#}"
        );
    }
}

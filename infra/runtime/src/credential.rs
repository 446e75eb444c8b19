//! Credentials of providers: where they are is part of a connection, what they are is not.
//!
//! A reference is `env:NAME` or `file:PATH` (its content without white space at either end). It is
//! read anew for every use, so a credential can be renewed without a restart. Errors name the
//! reference, never the secret.

use std::time::Duration;

use axum::http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// How often to look whether a credential has changed.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Why a reference leads to no credential.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The text is not shown: it may be the secret itself, put in the wrong place.
    #[error("the credential reference starts with neither `env:` nor `file:`")]
    NoReference,
    /// There is no such variable.
    #[error("credential env:{name}: {source}")]
    Variable {
        /// The variable.
        name: String,
        /// What is wrong with it.
        source: std::env::VarError,
    },
    /// The file cannot be read.
    #[error("credential file:{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// There is nothing in it.
    #[error("credential {0} is empty")]
    Empty(String),
    /// It has characters that a header must not have.
    #[error("credential {0} has characters that an HTTP header cannot hold")]
    NoHeader(String),
}

/// Reads the credential that `reference` names.
pub async fn resolve(reference: &str) -> Result<SecretString, CredentialError> {
    let text = if let Some(name) = reference.strip_prefix("env:") {
        std::env::var(name).map_err(|error| CredentialError::Variable {
            name: name.to_owned(),
            // The text of a variable that is not Unicode would be part of the message.
            source: match error {
                std::env::VarError::NotUnicode(_) => {
                    std::env::VarError::NotUnicode("***".to_owned().into())
                }
                missing @ std::env::VarError::NotPresent => missing,
            },
        })?
    } else if let Some(path) = reference.strip_prefix("file:") {
        let read = tokio::fs::read_to_string(path).await;
        read.map_err(|source| CredentialError::File {
            path: path.to_owned(),
            source,
        })?
    } else {
        return Err(CredentialError::NoReference);
    };
    match text.trim() {
        "" => Err(CredentialError::Empty(reference.to_owned())),
        secret => Ok(SecretString::from(secret)),
    }
}

/// The credential that `reference` names, as the value of a header that is not printed.
pub async fn header(reference: &str) -> Result<HeaderValue, CredentialError> {
    let secret = resolve(reference).await?;
    let mut value = HeaderValue::from_str(secret.expose_secret())
        .map_err(|_| CredentialError::NoHeader(reference.to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Waits until `reference` leads to another credential than the `tried` one, if any was.
pub async fn changed(reference: &str, tried: Option<&HeaderValue>) {
    let mut looks = interval_at(Instant::now() + LOOK_AGAIN, LOOK_AGAIN);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if header(reference)
            .await
            .is_ok_and(|found| tried != Some(&found))
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn error(reference: &str) -> String {
        resolve(reference).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_variable_is_read() {
        let secret = resolve("env:CARGO_PKG_NAME").await.unwrap();
        assert_eq!(secret.expose_secret(), "runtime");
    }

    #[tokio::test]
    async fn a_file_is_read_anew_without_its_line_break() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let reference = format!("file:{}", file.path().display());
        for secret in ["first", "second"] {
            std::fs::write(file.path(), format!("{secret}\n")).unwrap();
            let value = header(&reference).await.unwrap();
            assert_eq!(value, secret);
            assert!(!format!("{value:?}").contains(secret));
        }
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_with_the_reference_and_without_the_secret() {
        let missing = error("env:HEADRACE_NO_SUCH_VARIABLE").await;
        assert!(missing.contains("env:HEADRACE_NO_SUCH_VARIABLE"));
        let missing = error("file:/no/such/file").await;
        assert!(missing.contains("file:/no/such/file"), "{missing}");
        assert!(!error("hunter2").await.contains("hunter2"));

        let file = tempfile::NamedTempFile::new().unwrap();
        let reference = format!("file:{}", file.path().display());
        assert!(error(&reference).await.contains("is empty"));
        std::fs::write(file.path(), "hun\nter2").unwrap();
        let error = header(&reference).await.unwrap_err().to_string();
        assert!(error.contains(&reference) && !error.contains("ter2"));
    }
}

//! Credentials of providers: where they are is part of a connection, what they are is not.
//!
//! A reference is `env:NAME` or `file:PATH` (its content without white space at either end). It is
//! read anew for every use, so a credential can be renewed without a restart. Errors name the
//! reference, never the secret.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use axum::http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// How often to look whether a credential has changed.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// No credential is larger.
const LARGEST_FILE: u64 = 64 * 1024;
/// Variables that hold the services' own secrets.
const OWN_VARIABLES: [&str; 2] = ["DATABASE_URL", "AMQP_URL"];
/// What the names of the services' own other variables start with.
const OWN_PREFIXES: [&str; 3] = ["PG", "HEADRACE_", "OTEL_"];

/// Files that hold the services' own secrets.
static OWN_FILES: RwLock<BTreeSet<PathBuf>> = RwLock::new(BTreeSet::new());

/// Why a reference leads to no credential.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The text is not shown: it may be the secret itself, put in the wrong place.
    #[error("the credential reference starts with neither `env:` nor `file:`")]
    NoReference,
    /// Whoever adds a connection chooses where its credential is sent.
    #[error(
        "credential env:{0} is one of the services' own variables; a credential must not be \
         DATABASE_URL or AMQP_URL, nor start with PG, HEADRACE_ or OTEL_"
    )]
    OwnVariable(String),
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
    /// Whoever adds a connection chooses where its credential is sent.
    #[error("credential file:{0} is one of the services' own secrets; name another file")]
    OwnFile(String),
    /// It is no file that a credential is kept in.
    #[error(
        "credential file:{0} is not usable; it must be a regular file of at most 64 KiB, outside \
         /proc, /sys and /dev"
    )]
    NoCredentialFile(String),
    /// There is nothing in it.
    #[error("credential {0} is empty")]
    Empty(String),
    /// It has characters that a header must not have.
    #[error("credential {0} has characters that an HTTP header cannot hold")]
    NoHeader(String),
}

/// The file at `path` holds a secret of this process's own, and is nobody's credential.
pub(crate) fn keep(path: &Path) {
    let mut own = OWN_FILES.write().unwrap_or_else(PoisonError::into_inner);
    own.insert(path.to_owned());
}

fn own_files() -> BTreeSet<PathBuf> {
    let own = OWN_FILES.read().unwrap_or_else(PoisonError::into_inner);
    own.clone()
}

/// Whether a file is one of our own, which may have been replaced since it was configured.
async fn is_own(real: &Path) -> bool {
    for path in own_files() {
        let found = tokio::fs::canonicalize(&path).await;
        if found.is_ok_and(|own| own == real) {
            return true;
        }
    }
    false
}

/// Whether `reference` is one that a connection may have, wherever it leads.
pub fn check(reference: &str) -> Result<(), CredentialError> {
    let (scheme, name) = reference
        .split_once(':')
        .ok_or(CredentialError::NoReference)?;
    match scheme {
        "file" => Ok(()),
        "env" => {
            let name = name.trim();
            let own = OWN_VARIABLES.contains(&name)
                || OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
            if own {
                return Err(CredentialError::OwnVariable(name.to_owned()));
            }
            Ok(())
        }
        _ => Err(CredentialError::NoReference),
    }
}

/// Reads the credential that `reference` names.
pub async fn resolve(reference: &str) -> Result<SecretString, CredentialError> {
    check(reference)?;
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
        file(path).await?
    } else {
        return Err(CredentialError::NoReference);
    };
    match text.trim() {
        "" => Err(CredentialError::Empty(reference.to_owned())),
        secret => Ok(SecretString::from(secret)),
    }
}

/// The text of a credential's file. Of what is not a regular file there may be no end.
async fn file(path: &str) -> Result<String, CredentialError> {
    let failed = |source| CredentialError::File {
        path: path.to_owned(),
        source,
    };
    let unusable = || CredentialError::NoCredentialFile(path.to_owned());
    let real = tokio::fs::canonicalize(path).await.map_err(failed)?;
    if is_own(&real).await {
        return Err(CredentialError::OwnFile(path.to_owned()));
    }
    let metadata = tokio::fs::metadata(&real).await.map_err(failed)?;
    // A process's own environment is a regular file as well.
    let special = ["/proc", "/sys", "/dev"];
    if !metadata.is_file() || special.iter().any(|under| real.starts_with(under)) {
        return Err(unusable());
    }
    let mut text = String::new();
    let file = tokio::fs::File::open(&real).await.map_err(failed)?;
    let mut bounded = file.take(LARGEST_FILE + 1);
    bounded.read_to_string(&mut text).await.map_err(failed)?;
    match text.len() as u64 {
        0..=LARGEST_FILE => Ok(text),
        _ => Err(unusable()),
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
    async fn the_services_own_variables_are_no_credentials() {
        for own in [
            "DATABASE_URL",
            "AMQP_URL",
            "PGPASSWORD",
            "HEADRACE_X",
            "OTEL_X",
        ] {
            let refused = error(&format!("env:{own}")).await;
            assert!(refused.contains("services' own"), "{refused}");
        }
        assert!(check("env:RFMS_TOKEN").is_ok());
    }

    #[tokio::test]
    async fn the_services_own_files_are_no_credentials_by_any_name() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("own");
        let linked = directory.path().join("linked");
        std::fs::write(&own, "hush").unwrap();
        std::os::unix::fs::symlink(&own, &linked).unwrap();
        keep(&linked);
        for path in [&own, &linked, &directory.path().join("../..").join(&own)] {
            let refused = error(&format!("file:{}", path.display())).await;
            assert!(refused.contains("services' own"), "{refused}");
        }
        // It is the name that was configured that counts, wherever it leads by now.
        let newer = directory.path().join("newer");
        std::fs::write(&newer, "hush").unwrap();
        std::fs::remove_file(&linked).unwrap();
        std::os::unix::fs::symlink(&newer, &linked).unwrap();
        let refused = error(&format!("file:{}", newer.display())).await;
        assert!(refused.contains("services' own"), "{refused}");
        assert!(resolve(&format!("file:{}", own.display())).await.is_ok());
    }

    #[tokio::test]
    async fn only_small_regular_files_are_read() {
        let large = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(large.path(), vec![b'x'; 64 * 1024 + 1]).unwrap();
        let large = large.path().display().to_string();
        for path in ["/dev/zero", "/proc/self/environ", "/tmp", &large] {
            let refused = error(&format!("file:{path}")).await;
            assert!(refused.contains("64 KiB"), "{refused}");
        }
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_with_the_reference_and_without_the_secret() {
        let missing = error("env:NO_SUCH_VARIABLE").await;
        assert!(missing.contains("env:NO_SUCH_VARIABLE"));
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

//! Configuration of access control.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{Problems, Secret};

/// The shortest internal credential that nobody guesses, in characters.
const SHORTEST: usize = 16;

/// Who may use a service's APIs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessConfig {
    /// The credential of the services among themselves; the same everywhere.
    pub internal_token: Option<Secret>,
    /// A file that holds it.
    pub internal_token_file: Option<PathBuf>,
}

impl AccessConfig {
    /// The services know one another by `token`.
    #[must_use]
    pub fn internal(token: &str) -> Self {
        Self {
            internal_token: Some(Secret::new(token)),
            ..Self::default()
        }
    }

    /// Adds what is wrong.
    pub fn validate(&self, problems: &mut Problems) {
        let fix = "write 16 or more characters that nobody guesses, such as what `openssl rand -hex 32` \
                   prints; the same for all services";
        match &self.internal_token {
            None => {
                problems.add_without_value("access.internal_token", &format!("is not set; {fix}"));
            }
            Some(token) if token.expose().len() < SHORTEST => {
                problems
                    .add_without_value("access.internal_token", &format!("is too short; {fix}"));
            }
            Some(_) => {}
        }
    }
}

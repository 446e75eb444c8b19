//! Configuration: defaults in code, then a TOML file, then the environment.
//!
//! `HEADRACE_AMQP__PREFETCH` sets the key `amqp.prefetch` (a double underscore separates levels);
//! `DATABASE_URL` and `AMQP_URL` set `database.url` and `amqp.url`. A secret may come from a file:
//! `database.url_file` holds the path of a file that holds the URL. Unknown keys are refused, and
//! all problems are reported at once, each with key, value and fix. A secret is never printed.

mod parts;
mod secret;

use std::fmt;
use std::path::Path;

use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::Value as Setting;
use figment::{Figment, Provider};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::credential;

pub use parts::{AmqpConfig, BatchLimit, DatabaseConfig, HttpConfig};
pub use secret::{Secret, SecretUrl};

/// A service's configuration.
pub trait Config: Default + Serialize + DeserializeOwned + Send + 'static {
    /// Adds whatever is wrong with the values, beyond what their types can tell.
    fn validate(&self, problems: &mut Problems);

    /// The database that the service's migrations apply to, if it has one.
    fn database(&self) -> Option<&DatabaseConfig> {
        None
    }
}

/// Variables that everybody knows by another name than ours.
const ALIASES: [(&str, &str); 2] = [("DATABASE_URL", "database.url"), ("AMQP_URL", "amqp.url")];
/// Keys that may come from a file named by the key with `_file` behind it.
const SECRETS: [&str; 4] = [
    "database.url",
    "amqp.url",
    "access.internal_token",
    "access.second_internal_token",
];

/// One thing wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, such as `amqp.prefetch`.
    pub key: String,
    /// What is wrong and what to do, with the value where it is no secret.
    pub message: String,
}

/// Everything wrong with a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Adds a problem with the value of `key`; `fix` says what to write instead.
    pub fn add(&mut self, key: &str, value: &impl fmt::Debug, fix: &str) {
        self.0.push(Problem {
            key: key.to_owned(),
            message: format!("is {value:?}; {fix}"),
        });
    }

    /// Adds a problem with a key that has no value, or whose value may not be shown.
    pub fn add_without_value(&mut self, key: &str, fix: &str) {
        self.0.push(Problem {
            key: key.to_owned(),
            message: fix.to_owned(),
        });
    }

    /// The problems found so far.
    #[must_use]
    pub fn as_slice(&self) -> &[Problem] {
        &self.0
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration is not usable:")?;
        for Problem { key, message } in &self.0 {
            write!(f, "\n  {key}")?;
            if key.starts_with(|first: char| first.is_ascii_lowercase()) {
                write!(f, " ({})", variable(key))?;
            }
            write!(f, " {message}")?;
        }
        Ok(())
    }
}

/// The environment variable that sets `key`.
#[must_use]
pub fn variable(key: &str) -> String {
    ALIASES.iter().find(|(_, alias)| *alias == key).map_or_else(
        || format!("HEADRACE_{}", key.replace('.', "__").to_uppercase()),
        |(variable, _)| (*variable).to_owned(),
    )
}

/// Loads the configuration from the defaults, `file` and the environment.
pub fn load<C: Config>(file: Option<&Path>) -> Result<C, Problems> {
    let mut figment = Figment::from(Serialized::defaults(C::default()));
    if let Some(file) = file {
        if let Err(error) = std::fs::File::open(file) {
            let mut problems = Problems::default();
            let fix = format!("the file cannot be read ({error}); name a readable file");
            problems.0.push(Problem {
                key: "--config".to_owned(),
                message: format!("is {}; {fix}", file.display()),
            });
            return Err(problems);
        }
        figment = figment.merge(Toml::file_exact(file));
    }
    figment = figment.merge(Env::prefixed("HEADRACE_").split("__"));
    let defaults = Serialized::defaults(C::default());
    for (variable, key) in ALIASES {
        // A variable that everybody knows may be meant for somebody else on the same machine.
        if Figment::from(&defaults).contains(key.split('.').next().unwrap_or(key)) {
            figment = figment.merge(alias(variable, key));
        }
    }
    for key in SECRETS {
        // Such as digits only: read as a number, they would lose zeros or be refused.
        if let Ok(text) = std::env::var(variable(key))
            && !reads_as_text(&text)
        {
            figment = figment.merge((key, text));
        }
    }
    build(figment)
}

/// Whether a value in the environment is text by itself, and not a number, a list or the like.
fn reads_as_text(value: &str) -> bool {
    let read = value.parse::<Setting>();
    read.is_ok_and(|read| matches!(read, Setting::String(..)))
}

/// Makes a configuration of the defaults and `settings`: keys such as `amqp.prefetch`, each with its
/// value as one would write it in the environment.
pub fn load_from<C: Config>(
    settings: impl IntoIterator<Item = (String, String)>,
) -> Result<C, Problems> {
    let mut figment = Figment::from(Serialized::defaults(C::default()));
    for (key, value) in settings {
        // What does not read as a value is text, as in the environment; so is a secret.
        let read = if SECRETS.contains(&&*key) && !reads_as_text(&value) {
            Err(())
        } else {
            value.parse::<Setting>().map_err(drop)
        };
        let value = read.unwrap_or_else(|()| value.into());
        figment = figment.merge((key, value));
    }
    build(figment)
}

/// Turns layered values into a configuration; what [`load`] does once it has the layers.
pub fn build<C: Config>(mut figment: Figment) -> Result<C, Problems> {
    let mut problems = Problems::default();
    for key in SECRETS {
        let Ok(path) = figment.extract_inner::<std::path::PathBuf>(&format!("{key}_file")) else {
            continue;
        };
        credential::keep(&path);
        match std::fs::read_to_string(&path) {
            Ok(text) => figment = figment.merge((key, text.trim().to_owned())),
            Err(error) => problems.add(
                &format!("{key}_file"),
                &path,
                &format!("the file cannot be read ({error}); name a readable file"),
            ),
        }
    }
    match figment.extract::<C>() {
        Ok(config) => {
            config.validate(&mut problems);
            if problems.0.is_empty() {
                Ok(config)
            } else {
                Err(problems)
            }
        }
        Err(error) => {
            problems
                .0
                .extend(error.into_iter().map(|error| problem(&error)));
            Err(problems)
        }
    }
}

fn alias(variable: &'static str, key: &'static str) -> impl Provider {
    Env::raw()
        .only(&[variable])
        .map(move |_| key.into())
        .split(".")
}

fn problem(error: &figment::Error) -> Problem {
    let key = if error.path.is_empty() {
        "(top level)".to_owned()
    } else {
        error.path.join(".")
    };
    let secret = SECRETS.contains(&key.as_str());
    let message = if secret {
        "is no text; in a file, write it in quotes".to_owned()
    } else {
        error.kind.to_string()
    };
    Problem { key, message }
}

/// The configuration in force as JSON, secrets hidden.
///
/// # Panics
/// Never: a configuration that was read from text keys can be written with them.
#[must_use]
pub fn print<C: Config>(config: &C) -> String {
    let value = serde_json::to_value(config).expect("a configuration is plain data");
    format!("{value:#}")
}

/// Every key of a configuration, such as `amqp.prefetch`; for checks of the documentation.
///
/// # Panics
/// Never: see [`print`].
#[must_use]
pub fn keys<C: Config>() -> Vec<String> {
    fn walk(prefix: &str, value: &Value, keys: &mut Vec<String>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (name, value) in fields {
                    let key = if prefix.is_empty() {
                        name.clone()
                    } else {
                        format!("{prefix}.{name}")
                    };
                    walk(&key, value, keys);
                }
            }
            _ => keys.push(prefix.to_owned()),
        }
    }
    let mut keys = Vec::new();
    let defaults = serde_json::to_value(C::default()).expect("a configuration is plain data");
    walk("", &defaults, &mut keys);
    keys
}

#[cfg(test)]
mod tests;

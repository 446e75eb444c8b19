//! What a person sees: one screen once everything runs.

use std::fmt;

use crate::demo::{SHARED_VEHICLE, WORKSPACE};

/// Everything that is worth knowing of a running system.
#[derive(Debug, Default)]
pub struct Screen {
    /// The gateway's address.
    pub api: String,
    /// The key to its APIs.
    pub api_key: String,
    /// The demo workspace, if there are simulated providers.
    pub demo: Option<&'static str>,
    /// The management UI's address, user and password.
    pub management: (String, String, String),
    /// Pages of metrics.
    pub metrics: Vec<(&'static str, String)>,
    /// Where the publisher tells how each stream is doing.
    pub streams: String,
    /// The simulated providers, and the addresses of their control APIs.
    pub simulators: Vec<(&'static str, String)>,
    /// The env file.
    pub env_file: String,
    /// The directory of the logs.
    pub logs: String,
}

impl fmt::Display for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (management, user, password) = &self.management;
        writeln!(f, "\nHeadrace is up.\n")?;
        writeln!(
            f,
            "  console         {}/#key={}  (signs in with the API key)",
            self.api, self.api_key
        )?;
        if let Some(demo) = self.demo {
            let base = format!("{}/v1/workspaces/{demo}", self.api);
            writeln!(f, "  vehicles        {base}/vehicles")?;
            writeln!(
                f,
                "  a snapshot      {base}/vehicles/{SHARED_VEHICLE}/snapshot  (viriciti and samsara both report it)"
            )?;
            writeln!(
                f,
                "  its health      {base}/vehicles/{SHARED_VEHICLE}/health"
            )?;
            writeln!(f, "  the fleet's     {base}/health")?;
            writeln!(f, "  connections     {base}/connections")?;
        } else {
            writeln!(
                f,
                "  API             {}/v1/workspaces/<workspace>/…",
                self.api
            )?;
            writeln!(f, "  connect         headrace connection add --help")?;
        }
        writeln!(
            f,
            "  API key         {}  (all of the workspace {WORKSPACE})",
            self.api_key
        )?;
        writeln!(
            f,
            "  try             curl -H \"Authorization: Bearer {}\" {}/{}",
            self.api_key,
            self.api,
            self.demo.map_or_else(
                || "v1/me".to_owned(),
                |demo| format!("v1/workspaces/{demo}/health")
            )
        )?;
        writeln!(
            f,
            "  RabbitMQ        {management}  (user {user}, password {password})"
        )?;
        for (service, url) in &self.metrics {
            writeln!(f, "  metrics         {url}  ({service})")?;
        }
        writeln!(f, "  streams         {}", self.streams)?;
        for (provider, url) in &self.simulators {
            writeln!(f, "  simulator       {url}/control/stats  ({provider})")?;
        }
        writeln!(f, "  for scripts     {}", self.env_file)?;
        writeln!(f, "  logs            {}", self.logs)?;
        writeln!(f, "\nCtrl-C stops everything; the data stay.\n")
    }
}

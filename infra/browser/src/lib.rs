//! A browser without a window, for tests of pages: found or installed, started with a profile of its own,
//! and driven as a person would, by keys and by the pointer.
//!
//! It speaks Chromium's own protocol (`DevTools`) over its websocket. What a page complains of (errors on its
//! console, violations of its content security policy) and asks for is kept, so that a test can look at all
//! of it at the end. The browser ends with the value that started it.

mod page;
mod wire;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

pub use page::{Complaint, Page, Scheme, Size};
use wire::Wire;

const START_LIMIT: Duration = Duration::from_mins(1);
const LISTENING: &str = "DevTools listening on ";

/// A running browser.
pub struct Browser {
    child: Child,
    wire: Wire,
    _profile: TempDir,
}

impl Browser {
    /// Starts Chromium, which is installed if it is missing; `progress` is told while that takes long.
    pub async fn start(progress: impl Fn(&str)) -> anyhow::Result<Self> {
        let program = private_services::chromium(progress).await?;
        let profile = tempfile::Builder::new()
            .prefix("headrace-browser-")
            .tempdir()?;
        let mut child = command(&program, profile.path()).spawn()?;
        let errors = child.stderr.take().context("no standard error")?;
        let mut lines = BufReader::new(errors).lines();
        let mut said = Vec::new();
        let listening = async {
            while let Some(line) = lines.next_line().await? {
                if let Some(url) = line.strip_prefix(LISTENING) {
                    return Ok(url.to_owned());
                }
                said.push(line);
            }
            bail!("{} ended: {}", program.display(), said.join("\n"))
        };
        let url = tokio::time::timeout(START_LIMIT, listening)
            .await
            .context("the browser does not start")??;
        // What it says later is nobody's, but it must be able to say it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self {
            child,
            wire: Wire::connect(&url).await?,
            _profile: profile,
        })
    }

    /// A new, empty page.
    pub async fn page(&self) -> anyhow::Result<Page> {
        Page::open(self.wire.clone()).await
    }

    /// Ends it and waits for that.
    pub async fn close(mut self) -> anyhow::Result<()> {
        self.child.kill().await?;
        Ok(())
    }
}

fn command(program: &Path, profile: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args([
            "--headless",
            // Root may not use it otherwise, and what is looked at is our own.
            "--no-sandbox",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-extensions",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--no-default-browser-check",
            "--no-proxy-server",
            "--remote-debugging-port=0",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg("about:blank")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

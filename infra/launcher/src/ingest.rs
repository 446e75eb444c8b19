//! `headrace ingest`: frames to a connection of kind push, over provider-ingest.
//!
//! Lines are sent in requests of some hundred. A request that finds no room is sent again, under the
//! same key, so that it has its effect once whatever became of the first attempt.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use reqwest::{Client, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use shared_model::ConnectionId;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

use crate::cli;
use crate::connection::{TargetArguments, expect};

const MOST_FRAMES: usize = 500;
/// Well below what the API takes by default.
const MOST_BYTES: usize = 1024 * 1024;
const ATTEMPTS: usize = 30;
const LONGEST_WAIT: u64 = 30;

/// Frames to deliver.
#[derive(Debug, Args)]
pub struct IngestArguments {
    #[command(flatten)]
    target: TargetArguments,
    /// The connection, of kind push.
    #[arg(long, short, value_name = "ID")]
    connection: ConnectionId,
    /// A file with a frame a line; `-` is standard input.
    #[arg(default_value = "-")]
    file: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Answer {
    frames: Vec<FrameAnswer>,
}

#[derive(Debug, Deserialize)]
struct FrameAnswer {
    verdict: String,
    reason: Option<String>,
}

/// Runs the command.
#[must_use]
pub fn main(arguments: IngestArguments) -> ExitCode {
    cli::run(run(arguments))
}

async fn run(arguments: IngestArguments) -> anyhow::Result<()> {
    let url = format!("{}/v1/provider-ingest", arguments.target.base()?);
    let sender = Sender {
        client: arguments.target.api.client()?,
        url,
        workspace: arguments.target.workspace,
        connection: arguments.connection,
    };
    let verdicts = if arguments.file.as_os_str() == "-" {
        sender.send(BufReader::new(tokio::io::stdin())).await?
    } else {
        let file = tokio::fs::File::open(&arguments.file).await;
        let file = file.with_context(|| format!("cannot read {}", arguments.file.display()))?;
        sender.send(BufReader::new(file)).await?
    };
    println!("{}", json!(verdicts));
    Ok(())
}

struct Sender {
    client: Client,
    url: String,
    workspace: String,
    connection: ConnectionId,
}

impl Sender {
    /// Sends each line that is not empty; returns how many frames had which verdict.
    async fn send(
        &self,
        mut lines: impl AsyncBufRead + Unpin,
    ) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut verdicts = BTreeMap::new();
        let mut sent = 0;
        let (mut frames, mut bytes) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            let read = lines.read_line(&mut line).await;
            let is_end = read.context("a line is not UTF-8, or cannot be read")? == 0;
            let frame = line.trim_end_matches(['\r', '\n']);
            let is_full = frames.len() == MOST_FRAMES || bytes + frame.len() > MOST_BYTES;
            if !frames.is_empty() && (is_end || is_full) {
                let answer = self.send_together(&frames).await;
                let answer = answer.with_context(|| format!("after {sent} frames"))?;
                for (line, answer) in (sent + 1..).zip(answer.frames) {
                    if let (Some(reason), "parked") = (&answer.reason, answer.verdict.as_str()) {
                        eprintln!("frame {line} is parked: {reason}");
                    }
                    *verdicts.entry(answer.verdict).or_default() += 1;
                }
                sent += frames.len();
                frames.clear();
                bytes = 0;
            }
            if is_end {
                return Ok(verdicts);
            }
            if !frame.trim().is_empty() {
                bytes += frame.len();
                frames.push(json!({"body": frame}));
            }
        }
    }

    async fn send_together(&self, frames: &[serde_json::Value]) -> anyhow::Result<Answer> {
        let body = json!({
            "workspace": self.workspace, "connection": self.connection, "frames": frames,
        });
        let key = runtime::clock::new_id().to_string();
        let mut failure = None;
        for _ in 0..ATTEMPTS {
            let request = self.client.post(&self.url).header("idempotency-key", &key);
            let wait = match request.json(&body).send().await {
                Ok(answer) => match retry_after(&answer, failure.is_some()) {
                    None => return Ok(expect(answer).await?.json().await?),
                    Some(wait) => {
                        failure = expect(answer).await.err();
                        wait
                    }
                },
                Err(error) => {
                    failure = Some(error.into());
                    Duration::from_secs(1)
                }
            };
            tokio::time::sleep(wait).await;
        }
        match failure {
            Some(failure) => Err(failure.context("the API takes no frames")),
            None => bail!("the API takes no frames"),
        }
    }
}

/// After what time to send the request again, if that may help.
fn retry_after(answer: &Response, is_repeated: bool) -> Option<Duration> {
    let is_passing = match answer.status() {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE => true,
        // What is in flight is an attempt of before.
        StatusCode::CONFLICT => is_repeated,
        _ => false,
    };
    let named = answer.headers().get(header::RETRY_AFTER);
    let seconds = named.and_then(|value| value.to_str().ok()?.parse().ok());
    is_passing.then(|| Duration::from_secs(seconds.unwrap_or(1).clamp(1, LONGEST_WAIT)))
}

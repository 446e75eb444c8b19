//! `headrace status`: how the fleet and the pipeline are doing, on one screen.

mod report;
mod written;

use std::io::{IsTerminal, Write, stdout};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use reqwest::Client;
use runtime::clock;
use serde_json::{Value, json};

use crate::cli;
use crate::connection::{ApiArguments, expect};
use crate::view::Me;

use report::{Health, Pipeline, Report};

/// `--watch` looks no more often.
const FASTEST: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(15);
/// Moves the cursor to the top and clears the screen.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// What to show, and how often.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Only this workspace [default: all that the API key reaches].
    #[arg(long, short, value_name = "NAME")]
    workspace: Option<String>,
    #[command(flatten)]
    api: ApiArguments,
    /// Look again every 2 s, or as often as given, until Ctrl-C.
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "2s", value_parser = humantime::parse_duration)]
    watch: Option<Duration>,
    /// Write one JSON object, with --watch one a line.
    #[arg(long)]
    json: bool,
}

/// Runs `headrace status`.
#[must_use]
pub fn main(arguments: StatusArguments) -> ExitCode {
    cli::run(run(arguments))
}

async fn run(arguments: StatusArguments) -> anyhow::Result<()> {
    let client = arguments.api.client_builder()?.timeout(PATIENCE).build()?;
    let Some(every) = arguments.watch else {
        let report = ask(&client, &arguments).await?;
        return show(&report, arguments.json, "");
    };
    let every = every.max(FASTEST);
    let clear = if stdout().is_terminal() { CLEAR } else { "" };
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match ask(&client, &arguments).await {
            Ok(report) => show(&report, arguments.json, clear)?,
            // Who watches wants to see it come back.
            Err(error) => eprintln!("headrace: {error:#}"),
        }
    }
}

fn show(report: &Report, is_json: bool, clear: &str) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    if is_json {
        writeln!(out, "{}", json!(report))?;
    } else {
        write!(out, "{clear}{}", written::screen(report))?;
    }
    out.flush()?;
    Ok(())
}

/// Asks the API for everything that the key may see.
async fn ask(client: &Client, arguments: &StatusArguments) -> anyhow::Result<Report> {
    let base = arguments.api.base()?;
    let me = Me::ask(client, &base).await?;
    let names = match (&arguments.workspace, &me.workspaces) {
        (Some(name), _) => vec![name.clone()],
        (None, Some(names)) => names.clone(),
        // A key that reaches all of them says no names.
        (None, None) => Vec::new(),
    };
    let mut workspaces = Vec::new();
    for name in names {
        let url = format!("{base}/v1/workspaces/{name}/health");
        let answer = client.get(url).send().await?;
        workspaces.push(expect(answer).await?.json::<Health>().await?);
    }
    let pipeline = if me.operates() {
        let answer = client.get(format!("{base}/v1/pipeline")).send().await?;
        Some(expect(answer).await?.json::<Value>().await?)
    } else {
        None
    };
    Ok(Report {
        at: clock::now(),
        api: base,
        workspaces,
        pipeline: pipeline
            .map(serde_json::from_value::<Pipeline>)
            .transpose()?,
    })
}

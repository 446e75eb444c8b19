//! `headrace status`: how the fleet and the pipeline are doing, on one screen.

mod report;
mod written;

use std::io::{IsTerminal, Write, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use reqwest::Client;
use runtime::clock;
use serde::de::DeserializeOwned;
use serde_json::json;

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
        show(&report, arguments.json, "")?;
        return if report.away.is_empty() {
            Ok(())
        } else {
            Err(anyhow!("not everything answers"))
        };
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

async fn get<T: DeserializeOwned>(client: &Client, url: &str) -> anyhow::Result<T> {
    Ok(expect(client.get(url).send().await?).await?.json().await?)
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
    let (mut workspaces, mut away) = (Vec::new(), Vec::new());
    for name in names {
        let url = format!("{base}/v1/workspaces/{name}/health");
        match get::<Health>(client, &url).await {
            Ok(health) => workspaces.push(health),
            Err(error) => away.push(format!("the health of {name}: {error:#}")),
        }
    }
    let mut pipeline = None;
    if me.operates() {
        match get::<Pipeline>(client, &format!("{base}/v1/pipeline")).await {
            Ok(found) => pipeline = Some(found),
            Err(error) => away.push(format!("the pipeline: {error:#}")),
        }
    }
    Ok(Report {
        at: clock::now(),
        api: base,
        workspaces,
        pipeline,
        away,
    })
}

//! `headrace reconcile`: does everything add up?

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use ingress_consumer::reconcile::{ConnectionReport, GapReport, Report, ShardReport, Verdict};

use crate::cli;
use crate::connection::{ApiArguments, expect};

/// How often to ask again while waiting.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long an answer may take: the gateway's patience, and some.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long to wait for what is late, unless somebody says so.
const USUAL_WAIT: Duration = Duration::from_secs(10);
/// For how long something has to seem missing: what a core has in hand is in no queue's count, and is committed
/// soon.
const CONFIRMING: Duration = Duration::from_secs(5);
/// What is late is no failure yet. 2 stands for wrong arguments.
const LATE: u8 = 3;

/// What to prove.
#[derive(Debug, Args)]
pub struct ReconcileArguments {
    #[command(flatten)]
    api: ApiArguments,
    /// Only the connections of this workspace.
    #[arg(long, short)]
    workspace: Option<String>,
    /// Write the report as one line of JSON, and the summary to standard error.
    #[arg(long)]
    json: bool,
    /// Ask again for so long, such as 30s, until everything adds up [default: 10s while something is only
    /// late, 5s while something seems to be missing].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
}

/// Runs the command.
#[must_use]
pub fn main(arguments: ReconcileArguments) -> ExitCode {
    let mut verdict = Verdict::Missing;
    let done = cli::run(async {
        verdict = run(arguments).await?;
        Ok(())
    });
    match verdict {
        _ if done != ExitCode::SUCCESS => done,
        Verdict::Ok => ExitCode::SUCCESS,
        Verdict::Late => ExitCode::from(LATE),
        Verdict::Missing => ExitCode::FAILURE,
    }
}

async fn run(arguments: ReconcileArguments) -> anyhow::Result<Verdict> {
    let client = arguments.api.client_builder()?.timeout(PATIENCE).build()?;
    let url = format!("{}/v1/reconcile", arguments.api.base()?);
    let workspace = arguments.workspace.map(|name| ("workspace", name));
    let started = Instant::now();
    let report = loop {
        let request = client.get(&url).query(workspace.as_slice());
        let report: Report = expect(request.send().await?).await?.json().await?;
        let patience = patience(arguments.wait, report.verdict);
        let left = patience.saturating_sub(started.elapsed());
        if left.is_zero() {
            break report;
        }
        tokio::time::sleep(ASK_AGAIN.min(left)).await;
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
        eprintln!("{}", report.summary);
    } else {
        print!("{}", written(&report));
    }
    Ok(report.verdict)
}

/// For how long to ask again in all: while a system works, something is on its way at most times.
fn patience(asked: Option<Duration>, verdict: Verdict) -> Duration {
    match (verdict, asked) {
        (Verdict::Ok, _) => Duration::ZERO,
        (_, Some(asked)) => asked,
        (Verdict::Missing, None) => CONFIRMING,
        (Verdict::Late, None) => USUAL_WAIT,
    }
}

/// The report as a person reads it; its last line is the summary.
fn written(report: &Report) -> String {
    let mut lines = vec![row([
        "connection",
        "workspace",
        "provider",
        "sent",
        "seen",
        "parked",
        "conflated",
        "dead",
        "late",
        "missing",
        "",
    ])];
    for connection in &report.connections {
        lines.push(of_connection(connection));
        lines.extend(connection.gaps.iter().map(of_gap));
        if connection.further_gaps > 0 {
            lines.push(format!("    and {} further gaps", connection.further_gaps));
        }
    }
    if !report.shards.is_empty() {
        lines.push(String::new());
        lines.push("shard  logged  published  dead  applied".to_owned());
        lines.extend(report.shards.iter().flat_map(of_shard));
    }
    for instance in &report.holding {
        lines.push(format!(
            "{instance} has messages on its disk: what has not arrived may yet come"
        ));
    }
    match report.queued {
        Some(0) => {}
        Some(queued) => lines.push(format!("{queued} messages wait in the ingress queues")),
        None => lines.push("the broker does not say what waits in the ingress queues".to_owned()),
    }
    lines.push(report.summary.clone());
    lines.join("\n") + "\n"
}

fn of_connection(of: &ConnectionReport) -> String {
    let dead = of.dead + of.discarded;
    row([
        &of.connection.to_string(),
        &of.workspace,
        &of.provider,
        &of.sent.to_string(),
        &of.seen.to_string(),
        &of.parked.to_string(),
        &of.conflated.to_string(),
        &dead.to_string(),
        &of.late.to_string(),
        &of.missing.to_string(),
        of.verdict.name(),
    ])
}

fn row(
    [
        connection,
        workspace,
        provider,
        sent,
        seen,
        parked,
        conflated,
        dead,
        late,
        missing,
        verdict,
    ]: [&str; 11],
) -> String {
    let line = format!(
        "{connection:<36}  {workspace:<12}  {provider:<9}  {sent:>9}  {seen:>9}  {parked:>7}  \
         {conflated:>9}  {dead:>6}  {late:>6}  {missing:>7}  {verdict}"
    );
    line.trim_end().to_owned()
}

fn of_gap(gap: &GapReport) -> String {
    let of = |what: &str, ranges: &[String]| match ranges {
        [] => String::new(),
        ranges => format!("  {what} {}", ranges.join(",")),
    };
    format!(
        "    session {} partition {} of {}{}{}{}",
        gap.session,
        gap.partition,
        gap.sent,
        of("missing", &gap.missing),
        of("late", &gap.late),
        gap.publisher
            .as_ref()
            .map(|publisher| format!("  publisher {publisher}"))
            .unwrap_or_default(),
    )
}

fn of_shard(shard: &ShardReport) -> Vec<String> {
    let since = |at: &Option<chrono::DateTime<chrono::Utc>>| match at {
        Some(at) => format!(" since {}", at.format("%Y-%m-%dT%H:%M:%SZ")),
        None => String::new(),
    };
    let applied = shard.subscribers.iter().map(|subscriber| {
        let behind = match subscriber.behind {
            0 => String::new(),
            behind => format!(" ({behind} behind{})", since(&subscriber.waiting_since)),
        };
        format!("{}={}{behind}", subscriber.name, subscriber.applied)
    });
    let applied = applied.collect::<Vec<_>>().join("  ");
    let mut lines = vec![
        format!(
            "{:<5}  {:>6}  {:>9}  {:>4}  {applied}",
            shard.shard, shard.logged, shard.published, shard.dead
        )
        .trim_end()
        .to_owned(),
    ];
    if shard.unpublished() > 0 {
        let since = since(&shard.waiting_since);
        lines.push(format!("    {} not published{since}", shard.unpublished()));
    }
    if !shard.holes.is_empty() {
        let holes = shard.holes.join(",");
        lines.push(format!("    missing in the log: offsets {holes}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_late_is_waited_for_and_what_seems_missing_is_confirmed() {
        let minute = Some(Duration::from_mins(1));
        assert_eq!(patience(minute, Verdict::Ok), Duration::ZERO);
        assert_eq!(patience(None, Verdict::Late), USUAL_WAIT);
        assert_eq!(
            patience(Some(Duration::ZERO), Verdict::Late),
            Duration::ZERO
        );
        assert_eq!(patience(None, Verdict::Missing), CONFIRMING);
        assert_eq!(patience(minute, Verdict::Missing), Duration::from_mins(1));
    }

    #[test]
    fn the_last_line_is_the_summary_and_what_is_short_is_named() {
        let report: Report = serde_json::from_value(json!({
            "verdict": "missing", "summary": "reconcile: NOT ok: …", "at": "2026-11-24T10:00:00Z",
            "connections": [{
                "connection": "01890a5d-ac96-774b-bcce-b302099a8057", "workspace": "w",
                "provider": "viriciti", "kind": "stream", "verdict": "missing", "sent": 10, "seen": 6,
                "parked": 1, "conflated": 0, "dead": 1, "discarded": 0, "late": 1, "missing": 1,
                "gaps": [{"session": "01890a5d-ac96-774b-bcce-b302099a8058", "partition": 3,
                          "publisher": "p-1", "sent": 10, "late": ["10"], "missing": ["4"]}],
                "further_gaps": 0,
            }],
            "shards": [{
                "shard": 2, "verdict": "late", "logged": 9, "published": 7, "dead": 0, "lost": 0,
                "waiting_since": "2026-11-24T09:59:00Z",
                "subscribers": [{"name": "snapshot-projection", "verdict": "late", "applied": 5,
                                 "behind": 4, "waiting_since": null}],
            }],
            "holding": ["p-1"], "queued": null,
        }))
        .unwrap();
        let text = written(&report);
        assert_eq!(text.lines().last(), Some("reconcile: NOT ok: …"));
        for part in [
            "partition 3 of 10  missing 4  late 10  publisher p-1",
            "snapshot-projection=5 (4 behind)",
            "2 not published since 2026-11-24T09:59:00Z",
            "p-1 has messages on its disk",
            "does not say what waits",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

//! What the spool holds, shown: in the readiness report and in the metric of its age.

use std::time::Duration;

use runtime::clock;
use runtime::http::Check;
use tokio_util::sync::CancellationToken;

use crate::metrics;
use crate::spool::Depth;

const EVERY: Duration = Duration::from_secs(1);

/// Shows it until the service stops. A spool that cannot be written makes the service unready.
pub(crate) async fn run(stop: CancellationToken, check: Check, depth: Depth) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(EVERY);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let report = depth.report(clock::now());
        metrics::spool_age(report.age);
        if report.failing.is_some() {
            check.down(&report);
        } else {
            check.up_with(&report);
        }
    }
    Ok(())
}

//! The snapshot projection as a process of its own.

use std::process::ExitCode;

use projections::snapshot;

fn main() -> ExitCode {
    runtime::service::run(
        "snapshot-projection",
        Some(&snapshot::MIGRATIONS),
        |context, config| async { snapshot::start(context, config).await.map(|_| ()) },
    )
}

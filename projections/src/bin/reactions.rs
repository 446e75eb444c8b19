//! The reactions as a process of their own.

use std::process::ExitCode;

use projections::reactions;

fn main() -> ExitCode {
    runtime::service::run(
        "reactions",
        Some(&reactions::MIGRATIONS),
        |context, config| async { reactions::start(context, config).await.map(|_| ()) },
    )
}

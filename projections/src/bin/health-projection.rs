//! The health projection as a process of its own.

use std::process::ExitCode;

use projections::health;

fn main() -> ExitCode {
    runtime::service::run(
        "health-projection",
        Some(&health::MIGRATIONS),
        |context, config| async { health::start(context, config).await.map(|_| ()) },
    )
}

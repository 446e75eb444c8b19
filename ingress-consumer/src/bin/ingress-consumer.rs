//! The core as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime::service::run(
        "ingress-consumer",
        Some(&ingress_consumer::store::MIGRATIONS),
        |context, config| async { ingress_consumer::start(context, config).await.map(drop) },
    )
}

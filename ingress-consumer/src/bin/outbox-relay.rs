//! The outbox relay as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime::service::run(
        "outbox-relay",
        Some(&ingress_consumer::store::MIGRATIONS),
        |context, config| async {
            ingress_consumer::relay::start(context, config)
                .await
                .map(drop)
        },
    )
}

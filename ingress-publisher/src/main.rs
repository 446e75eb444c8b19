//! The service that reads the providers' websockets. See the library for what it guarantees.

use std::process::ExitCode;

use ingress_publisher::PublisherConfig;
use runtime::Context;

fn main() -> ExitCode {
    runtime::service::run(
        "ingress-publisher",
        None,
        |context: Context, config: PublisherConfig| async {
            ingress_publisher::start(context, config).await?;
            Ok(())
        },
    )
}

//! The live updates as a process of their own.

use std::process::ExitCode;

use projections::live;

fn main() -> ExitCode {
    runtime::service::run("live", None, |context, config| async {
        live::start(context, config).await.map(drop)
    })
}

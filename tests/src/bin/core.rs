//! The service ingress-consumer as a process of its own, for tests that kill it or run several.

use std::process::ExitCode;

fn main() -> ExitCode {
    headrace::services::main(
        "ingress-consumer",
        std::env::args_os().skip(1).collect(),
        false,
    )
}

//! The service ingress-publisher as a process of its own, for tests that kill it or freeze it.

use std::process::ExitCode;

fn main() -> ExitCode {
    headrace::services::main(
        "ingress-publisher",
        std::env::args_os().skip(1).collect(),
        false,
    )
}

//! The service outbox-relay as a process of its own, for tests that kill it or run several.

use std::process::ExitCode;

fn main() -> ExitCode {
    headrace::services::main("outbox-relay", std::env::args_os().skip(1).collect(), false)
}

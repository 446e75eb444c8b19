//! The service live as a process of its own, for tests that kill it or weigh it.

use std::process::ExitCode;

fn main() -> ExitCode {
    headrace::services::main("live", std::env::args_os().skip(1).collect(), false)
}

//! The `headrace` program, for tests that run it as its users do, and its services as processes that they
//! kill or freeze.

use std::process::ExitCode;

fn main() -> ExitCode {
    headrace::cli::main()
}

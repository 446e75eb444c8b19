//! The `headrace` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    headrace::cli::main()
}

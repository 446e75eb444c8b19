//! The health projection as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    projections::health::main(std::env::args_os().skip(1))
}

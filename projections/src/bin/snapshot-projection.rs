//! The snapshot projection as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    projections::snapshot::main(std::env::args_os().skip(1))
}

//! The core as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    ingress_consumer::main(std::env::args_os().skip(1))
}

//! Services as processes of their own: how each is started.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use headrace::services::Service;
use tokio::process::{Child, Command};

/// Starts `service` of `program`, which is `headrace`, with `settings` as environment variables, the later ones above the earlier; returns
/// it and where it listens for HTTP. It is killed when it is dropped.
///
/// # Panics
/// If it cannot be started.
pub fn start<'a>(
    program: &Path,
    service: Service,
    settings: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> (Child, SocketAddr) {
    let address = private_services::free_address().expect("there is a free port");
    let mut command = Command::new(program);
    command.args(["service", service.name()]);
    // What is meant for the tests is no setting of a service, and would be refused.
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"HEADRACE_") {
            command.env_remove(name);
        }
    }
    command
        .env("HEADRACE_HTTP__LISTEN", address.to_string())
        .envs(settings)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    if std::env::var_os("RUST_LOG").is_none() {
        command.stderr(Stdio::null());
    }
    let child = command.spawn().expect("the service starts");
    (child, address)
}

/// The resident memory of `child`, in bytes.
///
/// # Panics
/// If it has ended.
pub fn resident_bytes(child: &Child) -> u64 {
    let pid = child.id().expect("a process that runs has an id");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("a process has memory") * 1024
}

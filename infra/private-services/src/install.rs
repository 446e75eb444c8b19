//! Installing the servers on a Debian-like machine.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::account::is_root;
use crate::error::{Error, io_error};
use crate::files::last_lines;

pub(crate) const POSTGRES_PACKAGE: &str = "postgresql";
pub(crate) const RABBITMQ_PACKAGE: &str = "rabbitmq-server";

const SCRIPT: &str = include_str!("install.sh");

/// Installs `packages`, telling `progress` each line that `apt-get` writes.
pub(crate) async fn apt(packages: &[&str], progress: &impl Fn(&str)) -> Result<(), Error> {
    let allowed = succeeds("apt-get", &["--version"]).await
        && (is_root() || succeeds("sudo", &["-n", "true"]).await);
    if !allowed {
        return Err(missing(packages));
    }
    progress(&format!("installing {}", packages.join(" ")));
    let mut command = if is_root() {
        Command::new("sh")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "sh"]);
        sudo
    };
    let failed = |action| io_error(action, "apt-get".as_ref());
    // One stream for both outputs, in the order they were written. In our process group on purpose: Ctrl-C ends it.
    let mut child = command
        .args(["-c", &format!("exec 2>&1\n{SCRIPT}"), "install"])
        .args(packages)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed("run"))?;
    let mut output = String::new();
    if let Some(stdout) = child.stdout.take() {
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await.map_err(failed("read from"))? {
            progress(&line);
            output.push_str(&line);
            output.push('\n');
        }
    }
    let status = child.wait().await.map_err(failed("wait for"))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Install {
        packages: packages.join(" "),
        command: by_hand(packages),
        status,
        output: last_lines(&output),
    })
}

/// The error that says which packages are missing and how to get them.
pub(crate) fn missing(packages: &[&str]) -> Error {
    Error::Missing {
        packages: packages.join(" "),
        command: by_hand(packages),
    }
}

/// Whether a command can be run and succeeds.
pub(crate) async fn succeeds(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await
        .is_ok_and(|status| status.success())
}

/// The command that installs `packages`.
pub(crate) fn by_hand(packages: &[&str]) -> String {
    format!(
        "sudo apt-get install --no-install-recommends {}",
        packages.join(" ")
    )
}

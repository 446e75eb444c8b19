//! The servers as containers, where they cannot be installed but a Docker engine answers.
//!
//! The Docker client stays our child and passes signals on, so a container is stopped and watched like a process. Ports are
//! mapped on loopback only; data lies in the data directory.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::NAME;
use crate::error::{Error, io_error};
use crate::install::succeeds;
use crate::server_process::Launch;

const POSTGRES_IMAGE: &str = "postgres:17";
const RABBITMQ_IMAGE: &str = "rabbitmq:4-management";
/// The first start pulls an image.
pub(crate) const START_PATIENCE: Duration = Duration::from_mins(10);

/// Whether an engine answers.
pub(crate) async fn answers() -> bool {
    tokio::time::timeout(Duration::from_secs(10), succeeds("docker", &["info"]))
        .await
        .unwrap_or(false)
}

/// A container by its name.
#[derive(Debug, Clone)]
pub(crate) struct Container(String);

impl Container {
    /// Names the container of a server and notes it in `dir` for the watchdog.
    pub(crate) fn named(server: &str, port: u16, dir: &Path) -> Result<Self, Error> {
        let name = format!("{NAME}-{server}-{port}");
        let note = dir.join("container");
        fs::write(&note, &name).map_err(io_error("write", &note))?;
        Ok(Self(name))
    }

    /// Kills and removes it; it need not exist.
    pub(crate) async fn remove(&self) {
        if !succeeds("docker", &["rm", "--force", &self.0]).await {
            tracing::debug!(container = self.0, "not removed");
        }
    }

    /// Arguments that run a program inside it, ahead of that program's own.
    pub(crate) fn exec_args(&self) -> [&str; 4] {
        ["exec", "--env", "PGPASSWORD", &self.0]
    }

    /// PostgreSQL with its cluster in `dir`.
    pub(crate) fn postgres(
        &self,
        dir: &Path,
        port: u16,
        password: &str,
        settings: &[String],
    ) -> Launch {
        let mut args = self.run(
            &[(port, 5432)],
            &dir.join("container-data"),
            "/var/lib/postgresql/data",
        );
        for variable in ["POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"] {
            args.extend(["--env".into(), variable.into()]);
        }
        args.push(POSTGRES_IMAGE.into());
        for setting in settings {
            args.extend(["-c".into(), setting.into()]);
        }
        let env = vec![
            ("POSTGRES_USER", NAME.into()),
            ("POSTGRES_DB", NAME.into()),
            ("POSTGRES_PASSWORD", password.into()),
        ];
        launch(args, env, dir)
    }

    /// RabbitMQ with its data in `dir`; `ports` are those of AMQP, management and Prometheus.
    pub(crate) fn rabbitmq(&self, dir: &Path, ports: [u16; 3], password: &str) -> Launch {
        let [amqp, management, prometheus] = ports;
        let mut args = self.run(
            &[(amqp, 5672), (management, 15672), (prometheus, 15692)],
            &dir.join("container-data"),
            "/var/lib/rabbitmq",
        );
        for variable in [
            "RABBITMQ_DEFAULT_USER",
            "RABBITMQ_DEFAULT_PASS",
            "RABBITMQ_NODENAME",
        ] {
            args.extend(["--env".into(), variable.into()]);
        }
        args.push(RABBITMQ_IMAGE.into());
        let env = vec![
            ("RABBITMQ_DEFAULT_USER", NAME.into()),
            ("RABBITMQ_DEFAULT_PASS", password.into()),
            // The data is filed under the node's name, which by default contains the container's random host name.
            ("RABBITMQ_NODENAME", format!("{NAME}@localhost").into()),
        ];
        launch(args, env, dir)
    }

    fn run(&self, ports: &[(u16, u16)], data: &Path, mount: &str) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["run".into(), "--rm".into(), "--name".into()];
        args.push((&self.0).into());
        for (outside, inside) in ports {
            args.push("--publish".into());
            args.push(format!("127.0.0.1:{outside}:{inside}").into());
        }
        args.push("--volume".into());
        let mut volume = data.as_os_str().to_owned();
        volume.push(":");
        volume.push(mount);
        args.push(volume);
        args
    }
}

fn launch(args: Vec<OsString>, env: Vec<(&'static str, OsString)>, dir: &Path) -> Launch {
    Launch {
        program: PathBuf::from("docker"),
        args,
        env,
        account: None,
        work_dir: dir.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_mapped_on_loopback_and_secrets_stay_off_the_command_line() {
        let container = Container("c".to_owned());
        let launch = container.rabbitmq(Path::new("/data"), [1, 2, 3], "hunter2");
        let line = launch.args.join(" ".as_ref()).into_string().unwrap();
        assert!(
            line.contains("--publish 127.0.0.1:1:5672 --publish 127.0.0.1:2:15672"),
            "{line}"
        );
        assert!(line.contains("--volume /data/container-data:/var/lib/rabbitmq"));
        assert!(!line.contains("hunter2"));
        let launch =
            container.postgres(Path::new("/data"), 1, "hunter2", &["fsync=off".to_owned()]);
        let line = launch.args.join(" ".as_ref()).into_string().unwrap();
        assert!(line.ends_with("postgres:17 -c fsync=off"), "{line}");
        assert!(!line.contains("hunter2"));
    }
}

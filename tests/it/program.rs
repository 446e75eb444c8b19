//! The `headrace` program, run as its users run it.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tests::harness::{INTERNAL_TOKEN, World};
use tokio::process::Command;

/// What a command has said, and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// What it has said, as it does with `--json`.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The same where each line is a value.
    pub fn lines(&self) -> Vec<Value> {
        let value = |line| serde_json::from_str(line);
        let values = self.out.lines().map(value).collect::<Result<_, _>>();
        values.unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// It has done what it was to do.
    #[track_caller]
    pub fn succeeds(&self) {
        assert_eq!(self.code, 0, "{self:?}");
    }

    /// The same, and it says `wanted`.
    #[track_caller]
    pub fn says(&self, wanted: &str) {
        assert!(self.code == 0 && self.out.contains(wanted), "{self:?}");
    }

    /// It has not, and gives a reason that contains `wanted`.
    #[track_caller]
    pub fn fails_for(&self, wanted: &str) {
        assert!(self.code != 0 && self.err.contains(wanted), "{self:?}");
    }
}

pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_program"))
}

/// `headrace` with `arguments` for the gateway of `world`, as somebody who may do everything.
pub fn command(world: &World, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command
        .args(arguments)
        .env("API_URL", world.url(""))
        .env("API_KEY", INTERNAL_TOKEN)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs it until it ends.
pub async fn headrace(world: &World, arguments: &[&str]) -> Ran {
    let output = command(world, arguments).output().await;
    let output = output.expect("the program runs");
    let text = |bytes| String::from_utf8(bytes).expect("it says text");
    Ran {
        code: output.status.code().expect("it ends by itself"),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

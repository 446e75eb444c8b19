//! What the services answer is what they describe: [Schemathesis] asks every operation for what fits its
//! description and for what does not, and checks statuses, media types and schemas of the answers.
//!
//! It is a Python program, installed with pinned versions into the target directory.
//!
//! [Schemathesis]: https://schemathesis.readthedocs.io

use std::path::{Path, PathBuf};
use std::process::Stdio;

use headrace::services::Service;
use tests::harness::INTERNAL_TOKEN;
use tokio::process::Command;

use crate::access;

/// The pinned versions; the environment is made anew when they change.
const REQUIREMENTS: &str = include_str!("schemathesis.txt");
const SEED: &str = "1";
const EXAMPLES: &str = "6";
/// What it makes up beyond what every description is worth, in seconds.
const AT_MOST: &str = "15";
const CONFIG: &str = "schemathesis.toml";
/// Not whether what violates a schema is refused: the workspace is always put right on its way, and then it
/// is rightly taken. `openapi_refusals` has that.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_headers_conformance,response_schema_conformance";

async fn succeeds(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| format!("{program} cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    Err(format!(
        "{program} {}: {}",
        arguments.join(" "),
        text.concat()
    ))
}

/// Python's environments are a package of their own on Debian.
async fn install_venv() {
    const SCRIPT: &str =
        "apt-get update && apt-get install --yes --no-install-recommends python3-venv";
    let as_root = succeeds("sudo", &["-n", "sh", "-c", SCRIPT]);
    let done = match succeeds("sh", &["-c", SCRIPT]).await {
        Ok(()) => Ok(()),
        Err(_) => as_root.await,
    };
    done.expect("Python's venv can be installed; try `sudo apt-get install python3-venv`");
}

/// The program, installed if it is not there yet.
async fn program() -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("schemathesis");
    let (installed, program) = (home.join("installed.txt"), home.join("bin/schemathesis"));
    if std::fs::read_to_string(&installed).is_ok_and(|text| text == REQUIREMENTS) {
        return program;
    }
    let path = home.to_str().expect("a path in UTF-8");
    let venv = ["-m", "venv", "--clear", path];
    if succeeds("python3", &venv).await.is_err() {
        install_venv().await;
        succeeds("python3", &venv).await.expect("an environment");
    }
    let wanted = home.join("wanted.txt");
    std::fs::write(&wanted, REQUIREMENTS).expect("a file");
    let pip = home.join("bin/pip");
    let (pip, wanted_path) = (
        pip.to_str().expect("UTF-8"),
        wanted.to_str().expect("UTF-8"),
    );
    let install = [
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-r",
        wanted_path,
    ];
    succeeds(pip, &install)
        .await
        .expect("PyPI has the packages");
    // Only now it is whole.
    std::fs::rename(wanted, installed).expect("a file");
    program
}

/// What there is to ask, and how.
struct Asked {
    program: PathBuf,
    url: String,
    directory: tempfile::TempDir,
}

impl Asked {
    /// Goes through `phases` and returns what it says of them.
    async fn go(&self, phases: &str, further: &[&str]) -> String {
        let output = Command::new(&self.program)
            .current_dir(self.directory.path())
            .args(["--config-file", CONFIG, "run", &self.url, "--no-color"])
            .args([
                "--header",
                &format!("Authorization: Bearer {INTERNAL_TOKEN}"),
            ])
            .args(["--checks", CHECKS, "--phases", phases])
            .args(["--seed", SEED, "--generation-deterministic"])
            // Python 3.11 fails at random where two threads read source text at once.
            .args(["--request-timeout", "30", "--workers", "1"])
            .args(["--warnings", "off"])
            // Their answers do not end by themselves.
            .args(["--exclude-tag", "live"])
            .args(further)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}\n{error}");
        // Neither of what it looked at in the time that it had.
        assert!(text.contains("No issues found"), "{text}");
        text
    }
}

/// The number behind `label` in `text`.
fn number(text: &str, label: &str) -> Option<usize> {
    let rest = text.split(label).nth(1)?.trim_start();
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_as_described() {
    let program = program().await;
    let (world, things) = access::world(&[]).await;
    let asked = Asked {
        program,
        url: world.url("/openapi.json"),
        directory: tempfile::tempdir().unwrap(),
    };
    // Otherwise hardly anything would be found that is there.
    let parameters = format!(
        "[parameters]\n\"path.workspace\" = \"w\"\n\"path.vehicle\" = \"{}\"\n",
        things["{vehicle}"]
    );
    std::fs::write(asked.directory.path().join(CONFIG), parameters).unwrap();
    let text = asked.go("examples,coverage", &[]).await;
    let operations = access::operations();
    let ending = operations.iter().filter(|of| of.service != Service::Live);
    assert_eq!(number(&text, "Tested:"), Some(ending.count()), "{text}");

    let at_most = std::env::var("HEADRACE_TEST_SCHEMATHESIS_SECONDS");
    let at_most = at_most.unwrap_or_else(|_| AT_MOST.to_owned());
    let bounds = ["--max-examples", EXAMPLES, "--max-time", &at_most];
    asked.go("fuzzing", &bounds).await;
    world.stop().await;
}

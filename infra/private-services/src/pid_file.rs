//! Which process is ours: a pid together with the moment it started, because a pid alone is soon given to another process.
//!
//! `/proc/<pid>/stat` is readable for everybody, also where root lacks the right to look into another user's processes, as
//! in most containers.

use std::fs;
use std::path::{Path, PathBuf};

/// Shell words that write the pid file `$0` and become the command `"$@"`: there is no moment in which the server runs
/// and the file does not say so. `exec` keeps the pid and the start.
pub(crate) const WRITE_AND_EXEC: &str =
    r#"echo "$$ $(cut -d ' ' -f 22 /proc/$$/stat)" >"$0" && exec "$@""#;

/// A file with a pid and its start in clock ticks since boot.
#[derive(Debug)]
pub(crate) struct PidFile(pub(crate) PathBuf);

impl PidFile {
    /// The process of the file, if it still runs.
    pub(crate) fn running(&self) -> Option<u32> {
        let text = fs::read_to_string(&self.0).ok()?;
        let (pid, start) = text.trim().split_once(' ')?;
        let pid = pid.parse().ok()?;
        (start_of(pid)? == start.parse::<u64>().ok()?).then_some(pid)
    }
}

/// When `pid` started, in clock ticks since boot; `None` when it has ended (a zombie has).
pub(crate) fn start_of(pid: u32) -> Option<u64> {
    start_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// PostgreSQL processes that work in the cluster `data`, which must be free of symbolic links: those that a killed server
/// left behind, when the server itself is gone. Empty where we may not look.
pub(crate) fn postgres_working_in(data: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let process = Path::new("/proc").join(pid.to_string());
            fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim_end() == "postgres")
                && fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == data)
        })
        .collect()
}

fn start_in(stat: &str) -> Option<u64> {
    // The second field, the name, is in parentheses and may contain anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_start_behind_an_odd_name() {
        let stat = "42 (a b) c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 2";
        assert_eq!(start_in(stat), Some(98765));
        assert_eq!(start_in(&stat.replace(") S", ") Z")), None);
    }

    #[test]
    fn a_pid_with_another_start_is_another_process() {
        let dir = tempfile::tempdir().unwrap();
        let file = PidFile(dir.path().join("pid"));
        let me = std::process::id();
        let start = start_of(me).unwrap();
        fs::write(&file.0, format!("{me} {start}\n")).unwrap();
        assert_eq!(file.running(), Some(me));
        fs::write(&file.0, format!("{me} {}\n", start + 1)).unwrap();
        assert_eq!(file.running(), None);
    }
}

//! The unprivileged user that a server runs as when we are root.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, io_error};

const PASSWD: &str = "/etc/passwd";

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// The account `name`, or `None` when it does not exist or we are not root: only root can (and has to) become another
    /// user.
    pub(crate) fn to_become(name: &str) -> Result<Option<Self>, Error> {
        if !is_root() {
            return Ok(None);
        }
        let passwd = fs::read_to_string(PASSWD).map_err(io_error("read", Path::new(PASSWD)))?;
        Ok(find(&passwd, name))
    }

    /// Makes `command` run as this user.
    pub(crate) fn apply(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    /// Checks that this user can enter every directory on the way to `path`.
    ///
    /// The kernel is asked, as that user, because modes alone do not tell the whole truth (groups, access control lists).
    pub(crate) fn check_can_reach(&self, path: &Path) -> Result<(), Error> {
        let mut ancestors: Vec<&Path> = path.ancestors().collect();
        ancestors.reverse();
        for directory in ancestors {
            let mut test = Command::new("test");
            test.args([OsString::from("-x"), directory.into()])
                .current_dir("/")
                .stdin(Stdio::null());
            self.apply(&mut test);
            if !test
                .status()
                .map_err(io_error("look at", directory))?
                .success()
            {
                return Err(Error::Unreachable {
                    user: self.name.clone(),
                    directory: directory.to_owned(),
                    data: path.to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// Whether this process has root's rights.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn find(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account {
            name: name.to_owned(),
            uid,
            gid,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_user_by_its_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres2:x:7:8::/:/bin/sh\npostgres:x:105:112:,,,:/var/lib/postgresql:/bin/bash\n";
        let found = find(passwd, "postgres").unwrap();
        assert_eq!((found.uid, found.gid), (105, 112));
        assert_eq!(find(passwd, "rabbitmq"), None);
    }
}

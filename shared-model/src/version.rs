//! Versions of wire formats: `major.minor`.

use std::fmt;

/// A wire format's version. A reader takes any minor version of the major versions it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Raised by a change that an older reader would misread.
    pub major: u16,
    /// Raised by an addition that an older reader may ignore.
    pub minor: u16,
}

impl Version {
    /// Reads `major.minor`; `None` if `text` is anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

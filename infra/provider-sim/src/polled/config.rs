//! Settings of a polled provider.

use crate::{polled::Limit, server::StartError};
use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

/// A provider with an HTTP API that is polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PolledProvider {
    /// The heavy-vehicle standard rFMS 4: requests by time.
    Rfms,
    /// Samsara: a feed by cursor.
    Samsara,
    /// Geotab: a feed by version, JSON-RPC, sessions.
    Geotab,
}

impl PolledProvider {
    /// Every one of them.
    pub const ALL: [Self; 3] = [Self::Rfms, Self::Samsara, Self::Geotab];

    /// The name that a connection gives it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rfms => "rfms",
            Self::Samsara => "samsara",
            Self::Geotab => "geotab",
        }
    }

    /// How many records a page has at the most, unless something else is configured.
    const fn usual_page_size(self) -> usize {
        match self {
            Self::Rfms => 1000,
            Self::Samsara => 512,
            Self::Geotab => 50_000,
        }
    }
}

/// A token or a password, which does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for Secret {
    fn from(secret: T) -> Self {
        Self(secret.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// Settings of a [`PolledSimulator`](crate::PolledSimulator).
#[derive(Debug, Clone, PartialEq)]
pub struct PolledConfig {
    /// Whose protocol is spoken.
    pub provider: PolledProvider,
    /// Where to listen; port 0 takes any free port. Default `127.0.0.1:0`.
    pub listen: SocketAddr,
    /// The accepted tokens or passwords, one a customer. Default [`DEFAULT_API_KEY`](crate::DEFAULT_API_KEY).
    pub secrets: Vec<Secret>,
    /// What everything random is drawn from. Default 1.
    pub seed: u64,
    /// The fleet: which drives of the seed the vehicles take, one each. Two providers with the same seed and drive see the
    /// same vehicle. Default 0 to 19.
    pub drives: Vec<usize>,
    /// How often a driving vehicle reports. Default 5 s.
    pub every: Duration,
    /// How many of its reports a parked vehicle makes one of. Default 6.
    pub parked_every: u32,
    /// How far back the reports reach that there are at the start. Default 1 min.
    pub backlog: Duration,
    /// How many records the provider keeps; older ones are gone. Default 20,000.
    pub kept: usize,
    /// The most records on a page. None: what the provider's usual is.
    pub page_size: Option<usize>,
    /// How many requests each pool allows. None: the provider's own limits.
    pub limit: Option<Limit>,
    /// The share of reports that reach the provider late, 0 to 1. Default 0.
    pub late: f64,
    /// How late they are at the most. Default 10 s.
    pub late_by: Duration,
    /// How far the vehicles' clocks are ahead of the provider's; negative: behind. Default 0.
    pub clock_skew_ms: i64,
    /// How long an answer takes. Default 0.
    pub latency: Duration,
}

impl PolledConfig {
    /// The usual settings for `provider`.
    #[must_use]
    pub fn new(provider: PolledProvider) -> Self {
        Self {
            provider,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            secrets: vec![crate::DEFAULT_API_KEY.into()],
            seed: 1,
            drives: (0..20).collect(),
            every: Duration::from_secs(5),
            parked_every: 6,
            backlog: Duration::from_mins(1),
            kept: 20_000,
            page_size: None,
            limit: None,
            late: 0.0,
            late_by: Duration::from_secs(10),
            clock_skew_ms: 0,
            latency: Duration::ZERO,
        }
    }

    pub(crate) fn page_records(&self) -> usize {
        self.page_size.unwrap_or(self.provider.usual_page_size())
    }

    pub(crate) fn check(&self) -> Result<(), StartError> {
        let refuse = |key, value, rule| Err(StartError::Setting { key, value, rule });
        let shortest = Duration::from_millis(10);
        if self.every < shortest {
            let value = format!("{:?}", self.every);
            return refuse("every", value, "must be at least 10 ms");
        }
        if !(0.0..=1.0).contains(&self.late) {
            let value = self.late.to_string();
            return refuse("late", value, "must be a share from 0 to 1");
        }
        for (key, value) in [
            ("parked_every", self.parked_every as usize),
            ("kept", self.kept),
            ("page_size", self.page_records()),
            ("secrets", self.secrets.len()),
        ] {
            if value == 0 {
                return refuse(key, "0".to_owned(), "must be at least 1");
            }
        }
        Ok(())
    }
}

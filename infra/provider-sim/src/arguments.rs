//! What the program is told.

use clap::{Parser, ValueEnum};
use humantime_serde::re::humantime::parse_duration;
use provider_sim::{
    DEFAULT_API_KEY, Flaws, Limit, PolledConfig, PolledProvider, Secret, SimulatorConfig,
};
use std::{net::SocketAddr, time::Duration};

/// A simulated provider: a fleet of buses behind the real protocol of a provider, and a control API at /control.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    /// Whose protocol it speaks
    #[arg(long, value_enum, default_value_t = Provider::Viriciti)]
    provider: Provider,
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// An accepted API key, token or password; several are separated by commas
    #[arg(
        long = "api-key",
        env = "PROVIDER_SIM_API_KEY",
        hide_env_values = true,
        value_delimiter = ',',
        default_value = DEFAULT_API_KEY
    )]
    api_keys: Vec<String>,
    /// Size of the fleet, bus-1 to bus-N
    #[arg(long, default_value_t = 20)]
    vehicles: usize,
    /// ViriCiti: how often a driving vehicle reports each label, in hertz
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// What everything random is drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// ViriCiti: the least time from a subscription to its first data
    #[arg(long, default_value = "500ms", value_parser = parse_duration)]
    authorisation_delay: Duration,
    /// ViriCiti: how often a parked vehicle reports
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    parked_every: Duration,
    /// ViriCiti: the mean lifetime of a socket; 0s keeps sockets open
    #[arg(long, default_value = "5m", value_parser = parse_duration)]
    disconnect_every: Duration,
    /// ViriCiti: how many frames may wait for one socket before it misses some
    #[arg(long, default_value_t = 1024)]
    outbox_frames: usize,
    /// ViriCiti: probability that a value is blank
    #[arg(long, default_value_t = Flaws::default().blank)]
    blank_rate: f64,
    /// ViriCiti: probability that a value is null
    #[arg(long, default_value_t = Flaws::default().null)]
    null_rate: f64,
    /// ViriCiti: probability that a position is 0|0
    #[arg(long, default_value_t = Flaws::default().zero_position)]
    zero_position_rate: f64,
    /// ViriCiti: probability that a datum comes late, after newer ones
    #[arg(long, default_value_t = Flaws::default().late)]
    late_rate: f64,
    /// Polled: how often a driving vehicle reports
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    every: Duration,
    /// Polled: the most records on a page; the provider's usual ones if absent
    #[arg(long)]
    page_size: Option<usize>,
    /// Polled: how many requests a minute each pool allows; the provider's usual ones if absent
    #[arg(long)]
    requests_per_minute: Option<u32>,
    /// Polled: the share of reports that come late, 0 to 1
    #[arg(long, default_value_t = 0.02)]
    late_share: f64,
    /// Polled: how late they come at the most
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    late_by: Duration,
    /// Polled: how many milliseconds the vehicles' clocks are ahead; negative: behind
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    clock_skew_ms: i64,
    /// Polled: how long an answer takes
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    latency: Duration,
}

/// The protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Provider {
    Viriciti,
    Rfms,
    Samsara,
    Geotab,
}

impl Arguments {
    /// The settings of a polled provider, if that is what was asked for.
    pub(crate) fn polled(&self) -> Option<PolledConfig> {
        let provider = match self.provider {
            Provider::Viriciti => return None,
            Provider::Rfms => PolledProvider::Rfms,
            Provider::Samsara => PolledProvider::Samsara,
            Provider::Geotab => PolledProvider::Geotab,
        };
        let limit = |requests| Limit::new(requests, Duration::from_mins(1));
        Some(PolledConfig {
            listen: self.listen,
            secrets: self.api_keys.iter().map(Secret::from).collect(),
            seed: self.seed,
            drives: (0..self.vehicles).collect(),
            every: self.every,
            page_size: self.page_size,
            limit: self.requests_per_minute.map(limit),
            late: self.late_share,
            late_by: self.late_by,
            clock_skew_ms: self.clock_skew_ms,
            latency: self.latency,
            ..PolledConfig::new(provider)
        })
    }

    /// The settings of a provider that streams.
    pub(crate) fn into_config(self) -> SimulatorConfig {
        SimulatorConfig {
            listen: self.listen,
            api_keys: self.api_keys,
            vehicles: self.vehicles,
            rate: self.rate,
            seed: self.seed,
            authorisation_delay: self.authorisation_delay,
            parked_every: self.parked_every,
            disconnect_every: Some(self.disconnect_every).filter(|every| !every.is_zero()),
            outbox_frames: self.outbox_frames,
            flaws: Flaws {
                blank: self.blank_rate,
                null: self.null_rate,
                zero_position: self.zero_position_rate,
                late: self.late_rate,
            },
        }
    }
}

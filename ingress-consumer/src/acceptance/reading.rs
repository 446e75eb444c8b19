//! Reading frames: each with its connection's interpreter.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use shared_model::partition::partition;
use shared_model::signal::Provenance;
use shared_model::{Reading, Signal};

use super::Received;
use super::registry::{Known, Registry};
use crate::interpret::{Control, Interpretation, Item, Provision, Reason, Unreadable};
use crate::store::StoreError;
use crate::store::vehicle::VehicleKey;

/// A frame with what it means.
#[derive(Debug, Clone)]
pub struct ReadFrame {
    /// The frame.
    pub received: Received,
    /// What it means, or why it is to be parked.
    pub outcome: Result<Contents, Unreadable>,
}

/// What a frame holds.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// Observations.
    pub observations: Vec<Observation>,
    /// Signals without a value, with their vehicles.
    pub no_values: Vec<(VehicleKey, Signal)>,
    /// Labels that mean nothing here.
    pub unmapped: u64,
    /// A message of the protocol itself.
    pub control: Option<Control>,
}

/// An observation, with what is needed to register its vehicle.
#[derive(Debug, Clone)]
pub struct Observation {
    /// The vehicle.
    pub key: VehicleKey,
    /// The shard that the vehicle gets if this is the first that is heard of it.
    pub shard: u32,
    /// Whether that makes it known.
    pub registers: bool,
    /// What was observed.
    pub signal: Signal,
    /// The value, with its times and source.
    pub reading: Reading,
}

impl ReadFrame {
    /// The vehicles that the frame speaks of.
    pub fn vehicles(&self) -> impl Iterator<Item = &VehicleKey> {
        self.outcome.iter().flat_map(|contents| {
            let observed = contents.observations.iter().map(|o| &o.key);
            observed.chain(contents.no_values.iter().map(|(key, _)| key))
        })
    }
}

/// Reads frames.
pub struct Reader<'a> {
    pub registry: &'a Registry,
    pub shards: u32,
    pub clock_skew: Duration,
}

impl Reader<'_> {
    /// Reads each of `frames`, at the time `now`. Fails only if a connection cannot be looked up.
    pub async fn read(
        &self,
        frames: &[Received],
        now: DateTime<Utc>,
    ) -> Result<Vec<ReadFrame>, StoreError> {
        let mut read = Vec::with_capacity(frames.len());
        for received in frames {
            let outcome = match self.registry.find(received.attributes.connection).await? {
                Some(_) if self.is_ahead(received, now) => Err(Unreadable::new(
                    Reason::ReceivedInFuture,
                    format!(
                        "received at {} by its publisher's clock",
                        received.frame.received_at
                    ),
                )),
                Some(known) => self.interpret(&known, received),
                None => Err(Unreadable::new(
                    Reason::UnknownConnection,
                    format!("there is no connection {}", received.attributes.connection),
                )),
            };
            read.push(ReadFrame {
                received: received.clone(),
                outcome,
            });
        }
        Ok(read)
    }

    /// A publisher's clock that is ahead would make its readings win over everybody else's, and its
    /// vehicles look fresh until that time has come.
    fn is_ahead(&self, received: &Received, now: DateTime<Utc>) -> bool {
        let ahead = received.frame.received_at - now;
        ahead.to_std().is_ok_and(|ahead| ahead > self.clock_skew)
    }

    fn interpret(&self, known: &Arc<Known>, received: &Received) -> Result<Contents, Unreadable> {
        let attributes = &received.attributes;
        if known.workspace != attributes.workspace || known.provider != attributes.provider {
            // A workspace never sees another's data, whatever an envelope says.
            let detail = format!(
                "the connection is {}'s at {}, the envelope says {}'s at {}",
                known.workspace, known.provider, attributes.workspace, attributes.provider
            );
            return Err(Unreadable::new(Reason::ConnectionMismatch, detail));
        }
        let Provision {
            interpreter,
            vehicles,
            ..
        } = &known.provision;
        let items = match interpreter.interpret(&received.frame.body)? {
            Interpretation::Report(items) => items,
            Interpretation::Control(control) => {
                if control == Control::ProviderError {
                    tracing::warn!(
                        connection = %attributes.connection,
                        message = %String::from_utf8_lossy(&received.frame.body[..received.frame.body.len().min(200)]),
                        "the provider reports an error"
                    );
                }
                return Ok(Contents {
                    control: Some(control),
                    ..Contents::default()
                });
            }
        };
        let key = |device: &str| match vehicles.of(device) {
            Ok(vehicle) => Ok(VehicleKey {
                workspace: attributes.workspace.clone(),
                vehicle,
            }),
            Err(error) => Err(Unreadable::new(Reason::InvalidVehicle, error.to_string())),
        };
        let mut contents = Contents::default();
        for item in items {
            match item {
                Item::NoValue { device, signal } => {
                    contents.no_values.push((key(&device)?, signal));
                }
                Item::Unmapped => contents.unmapped += 1,
                Item::Observed(observed) => contents.observations.push(Observation {
                    shard: partition(
                        &attributes.workspace,
                        attributes.connection,
                        &observed.device,
                        self.shards,
                    ),
                    registers: vehicles.register_unknown,
                    key: key(&observed.device)?,
                    signal: observed.signal,
                    reading: Reading {
                        value: observed.value,
                        provenance: Provenance {
                            observed_at: observed.observed_at,
                            received_at: received.frame.received_at,
                            provider: attributes.provider.clone(),
                            clock_ahead: false,
                        },
                    },
                }),
            }
        }
        Ok(contents)
    }
}

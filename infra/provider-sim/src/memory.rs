//! What the simulated provider knows of the past: nothing is stored, for the fleet's data are a function of the time. Only the
//! times at which vehicles were paused are, and of these they have no data.

use crate::{
    archive::{Archive, Sample},
    clock::Clock,
    feed::Feed,
    fleet::Fleet,
    protocol::Label,
};
use std::{ops::RangeInclusive, sync::Arc};

/// How far back it goes, in milliseconds.
const KEPT_MS: i64 = 24 * 3_600_000;

/// How many samples of a label it goes back at most.
const KEPT_SAMPLES: i64 = 100_000;

/// The past of a fleet.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) feed: Arc<Feed>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) clock: Clock,
}

impl Memory {
    fn find(&self, vid: &str, label: &str) -> Option<(usize, Label)> {
        let label = Label::ALL.into_iter().find(|known| known.name() == label)?;
        Some((self.fleet.index_of(vid)?, label))
    }

    fn kept(&self) -> RangeInclusive<i64> {
        let now = self.clock.now_ms();
        now - KEPT_MS.min(KEPT_SAMPLES * self.feed.period_ms())..=now
    }
}

impl Archive for Memory {
    fn latest(&self, vid: &str, label: &str) -> Option<Sample> {
        let (index, label) = self.find(vid, label)?;
        let kept = self.kept();
        let mut before = *kept.end();
        loop {
            let slot = self.feed.last_slot_at(index, before);
            let time_ms = self.feed.time_ms(slot);
            if time_ms < *kept.start() {
                return None;
            }
            before = time_ms - 1;
            if let Some(since) = self.fleet.silent_since(index, time_ms) {
                before = before.min(since);
                continue;
            }
            let datum = self.feed.observed(index, slot, label);
            if let Some(datum) = datum.filter(|datum| !datum.value.is_null()) {
                return Some(Sample {
                    time: datum.time_ms,
                    value: datum.value,
                });
            }
        }
    }

    fn within(&self, vid: &str, label: &str, times: RangeInclusive<i64>) -> Vec<Sample> {
        let Some((index, label)) = self.find(vid, label) else {
            return Vec::new();
        };
        let kept = self.kept();
        let times = *times.start().max(kept.start())..=*times.end().min(kept.end());
        self.feed
            .slots_within(index, times)
            .filter_map(|slot| self.feed.observed(index, slot, label))
            .filter(|datum| self.fleet.silent_since(index, datum.time_ms).is_none())
            .map(|datum| Sample {
                time: datum.time_ms,
                value: datum.value,
            })
            .collect()
    }
}

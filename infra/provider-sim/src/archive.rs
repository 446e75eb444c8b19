//! What a provider still knows of its vehicles' data.

use crate::hub::held;
use serde::Serialize;
use serde_json::Value;
use std::{collections::BTreeMap, fmt, ops::RangeInclusive, sync::Mutex};

/// A value at a time (milliseconds since the Unix epoch), as the REST API gives it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// When it was observed.
    pub time: i64,
    /// What was observed.
    pub value: Value,
}

/// A memory of samples, by vehicle and label.
pub(crate) trait Archive: fmt::Debug + Send + Sync {
    /// The last known value.
    fn latest(&self, vid: &str, label: &str) -> Option<Sample>;
    /// What was observed within `times`, in the order of time.
    fn within(&self, vid: &str, label: &str, times: RangeInclusive<i64>) -> Vec<Sample>;
}

type Series = (String, String);

/// Holds what it is handed.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    latest: Mutex<BTreeMap<Series, Sample>>,
    history: Mutex<BTreeMap<Series, BTreeMap<i64, Value>>>,
}

impl Handed {
    pub(crate) fn set_latest(&self, vid: &str, label: &str, sample: Sample) {
        held(&self.latest).insert((vid.to_owned(), label.to_owned()), sample);
    }

    pub(crate) fn add_history(&self, vid: &str, label: &str, samples: Vec<Sample>) {
        let mut history = held(&self.history);
        let series = history.entry((vid.to_owned(), label.to_owned()));
        let samples = samples
            .into_iter()
            .map(|sample| (sample.time, sample.value));
        series.or_default().extend(samples);
    }
}

impl Archive for Handed {
    fn latest(&self, vid: &str, label: &str) -> Option<Sample> {
        let series = (vid.to_owned(), label.to_owned());
        held(&self.latest).get(&series).cloned()
    }

    fn within(&self, vid: &str, label: &str, times: RangeInclusive<i64>) -> Vec<Sample> {
        let history = held(&self.history);
        let Some(series) = history.get(&(vid.to_owned(), label.to_owned())) else {
            return Vec::new();
        };
        series
            .range(times)
            .map(|(time, value)| Sample {
                time: *time,
                value: value.clone(),
            })
            .collect()
    }
}

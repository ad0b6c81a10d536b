//! What the progress line shows, counted by three parties that do not know each other.

use std::sync::atomic::{AtomicU64, Ordering};

/// Rising counts of changes.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    /// Acknowledged by MongoDB.
    pub(crate) written: Gauge,
    /// Seen by the demo's own read_committed consumer.
    pub(crate) in_kafka: Gauge,
    /// Rows that the lake's files claim.
    pub(crate) in_lake: Gauge,
}

#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }
}

//! A steady rate for many writers.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// Hands out moments, `rate` per second, to whoever asks. A writer that comes late for its moment does not wait, so that
/// a hiccup is caught up instead of lowering the rate.
#[derive(Debug)]
pub(crate) struct Pace {
    start: Instant,
    rate: u32,
    taken: AtomicU64,
}

impl Pace {
    /// `rate` in changes per second, above 0.
    pub(crate) fn new(rate: u32) -> Self {
        Self { start: Instant::now(), rate, taken: AtomicU64::new(0) }
    }

    /// Takes the next `count` moments and waits for the first of them.
    pub(crate) async fn wait(&self, count: usize) {
        let count = u64::try_from(count).expect("a count of statements fits");
        let slot = self.taken.fetch_add(count, Ordering::Relaxed);
        let offset = Duration::from_micros(slot * 1_000_000 / u64::from(self.rate));
        tokio::time::sleep_until(self.start + offset).await;
    }
}

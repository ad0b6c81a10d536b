//! A pause that the service asked for, kept by every request of this process.
//!
//! Whoever got the answer waits anyway, and would be followed by all the others at once: other partitions, the one that reads back what became of a
//! commit, the hours' end. Each of them would be refused too, and keep the service where it is.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// A server whose clock or configuration is wrong must not stop anybody for a day.
const LONGEST: Duration = Duration::from_secs(300);

/// See the module.
pub(super) struct Pause {
    begun: Instant,
    /// Milliseconds since `begun`; 0 for none.
    until: AtomicU64,
}

impl Pause {
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), until: AtomicU64::new(0) }
    }

    /// Asked for just now. The later of two ends counts.
    pub(super) fn begin(&self, asked: Duration) {
        let until = (self.begun.elapsed() + asked.min(LONGEST)).as_millis() + 1;
        self.until.fetch_max(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How much of it is left.
    pub(super) fn left(&self) -> Option<Duration> {
        let until = Duration::from_millis(self.until.load(Ordering::Relaxed));
        until.checked_sub(self.begun.elapsed()).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_end_counts_and_none_is_far_off() {
        let pause = Pause::new();
        assert_eq!(pause.left(), None);
        pause.begin(Duration::from_secs(60));
        pause.begin(Duration::from_secs(3));
        let left = pause.left().unwrap_or_default();
        assert!((50..=60).contains(&left.as_secs()), "{left:?}");
        pause.begin(Duration::from_secs(24 * 3600));
        assert!(pause.left() <= Some(LONGEST + Duration::from_millis(1)));
    }

    #[test]
    fn it_ends() {
        let pause = Pause::new();
        pause.begin(Duration::ZERO);
        while pause.left().is_some() {
            std::thread::yield_now();
        }
    }
}

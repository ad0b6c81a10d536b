//! The breaker of the dead-letter topic: when most records are poison, it is not the records that are wrong.
//!
//! A producer that was changed, a registry with other schemas, a wrong topic: then the dead-letter topic would fill with everything, and every
//! letter would have to be brought back. So the sink stops instead, with what is buffered not written; after a restart it is read again.
//! The share is taken over the last minute, by the sink's clock, and only of a hundred records or more: three letters among twenty records
//! say nothing yet.

use std::time::{Duration, Instant};

/// Of the window; the oldest goes when a new one begins.
const BUCKET: Duration = Duration::from_secs(10);
const BUCKETS: usize = 6;

/// Fewer records say nothing.
const RECORDS_MIN: u64 = 100;

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    records: u64,
    letters: u64,
}

/// See the module. Owned by the writer.
#[derive(Clone, Debug)]
pub struct Breaker {
    /// Between 0 and 1; `None` for no breaker.
    ratio_max: Option<f64>,
    buckets: [Bucket; BUCKETS],
    current: usize,
    begun: Option<Instant>,
}

/// Too many records are poison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Open {
    pub records: u64,
    pub letters: u64,
    pub ratio_max: f64,
}

impl Breaker {
    pub fn new(ratio_max: Option<f64>) -> Self {
        Self { ratio_max, buckets: Default::default(), current: 0, begun: None }
    }

    /// Counts a record that became a line or a tombstone.
    pub fn record(&mut self) {
        self.buckets[self.current].records += 1;
    }

    /// Counts one that became a dead letter; says whether that is too many.
    pub fn letter(&mut self) -> Option<Open> {
        let bucket = &mut self.buckets[self.current];
        bucket.records += 1;
        bucket.letters += 1;
        let ratio_max = self.ratio_max?;
        let sum = |of: fn(&Bucket) -> u64| self.buckets.iter().map(of).sum::<u64>();
        let (records, letters) = (sum(|bucket| bucket.records), sum(|bucket| bucket.letters));
        #[expect(clippy::cast_precision_loss, reason = "a share; 2^53 records do not come in a minute")]
        let open = records >= RECORDS_MIN && letters as f64 > ratio_max * records as f64;
        open.then_some(Open { records, letters, ratio_max })
    }

    /// Time goes on; to be called now and then.
    pub fn at(&mut self, now: Instant) {
        let begun = *self.begun.get_or_insert(now);
        let mut passed = now.saturating_duration_since(begun);
        if passed < BUCKET {
            return;
        }
        for _ in 0..BUCKETS {
            if passed < BUCKET {
                break;
            }
            passed -= BUCKET;
            self.current = (self.current + 1) % BUCKETS;
            self.buckets[self.current] = Bucket::default();
        }
        self.begun = Some(now);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn it_opens_when_the_share_is_too_large_and_not_before_a_hundred_records() {
        let mut breaker = Breaker::new(Some(0.05));
        for _ in 0..94 {
            breaker.record();
        }
        for _ in 0..5 {
            assert_eq!(breaker.letter(), None);
        }
        breaker.record();
        let open = breaker.letter().unwrap();
        assert_eq!((open.records, open.letters), (101, 6));
        let mut off = Breaker::new(None);
        assert!((0..1000).all(|_| off.letter().is_none()));
    }

    #[test]
    fn what_is_older_than_a_minute_is_forgotten() {
        let mut breaker = Breaker::new(Some(0.5));
        let start = Instant::now();
        breaker.at(start);
        for _ in 0..99 {
            assert_eq!(breaker.letter(), None);
        }
        breaker.at(start + Duration::from_secs(30));
        assert!(breaker.letter().is_some(), "still within the minute");
        breaker.at(start + Duration::from_secs(120));
        assert_eq!(breaker.letter(), None);
    }
}

//! Stops the sink when too much of what it reads would become a dead letter: then the fault is rather ours, or a producer's, than a record's.
//!
//! Asked with every batch before anything of it is written, so the position stays before it: nothing is skipped, and a restart reads it again.
//! It looks back over a window of this process: at most [`WINDOW_AGE`] and about [`WINDOW_RECORDS`] records, all partitions together.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Batches that were looked at longer ago do not count.
pub const WINDOW_AGE: Duration = Duration::from_secs(600);

/// When newer batches have so many records, older ones do not count.
pub const WINDOW_RECORDS: u64 = 10_000;

/// Fewer dead letters than this in the window never open it, whatever their share.
pub const LETTERS_MIN: u64 = 20;

/// The share of dead letters above which it opens: over 0, up to 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct MaxRatio(f64);

impl MaxRatio {
    /// `5%`, `2.5%` or `0.05`; `None` in it for `0`, `0%` and `off`. `None` if it is something else.
    pub fn parse(text: &str) -> Option<Option<Self>> {
        if text == "off" {
            return Some(None);
        }
        let ratio = match text.strip_suffix('%') {
            Some(percent) => percent.trim_end().parse::<f64>().ok()? / 100.0,
            None => text.parse::<f64>().ok()?,
        };
        match ratio {
            0.0 => Some(None),
            _ if ratio > 0.0 && ratio <= 1.0 => Some(Some(Self(ratio))),
            _ => None,
        }
    }
}

/// Too many of the last records would be dead letters.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "{letters} of the last {records} records are dead letters, more than DLQ_MAX_RATIO ({:.1} %) allows: the breaker is open",
    max.0 * 100.0
)]
pub struct BreakerOpen {
    pub letters: u64,
    pub records: u64,
    max: MaxRatio,
}

struct Batch {
    at: Instant,
    records: u64,
    letters: u64,
}

/// Shared by all partitions.
pub struct DeadLetterBreaker {
    /// `None`: never opens.
    max: Option<MaxRatio>,
    window: Mutex<VecDeque<Batch>>,
}

impl DeadLetterBreaker {
    pub fn new(max: Option<MaxRatio>) -> Self {
        Self { max, window: Mutex::new(VecDeque::new()) }
    }

    /// Takes a batch into the window; the share of dead letters in it then.
    ///
    /// # Errors
    /// If it opens: nothing of the batch may be written.
    #[expect(clippy::cast_precision_loss, reason = "a share of counts far below 2^52")]
    pub fn look_at(&self, records: u64, letters: u64, now: Instant) -> Result<f64, BreakerOpen> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.push_back(Batch { at: now, records, letters });
        let sum = |of: fn(&Batch) -> u64, window: &VecDeque<Batch>| window.iter().map(of).sum::<u64>();
        let mut total = sum(|batch| batch.records, &window);
        while let Some(oldest) = window.front()
            && (now.duration_since(oldest.at) > WINDOW_AGE || total - oldest.records >= WINDOW_RECORDS)
        {
            total -= oldest.records;
            window.pop_front();
        }
        let letters = sum(|batch| batch.letters, &window);
        let ratio = if total == 0 { 0.0 } else { letters as f64 / total as f64 };
        match self.max {
            Some(max) if letters >= LETTERS_MIN && ratio > max.0 => {
                Err(BreakerOpen { letters, records: total, max })
            }
            _ => Ok(ratio),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn breaker(max: &str) -> DeadLetterBreaker {
        DeadLetterBreaker::new(MaxRatio::parse(max).unwrap())
    }

    #[test]
    fn a_ratio_is_a_percentage_or_a_share() {
        assert_eq!(MaxRatio::parse("5%"), MaxRatio::parse("0.05"));
        assert_eq!(MaxRatio::parse("100 %"), Some(Some(MaxRatio(1.0))));
        for off in ["off", "0", "0%", "0.0"] {
            assert_eq!(MaxRatio::parse(off), Some(None), "{off}");
        }
        for refused in ["", "5", "101%", "-1%", "five", "%", "NaN", "inf"] {
            assert_eq!(MaxRatio::parse(refused), None, "{refused}");
        }
    }

    #[test]
    fn it_opens_above_the_ratio_and_not_at_it() {
        let now = Instant::now();
        assert!(breaker("5%").look_at(1000, 50, now).is_ok());
        let open = breaker("5%").look_at(1000, 60, now).unwrap_err();
        assert_eq!((open.letters, open.records), (60, 1000));
        assert!(open.to_string().contains("DLQ_MAX_RATIO (5.0 %)"), "{open}");
        assert!(breaker("off").look_at(1000, 1000, now).is_ok());
    }

    #[test]
    fn a_few_bad_records_never_open_it() {
        let breaker = breaker("5%");
        let now = Instant::now();
        for _ in 1..LETTERS_MIN {
            assert!(breaker.look_at(1, 1, now).is_ok());
        }
        assert!(breaker.look_at(1, 1, now).is_err());
    }

    #[test]
    fn what_is_old_or_far_back_does_not_count() {
        let now = Instant::now();
        let by_time = breaker("5%");
        assert!(by_time.look_at(19, 19, now).is_ok());
        assert!(by_time.look_at(19, 19, now + WINDOW_AGE + Duration::from_secs(1)).is_ok());
        let by_count = breaker("5%");
        assert!(by_count.look_at(19, 19, now).is_ok());
        assert!(by_count.look_at(WINDOW_RECORDS, 0, now).is_ok());
        assert!(by_count.look_at(1, 1, now).is_ok());
        assert!(by_count.look_at(100, 19, now).is_ok());
        // Good records do not hide bad ones for longer than the window.
        assert!(by_count.look_at(WINDOW_RECORDS, 600, now).is_err());
    }
}

//! How long to wait before the next attempt: 1 s, doubling to 30 s, with full jitter.
//!
//! Full jitter means that each wait is drawn evenly from zero to the current step, so that many clients of one
//! recovering server do not come back in step (AWS architecture blog, "Exponential backoff and jitter").
//! There is no limit to the number of attempts: a dependency that is down is waited for.
//!
//! ```no_run
//! # async fn attempt() -> Result<(), ()> { Ok(()) }
//! # async fn run() {
//! let mut backoff = shared::backoff::Backoff::default();
//! while attempt().await.is_err() {
//!     tokio::time::sleep(backoff.next_delay()).await;
//! }
//! backoff.reset();
//! # }
//! ```

use std::time::Duration;

use tokio_retry2::strategy::{ExponentialBackoff, jitter_with_bounds};

/// The first step.
pub const FIRST: Duration = Duration::from_secs(1);
/// The step that the doubling stops at.
pub const LONGEST: Duration = Duration::from_secs(30);

/// The sequence of waits of one connection or request. Owned by whoever retries; never shared.
#[derive(Clone, Debug)]
pub struct Backoff {
    steps: ExponentialBackoff,
    attempts: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { steps: steps(), attempts: 0 }
    }
}

impl Backoff {
    /// Counts a failed attempt and says how long to wait before the next one.
    pub fn next_delay(&mut self) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        let step = self.steps.next().unwrap_or(LONGEST);
        jitter_with_bounds(0.0, 1.0)(step)
    }

    /// As [`Self::next_delay`], and what the server asked for (`Retry-After`) before it, up to five minutes: a server whose clock or
    /// configuration is wrong must not stop anybody for a day. Many that were told the same time do not come back in step.
    pub fn next_delay_at_least(&mut self, asked: Option<Duration>) -> Duration {
        const ASKED_MAX: Duration = Duration::from_secs(300);
        asked.unwrap_or_default().min(ASKED_MAX) + self.next_delay()
    }

    /// Failed attempts since the last success.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// After a success: the next failure starts at the first step again.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// tokio-retry2 multiplies its base by itself each time, so doubling is base 2, and the factor makes the first
/// step one second.
fn steps() -> ExponentialBackoff {
    ExponentialBackoff::from_millis(2).factor(500).max_delay(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_double_from_one_second_to_thirty() {
        let seconds: Vec<u64> = steps().take(7).map(|step| step.as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn waits_never_exceed_their_step_and_a_success_starts_over() {
        for _ in 0..200 {
            let mut backoff = Backoff::default();
            assert!(backoff.next_delay() <= FIRST);
            for _ in 0..20 {
                assert!(backoff.next_delay() <= LONGEST);
            }
            assert_eq!(backoff.attempts(), 21);
            backoff.reset();
            assert_eq!(backoff.attempts(), 0);
            assert!(backoff.next_delay() <= FIRST);
        }
    }

    #[test]
    fn the_server_may_ask_for_a_longer_wait() {
        let asked = Duration::from_secs(90);
        for _ in 0..20 {
            let delay = Backoff::default().next_delay_at_least(Some(asked));
            assert!(delay >= asked && delay <= asked + FIRST, "{delay:?}");
        }
    }
}

//! How long changes were on their way, from the server's own wall time in the event to the moment somebody could read it.
//!
//! Demo and benchmarks run on one machine, so both ends read the same clock. The event's `wallTime` has milliseconds,
//! which bounds the precision of every figure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::DateTime;

/// `_meta` stands at the beginning of the envelope; its wall time is found there without parsing the rest.
const WALL_TIME: &[u8] = b"\"wallTime\":{\"$date\":\"";
/// `_meta` with the longest event id that MongoDB makes is far shorter.
const SEARCHED_BYTES: usize = 4096;

/// When a change happened and how long it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Journey {
    /// Milliseconds since 1970.
    pub wall_ms: i64,
    pub duration_ms: u32,
}

impl Journey {
    /// From an event's `wallTime` to a moment, both in milliseconds since 1970. An end before the beginning, which rounding can make, counts as zero.
    pub fn new(wall_ms: i64, seen_ms: i64) -> Self {
        let duration_ms = u32::try_from((seen_ms - wall_ms).max(0)).unwrap_or(u32::MAX);
        Self { wall_ms, duration_ms }
    }
}

/// Milliseconds since 1970, by this machine's clock.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    i64::try_from(since.as_millis()).expect("milliseconds fit for 292 million years")
}

/// The wall time of an envelope in relaxed Extended JSON, in milliseconds since 1970; `None` if it has none.
pub fn wall_time_ms(value: &[u8]) -> Option<i64> {
    let head = &value[..value.len().min(SEARCHED_BYTES)];
    let start = head.windows(WALL_TIME.len()).position(|window| window == WALL_TIME)? + WALL_TIME.len();
    let length = head[start..].iter().position(|&byte| byte == b'"')?;
    let text = std::str::from_utf8(&head[start..start + length]).ok()?;
    Some(DateTime::parse_from_rfc3339(text).ok()?.timestamp_millis())
}

/// The middle and the slow end of some durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentiles {
    pub count: usize,
    pub p50: Duration,
    pub p99: Duration,
}

impl Percentiles {
    /// Of the changes that happened between two instants, in milliseconds since 1970; `None` if there are none.
    pub fn of(journeys: &[Journey], from_ms: i64, to_ms: i64) -> Option<Self> {
        let chosen = journeys.iter().filter(|journey| (from_ms..to_ms).contains(&journey.wall_ms));
        let mut durations: Vec<u32> = chosen.map(|journey| journey.duration_ms).collect();
        durations.sort_unstable();
        // Nearest rank: the smallest value that at least that share of all values does not exceed.
        let rank = |percent: usize| {
            let index = (durations.len() * percent).div_ceil(100).checked_sub(1)?;
            Some(Duration::from_millis(u64::from(durations[index])))
        };
        Some(Self { count: durations.len(), p50: rank(50)?, p99: rank(99)? })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_wall_time_is_found_in_an_envelope() {
        let value =
            br#"{"_meta":{"eventId":"82","wallTime":{"$date":"2025-08-22T22:00:00.123Z"},"lsid":null}}"#;
        assert_eq!(wall_time_ms(value), Some(1_755_900_000_123));
        assert_eq!(wall_time_ms(b"{\"_meta\":{}}"), None);
    }

    #[test]
    fn percentiles_are_nearest_ranks_within_the_window() {
        let journeys: Vec<Journey> =
            (1..=200).map(|number| Journey { wall_ms: i64::from(number), duration_ms: number }).collect();
        let all = Percentiles::of(&journeys, 1, 101).unwrap();
        assert_eq!(
            (all.count, all.p50, all.p99),
            (100, Duration::from_millis(50), Duration::from_millis(99))
        );
        assert_eq!(Percentiles::of(&journeys, 500, 600), None);
    }
}

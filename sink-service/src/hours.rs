//! The hour's end: when an hour of a collection is complete, and how readers are told.
//!
//! ```text
//!   resume-token topics ──▶ token_follower ──▶ Watermarks ┐
//!   a broker's clock (collections without a source) ──────┤
//!                                                         ▼          ended hours, and how far each log reached then
//!   writer ── standings (our partitions) ──────────▶  HourKeeper ───────────────────────────▶ writer: publish, seal
//!                                                         │
//!                                                         └─ of topics whose partition 0 is ours ─▶ Closer ─▶ lake:
//!                                                              _manifest.json, _SUCCESS, _chain/<topic>/hours.json
//! ```
//!
//! An hour closes when (DESIGN §5 "The hour's end"):
//!
//! 1. every source whose scope covers the collection has committed a position at or beyond its end; a collection without a source waits for
//!    `HOUR_GRACE` by the broker's clock;
//! 2. *after* that was seen, each partition's high watermark is taken, never its last stable offset;
//! 3. each chain has reached it, durably;
//! 4. the files of the hour are sealed.
//!
//! Then the manifest, a second look at the folder, `_SUCCESS`. All of it is compare-and-set in the lake, so that any sink may do it again, or two
//! at once. What comes later, from a foreign producer, is written all the same; [`accounts`] see to it that no head moves off a file that its
//! hour's manifest, where there is one, does not name.

pub mod accounts;
pub mod broker_clock;
pub mod closed_hours;
pub mod closer;
pub mod expired;
pub mod keeper;
pub mod manifest;
pub mod reprint;
pub mod token_follower;
pub mod watermarks;

use std::time::Duration;

use shared::kafka_position::KafkaOffset;

use crate::event_hour::EventHour;

/// The last hour that is over in a collection without a source of ours: `grace` after its end, by a broker's clock, in seconds.
pub fn ended_by_clock(now: i64, grace: Duration) -> Option<EventHour> {
    EventHour::ended_at(now.saturating_sub(i64::try_from(grace.as_secs()).unwrap_or(i64::MAX)))
}

/// Of one partition: no record of `hour`, or of one before it, lies at or behind `barrier`, as far as sources promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HourEnd {
    pub hour: EventHour,
    /// The log's high watermark, taken after the hour was seen to have ended.
    pub barrier: KafkaOffset,
}

impl HourEnd {
    /// Whether a file of `hour` is complete once everything before `reached` is in the lake.
    pub fn completes(&self, hour: EventHour, reached: KafkaOffset) -> bool {
        hour <= self.hour && reached >= self.barrier
    }
}

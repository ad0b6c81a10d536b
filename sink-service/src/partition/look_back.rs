//! The records just before the chain's end, read once more whenever a chain was read: they show a log that was cut and has grown again.
//!
//! ```text
//!              begins here                  position
//!   log ─ … ──────┬────────────────────────────┬────── …
//!                 │ looked at, not taken: 16   │ taken
//!                 │ offsets before the chain's │
//!                 │ end, or more behind it     │
//! ```
//!
//! Offsets do not tell it: the topic is the same one and the position lies within its log, only the records before it are others. So the consumer begins
//! a few offsets early, and nothing is published before it has passed them.
//!
//! The rule: of these records, the last change of each source that the chain's last events know, and the last one of all, must be held by them. What lay
//! before the position was taken, and then it is among the last events, or it was a repeat, and then a later one of its source is; most dead letters are
//! neither, and the lake names their offsets. A source that is known cannot be behind a record of its own that comes after all others of it. Other
//! sources may have been forgotten by now, but not that of the last record. Where a source has sent again what the log lost, its last change is
//! held, and nothing is missing.
//!
//! What it does not see: records of foreign producers and of snapshots, which have no event id; changes that were replaced farther back than it
//! looks, with nothing but such records behind them.

#[cfg(test)]
mod tests;

use shared::{exit::Stop, kafka_position::KafkaOffset};

use super::PartitionState;
use crate::{
    chain::{Chain, ChainHalt},
    file_metadata::{LastEvents, OffsetRuns},
    publish::Halt,
    record::RecordView,
};

/// Lasts until the consumer has passed `until`.
pub(super) struct LookBack {
    from: KafkaOffset,
    /// The chain's position.
    until: KafkaOffset,
    dead_letters: OffsetRuns,
    known: LastEvents,
    /// Of each source the last change so far, the one of all at the end.
    last: Vec<LastChange>,
    /// The consumer has handed out everything before the end.
    passed: bool,
}

struct LastChange {
    source: String,
    offset: KafkaOffset,
    is_held: bool,
}

impl LookBack {
    /// `None` if there is nothing to look at, or nothing to hold it against.
    pub(super) fn of(chain: &Chain, log_start: KafkaOffset) -> Option<Self> {
        let (from, dead_letters) = chain.tail()?;
        let (from, until) = (from.max(log_start), chain.position());
        let known = chain.last_event()?.clone();
        (from < until).then(|| Self { from, until, dead_letters, known, last: Vec::new(), passed: false })
    }

    pub(super) fn has_before_end(&self, offset: KafkaOffset) -> bool {
        offset < self.until
    }

    pub(super) fn consumer_is_at(&mut self, position: KafkaOffset) {
        self.passed |= position >= self.until;
    }

    /// Takes notice of a record before the end.
    pub(super) fn see(&mut self, offset: KafkaOffset, record: &RecordView<'_>) {
        // The client may hand out a record twice.
        let newer = self.last.last().is_none_or(|last| last.offset < offset);
        let Some((event_id, source)) = record.change().filter(|_| newer) else { return };
        let is_held = self.known.hold(event_id, source);
        if is_held || !self.dead_letters.contains(offset) {
            self.last.retain(|last| last.source != source);
            self.last.push(LastChange { source: source.to_owned(), offset, is_held });
        }
    }

    /// The last record that the lake was not written from.
    fn contradiction(&self) -> Option<KafkaOffset> {
        let of_all = self.last.last()?.offset;
        let mut from_last = self.last.iter().rev();
        let other =
            from_last.find(|last| !last.is_held && (last.offset == of_all || self.known.know(&last.source)));
        other.map(|last| last.offset)
    }
}

impl PartitionState {
    /// Where the consumer begins to read: a little before what is taken, if there is something to look at. `log_start` as when the chain was read.
    pub fn begin_reading(&mut self, log_start: KafkaOffset) -> KafkaOffset {
        self.look_back = self.idle_chain().and_then(|chain| LookBack::of(chain, log_start));
        self.look_back.as_ref().map_or(self.position, |look_back| look_back.from)
    }

    /// Of a log in which nothing comes after the chain's end, too.
    ///
    /// # Errors
    /// If the log is not the one that the lake was written from.
    pub fn judge_passed_look_back(&mut self) -> Result<(), Stop> {
        if self.look_back.as_ref().is_some_and(|look_back| look_back.passed) {
            return self.judge_look_back();
        }
        Ok(())
    }

    /// Everything before the chain's end has been handed out.
    pub(super) fn judge_look_back(&mut self) -> Result<(), Stop> {
        let Some(look_back) = self.look_back.take() else { return Ok(()) };
        let Some(offset) = look_back.contradiction() else { return Ok(()) };
        let (partition, position) = (self.identity.partition.clone(), look_back.until);
        Err(Halt::Chain(ChainHalt::LogGrewAgain { partition, offset, position }).to_stop())
    }
}

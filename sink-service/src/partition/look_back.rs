//! The records just before the chain's end, read once more whenever a chain was read: they show a log that was cut and has grown again.
//!
//! ```text
//!              begins here           next             position
//!   log ─ … ──────┬───────────────────┬──────────────────┬────── …
//!                 │ looked at, not    │ passed over      │ taken
//!                 │ taken: at most 16 │                  │
//! ```
//!
//! Offsets do not tell it: the topic is the same one and the position lies within its log, only the records before it are others. The consumer begins a
//! few offsets early, so it costs no request.
//!
//! The rule: of the changes of our sources among these records, the last one must be known to the chain. What lay before `next` has been taken, and then it is
//! among the last events, or it was a repeat, and then a later one of its source is; most dead letters are neither, and the file names their offsets. An earlier
//! one is not asked: its source may be forgotten by now. Where a source has sent again what the log lost, the last one is known, and nothing is missing.
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

/// How far back, in offsets. A transaction of one record takes two.
const OFFSETS: u64 = 16;

/// Lasts until the consumer has passed `until`.
pub(super) struct LookBack {
    from: KafkaOffset,
    /// The end of the chain's file.
    until: KafkaOffset,
    dead_letters: OffsetRuns,
    known: LastEvents,
    /// The last change so far, and whether it is known.
    last: Option<(KafkaOffset, bool)>,
    /// The consumer has handed out everything before the end.
    passed: bool,
}

impl LookBack {
    /// `None` if there is nothing to look at, or nothing to hold it against.
    pub(super) fn of(chain: &Chain, log_start: KafkaOffset) -> Option<Self> {
        let metadata = &chain.file()?.metadata;
        let until = metadata.next;
        let back = KafkaOffset::new(until.get().saturating_sub(OFFSETS));
        let from = back.max(metadata.first).max(log_start);
        let letters = metadata.dead_letters.iter().filter(|offset| *offset >= from);
        (from < until).then_some(Self {
            from,
            until,
            dead_letters: letters.collect(),
            known: metadata.last_event.clone()?,
            last: None,
            passed: false,
        })
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
        let newer = self.last.is_none_or(|(last, _)| last < offset);
        let Some((event_id, source)) = record.change().filter(|_| newer) else { return };
        let known = self.known.hold(event_id, source);
        if known || !self.dead_letters.contains(offset) {
            self.last = Some((offset, known));
        }
    }

    /// The record that the lake was not written from.
    fn contradiction(&self) -> Option<KafkaOffset> {
        self.last.and_then(|(offset, known)| (!known).then_some(offset))
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
        let (partition, next) = (self.identity.partition.clone(), look_back.until);
        Err(Halt::Chain(ChainHalt::LogGrewAgain { partition, offset, next }).to_stop())
    }
}

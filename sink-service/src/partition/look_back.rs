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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_metadata::LastEvent;

    /// Of one cluster time.
    fn id(number: u32) -> String {
        format!("820000000500000001{number:08}")
    }

    /// Of a chain that ends at offset 20, with change 7 of the one source and change 3 of the other before it.
    fn look_back() -> LookBack {
        let mut known = Some(LastEvents::from(LastEvent::new(&id(3), "b/1")));
        assert!(LastEvents::take(&mut known, &id(7), "a/1"));
        LookBack {
            from: KafkaOffset::new(4),
            until: KafkaOffset::new(20),
            dead_letters: [KafkaOffset::new(12)].into_iter().collect(),
            known: known.expect("one was taken"),
            last: None,
            passed: false,
        }
    }

    /// What is found in a log of these records: offset, number of the change, source.
    fn found(records: &[(u64, u32, &str)]) -> Option<u64> {
        let mut look_back = look_back();
        for (offset, number, source) in records {
            let (event_id, cluster_time) = (id(*number), Some("5.1"));
            let (event_id, source) = (Some(event_id.as_str()), Some(*source));
            let record = RecordView { event_id, source, cluster_time, ..RecordView::default() };
            look_back.see(KafkaOffset::new(*offset), &record);
        }
        look_back.contradiction().map(KafkaOffset::get)
    }

    #[test]
    fn the_log_that_the_lake_was_written_from_is_known() {
        assert_eq!(found(&[]), None, "only markers, or strangers' records");
        assert_eq!(found(&[(4, 6, "a/1"), (18, 7, "a/1")]), None);
        assert_eq!(found(&[(10, 7, "a/1"), (18, 3, "b/1")]), None, "sources take turns");
        assert_eq!(found(&[(10, 7, "a/1"), (11, 6, "a/1")]), None, "sent again");
        assert_eq!(found(&[(10, 2, "forgotten/1"), (11, 7, "a/1")]), None);
        assert_eq!(found(&[(11, 7, "a/1"), (12, 8, "a/1")]), None, "a dead letter is no last event");
        assert_eq!(found(&[(11, 2, "forgotten/1"), (12, 7, "a/1")]), None, "one of the schema check is");
    }

    #[test]
    fn other_records_in_its_place_are_noticed() {
        assert_eq!(found(&[(10, 7, "a/1"), (11, 8, "a/1")]), Some(11));
        assert_eq!(found(&[(11, 7, "a/2")]), Some(11), "another run");
        assert_eq!(found(&[(10, 4, "b/1"), (11, 7, "a/1")]), None, "what was lost was sent again");
        assert_eq!(found(&[(10, 7, "a/1"), (11, 8, "a/1"), (10, 7, "a/1")]), Some(11));
    }

    #[test]
    fn it_ends_when_the_consumer_has_passed_it() {
        let mut look_back = look_back();
        look_back.consumer_is_at(KafkaOffset::new(19));
        assert!(!look_back.passed && look_back.has_before_end(KafkaOffset::new(19)));
        look_back.consumer_is_at(KafkaOffset::new(20));
        assert!(look_back.passed && !look_back.has_before_end(KafkaOffset::new(20)));
    }
}

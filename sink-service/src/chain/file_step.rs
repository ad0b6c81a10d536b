//! The steps on the head's file: what is created, appended and sealed, and with which metadata.

use std::time::Instant;

use shared::{
    kafka_position::KafkaOffset,
    seeded_bug::{self, SeededBug},
};

use super::{Chain, ChainHalt, FilePolicy, FileStep, Publishing, RollReason, Step, StepContext, is_sealed};
use crate::{
    buffer::{Batch, Entry, EntryKind, Piece},
    event_hour::EventHour,
    file_metadata::{FileMetadata, LineCrc, METADATA_LIMIT_BYTES, OffsetRuns},
    hours::HourEnd,
    lake::FileState,
    lake_path::LakePath,
    record::LAYOUT,
};

/// A file is ended when its metadata takes more than this, so that the next append's share always fits the limit.
const METADATA_ROLL_BYTES: usize = METADATA_LIMIT_BYTES * 3 / 4;

impl Chain {
    pub(super) fn create_step(
        &self,
        path: &LakePath,
        batch: &Batch,
        context: &StepContext<'_>,
    ) -> Result<Step, ChainHalt> {
        let Some(entry) = batch.pending().first() else { return Ok(self.scan_step(batch, context)) };
        let hour = self.hour_of(path)?;
        if let Some(step) = self.step_over_lost(entry, path, hour, context) {
            return Ok(step);
        }
        self.check_first(entry, path, hour)?;
        Ok(Step::Create(self.file_step(path, hour, &self.empty_file(path, context), 0, batch, context)))
    }

    /// The record that the head's file was named for is lost, and was given up: only then does `scanned` lie behind the begin of a file that was never
    /// made. It is made without rows, up to the first record that is there.
    pub(super) fn step_over_lost(
        &self,
        entry: &Entry,
        path: &LakePath,
        hour: EventHour,
        context: &StepContext<'_>,
    ) -> Option<Step> {
        let lost = entry.hour != hour && self.head.scanned > self.next() && entry.offset >= self.head.scanned;
        lost.then(|| {
            let empty = self.empty_file(path, context);
            let mut step = self.recommit(path, &empty, entry.offset, Some(RollReason::Hour), context);
            step.piece = empty.compressed.pack_nothing();
            step.metadata.stored_size = step.piece.len() as u64;
            Step::Create(step)
        })
    }

    /// # Errors
    /// If the head names its file for an hour that is not the record's.
    pub(super) fn check_first(
        &self,
        entry: &Entry,
        path: &LakePath,
        hour: EventHour,
    ) -> Result<(), ChainHalt> {
        if entry.hour != hour {
            // Whoever moved the head saw a record of that hour here. No writer that decides alike can see another one.
            let what = format!(
                "the head names {path} for the record at or after {}, but that is of {}: the lake was written by rules \
                 that differ from this version's, or the log changed",
                self.next(),
                entry.hour
            );
            return Err(ChainHalt::LayoutDiffers { partition: self.partition.clone(), what });
        }
        Ok(())
    }

    pub(super) fn append_step(
        &self,
        path: &LakePath,
        file: &FileState,
        batch: &Batch,
        context: &StepContext<'_>,
    ) -> Step {
        let hour = self.layout.hour_of(path).expect("the head's path was checked when it was read");
        let due = self.open_file_due(file, &context.policy, context.now);
        let recommit = |next, roll| Step::Append(self.recommit(path, &file.metadata, next, roll, context));
        match batch.pending().first() {
            Some(entry) if due.is_none() && fits(entry, hour) => {
                Step::Append(self.file_step(path, hour, &file.metadata, file.block_count(), batch, context))
            }
            Some(entry) if seeded_bug::planted(SeededBug::RollWithoutSeal) => {
                Step::WriteHead(self.head_at(file.metadata.next, entry.hour, context))
            }
            Some(entry) => recommit(entry.offset, Some(due.unwrap_or(RollReason::Hour))),
            None => {
                let roll = due.or_else(|| self.ends_with(batch, hour, context));
                if roll.is_some() || (context.publish_position && batch.end() > self.position()) {
                    recommit(batch.end(), roll)
                } else {
                    Step::Done
                }
            }
        }
    }

    /// Why the file ends where the batch does, if it does.
    pub(super) fn ends_with(
        &self,
        batch: &Batch,
        hour: EventHour,
        context: &StepContext<'_>,
    ) -> Option<RollReason> {
        let sealed = context.policy.publishing == Publishing::Sealed;
        // Of a sealed file nothing is durable before it ends, and the hour before it may wait for that.
        let waited_for = |barrier| sealed && batch.end() >= barrier && self.next() < barrier;
        let over = |over: HourEnd| over.completes(hour, batch.end()) || waited_for(over.barrier);
        if context.hour_end.is_some_and(over) {
            Some(RollReason::HourEnd)
        } else {
            (sealed && context.drain).then_some(RollReason::Drain)
        }
    }

    /// Same content, another `next`, perhaps the seal.
    pub(super) fn recommit(
        &self,
        path: &LakePath,
        before: &FileMetadata,
        next: KafkaOffset,
        roll: Option<RollReason>,
        context: &StepContext<'_>,
    ) -> FileStep {
        let metadata = FileMetadata {
            next: next.max(before.next),
            sealed: roll.is_some(),
            ..self.signed(before.clone(), context)
        };
        FileStep { path: path.clone(), piece: bytes::Bytes::new(), lines: 0, metadata, roll }
    }

    /// Whether the file that is open or staged has to end although nothing is pending.
    pub fn roll_is_due(&self, policy: &FilePolicy, now: Instant) -> bool {
        let open = self.file.as_ref().filter(|file| !is_sealed(file));
        open.is_some_and(|file| self.open_file_due(file, policy, now).is_some())
            || self.staged.as_ref().is_some_and(|staged| staged.due(policy, now).is_some())
    }

    fn open_file_due(&self, file: &FileState, policy: &FilePolicy, now: Instant) -> Option<RollReason> {
        match policy.publishing {
            Publishing::Sealed => Some(RollReason::Mode),
            Publishing::Rolling if file.metadata.line_format != policy.line_format => {
                Some(RollReason::Format)
            }
            Publishing::Rolling => roll_due(&file.metadata, file.block_count(), self.file_since, policy, now),
        }
    }

    /// As many pending records as fit the file, with the seal if it is known that the file ends there.
    pub(super) fn file_step(
        &self,
        path: &LakePath,
        hour: EventHour,
        before: &FileMetadata,
        blocks: usize,
        batch: &Batch,
        context: &StepContext<'_>,
    ) -> FileStep {
        let pending = batch.pending();
        let of_this_hour = pending.iter().position(|entry| !fits(entry, hour)).unwrap_or(pending.len());
        let room = context.policy.bytes.map(|bytes| bytes.saturating_sub(before.original_size));
        let room = room.map_or(usize::MAX, |room| usize::try_from(room).unwrap_or(usize::MAX));
        let rows = context.policy.rows.map(|rows| rows.saturating_sub(before.rows));
        let mut count = of_this_hour.min(batch.count_up_to(room)).min(batch.count_up_to_rows(rows));
        loop {
            let piece = batch.piece(count, before.last_event.as_ref());
            let next = pending.get(count).map_or(batch.end(), |entry| entry.offset);
            let mut metadata = self.extended(before, &piece, next.max(before.next), context);
            let encoded_len = metadata.encoded_len();
            if encoded_len > METADATA_LIMIT_BYTES && count > 1 {
                count /= 2;
                continue;
            }
            let reached = |bytes: u64| metadata.original_size >= bytes;
            let roll = if count == of_this_hour && count < pending.len() {
                Some(RollReason::Hour)
            } else if context.policy.bytes.is_some_and(reached) {
                Some(RollReason::Size)
            } else if context.policy.rows.is_some_and(|rows| metadata.rows >= rows) {
                Some(RollReason::Rows)
            } else if blocks + 1 >= context.policy.blocks {
                Some(RollReason::Blocks)
            } else if encoded_len > METADATA_ROLL_BYTES {
                Some(RollReason::Metadata)
            } else if count == pending.len() {
                self.ends_with(batch, hour, context)
            } else {
                None
            };
            metadata.sealed = roll.is_some() && !seeded_bug::planted(SeededBug::RollWithoutSeal);
            let mut packed = metadata.compressed.pack(&piece.bytes);
            if before.stored_size == 0 && packed.is_empty() {
                packed = metadata.compressed.pack_nothing();
            }
            metadata.stored_size += packed.len() as u64;
            let lines = piece.bytes.len() as u64;
            return FileStep { path: path.clone(), piece: packed, lines, metadata, roll };
        }
    }

    /// The metadata with the piece counted in; how many bytes the file stores of it is not known yet.
    fn extended(
        &self,
        before: &FileMetadata,
        piece: &Piece,
        next: KafkaOffset,
        context: &StepContext<'_>,
    ) -> FileMetadata {
        let mut metadata = self.signed(before.clone(), context);
        metadata.next = next;
        piece.count_into(&mut metadata);
        metadata
    }

    pub(super) fn signed(&self, metadata: FileMetadata, context: &StepContext<'_>) -> FileMetadata {
        FileMetadata {
            writer: self.writer.id,
            seq: self.seq + 1,
            processed_at: context.wall_clock,
            version: self.writer.version.to_owned(),
            ..metadata
        }
    }

    /// The metadata of the head's file before its first bytes.
    pub(super) fn empty_file(&self, path: &LakePath, context: &StepContext<'_>) -> FileMetadata {
        FileMetadata {
            topic_partition: self.partition.clone(),
            first: self.next(),
            next: self.next(),
            rows: 0,
            dead_letters: OffsetRuns::default(),
            tombstones: 0,
            sealed: false,
            writer: self.writer.id,
            seq: self.seq,
            generation: 0,
            last_event: self.head.lastevent.clone(),
            min_cluster_time: None,
            max_cluster_time: None,
            operations: std::collections::BTreeMap::new(),
            crc: LineCrc::EMPTY,
            original_size: 0,
            stored_size: 0,
            compressed: path.compression().unwrap_or_default(),
            line_format: context.policy.line_format,
            processed_at: context.wall_clock,
            layout: LAYOUT,
            version: self.writer.version.to_owned(),
        }
    }

    pub(super) fn hour_of(&self, path: &LakePath) -> Result<EventHour, ChainHalt> {
        self.layout.hour_of(path).ok_or_else(|| ChainHalt::LayoutDiffers {
            partition: self.partition.clone(),
            what: format!("the head's path {path} names no hour"),
        })
    }
}

/// Whether it may go into a file of this hour.
pub(super) fn fits(entry: &Entry, hour: EventHour) -> bool {
    entry.kind == EntryKind::DeadLetter || entry.hour == hour
}

/// Why a file ends before anything is added to it. `since`: when it was begun or adopted.
pub(crate) fn roll_due(
    metadata: &FileMetadata,
    blocks: usize,
    since: Instant,
    policy: &FilePolicy,
    now: Instant,
) -> Option<RollReason> {
    if policy.bytes.is_some_and(|bytes| metadata.original_size >= bytes) {
        Some(RollReason::Size)
    } else if policy.rows.is_some_and(|rows| metadata.rows >= rows) {
        Some(RollReason::Rows)
    } else if policy.age.is_some_and(|age| now.duration_since(since) >= age) {
        Some(RollReason::Age)
    } else if blocks >= policy.blocks {
        Some(RollReason::Blocks)
    } else if metadata.encoded_len() > METADATA_ROLL_BYTES {
        Some(RollReason::Metadata)
    } else {
        None
    }
}

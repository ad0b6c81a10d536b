//! A frozen buffer, and the pieces that appends are made of.

use std::{collections::BTreeMap, time::Instant};

use bytes::Bytes;
use shared::{cluster_time::ClusterTime, kafka_position::KafkaOffset};

use super::{DeadLetter, Entry, EntryKind, Operation};
use crate::{
    file_metadata::{FileMetadata, LastEvents, LineCrc, OffsetRuns},
    line_format::LineFormat,
};

/// Everything of one partition from some offset up to `end`, frozen.
#[derive(Debug)]
pub struct Batch {
    pub(super) format: LineFormat,
    pub(super) entries: Vec<Entry>,
    pub(super) lines: Bytes,
    pub(super) names: String,
    pub(super) dead_letters: Vec<DeadLetter>,
    /// Entries before this index are durable or staged already.
    pub(super) cut: usize,
    pub(super) start: KafkaOffset,
    pub(super) end: KafkaOffset,
    pub(super) oldest: Option<Instant>,
    pub(super) oldest_cluster_time: Option<ClusterTime>,
    pub(super) memory: usize,
}

impl Batch {
    /// Its memory, for the next buffer; `None` if the bytes are still in use, or more than `bytes_max`.
    pub fn into_spare(self, bytes_max: usize) -> Option<SpareBuffer> {
        let Self { mut entries, lines, mut names, .. } = self;
        let mut lines = lines.try_into_mut().ok()?;
        if lines.is_empty() || lines.capacity() > bytes_max {
            return None;
        }
        entries.clear();
        names.clear();
        lines.clear();
        Some(SpareBuffer { entries, lines: lines.into(), names })
    }

    /// Of all its lines.
    pub fn format(&self) -> LineFormat {
        self.format
    }

    /// Where it begins: nothing between here and its first record is missing.
    pub fn start(&self) -> KafkaOffset {
        self.start
    }

    /// The consumer's position after the last record, exclusive.
    pub fn end(&self) -> KafkaOffset {
        self.end
    }

    /// When the oldest of its records was read.
    pub fn oldest(&self) -> Option<Instant> {
        self.oldest
    }

    /// The cluster time of the first record that had one, from freezing to the end.
    pub fn oldest_cluster_time(&self) -> Option<ClusterTime> {
        self.oldest_cluster_time
    }

    /// Memory that it takes, from freezing to the end.
    pub fn memory(&self) -> usize {
        self.memory
    }

    pub fn dead_letters(&self) -> &[DeadLetter] {
        &self.dead_letters
    }

    /// Only what lies at or behind `next` is pending. May go back: what was staged can be lost.
    pub fn go_on_from(&mut self, next: KafkaOffset) {
        self.cut = self.entries.partition_point(|entry| entry.offset < next);
    }

    /// What is neither durable nor staged yet, in order.
    pub fn pending(&self) -> &[Entry] {
        &self.entries[self.cut..]
    }

    /// How many of the pending entries make a piece of about `bytes_max` bytes: as many as it takes to reach it.
    pub fn count_up_to(&self, bytes_max: usize) -> usize {
        let start = self.line_start(self.cut);
        let below = self.pending().partition_point(|entry| entry.line_end - start < bytes_max);
        (below + 1).min(self.pending().len())
    }

    /// How many of the pending entries hold at most this many rows, tombstones and dead letters behind the last one included; all if `None`.
    pub fn count_up_to_rows(&self, rows_max: Option<u64>) -> usize {
        let Some(rows_max) = rows_max else { return self.pending().len() };
        let mut rows = 0;
        let too_many = self.pending().iter().position(|entry| {
            rows += u64::from(matches!(entry.kind, EntryKind::Row(_)));
            rows > rows_max
        });
        too_many.unwrap_or(self.pending().len())
    }

    /// The first `count` pending entries as one append. `before` are the last events before them, as the file's metadata has them.
    pub fn piece(&self, count: usize, before: Option<&LastEvents>) -> Piece {
        let entries = &self.pending()[..count];
        let mut piece = Piece { last_event: before.cloned(), ..Piece::default() };
        // Of a run of one source's events only the last is known afterwards.
        let mut run: Option<(&str, &str)> = None;
        for (index, entry) in entries.iter().enumerate() {
            if let Some((event_id, source)) = self.event_of(self.cut + index) {
                if let Some((last, of)) = run.filter(|(_, of)| *of != source) {
                    LastEvents::take(&mut piece.last_event, last, of);
                }
                run = Some((event_id, source));
            }
            match entry.kind {
                EntryKind::Row(operation) => {
                    piece.rows += 1;
                    *piece.operations.entry(operation).or_default() += 1;
                }
                EntryKind::Tombstone => piece.tombstones += 1,
                EntryKind::DeadLetter => piece.dead_letters.push(entry.offset),
            }
            if let (Some(time), EntryKind::Row(_)) = (entry.cluster_time, entry.kind) {
                piece.min_cluster_time = Some(piece.min_cluster_time.map_or(time, |min| min.min(time)));
                piece.max_cluster_time = Some(piece.max_cluster_time.map_or(time, |max| max.max(time)));
            }
        }
        if let Some((event_id, source)) = run {
            LastEvents::take(&mut piece.last_event, event_id, source);
        }
        piece.bytes = self.lines.slice(self.line_start(self.cut)..self.line_start(self.cut + count));
        piece.crc = LineCrc::of(&piece.bytes);
        piece
    }

    /// Id and source, if it is an event.
    fn event_of(&self, index: usize) -> Option<(&str, &str)> {
        let entry = &self.entries[index];
        let start = index.checked_sub(1).map_or(0, |before| self.entries[before].source_end);
        let event_id = &self.names[start..entry.event_id_end];
        let source = &self.names[entry.event_id_end..entry.source_end];
        (!event_id.is_empty()).then_some((event_id, source))
    }

    fn line_start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.entries[before].line_end)
    }
}

/// Empty vectors that have room.
pub struct SpareBuffer {
    pub(super) entries: Vec<Entry>,
    pub(super) lines: Vec<u8>,
    pub(super) names: String,
}

impl SpareBuffer {
    /// Memory that it takes: the memory limit counts it.
    pub fn memory(&self) -> usize {
        self.lines.capacity() + self.names.capacity() + self.entries.capacity() * size_of::<Entry>()
    }
}

/// What one append adds to a file.
#[derive(Debug, Default)]
pub struct Piece {
    pub bytes: Bytes,
    pub crc: LineCrc,
    pub rows: u64,
    pub tombstones: u64,
    pub dead_letters: OffsetRuns,
    pub operations: BTreeMap<Operation, u64>,
    pub min_cluster_time: Option<ClusterTime>,
    pub max_cluster_time: Option<ClusterTime>,
    /// The last events behind it, those before it included.
    pub last_event: Option<LastEvents>,
}

impl Piece {
    /// Counts it into the metadata of the file that it is appended to, whose last events it was made with. What the file stores of it is the caller's to say.
    pub fn count_into(&self, metadata: &mut FileMetadata) {
        metadata.rows += self.rows;
        metadata.tombstones += self.tombstones;
        for offset in self.dead_letters.iter() {
            metadata.dead_letters.push(offset);
        }
        for (operation, count) in &self.operations {
            *metadata.operations.entry(operation.as_str().to_owned()).or_default() += count;
        }
        metadata.last_event.clone_from(&self.last_event);
        // `None` sorts before every time, so it has to be left out of the minimum.
        metadata.min_cluster_time = metadata.min_cluster_time.into_iter().chain(self.min_cluster_time).min();
        metadata.max_cluster_time = metadata.max_cluster_time.max(self.max_cluster_time);
        let bytes = self.bytes.len() as u64;
        metadata.crc = metadata.crc.followed_by(self.crc, bytes);
        metadata.original_size += bytes;
    }
}

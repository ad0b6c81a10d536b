//! Records of one partition that were read and are not yet durable.
//!
//! [`Buffer`] grows as the consumer polls: lines are appended to one byte vector, and a small [`Entry`] per record says
//! where each ends. Nothing is allocated per record. [`Buffer::freeze`] turns it into a [`Batch`], which the chain cuts
//! into appends: at the front, where somebody else's commit already covers it, and at the back, where a file ends.

use std::{collections::BTreeMap, time::Instant};

use bytes::Bytes;
use shared::{
    cluster_time::ClusterTime,
    dead_letter::DeadLetterReason,
    kafka_position::{KafkaOffset, TopicPartition},
    wire::member,
};

use crate::{
    event_hour::EventHour,
    file_metadata::{LastEvent, LineCrc, OffsetRuns},
    record::{Inspected, RecordView, Verdict},
};

/// One record's share of a buffer.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub offset: KafkaOffset,
    pub hour: EventHour,
    pub kind: EntryKind,
    cluster_time: Option<ClusterTime>,
    /// End of the line in the bytes; that of the entry before if there is no line.
    line_end: usize,
    /// End of the event id, then of the source, in the names.
    event_id_end: usize,
    source_end: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    Row(Operation),
    Tombstone,
    DeadLetter,
}

/// An operation as the file metadata counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Insert,
    Update,
    Replace,
    Delete,
    /// A foreign producer's, or none named.
    Other,
}

impl Operation {
    fn of_header(text: Option<&str>) -> Self {
        match text {
            Some("insert") => Self::Insert,
            Some("update") => Self::Update,
            Some("replace") => Self::Replace,
            Some("delete") => Self::Delete,
            _ => Self::Other,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::Other => "other",
        }
    }
}

/// A record on its way to the dead-letter topic, as it came.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    pub offset: KafkaOffset,
    pub reason: DeadLetterReason,
    pub error: String,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub timestamp: Option<i64>,
}

impl DeadLetter {
    fn size(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len)).sum();
        self.key.as_ref().map_or(0, Vec::len)
            + self.value.as_ref().map_or(0, Vec::len)
            + headers
            + self.error.len()
    }
}

/// Grows record by record. See the module's picture.
pub struct Buffer {
    /// `,"_kafka":{"topic":…,"partition":…,"offset":`, the same for every line of a partition.
    kafka_member: Vec<u8>,
    entries: Vec<Entry>,
    lines: Vec<u8>,
    names: Vec<u8>,
    dead_letters: Vec<DeadLetter>,
    dead_letter_bytes: usize,
    oldest: Option<Instant>,
}

impl Buffer {
    pub fn new(partition: &TopicPartition) -> Self {
        let topic = serde_json::to_string(&*partition.topic).expect("a string is JSON");
        let kafka_member = format!(
            "\"{}\":{{\"topic\":{topic},\"partition\":{},\"offset\":",
            member::KAFKA,
            partition.partition
        );
        Self {
            kafka_member: kafka_member.into_bytes(),
            entries: Vec::new(),
            lines: Vec::new(),
            names: Vec::new(),
            dead_letters: Vec::new(),
            dead_letter_bytes: 0,
            oldest: None,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Records in it, tombstones and dead letters included.
    pub fn records(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of lines and dead letters in it: the flush size counts them.
    pub fn size(&self) -> usize {
        self.lines.len() + self.dead_letter_bytes
    }

    /// Memory that it takes, spare room of its vectors included: the memory limit counts it.
    pub fn memory(&self) -> usize {
        let entries = self.entries.capacity() * size_of::<Entry>();
        self.lines.capacity() + self.names.capacity() + self.dead_letter_bytes + entries
    }

    /// When the oldest record in it was read.
    pub fn oldest(&self) -> Option<Instant> {
        self.oldest
    }

    /// Forgets everything: it will be read again.
    pub fn discard(&mut self) {
        // The memory too: it counts against the limit.
        self.entries = Vec::new();
        self.lines = Vec::new();
        self.names = Vec::new();
        self.dead_letters = Vec::new();
        self.dead_letter_bytes = 0;
        self.oldest = None;
    }

    /// Adds a record that is a line or a tombstone. Dead letters go through [`Self::push_dead_letter`].
    pub fn push(
        &mut self,
        offset: KafkaOffset,
        record: &RecordView<'_>,
        inspected: &Inspected<'_>,
        now: Instant,
    ) {
        let kind = match inspected.verdict {
            Verdict::Line { body, empty_object, has_line_breaks } => {
                self.push_line(offset, record.timestamp, body, empty_object, has_line_breaks);
                EntryKind::Row(Operation::of_header(record.operation))
            }
            Verdict::Tombstone => EntryKind::Tombstone,
            Verdict::DeadLetter { .. } => unreachable!("dead letters are pushed with their record"),
        };
        self.names.extend_from_slice(record.event_id.unwrap_or_default().as_bytes());
        let event_id_end = self.names.len();
        self.names.extend_from_slice(record.source.unwrap_or_default().as_bytes());
        self.push_entry(offset, inspected.hour, kind, inspected.cluster_time, event_id_end, now);
    }

    pub fn push_dead_letter(&mut self, letter: DeadLetter, hour: EventHour, now: Instant) {
        let offset = letter.offset;
        self.dead_letter_bytes += letter.size();
        self.dead_letters.push(letter);
        self.push_entry(offset, hour, EntryKind::DeadLetter, None, self.names.len(), now);
    }

    fn push_entry(
        &mut self,
        offset: KafkaOffset,
        hour: EventHour,
        kind: EntryKind,
        cluster_time: Option<ClusterTime>,
        event_id_end: usize,
        now: Instant,
    ) {
        debug_assert!(
            self.entries.last().is_none_or(|last| last.offset < offset),
            "offsets rise within a partition"
        );
        self.oldest.get_or_insert(now);
        self.entries.push(Entry {
            offset,
            hour,
            kind,
            cluster_time,
            line_end: self.lines.len(),
            event_id_end,
            source_end: self.names.len(),
        });
    }

    fn push_line(
        &mut self,
        offset: KafkaOffset,
        timestamp: Option<i64>,
        body: &[u8],
        empty: bool,
        line_breaks: bool,
    ) {
        let start = self.lines.len();
        self.lines.extend_from_slice(body);
        if line_breaks {
            for byte in &mut self.lines[start..] {
                if matches!(byte, b'\n' | b'\r') {
                    *byte = b' ';
                }
            }
        }
        if !empty {
            self.lines.push(b',');
        }
        self.lines.extend_from_slice(&self.kafka_member);
        let mut digits = itoa::Buffer::new();
        self.lines.extend_from_slice(digits.format(offset.get()).as_bytes());
        self.lines.extend_from_slice(b",\"timestamp\":");
        let timestamp = timestamp.map_or("null", |timestamp| digits.format(timestamp));
        self.lines.extend_from_slice(timestamp.as_bytes());
        self.lines.extend_from_slice(b"}}\n");
    }

    /// Goes on in the memory of a batch that is done with: fresh memory costs a page fault for every 4 KiB.
    pub fn reuse(&mut self, spare: SpareBuffer) {
        if self.lines.capacity() == 0 && self.is_empty() {
            (self.entries, self.lines, self.names) = (spare.entries, spare.lines, spare.names);
        }
    }

    /// Takes everything out, as the batch of all there is from `start` to `end`: where the batch before it ended, and
    /// the consumer's position, markers included. It ends behind the last record in any case.
    pub fn freeze(&mut self, start: KafkaOffset, end: KafkaOffset) -> Batch {
        let end = self.entries.last().map_or(end, |last| end.max(last.offset.after()));
        let oldest = self.oldest.take();
        let memory = self.memory();
        let oldest_cluster_time = self.entries.iter().find_map(|entry| entry.cluster_time);
        self.dead_letter_bytes = 0;
        Batch {
            entries: std::mem::take(&mut self.entries),
            lines: Bytes::from(std::mem::take(&mut self.lines)),
            names: std::mem::take(&mut self.names),
            dead_letters: std::mem::take(&mut self.dead_letters),
            cut: 0,
            start,
            end,
            oldest,
            oldest_cluster_time,
            memory,
        }
    }
}

/// Everything of one partition from some offset up to `end`, frozen.
#[derive(Debug)]
pub struct Batch {
    entries: Vec<Entry>,
    lines: Bytes,
    names: Vec<u8>,
    dead_letters: Vec<DeadLetter>,
    /// Entries before this index are durable already.
    cut: usize,
    start: KafkaOffset,
    end: KafkaOffset,
    oldest: Option<Instant>,
    oldest_cluster_time: Option<ClusterTime>,
    memory: usize,
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

    /// Forgets what lies before `next`, because it is durable.
    pub fn cut_before(&mut self, next: KafkaOffset) {
        self.cut += self.pending().partition_point(|entry| entry.offset < next);
    }

    /// What is not durable yet, in order.
    pub fn pending(&self) -> &[Entry] {
        &self.entries[self.cut..]
    }

    /// How many of the pending entries make a piece of about `bytes_max` bytes: as many as it takes to reach it.
    pub fn count_up_to(&self, bytes_max: usize) -> usize {
        let start = self.line_start(self.cut);
        let below = self.pending().partition_point(|entry| entry.line_end - start < bytes_max);
        (below + 1).min(self.pending().len())
    }

    /// The first `count` pending entries as one append.
    pub fn piece(&self, count: usize) -> Piece {
        let entries = &self.pending()[..count];
        let mut piece = Piece::default();
        for entry in entries {
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
        let last_row = entries.iter().rposition(|entry| matches!(entry.kind, EntryKind::Row(_)));
        piece.last_event = last_row.and_then(|index| self.event_of(self.cut + index));
        piece.bytes = self.lines.slice(self.line_start(self.cut)..self.line_start(self.cut + count));
        piece.crc = LineCrc::of(&piece.bytes);
        piece
    }

    fn event_of(&self, index: usize) -> Option<LastEvent> {
        let entry = &self.entries[index];
        let start = index.checked_sub(1).map_or(0, |before| self.entries[before].source_end);
        let text =
            |range: std::ops::Range<usize>| std::str::from_utf8(&self.names[range]).expect("names were text");
        let event_id = text(start..entry.event_id_end);
        let source = text(entry.event_id_end..entry.source_end);
        (!event_id.is_empty()).then(|| LastEvent::new(event_id, source))
    }

    fn line_start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.entries[before].line_end)
    }
}

/// Empty vectors that have room.
pub struct SpareBuffer {
    entries: Vec<Entry>,
    lines: Vec<u8>,
    names: Vec<u8>,
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
    pub last_event: Option<LastEvent>,
}

#[cfg(test)]
mod tests {
    use shared::namespace::Namespace;

    use super::*;
    use crate::record::inspect;

    fn record<'a>(value: &'a str, event_id: &'a str) -> RecordView<'a> {
        RecordView {
            value: Some(value.as_bytes()),
            timestamp: Some(1_755_900_000_000),
            cluster_time: Some("1755900000.3"),
            database: Some("shop"),
            collection: Some("orders"),
            operation: Some("insert"),
            event_id: Some(event_id),
            source: Some("default/1"),
        }
    }

    fn buffer_of(values: &[&str]) -> Buffer {
        let mut buffer = Buffer::new(&TopicPartition::new("atlas.shop.orders", 1));
        for (index, value) in values.iter().enumerate() {
            let offset = KafkaOffset::new(10 + index as u64);
            let id = format!("id{index}");
            let record = record(value, &id);
            let inspected = inspect(&record, &Namespace::new("shop", "orders"), 1024);
            buffer.push(offset, &record, &inspected, Instant::now());
        }
        buffer
    }

    #[test]
    fn the_line_is_the_value_with_kafka_as_its_last_member() {
        let batch = buffer_of(&["{\"a\":1,\r\n\"b\":2} ", "{}", "{ }"])
            .freeze(KafkaOffset::new(10), KafkaOffset::new(13));
        let kafka = |offset| {
            format!(
                "\"_kafka\":{{\"topic\":\"atlas.shop.orders\",\"partition\":1,\"offset\":{offset},\"timestamp\":1755900000000}}}}\n"
            )
        };
        let expected = format!("{{\"a\":1,  \"b\":2,{}{{{}{{ {}", kafka(10), kafka(11), kafka(12));
        assert_eq!(batch.piece(3).bytes, expected.as_bytes());
    }

    #[test]
    fn a_record_without_timestamp_has_null() {
        let mut buffer = Buffer::new(&TopicPartition::new("t", 0));
        let mut record = record("{}", "");
        record.timestamp = None;
        let inspected = inspect(&record, &Namespace::new("shop", "orders"), 1024);
        buffer.push(KafkaOffset::ZERO, &record, &inspected, Instant::now());
        let piece = buffer.freeze(KafkaOffset::new(10), KafkaOffset::new(1)).piece(1);
        assert_eq!(
            piece.bytes,
            &b"{\"_kafka\":{\"topic\":\"t\",\"partition\":0,\"offset\":0,\"timestamp\":null}}\n"[..]
        );
        assert_eq!(piece.last_event, None);
    }

    #[test]
    fn pieces_join_to_the_whole() {
        let values = ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"];
        let whole = buffer_of(&values).freeze(KafkaOffset::new(10), KafkaOffset::new(13)).piece(3);
        for count in 0..=3 {
            let mut batch = buffer_of(&values).freeze(KafkaOffset::new(10), KafkaOffset::new(13));
            let head = batch.piece(count);
            batch.cut_before(KafkaOffset::new(10 + count as u64));
            assert_eq!(batch.pending().len(), 3 - count);
            let tail = batch.piece(3 - count);
            assert_eq!([&head.bytes[..], &tail.bytes[..]].concat(), whole.bytes);
            assert_eq!(head.crc.followed_by(tail.crc, tail.bytes.len() as u64), whole.crc);
            assert_eq!(head.rows + tail.rows, 3);
        }
        assert_eq!(whole.last_event, Some(LastEvent::new("id2", "default/1")));
        assert_eq!(whole.operations, BTreeMap::from([(Operation::Insert, 3)]));
    }

    #[test]
    fn a_piece_reaches_its_size_and_stops() {
        let batch = buffer_of(&["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"])
            .freeze(KafkaOffset::new(10), KafkaOffset::new(13));
        let line = batch.piece(1).bytes.len();
        assert_eq!(batch.count_up_to(1), 1);
        assert_eq!(batch.count_up_to(line), 1);
        assert_eq!(batch.count_up_to(line + 1), 2);
        assert_eq!(batch.count_up_to(usize::MAX), 3);
    }

    #[test]
    fn a_batch_gives_its_memory_back_empty() {
        let batch = buffer_of(&["{\"a\":1}"]).freeze(KafkaOffset::new(10), KafkaOffset::new(11));
        let piece = batch.piece(1);
        assert!(batch.into_spare(usize::MAX).is_none(), "the piece still uses it");
        drop(piece);
        let batch = buffer_of(&["{\"a\":1}"]).freeze(KafkaOffset::new(10), KafkaOffset::new(11));
        let spare = batch.into_spare(usize::MAX).expect("nobody else has it");
        let mut buffer = buffer_of(&[]);
        buffer.reuse(spare);
        assert!(buffer.is_empty() && buffer.size() == 0 && buffer.memory() > 0);
        let batch = buffer_of(&["{\"a\":1}"]).freeze(KafkaOffset::new(10), KafkaOffset::new(11));
        assert!(batch.into_spare(1).is_none(), "too large to be kept");
    }

    #[test]
    fn freezing_empties_the_buffer() {
        let mut buffer = buffer_of(&["{}"]);
        assert!(buffer.size() > 0 && buffer.oldest().is_some());
        let batch = buffer.freeze(KafkaOffset::new(10), KafkaOffset::new(11));
        assert!(batch.memory() > 0 && batch.oldest().is_some());
        assert!(buffer.is_empty() && buffer.size() == 0 && buffer.oldest().is_none());
    }
}

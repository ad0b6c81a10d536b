//! Records of one partition that were read and are not yet durable.
//!
//! [`Buffer`] grows as the consumer polls: lines are appended to one byte vector, and a small [`Entry`] per record says
//! where each ends. Nothing is allocated per record. [`Buffer::freeze`] turns it into a [`Batch`], which the chain cuts
//! into appends: at the front, where somebody else's commit already covers it, and at the back, where a file ends.

mod batch;
#[cfg(test)]
mod tests;

use std::time::Instant;

use bytes::Bytes;
use shared::{
    cluster_time::ClusterTime,
    dead_letter::DeadLetterReason,
    kafka_position::{KafkaOffset, TopicPartition},
    wire::member,
};

pub use self::batch::{Batch, Piece, SpareBuffer};
use crate::{
    event_hour::EventHour,
    line_format::{LineFormat, write_flat},
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
    /// End of the event id, then of the source, in the names; nothing there if it is no event ([`Inspected::event`]).
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
    pub fn of_header(text: Option<&str>) -> Self {
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
    /// One that is in the dead-letter topic already: only that it is one is still of interest.
    pub fn noted(offset: KafkaOffset, reason: DeadLetterReason) -> Self {
        let (key, value, headers, timestamp) = (None, None, Vec::new(), None);
        Self { offset, reason, error: String::new(), key, value, headers, timestamp }
    }

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
    format: LineFormat,
    /// `,"_kafka":{"topic":…,"partition":…,"offset":`, the same for every line of a partition.
    kafka_member: Vec<u8>,
    entries: Vec<Entry>,
    lines: Vec<u8>,
    names: String,
    dead_letters: Vec<DeadLetter>,
    dead_letter_bytes: usize,
    oldest: Option<Instant>,
}

impl Buffer {
    pub fn new(partition: &TopicPartition, format: LineFormat) -> Self {
        let topic = serde_json::to_string(&*partition.topic).expect("a string is JSON");
        let kafka_member = format!(
            "\"{}\":{{\"topic\":{topic},\"partition\":{},\"offset\":",
            member::KAFKA,
            partition.partition
        );
        Self {
            format,
            kafka_member: kafka_member.into_bytes(),
            entries: Vec::new(),
            lines: Vec::new(),
            names: String::new(),
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

    /// The offset of the last record in it.
    pub fn last(&self) -> Option<KafkaOffset> {
        self.entries.last().map(|entry| entry.offset)
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
        self.names = String::new();
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
            Verdict::Line { object, empty_object, has_line_breaks } => {
                self.push_line(offset, record.timestamp, object, empty_object, has_line_breaks);
                EntryKind::Row(Operation::of_header(record.operation))
            }
            Verdict::Tombstone => EntryKind::Tombstone,
            Verdict::DeadLetter { .. } => unreachable!("dead letters are pushed with their record"),
        };
        let event_id_end = self.push_event(inspected.event);
        self.push_entry(offset, inspected.hour, kind, inspected.cluster_time, event_id_end, now);
    }

    /// `event` as [`Inspected::event`] has it.
    pub fn push_dead_letter(
        &mut self,
        letter: DeadLetter,
        hour: EventHour,
        event: Option<(&str, &str)>,
        now: Instant,
    ) {
        let offset = letter.offset;
        self.dead_letter_bytes += letter.size();
        self.dead_letters.push(letter);
        let event_id_end = self.push_event(event);
        self.push_entry(offset, hour, EntryKind::DeadLetter, None, event_id_end, now);
    }

    /// Where the id ends in the names.
    fn push_event(&mut self, event: Option<(&str, &str)>) -> usize {
        let (event_id, source) = event.unwrap_or_default();
        self.names.push_str(event_id);
        let event_id_end = self.names.len();
        self.names.push_str(source);
        event_id_end
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
        object: &str,
        empty: bool,
        line_breaks: bool,
    ) {
        let start = self.lines.len();
        let has_members = match self.format {
            LineFormat::Envelope => {
                self.lines.extend_from_slice(&object.as_bytes()[..object.len() - 1]);
                !empty
            }
            LineFormat::Flat => write_flat(object, &mut self.lines),
        };
        if line_breaks {
            for byte in &mut self.lines[start..] {
                if matches!(byte, b'\n' | b'\r') {
                    *byte = b' ';
                }
            }
        }
        if has_members {
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
            format: self.format,
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

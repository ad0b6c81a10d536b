//! Records of Kafka and lines of the lake, side by side.

use std::collections::BTreeMap;

use rdkafka::{
    Message,
    message::{BorrowedMessage, Headers},
};
use shared::{cluster_time::ClusterTime, kafka_position::KafkaOffset, wire::header};

use super::{
    expected_line::is_line_of,
    walk::{EventIds, Walk},
};
use crate::{
    buffer::Operation,
    event_hour::EventHour,
    file_lines::FileLines,
    file_metadata::{FileMetadata, LastEvent, LastEvents, LineCrcBuilder, SOURCES_MAX},
    lake::ListedFile,
    lake_layout::OpenLake,
    lake_path::LakePath,
    look_again::look_again,
    look_error::LookError,
    partition::view_of,
    record::Verdict,
    record_reader::RecordReader,
    repeats::RepeatFilter,
    topic_content::TopicContent,
};

/// Records and lines, side by side.
pub(super) struct Comparison<'a> {
    lake: &'a OpenLake,
    content: &'a TopicContent,
    files: std::collections::VecDeque<ListedFile>,
    open: Option<OpenFile<'a>>,
    walk: &'a mut Walk,
    events: &'a mut EventIds,
    repeats: RepeatFilter,
    /// The same if letters that could be rows by now are events too. Those of the schema check are; of another, such as one in Avro whose schema was not
    /// known then, they are not. The chain does not say which, so both are right.
    repeats_of_letters: RepeatFilter,
    /// Of these letters.
    letters: EventIds,
    /// Every record of the chain so far was compared: an event that is repeated must be in `events`.
    from_the_start: bool,
    /// The first event of each source that was compared, else: one that is not before it must be there too.
    first_events: Vec<LastEvent>,
}

/// The file whose lines are being read.
struct OpenFile<'a> {
    path: LakePath,
    hour: Option<EventHour>,
    metadata: FileMetadata,
    lines: FileLines<'a>,
    crc: LineCrcBuilder,
    rows: u64,
    size: u64,
    records: RecordFacts,
    /// Some of its offsets Kafka no longer has: what its records were is not known.
    unconfirmed: bool,
}

/// What the metadata says of a file's records beyond its lines, counted from Kafka.
#[derive(Debug, Default, PartialEq, Eq)]
struct RecordFacts {
    tombstones: u64,
    operations: BTreeMap<String, u64>,
    min_cluster_time: Option<ClusterTime>,
    max_cluster_time: Option<ClusterTime>,
}

impl RecordFacts {
    fn of(metadata: &FileMetadata) -> Self {
        Self {
            tombstones: metadata.tombstones,
            operations: metadata.operations.clone(),
            min_cluster_time: metadata.min_cluster_time,
            max_cluster_time: metadata.max_cluster_time,
        }
    }

    fn add_row(&mut self, operation: Operation, time: Option<ClusterTime>) {
        match self.operations.get_mut(operation.as_str()) {
            Some(count) => *count += 1,
            None => {
                self.operations.insert(operation.as_str().to_owned(), 1);
            }
        }
        // `None` sorts before every time, so it has to be left out of the minimum.
        self.min_cluster_time = self.min_cluster_time.into_iter().chain(time).min();
        self.max_cluster_time = self.max_cluster_time.max(time);
    }
}

impl<'a> Comparison<'a> {
    /// `files` are the chain's, in its order; `before` are the last events before them.
    pub(super) fn new(
        lake: &'a OpenLake,
        content: &'a TopicContent,
        files: Vec<ListedFile>,
        before: Option<&LastEvents>,
        from_the_start: bool,
        walk: &'a mut Walk,
        events: &'a mut EventIds,
    ) -> Self {
        Self {
            lake,
            content,
            files: files.into(),
            open: None,
            walk,
            events,
            repeats: RepeatFilter::after(before),
            repeats_of_letters: RepeatFilter::after(before),
            letters: EventIds::default(),
            from_the_start,
            first_events: Vec::new(),
        }
    }

    /// Compares one record with the line at its offset.
    pub(super) async fn take(
        &mut self,
        message: &BorrowedMessage<'_>,
        records: &mut RecordReader,
    ) -> Result<(), LookError> {
        let Some(offset) = KafkaOffset::from_kafka(message.offset()) else { return Ok(()) };
        self.open_at(offset).await?;
        let record = view_of(message);
        let inspected = records.inspect(&record, message.topic(), self.content).await;
        let inspected = inspected.map_err(LookError::Stop)?;
        let Some(file) = &mut self.open else {
            self.walk.differs(format!("no file holds offset {offset}"));
            return Ok(());
        };
        if file.metadata.first > offset {
            // A gap that the chain's check has shown already.
            return Ok(());
        }
        let found = file.lines.next_at(offset).await?;
        for extra in found.before {
            self.walk
                .differs(format!("{}: a line at offset {extra} that is no record of Kafka's", file.path));
        }
        let is_letter = file.metadata.dead_letters.contains(offset);
        let repeats_any = self.repeats_of_letters.passes_over(&inspected);
        if is_letter {
            if let Some((id, source)) = inspected.event {
                self.letters.insert(message.topic(), (id.as_bytes(), source.as_bytes()));
            }
        } else if self.repeats.passes_over(&inspected) || repeats_any && found.line.is_none() {
            self.walk.result.repeats += 1;
            if let Some(line) = found.line {
                file.count(&line);
                let path = &file.path;
                self.walk.differs(format!("{path}: offset {offset} repeats an event, and has a line"));
            } else if let Some((id, source)) = inspected.event
                && matches!(inspected.verdict, Verdict::Line { .. })
                && (self.from_the_start
                    || self.first_events.iter().any(|first| first.is_known_before(id, source)))
                && ![&*self.events, &self.letters]
                    .iter()
                    .any(|seen| seen.contains(message.topic(), (id.as_bytes(), source.as_bytes())))
            {
                let path = &file.path;
                self.walk.differs(format!("{path}: offset {offset} repeats an event that is nowhere else"));
            }
            return Ok(());
        }
        // Which of the records that Kafka no longer has was an event is not known; the file's last ones are.
        let may_repeat = file.unconfirmed
            && (inspected.event.zip(file.metadata.last_event.as_ref()))
                .is_some_and(|((id, source), last)| last.hold(id, source));
        if may_repeat && found.line.is_none() && !is_letter {
            self.walk.result.repeats += 1;
            return Ok(());
        }
        match &inspected.verdict {
            Verdict::Line { .. } if is_letter => {}
            Verdict::Line { .. } => {
                file.records.add_row(Operation::of_header(record.operation), inspected.cluster_time);
            }
            Verdict::Tombstone => file.records.tombstones += 1,
            Verdict::DeadLetter { .. } => {}
        }
        match (inspected.verdict, found.line) {
            (Verdict::Line { .. }, None) if is_letter => {}
            (Verdict::Line { .. }, None) => {
                self.walk.differs(format!("{}: offset {offset} has no line", file.path));
            }
            (Verdict::Line { object, empty_object, .. }, Some(line)) => {
                file.count(&line);
                if !is_line_of(&line, object, empty_object, file.metadata.line_format, message) {
                    self.walk
                        .differs(format!("{}: the line at offset {offset} is not the record's", file.path));
                }
                if file.hour != Some(inspected.hour) {
                    let path = &file.path;
                    self.walk.differs(format!("{path}: offset {offset} happened at {}", inspected.hour));
                }
                if let Some((id, source)) = inspected.event
                    && self.first_events.len() < SOURCES_MAX
                    && !self.first_events.iter().any(|first| first.source() == source)
                {
                    self.first_events.push(LastEvent::new(id, source));
                }
                if let Some(id) = event_id(message)
                    && !self.events.insert(message.topic(), id)
                {
                    self.walk.comes_again(&file.path, offset, record.snapshot);
                }
            }
            (Verdict::Tombstone, None) => {}
            (Verdict::DeadLetter { .. }, None) if is_letter => {}
            (Verdict::DeadLetter { reason, .. }, None) => {
                let reason = reason.as_str();
                self.walk.differs(format!(
                    "{}: offset {offset} ({reason}) is neither line nor dead letter",
                    file.path
                ));
            }
            (Verdict::Tombstone | Verdict::DeadLetter { .. }, Some(line)) => {
                file.count(&line);
                self.walk.differs(format!("{}: offset {offset} cannot be a line, but is one", file.path));
            }
        }
        Ok(())
    }

    /// Opens the file that holds `offset`; closes those before it.
    async fn open_at(&mut self, offset: KafkaOffset) -> Result<(), LookError> {
        while self.open.as_ref().is_none_or(|file| file.metadata.next <= offset) {
            self.close().await?;
            if !self.open_next().await? {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn open_next(&mut self) -> Result<bool, LookError> {
        let Some(listed) = self.files.pop_front() else { return Ok(false) };
        // The state that was listed, even if the file has grown since.
        let Some(state) = look_again(async || self.lake.file(&listed.path).await).await? else {
            self.walk.differs(format!("{} is gone", listed.path));
            return Ok(true);
        };
        let reader = self.lake.read_file(&listed.path, &state).await?;
        self.open = Some(OpenFile {
            hour: self.lake.hour_of(&listed.path.in_the_chain()),
            lines: FileLines::new(reader, listed.path.clone(), &listed.metadata),
            path: listed.path,
            metadata: listed.metadata,
            crc: LineCrcBuilder::new(),
            rows: 0,
            size: 0,
            records: RecordFacts::default(),
            unconfirmed: false,
        });
        Ok(true)
    }

    /// Reads what Kafka no longer has: offsets must rise within the file's range, lines must be JSON objects.
    pub(super) async fn read_alone_until(&mut self, end: KafkaOffset) -> Result<(), LookError> {
        while self.files.front().is_some_and(|file| file.metadata.first < end) {
            if !self.open_next().await? {
                break;
            }
            let Some(file) = &mut self.open else { continue };
            file.unconfirmed = true;
            (self.repeats, self.repeats_of_letters) = (RepeatFilter::default(), RepeatFilter::default());
            self.from_the_start = false;
            let until = end.min(file.metadata.next);
            while let Some((offset, line)) = file.lines.next_before(until).await? {
                file.count(&line);
                self.walk.result.unconfirmed += 1;
                if offset.is_none_or(|offset| offset < file.metadata.first) {
                    self.walk.differs(format!("{}: a line that is not of the file's offsets", file.path));
                }
            }
            if file.metadata.next > end {
                break;
            }
            self.close().await?;
        }
        Ok(())
    }

    pub(super) async fn finish(mut self) -> Result<(), LookError> {
        loop {
            self.close().await?;
            if !self.open_next().await? {
                return Ok(());
            }
        }
    }

    /// Everything of the file has been read: does it agree with what its metadata says?
    async fn close(&mut self) -> Result<(), LookError> {
        let Some(mut file) = self.open.take() else { return Ok(()) };
        while let Some((offset, line)) = file.lines.next_before(KafkaOffset::new(u64::MAX)).await? {
            file.count(&line);
            let at = offset.map_or_else(|| "no offset".to_owned(), |offset| format!("offset {offset}"));
            self.walk.differs(format!("{}: a line with {at} that is no record of Kafka's", file.path));
        }
        let OpenFile { path, metadata, crc, rows, size, records, .. } = &file;
        let found = [self.repeats.last(), self.repeats_of_letters.last()];
        if !file.unconfirmed && !are_among(metadata.last_event.as_ref(), &found) {
            self.walk.differs(format!("{path} ends with another event than its metadata says"));
        }
        self.repeats = RepeatFilter::after(metadata.last_event.as_ref());
        self.repeats_of_letters = self.repeats.clone();
        let said = RecordFacts::of(metadata);
        if !file.unconfirmed && *records != said {
            self.walk.differs(format!("{path} is of {records:?}, its metadata says {said:?}"));
        }
        if *rows != metadata.rows {
            self.walk.differs(format!("{path} has {rows} rows, its metadata says {}", metadata.rows));
        }
        if *size != metadata.original_size {
            self.walk.differs(format!(
                "{path} has {size} bytes of lines, its metadata says {}",
                metadata.original_size
            ));
        }
        let crc = crc.finish();
        if crc != metadata.crc {
            self.walk.differs(format!("{path} has checksum {crc}, its metadata says {}", metadata.crc));
        }
        if file.lines.ends_without_newline() {
            self.walk.differs(format!("{path} does not end with a newline"));
        }
        Ok(())
    }
}

impl OpenFile<'_> {
    fn count(&mut self, line: &[u8]) {
        self.rows += 1;
        self.size += line.len() as u64;
        self.crc.update(line);
    }
}

/// Whether these are last events of which either of those found says each. Some may be missing: an older version knew only the latest one, and who went on
/// behind it knew no more.
fn are_among(events: Option<&LastEvents>, found: &[Option<&LastEvents>]) -> bool {
    let Some(events) = events else { return found.contains(&None) };
    let found = found.iter().flatten();
    found.clone().any(|found| found.latest() == events.latest())
        && events.iter().all(|event| found.clone().any(|found| found.iter().any(|found| found == event)))
}

/// Event id and source of a record, where it has both.
fn event_id<'a>(message: &'a BorrowedMessage<'_>) -> Option<(&'a [u8], &'a [u8])> {
    let headers = message.headers()?;
    let (mut id, mut source) = (None, None);
    for each in headers.iter() {
        match each.key {
            header::EVENT_ID => id = each.value,
            header::SOURCE => source = each.value,
            _ => {}
        }
    }
    Some((id?, source?))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::time::Instant;

    use shared::{kafka_position::TopicPartition, namespace::Namespace};

    use super::*;
    use crate::{
        buffer::Buffer,
        line_format::LineFormat,
        record::{RecordView, inspect},
    };

    #[test]
    fn a_file_may_know_fewer_events_than_there_were_but_no_others() {
        let of = |events: &[(&str, &str)]| {
            let mut last = None;
            for (id, source) in events {
                LastEvents::take(&mut last, id, source);
            }
            last
        };
        let found = of(&[("8201", "a/1"), ("8202", "b/1"), ("8203", "c/1")]);
        // With a letter that is an event.
        let with_letter = of(&[("8201", "a/1"), ("8202", "b/1"), ("8203", "c/1"), ("8204", "b/1")]);
        let agrees =
            |events: &[(&str, &str)]| are_among(of(events).as_ref(), &[found.as_ref(), with_letter.as_ref()]);
        assert!(agrees(&[("8201", "a/1"), ("8202", "b/1"), ("8203", "c/1")]));
        assert!(agrees(&[("8201", "a/1"), ("8203", "c/1"), ("8204", "b/1")]));
        assert!(agrees(&[("8203", "c/1")]), "an older version's");
        assert!(!agrees(&[("8202", "b/1")]), "not the latest");
        assert!(!agrees(&[("8209", "a/1"), ("8203", "c/1")]));
        assert!(!agrees(&[("8201", "d/1"), ("8203", "c/1")]));
        assert!(!agrees(&[]));
        assert!(are_among(None, &[None, found.as_ref()]));
    }

    #[test]
    fn records_are_counted_as_the_sink_counts_them() {
        let mut buffer = Buffer::new(&TopicPartition::new("t", 0), LineFormat::Envelope);
        let mut facts = RecordFacts::default();
        for (offset, operation, time) in [
            (0, Some("insert"), Some("1755900005.1")),
            (1, Some("update"), None),
            (2, None, Some("1755900003.1")),
            (3, Some("strange"), Some("1755900009.2")),
            (4, Some("insert"), Some("1755900004.1")),
        ] {
            let timestamp = Some(1_755_900_000_000);
            let value = Some(&b"{}"[..]);
            let record =
                RecordView { value, timestamp, operation, cluster_time: time, ..RecordView::default() };
            let inspected = inspect(&record, &TopicContent::Data(Namespace::new("shop", "orders")), 1024);
            buffer.push(KafkaOffset::new(offset), &record, &inspected, Instant::now());
            facts.add_row(Operation::of_header(operation), inspected.cluster_time);
        }
        let piece = buffer.freeze(KafkaOffset::ZERO, KafkaOffset::new(5)).piece(5, None);
        let operations: Vec<(String, u64)> = piece
            .operations
            .iter()
            .map(|(operation, count)| (operation.as_str().to_owned(), *count))
            .collect();
        assert_eq!(operations, [("insert".to_owned(), 2), ("update".to_owned(), 1), ("other".to_owned(), 2)]);
        assert_eq!(facts.operations, operations.into_iter().collect());
        assert_eq!(facts.min_cluster_time, piece.min_cluster_time);
        assert_eq!(facts.max_cluster_time, piece.max_cluster_time);
        assert_eq!(facts.min_cluster_time, Some(ClusterTime::parse("1755900003.1").unwrap()));
    }
}

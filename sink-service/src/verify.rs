//! `verify`: counts Kafka again and holds it against the lake, record by record.
//!
//! For each partition it walks the chain from the head's `start` to its end, and beside it the topic, read committed:
//!
//! ```text
//!   head ─▶ file [first, next) ─▶ file [first, next) ─▶ …     no gap, no overlap, sealed before its successor
//!             │ each line                │
//!   Kafka ────┴── each record ───────────┴──▶                 the value and its coordinates, byte for byte, once
//! ```
//!
//! A line must be what the sink would write for the record at its offset, in the hour of that record; a record without a
//! line must be a tombstone or a dead letter that the file's metadata names. Metadata must agree with the content (rows,
//! sizes, checksum). Event ids of one topic must differ. Records that Kafka no longer has are checked by the file alone,
//! and counted apart. Nothing is written, and the live group is not touched.

use std::{
    collections::{HashMap, HashSet, hash_map::RandomState},
    hash::{BuildHasher, Hash},
    sync::Arc,
};

use rdkafka::{
    Message,
    message::{BorrowedMessage, Headers},
};
use serde::Serialize;
use shared::{
    exit::{ExitCode, Stop},
    kafka_position::{KafkaOffset, TopicPartition},
    namespace::Namespace,
    topic_name::{DataTopic, TopicNames},
    wire::header,
};

use crate::{
    event_hour::EventHour,
    file_metadata::{FileMetadata, LineCrcBuilder},
    head::Head,
    kafka_log::{KafkaLog, LogError},
    lake::{Lake, LakeError, ListedFile},
    lake_path::{CollectionFolder, LakePath, is_data_file_of},
    partition::view_of,
    record::{Verdict, inspect},
};

mod lines;
mod report;
mod topic_reader;

use lines::FileLines;
pub use report::{Output, print};
pub use topic_reader::TopicReader;

/// How many differences of one partition are kept for showing; all are counted.
const DIFFERENCES_SHOWN: usize = 10;

/// What is compared.
pub struct Verification<'a> {
    pub lake: &'a Lake,
    pub log: &'a KafkaLog,
    pub reader: TopicReader,
    pub names: TopicNames,
    /// Whether a record in Kafka that is not yet durable counts as a difference.
    pub drained: bool,
    pub value_bytes_max: usize,
}

/// One partition's result.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionResult {
    pub topic: String,
    pub partition: i32,
    /// Where the chain begins and ends; `None` if there is no chain.
    pub start: Option<u64>,
    pub end: Option<u64>,
    pub files: usize,
    pub rows: u64,
    pub bytes: u64,
    pub dead_letters: u64,
    pub tombstones: u64,
    /// Records in Kafka behind the chain's end.
    pub pending: u64,
    /// Rows whose records Kafka no longer has: checked by their file alone.
    pub unconfirmed: u64,
    pub differences: u64,
    /// The first of them.
    pub shown: Vec<String>,
}

impl PartitionResult {
    /// A partition whose part of the lake cannot be read.
    pub fn unreadable(partition: &TopicPartition, what: String) -> Self {
        let mut walk = Walk::new(partition);
        walk.differs(what);
        walk.result
    }
}

/// It could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("{0}")]
    Lake(#[from] LakeError),
    #[error("{0}")]
    Kafka(#[from] LogError),
}

impl From<VerifyError> for Stop {
    fn from(error: VerifyError) -> Self {
        let code = match &error {
            VerifyError::Lake(LakeError::Denied { .. }) | VerifyError::Kafka(LogError::Denied(_)) => {
                ExitCode::NotAllowed
            }
            VerifyError::Lake(LakeError::Damaged { .. }) => ExitCode::LakeDiffers,
            VerifyError::Lake(LakeError::Refused { .. }) => ExitCode::Configuration,
            VerifyError::Lake(_) | VerifyError::Kafka(_) => ExitCode::Unreachable,
        };
        Self::new(code, error.to_string())
    }
}

impl Verification<'_> {
    /// The partitions that there are to compare: those of Kafka's data topics that `wanted` accepts, and those that have
    /// a head in the lake.
    ///
    /// # Errors
    /// If Kafka or the lake does not answer.
    pub async fn partitions(
        &self,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<TopicPartition>, VerifyError> {
        let mut partitions: HashSet<TopicPartition> = HashSet::new();
        for (topic, count) in self.reader.topics()? {
            if self.names.decode(&topic).is_some() && wanted(&topic) {
                let topic: Arc<str> = topic.into();
                partitions
                    .extend((0..count).map(|partition| TopicPartition::new(Arc::clone(&topic), partition)));
            }
        }
        for path in self.lake.list_heads().await? {
            if let Some(partition) = path.as_head()
                && self.names.decode(&partition.topic).is_some()
                && wanted(&partition.topic)
            {
                partitions.insert(partition);
            }
        }
        let mut partitions: Vec<TopicPartition> = partitions.into_iter().collect();
        partitions.sort_unstable();
        Ok(partitions)
    }

    /// Compares one partition; tells `progress` how many records have been compared.
    ///
    /// # Errors
    /// If it could not be compared. Differences are no error.
    pub async fn partition(
        &self,
        partition: &TopicPartition,
        events: &mut EventIds,
        mut progress: impl FnMut(u64),
    ) -> Result<PartitionResult, VerifyError> {
        let mut walk = Walk::new(partition);
        let log = match (self.log.start(partition).await, self.log.end(partition).await) {
            (Ok(start), Ok(end)) => Some((start, end)),
            (Err(LogError::NoTopic(_)), _) | (_, Err(LogError::NoTopic(_))) => {
                walk.differs("the topic is no longer in Kafka: only the files were checked".to_owned());
                None
            }
            (Err(error), _) | (_, Err(error)) => return Err(error.into()),
        };
        let path = LakePath::head(partition);
        let Some(document) = self.lake.read_document(&path).await? else {
            if let Some(DataTopic::Named(namespace)) = self.names.decode(&partition.topic) {
                self.check_strays(&CollectionFolder::of(&namespace), partition, &[], &mut walk).await?;
            }
            if let Some((start, end)) = log.filter(|(start, end)| start < end) {
                walk.pending(end.get() - start.get(), self.drained, "there is no chain yet");
            }
            return Ok(walk.result);
        };
        let head = Head::parse(&document.bytes).map_err(|what| LakeError::Damaged { path, what })?;
        let files = self.files(&head, partition, &mut walk).await?;
        let end = files.last().map_or(head.start, |file| file.metadata.next);
        walk.result.start = Some(head.start.get());
        walk.result.end = Some(end.get());
        walk.check_chain(&head, &files);

        let namespace = match (head.namespace(), self.names.decode(&partition.topic)) {
            (Some(namespace), _) | (None, Some(DataTopic::Named(namespace))) => namespace,
            _ => Namespace::new("", ""),
        };
        let compared_from = log.map_or(end, |(start, _)| start.max(head.start).min(end));
        let mut comparison = Comparison {
            lake: self.lake,
            namespace: &namespace,
            value_bytes_max: self.value_bytes_max,
            files: files.into(),
            open: None,
            walk: &mut walk,
            events,
        };
        // Files that Kafka can no longer confirm, whole or in part, are read up to where the log begins.
        comparison.read_alone_until(compared_from).await?;
        let mut compared = 0;
        let mut records = self.reader.read(partition, compared_from, end)?;
        while let Some(message) = records.next()? {
            comparison.take(&message).await?;
            compared += 1;
            if compared % 1_000 == 0 {
                progress(compared);
            }
        }
        progress(compared);
        comparison.finish().await?;
        if let Some((_, log_end)) = log {
            let position = end.max(head.scanned);
            let pending = self.reader.count(partition, position, log_end)?;
            if pending > 0 {
                walk.pending(pending, self.drained, "records are not in the lake yet");
            }
        }
        Ok(walk.result)
    }

    async fn files(
        &self,
        head: &Head,
        partition: &TopicPartition,
        walk: &mut Walk,
    ) -> Result<Vec<ListedFile>, VerifyError> {
        let Some(namespace) = head.namespace() else { return Ok(Vec::new()) };
        let folder = CollectionFolder::of(&namespace);
        let listed = self.lake.list_files(folder.path()).await?;
        let mut files: Vec<ListedFile> =
            listed.into_iter().filter(|file| file.metadata.topic_partition == *partition).collect();
        files.sort_by_key(|file| (file.metadata.first, file.metadata.next));
        self.check_strays(&folder, partition, &files, walk).await?;
        for file in &files {
            let metadata = &file.metadata;
            let expected =
                file.path.hour().map(|hour| folder.data_file(hour, partition.partition, metadata.first));
            if expected.as_ref() != Some(&file.path) {
                walk.differs(format!("{} is not where its metadata puts it", file.path));
            }
        }
        Ok(files)
    }

    /// Whoever reads the folder reads every data file in it, also those that no chain knows.
    async fn check_strays(
        &self,
        folder: &CollectionFolder,
        partition: &TopicPartition,
        known: &[ListedFile],
        walk: &mut Walk,
    ) -> Result<(), VerifyError> {
        for path in self.lake.list_names(folder.path()).await? {
            if !is_data_file_of(&path, partition.partition) || known.iter().any(|file| file.path == path) {
                continue;
            }
            let owner = self.lake.file(&path).await?.map(|file| file.metadata.topic_partition);
            if owner.is_none_or(|owner| owner == *partition) {
                walk.differs(format!("{path} belongs to no chain: readers of the folder see its rows"));
            }
        }
        Ok(())
    }
}

/// Event ids seen so far, by topic and source: each may come once. Kept as 64-bit hashes.
#[derive(Default)]
pub struct EventIds {
    hasher: RandomState,
    seen: HashMap<String, HashSet<u64>>,
}

impl EventIds {
    /// Whether it is new.
    fn insert(&mut self, topic: &str, id: impl Hash) -> bool {
        let hash = self.hasher.hash_one(id);
        match self.seen.get_mut(topic) {
            Some(seen) => seen.insert(hash),
            None => self.seen.entry(topic.to_owned()).or_default().insert(hash),
        }
    }
}

/// A partition's result in the making.
struct Walk {
    result: PartitionResult,
}

impl Walk {
    fn new(partition: &TopicPartition) -> Self {
        Self {
            result: PartitionResult {
                topic: partition.topic.to_string(),
                partition: partition.partition,
                start: None,
                end: None,
                files: 0,
                rows: 0,
                bytes: 0,
                dead_letters: 0,
                tombstones: 0,
                pending: 0,
                unconfirmed: 0,
                differences: 0,
                shown: Vec::new(),
            },
        }
    }

    fn differs(&mut self, what: String) {
        self.result.differences += 1;
        if self.result.shown.len() < DIFFERENCES_SHOWN {
            self.result.shown.push(what);
        }
    }

    fn pending(&mut self, count: u64, drained: bool, what: &str) {
        self.result.pending = count;
        if drained {
            self.differs(format!("{count} {what}"));
        }
    }

    fn check_chain(&mut self, head: &Head, files: &[ListedFile]) {
        let mut expected = head.start;
        for (index, ListedFile { path, metadata }) in files.iter().enumerate() {
            let FileMetadata { first, next, .. } = metadata;
            if *first > expected {
                self.differs(format!("gap: nothing holds offsets {expected} to {first}, before {path}"));
            } else if *first < expected {
                self.differs(format!(
                    "overlap: {path} begins at {first}, the file before it ends at {expected}"
                ));
            }
            if next <= first {
                self.differs(format!("{path} holds no offsets: {first} to {next}"));
            }
            if index + 1 < files.len() && !metadata.sealed {
                self.differs(format!("{path} has a successor but is not sealed"));
            }
            expected = *next;
        }
        let last = files.last();
        let names_last = head.path.as_ref() == last.map(|file| &file.path);
        let names_the_next =
            !head.created && last.is_none_or(|file| file.metadata.sealed) && head.first == Some(expected);
        if !names_last && !names_the_next {
            let current = head.path.as_ref().map_or("none", |path| path.as_str());
            self.differs(format!(
                "the head's current file is {current}, the chain ends at {expected} without it"
            ));
        }
        if head.scanned > expected && last.is_some_and(|file| !file.metadata.sealed) {
            self.differs(format!(
                "the head scanned up to {}, but its file is open at {expected}",
                head.scanned
            ));
        }
        self.result.files = files.len();
        for ListedFile { metadata, .. } in files {
            self.result.rows += metadata.rows;
            self.result.bytes += metadata.stored_size;
            self.result.dead_letters += metadata.dead_letters.count();
            self.result.tombstones += metadata.tombstones;
        }
    }
}

/// Records and lines, side by side.
struct Comparison<'a> {
    lake: &'a Lake,
    namespace: &'a Namespace,
    value_bytes_max: usize,
    files: std::collections::VecDeque<ListedFile>,
    open: Option<OpenFile<'a>>,
    walk: &'a mut Walk,
    events: &'a mut EventIds,
}

/// The file whose lines are being read.
struct OpenFile<'a> {
    path: LakePath,
    hour: Option<EventHour>,
    metadata: FileMetadata,
    lines: FileLines<'a>,
    crc: LineCrcBuilder,
    rows: u64,
    tombstones: u64,
    size: u64,
}

impl Comparison<'_> {
    /// Compares one record with the line at its offset.
    async fn take(&mut self, message: &BorrowedMessage<'_>) -> Result<(), VerifyError> {
        let Some(offset) = KafkaOffset::from_kafka(message.offset()) else { return Ok(()) };
        self.open_at(offset).await?;
        let record = view_of(message);
        let inspected = inspect(&record, self.namespace, self.value_bytes_max);
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
        match (inspected.verdict, found.line) {
            (Verdict::Line { .. }, None) if file.metadata.dead_letters.contains(offset) => {}
            (Verdict::Line { .. }, None) => {
                self.walk.differs(format!("{}: offset {offset} has no line", file.path));
            }
            (Verdict::Line { body, empty_object, .. }, Some(line)) => {
                file.count(&line);
                if !lines::is_line_of(&line, body, empty_object, message) {
                    self.walk
                        .differs(format!("{}: the line at offset {offset} is not the record's", file.path));
                }
                if file.hour != Some(inspected.hour) {
                    let path = &file.path;
                    self.walk.differs(format!("{path}: offset {offset} happened at {}", inspected.hour));
                }
                if let Some(id) = event_id(message)
                    && !self.events.insert(message.topic(), id)
                {
                    self.walk.differs(format!("{}: the event at offset {offset} is there twice", file.path));
                }
            }
            (Verdict::Tombstone, None) => file.tombstones += 1,
            (Verdict::DeadLetter { .. }, None) if file.metadata.dead_letters.contains(offset) => {}
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
    async fn open_at(&mut self, offset: KafkaOffset) -> Result<(), VerifyError> {
        while self.open.as_ref().is_none_or(|file| file.metadata.next <= offset) {
            self.close().await?;
            if !self.open_next().await? {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn open_next(&mut self) -> Result<bool, VerifyError> {
        let Some(listed) = self.files.pop_front() else { return Ok(false) };
        // The state that was listed, even if the file has grown since.
        let Some(state) = self.lake.file(&listed.path).await? else {
            self.walk.differs(format!("{} is gone", listed.path));
            return Ok(true);
        };
        let reader = self.lake.read_file(&listed.path, &state).await?;
        self.open = Some(OpenFile {
            hour: listed.path.hour(),
            lines: FileLines::new(reader, listed.metadata.stored_size),
            path: listed.path,
            metadata: listed.metadata,
            crc: LineCrcBuilder::new(),
            rows: 0,
            tombstones: 0,
            size: 0,
        });
        Ok(true)
    }

    /// Reads what Kafka no longer has: offsets must rise within the file's range, lines must be JSON objects.
    async fn read_alone_until(&mut self, end: KafkaOffset) -> Result<(), VerifyError> {
        while self.files.front().is_some_and(|file| file.metadata.first < end) {
            if !self.open_next().await? {
                break;
            }
            let Some(file) = &mut self.open else { continue };
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

    async fn finish(mut self) -> Result<(), VerifyError> {
        loop {
            self.close().await?;
            if !self.open_next().await? {
                return Ok(());
            }
        }
    }

    /// Everything of the file has been read: does it agree with what its metadata says?
    async fn close(&mut self) -> Result<(), VerifyError> {
        let Some(mut file) = self.open.take() else { return Ok(()) };
        while let Some((offset, line)) = file.lines.next_before(KafkaOffset::new(u64::MAX)).await? {
            file.count(&line);
            let at = offset.map_or_else(|| "no offset".to_owned(), |offset| format!("offset {offset}"));
            self.walk.differs(format!("{}: a line with {at} that is no record of Kafka's", file.path));
        }
        let OpenFile { path, metadata, crc, rows, size, .. } = &file;
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

/// Event id and source of a record, where it has both and is no snapshot row.
fn event_id<'a>(message: &'a BorrowedMessage<'_>) -> Option<(&'a [u8], &'a [u8])> {
    let headers = message.headers()?;
    let (mut id, mut source) = (None, None);
    for each in headers.iter() {
        match each.key {
            header::EVENT_ID => id = each.value,
            header::SOURCE => source = each.value,
            header::SNAPSHOT => return None,
            _ => {}
        }
    }
    Some((id?, source?))
}

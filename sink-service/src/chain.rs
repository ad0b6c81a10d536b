//! The chain of one partition's files: what the next step is, decided without I/O.
//!
//! Per Kafka partition the lake's files form one linked chain without gap or overlap, whoever writes. DESIGN §5 "The
//! chain" states the rules; this is them as a state machine. A [`Chain`] is what a writer believes to be durable: the
//! head, and the file that the head names. [`Chain::next_step`] compares it with a [`Batch`] of records and says what
//! to do next; [`crate::publish`] does it and reports back by [`Chain::apply`].
//!
//! ```text
//!            head names no file ──first record──▶ head names F ──create──▶ F open ──append──▶ F open
//!                                                      ▲                     │ hour, size, age, blocks, metadata
//!                                                      │                     ▼
//!                                 head names successor └──next record── F sealed
//! ```
//!
//! With [`Publishing::Sealed`] a file is created sealed: until then its rows are staged, that is, in the lake and in this
//! process's care, but seen by nobody ([`Step::Stage`]). What is staged counts as read and not as durable: whoever loses
//! it reads it again from Kafka.
//!
//! Every arrow is one compare-and-set. A refused or doubtful one is an ordinary path: everything is read back and the
//! machine goes on from there ([`Chain::adopt`]), so that what others wrote is adopted and the own batch is cut there.
//!
//! Invariants, each searched by the model that DESIGN names and by this module's tests:
//! - A file ends sealed before the head moves off it, and only the head's path is ever created.
//! - `next` of a file is `first` of the one after it; `next` and `scanned` never fall.
//! - `scanned` is written only when every record before it is durable, and moves no boundary.
//! - The head moves off a sealed file only once that is accounted for: [`crate::hours::accounts`].
//! - A file holds records of one hour; dead letters extend the open file whatever their hour.
//! - A file holds lines of one format. An open one of another format than the writer's is sealed as it is.
//! - Rows are staged only for the file that the head names and that does not exist; meanwhile `scanned` is not written.

mod file_policy;
mod file_step;
mod halt;
mod staged;
#[cfg(test)]
mod tests;

use std::time::Instant;

use chrono::{DateTime, Utc};
use shared::kafka_position::{KafkaOffset, TopicPartition};

pub(crate) use self::file_step::roll_due;
use self::staged::Staged;
pub use self::{
    file_policy::{FilePolicy, Publishing, RollReason},
    halt::ChainHalt,
};
use crate::{
    buffer::Batch,
    compression::Compression,
    event_hour::EventHour,
    file_metadata::{FileMetadata, LastEvents, OffsetRuns, WriterId},
    head::{Head, LOOK_BACK_OFFSETS},
    hours::HourEnd,
    lake::{ETag, FileState},
    lake_path::LakePath,
    layout::Layout,
    record::LAYOUT,
    topic_content::TopicContent,
    topic_identity::TopicIdentity,
};

/// The ends of a partition's log. The start must have been asked before the head was read (rule 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    pub start: KafkaOffset,
    /// The high watermark, never the last stable offset.
    pub end: KafkaOffset,
}

/// Who writes: stands in the metadata, for logs.
#[derive(Clone, Debug)]
pub struct Writer {
    pub id: WriterId,
    pub version: &'static str,
}

/// What is to be done next. Each but [`Step::Stage`] is one compare-and-set.
#[derive(Clone, Debug)]
pub enum Step {
    /// Everything of the batch is durable, or staged.
    Done,
    /// Replace the head.
    WriteHead(Head),
    /// Send bytes that nobody sees, for the file that the head names.
    Stage(FileStep),
    /// Create the file that the head names, with what is staged for it and this.
    Create(FileStep),
    /// Append to the open file; without bytes it is a recommit.
    Append(FileStep),
}

impl Step {
    /// How many bytes of lines it sends, packed.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Done | Self::WriteHead(_) => 0,
            Self::Stage(step) | Self::Create(step) | Self::Append(step) => step.piece.len(),
        }
    }
}

#[derive(Clone, Debug)]
pub struct FileStep {
    pub path: LakePath,
    /// Packed as the file is.
    pub piece: bytes::Bytes,
    /// Bytes of the lines in it, before they were packed.
    pub lines: u64,
    pub metadata: FileMetadata,
    /// Set when this step seals the file.
    pub roll: Option<RollReason>,
}

/// What is durable of one partition, as this writer last saw it.
#[derive(Clone, Debug)]
pub struct Chain {
    partition: TopicPartition,
    writer: Writer,
    layout: Layout,
    head: Head,
    head_etag: ETag,
    /// The file at the head's path; `None` if it is not there (yet).
    file: Option<FileState>,
    file_since: Instant,
    /// Only while `file` is not there.
    staged: Option<Staged>,
    /// The sealed file is known to be in its hour's manifest, or the hour has not closed.
    accounted: bool,
    seq: u64,
}

/// What was read from the lake and the log, to be taken over as it is.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The lake's.
    pub layout: Layout,
    pub head: Head,
    pub head_etag: ETag,
    pub file: Option<FileState>,
    pub log: LogBounds,
}

/// What the caller knows besides the chain itself.
#[derive(Clone, Copy, Debug)]
pub struct StepContext<'a> {
    pub policy: FilePolicy,
    /// Of files to come; a file goes on as it began.
    pub compression: Compression,
    /// Whose folder the chain gets with its first record.
    pub content: &'a TopicContent,
    /// Publish the batch's end although no record stands before it.
    pub publish_position: bool,
    /// Files of this hour and of those before it end where the batch reaches the barrier.
    pub hour_end: Option<HourEnd>,
    /// Nothing stays staged after this batch: the partition is given up, or a run ends with it.
    pub drain: bool,
    pub now: Instant,
    /// For `processedat` only.
    pub wall_clock: DateTime<Utc>,
}

impl Chain {
    /// Takes over what was read, whoever wrote it (rules 5 and 8).
    ///
    /// `confirmed` is the highest `next` that this process has seen confirmed, `topic` what Kafka says of the topic now.
    ///
    /// # Errors
    /// If going on from there would lose or double records.
    pub fn adopt(
        partition: TopicPartition,
        writer: Writer,
        reading: Reading,
        topic: &TopicIdentity,
        confirmed: KafkaOffset,
        now: Instant,
    ) -> Result<Self, ChainHalt> {
        let Reading { layout, head, head_etag, file, log } = reading;
        let mut chain = Self {
            partition,
            writer,
            layout,
            head,
            head_etag,
            file,
            file_since: now,
            staged: None,
            accounted: false,
            seq: 0,
        };
        chain.check_identity(topic)?;
        let is_same_topic = chain.head.topic_identity().is_certainly(topic);
        // It is no reason to write the head: it goes with what is written next.
        if let Some(cluster) = &topic.cluster {
            chain.head.clusterid = Some(cluster.clone());
        }
        let partition = || chain.partition.clone();
        let (next, position) = (chain.next(), chain.position());
        if chain.file.is_none() && chain.head.created {
            let path = chain.head.path.clone().expect("only a head with a path is marked created");
            return Err(ChainHalt::FileLost { partition: partition(), path });
        }
        if next < confirmed {
            return Err(ChainHalt::WentBack { partition: partition(), confirmed, next });
        }
        if log.end < position {
            return Err(ChainHalt::log_too_short(partition(), position, log.end, is_same_topic));
        }
        if log.start > position {
            return Err(ChainHalt::Gap { partition: partition(), position, log_start: log.start });
        }
        Ok(chain)
    }

    fn check_identity(&self, topic: &TopicIdentity) -> Result<(), ChainHalt> {
        let partition = || self.partition.clone();
        if self.head.topic != *self.partition.topic || self.head.partition != self.partition.partition {
            let what =
                format!("the head at its place is that of {}/{}", self.head.topic, self.head.partition);
            return Err(ChainHalt::LayoutDiffers { partition: partition(), what });
        }
        if self.head.layout != LAYOUT {
            let what =
                format!("the chain was begun with layout {}, this version writes {LAYOUT}", self.head.layout);
            return Err(ChainHalt::LayoutDiffers { partition: partition(), what });
        }
        if let Some(path) = self.head.path.as_ref().filter(|_| !self.layout.puts(&self.head)) {
            let what = format!(
                "the head names {path}, which is not where the lake's LAYOUT={} puts it",
                self.layout
            );
            return Err(ChainHalt::LayoutDiffers { partition: partition(), what });
        }
        self.check_topic(topic)?;
        let Some(file) = &self.file else { return Ok(()) };
        if file.metadata.topic_partition != self.partition {
            let path = self.head.path.clone().expect("a file was read at the head's path");
            let owner = file.metadata.topic_partition.clone();
            return Err(ChainHalt::ForeignFile { partition: partition(), path, owner });
        }
        if self.head.first != Some(file.metadata.first) || file.metadata.layout != LAYOUT {
            let what = format!(
                "the head's file begins at {} with layout {}, the head says {:?} and {LAYOUT}",
                file.metadata.first, file.metadata.layout, self.head.first
            );
            return Err(ChainHalt::LayoutDiffers { partition: partition(), what });
        }
        Ok(())
    }

    /// Whether Kafka's topic is still the one that the chain was begun from. Asked again before every publication:
    /// a consumer goes on in a topic that was deleted and made again without noticing.
    ///
    /// # Errors
    /// If it is another one.
    pub fn check_topic(&self, topic: &TopicIdentity) -> Result<(), ChainHalt> {
        let partition = || self.partition.clone();
        let checked = self.head.topic_identity().check(topic);
        checked.map_err(|another| ChainHalt::AnotherTopic { partition: partition(), another })
    }

    pub fn head(&self) -> &Head {
        &self.head
    }

    pub fn head_etag(&self) -> &ETag {
        &self.head_etag
    }

    /// Changes with everything that is written to the head or the current file, by whomever.
    pub fn version(&self) -> (ETag, Option<ETag>) {
        (self.head_etag.clone(), self.file.as_ref().map(|file| file.etag.clone()))
    }

    pub fn file(&self) -> Option<&FileState> {
        self.file.as_ref()
    }

    /// Where the chain ends: every record before it is durable, and the next file or append begins here.
    pub fn next(&self) -> KafkaOffset {
        match (&self.file, self.head.first) {
            (Some(file), _) => file.metadata.next,
            (None, Some(first)) => first,
            (None, None) => self.head.start,
        }
    }

    /// The last events that are durable or staged.
    pub fn last_event(&self) -> Option<&LastEvents> {
        let metadata = self.staged_metadata().or_else(|| Some(&self.file.as_ref()?.metadata));
        match metadata {
            Some(metadata) => metadata.last_event.as_ref(),
            None => self.head.lastevent.as_ref(),
        }
    }

    /// Past what was only scanned, too: everything before it is durable.
    pub fn position(&self) -> KafkaOffset {
        self.next().max(self.head.scanned)
    }

    /// Where the consumer goes on: past what is staged, too.
    pub fn reached(&self) -> KafkaOffset {
        self.staged_next().unwrap_or_default().max(self.position())
    }

    /// The next step towards `batch` being durable or staged; what is already is passed over.
    ///
    /// # Errors
    /// If a record cannot follow where the head says.
    ///
    /// # Panics
    /// If records are missing between what is durable and the batch: publishing it would be the loss itself. If the batch is of another format than
    /// the files that are to take it: nobody could read them.
    pub fn next_step(&self, batch: &mut Batch, context: &StepContext<'_>) -> Result<Step, ChainHalt> {
        assert!(
            batch.start() <= self.reached(),
            "{}: a batch from {} cannot follow {}",
            self.partition,
            batch.start(),
            self.reached()
        );
        assert_eq!(batch.format(), context.policy.line_format, "{}: lines of another format", self.partition);
        batch.go_on_from(self.staged_next().unwrap_or_else(|| self.next()));
        let Some(path) = &self.head.path else {
            return Ok(match batch.pending().first() {
                Some(entry) => Step::WriteHead(self.head_at(self.head.start, entry.hour, context)),
                None => self.scan_step(batch, context),
            });
        };
        match &self.file {
            None if context.policy.publishing == Publishing::Sealed => self.stage_step(path, batch, context),
            None => self.create_step(path, batch, context),
            Some(file) if is_sealed(file) => Ok(match batch.pending().first() {
                Some(entry) => Step::WriteHead(self.head_at(file.metadata.next, entry.hour, context)),
                None => self.mark_created().unwrap_or_else(|| self.scan_step(batch, context)),
            }),
            Some(file) => {
                Ok(self.mark_created().unwrap_or_else(|| self.append_step(path, file, batch, context)))
            }
        }
    }

    /// The head naming the file for records of `hour` from `first` on. It carries `scanned` over unchanged.
    fn head_at(&self, first: KafkaOffset, hour: EventHour, context: &StepContext<'_>) -> Head {
        let content = self.head.content().unwrap_or_else(|| context.content.clone());
        let compression = context.compression;
        let path = self.layout.folder(&content).data_file(hour, self.partition.partition, first, compression);
        let (db, coll) = Head::names_of(&content);
        Head {
            db,
            coll,
            path: Some(path),
            first: Some(first),
            lastevent: self.last_event().cloned(),
            deadletters: self.dead_letters_before(first),
            created: false,
            ..self.head.clone()
        }
    }

    /// Dead letters among the last offsets before `end`, which is where the chain's file ends or begins; `None` where that is not known.
    fn dead_letters_before(&self, end: KafkaOffset) -> Option<OffsetRuns> {
        let from = KafkaOffset::new(end.get().saturating_sub(LOOK_BACK_OFFSETS));
        let of_file = self.file.as_ref().map(|file| &file.metadata);
        if let Some(metadata) = of_file
            && metadata.first <= from
        {
            return Some(metadata.dead_letters.since(from));
        }
        let before = self.head.deadletters.as_ref()?.since(from);
        let in_file = of_file.map(|metadata| metadata.dead_letters.since(from)).unwrap_or_default();
        Some(before.iter().chain(in_file.iter()).collect())
    }

    /// What is known of the last records before [`Self::position`], to be held against the log: where they begin, and which of them are dead letters.
    pub fn tail(&self) -> Option<(KafkaOffset, OffsetRuns)> {
        let (next, position) = (self.next(), self.position());
        // Behind `next` are repeats and markers only.
        let end = if position.get() - next.get() > LOOK_BACK_OFFSETS { position } else { next };
        let from = KafkaOffset::new(end.get().saturating_sub(LOOK_BACK_OFFSETS)).max(self.head.start);
        match (self.dead_letters_before(next), &self.file) {
            (Some(letters), _) => Some((from, letters)),
            (None, Some(FileState { metadata, .. })) => {
                let from = from.max(metadata.first);
                Some((from, metadata.dead_letters.since(from)))
            }
            (None, None) => None,
        }
    }

    /// The head's file is there: whoever finds the mark unset sets it, before anything else happens to the file.
    fn mark_created(&self) -> Option<Step> {
        (!self.head.created).then(|| Step::WriteHead(Head { created: true, ..self.head.clone() }))
    }

    /// Nothing is pending and no file is open: a position goes into the head.
    fn scan_step(&self, batch: &Batch, context: &StepContext<'_>) -> Step {
        if context.publish_position && batch.end() > self.position() {
            Step::WriteHead(Head { scanned: batch.end(), ..self.head.clone() })
        } else {
            Step::Done
        }
    }

    /// Takes notice of a head that was written.
    pub fn head_written(&mut self, head: Head, etag: ETag) {
        if head.path != self.head.path {
            self.file = None;
        }
        self.head = head;
        self.head_etag = etag;
    }

    /// Takes notice of a file step that was done.
    pub fn file_written(&mut self, state: FileState, now: Instant) {
        if self.file.is_none() {
            self.file_since = now;
        }
        self.seq = state.metadata.seq;
        self.accounted = false;
        self.staged = None;
        self.file = Some(state);
    }

    /// The hour of a sealed file that its hour's manifest may not name yet. It has to be looked after before the head moves on: then nobody
    /// would find the file again without a listing.
    pub fn unaccounted(&self) -> Option<EventHour> {
        let sealed = self.file.as_ref().is_some_and(is_sealed);
        (sealed && !self.accounted).then(|| self.layout.hour_of(self.head.path.as_ref()?)).flatten()
    }

    pub fn accounted_for(&mut self) {
        self.accounted = true;
    }

    /// The hour of the file that is open, or for which rows are staged.
    pub fn open_hour(&self) -> Option<EventHour> {
        let open = self.file.as_ref().is_some_and(|file| !is_sealed(file));
        (open || self.staged.is_some()).then(|| self.layout.hour_of(self.head.path.as_ref()?)).flatten()
    }
}

fn is_sealed(file: &FileState) -> bool {
    file.metadata.sealed
}

//! The state of one assigned partition: no I/O, no clock of its own.
//!
//! ```text
//!   Opening ──chain read──▶ Idle ──batch frozen──▶ Publishing
//!                             ▲                        │
//!                             └──────── durable ───────┘
//! ```
//!
//! Records are buffered in every phase but `Opening`, in which the partition is not fetched yet. At most one batch is on
//! its way at a time: nothing is published before its predecessor is confirmed.

mod look_back;
mod until_end;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use rdkafka::{Message, message::Headers};
use shared::{
    avro::SchemaId,
    cluster_time::ClusterTime,
    exit::Stop,
    kafka_position::{KafkaOffset, TopicPartition},
    namespace::Namespace,
    seeded_bug::{self, SeededBug},
};

use tokio_util::sync::{CancellationToken, DropGuard};

use self::look_back::LookBack;
use crate::{
    buffer::{Batch, Buffer, SpareBuffer},
    chain::Chain,
    dead_letters::letter_of,
    event_hour::EventHour,
    hours::{HourEnd, keeper::Standing},
    line_format::LineFormat,
    metrics::{PartitionMetrics, SinkMetrics},
    publish::Identity,
    record::{Inspected, RecordView, VALUE_BYTES_MAX, Verdict, inspect, refused},
    repeats::RepeatFilter,
    schema_check::{DocumentSchema, SchemaChecks},
    topic_content::TopicContent,
    topic_identity::TopicIdentity,
    uploads::TopicUploads,
    value_reader::{Value, ValueReader, no_registry},
};

/// A position above `next` without a record before it is published within this time.
pub const POSITION_AGE_MAX: Duration = Duration::from_secs(45);

/// What became of a record that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is buffered, or was passed over.
    Yes,
    /// It lies before the chain's end, and was only looked at.
    No,
    /// Its schema is not known: nothing more is taken until the registry has said what it is, and the chain is read again.
    AfterSchema,
}

/// Which assignment a task was started for: a result from an earlier one is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssignmentEpoch(pub u64);

/// What waits until its file is seen.
#[derive(Clone, Copy, Debug)]
struct StagedSince {
    /// When the oldest of its records was read.
    read: Option<Instant>,
    /// Of the first that has one.
    cluster_time: Option<ClusterTime>,
}

enum Phase {
    /// The chain is being read; the consumer does not fetch this partition.
    Opening,
    Idle(Box<Chain>),
    Publishing {
        memory: usize,
        oldest: Option<Instant>,
    },
}

pub struct PartitionState {
    identity: Identity,
    epoch: AssignmentEpoch,
    content: Option<TopicContent>,
    schemas: SchemaChecks,
    /// That of the collection.
    schema: Option<Arc<DocumentSchema>>,
    phase: Phase,
    buffer: Buffer,
    /// The consumer has the partition.
    assigned: bool,
    /// Ends the tasks of this assignment when it is given up.
    tasks: DropGuard,
    /// The chain is to be read again as soon as nothing is on its way.
    reopen: bool,
    /// Of a record that could not be taken: what the registry has to be asked before the chain is read again.
    wanted_schema: Option<SchemaId>,
    /// Everything before it is durable, staged, or was nothing to write.
    position: KafkaOffset,
    /// Everything before it is durable or was nothing to write.
    durable: KafkaOffset,
    staged: Option<StagedSince>,
    /// Where the buffer begins: the end of the batch before it.
    buffered_from: KafkaOffset,
    /// What may be committed to Kafka.
    next: KafkaOffset,
    committed: Option<KafkaOffset>,
    /// The current file, as a text for people.
    path: String,
    paused: bool,
    /// A consumer position above `position`, and since when.
    ahead: Option<(KafkaOffset, Instant)>,
    log_end: Option<KafkaOffset>,
    /// With `--until-end`: what is to be reached.
    end: Option<KafkaOffset>,
    /// Up to where hours are over; `None` once everything of them is in the lake.
    hour_end: Option<HourEnd>,
    /// The last hour that was said to be over.
    over: Option<EventHour>,
    records: u64,
    /// Knows the last event that was taken.
    repeats: RepeatFilter,
    /// Until the consumer has come to where the chain ends.
    look_back: Option<LookBack>,
    metrics: PartitionMetrics,
}

impl PartitionState {
    pub fn opening(
        partition: TopicPartition,
        content: Option<TopicContent>,
        uploads: TopicUploads,
        epoch: AssignmentEpoch,
        format: LineFormat,
        schemas: SchemaChecks,
    ) -> Self {
        let schema = content.as_ref().and_then(|content| schemas.of(content)).cloned();
        Self {
            schemas,
            schema,
            buffer: Buffer::new(&partition, format),
            metrics: PartitionMetrics::of(&partition),
            identity: Identity {
                partition,
                content: content.clone(),
                topic: TopicIdentity::default(),
                uploads,
            },
            epoch,
            content,
            phase: Phase::Opening,
            assigned: false,
            tasks: CancellationToken::new().drop_guard(),
            reopen: false,
            wanted_schema: None,
            position: KafkaOffset::ZERO,
            durable: KafkaOffset::ZERO,
            staged: None,
            buffered_from: KafkaOffset::ZERO,
            next: KafkaOffset::ZERO,
            committed: None,
            path: String::new(),
            paused: false,
            ahead: None,
            log_end: None,
            end: None,
            hour_end: None,
            over: None,
            records: 0,
            repeats: RepeatFilter::default(),
            look_back: None,
        }
    }

    pub fn partition(&self) -> &TopicPartition {
        &self.identity.partition
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn epoch(&self) -> AssignmentEpoch {
        self.epoch
    }

    /// Cancelled when the assignment is given up.
    pub fn given_up(&self) -> CancellationToken {
        self.tasks.token().clone()
    }

    pub fn is_opening(&self) -> bool {
        matches!(self.phase, Phase::Opening)
    }

    pub fn is_publishing(&self) -> bool {
        matches!(self.phase, Phase::Publishing { .. })
    }

    /// Everything that was read is durable.
    pub fn is_drained(&self) -> bool {
        let staged = self.idle_chain().is_some_and(|chain| chain.staged_file().is_some());
        self.buffer.is_empty() && !self.is_publishing() && !staged
    }

    pub fn position(&self) -> KafkaOffset {
        self.position
    }

    /// What the registry has to be asked before the chain is read again.
    pub fn wanted_schema(&self) -> Option<SchemaId> {
        self.wanted_schema
    }

    pub fn paused(&self) -> bool {
        self.paused
    }

    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Whether the consumer has the partition.
    pub fn assigned(&self) -> bool {
        self.assigned
    }

    /// The chain was read, or read again: from here on records are taken.
    pub fn opened(&mut self, topic: TopicIdentity, chain: Chain) -> KafkaOffset {
        self.identity.topic = topic;
        self.look_back = None;
        self.staged = None;
        self.adopt(chain);
        self.buffered_from = self.position;
        self.ahead = None;
        self.assigned = true;
        self.wanted_schema = None;
        self.paused = false;
        self.position
    }

    /// Drops what is buffered, so that the chain is read again and the records after it; the highest confirmed `next`.
    /// `None` while a batch is on its way: then it is due when that ends.
    pub fn reopen(&mut self) -> Option<KafkaOffset> {
        match &self.phase {
            Phase::Opening => None,
            Phase::Publishing { .. } => {
                self.reopen = true;
                None
            }
            Phase::Idle(chain) => {
                let confirmed = chain.next();
                self.reopen = false;
                self.buffer.discard();
                self.ahead = None;
                self.phase = Phase::Opening;
                Some(confirmed)
            }
        }
    }

    /// Whether [`Self::reopen`] is due.
    pub fn reopen_due(&self) -> bool {
        self.reopen && !self.is_publishing()
    }

    /// A batch became durable, or was staged.
    pub fn published(&mut self, chain: Chain, batch: &Batch, metrics: &SinkMetrics, now: Instant) {
        let of_batch = StagedSince { read: batch.oldest(), cluster_time: batch.oldest_cluster_time() };
        let oldest = self.staged.take().unwrap_or(of_batch);
        if chain.staged_file().is_some() {
            self.staged = Some(oldest);
        } else {
            if let Some(read) = oldest.read {
                metrics.durable(now.duration_since(read));
            }
            if let Some(time) = oldest.cluster_time {
                metrics.event_age(time.seconds);
            }
        }
        if let Some(newest) = chain.file().and_then(|file| file.metadata.max_cluster_time) {
            self.metrics.last_event(newest.seconds);
        }
        self.adopt(chain);
    }

    /// What was staged is gone, and nothing of the batch was published: it is to be read again.
    pub fn fell_behind(&mut self, chain: Chain) {
        self.adopt(chain);
        self.reopen = true;
    }

    fn adopt(&mut self, chain: Chain) {
        self.position = chain.reached();
        // What others have written was not looked at here.
        if self.buffer.last().is_none_or(|last| last < self.position) {
            self.repeats = RepeatFilter::after(chain.last_event());
        }
        self.durable = chain.position();
        // Somebody else's commit may cover all records of ours and end before the markers behind them.
        self.buffered_from = self.buffered_from.min(self.position);
        self.next = chain.next();
        if let Some(content) = chain.head().content()
            && self.content.as_ref() != Some(&content)
        {
            self.set_content(content);
        }
        if let Some(path) = &chain.head().path {
            path.as_str().clone_into(&mut self.path);
        }
        if self.ahead.is_some_and(|(ahead, _)| ahead <= self.position) {
            self.ahead = None;
        }
        if self.hour_end.is_some_and(|over| is_complete(&chain, over)) {
            self.hour_end = None;
        }
        self.phase = Phase::Idle(Box::new(chain));
    }

    fn set_content(&mut self, content: TopicContent) -> &TopicContent {
        self.schema = self.schemas.of(&content).cloned();
        self.content.insert(content)
    }

    /// An hour is over, and with it those before it.
    pub fn set_hour_end(&mut self, over: HourEnd) {
        self.over = Some(over.hour);
        self.hour_end = match &self.phase {
            Phase::Idle(chain) if is_complete(chain, over) => None,
            _ => Some(over),
        };
    }

    pub fn hour_end(&self) -> Option<HourEnd> {
        self.hour_end
    }

    /// Everything of the hours that are over was read, and not all of it is published and sealed.
    pub fn hour_end_due(&self) -> bool {
        !self.is_opening() && self.hour_end.is_some_and(|over| self.read_up_to() >= over.barrier)
    }

    /// Everything before it was read: it is durable, staged, buffered, or was nothing to write.
    fn read_up_to(&self) -> KafkaOffset {
        self.ahead.map_or(self.position, |(ahead, _)| ahead.max(self.position))
    }

    pub fn standing(&self) -> Standing {
        Standing {
            partition: self.identity.partition.clone(),
            content: self.content.clone(),
            open: self.idle_chain().and_then(Chain::open_hour),
        }
    }

    /// Buffers one record, as a line or a dead letter. What is durable already is passed over, and so is what was taken
    /// already: around a pause of its own the client may hand a record out twice.
    ///
    /// # Errors
    /// If records of a source are in Avro, and there is no registry. If the log is not the one that the lake was written from.
    pub fn take(
        &mut self,
        message: &impl Message,
        now: Instant,
        values: &mut ValueReader,
        spares: &mut Vec<SpareBuffer>,
    ) -> Result<Taken, Stop> {
        let Some(offset) = KafkaOffset::from_kafka(message.offset()) else { return Ok(Taken::Yes) };
        if self.is_opening() || self.wanted_schema.is_some() {
            return Ok(Taken::Yes);
        }
        if let Some(look_back) = &mut self.look_back {
            if look_back.has_before_end(offset) {
                look_back.see(offset, &view_of(message));
                return Ok(Taken::No);
            }
            self.judge_look_back()?;
        }
        if offset < self.wanted_from() {
            return Ok(Taken::Yes);
        }
        let record = view_of(message);
        let read = match values.read(&record) {
            Value::Json(value) => Ok(RecordView { value, ..record }),
            Value::Refused { reason, error } => Err((reason, error)),
            Value::NoRegistry => return Err(no_registry(message.topic())),
            Value::AskFor(id) => {
                self.wanted_schema = Some(id);
                // The consumer stands behind a record that was not taken: where it is says nothing any more.
                self.ahead = None;
                return Ok(Taken::AfterSchema);
            }
        };
        if self.buffer.is_empty()
            && let Some(spare) = spares.pop()
        {
            self.buffer.reuse(spare);
        }
        let content = match &self.content {
            Some(content) => content,
            None => self.set_content(content_of_first(&record, &self.identity.partition)),
        };
        let mut inspected = match &read {
            Ok(record) => inspect(record, content, VALUE_BYTES_MAX),
            Err((reason, error)) => refused(&record, *reason, error.clone()),
        };
        if seeded_bug::planted(SeededBug::HourFromClock) {
            inspected.hour =
                EventHour::from_millis(Utc::now().timestamp_millis()).unwrap_or(EventHour::EPOCH);
        }
        self.records += 1;
        if self.repeats.passes_over(&inspected) {
            self.metrics.repeat();
            return Ok(Taken::Yes);
        }
        if let Some(schema) = &self.schema {
            inspected = schema.judge(inspected);
        }
        match inspected {
            Inspected { verdict: Verdict::DeadLetter { reason, error }, hour, event, .. } => {
                let partition = &self.identity.partition;
                tracing::warn!(%partition, %offset, reason = reason.as_str(), %error, "dead letter");
                let letter = letter_of(message, offset, reason, error);
                self.buffer.push_dead_letter(letter, hour, event, now);
            }
            inspected => self.buffer.push(offset, &record, &inspected, now),
        }
        Ok(Taken::Yes)
    }

    /// The lowest offset that was not taken yet.
    fn wanted_from(&self) -> KafkaOffset {
        let buffered_from = self.buffered_from.max(self.position);
        self.buffer.last().map_or(buffered_from, |last| buffered_from.max(last.after()))
    }

    /// Counts what was read since the last call, for the metrics.
    pub fn report(&mut self, now: Instant) {
        self.metrics.records(std::mem::take(&mut self.records));
        self.metrics.oldest_unpublished(self.oldest().map(|oldest| now.duration_since(oldest)));
        if let Some(lag) = self.lag() {
            self.metrics.lag(lag);
        }
    }

    pub fn retire(&mut self) {
        self.metrics.records(std::mem::take(&mut self.records));
        self.metrics.retire();
    }

    fn oldest(&self) -> Option<Instant> {
        let staged = self.staged.and_then(|staged| staged.read);
        staged.or(match self.phase {
            Phase::Publishing { oldest: Some(oldest), .. } => Some(oldest),
            _ => self.buffer.oldest(),
        })
    }

    pub fn set_log_end(&mut self, end: KafkaOffset) {
        self.log_end = Some(end);
    }

    /// Records between what is durable and the log's end, transaction markers included.
    pub fn lag(&self) -> Option<u64> {
        Some(self.log_end?.get().saturating_sub(self.durable.get()))
    }

    /// Memory that buffer and batch take, in bytes.
    pub fn memory(&self) -> usize {
        self.buffer.memory() + self.on_its_way()
    }

    /// Memory of the batch that is on its way, in bytes.
    pub fn on_its_way(&self) -> usize {
        match self.phase {
            Phase::Publishing { memory, .. } => memory,
            _ => 0,
        }
    }

    pub fn buffered_bytes(&self) -> usize {
        self.buffer.size()
    }

    pub fn buffered_records(&self) -> usize {
        self.buffer.records()
    }

    pub fn buffered_since(&self) -> Option<Instant> {
        self.buffer.oldest()
    }

    /// The chain, if nothing is on its way.
    pub fn idle_chain(&self) -> Option<&Chain> {
        match &self.phase {
            Phase::Idle(chain) => Some(chain),
            _ => None,
        }
    }

    /// Takes notice of where the consumer is. While the chain is read again the client still stands where it was, behind
    /// records that were dropped: that says nothing.
    pub fn consumer_is_at(&mut self, position: KafkaOffset, now: Instant) {
        if self.is_opening() || self.wanted_schema.is_some() {
            return;
        }
        if let Some(look_back) = &mut self.look_back {
            look_back.consumer_is_at(position);
        }
        match self.ahead {
            Some((ahead, since)) if position > ahead => self.ahead = Some((position, since)),
            None if position > self.position => self.ahead = Some((position, now)),
            _ => {}
        }
    }

    /// A position that has waited long enough to be published although no record stands before it.
    pub fn stale_position(&self, now: Instant) -> bool {
        self.buffer.is_empty()
            && self.ahead.is_some_and(|(_, since)| now.duration_since(since) >= POSITION_AGE_MAX)
    }

    /// Freezes what is buffered, up to the consumer's position, and hands out the chain with it.
    ///
    /// `None` while a batch is on its way, or the chain is not read yet, or not held against the log.
    pub fn freeze(&mut self) -> Option<(Chain, Batch, TopicContent)> {
        if self.look_back.is_some() {
            return None;
        }
        self.idle_chain()?;
        let Phase::Idle(chain) = std::mem::replace(&mut self.phase, Phase::Opening) else { return None };
        let end = self.read_up_to();
        self.ahead = None;
        let batch = self.buffer.freeze(self.buffered_from, end);
        self.buffered_from = batch.end();
        self.phase = Phase::Publishing { memory: batch.memory(), oldest: batch.oldest() };
        // A batch without records names no folder; its position goes where the chain is.
        let content = self.content.clone().unwrap_or_else(|| TopicContent::Data(Namespace::new("", "")));
        Some((*chain, batch, content))
    }

    /// What is committed is not known for certain.
    pub fn commit_again(&mut self) {
        self.committed = None;
    }

    /// What is to be committed to Kafka, if it moved.
    pub fn commit_due(&mut self) -> Option<(TopicPartition, KafkaOffset, String)> {
        let target = if seeded_bug::planted(SeededBug::OffsetsBeforeFlush) {
            self.ahead.map_or(self.next, |(ahead, _)| ahead)
        } else {
            self.next
        };
        if self.is_opening() || self.committed == Some(target) || target == KafkaOffset::ZERO {
            return None;
        }
        self.committed = Some(target);
        Some((self.identity.partition.clone(), target, self.path.clone()))
    }

    pub fn status(&self) -> serde_json::Value {
        serde_json::json!({
            "topic": &*self.identity.partition.topic,
            "partition": self.identity.partition.partition,
            "next": self.next.get(),
            "position": self.position.get(),
            "lag": self.lag(),
            "bufferedBytes": self.memory(),
            "stagedRows": self.idle_chain().map_or(0, Chain::staged_rows),
            "lastHourOver": self.over.map(|hour| hour.to_string()),
            "paused": self.paused,
            "file": self.path,
        })
    }
}

/// Whether nothing of the hours that are over is missing in the lake, and no file of theirs is open.
fn is_complete(chain: &Chain, over: HourEnd) -> bool {
    chain.position() >= over.barrier && chain.open_hour().is_none_or(|hour| hour > over.hour)
}

/// The parts of a message that decide what becomes of it.
pub fn view_of(message: &impl Message) -> RecordView<'_> {
    let mut record = RecordView {
        value: message.payload(),
        timestamp: message.timestamp().to_millis(),
        ..RecordView::default()
    };
    if let Some(headers) = message.headers() {
        for header in headers.iter() {
            if let Some(value) = header.value {
                record.set_header(header.key, value);
            }
        }
    }
    record
}

/// What a topic holds whose name was cut: the collection of its first record, or else one by the name itself.
pub fn content_of_first(record: &RecordView<'_>, partition: &TopicPartition) -> TopicContent {
    TopicContent::Data(match (record.database, record.collection) {
        (Some(db), Some(coll)) => Namespace::new(db, coll),
        _ => Namespace::new("cut", &*partition.topic),
    })
}

//! One server reply becomes the records of one Kafka transaction.
//!
//! The order inside the transaction is the stream's; the token record comes last. Nothing here commits.

use std::{
    collections::BTreeSet,
    time::{SystemTime, UNIX_EPOCH},
};

use chrono::{SecondsFormat, Utc};
use rdkafka::message::OwnedHeaders;
use shared::{
    cluster_time::ClusterTime,
    dead_letter::{DeadLetterReason, header as dead_letter_header},
    exit::{ExitCode, Stop},
    namespace::Namespace,
    seeded_bug::{self, SeededBug},
    wire::{SCHEMA_VERSION, header},
};

use crate::{
    change_stream::{Reply, unreadable},
    dead_letter::DeadLetter,
    envelope::{
        self, EventContext, EventError, EventProfile, EventRecord, EventTranscoder, FoundDocument, Operation,
        ValueFormat,
    },
    kafka_log::KafkaLog,
    metrics::BatchFigures,
    oversize,
    partitioner::partition_for_key,
    publisher::{Outgoing, PublishError, Publisher, with_header},
    recovery::Tails,
    row_event::RowEvent,
    settings::RecordForm,
    snapshot::{Chunk, RowForm, RowIds, ahead::RowsAhead, plan::CollectionCopy},
    status::rfc3339,
    topics::{Topic, TopicError, TopicIndex, Topics},
    transactions::Transactions,
};

/// Of a topic's retention: an event older than this part of it could expire before anybody has read it.
const RETENTION_SHARE_PERCENT: i64 = 95;

/// Behind a deletion's event id in that of its tombstone. Rows of a snapshot behind the same event go on with a time.
const TOMBSTONE_MARK: &str = "~";

/// With the planted bug `dropped-record`, one event in so many is lost.
const DROPPED_ONE_IN: u64 = 997;

/// Why a batch could not be put into the transaction.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    #[error("{0}")]
    Publish(#[from] PublishError),
    #[error("{0}")]
    Topic(#[from] TopicError),
    #[error("{0}")]
    Stop(#[from] Stop),
}

/// Puts the events of replies into the open transaction of a publisher.
pub struct BatchWriter {
    transcoder: EventTranscoder,
    format: ValueFormat,
    /// `source`, `content-type`, `schema-version`: the same in every record of this run.
    common: OwnedHeaders,
    /// Header text of a cluster time, reused.
    cluster_time: String,
    form: RecordForm,
    /// What the profile's connector has in the headers of every record.
    profile_headers: Vec<(&'static str, String)>,
    transactions: Transactions,
    /// Ids of events that their topics do not take: stubs stand for them.
    too_large: BTreeSet<String>,
    seen: u64,
}

impl BatchWriter {
    /// `source` is `<source id>/<run>`, `format` the transcoder's.
    pub fn new(transcoder: EventTranscoder, format: ValueFormat, source: &str) -> Self {
        Self {
            transcoder,
            format,
            common: common_headers(source, format),
            cluster_time: String::new(),
            form: RecordForm::default(),
            profile_headers: Vec::new(),
            transactions: Transactions::default(),
            too_large: BTreeSet::new(),
            seen: 0,
        }
    }

    /// Writes records in this form from now on; the transcoder is to be of the same. `prefix` is the topics'.
    #[must_use]
    pub fn in_form(mut self, form: RecordForm, prefix: &str, instance: &str) -> Self {
        self.form = form;
        self.profile_headers = match form.profile {
            EventProfile::Debezium => vec![
                ("__debezium.context.connectorLogicalName", prefix.to_owned()),
                ("__debezium.context.taskId", "0".to_owned()),
                ("__debezium.context.connectorName", "mongodb".to_owned()),
                ("__debezium.context.runId", instance.to_owned()),
            ],
            EventProfile::Atlas | EventProfile::MongoKafka => Vec::new(),
        };
        self
    }

    /// That of the values.
    pub fn format(&self) -> ValueFormat {
        self.format
    }

    /// From now on for this run, wherever its stream begins.
    pub fn begin_run(&mut self, source: &str) {
        self.common = common_headers(source, self.format);
        self.transactions.forget();
    }

    /// From now on a stub stands for this event. `false` if one does already, and was not taken either.
    pub fn stub_for(&mut self, event_id: String) -> bool {
        self.too_large.insert(event_id)
    }

    /// The stubs are committed, and with them the position behind their events.
    pub fn stubs_committed(&mut self) {
        self.too_large.clear();
    }

    /// Makes and checks the topics of collections that come for the first time. Before the transaction, whose time would run out
    /// while a thousand topics are made.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub fn prepare(&self, replies: &[Reply], topics: &mut Topics, log: &KafkaLog) -> Result<(), TopicError> {
        // Neighbours are of the same collection as a rule, so most events cost one comparison.
        let mut known: &[u8] = &[];
        for event in replies.iter().flat_map(Reply::events).filter_map(Result::ok) {
            let Some(raw) = envelope::raw_namespace(event) else { continue };
            if raw == known {
                continue;
            }
            if topics.find(raw).is_none() {
                // What is odd about an event is found, and named, when it is written.
                let Some(namespace) = envelope::collection(event) else { continue };
                let Some(coll) = namespace.coll else { continue };
                topics.intern(log.client(), raw, &Namespace::new(namespace.db, coll))?;
            }
            known = raw;
        }
        Ok(())
    }

    /// Sends every event of the replies that is not committed already. Returns what to tell after the commit; the age is still the age
    /// now. `ended`: the MongoDB transaction of the last event has no more events behind these.
    ///
    /// # Errors
    /// See [`BatchError`]; the transaction is in doubt then.
    pub fn write(
        &mut self,
        replies: &[Reply],
        ended: bool,
        to: &mut Destination<'_>,
    ) -> Result<BatchFigures, BatchError> {
        let Some(last) = replies.last() else { return Ok(BatchFigures::default()) };
        let events = replies.iter().flat_map(Reply::events);
        self.transactions.look_at(events.filter_map(Result::ok).map(envelope::transaction), ended);
        let mut batch = Batch::new(last.token.cluster_time(), false);
        for reply in replies {
            for (number, event) in reply.events().enumerate() {
                batch.context.transaction_count = self.transactions.count_of_next();
                self.write_event(event?, reply.looked_up(number), &mut batch, to)?;
            }
        }
        Ok(batch.figures())
    }

    /// Sends every row of a chunk that is not committed already, as an insert of the chunk's time. Returns those that are ahead of the copy's
    /// record too.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_rows(
        &mut self,
        chunk: &Chunk,
        ids: &RowIds,
        copy: &CollectionCopy,
        to: &mut Destination<'_>,
    ) -> Result<(BatchFigures, RowsAhead), BatchError> {
        let mut batch = Batch::new(ids.time, true);
        batch.ahead = Some(&copy.ahead);
        let mut event = RowEvent::new(&copy.namespace, ids);
        let rows = chunk.batch.doc_slices().map_err(|error| unreadable(&error))?;
        for (number, element) in rows.into_iter().skip(chunk.copied_before).enumerate() {
            let element = element.map_err(|error| unreadable(&error))?;
            let row = element.as_document().ok_or_else(|| unreadable(&"a row is no document"))?;
            let event = match chunk.form {
                RowForm::Document => event.of(row, number),
                RowForm::Event => event.renamed(row, number),
            };
            self.write_event(event.map_err(|error| unreadable(&error))?, None, &mut batch, to)?;
        }
        let found = std::mem::take(&mut batch.found);
        Ok((batch.figures(), found))
    }

    fn write_event(
        &mut self,
        event: &[u8],
        looked_up: Option<FoundDocument<'_>>,
        batch: &mut Batch<'_>,
        to: &mut Destination<'_>,
    ) -> Result<(), BatchError> {
        let figures = &mut batch.figures;
        let context = EventContext { looked_up, ..batch.context };
        let record = match self.transcoder.transcode(event, &context) {
            Ok(record) => record,
            Err(error) => {
                let refused = || refused(&error, batch.until);
                let letter = DeadLetter::of(event, &error).ok_or_else(refused)?;
                let withheld = if self.transcoder.may_hide_in(event, &error) {
                    Some(letter.without_content(event.len()).ok_or_else(refused)?)
                } else {
                    None
                };
                let content = withheld.as_deref().unwrap_or(event);
                if to.send_letter(&letter, content, batch.until, &self.common)? {
                    figures.dead_letters.push(letter.reason);
                } else {
                    figures.skipped += 1;
                }
                return Ok(());
            }
        };
        if batch.ahead.is_some_and(|ahead| ahead.contains(record.key)) {
            batch.found.insert(record.key);
            figures.skipped += 1;
            return Ok(());
        }
        let index = topic_of(&record, to.topics)?;
        let topic = to.topics.get(index);
        let partition = partition_for_key(record.key, topic.partitions);
        let tombstone =
            self.form.tombstones && record.is_document_change && record.operation == Operation::Delete;
        if to.tails.is_some_and(|tails| tails.holds(&topic.name, partition, record.event_id)) {
            figures.skipped += 1;
            // A commit may have been torn between the two.
            if tombstone {
                let headers =
                    event_headers(&self.common, &self.profile_headers, &mut self.cluster_time, &record);
                let name = topic.name.clone();
                to.send_tombstone(&record, &name, partition, headers)?;
            }
            return Ok(());
        }
        let stub;
        let record = if !self.too_large.is_empty() && self.too_large.contains(record.event_id) {
            let name = topic.name.clone();
            to.send_parts(&record, &name, &self.common)?;
            figures.stubs += 1;
            figures.dead_letters.push(DeadLetterReason::Oversize);
            stub = oversize::stub(event, record.value, to.topics.dead_letters().0)?;
            self.transcoder
                .transcode(stub.as_bytes(), &batch.context)
                .map_err(|error| refused(&error, batch.until))?
        } else {
            record
        };
        let topic = to.topics.get(index);
        self.seen += 1;
        if seeded_bug::planted(SeededBug::DroppedRecord) && self.seen.is_multiple_of(DROPPED_ONE_IN) {
            return Ok(());
        }
        let headroom_ms = headroom(&record, topic, batch.context.processed_at_ms)?;
        if figures.headroom_seconds.is_none() {
            figures.headroom_seconds = headroom_ms.map(seconds);
        }
        batch.oldest_wall_ms = batch.oldest_wall_ms.into_iter().chain(record.wall_time_ms).min();
        figures.bytes += u64::try_from(record.key.len() + record.value.len()).unwrap_or(0);
        figures.repaired += u64::from(record.repaired_texts);
        figures.hidden.add(record.hidden);
        topic.events.count(record.operation, record.snapshot);

        let headers = event_headers(&self.common, &self.profile_headers, &mut self.cluster_time, &record);
        let headers_of_tombstone = tombstone.then(|| headers.clone());
        to.publisher.send(Outgoing {
            topic: &topic.name,
            partition,
            key: record.key,
            value: Some(record.value),
            timestamp_ms: record.cluster_time.to_millis(),
            headers: with_header(headers, header::EVENT_ID, record.event_id.as_bytes()),
        })?;
        match headers_of_tombstone {
            Some(headers) => {
                let name = topic.name.clone();
                Ok(to.send_tombstone(&record, &name, partition, headers)?)
            }
            None => Ok(()),
        }
    }
}

/// Where the events of an open transaction go.
pub struct Destination<'a> {
    pub tails: Option<&'a Tails>,
    pub topics: &'a mut Topics,
    pub publisher: &'a mut Publisher,
}

/// What is known of a transaction's events while they are written.
struct Batch<'a> {
    context: EventContext<'static>,
    /// Rows that are committed already, and those of them that were met.
    ahead: Option<&'a RowsAhead>,
    found: RowsAhead,
    /// None of its events is of a later time.
    until: ClusterTime,
    oldest_wall_ms: Option<i64>,
    figures: BatchFigures,
}

impl Batch<'_> {
    fn new(until: ClusterTime, snapshot: bool) -> Self {
        let context =
            EventContext { processed_at_ms: now_ms(), snapshot, transaction_count: None, looked_up: None };
        Self {
            context,
            ahead: None,
            found: RowsAhead::default(),
            until,
            oldest_wall_ms: None,
            figures: BatchFigures::default(),
        }
    }

    fn figures(mut self) -> BatchFigures {
        let age = |wall_ms: i64| seconds((self.context.processed_at_ms - wall_ms).max(0));
        self.figures.age_seconds = self.oldest_wall_ms.map(age);
        self.figures
    }
}

impl Destination<'_> {
    /// Puts a record without a value behind that of a deletion, unless it is committed already. Its event id sorts behind the deletion's and
    /// before all that follows.
    fn send_tombstone(
        &mut self,
        record: &EventRecord<'_>,
        topic: &str,
        partition: i32,
        headers: OwnedHeaders,
    ) -> Result<(), PublishError> {
        let event_id = format!("{}{TOMBSTONE_MARK}", record.event_id);
        if self.tails.is_some_and(|tails| tails.holds(topic, partition, &event_id)) {
            return Ok(());
        }
        self.publisher.send(Outgoing {
            topic,
            partition,
            key: record.key,
            value: None,
            timestamp_ms: record.cluster_time.to_millis(),
            headers: with_header(headers, header::EVENT_ID, event_id.as_bytes()),
        })
    }

    /// Puts a value that its topic does not take into the transaction, as parts.
    fn send_parts(
        &mut self,
        record: &EventRecord<'_>,
        topic_of_stub: &str,
        common: &OwnedHeaders,
    ) -> Result<(), PublishError> {
        let letter = DeadLetter::oversize(record, topic_of_stub);
        let (topic, partitions) = self.topics.dead_letters();
        let partition = partition_for_key(record.event_id.as_bytes(), partitions);
        let failed_at = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let of = record.value.len().div_ceil(oversize::PART_BYTES);
        for (number, part) in (1..).zip(record.value.chunks(oversize::PART_BYTES)) {
            let place = format!("{number}/{of}");
            let headers = letter.headers(common, &failed_at);
            self.publisher.send(Outgoing {
                topic,
                partition,
                key: record.event_id.as_bytes(),
                value: Some(part),
                timestamp_ms: record.cluster_time.to_millis(),
                headers: with_header(headers, dead_letter_header::PART, place.as_bytes()),
            })?;
        }
        Ok(())
    }

    /// Puts a dead letter into the transaction. Returns whether it had to be sent: after a doubt it may be committed already.
    fn send_letter(
        &mut self,
        letter: &DeadLetter,
        content: &[u8],
        until: ClusterTime,
        common: &OwnedHeaders,
    ) -> Result<bool, PublishError> {
        let (topic, partitions) = self.topics.dead_letters();
        let partition = partition_for_key(letter.event_id.as_bytes(), partitions);
        if self.tails.is_some_and(|tails| tails.holds(topic, partition, &letter.event_id)) {
            return Ok(false);
        }
        let time = letter.cluster_time.unwrap_or(until);
        tracing::warn!(event_id = letter.event_id, reason = letter.reason.as_str(), "dead letter");
        self.publisher.send(Outgoing {
            topic,
            partition,
            key: letter.event_id.as_bytes(),
            value: Some(content),
            timestamp_ms: time.to_millis(),
            headers: letter.headers(common, &Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)),
        })?;
        Ok(true)
    }
}

/// Milliseconds since 1970, by this machine's clock.
pub fn now_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}

fn seconds(ms: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a metric; 2^53 ms are 285,000 years")]
    let ms = ms as f64;
    ms / 1000.0
}

/// Events about a document go to their collection, all others to the control topic.
fn topic_of(record: &EventRecord<'_>, topics: &Topics) -> Result<TopicIndex, Stop> {
    let Some(namespace) = record.namespace.as_ref().filter(|_| record.is_document_change) else {
        return Ok(topics.control());
    };
    // Nothing may go to a topic whose record is not committed yet: recovery would not look for it there.
    topics.find(namespace.raw).ok_or_else(|| {
        Stop::new(ExitCode::Defect, format!("the topic of event {} was not prepared", record.event_id))
    })
}

/// How much older the event may get, in milliseconds; `None` in a topic that keeps everything.
///
/// Brokers expire a segment by its latest time, so an event that is older than the retention can vanish within seconds of being written: that
/// would be a silent loss. It is refused before.
fn headroom(record: &EventRecord<'_>, topic: &Topic, now_ms: i64) -> Result<Option<i64>, Stop> {
    let Some(retention) = topic.retention else { return Ok(None) };
    let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
    let age_ms = now_ms - record.cluster_time.to_millis();
    if age_ms > retention_ms / 100 * RETENTION_SHARE_PERCENT {
        return Err(Stop::new(
            ExitCode::Configuration,
            format!(
                "the next event of topic {} is of {} and as good as expired there: retention.ms is {retention_ms}, and brokers would delete it before it can be read. \
                 Nothing is lost yet: raise retention.ms of the topic (kafka-configs --alter --topic {} --add-config retention.ms=…) above the age of the event \
                 and start again (event {})",
                topic.name,
                rfc3339(record.cluster_time),
                topic.name,
                record.event_id
            ),
        ));
    }
    Ok(Some(retention_ms - age_ms))
}

/// An event that is neither record nor dead letter stops the source: skipping it would be silent.
fn refused(error: &EventError, until: ClusterTime) -> Stop {
    let code = match error {
        EventError::Unreadable(_) => ExitCode::Defect,
        EventError::Incomplete { .. } | EventError::NameClash { .. } | EventError::HiddenKey { .. } => {
            ExitCode::Configuration
        }
    };
    Stop::new(code, format!("{error}. It lies before cluster time {until}"))
}

/// What every record of a run has; `source` is `<source id>/<run>`.
pub fn common_headers(source: &str, format: ValueFormat) -> OwnedHeaders {
    let headers = with_header(OwnedHeaders::new_with_capacity(3), header::SOURCE, source.as_bytes());
    let headers = with_header(headers, header::CONTENT_TYPE, format.content_type().as_bytes());
    with_header(headers, header::SCHEMA_VERSION, SCHEMA_VERSION.as_bytes())
}

/// All but the event id.
fn event_headers(
    common: &OwnedHeaders,
    profile: &[(&'static str, String)],
    cluster_time: &mut String,
    record: &EventRecord<'_>,
) -> OwnedHeaders {
    use std::fmt::Write as _;

    cluster_time.clear();
    write!(cluster_time, "{}", record.cluster_time).expect("a String takes everything");
    let mut headers = with_header(common.clone(), header::OPERATION_TYPE, record.operation.name().as_bytes());
    if let Some(namespace) = &record.namespace {
        headers = with_header(headers, header::DATABASE, namespace.db.as_bytes());
        if let Some(coll) = namespace.coll {
            headers = with_header(headers, header::COLLECTION, coll.as_bytes());
        }
    }
    if record.snapshot {
        headers = with_header(headers, header::SNAPSHOT, b"true");
    }
    if record.is_document_change {
        for (name, value) in profile {
            headers = with_header(headers, name, value.as_bytes());
        }
    }
    with_header(headers, header::CLUSTER_TIME, cluster_time.as_bytes())
}

/// A record of the token topic.
///
/// # Errors
/// See [`PublishError`].
pub fn send_state(
    publisher: &mut Publisher,
    topic: &str,
    key: &str,
    value: &[u8],
) -> Result<(), PublishError> {
    publisher.send_behind(Outgoing {
        topic,
        partition: 0,
        key: key.as_bytes(),
        value: Some(value),
        // Compaction and retention of this topic go by order; the clock is for people.
        timestamp_ms: now_ms(),
        headers: OwnedHeaders::new(),
    })
}

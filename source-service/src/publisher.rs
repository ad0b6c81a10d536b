//! The transactional producer, and the doubts about it.
//!
//! One [`Publisher`] lives from `init_transactions` to its first doubt. It is never aborted: librdkafka sends an abort with the old
//! epoch, which fences nothing, while the `init_transactions` of the next producer ends an open transaction *and* fences every
//! request that is still on its way. So after any doubt the publisher is dropped, and recovery reads what is really there.
//!
//! A commit that returned OK may have been disturbed too: librdkafka sends EndTxn again by itself after a lost connection, and the
//! first copy may arrive late and end the **next** transaction. Hence [`Publisher::disturbed`]: lost connections (error callback, at once) and
//! re-sent, timed-out requests or disconnects (statistics, each second). It is best effort; reading the tails is what makes it exact.
//!
//! With [`Delivery::AtLeastOnce`] there are no transactions: what is to cover records is sent only once those are acknowledged
//! ([`Publisher::send_behind`]), and after any doubt everything behind the last position is published again, in the same order. That the order within a partition
//! holds rests on idempotence: a broker refuses what is numbered behind a record that failed. But of a producer that a partition has never heard of, or not for long, it takes any
//! number: so the first record there goes alone, and others only when it is acknowledged ([`Publisher::send`]; seen on Kafka 4.1).
//!
//! All calls block: they belong on the pump's thread.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, Message as _,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Header, Headers as _, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext},
};
use serde::Deserialize;
use shared::{kafka_client, kafka_ffi, served_producer::ServedProducer, wire::header};

/// So many bytes of one transaction may wait in librdkafka's queue; then they are sent before more is added.
const QUEUED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Above what any event of 16 MB can become as JSON: whether it is too large for the topic is decided after compression, by the broker.
const MESSAGE_BYTES_MAX: &str = "134217728";

/// A record on its way. `headers` are the caller's to build, because only events have all of them.
pub struct Outgoing<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub key: &'a [u8],
    /// `None` for a tombstone.
    pub value: Option<&'a [u8]>,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    pub headers: OwnedHeaders,
}

/// A broker forgets a producer after `producer.id.expiration.ms`, a day if nobody has set it otherwise.
const WARM_FOR: Duration = Duration::from_secs(600);

/// `DELIVERY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Delivery {
    /// Records and the position that covers them are one Kafka transaction.
    ExactlyOnce,
    /// Records first, then the position: for brokers without transactions. What follows a position may be there again.
    AtLeastOnce,
}

/// What went wrong, by what the caller does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Anything may have happened: take a new publisher and recover.
    #[error("{0}")]
    Doubt(String),
    /// The epoch is not ours any more: another instance, or an own transaction that timed out.
    #[error("the broker has fenced this producer: {0}")]
    Fenced(String),
    /// The broker refuses a record for its size, after compression.
    #[error("a record of topic {topic} is too large (event {event_id})")]
    TooLarge { topic: String, event_id: String },
    /// A right is missing.
    #[error("{0}")]
    NotAllowed(String),
    /// A setting has to be changed.
    #[error("{0}")]
    Refused(String),
}

fn publish_error(doing: &str, error: &KafkaError) -> PublishError {
    let text = format!("{doing}: {error}");
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::Fenced
            | RDKafkaErrorCode::InvalidProducerEpoch
            | RDKafkaErrorCode::ProducerFenced,
        ) => PublishError::Fenced(text),
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::TransactionalIdAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::SaslAuthenticationFailed,
        ) => PublishError::NotAllowed(text),
        Some(RDKafkaErrorCode::InvalidTransactionTimeout) => PublishError::Refused(format!(
            "{text}: TRANSACTION_TIMEOUT is above the brokers' transaction.max.timeout.ms"
        )),
        _ => PublishError::Doubt(text),
    }
}

/// A record that its topic does not take.
struct TooLarge {
    bytes: usize,
    topic: String,
    event_id: String,
}

/// What librdkafka's threads report about one producer.
#[derive(Default)]
struct Reports {
    failed: AtomicU64,
    /// Records were dropped unsent, because their transaction had failed already.
    purged: AtomicBool,
    first_failure: OnceLock<PublishError>,
    /// Of the records that were refused as too large, the largest: a broker refuses the whole batch of the one that is.
    too_large: Mutex<Option<TooLarge>>,
    disturbed: AtomicBool,
    /// Before the first statistics there is nothing to compare with.
    has_baseline: AtomicBool,
    resent: AtomicI64,
    disconnects: AtomicI64,
}

impl Reports {
    fn disturb(&self, cause: &str) {
        if !self.disturbed.swap(true, Ordering::AcqRel) {
            tracing::debug!(cause, "the producer was disturbed");
        }
    }

    fn refused_as_too_large(&self, message: &BorrowedMessage<'_>) {
        let bytes = message.payload_len();
        let mut largest = self.too_large.lock().unwrap_or_else(PoisonError::into_inner);
        if largest.as_ref().is_none_or(|largest| largest.bytes < bytes) {
            let (topic, event_id) = (message.topic().to_owned(), event_id(message.headers()));
            *largest = Some(TooLarge { bytes, topic, event_id });
        }
    }

    fn too_large(&self) -> Option<PublishError> {
        let largest = self.too_large.lock().unwrap_or_else(PoisonError::into_inner);
        largest.as_ref().map(|TooLarge { topic, event_id, .. }| PublishError::TooLarge {
            topic: topic.clone(),
            event_id: event_id.clone(),
        })
    }

    fn compare(&self, statistics: &Statistics) {
        let sum = |count: fn(&BrokerStatistics) -> i64| statistics.brokers.values().map(count).sum::<i64>();
        let resent = sum(|broker| broker.txretries + broker.req_timeouts);
        let disconnects = sum(|broker| broker.disconnects);
        let resent_before = self.resent.swap(resent, Ordering::AcqRel);
        let disconnects_before = self.disconnects.swap(disconnects, Ordering::AcqRel);
        let first = !self.has_baseline.swap(true, Ordering::AcqRel);
        if !first && (resent > resent_before || disconnects > disconnects_before) {
            self.disturb("statistics");
        }
    }
}

#[derive(Deserialize)]
struct Statistics {
    brokers: HashMap<String, BrokerStatistics>,
}

#[derive(Deserialize)]
struct BrokerStatistics {
    #[serde(default)]
    txretries: i64,
    #[serde(default)]
    req_timeouts: i64,
    #[serde(default)]
    disconnects: i64,
}

/// librdkafka's view of the reports.
struct Context(Arc<Reports>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka_client::forward_log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka_client::forward_error(&error, reason);
        self.0.disturb("error callback");
    }

    fn stats_raw(&self, statistics: &[u8]) {
        match serde_json::from_slice(statistics) {
            Ok(statistics) => self.0.compare(&statistics),
            Err(error) => tracing::warn!(%error, "librdkafka's statistics cannot be read"),
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let Err((error, message)) = result else { return };
        if matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight)
        ) {
            self.0.purged.store(true, Ordering::Release);
        }
        self.0.failed.fetch_add(1, Ordering::AcqRel);
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize) => {
                self.0.refused_as_too_large(message);
            }
            _ => drop(self.0.first_failure.set(publish_error("deliver a record", error))),
        }
    }
}

fn event_id(headers: Option<&rdkafka::message::BorrowedHeaders>) -> String {
    let id = headers.and_then(|headers| headers.iter().find(|header| header.key == header::EVENT_ID)?.value);
    id.map_or_else(|| "unknown".to_owned(), |id| String::from_utf8_lossy(id).into_owned())
}

/// The configuration of a source's producer, on top of the connection's.
pub fn producer_config(
    mut config: ClientConfig,
    source_id: &str,
    transaction_timeout: Duration,
    delivery: Delivery,
) -> ClientConfig {
    // A request that outlives its transaction helps nobody, and librdkafka insists.
    let request_timeout = transaction_timeout / 2;
    match delivery {
        Delivery::ExactlyOnce => config
            .set("transactional.id", format!("atlas-source-{source_id}"))
            .set("transaction.timeout.ms", transaction_timeout.as_millis().to_string()),
        // A record that timed out by itself would leave a gap that this guarantee does not cover: the flush times out instead.
        Delivery::AtLeastOnce => {
            config.set("enable.gapless.guarantee", "true").set("message.timeout.ms", "0")
        }
    };
    config
        .set("socket.timeout.ms", request_timeout.as_millis().to_string())
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4")
        // Flushing at the end of a batch does not wait for this; it only fills packets while a batch is being written.
        .set("linger.ms", "5")
        .set("message.max.bytes", MESSAGE_BYTES_MAX)
        .set("queue.buffering.max.kbytes", "131072")
        .set("queue.buffering.max.messages", "100000")
        .set("statistics.interval.ms", "1000");
    config
}

/// One producer, initialised, without doubt so far.
pub struct Publisher {
    delivery: Delivery,
    producer: ServedProducer<Context>,
    reports: Arc<Reports>,
    timeout: Duration,
    queued_bytes: usize,
    /// When a record went to a partition that the broker knows this producer in. Only without transactions.
    warm: HashMap<String, HashMap<i32, Instant>>,
}

impl Publisher {
    /// Creates the producer. Of transactions, calls `init_transactions`: ends what an earlier one with the same id left open and fences it.
    ///
    /// # Errors
    /// [`PublishError::Doubt`] if Kafka did not answer in time; try again.
    pub fn start(config: &ClientConfig, timeout: Duration, delivery: Delivery) -> Result<Self, PublishError> {
        let reports = Arc::new(Reports::default());
        let producer = ServedProducer::new(config, Context(Arc::clone(&reports))).map_err(|error| {
            PublishError::Refused(format!(
                "the Kafka client refuses its configuration: {error}; see KAFKA_OPTIONS"
            ))
        })?;
        if delivery == Delivery::ExactlyOnce {
            producer
                .init_transactions(timeout)
                .map_err(|error| publish_error("init_transactions", &error))?;
        }
        // What happened while connecting concerns no transaction of this producer.
        reports.disturbed.store(false, Ordering::Release);
        Ok(Self { delivery, producer, reports, timeout, queued_bytes: 0, warm: HashMap::new() })
    }

    /// Whether something happened since the start that makes the next transaction unsafe with this producer.
    pub fn disturbed(&self) -> bool {
        self.delivery == Delivery::ExactlyOnce && self.reports.disturbed.load(Ordering::Acquire)
    }

    /// # Errors
    /// See [`PublishError`].
    pub fn begin(&mut self) -> Result<(), PublishError> {
        self.queued_bytes = 0;
        if self.delivery == Delivery::AtLeastOnce {
            return Ok(());
        }
        self.producer.begin_transaction().map_err(|error| publish_error("begin a transaction", &error))
    }

    /// Queues a record; waits for room when the queue is full.
    ///
    /// # Errors
    /// See [`PublishError`]. That the record was refused may also show only at the commit.
    pub fn send(&mut self, record: Outgoing<'_>) -> Result<(), PublishError> {
        if self.delivery == Delivery::ExactlyOnce {
            return self.queue(record);
        }
        let (topic, partition) = (record.topic, record.partition);
        let last = self.warm.get(topic).and_then(|partitions| partitions.get(&partition));
        let is_warm = last.is_some_and(|sent| sent.elapsed() < WARM_FOR);
        self.queue(record)?;
        if !is_warm {
            self.deliver()?;
        }
        match self.warm.get_mut(topic) {
            Some(partitions) => drop(partitions.insert(partition, Instant::now())),
            None => drop(self.warm.insert(topic.to_owned(), HashMap::from([(partition, Instant::now())]))),
        }
        Ok(())
    }

    fn queue(&mut self, record: Outgoing<'_>) -> Result<(), PublishError> {
        let bytes = record.key.len() + record.value.map_or(0, <[u8]>::len);
        if self.queued_bytes > 0 && self.queued_bytes + bytes > QUEUED_BYTES_MAX {
            self.flush()?;
        }
        self.queued_bytes += bytes;
        let mut next = BaseRecord::to(record.topic)
            .partition(record.partition)
            .key(record.key)
            .timestamp(record.timestamp_ms)
            .headers(record.headers);
        next.payload = record.value;
        let deadline = Instant::now() + self.timeout;
        loop {
            match self.producer.send(next) {
                Ok(()) => return Ok(()),
                Err((error, refused)) => {
                    if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull)
                        || Instant::now() > deadline
                    {
                        return Err(self
                            .failure()
                            .unwrap_or_else(|| publish_error("queue a record", &error)));
                    }
                    // Room comes when delivery reports do; an empty queue has the most room there is.
                    self.flush()?;
                    next = refused;
                }
            }
        }
    }

    /// Queues a record that speaks for those before it: it must not be there without them.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_behind(&mut self, record: Outgoing<'_>) -> Result<(), PublishError> {
        if self.delivery == Delivery::AtLeastOnce {
            self.deliver()?;
        }
        self.send(record)
    }

    /// Waits until every record that was queued is acknowledged.
    fn deliver(&mut self) -> Result<(), PublishError> {
        let flushed = self.flush();
        match self.failure() {
            Some(failure) => Err(failure),
            None => flushed,
        }
    }

    /// Sends what is queued and ends the transaction. OK means committed.
    ///
    /// # Errors
    /// See [`PublishError`]; after any of them the publisher must be dropped.
    pub fn commit(&mut self) -> Result<(), PublishError> {
        // The wrapper's own flush polls in slices of 100 ms; ours returns with the last delivery report.
        self.deliver()?;
        if self.delivery == Delivery::AtLeastOnce {
            return Ok(());
        }
        // Without a limit librdkafka sends EndTxn again and again while the coordinator hangs, long after the transaction's own end. A
        // commit that was given up may still happen: that is a doubt like any other.
        self.producer
            .commit_transaction(self.timeout)
            .map_err(|error| self.failure().unwrap_or_else(|| publish_error("commit", &error)))
    }

    fn flush(&mut self) -> Result<(), PublishError> {
        self.queued_bytes = 0;
        kafka_ffi::flush(self.producer.client(), self.timeout).map_err(|error| publish_error("flush", &error))
    }

    /// The reason behind the errors that follow from it: a fenced producer purges its queue, and each purged record fails.
    fn failure(&self) -> Option<PublishError> {
        // Without a transaction a record that is refused is fatal for the producer, which says no more than that.
        if self.delivery == Delivery::AtLeastOnce
            && let Some(too_large) = self.reports.too_large()
        {
            return Some(too_large);
        }
        if let Some((code, text)) = self.producer.client().fatal_error() {
            return Some(publish_error(&text, &KafkaError::Global(code)));
        }
        if self.reports.failed.load(Ordering::Acquire) == 0 {
            return None;
        }
        // What fails beside it, or after it, fails because of it.
        if let Some(too_large) = self.reports.too_large() {
            return Some(too_large);
        }
        if self.delivery == Delivery::ExactlyOnce
            && self.reports.purged.load(Ordering::Acquire)
            && let Some(cause) = self.cause_of_purge()
        {
            return Some(cause);
        }
        self.reports.first_failure.get().cloned()
    }

    /// A transaction that has failed, as for a missing right, drops its records, and those say no more than that. The transaction says
    /// why when it is asked to end: with records missing librdkafka sends nothing for that and answers at once.
    fn cause_of_purge(&self) -> Option<PublishError> {
        let error = self.producer.commit_transaction(self.timeout).err()?;
        match publish_error("write into a transaction", &error) {
            PublishError::Doubt(_) => None,
            cause => Some(cause),
        }
    }
}

/// A header with a text or bytes as its value.
pub fn with_header(headers: OwnedHeaders, key: &str, value: &[u8]) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(txretries: i64, req_timeouts: i64, disconnects: i64) -> Statistics {
        let broker = BrokerStatistics { txretries, req_timeouts, disconnects };
        Statistics { brokers: [("a".to_owned(), broker)].into() }
    }

    #[test]
    fn only_what_rises_disturbs() {
        let reports = Reports::default();
        reports.compare(&statistics(1, 0, 2));
        reports.compare(&statistics(1, 0, 2));
        assert!(!reports.disturbed.load(Ordering::Acquire));
        reports.compare(&statistics(1, 1, 2));
        assert!(reports.disturbed.load(Ordering::Acquire));
    }

    #[test]
    fn fencing_is_told_from_doubt() {
        let fenced =
            publish_error("commit", &KafkaError::MessageProduction(RDKafkaErrorCode::InvalidProducerEpoch));
        assert!(matches!(fenced, PublishError::Fenced(_)));
        let doubt =
            publish_error("commit", &KafkaError::MessageProduction(RDKafkaErrorCode::OperationTimedOut));
        assert!(matches!(doubt, PublishError::Doubt(_)));
    }
}

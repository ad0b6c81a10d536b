//! One Kafka transaction by one producer: records back to their topics, and markers.
//!
//! The transactional id is fixed per dead-letter topic, so a second command fences the first one, and `init_transactions` ends what a killed one
//! left open. After any doubt it is dropped, as the source's publisher, and not aborted: only one whose records are all there may be. All calls block.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::OwnedHeaders,
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext},
    util::Timeout,
};
use shared::{
    exit::{ExitCode, Stop},
    kafka_client, kafka_ffi,
    served_producer::ServedProducer,
};

/// Of one transaction, and of every wait for the brokers.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What goes wrong, by what the caller does.
#[derive(Debug)]
pub(super) enum TransactionError {
    /// Anything may have happened: another producer, and read what is there.
    Doubt(String),
    Stop(Stop),
}

fn judge(doing: &str, error: &KafkaError) -> TransactionError {
    use RDKafkaErrorCode as Code;
    let stop =
        |code, remedy: &str| TransactionError::Stop(Stop::new(code, format!("{doing}: {error}. {remedy}")));
    match error.rdkafka_error_code() {
        Some(Code::Fenced | Code::InvalidProducerEpoch | Code::ProducerFenced) => stop(
            ExitCode::Fenced,
            "Another dlq command has taken over: nothing is done by halves. Let it end, and type this one again",
        ),
        Some(
            Code::TopicAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::SaslAuthenticationFailed,
        ) => stop(
            ExitCode::NotAllowed,
            "Retry and drop need Write on the data topics, the dead-letter topic and the transactional id: kafka/acls-operator.conf",
        ),
        Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => {
            stop(ExitCode::Configuration, "Raise the topic's max.message.bytes, or leave that letter out")
        }
        _ => TransactionError::Doubt(format!("{doing}: {error}")),
    }
}

#[derive(Default)]
struct FirstFailure(OnceLock<KafkaError>);

struct Context(Arc<FirstFailure>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        kafka_client::forward_log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka_client::forward_error(&error, reason);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            drop(self.0.0.set(error.clone()));
        }
    }
}

/// A record on its way.
pub(super) struct Outgoing<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    /// Milliseconds since 1970; `None`: now.
    pub timestamp: Option<i64>,
    pub headers: OwnedHeaders,
}

/// A producer that has fenced every other one of its id, and has not begun.
pub(super) struct Transaction {
    producer: ServedProducer<Context>,
    failure: Arc<FirstFailure>,
}

impl Transaction {
    pub(super) fn prepare(base: &ClientConfig, dead_letters: &str) -> Result<Self, TransactionError> {
        let mut config = base.clone();
        config
            .set("transactional.id", format!("atlas-dlq-{dead_letters}"))
            .set("transaction.timeout.ms", TIMEOUT.as_millis().to_string())
            .set("socket.timeout.ms", (TIMEOUT / 2).as_millis().to_string())
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", "lz4")
            .set("linger.ms", "5")
            .set("message.max.bytes", "1000000000");
        let failure = Arc::new(FirstFailure::default());
        let producer = ServedProducer::new(&config, Context(Arc::clone(&failure)))
            .map_err(|error| judge("the Kafka client", &error))?;
        producer.init_transactions(TIMEOUT).map_err(|error| judge("init_transactions", &error))?;
        Ok(Self { producer, failure })
    }

    pub(super) fn begin(&self) -> Result<(), TransactionError> {
        self.producer.begin_transaction().map_err(|error| judge("begin a transaction", &error))
    }

    pub(super) fn send(&self, record: Outgoing<'_>) -> Result<(), TransactionError> {
        let mut next =
            BaseRecord::<[u8], [u8]>::to(record.topic).partition(record.partition).headers(record.headers);
        next.key = record.key;
        next.payload = record.value;
        next.timestamp = record.timestamp;
        loop {
            match self.producer.send(next) {
                Ok(()) => return Ok(()),
                Err((error, again)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                    self.flush()?;
                    next = again;
                }
                Err((error, _)) => return Err(judge("send a record", &error)),
            }
        }
    }

    /// All records are in their logs, where nobody sees them yet; but whoever reads committed records waits for what becomes of them.
    pub(super) fn write_out(&self) -> Result<(), TransactionError> {
        let flushed = self.flush();
        match self.failure() {
            Some(error) => Err(error),
            None => flushed,
        }
    }

    /// Takes all records back. Only behind [`Self::write_out`]: no request may be on its way.
    pub(super) fn abort(self) -> Result<(), TransactionError> {
        self.producer.abort_transaction(TIMEOUT).map_err(|error| judge("abort", &error))
    }

    /// OK means committed.
    pub(super) fn commit(self) -> Result<(), TransactionError> {
        self.write_out()?;
        // librdkafka takes what is left of the transaction's own timeout.
        self.producer
            .commit_transaction(Timeout::Never)
            .map_err(|error| self.failure().unwrap_or_else(|| judge("commit", &error)))
    }

    fn flush(&self) -> Result<(), TransactionError> {
        kafka_ffi::flush(self.producer.client(), TIMEOUT).map_err(|error| judge("flush", &error))
    }

    /// The reason behind the errors that follow from it. A transaction that has failed drops its records, and those say no more than that;
    /// asked to end, it says why, without a request.
    fn failure(&self) -> Option<TransactionError> {
        use RDKafkaErrorCode as Code;
        if let Some((code, text)) = self.producer.client().fatal_error() {
            return Some(judge(&text, &KafkaError::Global(code)));
        }
        let error = self.failure.0.get()?;
        if matches!(error.rdkafka_error_code(), Some(Code::PurgeQueue | Code::PurgeInflight))
            && let Err(cause) = self.producer.commit_transaction(TIMEOUT)
        {
            return Some(judge("write into a transaction", &cause));
        }
        Some(judge("deliver a record", error))
    }
}

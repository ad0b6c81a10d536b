//! Records that cannot become a line go to the dead-letter topic, byte for byte, before the position moves past them.
//!
//! At least once: a batch that is read again delivers its letters again, under the same key
//! `<topic>/<partition>/<offset>`, and the same key is the same letter. What cannot be written there stops the service;
//! nothing is ever skipped.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{SecondsFormat, Utc};
use rdkafka::{
    ClientConfig, ClientContext, Message,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext},
};
use shared::{
    dead_letter::{ERROR_TEXT_BYTES_MAX, header},
    exit::ExitCode,
    kafka_client,
    kafka_position::{KafkaOffset, TopicPartition},
    served_producer::ServedProducer,
};
use thiserror::Error;
use tokio::sync::oneshot;

use crate::{
    buffer::DeadLetter,
    dead_letter_topic::{DeadLetterTopic, code_of},
};

/// librdkafka retries for this long before it gives a letter up.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);

/// A letter that could not be written.
#[derive(Debug, Error)]
#[error("dead letter {letter} cannot be written to {topic}: {cause}")]
pub struct DeadLetterError {
    letter: String,
    topic: String,
    cause: String,
    code: Option<RDKafkaErrorCode>,
}

impl DeadLetterError {
    pub fn exit_code(&self) -> ExitCode {
        use RDKafkaErrorCode as Code;
        match self.code {
            Some(
                Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed | Code::Authentication,
            ) => ExitCode::NotAllowed,
            Some(Code::MessageSizeTooLarge | Code::InvalidTopic | Code::PolicyViolation) => {
                ExitCode::Configuration
            }
            _ => ExitCode::Temporary,
        }
    }
}

/// The way into the dead-letter topic.
pub struct DeadLetterQueue {
    topic: DeadLetterTopic,
    config: ClientConfig,
    /// Made for the first letter: most sinks never write one. Made anew after an error that it cannot recover from.
    producer: Mutex<Option<Arc<LetterProducer>>>,
    version: &'static str,
}

type LetterProducer = ServedProducer<Receipts>;

/// Gives each letter's delivery report to whoever waits for it.
struct Receipts;

impl ClientContext for Receipts {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, text: &str) {
        kafka_client::forward_log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka_client::forward_error(&error, reason);
    }
}

impl ProducerContext for Receipts {
    type DeliveryOpaque = Box<oneshot::Sender<Result<(), KafkaError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, receipt: Self::DeliveryOpaque) {
        let result = result.as_ref().map(|_| ()).map_err(|(error, _)| error.clone());
        if receipt.send(result).is_err() {
            tracing::debug!("a dead letter was delivered after its batch was given up");
        }
    }
}

impl DeadLetterQueue {
    pub fn new(base: &ClientConfig, topic: DeadLetterTopic, version: &'static str) -> Self {
        let mut config = base.clone();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "5")
            .set("compression.type", "lz4")
            .set("message.max.bytes", "1000000000")
            .set("message.timeout.ms", DELIVERY_TIMEOUT.as_millis().to_string());
        Self { topic, config, producer: Mutex::new(None), version }
    }

    /// Writes all letters at or after `from` and waits until the brokers have them.
    ///
    /// # Errors
    /// If one could not be written.
    pub async fn deliver(
        &self,
        partition: &TopicPartition,
        letters: &[DeadLetter],
        from: KafkaOffset,
    ) -> Result<(), DeadLetterError> {
        let letters: Vec<&DeadLetter> = letters.iter().filter(|letter| letter.offset >= from).collect();
        let Some(first) = letters.first() else { return Ok(()) };
        self.topic
            .ensure()
            .await
            .map_err(|error| self.failed(partition, first, error.to_string(), code_of(&error)))?;
        let producer =
            self.producer().map_err(|error| self.failed(partition, first, error.to_string(), None))?;
        let delivered = self.deliver_with(&producer, partition, letters).await;
        if producer.client().fatal_error().is_some() {
            self.discard(producer);
        }
        delivered
    }

    async fn deliver_with(
        &self,
        producer: &LetterProducer,
        partition: &TopicPartition,
        letters: Vec<&DeadLetter>,
    ) -> Result<(), DeadLetterError> {
        let mut receipts = Vec::with_capacity(letters.len());
        for letter in letters {
            receipts.push((letter, self.send(producer, partition, letter).await?));
        }
        for (letter, receipt) in receipts {
            let report = receipt.await.unwrap_or(Err(KafkaError::Canceled));
            report.map_err(|error| {
                self.failed(partition, letter, error.to_string(), error.rdkafka_error_code())
            })?;
        }
        Ok(())
    }

    fn producer(&self) -> Result<Arc<LetterProducer>, KafkaError> {
        let mut current = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(producer) = &*current {
            return Ok(Arc::clone(producer));
        }
        let producer = Arc::new(ServedProducer::new(&self.config, Receipts)?);
        *current = Some(Arc::clone(&producer));
        Ok(producer)
    }

    /// The next letter gets another producer: this one refuses everything from now on.
    fn discard(&self, broken: Arc<LetterProducer>) {
        let mut current = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &broken)) {
            *current = None;
            tracing::warn!("the producer of dead letters cannot go on: another one is made");
        }
        // Its end waits for its thread.
        tokio::task::spawn_blocking(move || drop(broken));
    }

    async fn send(
        &self,
        producer: &LetterProducer,
        partition: &TopicPartition,
        letter: &DeadLetter,
    ) -> Result<oneshot::Receiver<Result<(), KafkaError>>, DeadLetterError> {
        let key = key_of(partition, letter);
        let (sender, receipt) = oneshot::channel();
        let mut record = BaseRecord::with_opaque_to(self.topic.name(), Box::new(sender))
            .key(&key)
            .headers(self.headers(partition, letter));
        if let Some(value) = &letter.value {
            record = record.payload(value);
        }
        loop {
            match producer.send(record) {
                Ok(()) => return Ok(receipt),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    record = again;
                    // The queue empties as the producer's own thread serves delivery reports.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err((error, _)) => {
                    return Err(self.failed(
                        partition,
                        letter,
                        error.to_string(),
                        error.rdkafka_error_code(),
                    ));
                }
            }
        }
    }

    fn headers(&self, partition: &TopicPartition, letter: &DeadLetter) -> OwnedHeaders {
        let mut headers = OwnedHeaders::new_with_capacity(letter.headers.len() + 12);
        for (name, value) in &letter.headers {
            headers = headers.insert(Header { key: name, value: value.as_deref() });
        }
        let text = |headers: OwnedHeaders, name, value: &str| {
            headers.insert(Header { key: name, value: Some(value) })
        };
        let original = |name| {
            let value = letter.headers.iter().rev().find(|(header, _)| header == name)?.1.as_deref()?;
            std::str::from_utf8(value).ok()
        };
        headers = text(headers, header::REASON, letter.reason.as_str());
        headers = text(headers, header::ERROR, cut(&letter.error));
        headers = text(headers, header::STAGE, "validate");
        headers = text(headers, header::ATTEMPTS, "1");
        headers = text(headers, header::ORIGINAL_TOPIC, &partition.topic);
        headers = text(headers, header::ORIGINAL_PARTITION, &partition.partition.to_string());
        headers = text(headers, header::ORIGINAL_OFFSET, &letter.offset.to_string());
        if let Some(timestamp) = letter.timestamp {
            headers = text(headers, header::ORIGINAL_TIMESTAMP, &timestamp.to_string());
        }
        if let Some(key) = &letter.key {
            headers = headers.insert(Header { key: header::ORIGINAL_KEY, value: Some(key) });
        }
        if let Some(event_id) = original(shared::wire::header::EVENT_ID) {
            headers = text(headers, header::EVENT_ID, event_id);
        }
        if let Some(collection) = original(shared::wire::header::COLLECTION) {
            headers = text(headers, header::COLLECTION, collection);
        }
        headers = text(headers, header::FAILED_AT, &Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true));
        text(headers, header::SERVICE_VERSION, self.version)
    }

    fn failed(
        &self,
        partition: &TopicPartition,
        letter: &DeadLetter,
        cause: String,
        code: Option<RDKafkaErrorCode>,
    ) -> DeadLetterError {
        DeadLetterError {
            letter: key_of(partition, letter),
            topic: self.topic.name().to_owned(),
            cause,
            code,
        }
    }

    /// Waits until nothing is on its way any more, at most `timeout`.
    pub fn flush(&self, timeout: Duration) {
        let producer = self.producer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(producer) = producer
            && let Err(error) = producer.flush(timeout)
        {
            tracing::warn!(%error, "dead letters still on their way at the end; their batch was not confirmed");
        }
    }
}

fn key_of(partition: &TopicPartition, letter: &DeadLetter) -> String {
    format!("{partition}/{}", letter.offset)
}

/// At most [`ERROR_TEXT_BYTES_MAX`] bytes, cut between characters.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(ERROR_TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Takes a consumed message apart for its way to the dead-letter topic.
pub fn letter_of(
    message: &impl Message,
    offset: KafkaOffset,
    reason: shared::dead_letter::DeadLetterReason,
    error: String,
) -> DeadLetter {
    use rdkafka::message::Headers;
    let headers = message.headers().map(|headers| {
        headers
            .iter()
            .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
            .collect::<Vec<_>>()
    });
    DeadLetter {
        offset,
        reason,
        error,
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
        timestamp: message.timestamp().to_millis(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use rdkafka::{
        mocking::MockCluster,
        types::{RDKafkaApiKey, RDKafkaRespErr},
    };
    use shared::{dead_letter::DeadLetterReason, topic_name::TopicNames};

    use super::*;

    /// A real broker cannot be made to answer so on demand; librdkafka's own mock of one can.
    #[tokio::test]
    async fn letters_are_delivered_after_an_error_that_ends_the_producer() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("atlas.dlq", 1, 1).unwrap();
        let mut kafka = ClientConfig::new();
        kafka.set("bootstrap.servers", cluster.bootstrap_servers());
        let names = TopicNames::new("atlas").unwrap();
        let topic = DeadLetterTopic::new(&kafka, names.dead_letters(), names, 1024 * 1024).unwrap();
        let queue = DeadLetterQueue::new(&kafka, topic, "test");
        let letter = DeadLetter {
            offset: KafkaOffset::ZERO,
            reason: DeadLetterReason::Empty,
            error: String::new(),
            key: None,
            value: None,
            headers: Vec::new(),
            timestamp: None,
        };
        let partition = TopicPartition::new("atlas.shop.orders", 0);
        let deliver = || queue.deliver(&partition, std::slice::from_ref(&letter), KafkaOffset::ZERO);

        let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED;
        cluster.request_errors(RDKafkaApiKey::InitProducerId, &[refusal]);
        let error = deliver().await.unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Temporary, "{error}");
        deliver().await.unwrap();
    }
}

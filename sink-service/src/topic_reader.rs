//! Reads ranges of Kafka partitions, committed records only, with a consumer of its own that belongs to no group.

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::BorrowedMessage,
};
use shared::{
    kafka_client::ForwardLogs,
    kafka_position::{KafkaOffset, TopicPartition},
};

use crate::{
    consumer::RECEIVE_BYTES_MAX,
    kafka_log::{LogError, classify},
};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Nothing came for this long: Kafka is taken for unavailable.
const SILENCE_MAX: Duration = Duration::from_secs(60);

pub struct TopicReader {
    consumer: BaseConsumer<ForwardLogs>,
}

impl TopicReader {
    /// No group is joined; see [`crate::kafka_log::KafkaLog::new`].
    ///
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn new(base: &ClientConfig, group: &str) -> Result<Self, KafkaError> {
        let mut config = base.clone();
        config
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .set("group.id", group)
            .set("receive.message.max.bytes", RECEIVE_BYTES_MAX.to_string())
            .set("fetch.queue.backoff.ms", "20");
        Ok(Self { consumer: config.create_with_context(ForwardLogs)? })
    }

    /// All topics with their numbers of partitions.
    ///
    /// # Errors
    /// If Kafka does not answer.
    pub fn topics(&self) -> Result<Vec<(String, i32)>, LogError> {
        let metadata = self
            .consumer
            .fetch_metadata(None, REQUEST_TIMEOUT)
            .map_err(|error| classify("all topics", &error))?;
        let partitions = |count: usize| i32::try_from(count).expect("Kafka counts partitions in 32 bits");
        let topics = metadata.topics().iter();
        Ok(topics.map(|topic| (topic.name().to_owned(), partitions(topic.partitions().len()))).collect())
    }

    /// The committed records from `from` up to, not including, `to`.
    ///
    /// # Errors
    /// If the partition cannot be read.
    pub fn read(
        &self,
        partition: &TopicPartition,
        from: KafkaOffset,
        to: KafkaOffset,
    ) -> Result<Records<'_>, LogError> {
        let failed = |error: KafkaError| classify(&partition.topic, &error);
        if from < to {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&partition.topic, partition.partition, Offset::Offset(from.to_kafka()))
                .map_err(failed)?;
            self.consumer.assign(&list).map_err(failed)?;
        }
        Ok(Records {
            reader: self,
            partition: partition.clone(),
            to,
            done: from >= to,
            heard: Instant::now(),
        })
    }

    /// How many committed records there are from `from` up to `to`.
    ///
    /// # Errors
    /// If the partition cannot be read.
    pub fn count(
        &self,
        partition: &TopicPartition,
        from: KafkaOffset,
        to: KafkaOffset,
    ) -> Result<u64, LogError> {
        let mut records = self.read(partition, from, to)?;
        let mut count = 0;
        while records.next_record()?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    fn position(&self) -> Option<KafkaOffset> {
        match self.consumer.position().ok()?.elements().first()?.offset() {
            Offset::Offset(offset) => KafkaOffset::from_kafka(offset),
            _ => None,
        }
    }
}

/// A range being read.
pub struct Records<'a> {
    reader: &'a TopicReader,
    partition: TopicPartition,
    to: KafkaOffset,
    done: bool,
    heard: Instant,
}

impl<'a> Records<'a> {
    /// The next record; `None` at the end of the range.
    ///
    /// # Errors
    /// If Kafka stops answering.
    pub fn next_record(&mut self) -> Result<Option<BorrowedMessage<'a>>, LogError> {
        use rdkafka::Message;
        while !self.done {
            match self.reader.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    self.heard = Instant::now();
                    let offset = KafkaOffset::from_kafka(message.offset()).unwrap_or(self.to);
                    self.done = offset.after() >= self.to;
                    if offset < self.to {
                        return Ok(Some(message));
                    }
                }
                Some(Err(error)) => {
                    let error = classify(&self.partition.topic, &error);
                    if !matches!(error, LogError::Unavailable(_)) || self.heard.elapsed() > SILENCE_MAX {
                        return Err(error);
                    }
                }
                // Behind the last record there may be transaction markers only: the position passes them.
                None if self.reader.position().is_some_and(|position| position >= self.to) => {
                    self.done = true
                }
                None if self.heard.elapsed() > SILENCE_MAX => {
                    let what = format!("{}: nothing came for {} s", self.partition, SILENCE_MAX.as_secs());
                    return Err(LogError::Unavailable(what));
                }
                None => {}
            }
        }
        Ok(None)
    }
}

//! Reads partitions of Kafka from one offset to another, exactly: for recovery, which must know what is really there.
//!
//! Two consumers without a group: one sees only what is committed, the other asks for the true ends. They differ because
//! `fetch_watermarks` of a `read_committed` consumer answers the last **stable** offset, which any open transaction of anybody holds
//! back; what lies between the two may still become committed, so a reader has to wait for it.

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::BorrowedMessage,
};
use shared::kafka_client;

/// Of one request, and of the silence while reading.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Between two looks at a partition that another producer's open transaction holds back.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Forwards the client's log, but for the ends of partitions, which are reported as errors and are none.
#[derive(Clone, Copy, Debug)]
pub struct LogContext;

impl ClientContext for LogContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka_client::forward_log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            kafka_client::forward_error(&error, reason);
        }
    }
}

impl ConsumerContext for LogContext {}

/// Offsets of one partition, the end exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub partition: i32,
    pub from: i64,
    pub to: i64,
}

/// A partition to be looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub topic: String,
    pub partition: i32,
}

/// Why the log could not be read now.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{doing}: {cause}")]
    Kafka { doing: String, cause: KafkaError },
    #[error("{0}: Kafka is silent")]
    Silent(String),
    /// The process was asked to stop.
    #[error("asked to stop")]
    Interrupted,
}

fn while_doing(doing: impl Into<String>) -> impl FnOnce(KafkaError) -> LogError {
    |cause| LogError::Kafka { doing: doing.into(), cause }
}

/// The two views. Cheap to keep: an idle consumer without assignment fetches nothing.
pub struct KafkaLog {
    committed: BaseConsumer<LogContext>,
    all: BaseConsumer<LogContext>,
}

impl KafkaLog {
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn new(config: &ClientConfig, source_id: &str) -> KafkaResult<Self> {
        let consumer = |isolation: &str| {
            let mut config = config.clone();
            config
                // `assign` needs a name; no group is joined and no offset is committed.
                .set("group.id", format!("atlas-source-recovery-{source_id}"))
                .set("enable.auto.commit", "false")
                .set("auto.offset.reset", "error")
                .set("isolation.level", isolation)
                .set("enable.partition.eof", "true")
                .set("allow.auto.create.topics", "false")
                // The end of a partition is news at once.
                .set("fetch.wait.max.ms", "10")
                .set("queued.max.messages.kbytes", "8192");
            config.create_with_context::<_, BaseConsumer<LogContext>>(LogContext)
        };
        Ok(Self { committed: consumer("read_committed")?, all: consumer("read_uncommitted")? })
    }

    /// For questions about topics.
    pub fn client(&self) -> &BaseConsumer<LogContext> {
        &self.all
    }

    /// All partitions of the topics that `wanted` says.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn partitions(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<Partition>, LogError> {
        let metadata = self.all.fetch_metadata(None, TIMEOUT).map_err(while_doing("list topics"))?;
        let topics = metadata.topics().iter().filter(|topic| wanted(topic.name()));
        let partitions = topics.flat_map(|topic| {
            topic
                .partitions()
                .iter()
                .map(|partition| Partition { topic: topic.name().to_owned(), partition: partition.id() })
        });
        Ok(partitions.collect())
    }

    /// The start of the log and its **high** watermark.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn ends(&self, topic: &str, partition: i32) -> Result<(i64, i64), LogError> {
        self.all
            .fetch_watermarks(topic, partition, TIMEOUT)
            .map_err(while_doing(format!("ask for the end of {topic}/{partition}")))
    }

    /// The last **stable** offset: the first open transaction begins there, or the log ends.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn stable_end(&self, topic: &str, partition: i32) -> Result<i64, LogError> {
        let ends = self.committed.fetch_watermarks(topic, partition, TIMEOUT);
        let (_, stable) =
            ends.map_err(while_doing(format!("ask for the stable end of {topic}/{partition}")))?;
        Ok(stable)
    }

    /// The first offset whose record, or transaction marker, has this time or a later one; aborted and open ones count too. Partitions
    /// without any are left out.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn offsets_at(
        &self,
        partitions: &[Partition],
        time_ms: i64,
    ) -> Result<Vec<(Partition, i64)>, LogError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let doing = "search partitions by time";
        let mut question = TopicPartitionList::with_capacity(partitions.len());
        for Partition { topic, partition } in partitions {
            question
                .add_partition_offset(topic, *partition, Offset::Offset(time_ms))
                .map_err(while_doing(doing))?;
        }
        let answer = self.all.offsets_for_times(question, TIMEOUT).map_err(while_doing(doing))?;
        let mut found = Vec::new();
        for element in answer.elements() {
            element.error().map_err(while_doing(doing))?;
            if let Offset::Offset(offset) = element.offset() {
                found.push((
                    Partition { topic: element.topic().to_owned(), partition: element.partition() },
                    offset,
                ));
            }
        }
        Ok(found)
    }

    /// Waits until everything below `end` is decided. `waiting` is called each time that it is not, and says whether to go on.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn wait_until_decided(
        &self,
        topic: &str,
        partition: i32,
        end: i64,
        mut waiting: impl FnMut() -> bool,
    ) -> Result<(), LogError> {
        loop {
            let stable = self.stable_end(topic, partition)?;
            if stable >= end {
                return Ok(());
            }
            if !waiting() {
                return Err(LogError::Interrupted);
            }
            // Another producer's transaction ends when it ends; the broker tells nobody.
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Hands every committed record of these ranges of **one** topic to `take`, in order within a partition. All below the ends has to be
    /// decided already.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn read(
        &self,
        topic: &str,
        ranges: &[Range],
        mut take: impl FnMut(&BorrowedMessage<'_>),
    ) -> Result<(), LogError> {
        let doing = || format!("read {topic}");
        let mut open: Vec<Range> = ranges.iter().copied().filter(|range| range.from < range.to).collect();
        if open.is_empty() {
            return Ok(());
        }
        let mut assignment = TopicPartitionList::with_capacity(open.len());
        for range in &open {
            assignment
                .add_partition_offset(topic, range.partition, Offset::Offset(range.from))
                .map_err(while_doing(doing()))?;
        }
        self.committed.assign(&assignment).map_err(while_doing(doing()))?;
        let result = self.drain(topic, &mut open, &mut take);
        self.committed.unassign().map_err(while_doing(doing()))?;
        result
    }

    fn drain(
        &self,
        topic: &str,
        open: &mut Vec<Range>,
        take: &mut impl FnMut(&BorrowedMessage<'_>),
    ) -> Result<(), LogError> {
        let mut heard = Instant::now();
        while !open.is_empty() {
            match self.committed.poll(Duration::from_millis(200)) {
                None if heard.elapsed() > TIMEOUT => return Err(LogError::Silent(format!("read {topic}"))),
                None => {}
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let Some(index) = open.iter().position(|range| range.partition == message.partition())
                    else {
                        continue;
                    };
                    if message.offset() < open[index].to {
                        take(&message);
                    }
                    if message.offset() + 1 >= open[index].to {
                        open.swap_remove(index);
                    }
                }
                // One topic at a time, so the partition's number says it all. What is left are markers and aborted records.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    heard = Instant::now();
                    open.retain(|range| range.partition != partition);
                }
                Some(Err(
                    cause @ (KafkaError::MessageConsumptionFatal(_) | KafkaError::MessageConsumption(_)),
                )) if !is_passing(&cause) => {
                    return Err(LogError::Kafka { doing: format!("read {topic}"), cause });
                }
                // The client reports lost connections and heals them itself; silence has its limit.
                Some(Err(error)) => tracing::debug!(%error, topic, "while reading"),
            }
        }
        Ok(())
    }
}

fn is_passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::Resolve
                | Code::NotCoordinator
                | Code::CoordinatorNotAvailable
        )
    )
}

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
/// Who reads is asked whether to go on after so long or so many records, whichever comes first.
const ASK_AFTER: (Duration, u32) = (Duration::from_secs(1), 10_000);

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
    /// Asking again gives no right.
    #[error("{doing}: {cause}. The source needs {right}")]
    NotAllowed { doing: String, cause: KafkaError, right: &'static str },
    #[error("{0}: Kafka is silent")]
    Silent(String),
    #[error("list topics: {0} is missing there, although it exists")]
    Unlisted(String),
    /// The process was asked to stop.
    #[error("asked to stop")]
    Interrupted,
}

fn while_doing(doing: impl Into<String>) -> impl FnOnce(KafkaError) -> LogError {
    |cause| match missing_right(&cause) {
        Some(right) => LogError::NotAllowed { doing: doing.into(), cause, right },
        None => LogError::Kafka { doing: doing.into(), cause },
    }
}

/// What has to be granted before it is tried again, if a right is what is missing.
fn missing_right(error: &KafkaError) -> Option<&'static str> {
    match error.rdkafka_error_code()? {
        RDKafkaErrorCode::TopicAuthorizationFailed => Some("READ and DESCRIBE on the topic"),
        RDKafkaErrorCode::GroupAuthorizationFailed => {
            Some("DESCRIBE on group atlas-source-recovery-<SOURCE_ID>")
        }
        RDKafkaErrorCode::ClusterAuthorizationFailed => Some("DESCRIBE on the cluster"),
        RDKafkaErrorCode::SaslAuthenticationFailed => Some("a user and password that the brokers know"),
        _ => None,
    }
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

    /// All partitions of the topics that `wanted` says. A topic of which the broker cannot tell them now is an error, and not one without
    /// partitions.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn partitions(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<Partition>, LogError> {
        let metadata = self.all.fetch_metadata(None, TIMEOUT).map_err(while_doing("list topics"))?;
        let mut partitions = Vec::new();
        for topic in metadata.topics().iter().filter(|topic| wanted(topic.name())) {
            if is_there(topic.name(), topic.error().map(Into::into))? {
                partitions.extend(topic.partitions().iter().map(|partition| Partition {
                    topic: topic.name().to_owned(),
                    partition: partition.id(),
                }));
            }
        }
        Ok(partitions)
    }

    /// Whether there is this topic. Asked by its name, a broker also says that it may not tell.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn exists(&self, name: &str) -> Result<bool, LogError> {
        let answer = self.all.fetch_metadata(Some(name), TIMEOUT);
        let metadata = answer.map_err(while_doing(format!("ask for topic {name}")))?;
        match metadata.topics().iter().find(|topic| topic.name() == name) {
            Some(topic) => is_there(name, topic.error().map(Into::into)),
            None => Ok(false),
        }
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
            element.error().map_err(while_doing(format!(
                "search {}/{} by time",
                element.topic(),
                element.partition()
            )))?;
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
    /// decided already. `going_on` is told from time to time how many offsets are left, and says whether to go on.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn read(
        &self,
        topic: &str,
        ranges: &[Range],
        mut take: impl FnMut(&BorrowedMessage<'_>),
        mut going_on: impl FnMut(i64) -> bool,
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
        let result = self.drain(topic, &mut open, &mut take, &mut going_on);
        self.committed.unassign().map_err(while_doing(doing()))?;
        result
    }

    fn drain(
        &self,
        topic: &str,
        open: &mut Vec<Range>,
        take: &mut impl FnMut(&BorrowedMessage<'_>),
        going_on: &mut impl FnMut(i64) -> bool,
    ) -> Result<(), LogError> {
        let mut heard = Instant::now();
        let (mut asked, mut unasked) = (heard, 0);
        while !open.is_empty() {
            let polled = self.committed.poll(Duration::from_millis(200));
            let now = Instant::now();
            if now.duration_since(asked) >= ASK_AFTER.0 || unasked >= ASK_AFTER.1 {
                (asked, unasked) = (now, 0);
                if !going_on(open.iter().map(|range| range.to - range.from).sum()) {
                    return Err(LogError::Interrupted);
                }
            }
            match polled {
                None if now.duration_since(heard) > TIMEOUT => {
                    return Err(LogError::Silent(format!("read {topic}")));
                }
                None => {}
                Some(Ok(message)) => {
                    (heard, unasked) = (now, unasked + 1);
                    let Some(index) = open.iter().position(|range| range.partition == message.partition())
                    else {
                        continue;
                    };
                    if message.offset() < open[index].to {
                        take(&message);
                    }
                    open[index].from = message.offset() + 1;
                    if open[index].from >= open[index].to {
                        open.swap_remove(index);
                    }
                }
                // One topic at a time, so the partition's number says it all. What is left are markers and aborted records.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    heard = now;
                    open.retain(|range| range.partition != partition);
                }
                Some(Err(
                    cause @ (KafkaError::MessageConsumptionFatal(_) | KafkaError::MessageConsumption(_)),
                )) if !is_passing(&cause) => return Err(while_doing(format!("read {topic}"))(cause)),
                // The client reports lost connections and heals them itself; silence has its limit.
                Some(Err(error)) => tracing::debug!(%error, topic, "while reading"),
            }
        }
        Ok(())
    }
}

/// What the error in a topic's metadata says.
fn is_there(topic: &str, error: Option<RDKafkaErrorCode>) -> Result<bool, LogError> {
    match error {
        None => Ok(true),
        Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => Ok(false),
        Some(code) => Err(while_doing(format!("ask for topic {topic}"))(KafkaError::MetadataFetch(code))),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_right_is_told_from_what_passes() {
        let judged = |code| while_doing("read atlas.shop.orders")(KafkaError::MessageConsumption(code));
        for (code, right) in [
            (RDKafkaErrorCode::TopicAuthorizationFailed, "READ and DESCRIBE on the topic"),
            (RDKafkaErrorCode::GroupAuthorizationFailed, "DESCRIBE on group"),
            (RDKafkaErrorCode::ClusterAuthorizationFailed, "DESCRIBE on the cluster"),
            (RDKafkaErrorCode::SaslAuthenticationFailed, "user and password"),
        ] {
            let error = judged(code);
            let text = error.to_string();
            assert!(matches!(error, LogError::NotAllowed { .. }), "{text}");
            assert!(text.contains(right) && text.contains("atlas.shop.orders"), "{text}");
        }
        for code in [RDKafkaErrorCode::NotLeaderForPartition, RDKafkaErrorCode::OperationTimedOut] {
            assert!(matches!(judged(code), LogError::Kafka { .. }));
        }
    }
    #[test]
    fn only_an_unknown_topic_is_not_there() {
        let judged = |code| is_there("atlas.shop.orders", code);
        assert!(matches!(judged(None), Ok(true)));
        assert!(matches!(judged(Some(RDKafkaErrorCode::UnknownTopicOrPartition)), Ok(false)));
        assert!(matches!(judged(Some(RDKafkaErrorCode::LeaderNotAvailable)), Err(LogError::Kafka { .. })));
        let denied = judged(Some(RDKafkaErrorCode::TopicAuthorizationFailed));
        assert!(matches!(denied, Err(LogError::NotAllowed { .. })), "{denied:?}");
    }
}

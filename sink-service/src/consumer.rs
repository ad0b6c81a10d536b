//! The consumer group's member: subscribed by pattern, reading committed records only.
//!
//! librdkafka asks for a rebalance to be answered by calls to assign and unassign, but not from within its callback:
//! the group waits until they come. So the callback only queues what was asked, and the writer, which owns the consumer
//! and all partition state, answers between two polls. Nothing is shared, nothing is locked, and a partition is fetched
//! only once its chain is known.
//!
//! Answers are increments (`incremental_assign`, `incremental_unassign`): assignment is cooperative, so partitions that
//! stay are not disturbed. Each partition may be assigned by a call of its own, after the rebalance was answered.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext, Offset, Statistics, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext},
    error::{KafkaError, KafkaResult},
    message::BorrowedMessage,
    types::{RDKafkaErrorCode, RDKafkaRespErr},
};
use shared::{
    kafka_client,
    kafka_position::{KafkaOffset, TopicPartition},
};

use crate::record::VALUE_BYTES_MAX;

/// Rebalances queue one at a time, statistics come each [`STATISTICS_INTERVAL`]: the writer drains them each turn.
const NOTICES_MAX: usize = 64;

const STATISTICS_INTERVAL: Duration = Duration::from_secs(5);

/// What one fetch asks for, of a partition and in all. A batch that is larger comes whole all the same, if it is the first
/// of the first partition in the answer that has one (KIP-74), and the client rotates whose turn that is. More buys no throughput:
/// the client takes fresh memory for each answer, and a page of it costs more than the records on it.
const FETCH_BYTES_PER_PARTITION: usize = 1024 * 1024;
const FETCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What librdkafka takes for an answer at most; above it the partition would stand still without a word. It also bounds what
/// a zstd batch becomes when it is decompressed, by a guess that is tripled until it is enough: hence the factor. The rest is
/// for the batch's other bytes.
pub const RECEIVE_BYTES_MAX: usize = 3 * (VALUE_BYTES_MAX + 16 * 1024 * 1024);

/// The largest batch, as the topic has it, that certainly fits an answer.
pub const BATCH_BYTES_MAX: usize = RECEIVE_BYTES_MAX - 2 * FETCH_BYTES_MAX;

/// librdkafka's bound of `queued.max.messages.kbytes`.
pub const QUEUE_BYTES_MAX: usize = 2_097_151 * 1024;

/// What the consumer's callbacks have to tell the writer.
#[derive(Debug)]
pub enum Notice {
    Assigned(Vec<TopicPartition>),
    Revoked {
        partitions: Vec<TopicPartition>,
        /// The group went on without us: somebody else may own them already.
        lost: bool,
    },
    /// High watermarks as the client last saw them.
    LogEnds(Vec<(TopicPartition, KafkaOffset)>),
    /// Whether any broker is connected.
    Brokers {
        connected: bool,
    },
}

pub struct GroupContext {
    notices: SyncSender<Notice>,
    /// Set when the consumer is dropped: nobody drains notices any more, so a revocation is answered here.
    closing: AtomicBool,
}

impl ClientContext for GroupContext {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, text: &str) {
        kafka_client::forward_log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka_client::forward_error(&error, reason);
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.tell(Notice::Brokers { connected: false });
        }
    }

    fn stats(&self, statistics: Statistics) {
        let mut ends = Vec::new();
        for (topic, of_topic) in &statistics.topics {
            for (partition, of_partition) in &of_topic.partitions {
                if let Some(end) = KafkaOffset::from_kafka(of_partition.hi_offset)
                    && *partition >= 0
                {
                    ends.push((TopicPartition::new(topic.as_str(), *partition), end));
                }
            }
        }
        self.tell(Notice::LogEnds(ends));
        let connected = statistics.brokers.values().any(|broker| broker.nodeid >= 0 && broker.state == "UP");
        self.tell(Notice::Brokers { connected });
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions = partitions_of(list);
        let assigned = error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Acquire) {
            if !assigned {
                give_up(consumer, &partitions);
            }
        } else if assigned {
            self.tell(Notice::Assigned(partitions));
        } else {
            self.tell(Notice::Revoked { partitions, lost: consumer.assignment_lost() });
        }
    }
}

impl GroupContext {
    /// # Panics
    /// If a rebalance does not fit: they come one at a time and only while the writer polls, so that would be a defect.
    fn tell(&self, notice: Notice) {
        match self.notices.try_send(notice) {
            Ok(()) => {}
            Err(std::sync::mpsc::TrySendError::Full(Notice::Assigned(_) | Notice::Revoked { .. })) => {
                panic!("a rebalance was not answered before the next one");
            }
            // The next statistics, or the next commit, say it again; at the end nobody asks.
            Err(_) => {}
        }
    }
}

/// The member. Owned by the writer's thread.
pub struct GroupConsumer {
    consumer: BaseConsumer<GroupContext>,
    notices: Receiver<Notice>,
}

/// Who shares the partitions out. In both ways a rebalance takes from a member only what it has to give up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum GroupProtocol {
    /// A member, by "cooperative-sticky" (KIP-429).
    #[default]
    Classic,
    /// The broker (KIP-848).
    Consumer,
}

/// How the group is joined.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    pub group: String,
    pub instance_id: Option<String>,
    pub protocol: GroupProtocol,
    /// Regular expressions, each anchored with `^`.
    pub patterns: Vec<String>,
    /// Regular expressions of topics that are never taken.
    pub excludes: Vec<String>,
    /// What the client may hold of fetched records, in bytes; at most [`QUEUE_BYTES_MAX`].
    pub queue_bytes: usize,
}

impl GroupConsumer {
    /// Joins the group; partitions come with the first polls.
    ///
    /// # Errors
    /// If librdkafka refuses the configuration or the subscription.
    pub fn join(base: &ClientConfig, settings: &GroupSettings) -> KafkaResult<Self> {
        // A copy, not what `config_map` shows: there the password is a placeholder.
        let mut config = base.clone();
        for (name, value) in [
            // New topics are found by the metadata refresh.
            ("topic.metadata.refresh.interval.ms", "5000"),
            // Once the queue is full a partition pauses for this long; the default of a second starves the writer.
            ("fetch.queue.backoff.ms", "100"),
        ] {
            if base.get(name).is_none() {
                config.set(name, value);
            }
        }
        config
            .set("group.id", &settings.group)
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "false")
            .set("statistics.interval.ms", STATISTICS_INTERVAL.as_millis().to_string())
            .set("fetch.message.max.bytes", FETCH_BYTES_PER_PARTITION.to_string())
            .set("fetch.max.bytes", FETCH_BYTES_MAX.to_string())
            .set("receive.message.max.bytes", RECEIVE_BYTES_MAX.to_string())
            .set("queued.max.messages.kbytes", (settings.queue_bytes / 1024).to_string());
        match settings.protocol {
            GroupProtocol::Classic => config.set("partition.assignment.strategy", "cooperative-sticky"),
            // The broker assigns, and knows session and heartbeat too.
            GroupProtocol::Consumer => config.set("group.protocol", "consumer"),
        };
        if let Some(id) = &settings.instance_id {
            config.set("group.instance.id", id);
        }
        if !settings.excludes.is_empty() {
            config.set("topic.blacklist", settings.excludes.join(","));
        }
        let (sender, notices) = sync_channel(NOTICES_MAX);
        let context = GroupContext { notices: sender, closing: AtomicBool::new(false) };
        let consumer: BaseConsumer<GroupContext> = config.create_with_context(context)?;
        let patterns: Vec<&str> = settings.patterns.iter().map(String::as_str).collect();
        consumer.subscribe(&patterns)?;
        Ok(Self { consumer, notices })
    }

    /// The next record or error; serves callbacks meanwhile.
    pub fn poll(&self, timeout: Duration) -> Option<KafkaResult<BorrowedMessage<'_>>> {
        self.consumer.poll(timeout)
    }

    pub fn next_notice(&self) -> Option<Notice> {
        self.notices.try_recv().ok()
    }

    /// Answers an assignment, or begins to fetch partitions whose place is known by now.
    ///
    /// # Errors
    /// If librdkafka refuses.
    pub fn assign(&self, partitions: &[(TopicPartition, KafkaOffset)]) -> KafkaResult<()> {
        self.consumer.incremental_assign(&list_with_offsets(partitions)?)
    }

    /// Answers a revocation.
    ///
    /// # Errors
    /// If librdkafka refuses.
    pub fn unassign(&self, partitions: &[TopicPartition]) -> KafkaResult<()> {
        self.consumer.incremental_unassign(&list_of(partitions))
    }

    /// # Errors
    /// If librdkafka refuses.
    pub fn pause(&self, partitions: &[TopicPartition]) -> KafkaResult<()> {
        self.consumer.pause(&list_of(partitions))
    }

    /// # Errors
    /// If librdkafka refuses.
    pub fn resume(&self, partitions: &[TopicPartition]) -> KafkaResult<()> {
        self.consumer.resume(&list_of(partitions))
    }

    /// Where each assigned partition's reader is: behind the last record that was polled, past transaction markers and
    /// aborted records as polling goes on. Partitions from which nothing was read yet are left out.
    ///
    /// # Errors
    /// If librdkafka refuses.
    pub fn positions(&self) -> KafkaResult<Vec<(TopicPartition, KafkaOffset)>> {
        let list = self.consumer.position()?;
        let positions = list.elements().into_iter().filter_map(|element| match element.offset() {
            Offset::Offset(offset) => Some((
                TopicPartition::new(element.topic(), element.partition()),
                KafkaOffset::from_kafka(offset)?,
            )),
            _ => None,
        });
        Ok(positions.collect())
    }

    /// Sends a commit of positions, each with a text for people. Nobody hears what comes of it: librdkafka answers only a
    /// callback that rdkafka does not set.
    ///
    /// # Errors
    /// If the commit cannot be sent.
    pub fn commit(&self, positions: &[(TopicPartition, KafkaOffset, String)]) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for (partition, offset, text) in positions {
            let mut element = list.add_partition(&partition.topic, partition.partition);
            element.set_offset(Offset::Offset(offset.to_kafka()))?;
            element.set_metadata(text);
        }
        self.consumer.commit(&list, CommitMode::Async)
    }

    /// Leaves the group, within a bound: without brokers librdkafka may wait for ever (rust-rdkafka#453, #597).
    pub fn leave(self, limit: Duration) {
        let (left, done) = sync_channel(1);
        let leaving = std::thread::Builder::new().name("leave".to_owned()).spawn(move || {
            drop(self);
            left.send(())
        });
        let waited = leaving.map(|_| done.recv_timeout(limit));
        if !matches!(waited, Ok(Ok(()))) {
            tracing::warn!("the group was not left in time; it will notice by itself");
        }
    }
}

/// Leaves the group. Partitions that are still assigned are given up as they are.
///
/// librdkafka's closing waits until revocations are answered, and nobody drains notices any more: those that wait are
/// answered here, those that come are answered in the callback.
impl Drop for GroupConsumer {
    fn drop(&mut self) {
        self.consumer.context().closing.store(true, Ordering::Release);
        while let Some(notice) = self.next_notice() {
            if let Notice::Revoked { partitions, .. } = notice {
                give_up(&self.consumer, &partitions);
            }
        }
    }
}

/// Answers a revocation without knowing which of its partitions are fetched: librdkafka refuses those that are not.
fn give_up(consumer: &BaseConsumer<GroupContext>, partitions: &[TopicPartition]) {
    let answered = consumer.assignment().and_then(|assigned| {
        let mut fetched = partitions_of(&assigned);
        fetched.retain(|partition| partitions.contains(partition));
        consumer.incremental_unassign(&list_of(&fetched))
    });
    if let Err(error) = answered {
        tracing::warn!(%error, "leaving the group");
    }
}

fn partitions_of(list: &TopicPartitionList) -> Vec<TopicPartition> {
    list.elements().iter().map(|element| TopicPartition::new(element.topic(), element.partition())).collect()
}

fn list_of(partitions: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for TopicPartition { topic, partition } in partitions {
        list.add_partition(topic, *partition);
    }
    list
}

fn list_with_offsets(partitions: &[(TopicPartition, KafkaOffset)]) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (TopicPartition { topic, partition }, offset) in partitions {
        list.add_partition_offset(topic, *partition, Offset::Offset(offset.to_kafka()))?;
    }
    Ok(list)
}

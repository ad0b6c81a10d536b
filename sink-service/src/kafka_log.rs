//! What is asked of Kafka besides records: the ends of a log, offsets by time, what a topic is.
//!
//! A client of its own, without a group and reading uncommitted: `fetch_watermarks` of a read_committed consumer answers
//! the last stable offset, which another producer's open transaction holds back, and no rule of the chain may rest on
//! that. All calls block, so they run on the runtime's blocking threads, each with a time limit.
//!
//! What goes by Kafka's admin interface is asked here only when a broker has just answered something else: while none is there librdkafka connects
//! again and again for such a request, without a pause. Each change of a broker's state wakes the request, and that expedites the next attempt
//! (`RD_KAFKA_OP_CONNECT` sets `rkb_ts_reconnect` to 0); it took a core.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use chrono::{DateTime, Utc};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};
use shared::{
    kafka_client::ForwardLogs,
    kafka_ffi::{self, DescribeError},
    kafka_position::{KafkaOffset, TopicPartition},
    kafka_topics::{AdminError, Configs, TopicAdmin},
};
use thiserror::Error;

use crate::topic_identity::TopicIdentity;

/// No single question may take longer; the caller asks again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Kafka did not answer, by what the caller does about it.
#[derive(Clone, Debug, Error)]
pub enum LogError {
    /// Ask again.
    #[error("Kafka is not available: {0}")]
    Unavailable(String),
    /// The topic is not there (now).
    #[error("topic {0} does not exist")]
    NoTopic(String),
    /// Exit 77.
    #[error("not allowed: {0}")]
    Denied(String),
}

type Client = BaseConsumer<ForwardLogs>;

/// Cheap to clone.
#[derive(Clone)]
pub struct KafkaLog {
    client: Arc<Client>,
    admin: TopicAdmin,
    /// Whose metadata is asked for to see whether a broker is there: always the same one, since the client keeps an object for each.
    probe: Arc<OnceLock<Arc<str>>>,
}

impl KafkaLog {
    /// No group is joined. The client asks for the coordinator of `group` all the same, so it is one that this user may know of.
    ///
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn new(base: &ClientConfig, group: &str) -> Result<Self, KafkaError> {
        let mut config = base.clone();
        config
            .set("isolation.level", "read_uncommitted")
            .set("enable.auto.commit", "false")
            .set("group.id", group);
        Ok(Self {
            client: Arc::new(config.create_with_context(ForwardLogs)?),
            admin: TopicAdmin::new(base, REQUEST_TIMEOUT)?,
            probe: Arc::default(),
        })
    }

    /// The first offset that the log still has.
    ///
    /// # Errors
    /// If Kafka does not say.
    pub async fn start(&self, partition: &TopicPartition) -> Result<KafkaOffset, LogError> {
        Ok(self.watermarks(partition).await?.0)
    }

    /// The high watermark.
    ///
    /// # Errors
    /// If Kafka does not say.
    pub async fn end(&self, partition: &TopicPartition) -> Result<KafkaOffset, LogError> {
        Ok(self.watermarks(partition).await?.1)
    }

    async fn watermarks(&self, partition: &TopicPartition) -> Result<(KafkaOffset, KafkaOffset), LogError> {
        let TopicPartition { topic, partition } = partition.clone();
        let asked = topic.clone();
        let (low, high) = self
            .ask(move |client| client.fetch_watermarks(&asked, partition, REQUEST_TIMEOUT))
            .await
            .map_err(|error| classify(&topic, &error))?;
        let offset = |value| {
            KafkaOffset::from_kafka(value)
                .ok_or_else(|| LogError::Unavailable(format!("{topic}: watermark {value}")))
        };
        Ok((offset(low)?, offset(high)?))
    }

    /// The first record at or after an instant, `None` if there is none. Transaction markers carry the broker's clock
    /// and are found too, so this is a lower bound.
    ///
    /// # Errors
    /// If Kafka does not say.
    pub async fn first_at(
        &self,
        partition: &TopicPartition,
        at: DateTime<Utc>,
    ) -> Result<Option<KafkaOffset>, LogError> {
        let TopicPartition { topic, partition } = partition.clone();
        let asked = topic.clone();
        let found = self
            .ask(move |client| {
                let mut list = TopicPartitionList::new();
                list.add_partition_offset(&asked, partition, Offset::Offset(at.timestamp_millis()))?;
                client.offsets_for_times(list, REQUEST_TIMEOUT)
            })
            .await
            .map_err(|error| classify(&topic, &error))?;
        match found.elements().first().map(rdkafka::topic_partition_list::TopicPartitionListElem::offset) {
            Some(Offset::Offset(offset)) => Ok(KafkaOffset::from_kafka(offset)),
            Some(Offset::End) => Ok(None),
            other => Err(LogError::Unavailable(format!("{topic}: offset by time {other:?}"))),
        }
    }

    /// What topics are beyond their names, in one request. A topic that does not exist has no entry.
    ///
    /// # Errors
    /// If Kafka does not say, or we may not ask.
    pub async fn identities(
        &self,
        topics: Vec<Arc<str>>,
    ) -> Result<HashMap<Arc<str>, TopicIdentity>, LogError> {
        let Some(first) = topics.first() else { return Ok(HashMap::new()) };
        self.wait_for_broker(first).await.map_err(|error| LogError::Unavailable(error.to_string()))?;
        let (described, cluster) = self
            .ask(move |client| {
                let names: Vec<&str> = topics.iter().map(AsRef::as_ref).collect();
                let described = kafka_ffi::describe_topics(client.client(), &names, REQUEST_TIMEOUT)?;
                // No request: it came with the answer, and the client keeps it.
                Ok((described, client.client().fetch_cluster_id(REQUEST_TIMEOUT)))
            })
            .await
            .map_err(|error| LogError::Unavailable(error.to_string()))?;
        let mut identities = HashMap::with_capacity(described.len());
        for topic in described {
            match topic {
                Ok(topic) => {
                    let id = topic.id.map(|id| id.to_string());
                    let identity = TopicIdentity { topic: id, cluster: cluster.clone() };
                    identities.insert(Arc::from(topic.name), identity);
                }
                Err(DescribeError::Unknown { .. }) => {}
                Err(error @ DescribeError::NotAllowed { .. }) => {
                    return Err(LogError::Denied(error.to_string()));
                }
                Err(error @ DescribeError::Failed { .. }) => {
                    return Err(LogError::Unavailable(error.to_string()));
                }
            }
        }
        Ok(identities)
    }

    /// How many partitions a topic has.
    ///
    /// # Errors
    /// If Kafka does not say.
    pub async fn partition_count(&self, topic: &str) -> Result<i32, LogError> {
        let asked = topic.to_owned();
        let count = self
            .ask(move |client| {
                let metadata = client.fetch_metadata(Some(&asked), REQUEST_TIMEOUT)?;
                Ok(metadata.topics().first().map_or(0, |topic| topic.partitions().len()))
            })
            .await
            .map_err(|error| classify(topic, &error))?;
        match i32::try_from(count) {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(LogError::NoTopic(topic.to_owned())),
        }
    }

    /// A topic's configuration.
    ///
    /// # Errors
    /// If Kafka does not say, or we may not ask.
    pub async fn topic_configs(&self, topic: &str) -> Result<Configs, LogError> {
        let judge = |error: AdminError| match error {
            AdminError::NotAllowed { .. } => {
                LogError::Denied(format!("{error}; grant DescribeConfigs on it"))
            }
            AdminError::UnknownTopic { .. } => LogError::NoTopic(topic.to_owned()),
            AdminError::Unavailable { .. } | AdminError::Refused { .. } => {
                LogError::Unavailable(error.to_string())
            }
        };
        self.wait_for_broker(topic).await.map_err(|error| classify(topic, &error))?;
        let mut configs = self.admin.topic_configs(&[topic]).await.map_err(judge)?;
        configs.remove(topic).ok_or_else(|| LogError::NoTopic(topic.to_owned()))?.map_err(judge)
    }

    /// What the broker says of the topic does not matter.
    async fn wait_for_broker(&self, topic: &str) -> Result<(), KafkaError> {
        let probe = Arc::clone(self.probe.get_or_init(|| topic.into()));
        self.ask(move |client| client.fetch_metadata(Some(&probe), REQUEST_TIMEOUT).map(|_| ())).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Client) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, KafkaError> {
        let client = Arc::clone(&self.client);
        tokio::task::spawn_blocking(move || question(&client))
            .await
            .expect("a question to Kafka does not panic")
    }
}

pub fn classify(topic: &str, error: &KafkaError) -> LogError {
    use rdkafka::types::RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
            LogError::NoTopic(topic.to_owned())
        }
        Some(
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed,
        ) => LogError::Denied(format!("{topic}: {error}")),
        _ => LogError::Unavailable(format!("{topic}: {error}")),
    }
}

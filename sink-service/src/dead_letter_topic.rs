//! The dead-letter topic, made by whoever needs it first.

use std::time::Duration;

use rdkafka::{ClientConfig, error::KafkaError, types::RDKafkaErrorCode};
use shared::{
    kafka_topics::{AdminError, Configs, Creation, TopicAdmin, TopicSpec},
    topic_name::TopicNames,
};
use tokio::sync::OnceCell;

const PARTITIONS: i32 = 3;

/// The brokers' default.
const REPLICATION: i32 = -1;

/// A letter has more headers than its record: its topic takes this much more than the largest data topic.
const HEADROOM_BYTES: u64 = 1024 * 1024;

/// Kafka's default where a topic says nothing else.
const DEFAULT_MAX_MESSAGE_BYTES: u64 = 1_048_588;

const ADMIN_TIMEOUT: Duration = Duration::from_secs(15);

/// Knows whether the topic is there.
pub struct DeadLetterTopic {
    name: String,
    names: TopicNames,
    admin: TopicAdmin,
    there: OnceCell<()>,
}

impl DeadLetterTopic {
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn new(base: &ClientConfig, name: String, names: TopicNames) -> Result<Self, KafkaError> {
        Ok(Self { name, names, admin: TopicAdmin::new(base, ADMIN_TIMEOUT)?, there: OnceCell::new() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the topic unless it is there; asks only once per process.
    ///
    /// # Errors
    /// If Kafka does not let us.
    pub async fn ensure(&self) -> Result<(), AdminError> {
        self.there.get_or_try_init(|| self.make()).await.copied()
    }

    async fn make(&self) -> Result<(), AdminError> {
        let topics = self.admin.topic_names().await?;
        if topics.contains(&self.name) {
            return Ok(());
        }
        let spec = TopicSpec {
            name: self.name.clone(),
            partitions: PARTITIONS,
            replication: REPLICATION,
            configs: Configs::from([
                ("cleanup.policy".to_owned(), "delete".to_owned()),
                (
                    "max.message.bytes".to_owned(),
                    (self.largest_message(&topics).await? + HEADROOM_BYTES).to_string(),
                ),
                ("message.timestamp.type".to_owned(), "CreateTime".to_owned()),
            ]),
        };
        match self.admin.create_topic(&spec).await? {
            Creation::Created => tracing::info!(topic = %self.name, "dead-letter topic created"),
            Creation::AlreadyExists => {}
            Creation::CollidesWith(others) => {
                let what = format!("create topic {}", self.name);
                return Err(AdminError::Refused {
                    what,
                    reason: format!("it collides with {}", others.join(", ")),
                });
            }
        }
        Ok(())
    }

    async fn largest_message(&self, topics: &[String]) -> Result<u64, AdminError> {
        let data: Vec<&str> =
            topics.iter().map(String::as_str).filter(|topic| self.names.decode(topic).is_some()).collect();
        let configs = self.admin.topic_configs(&data).await?;
        let limits = configs.into_values().filter_map(Result::ok);
        let limits = limits.filter_map(|configs| configs.get("max.message.bytes")?.parse().ok());
        Ok(limits.max().unwrap_or(DEFAULT_MAX_MESSAGE_BYTES))
    }
}

/// Kafka's code of an admin error, where it has one.
pub fn code_of(error: &AdminError) -> Option<RDKafkaErrorCode> {
    match error {
        AdminError::NotAllowed { .. } => Some(RDKafkaErrorCode::TopicAuthorizationFailed),
        AdminError::Unavailable { code, .. } => Some(*code),
        AdminError::UnknownTopic { .. } => Some(RDKafkaErrorCode::UnknownTopicOrPartition),
        AdminError::Refused { .. } => Some(RDKafkaErrorCode::PolicyViolation),
    }
}

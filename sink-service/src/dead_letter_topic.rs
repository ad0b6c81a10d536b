//! The dead-letter topic, made by whoever needs it first.

use std::time::Duration;

use rdkafka::{ClientConfig, error::KafkaError, types::RDKafkaErrorCode};
use shared::{
    kafka_topics::{AdminError, Configs, Creation, TopicAdmin, TopicSpec},
    topic_name::TopicNames,
};
use tokio::sync::OnceCell;

use crate::topic_content::is_archived;

const PARTITIONS: i32 = 3;

/// The brokers' default.
const REPLICATION: i32 = -1;

/// A letter has more headers than its record: its topic takes this much more than a data topic.
const HEADROOM_BYTES: u64 = 1024 * 1024;

const ADMIN_TIMEOUT: Duration = Duration::from_secs(15);

/// Knows whether the topic is there.
pub struct DeadLetterTopic {
    name: String,
    names: TopicNames,
    admin: TopicAdmin,
    /// The source's limit of a topic's records, in bytes: it refuses a topic of letters that cannot take such a one.
    record_bytes: u64,
    there: OnceCell<()>,
}

impl DeadLetterTopic {
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn new(
        base: &ClientConfig,
        name: String,
        names: TopicNames,
        record_bytes: u64,
    ) -> Result<Self, KafkaError> {
        let admin = TopicAdmin::new(base, ADMIN_TIMEOUT)?;
        Ok(Self { name, names, admin, record_bytes, there: OnceCell::new() })
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
                    letter_bytes(self.largest_message(&topics).await?, self.record_bytes).to_string(),
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

    async fn largest_message(&self, topics: &[String]) -> Result<Option<u64>, AdminError> {
        let data: Vec<&str> =
            topics.iter().map(String::as_str).filter(|topic| is_archived(&self.names, topic)).collect();
        let configs = self.admin.topic_configs(&data).await?;
        let limits = configs.into_values().filter_map(Result::ok);
        let limits = limits.filter_map(|configs| configs.get("max.message.bytes")?.parse().ok());
        Ok(limits.max())
    }
}

/// What the topic has to take, in bytes, given the limit of the largest data topic and the source's.
pub fn letter_bytes(largest_topic: Option<u64>, record_bytes: u64) -> u64 {
    largest_topic.unwrap_or_default().max(record_bytes) + HEADROOM_BYTES
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topic_takes_what_the_source_demands_of_it_and_what_the_data_topics_have() {
        let mib = |count: u64| count * 1024 * 1024;
        assert_eq!(letter_bytes(None, mib(16)), mib(17));
        assert_eq!(letter_bytes(Some(mib(1)), mib(16)), mib(17));
        assert_eq!(letter_bytes(Some(mib(64)), mib(16)), mib(65));
    }
}

//! A broker's clock, for collections that no source of ours writes.
//!
//! Kafka has no question for it. But a topic with `message.timestamp.type=LogAppendTime` stamps each record with the clock of the broker that
//! leads it, and says so in the acknowledgement (<https://kafka.apache.org/protocol#The_Messages_Produce>). So one record a minute goes to
//! `<prefix>.clock`, and only where some collection needs it.

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig, ClientContext, Message, Timestamp,
    error::KafkaError,
    producer::{BaseRecord, DeliveryResult, ProducerContext},
};
use shared::{
    kafka_client,
    kafka_topics::{AdminError, Configs, Creation, TopicAdmin, TopicSpec},
    served_producer::ServedProducer,
    topic_name::TopicNames,
};
use tokio::sync::oneshot;

/// How long an answer is carried on by our own monotonic clock.
const ASK_INTERVAL: Duration = Duration::from_secs(60);

const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// The brokers' default.
const REPLICATION: i32 = -1;

/// Why the time is not known.
#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    #[error("topic {topic}: {error}")]
    Topic { topic: String, error: AdminError },
    #[error("topic {topic}: {error}")]
    Record { topic: String, error: KafkaError },
    #[error("topic {topic} does not have message.timestamp.type=LogAppendTime: set it, or delete the topic")]
    NoAppendTime { topic: String },
}

/// Gives the time of a record's acknowledgement to whoever waits for it.
struct Stamps;

impl ClientContext for Stamps {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, text: &str) {
        kafka_client::forward_log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka_client::forward_error(&error, reason);
    }
}

impl ProducerContext for Stamps {
    type DeliveryOpaque = Box<oneshot::Sender<Result<Timestamp, KafkaError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, receipt: Self::DeliveryOpaque) {
        let stamp = result.as_ref().map(Message::timestamp).map_err(|(error, _)| error.clone());
        if receipt.send(stamp).is_err() {
            tracing::debug!("nobody waits for the broker's clock any more");
        }
    }
}

/// Asks when it is needed.
pub struct BrokerClock {
    producer: ServedProducer<Stamps>,
    admin: TopicAdmin,
    topic: String,
    made: bool,
    asked: Option<(i64, Instant)>,
}

impl BrokerClock {
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn new(base: &ClientConfig, names: &TopicNames) -> Result<Self, KafkaError> {
        let mut config = base.clone();
        config.set("message.timeout.ms", REQUEST_TIMEOUT.as_millis().to_string());
        Ok(Self {
            producer: ServedProducer::new(&config, Stamps)?,
            admin: TopicAdmin::new(base, REQUEST_TIMEOUT)?,
            topic: names.clock(),
            made: false,
            asked: None,
        })
    }

    /// Seconds since 1970 by a broker's clock, at most a minute old and carried on since.
    ///
    /// # Errors
    /// If Kafka does not say, or does not let us ask.
    pub async fn now(&mut self) -> Result<i64, ClockError> {
        if let Some((millis, at)) = self.asked
            && at.elapsed() < ASK_INTERVAL
        {
            return Ok((millis + i64::try_from(at.elapsed().as_millis()).unwrap_or(0)) / 1000);
        }
        let topic = || self.topic.clone();
        if !self.made {
            self.make().await.map_err(|error| ClockError::Topic { topic: topic(), error })?;
            self.made = true;
        }
        let stamp = self.stamp().await.map_err(|error| ClockError::Record { topic: topic(), error })?;
        let Timestamp::LogAppendTime(millis) = stamp else {
            return Err(ClockError::NoAppendTime { topic: topic() });
        };
        // The broker stamped it before it answered: carried on from here it runs behind, never ahead.
        self.asked = Some((millis, Instant::now()));
        Ok(millis / 1000)
    }

    async fn stamp(&self) -> Result<Timestamp, KafkaError> {
        let (receipt, stamp) = oneshot::channel();
        let record = BaseRecord::<(), (), _>::with_opaque_to(&self.topic, Box::new(receipt));
        self.producer.send(record).map_err(|(error, _)| error)?;
        stamp.await.unwrap_or(Err(KafkaError::Canceled))
    }

    async fn make(&self) -> Result<(), AdminError> {
        let spec = TopicSpec {
            name: self.topic.clone(),
            partitions: 1,
            replication: REPLICATION,
            configs: Configs::from([
                ("cleanup.policy".to_owned(), "delete".to_owned()),
                ("retention.ms".to_owned(), "3600000".to_owned()),
                ("message.timestamp.type".to_owned(), "LogAppendTime".to_owned()),
            ]),
        };
        match self.admin.create_topic(&spec).await? {
            Creation::Created => tracing::info!(topic = self.topic, "clock topic created"),
            Creation::AlreadyExists => {}
            Creation::CollidesWith(others) => {
                return Err(AdminError::Refused {
                    what: format!("create topic {}", self.topic),
                    reason: format!("it collides with {}", others.join(", ")),
                });
            }
        }
        Ok(())
    }
}

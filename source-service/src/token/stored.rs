//! What is committed in Kafka, read as the source reads it.

use std::time::{Duration, Instant};

use shared::{
    exit::{ExitCode, Stop},
    kafka_client::{self, FIRST_CONTACT_LIMIT, KafkaSettings},
    topic_name::TopicNames,
};

use crate::{
    kafka_log::{KafkaLog, LogError},
    recovery::{self, ReadError, Remembered},
};

/// A wait that is not spoken of.
const WAIT_UNTOLD: Duration = Duration::from_secs(1);

/// The token topic of one source.
pub(crate) struct TokenTopic {
    pub(crate) log: KafkaLog,
    pub(crate) name: String,
    source_id: String,
}

impl TokenTopic {
    /// Connects; waits for Kafka as long as a start may.
    pub(crate) fn open(kafka: &KafkaSettings, names: &TopicNames, source_id: &str) -> Result<Self, Stop> {
        kafka_client::connect_check(kafka, FIRST_CONTACT_LIMIT)?;
        Self::new(kafka, names, source_id)
    }

    /// Contacts nobody yet.
    pub(crate) fn new(kafka: &KafkaSettings, names: &TopicNames, source_id: &str) -> Result<Self, Stop> {
        let log = KafkaLog::new(&kafka.client_config("atlas-token"), source_id).map_err(|error| {
            let text = format!("the Kafka client refuses its configuration: {error}; see KAFKA_OPTIONS");
            Stop::new(ExitCode::Configuration, text)
        })?;
        Ok(Self { log, name: names.resume_tokens(source_id), source_id: source_id.to_owned() })
    }

    pub(crate) fn exists(&self) -> Result<bool, Stop> {
        let partitions = self.log.partitions(|topic| topic == self.name).map_err(|error| log_stop(&error))?;
        Ok(!partitions.is_empty())
    }

    /// All that is committed; nothing if there is no such topic.
    pub(crate) fn read(&self) -> Result<Remembered, Stop> {
        if !self.exists()? {
            return Ok(Remembered::default());
        }
        let (begun, mut told) = (Instant::now(), false);
        let read = recovery::read_tokens(&self.log, &self.name, &self.source_id, |busy| {
            // One of a busy source ends at once.
            if begun.elapsed() > WAIT_UNTOLD && !std::mem::replace(&mut told, true) {
                tracing::warn!(topic = self.name, %busy, "the topic is still being read");
            }
            true
        });
        read.map_err(|error| match error {
            ReadError::Log(error) => log_stop(&error),
            ReadError::Stop(stop) => stop,
        })
    }
}

pub(crate) fn log_stop(error: &LogError) -> Stop {
    let code = match error {
        LogError::NotAllowed { .. } => ExitCode::NotAllowed,
        LogError::Kafka { .. } | LogError::Silent(_) | LogError::Unlisted(_) | LogError::Interrupted => {
            ExitCode::Unreachable
        }
    };
    Stop::new(code, error.to_string())
}

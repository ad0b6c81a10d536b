//! Why publishing cannot go on, and what each error of the parts means for the pump.

use shared::exit::{ExitCode, Stop};

use crate::{
    batch::BatchError, kafka_log::LogError, publisher::PublishError, recovery::ReadError, topics::TopicError,
};

/// Why publishing cannot go on with this producer.
pub(super) enum Setback {
    /// Recover with a new one. The label is for metrics.
    Doubt(&'static str, String),
    /// As a doubt; but first look whether another instance has taken over.
    Fenced(String),
    /// MongoDB no longer has the position, and the operator has said beforehand to go on behind the gap.
    PositionLost(String),
    /// A topic does not take an event, even compressed.
    TooLarge {
        topic: String,
        event_id: String,
    },
    /// Nothing failed: the producer was disturbed, so the next transaction gets a new one.
    Disturbed,
    Stop(Stop),
    /// A signal asked for an orderly stop.
    Asked,
}

impl From<Stop> for Setback {
    /// A question to MongoDB is given up with [`ExitCode::Drained`] when a signal asks for a stop.
    fn from(stop: Stop) -> Self {
        if stop.code == ExitCode::Drained { Self::Asked } else { Self::Stop(stop) }
    }
}

impl From<PublishError> for Setback {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Doubt(text) => Self::Doubt("error", text),
            PublishError::Fenced(text) => Self::Fenced(text),
            PublishError::NotAllowed(text) => Self::Stop(Stop::new(
                ExitCode::NotAllowed,
                format!(
                    "{text}: the source needs WRITE and DESCRIBE on its topics and on transactional id atlas-source-<SOURCE_ID>"
                ),
            )),
            PublishError::Refused(text) => Self::Stop(Stop::new(ExitCode::Configuration, text)),
            PublishError::TooLarge { topic, event_id } => Self::TooLarge { topic, event_id },
        }
    }
}

impl From<TopicError> for Setback {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::Unavailable(text) => Self::Doubt("topics", text),
            TopicError::Stop(stop) => Self::Stop(stop),
        }
    }
}

impl From<BatchError> for Setback {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Publish(error) => error.into(),
            BatchError::Topic(error) => error.into(),
            BatchError::Stop(stop) => Self::Stop(stop),
        }
    }
}

impl From<LogError> for Setback {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Interrupted => Self::Asked,
            error @ LogError::NotAllowed { .. } => {
                Self::Stop(Stop::new(ExitCode::NotAllowed, error.to_string()))
            }
            error => Self::Doubt("recovery", error.to_string()),
        }
    }
}

impl From<ReadError> for Setback {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Log(error) => error.into(),
            ReadError::Stop(stop) => Self::Stop(stop),
        }
    }
}

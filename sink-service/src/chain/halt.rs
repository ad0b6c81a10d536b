//! Why a chain cannot be continued.

use shared::{
    exit::ExitCode,
    kafka_position::{KafkaOffset, TopicPartition},
};
use thiserror::Error;

use crate::{lake_path::LakePath, topic_identity::AnotherTopic};

/// The chain cannot be continued, and going on would lose or double records.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChainHalt {
    #[error(
        "{partition}: the records from offset {position} to {log_start} are no longer in Kafka and not in the lake; \
         retention was shorter than the outage"
    )]
    Gap { partition: TopicPartition, position: KafkaOffset, log_start: KafkaOffset },
    #[error("{partition}: {another}")]
    AnotherTopic { partition: TopicPartition, another: AnotherTopic },
    /// The topic's id says that it is the same one.
    #[error(
        "{partition}: the log was cut: it ends at offset {log_end}, but the lake was written from this same topic up to offset \
         {position}; Kafka lost records that the lake has"
    )]
    LogCut { partition: TopicPartition, position: KafkaOffset, log_end: KafkaOffset },
    /// The log is long enough, but its records are others.
    #[error(
        "{partition}: the log was cut and has grown again (or, where topics have no id, the topic was made again): the lake was not written from \
         the record at offset {offset}, although it goes up to offset {position}"
    )]
    LogGrewAgain { partition: TopicPartition, offset: KafkaOffset, position: KafkaOffset },
    /// Nobody knows the topic's id.
    #[error(
        "{partition}: the log ends at offset {log_end}, but the lake was written up to offset {position}: the topic was made \
         again, or its log was cut; which of the two cannot be told, since the topic's id is not known"
    )]
    LogTooShort { partition: TopicPartition, position: KafkaOffset, log_end: KafkaOffset },
    #[error(
        "{partition}: the lake ends at offset {next}, but {confirmed} was confirmed; the lake lost what it had \
         (restored from a backup, or changed by hand?)"
    )]
    WentBack { partition: TopicPartition, confirmed: KafkaOffset, next: KafkaOffset },
    #[error("{partition}: the current file {path} is missing, although it has been there")]
    FileLost { partition: TopicPartition, path: LakePath },
    #[error("{partition}: {path} belongs to {owner}")]
    ForeignFile { partition: TopicPartition, path: LakePath, owner: TopicPartition },
    #[error(
        "{partition}: the head is missing, but the lake has {path}; `_chain/` was lost, and a new chain would double \
         its records"
    )]
    HeadLost { partition: TopicPartition, path: LakePath },
    #[error("{partition}: {what}")]
    LayoutDiffers { partition: TopicPartition, what: String },
}

impl ChainHalt {
    /// A log that ends before the lake does, whose topic is the same one for certain, or may be.
    pub fn log_too_short(
        partition: TopicPartition,
        position: KafkaOffset,
        log_end: KafkaOffset,
        is_same_topic: bool,
    ) -> Self {
        if is_same_topic {
            Self::LogCut { partition, position, log_end }
        } else {
            Self::LogTooShort { partition, position, log_end }
        }
    }

    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Gap { .. } => ExitCode::OffsetGap,
            Self::AnotherTopic { .. }
            | Self::LogCut { .. }
            | Self::LogGrewAgain { .. }
            | Self::LogTooShort { .. } => ExitCode::TopicChanged,
            Self::WentBack { .. }
            | Self::FileLost { .. }
            | Self::ForeignFile { .. }
            | Self::HeadLost { .. }
            | Self::LayoutDiffers { .. } => ExitCode::LakeDiffers,
        }
    }
}

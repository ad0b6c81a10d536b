//! Why a chain cannot be continued.

use shared::{
    exit::ExitCode,
    kafka_position::{KafkaOffset, TopicPartition},
};
use thiserror::Error;

use crate::lake_path::LakePath;

/// The chain cannot be continued, and going on would lose or double records.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChainHalt {
    #[error(
        "{partition}: the records from offset {position} to {log_start} are no longer in Kafka and not in the lake; \
         retention was shorter than the outage"
    )]
    Gap { partition: TopicPartition, position: KafkaOffset, log_start: KafkaOffset },
    #[error(
        "{partition}: this is not the topic that the lake was written from (topic id {found}, the head has {expected}); \
         it was deleted and made again. Nothing was published"
    )]
    AnotherTopic { partition: TopicPartition, expected: String, found: String },
    #[error(
        "{partition}: the log ends at {log_end}, but the lake holds records up to {position}; the topic was made again \
         or truncated. Nothing was published"
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
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Gap { .. } => ExitCode::OffsetGap,
            Self::AnotherTopic { .. } | Self::LogTooShort { .. } => ExitCode::TopicChanged,
            Self::WentBack { .. }
            | Self::FileLost { .. }
            | Self::ForeignFile { .. }
            | Self::HeadLost { .. }
            | Self::LayoutDiffers { .. } => ExitCode::LakeDiffers,
        }
    }
}

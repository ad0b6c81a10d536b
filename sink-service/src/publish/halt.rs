//! What waiting cannot heal, and what to do about it.

use shared::{
    exit::{ExitCode, Stop},
    kafka_topics::Configs,
};
use thiserror::Error;

use crate::{
    chain::ChainHalt, consumer::BATCH_BYTES_MAX, dead_letter_breaker::BreakerOpen,
    dead_letters::DeadLetterError, kafka_log::LogError, lake::LakeError, topic_identity::AnotherTopic,
};

/// Why the service has to stop.
#[derive(Debug, Error)]
pub enum Halt {
    #[error(transparent)]
    Chain(#[from] ChainHalt),
    #[error("{0}")]
    Lake(LakeError),
    #[error("{0}")]
    Kafka(LogError),
    #[error(transparent)]
    DeadLetters(DeadLetterError),
    #[error(transparent)]
    Breaker(#[from] BreakerOpen),
    /// Deleting superseded records loses changes that no sink has seen.
    #[error("topic {topic} has cleanup.policy={policy}")]
    Compacted { topic: String, policy: String },
    /// The consumer would stand still in front of such a record, without a word.
    #[error(
        "topic {topic} has max.message.bytes={bytes}, a sink can read records of up to {BATCH_BYTES_MAX} bytes"
    )]
    RecordsTooLarge { topic: String, bytes: u64 },
    /// What a record's schema is cannot be found out.
    #[error("{0}")]
    Registry(Stop),
    /// A task of ours has panicked.
    #[error("a publishing task ended in a defect: {0}")]
    Defect(String),
}

impl Halt {
    /// The exit code and the sentence that says what to do.
    pub fn to_stop(&self) -> Stop {
        let (code, remedy) = match self {
            Self::Registry(stop) => return stop.clone(),
            Self::Chain(halt) => (halt.exit_code(), remedy(halt)),
            Self::Lake(LakeError::Denied { .. }) => {
                (ExitCode::NotAllowed, "check LAKE_AUTH and the rights on the container")
            }
            Self::Lake(LakeError::Damaged { .. }) => {
                (ExitCode::LakeDiffers, "restore the file, or rebuild it from the topic")
            }
            Self::Lake(LakeError::Foreign { .. }) => (ExitCode::LakeDiffers, ANOTHER_PREFIX),
            Self::Lake(_) => (ExitCode::Configuration, "check LAKE_URL"),
            Self::Kafka(_) => (ExitCode::NotAllowed, "grant Describe on the topics to this user"),
            Self::Compacted { .. } => {
                (ExitCode::Configuration, "Set it to delete, or leave the topic out with SINK_EXCLUDE")
            }
            Self::RecordsTooLarge { .. } => (
                ExitCode::Configuration,
                "Lower the topic's max.message.bytes, or leave the topic out with SINK_EXCLUDE",
            ),
            Self::Defect(_) => {
                (ExitCode::Defect, "nothing is lost: a restart reads what is durable and goes on")
            }
            Self::Breaker(_) => (
                ExitCode::DeadLetterBreaker,
                "Nothing of the last batch was written, to the dead-letter topic neither, and nothing was skipped. The warnings above name its \
                 records and what is wrong with them; put the producer or the setting right, and restart. If the records are to be dead letters, set DLQ_MAX_RATIO \
                 higher, or to off, for that time",
            ),
            Self::DeadLetters(error) => {
                (error.exit_code(), "nothing was skipped: restart when dead letters can be written")
            }
        };
        Stop::new(code, format!("{self}. {remedy}"))
    }
}

/// Topics of one folder are of two prefixes: their control topics, or data topics of one collection.
const ANOTHER_PREFIX: &str = "Have a lake for each TOPIC_PREFIX (LAKE_URL), or leave this topic out of it: SINK_EXCLUDE=<prefix>.control \
                              does that with definitions. Else check that LAYOUT is right";

/// What a new chain needs, behind what else can be done; `concat!` takes no constants.
macro_rules! new_chain {
    ($before:literal) => {
        concat!(
            "Nothing was published. ",
            $before,
            "o begin a new chain move away, all together: the collection's folder, `_chain/<topic>/`, and in a local directory also \
             `_chain/files/<that folder>/`. What stays behind is taken for files of the new chain"
        )
    };
}

fn remedy(halt: &ChainHalt) -> &'static str {
    match halt {
        ChainHalt::Gap { .. } => {
            "Raise the topics' retention. If the records are lost for good, `sink-service run --accept-gap <topic>` goes on \
             behind them and writes down what is missing"
        }
        ChainHalt::AnotherTopic { another, .. } => match another {
            AnotherTopic::MadeAgain { .. } => new_chain!("T"),
            AnotherTopic::AnotherCluster { .. } => {
                new_chain!(
                    "Check KAFKA_BROKERS. If the topics were moved to this cluster on purpose, give it a lake of its own (LAKE_URL), or \
                     begin a new chain, which reads this topic from START_AT on. T"
                )
            }
            AnotherTopic::Either { .. } => new_chain!("Check KAFKA_BROKERS. If it is the right cluster: t"),
        },
        ChainHalt::LogCut { .. } => {
            new_chain!(
                "A leader that lacked records was elected (unclean.leader.election.enable), or a broker's disk was lost or restored from a \
                 backup. New records take the same offsets. If a replica or a newer copy of the disk has the lost ones, stop what writes to \
                 the topic and bring it back. Else the lake alone has them: keep what you move away. T"
            )
        }
        ChainHalt::LogGrewAgain { .. } => new_chain!(
            "Records that took the lost ones' offsets are in Kafka and not in the lake, lost ones are in the lake alone: keep what you move away, \
             and do not bring back an older copy of the log, which would lose what was written since. `sink-service verify` names the lines that are \
             in question. T"
        ),
        ChainHalt::LogTooShort { .. } => new_chain!(
            "If the log was cut, and a replica or a newer copy of the disk has the lost records, stop what writes to the topic and bring \
             it back. Else keep what you move away. T"
        ),
        ChainHalt::HeadLost { .. } => {
            "`sink-service verify --topic <topic> --restore-head` makes it again from the files"
        }
        ChainHalt::WentBack { .. } | ChainHalt::FileLost { .. } => "Restore the lake's files",
        ChainHalt::ForeignFile { .. } => ANOTHER_PREFIX,
        ChainHalt::LayoutDiffers { .. } => "Check that LAKE_URL, LAYOUT and TOPIC_PREFIX are right",
    }
}

/// Whether a topic with this configuration can be read whole.
///
/// # Errors
/// Why not.
pub fn judge_topic(topic: &str, configs: &Configs) -> Result<(), Halt> {
    let topic = topic.to_owned();
    if let Some(policy) = configs.get("cleanup.policy")
        && policy.split(',').any(|part| part.trim() == "compact")
    {
        return Err(Halt::Compacted { topic, policy: policy.clone() });
    }
    match configs.get("max.message.bytes").and_then(|bytes| bytes.parse().ok()) {
        Some(bytes) if bytes > BATCH_BYTES_MAX as u64 => Err(Halt::RecordsTooLarge { topic, bytes }),
        _ => Ok(()),
    }
}

//! `replay`: closed hours of the lake made again from the topic, while the live sink goes on.
//!
//! ```text
//!   chain, manifests ──▶ plan: files and their ranges ── Kafka no longer has one of them? ──▶ stop (21), nothing touched
//!                          │
//!                          ▼  per hour
//!            claim generation g + 1 in the manifest
//!                          │  per file, partitions side by side
//!                          ├─ look ─ read the range from Kafka ─ write seen by nobody ─ commit on what was looked at ─ read back
//!                          ▼
//!            manifest: generation g + 1, the files as they are
//! ```
//!
//! Where the files of the chain are to stay as they are (`--reformat`, `PUBLISH=sealed`), or the manifest names a reprint already:
//!
//! ```text
//!            claim ─ chain's files that are not whole, in place ─ read, write, read back <hour>/_gen-<g + 1>/… ─ manifest: names those
//! ```
//!
//! DESIGN §5 "Rebuild", in place: each file keeps its path and its range, so the chain is the same before, during and after, and whoever
//! reads the folder sees every row once at every moment.
//!
//! Invariants:
//! - Ranges come from the chain and the manifests. A search by time only gives a lower bound: where there is no chain, everything behind it is read, for a
//!   copy elsewhere ([`by_time`]).
//! - The plan is whole before anything is written.
//! - Every write is a compare-and-set. A second replay of the same hour joins the first one's generation: both write the same bytes.
//! - A file that carries the generation already and holds what its metadata says is left alone, so a replay that was stopped goes on.
//! - A claim says what is made. Who wants the same joins it; who wants something else takes a higher number, and so another folder.
//! - A reprint has the rows that the chain has. The chain stays what everything but the manifest's readers goes by.
//! - Offsets of the group are not touched; the live sink never writes into a sealed file.

mod by_time;
mod command;
mod hour_claim;
mod judge;
mod pieces;
mod plan;
mod rebuild;
mod report;
mod reprint;
mod seen_chain;

use shared::{exit::Stop, kafka_position::TopicPartition};

pub use self::command::replay;
use crate::{
    event_hour::EventHour, file_metadata::LastEvents, kafka_log::LogError, lake::LakeError, span::Span,
    verify::Output,
};

/// What is to be made again.
#[derive(Clone, Debug)]
pub struct ReplayRequest {
    pub topics: Vec<String>,
    pub span: Span,
    /// The `LAKE_URL` of another lake that gets the files; this one stays as it is.
    pub into: Option<String>,
    /// Makes a reprint in the form that the settings have.
    pub reformat: bool,
    /// Shows the plan and ends.
    pub dry_run: bool,
    pub output: Output,
}

/// It cannot be done, or not now.
#[derive(Debug, thiserror::Error)]
enum ReplayError {
    #[error("{0}")]
    Lake(#[from] LakeError),
    #[error("{0}")]
    Kafka(#[from] LogError),
    #[error("{0}")]
    Stop(#[from] Stop),
    #[error(
        "another replay of {topic}, hour {hour}, has begun after this one and goes on with a higher generation: this one ends here, and nothing is lost by it"
    )]
    Superseded { topic: String, hour: EventHour },
}

impl From<ReplayError> for Stop {
    fn from(error: ReplayError) -> Self {
        use shared::exit::ExitCode;
        let code = match &error {
            ReplayError::Stop(stop) => return stop.clone(),
            ReplayError::Superseded { .. } => return Self::new(ExitCode::Temporary, error.to_string()),
            ReplayError::Lake(error) => error.exit_code(ExitCode::Temporary),
            ReplayError::Kafka(LogError::Denied(_)) => ExitCode::NotAllowed,
            ReplayError::Kafka(LogError::NoTopic(_)) => ExitCode::TopicChanged,
            ReplayError::Kafka(_) => ExitCode::Temporary,
        };
        Self::new(code, format!("{error}. What was made again so far stays; type the same command to go on"))
    }
}

/// One data file that is to be made again.
#[derive(Clone, Debug)]
struct PlannedFile {
    path: crate::lake_path::LakePath,
    partition: TopicPartition,
    hour: EventHour,
    first: shared::kafka_position::KafkaOffset,
    next: shared::kafka_position::KafkaOffset,
    format: crate::line_format::LineFormat,
    known: Known,
    after: EventBefore,
}

/// The last events before a file: what the file begins with may repeat them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum EventBefore {
    Is(Option<LastEvents>),
    /// The file before it does not say.
    Unknown,
}

impl From<Option<Option<LastEvents>>> for EventBefore {
    fn from(known: Option<Option<LastEvents>>) -> Self {
        known.map_or(Self::Unknown, Self::Is)
    }
}

/// What is known of a file before it is made again.
#[derive(Clone, Debug)]
enum Known {
    Whole(Box<crate::file_metadata::FileMetadata>),
    /// The text says what is wrong; the hour's manifest has the rest.
    Listed {
        trouble: String,
        rows: u64,
        dead_letters: u64,
        bytes: u64,
    },
    /// Only that nothing else holds its range.
    Untraced {
        trouble: String,
    },
    /// It is part of a copy that is made by time: its records were counted.
    Counted {
        rows: u64,
        dead_letters: u64,
    },
}

impl PlannedFile {
    fn offsets(&self) -> u64 {
        self.next.get() - self.first.get()
    }

    /// `None` if nothing says it.
    fn rows(&self) -> Option<u64> {
        match &self.known {
            Known::Whole(metadata) => Some(metadata.rows),
            Known::Listed { rows, .. } | Known::Counted { rows, .. } => Some(*rows),
            Known::Untraced { .. } => None,
        }
    }

    /// Whether a record of it may be a dead letter, as far as anybody knows.
    fn may_hold_letters(&self) -> bool {
        match &self.known {
            Known::Whole(metadata) => !metadata.dead_letters.is_empty(),
            Known::Listed { dead_letters, .. } | Known::Counted { dead_letters, .. } => *dead_letters > 0,
            Known::Untraced { .. } => true,
        }
    }

    fn bytes(&self) -> Option<u64> {
        match &self.known {
            Known::Whole(metadata) => Some(metadata.original_size),
            Known::Listed { bytes, .. } => Some(*bytes),
            Known::Untraced { .. } | Known::Counted { .. } => None,
        }
    }

    fn trouble(&self) -> Option<&str> {
        match &self.known {
            Known::Whole(_) | Known::Counted { .. } => None,
            Known::Listed { trouble, .. } | Known::Untraced { trouble } => Some(trouble),
        }
    }
}

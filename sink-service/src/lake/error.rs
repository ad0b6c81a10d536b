//! What goes wrong at the lake.

use std::time::Duration;

use shared::exit::ExitCode;
use thiserror::Error;

use crate::lake_path::LakePath;

/// What went wrong, by what the caller does about it. Causes never hold keys, signatures or tokens.
#[derive(Clone, Debug, Error)]
pub enum LakeError {
    /// Certainly nothing happened: somebody else was first (409, 412, an invalid block list). Read back.
    #[error("somebody else changed it first")]
    Conflict,
    /// The reply was lost or says nothing certain: it may have happened, or may still happen. Read back.
    #[error("the outcome is not known: {cause}")]
    Unknown { cause: String },
    /// It certainly did not happen; try again, not before `retry_after` if the store named one.
    #[error("the lake is not available: {cause}")]
    Unavailable { cause: String, retry_after: Option<Duration> },
    /// 401 or 403, or the file system's permission denied: exit 77, after one refresh of the credential.
    #[error("not allowed: {cause}")]
    Denied { cause: String },
    /// It did not happen and repeating cannot help: a missing container, a network file system, a request that the
    /// store finds malformed, metadata over the limit. Exit 78.
    #[error("the lake cannot serve this: {what}")]
    Refused { what: String },
    /// What is there cannot be read as ours: exit 25.
    #[error("{path} is damaged: {what}")]
    Damaged { path: LakePath, what: String },
    /// What is there is whole, and another topic's: exit 25.
    #[error("{path} is of topic {owner}, not of {topic}: a lake takes one of them")]
    Foreign { path: LakePath, owner: String, topic: String },
}

impl LakeError {
    /// How a process ends that gives up because of it; `unanswered` where a later attempt may succeed.
    pub fn exit_code(&self, unanswered: ExitCode) -> ExitCode {
        match self {
            Self::Denied { .. } => ExitCode::NotAllowed,
            Self::Damaged { .. } | Self::Foreign { .. } => ExitCode::LakeDiffers,
            Self::Refused { .. } => ExitCode::Configuration,
            Self::Conflict | Self::Unknown { .. } | Self::Unavailable { .. } => unanswered,
        }
    }
}

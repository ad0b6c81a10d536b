//! Why a command that only looks cannot tell: `verify` and `compare` read lake and Kafka, and change neither.

use shared::exit::{ExitCode, Stop};

use crate::{kafka_log::LogError, lake::LakeError};

#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error("{0}")]
    Lake(#[from] LakeError),
    #[error("{0}")]
    Kafka(#[from] LogError),
    /// The registry, MongoDB, or what was asked for.
    #[error("{0}")]
    Stop(#[from] Stop),
}

impl From<LookError> for Stop {
    fn from(error: LookError) -> Self {
        let code = match &error {
            LookError::Stop(stop) => return stop.clone(),
            LookError::Kafka(LogError::Denied(_)) => ExitCode::NotAllowed,
            LookError::Kafka(_) => ExitCode::Unreachable,
            LookError::Lake(error) => error.exit_code(ExitCode::Unreachable),
        };
        Self::new(code, error.to_string())
    }
}

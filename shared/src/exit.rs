//! How a process of ours ends: one exit code per cause, the same in both services.
//!
//! Supervisors act on these codes (restart, page, leave alone), so the numbers are part of the contract and
//! never change their meaning. Codes below 64 are ours; 64 to 78 follow BSD's `sysexits.h`.
//!
//! Anything that has decided that the process must end returns a [`Stop`]: the code for the supervisor and one
//! message for the person who reads the log, which says what happened *and what to do*. Only `main` turns it
//! into a process exit, so that every destructor has run by then.

use std::fmt;

/// Why the process ended, as the number that the supervisor sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything that was read has been handed on and committed.
    Drained = 0,
    /// A defect of ours: please report it with the log.
    Defect = 1,
    /// The place to continue from is gone (oplog rolled over, stream cannot be resumed).
    PositionLost = 20,
    /// Records between our position and the start of the Kafka log are gone.
    OffsetGap = 21,
    /// Another instance with the same identity has taken over.
    Fenced = 22,
    /// The topic is not the one we wrote to or read from (deleted and made again).
    TopicChanged = 23,
    /// What lies in the lake is not what we left there, or not in a layout that we know.
    LakeDiffers = 25,
    /// Too many records went to the dead-letter topic within the window.
    DeadLetterBreaker = 26,
    /// The command line cannot be understood.
    Usage = 64,
    /// A dependency could not be reached at start.
    Unreachable = 69,
    /// A temporary failure that a restart heals.
    Temporary = 75,
    /// Credentials or rights are missing.
    NotAllowed = 77,
    /// A setting, or the configuration of a server, has to be changed first.
    Configuration = 78,
}

impl ExitCode {
    /// All codes in ascending order, for documentation and tests.
    pub const ALL: [Self; 13] = [
        Self::Drained,
        Self::Defect,
        Self::PositionLost,
        Self::OffsetGap,
        Self::Fenced,
        Self::TopicChanged,
        Self::LakeDiffers,
        Self::DeadLetterBreaker,
        Self::Usage,
        Self::Unreachable,
        Self::Temporary,
        Self::NotAllowed,
        Self::Configuration,
    ];

    /// The number the supervisor sees.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// One line for `--help`, logs and the documentation.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Defect => "a defect of ours",
            Self::PositionLost => "position lost",
            Self::OffsetGap => "offset gap",
            Self::Fenced => "fenced by another instance",
            Self::TopicChanged => "topic is not the one we wrote",
            Self::LakeDiffers => "lake layout differs",
            Self::DeadLetterBreaker => "dead-letter breaker open",
            Self::Usage => "usage",
            Self::Unreachable => "dependency unreachable at start",
            Self::Temporary => "temporary, restart me",
            Self::NotAllowed => "not allowed",
            Self::Configuration => "configuration",
        }
    }
}

impl fmt::Display for ExitCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.number(), self.meaning())
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

/// This process must end with this code and this message, which says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Stop {
    pub code: ExitCode,
    pub message: String,
}

impl Stop {
    #[must_use]
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A run with `--until-end` that a signal ended before: what follows it in a schedule must not go on as if all were there.
    #[must_use]
    pub fn before_end() -> Self {
        let what = "a signal came before the end was reached. What was done is kept: run it again, and it goes on from there";
        Self::new(ExitCode::Temporary, what)
    }

    /// For `main`: the code as the standard library wants it returned.
    #[must_use]
    pub fn exit_code(&self) -> std::process::ExitCode {
        self.code.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_the_contract() {
        let numbers: Vec<u8> = ExitCode::ALL.iter().map(|code| code.number()).collect();
        assert_eq!(numbers, [0, 1, 20, 21, 22, 23, 25, 26, 64, 69, 75, 77, 78]);
    }

    #[test]
    fn a_stop_shows_its_message_and_keeps_its_code() {
        let stop = Stop::new(ExitCode::Fenced, "another source runs with this id: stop one of them");
        assert_eq!(stop.to_string(), "another source runs with this id: stop one of them");
        assert_eq!(stop.code.to_string(), "22 (fenced by another instance)");
    }
}

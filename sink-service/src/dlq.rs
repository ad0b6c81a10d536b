//! `dlq`: what is in the dead-letter topic, and what becomes of it.
//!
//! ```text
//!   dead-letter topic ──▶ book: letters by key, markers ──┐
//!   chains, files ──────▶ standing: letter, row, not yet ─┴─▶ list, show
//!                                                            retry ─▶ { record back to its topic + marker } one transaction
//!                                                            drop ──▶ { marker }
//! ```
//!
//! Invariants:
//! - The same key is the same letter, however often it was delivered; the newest marker decides what became of it.
//! - A letter whose offset the chain holds as a row is void: nothing is sent for it. One that the chain has not passed may become that, so it waits.
//! - Record and marker are one transaction. Before it, markers are read up to the high watermark taken after `init_transactions`: whoever held
//!   the transactional id before is fenced by then, and what it committed is seen. One producer makes one transaction, so a late end of it
//!   can tear no other one; after a doubt it is dropped without an abort.
//! - What this version would make a dead letter again is not sent, nor what a replay could make a row of at the same time ([`writing`]).

mod args;
mod book;
mod command;
mod filter;
mod letter;
mod report;
mod standing;
mod transaction;
mod writing;

use std::{collections::BTreeMap, path::PathBuf};

use shared::{
    dead_letter::DeadLetterReason,
    exit::{ExitCode, Stop},
    kafka_position::{KafkaOffset, TopicPartition},
};

pub use self::{
    args::{dlq_command, dlq_request},
    command::run,
    filter::Filter,
};
use self::{book::Book, letter::Origin};
use crate::{
    kafka_log::{KafkaLog, LogError},
    lake::LakeError,
    topic_reader::TopicReader,
};

/// The sink's letters in the dead-letter topic, by the place of their records: what a replay has to know of them.
#[derive(Debug, Default)]
pub struct KnownLetters(BTreeMap<(TopicPartition, KafkaOffset), KnownLetter>);

#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownLetter {
    /// `None` if only its marker is left, or if a later version has written it.
    pub(crate) reason: Option<DeadLetterReason>,
    /// Somebody has sent it back or dropped it. Such a letter stays one, also where it could be written by now: a row of it would be the
    /// second one, or one that nobody wants.
    pub(crate) is_settled: bool,
}

impl KnownLetters {
    /// What is there by now, and what is on its way into it: a transaction that is open is waited for. A topic that is not there has none.
    ///
    /// # Errors
    /// If Kafka cannot be read.
    pub async fn read(dead_letters: &str, log: &KafkaLog, reader: &TopicReader) -> Result<Self, LogError> {
        let mut book = Book::new(dead_letters, log, reader);
        book.catch_up().await?;
        let marked = book.marked().filter_map(Origin::of_key).map(|origin| {
            ((origin.partition, origin.offset), KnownLetter { reason: None, is_settled: true })
        });
        let letters = book.letters.values().filter_map(|letter| {
            let reason = DeadLetterReason::ALL.into_iter().find(|reason| reason.as_str() == letter.reason);
            let is_settled = book.mark(&letter.key).is_some();
            let origin = letter.origin.clone()?;
            Some(((origin.partition, origin.offset), KnownLetter { reason, is_settled }))
        });
        Ok(Self(marked.chain(letters).collect()))
    }

    #[cfg(test)]
    pub(crate) fn of(
        letters: impl IntoIterator<Item = ((TopicPartition, KafkaOffset), KnownLetter)>,
    ) -> Self {
        Self(letters.into_iter().collect())
    }

    /// `None` if the topic has nothing of it, or no longer.
    pub(crate) fn get(&self, place: &(TopicPartition, KafkaOffset)) -> Option<KnownLetter> {
        self.0.get(place).copied()
    }
}

/// What was asked for.
#[derive(Clone, Debug)]
pub struct DlqRequest {
    pub action: Action,
    pub filter: Filter,
    pub output: Output,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    List,
    Show {
        /// Only the value, as it is.
        value_only: bool,
    },
    Retry {
        /// Without it only the plan is shown.
        yes: bool,
        /// A file whose bytes take the value's place.
        with_value: Option<PathBuf>,
    },
    Drop {
        yes: bool,
        /// The operator's words.
        because: String,
    },
}

/// The form of what is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Table,
    /// Columns between tabs.
    Lines,
    /// One object a line.
    Json,
}

/// It cannot be done, or not now.
#[derive(Debug, thiserror::Error)]
enum DlqError {
    #[error("{0}")]
    Lake(#[from] LakeError),
    #[error("{0}")]
    Kafka(#[from] LogError),
    #[error("{0}")]
    Stop(#[from] Stop),
}

impl From<DlqError> for Stop {
    fn from(error: DlqError) -> Self {
        let code = match &error {
            DlqError::Stop(stop) => return stop.clone(),
            DlqError::Lake(error) => error.exit_code(ExitCode::Temporary),
            DlqError::Kafka(LogError::Denied(_)) => ExitCode::NotAllowed,
            DlqError::Kafka(_) => ExitCode::Temporary,
        };
        Self::new(code, format!("{error}. What was done so far stands; type the same command to go on"))
    }
}

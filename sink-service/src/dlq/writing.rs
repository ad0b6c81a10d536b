//! Letters sent back and markers set, in transactions of their own.
//!
//! ```text
//!   begin ─▶ records and markers ─▶ in the logs, unseen ─▶ is a replay at one of their hours? ── no ──▶ commit
//!                                                                                             └─ yes ─▶ abort (75)
//! ```
//!
//! Either makes a row of a letter's record, and both at once would make two. A replay claims its hours before it reads markers, and waits for open
//! transactions then; this looks for claims when its markers are in the log. So one of the two sees the other.

use chrono::{SecondsFormat, Utc};
use rdkafka::message::{Header, OwnedHeaders};
use shared::{
    backoff::Backoff,
    dead_letter::header,
    exit::{ExitCode, Stop},
};

use super::{
    DlqError,
    book::Book,
    command::Desk,
    letter::{Content, DROPPED, Letter, RETRIED},
    standing::Standings,
    transaction::{Outgoing, Transaction, TransactionError},
};
use crate::kafka_log::LogError;

/// A transaction has at most so many letters, and about so many bytes.
pub(super) const LETTERS_MAX: usize = 100;
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// So often another producer is tried after a doubt.
const ATTEMPTS_MAX: u32 = 5;

/// A letter, with its content where that is sent.
pub(super) struct Job<'a> {
    pub letter: &'a Letter,
    pub content: Option<&'a Content>,
}

#[derive(Clone, Copy)]
pub(super) enum Doing<'a> {
    Retry { repaired: Option<&'a [u8]> },
    Drop { because: &'a str },
}

impl Desk<'_> {
    /// Makes one transaction of those that nobody has marked; how many these were. After a doubt another producer looks what is there.
    /// # Errors
    /// If it cannot be done.
    pub(super) async fn transact(
        &self,
        book: &mut Book<'_>,
        jobs: &[Job<'_>],
        doing: Doing<'_>,
    ) -> Result<usize, DlqError> {
        let mut backoff = Backoff::default();
        let mut ours = 0;
        loop {
            let doubt = match Transaction::prepare(&self.kafka, self.dead_letters) {
                Ok(transaction) => {
                    book.catch_up().await?;
                    let open: Vec<&Job<'_>> =
                        jobs.iter().filter(|job| book.mark(&job.letter.key).is_none()).collect();
                    if open.is_empty() {
                        return Ok(ours);
                    }
                    ours = open.len();
                    match self.finish(transaction, &open, doing).await? {
                        Ok(()) => return Ok(ours),
                        Err(TransactionError::Stop(stop)) => return Err(stop.into()),
                        Err(TransactionError::Doubt(cause)) => cause,
                    }
                }
                Err(TransactionError::Stop(stop)) => return Err(stop.into()),
                Err(TransactionError::Doubt(cause)) => cause,
            };
            if backoff.attempts() >= ATTEMPTS_MAX {
                return Err(LogError::Unavailable(doubt).into());
            }
            tracing::warn!(cause = doubt, "in doubt: another producer looks what is there");
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Writes, and commits unless a replay could make rows of the letters.
    async fn finish(
        &self,
        transaction: Transaction,
        jobs: &[&Job<'_>],
        doing: Doing<'_>,
    ) -> Result<Result<(), TransactionError>, DlqError> {
        if let Err(error) = self.write(&transaction, jobs, doing).and_then(|()| transaction.write_out()) {
            return Ok(Err(error));
        }
        if matches!(doing, Doing::Retry { .. }) {
            let mut standings = Standings::new(self.lake);
            for Job { letter, .. } in jobs {
                if standings.may_become_a_row(letter).await? {
                    // What goes wrong now ends by itself: the transaction is not committed.
                    if let Err(error) = transaction.abort() {
                        tracing::warn!(?error, "the transaction stays open until it times out");
                    }
                    let what = format!(
                        "{} is in an hour that a replay is making again, or has just made: its record may be a row there. Nothing more was sent; type the same command when it has ended",
                        letter.key
                    );
                    return Err(Stop::new(ExitCode::Temporary, what).into());
                }
            }
        }
        Ok(transaction.commit())
    }

    fn write(
        &self,
        transaction: &Transaction,
        jobs: &[&Job<'_>],
        doing: Doing<'_>,
    ) -> Result<(), TransactionError> {
        transaction.begin()?;
        let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        for Job { letter, content } in jobs {
            if let (Doing::Retry { repaired }, Some(content), Some(origin)) = (doing, content, &letter.origin)
            {
                let mut headers = OwnedHeaders::new_with_capacity(content.headers.len() + 2);
                for (name, value) in &content.headers {
                    headers = headers.insert(Header { key: name, value: value.as_deref() });
                }
                headers = headers.insert(Header { key: header::RETRY, value: Some(&letter.key) });
                if repaired.is_some() {
                    headers = headers.insert(Header { key: header::REPAIRED, value: Some("true") });
                }
                transaction.send(Outgoing {
                    topic: &origin.partition.topic,
                    partition: origin.partition.partition,
                    key: content.key.as_deref(),
                    value: repaired.or(content.value.as_deref()),
                    timestamp: letter.original_timestamp,
                    headers,
                })?;
            }
            let (what, because) = match doing {
                Doing::Retry { .. } => (RETRIED, None),
                Doing::Drop { because } => (DROPPED, Some(because)),
            };
            let mut headers = OwnedHeaders::new_with_capacity(3)
                .insert(Header { key: header::MARKER, value: Some(what) })
                .insert(Header { key: header::MARKED_AT, value: Some(&now) });
            if let Some(because) = because {
                headers = headers.insert(Header { key: header::MARKER_REASON, value: Some(because) });
            }
            transaction.send(Outgoing {
                topic: self.dead_letters,
                partition: letter.place().partition,
                key: Some(letter.key.as_bytes()),
                value: None,
                timestamp: None,
                headers,
            })?;
        }
        Ok(())
    }
}

/// In runs that fit one transaction.
pub(super) fn chunks<'a, 'b>(letters: &'a [&'b Letter]) -> Vec<&'a [&'b Letter]> {
    let mut chunks = Vec::new();
    let mut rest = letters;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fitting = rest.iter().take(LETTERS_MAX).take_while(|letter| {
            bytes += letter.bytes();
            bytes <= BYTES_MAX
        });
        let (chunk, more) = rest.split_at(fitting.count().max(1));
        chunks.push(chunk);
        rest = more;
    }
    chunks
}

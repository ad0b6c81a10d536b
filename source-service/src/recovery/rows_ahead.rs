//! Rows of a snapshot that are committed although the record of their chunk is not, read back from their topic.
//!
//! A torn transaction is the last thing that its producer did, and every recovery ends with a record of what it found. So such rows are the
//! last own records of their partitions: each tail tells whether its partition has some, and they are read backwards up to the first
//! own record that is none.

use rdkafka::message::{BorrowedMessage, Message as _};
use shared::wire::header;

use super::{Backwards, Busy, FIRST_WINDOW, Tails, header_of, source_of};
use crate::{
    kafka_log::{KafkaLog, LogError, Partition},
    snapshot::{RowIds, ahead::RowsAhead},
};

/// What was found, and the number that the next chunk has to have so that ids go on rising. `None` if there is nothing.
///
/// `next_chunk` is what the collection's record says; rows of that chunk and later ones are ahead of it. `own` is the `source` header of
/// this source and run. No such row is older than the committed token, whose time is `token_time_ms`.
///
/// # Errors
/// See [`LogError`].
pub fn read_rows_ahead(
    log: &KafkaLog,
    topic: &str,
    own: &str,
    tails: &Tails,
    next_chunk: u32,
    token_time_ms: i64,
    mut going_on: impl FnMut(Busy<'_>) -> bool,
) -> Result<Option<(RowsAhead, u32)>, LogError> {
    let is_ahead = |id: &str| RowIds::chunk_of(id).filter(|chunk| *chunk >= next_chunk);
    let partitions: Vec<Partition> = tails
        .of(topic)
        .filter(|(_, tail)| is_ahead(tail).is_some())
        .map(|(partition, _)| Partition { topic: topic.to_owned(), partition })
        .collect();
    let mut ahead = RowsAhead::default();
    let mut last_chunk = None;
    for (Partition { partition, .. }, floor) in log.offsets_at(&partitions, token_time_ms)? {
        let (start, end) = log.ends(topic, partition)?;
        let first = Backwards { partition, floor: floor.max(start), end, window: FIRST_WINDOW };
        let mut search = (first.floor < end).then_some(first);
        while let Some(step) = search {
            if !going_on(Busy::Reading { topic, left: step.end - step.floor }) {
                return Err(LogError::Interrupted);
            }
            let mut is_whole = false;
            let take = |message: &BorrowedMessage<'_>| {
                if source_of(message) != Some(own.as_bytes()) {
                    return;
                }
                let id = header_of(message, header::EVENT_ID).and_then(|id| std::str::from_utf8(id).ok());
                match (id.and_then(is_ahead), message.key()) {
                    (Some(chunk), Some(key)) => {
                        ahead.insert(key);
                        last_chunk = last_chunk.max(Some(chunk));
                    }
                    _ => is_whole = true,
                }
            };
            let below = step.below();
            log.read(topic, &[step.range()], take, |left| {
                going_on(Busy::Reading { topic, left: below + left })
            })?;
            search = if is_whole { None } else { step.step() };
        }
    }
    Ok(last_chunk.map(|last| (ahead, last + 1)))
}

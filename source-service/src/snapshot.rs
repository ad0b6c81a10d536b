//! The snapshot: what is already there is copied into the topics, between the events of the stream.
//!
//! ```text
//!   stream published up to X ──▶ chunks read at X ──▶ their rows, of time X ──▶ the stream goes on behind X ──▶ …
//!                                 (find, readConcern snapshot, atClusterTime X; several ranges of _id at once)
//! ```
//!
//! The stream stands still at a position X while an *episode* lasts: every event up to X is published, none behind it. All chunks
//! of the episode are read as of X, and their rows get the time X. So a row never hides a newer change, record time never goes
//! back, and nothing has to be held back in memory but one reply. Then the stream goes on, at least for as long as the episode
//! took: its position never ages (decision 0009).
//!
//! A chunk is one reply of the server; its rows and the record of how far the copy is are one Kafka transaction. Ranges are bounds on
//! the index of `_id` (`min`, `max`): those follow BSON's order over all types, where `$gt` and `$lte` see one type only.
//!
//! | module | subject |
//! |---|---|
//! | [`plan`] | which ranges there are, and how far each is: pure |
//! | [`record`] | the same as JSON in the token topic |
//! | [`request`] | what operators ask to be copied, as records of the token topic |
//! | [`ahead`] | rows that are committed although the record of their chunk is not |
//! | [`bar`] | how far it is, on a terminal |
//! | [`catalog`] | asks MongoDB what there is to copy, and where to cut it |
//! | [`reader`] | reads chunks |

pub mod ahead;
pub mod bar;
pub mod catalog;
pub mod plan;
pub mod reader;
pub mod record;
pub mod request;

use bson::raw::RawBson;
use mongodb::raw_batch_cursor::RawBatch;
use shared::cluster_time::ClusterTime;

/// A range of a collection, by its places in the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeId {
    pub collection: usize,
    pub range: usize,
}

/// What the rows of a reply are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowForm {
    /// Documents as they lie in the collection.
    Document,
    /// Insert events of them that have passed the user's stages; their `_id` is to be replaced.
    Event,
}

/// One reply of a range's cursor.
pub struct Chunk {
    pub range: RangeId,
    /// The time that its rows are of.
    pub time: ClusterTime,
    pub batch: RawBatch,
    pub form: RowForm,
    /// Rows at its beginning that were copied before: bounds are inclusive.
    pub copied_before: usize,
    /// The `_id` of its last row; `None` if it has none.
    pub last: Option<RawBson>,
    /// Nothing of the range is left behind it.
    pub is_last: bool,
}

impl Chunk {
    /// Rows that are not copied yet.
    pub fn rows(&self) -> usize {
        self.batch.doc_slices().map_or(0, |rows| rows.into_iter().count()).saturating_sub(self.copied_before)
    }
}

/// What the names of a chunk's rows are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowIds {
    /// `_data` of the position that the stream stood at: behind every event that is published, before every one that is not.
    pub base: String,
    pub time: ClusterTime,
    /// Rises with every chunk of its collection.
    pub chunk: u32,
}

impl RowIds {
    /// The event id of a row: sorts behind the events before the chunk and before those behind it, because `~` is above all
    /// hexadecimal digits.
    pub fn write(&self, row: usize, to: &mut String) {
        use std::fmt::Write as _;

        to.clear();
        let ClusterTime { seconds, increment } = self.time;
        write!(to, "{}~{seconds:08X}{increment:08X}~{:08}~{row:08}", self.base, self.chunk)
            .expect("a String takes everything");
    }

    /// The number of the chunk that a row with this event id is of; `None` if it is the id of an event.
    pub fn chunk_of(event_id: &str) -> Option<u32> {
        let mut parts = event_id.split('~').skip(2);
        let (chunk, _row) = (parts.next()?, parts.next()?);
        chunk.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_sort_between_the_events_around_them() {
        let ids = |base: &str, seconds, chunk| RowIds {
            base: base.to_owned(),
            time: ClusterTime::new(seconds, 1),
            chunk,
        };
        let id = |ids: &RowIds, row| {
            let mut text = String::new();
            ids.write(row, &mut text);
            text
        };
        let before = "8266C1F3A4000000032B022C0100296E5A1004";
        let position = "8266C1F3A5000000012B0229296E04";
        let behind = "8266C1F3A5000000022B022C0100296E5A1004";
        let first = id(&ids(position, 0x66C1_F3A5, 7), 0);
        let in_order = [
            before.to_owned(),
            first.clone(),
            id(&ids(position, 0x66C1_F3A5, 7), 99_999),
            id(&ids(position, 0x66C1_F3A5, 8), 0),
            behind.to_owned(),
        ];
        assert!(in_order.is_sorted(), "{in_order:?}");
        assert_eq!(first, "8266C1F3A5000000012B0229296E04~66C1F3A500000001~00000007~00000000");
        assert!(id(&ids("00", 5, 1), 0).as_str() < before);
        assert_eq!((RowIds::chunk_of(&first), RowIds::chunk_of(before)), (Some(7), None));
    }
}

//! The lake's rows, folded to the last change of each document.

use std::{borrow::Cow, collections::HashMap};

use bson::Bson;
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::cluster_time::{ClusterTime, TimestampJson};

use super::normal::{JsonValue, ValueHash};

/// Which documents are looked at: one part of several, by a hash of the `_id`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    pub index: u64,
    pub count: u64,
}

impl Bucket {
    pub(super) fn has(self, key: ValueHash) -> bool {
        key.bucket(self.count) == self.index
    }
}

/// Of memory, for each document: a hash map is at least 7/16 full, and has a byte more for each place.
pub(super) const ENTRY_BYTES: u64 = (size_of::<(ValueHash, Entry)>() as u64 + 1) * 16 / 7;

/// What a document's last change leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Document(ValueHash),
    Deleted,
    /// A change without its document.
    NotSaid,
}

/// A document's last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LastChange {
    pub state: State,
    pub time: ClusterTime,
}

#[derive(Debug)]
struct Entry {
    last: LastChange,
    /// MongoDB was seen to have it so, or it came after the scan.
    settled: bool,
}

/// One line, as far as it matters here.
pub(super) struct Row {
    pub id: Bson,
    pub key: ValueHash,
    pub last: LastChange,
}

/// Why a line is no row that can be folded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoRow {
    /// Of another producer, or of another profile.
    NoChange,
    /// `JSON_DIALECT=plain` drops types: nothing can be compared.
    Plain,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "_meta", borrow)]
    meta: Meta<'a>,
    #[serde(rename = "documentKey")]
    key: JsonValue,
    #[serde(rename = "fullDocument", borrow)]
    document: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta<'a> {
    #[serde(borrow)]
    operation_type: Cow<'a, str>,
    cluster_time: TimestampJson,
    /// An object in every dialect but `plain`; rows of a snapshot have none.
    #[serde(borrow)]
    wall_time: Option<&'a RawValue>,
}

impl Row {
    /// `None` for a row of another bucket.
    pub(super) fn of(line: &[u8], bucket: Bucket) -> Result<Option<Self>, NoRow> {
        let Line { meta, key, document } = serde_json::from_slice(line).map_err(|_| NoRow::NoChange)?;
        if meta.wall_time.is_some_and(|time| time.get().starts_with('"')) {
            return Err(NoRow::Plain);
        }
        let id = match key.0 {
            Bson::Document(mut key) => key.remove("_id").ok_or(NoRow::NoChange)?,
            _ => return Err(NoRow::NoChange),
        };
        let key = ValueHash::of(&id);
        if !bucket.has(key) {
            return Ok(None);
        }
        let state = match (&*meta.operation_type, document) {
            ("insert" | "update" | "replace", Some(document)) => {
                let JsonValue(document) =
                    serde_json::from_str(document.get()).map_err(|_| NoRow::NoChange)?;
                State::Document(ValueHash::of(&document))
            }
            ("insert" | "update" | "replace", None) => State::NotSaid,
            ("delete", _) => State::Deleted,
            _ => return Err(NoRow::NoChange),
        };
        let last = LastChange { state, time: meta.cluster_time.into() };
        Ok(Some(Self { id, key, last }))
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Fold {
    entries: HashMap<ValueHash, Entry>,
}

impl Fold {
    /// Rows of one partition come in its order. Of a document that is in two, since partitions were added, the later change counts.
    pub(super) fn take(&mut self, key: ValueHash, last: LastChange) {
        match self.entries.get_mut(&key) {
            Some(entry) if entry.last.time > last.time => {}
            Some(entry) => entry.last = last,
            None => {
                self.entries.insert(key, Entry { last, settled: false });
            }
        }
    }

    /// A change that the scan was too early for. Of a document that is known already it is a change like any other; one that is new
    /// is not asked about.
    pub(super) fn take_later(&mut self, key: ValueHash, last: LastChange) {
        let new = !self.entries.contains_key(&key);
        self.take(key, last);
        if new && let Some(entry) = self.entries.get_mut(&key) {
            entry.settled = true;
        }
    }

    /// The collection was dropped, or renamed, at this time: none of its documents was deleted one by one.
    pub(super) fn dropped_at(&mut self, time: ClusterTime) {
        for entry in self.entries.values_mut().filter(|entry| entry.last.time < time) {
            entry.last = LastChange { state: State::Deleted, time };
        }
    }

    pub(super) fn last(&self, key: ValueHash) -> Option<LastChange> {
        self.entries.get(&key).map(|entry| entry.last)
    }

    /// Whether a document of MongoDB's is what the last change left; if so, it is not asked about again.
    pub(super) fn agrees(&mut self, key: ValueHash, document: ValueHash) -> bool {
        let Some(entry) = self.entries.get_mut(&key) else { return false };
        entry.settled |= entry.last.state == State::Document(document);
        entry.settled
    }

    pub(super) fn is_settled(&self, key: ValueHash) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.settled)
    }

    /// Documents that MongoDB was not seen to have so.
    pub(super) fn unseen(&self) -> impl Iterator<Item = ValueHash> {
        let unseen = self.entries.iter();
        unseen.filter(|(_, entry)| !entry.settled && entry.last.state != State::Deleted).map(|(key, _)| *key)
    }

    pub(super) fn documents(&self) -> u64 {
        self.entries.values().filter(|entry| entry.last.state != State::Deleted).count() as u64
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const ALL: Bucket = Bucket { index: 0, count: 1 };

    fn row(operation: &str, seconds: u32, document: &str) -> Row {
        let line = format!(
            r#"{{"_meta":{{"operationType":"{operation}","clusterTime":{{"$timestamp":{{"t":{seconds},"i":1}}}},"wallTime":{{"$date":"2025-08-22T22:00:00Z"}}}},"documentKey":{{"_id":7}},"fullDocument":{document},"_kafka":{{}}}}"#
        );
        Row::of(line.as_bytes(), ALL).unwrap().unwrap()
    }

    #[test]
    fn the_last_change_counts() {
        let mut fold = Fold::default();
        let mut take = |row: &Row| fold.take(row.key, row.last);
        let (insert, update) =
            (row("insert", 5, r#"{"_id":7,"a":1}"#), row("update", 9, r#"{"_id":7,"a":2}"#));
        take(&insert);
        take(&update);
        // Of a partition that is read later, though its row is older.
        take(&insert);
        assert_eq!(fold.last(insert.key), Some(update.last));
        assert_eq!((fold.documents(), fold.unseen().count()), (1, 1));
        let document = ValueHash::of_document(&bson::doc! { "_id": 7_i64, "a": 2 });
        assert!(fold.agrees(insert.key, document) && fold.is_settled(insert.key));
        assert_eq!(fold.unseen().count(), 0);
        let newcomer = ValueHash::of(&8.into());
        fold.take_later(newcomer, insert.last);
        assert!(fold.is_settled(newcomer));
        fold.dropped_at(ClusterTime::new(9, 1));
        assert_eq!(fold.documents(), 1, "the drop's own time is that of no change");
        fold.dropped_at(ClusterTime::new(9, 2));
        assert_eq!(fold.documents(), 0);
    }

    #[test]
    fn rows_say_what_they_leave() {
        assert_eq!(row("delete", 1, "null").last.state, State::Deleted);
        assert_eq!(row("update", 1, "null").last.state, State::NotSaid);
        let plain = br#"{"_meta":{"operationType":"insert","clusterTime":{"$timestamp":{"t":1,"i":1}},"wallTime":"2025-08-22T22:00:00Z"},"documentKey":{"_id":7},"fullDocument":{}}"#;
        assert_eq!(Row::of(plain, ALL).err(), Some(NoRow::Plain));
        assert_eq!(Row::of(br#"{"no":1}"#, ALL).err(), Some(NoRow::NoChange));
    }
}

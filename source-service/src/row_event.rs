//! A snapshot's row in the form of an insert event, so that one path leads from both to a record.
//!
//! The event is BSON, built into one reused buffer: a row costs a copy of its bytes and no allocation.

use std::ops::Range;

use bson::RawDocument;
use shared::{cluster_time::ClusterTime, namespace::Namespace};

use crate::{snapshot::RowIds, transcode::Reader};

const STRING: u8 = 0x02;
const DOCUMENT: u8 = 0x03;
const TIMESTAMP: u8 = 0x11;

/// A row that no event can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row has no _id")]
pub struct NoId;

/// Makes one event after the other in its buffer.
pub struct RowEvent<'a> {
    ids: &'a RowIds,
    /// `operationType`, `clusterTime`, `ns`: the same in every row of a chunk.
    common: Vec<u8>,
    id: String,
    event: Vec<u8>,
}

impl<'a> RowEvent<'a> {
    pub fn new(namespace: &Namespace, ids: &'a RowIds) -> Self {
        let mut common = Vec::new();
        string(&mut common, "operationType", "insert");
        common.push(TIMESTAMP);
        name(&mut common, "clusterTime");
        let ClusterTime { seconds, increment } = ids.time;
        common.extend_from_slice(&increment.to_le_bytes());
        common.extend_from_slice(&seconds.to_le_bytes());
        document(&mut common, "ns", |to| {
            string(to, "db", &namespace.db);
            string(to, "coll", &namespace.coll);
        });
        Self { ids, common, id: String::new(), event: Vec::new() }
    }

    /// The event of a row that is one already, but for its `_id`, until the next call.
    ///
    /// # Errors
    /// [`NoId`].
    pub fn renamed(&mut self, row: &RawDocument, number: usize) -> Result<&[u8], NoId> {
        let row = row.as_bytes();
        let replaced = id_range(row).ok_or(NoId)?;
        self.ids.write(number, &mut self.id);
        let Self { id, event, .. } = self;
        event.clear();
        framed(event, |to| {
            document(to, "_id", |to| string(to, "_data", id));
            // Without the length before, and the zero behind.
            to.extend_from_slice(&row[4..replaced.start]);
            to.extend_from_slice(&row[replaced.end..row.len() - 1]);
        });
        Ok(event)
    }

    /// The event of a chunk's row, until the next call.
    ///
    /// # Errors
    /// [`NoId`].
    pub fn of(&mut self, row: &RawDocument, number: usize) -> Result<&[u8], NoId> {
        let key = &row.as_bytes()[id_range(row.as_bytes()).ok_or(NoId)?];
        self.ids.write(number, &mut self.id);
        let Self { common, id, event, .. } = self;
        event.clear();
        framed(event, |to| {
            document(to, "_id", |to| string(to, "_data", id));
            to.extend_from_slice(common);
            document(to, "documentKey", |to| to.extend_from_slice(key));
            to.push(DOCUMENT);
            name(to, "fullDocument");
            to.extend_from_slice(row.as_bytes());
        });
        Ok(event)
    }
}

/// Where the element `_id` lies: type, name and value.
fn id_range(row: &[u8]) -> Option<Range<usize>> {
    let mut reader = Reader::of_document(row).ok()?;
    loop {
        let start = row.len() - reader.rest().len();
        let element = reader.element().ok()??;
        if element.name == b"_id" {
            return Some(start..row.len() - reader.rest().len());
        }
    }
}

fn name(to: &mut Vec<u8>, name: &str) {
    to.extend_from_slice(name.as_bytes());
    to.push(0);
}

fn string(to: &mut Vec<u8>, key: &str, text: &str) {
    to.push(STRING);
    name(to, key);
    let length = i32::try_from(text.len() + 1).expect("names and ids are short");
    to.extend_from_slice(&length.to_le_bytes());
    to.extend_from_slice(text.as_bytes());
    to.push(0);
}

fn document(to: &mut Vec<u8>, key: &str, members: impl FnOnce(&mut Vec<u8>)) {
    to.push(DOCUMENT);
    name(to, key);
    framed(to, members);
}

/// The length before, the zero behind.
fn framed(to: &mut Vec<u8>, members: impl FnOnce(&mut Vec<u8>)) {
    let start = to.len();
    to.extend_from_slice(&[0; 4]);
    members(to);
    to.push(0);
    let length = i32::try_from(to.len() - start).expect("a row has at most 16 MiB");
    to[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use bson::{Document, doc, rawdoc};

    use super::*;

    #[test]
    fn a_row_is_an_insert_event() {
        let ids = RowIds { base: "82AB".to_owned(), time: ClusterTime::new(7, 2), chunk: 3 };
        let namespace = Namespace::new("shop", "a.b");
        let mut event = RowEvent::new(&namespace, &ids);
        for (number, id) in [(0, doc! { "_id": "x" }), (1, doc! { "_id": { "a": 1.5 } })] {
            let mut row = id.clone();
            row.insert("v", vec![1, 2]);
            let bytes = event.of(&bson::RawDocumentBuf::try_from(&row).unwrap(), number).unwrap();
            let found = Document::try_from(RawDocument::from_bytes(bytes).unwrap()).unwrap();
            let expected = doc! {
                "_id": { "_data": format!("82AB~0000000700000002~00000003~{number:08}") },
                "operationType": "insert",
                "clusterTime": bson::Timestamp { time: 7, increment: 2 },
                "ns": { "db": "shop", "coll": "a.b" },
                "documentKey": id,
                "fullDocument": row,
            };
            assert_eq!(found, expected);
        }
        assert_eq!(event.of(&rawdoc! { "v": 1 }, 0), Err(NoId));
        let passed = rawdoc! { "operationType": "insert", "_id": { "_data": "" }, "class": 7 };
        let found = Document::try_from(RawDocument::from_bytes(event.renamed(&passed, 9).unwrap()).unwrap());
        let id = "82AB~0000000700000002~00000003~00000009";
        assert_eq!(found.unwrap(), doc! { "_id": { "_data": id }, "operationType": "insert", "class": 7 });
    }
}

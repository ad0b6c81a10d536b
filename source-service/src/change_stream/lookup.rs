//! `FULL_DOCUMENT=batchedLookup`: the documents of a reply's updates are looked up together, one `find` per collection, instead of one by
//! one inside of the server, as `updateLookup` does.
//!
//! The meaning is the same: the document as a majority has it when it is looked up, never older than the event (`afterClusterTime`), `null` if it
//! is gone. Several updates of one document in a reply get the same one.
//! <https://www.mongodb.com/docs/manual/changeStreams/#lookup-full-document-for-update-operations>

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    pin::Pin,
};

use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, rawdoc};
use futures::Stream as _;
use mongodb::Client;
use shared::{cluster_time::ClusterTime, exit::Stop};

use super::reply::{Events, document};
use crate::envelope::FoundDocument;

/// Bytes of keys in one question, about; MongoDB takes 16 MB.
const KEYS_BYTES_MAX: usize = 1024 * 1024;

/// What was found for the updates of a reply.
#[derive(Debug, Default)]
pub(super) struct LookedUp {
    documents: Vec<u8>,
    /// By the number of the event in its reply; `None` for one that is no update.
    places: Vec<Option<Place>>,
}

#[derive(Clone, Debug)]
enum Place {
    At(Range<usize>),
    Gone,
}

impl LookedUp {
    pub(super) fn of_event(&self, number: usize) -> Option<FoundDocument<'_>> {
        Some(match self.places.get(number)?.as_ref()? {
            Place::At(range) => FoundDocument::Found(&self.documents[range.clone()]),
            Place::Gone => FoundDocument::Gone,
        })
    }
}

/// Why nothing was looked up.
pub(super) enum LookupError {
    MongoDb(mongodb::error::Error),
    Stop(Stop),
}

impl From<mongodb::error::Error> for LookupError {
    fn from(error: mongodb::error::Error) -> Self {
        Self::MongoDb(error)
    }
}

impl From<bson::error::Error> for LookupError {
    fn from(error: bson::error::Error) -> Self {
        Self::Stop(super::unreadable(&error))
    }
}

/// An update whose document is wanted.
struct Wanted<'a> {
    number: usize,
    key: &'a RawDocument,
}

/// Looks up the documents of the updates among `events`, none of which is later than `until`.
pub(super) async fn look_up(
    client: &Client,
    events: &Events,
    until: ClusterTime,
) -> Result<LookedUp, LookupError> {
    let mut wanted: BTreeMap<(&str, &str), Vec<Wanted<'_>>> = BTreeMap::new();
    let mut count = 0;
    for event in events.iter() {
        let event = RawDocument::from_bytes(event.map_err(LookupError::Stop)?)?;
        // An event that lacks any of this becomes a dead letter, and needs no document.
        if event.get_str("operationType").is_ok_and(|operation| operation == "update")
            && let (Ok(ns), Ok(key)) = (event.get_document("ns"), event.get_document("documentKey"))
            && let (Ok(db), Ok(coll)) = (ns.get_str("db"), ns.get_str("coll"))
        {
            wanted.entry((db, coll)).or_default().push(Wanted { number: count, key });
        }
        count += 1;
    }
    let mut looked_up = LookedUp { documents: Vec::new(), places: vec![None; count] };
    for ((db, coll), wanted) in wanted {
        for wanted in portions(&wanted) {
            let found = find(client, (db, coll), wanted, until, &mut looked_up.documents).await?;
            for Wanted { number, key } in wanted {
                let place = found.get(key.as_bytes()).cloned().map_or(Place::Gone, Place::At);
                looked_up.places[*number] = Some(place);
            }
        }
    }
    Ok(looked_up)
}

/// Parts of at most [`KEYS_BYTES_MAX`], but for a single key that is larger.
fn portions<'w, 'a>(wanted: &'w [Wanted<'a>]) -> impl Iterator<Item = &'w [Wanted<'a>]> {
    let mut bytes = 0;
    wanted.chunk_by(move |before, _| {
        bytes += before.key.as_bytes().len();
        let same = bytes < KEYS_BYTES_MAX;
        if !same {
            bytes = 0;
        }
        same
    })
}

/// Where the document of each key lies in `to`, which it is appended to. Keys are those of their events, byte for byte.
async fn find(
    client: &Client,
    (db, coll): (&str, &str),
    wanted: &[Wanted<'_>],
    until: ClusterTime,
    to: &mut Vec<u8>,
) -> Result<HashMap<Vec<u8>, Range<usize>>, LookupError> {
    // In a sharded collection the key has the fields of the shard key too, and `_id` alone need not be unique.
    let by_id = wanted.iter().all(|wanted| fields(wanted.key) == 1);
    let filter = if by_id {
        let mut ids = RawArrayBuf::new();
        for wanted in wanted {
            ids.push(wanted.key.get("_id")?.unwrap_or(RawBsonRef::Null));
        }
        rawdoc! { "_id": { "$in": ids } }
    } else {
        let mut keys = RawArrayBuf::new();
        for wanted in wanted {
            keys.push(wanted.key.to_owned());
        }
        rawdoc! { "$or": keys }
    };
    let after = Timestamp { time: until.seconds, increment: until.increment };
    let command = rawdoc! {
        "find": coll,
        "filter": filter,
        "readConcern": { "level": "majority", "afterClusterTime": after },
    };
    let mut cursor = client.database(db).run_raw_cursor_command(command).batch().await?;
    let mut found = HashMap::with_capacity(wanted.len());
    while let Some(batch) = std::future::poll_fn(|context| Pin::new(&mut cursor).poll_next(context)).await {
        let batch = batch?;
        for row in batch.doc_slices()? {
            let row = document(row).map_err(LookupError::Stop)?;
            let start = to.len();
            to.extend_from_slice(row);
            for key in keys_of(RawDocument::from_bytes(row)?, wanted, by_id)? {
                found.insert(key, start..to.len());
            }
        }
    }
    Ok(found)
}

/// The keys among those wanted that are this document's.
fn keys_of(row: &RawDocument, wanted: &[Wanted<'_>], by_id: bool) -> Result<Vec<Vec<u8>>, LookupError> {
    if by_id {
        let mut key = RawDocumentBuf::new();
        key.append(bson::cstr!("_id"), row.get("_id")?.unwrap_or(RawBsonRef::Null));
        return Ok(vec![key.into_bytes()]);
    }
    let mut keys = Vec::new();
    for wanted in wanted {
        let mut fits = true;
        for field in wanted.key {
            let (name, value) = field?;
            fits &= at_path(row, name.as_str())? == Some(value);
        }
        if fits {
            keys.push(wanted.key.as_bytes().to_vec());
        }
    }
    Ok(keys)
}

/// A field of a shard key may lie within a document: `address.country`.
fn at_path<'a>(row: &'a RawDocument, path: &str) -> Result<Option<RawBsonRef<'a>>, bson::error::Error> {
    let mut parts = path.split('.');
    let mut value = row.get(parts.next().unwrap_or_default())?;
    for part in parts {
        value = match value {
            Some(RawBsonRef::Document(inner)) => inner.get(part)?,
            _ => return Ok(None),
        };
    }
    Ok(value)
}

fn fields(key: &RawDocument) -> usize {
    key.iter().count()
}

#[cfg(test)]
mod tests {

    use super::*;

    fn wanted(keys: &[RawDocumentBuf]) -> Vec<Wanted<'_>> {
        keys.iter().enumerate().map(|(number, key)| Wanted { number, key }).collect()
    }

    #[test]
    fn a_shard_key_is_part_of_the_key() {
        let keys =
            [rawdoc! { "address.country": "at", "_id": 1 }, rawdoc! { "address.country": "de", "_id": 1 }];
        let row = rawdoc! { "_id": 1, "address": { "country": "de" }, "v": 1 };
        let found = keys_of(&row, &wanted(&keys), false);
        assert!(matches!(found, Ok(found) if found == [keys[1].as_bytes().to_vec()]));
    }

    #[test]
    fn many_keys_are_asked_for_in_portions() {
        let key = |number: i32| rawdoc! { "_id": format!("{number}{}", "x".repeat(100_000)) };
        let keys: Vec<RawDocumentBuf> = (0..25).map(key).collect();
        let lengths: Vec<usize> = portions(&wanted(&keys)).map(<[_]>::len).collect();
        assert_eq!(lengths, [11, 11, 3]);
        assert_eq!(portions(&wanted(&keys[..1])).count(), 1);
        assert_eq!(portions(&[]).count(), 0);
    }
}

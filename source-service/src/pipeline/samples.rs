//! Events made by us, one for each operation, to try a pipeline on.

use bson::{Bson, DateTime, Document, Timestamp, Uuid, doc, oid::ObjectId};
use shared::namespace::Namespace;

const CHANGES: [&str; 4] = ["insert", "update", "replace", "delete"];
const DEFINITIONS: [&str; 11] = [
    "drop",
    "rename",
    "dropDatabase",
    "invalidate",
    "create",
    "createIndexes",
    "dropIndexes",
    "modify",
    "shardCollection",
    "reshardCollection",
    "refineCollectionShardKey",
];

/// An event as MongoDB would send it.
pub(super) struct Sample {
    pub(super) operation: &'static str,
    pub(super) event: Document,
}

/// Members whose content is only an example: a stage that reads them may fail here and never in earnest.
pub(super) const CONTENTS: [&str; 4] =
    ["fullDocument", "fullDocumentBeforeChange", "updateDescription", "documentKey"];

/// One of each. `looked_up`: updates carry a document. `before`: so do pre-images.
pub(super) fn all(namespace: &Namespace, looked_up: bool, before: bool) -> Vec<Sample> {
    let operations = CHANGES.into_iter().chain(DEFINITIONS);
    let sample = |(number, operation)| Sample {
        operation,
        event: event(number, operation, namespace, looked_up, before),
    };
    (1_u32..).zip(operations).map(sample).collect()
}

fn event(number: u32, operation: &str, namespace: &Namespace, looked_up: bool, before: bool) -> Document {
    let id = ObjectId::from_bytes([0x66, 0xc1, 0xf0, 0xa2, 0xe4, 0xb0, 0xc1, 0xd2, 0xe3, 0xf4, 0x05, 0x12]);
    let document = doc! { "_id": id };
    let seconds: u32 = 0x66c1_f0a2;
    let mut event = doc! {
        "_id": { "_data": format!("82{seconds:08X}{number:08X}2B022C0100296E5A1004") },
        "operationType": operation,
        "clusterTime": Timestamp { time: seconds, increment: number },
        "wallTime": DateTime::from_millis(i64::from(seconds) * 1000),
    };
    if operation == "invalidate" {
        return event;
    }
    event.insert(
        "ns",
        match operation {
            "dropDatabase" => doc! { "db": &namespace.db },
            _ => doc! { "db": &namespace.db, "coll": &namespace.coll },
        },
    );
    if operation != "dropDatabase" {
        event.insert("collectionUUID", Uuid::from_bytes([7; 16]));
    }
    if operation == "rename" {
        event.insert("to", doc! { "db": &namespace.db, "coll": format!("{}_2", namespace.coll) });
    }
    if CHANGES.contains(&operation) {
        event.insert("documentKey", document.clone());
    } else if !matches!(operation, "drop" | "dropDatabase") {
        event.insert("operationDescription", Document::new());
    }
    let carries = match operation {
        "insert" | "replace" => true,
        "update" => looked_up,
        _ => false,
    };
    if carries {
        event.insert("fullDocument", document.clone());
    }
    if before && matches!(operation, "update" | "replace" | "delete") {
        event.insert("fullDocumentBeforeChange", document);
    }
    if operation == "update" {
        let nothing: Vec<Bson> = Vec::new();
        event.insert(
            "updateDescription",
            doc! { "updatedFields": {}, "removedFields": nothing.clone(), "truncatedArrays": nothing },
        );
    }
    event
}

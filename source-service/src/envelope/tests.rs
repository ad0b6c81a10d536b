//! Promise: each operation gives its golden line (`tests/golden`), whatever the order of the event's members
//! and whichever of the optional ones are missing.

#![expect(clippy::unwrap_used, reason = "tests")]

use bson::{Bson, DateTime, Decimal128, Document, RawDocumentBuf, Timestamp, bson, doc, oid::ObjectId};
use proptest::prelude::*;
use serde_json::Value;
use shared::{
    avro::{ChangeEvent, SchemaId},
    cluster_time::ClusterTime,
};

use super::{
    EventContext, EventError, EventRecord, EventTranscoder, JsonDialect, KeyFormat, Operation, ValueFormat,
    collection, raw_namespace, resume_token,
};
use crate::transcode::MalformedBson;

const TOKEN: &str = "8268A8EBE0000000032B042C0100296E5A1004";
const CONTEXT: EventContext<'_> = EventContext {
    processed_at_ms: 1_755_900_000_151,
    snapshot: false,
    transaction_count: None,
    looked_up: None,
};

fn bytes_of(event: &Document) -> Vec<u8> {
    RawDocumentBuf::try_from(event).unwrap().into_bytes()
}

fn oid() -> ObjectId {
    ObjectId::parse_str("66c1a0b2c3d4e5f60718293a").unwrap()
}

/// The members that every event has, `ns` apart.
fn event(operation: &str) -> Document {
    doc! {
        "_id": {"_data": TOKEN},
        "operationType": operation,
        "clusterTime": Timestamp { time: 1_755_900_000, increment: 3 },
        "wallTime": DateTime::from_millis(1_755_900_000_123),
    }
}

fn event_with(operation: &str, members: Document) -> Document {
    let mut event = event(operation);
    event.extend(members);
    event
}

fn orders() -> Document {
    doc! {"db": "shop", "coll": "orders"}
}

fn insert() -> Document {
    event_with(
        "insert",
        doc! {
            "fullDocument": {
                "_id": oid(),
                "customer": "Zoë \"Z\" O\u{2028}Neil\n",
                "total": "19.90".parse::<Decimal128>().unwrap(),
                "weight": 2.0,
                "placed": DateTime::from_millis(1_755_899_999_000),
                "lines": [{"sku": "a-1", "n": 2}, {"sku": "b/2", "n": 1_i64}],
            },
            "ns": orders(),
            "documentKey": {"_id": oid()},
        },
    )
}

/// Name of the golden file, event, and key as Extended JSON.
fn cases() -> Vec<(&'static str, Document, &'static str)> {
    let oid_key = r#"{"$oid":"66c1a0b2c3d4e5f60718293a"}"#;
    let before = doc! {"_id": oid(), "status": "open"};
    vec![
        ("insert", insert(), oid_key),
        (
            "update",
            event_with(
                "update",
                doc! {
                    "ns": orders(),
                    "documentKey": {"region": "eu", "_id": oid()},
                    "updateDescription": {
                        "updatedFields": {"payment.status": "paid", "lines.0.n": 3},
                        "removedFields": ["note"],
                        "truncatedArrays": [{"field": "lines", "newSize": 1}],
                        "disambiguatedPaths": {"lines.0.n": ["lines", 0, "n"]},
                    },
                    "fullDocument": Bson::Null,
                    "fullDocumentBeforeChange": before.clone(),
                },
            ),
            oid_key,
        ),
        (
            "replace",
            event_with(
                "replace",
                doc! {
                    "ns": orders(),
                    "documentKey": {"_id": "sku-9"},
                    "fullDocument": {"_id": "sku-9", "a": []},
                },
            ),
            r#""sku-9""#,
        ),
        (
            "delete",
            event_with(
                "delete",
                doc! {"ns": orders(), "documentKey": {"_id": 42}, "fullDocumentBeforeChange": {"_id": 42}},
            ),
            "42",
        ),
        (
            "transaction",
            event_with(
                "insert",
                doc! {
                    "lsid": {"id": bson::Uuid::from_bytes([7; 16]), "uid": bson::Binary {
                        subtype: bson::spec::BinarySubtype::Generic, bytes: vec![1, 2, 3]
                    }},
                    "txnNumber": 5_i64,
                    "ns": orders(),
                    "documentKey": {"_id": {"b": 1, "a": 2}},
                    "fullDocument": {"_id": {"b": 1, "a": 2}},
                },
            ),
            r#"{"b":1,"a":2}"#,
        ),
        (
            "computed_members",
            event_with(
                "insert",
                doc! {
                    "severity": "high",
                    "ns": orders(),
                    "documentKey": {"_id": true},
                    "collectionUUID": bson::Uuid::from_bytes([9; 16]),
                    "fullDocument": {"_id": true},
                    "route \"x\"": [1, Bson::Null],
                },
            ),
            "true",
        ),
        ("drop", event_with("drop", doc! {"ns": orders()}), "shop.orders"),
        (
            "rename",
            event_with(
                "rename",
                doc! {
                    "ns": {"db": "shop", "coll": "a.b"},
                    "to": {"db": "shop", "coll": "c"},
                    "operationDescription": {"to": {"db": "shop", "coll": "c"}},
                },
            ),
            "shop.a.b",
        ),
        ("drop_database", event_with("dropDatabase", doc! {"ns": {"db": "shop"}}), "shop"),
        ("invalidate", event("invalidate"), ""),
        (
            "create_indexes",
            event_with(
                "createIndexes",
                doc! {
                    "ns": orders(),
                    "collectionUUID": bson::Uuid::from_bytes([9; 16]),
                    "operationDescription": {"indexes": [{"v": 2, "key": {"a": 1}, "name": "a_1"}]},
                },
            ),
            "shop.orders",
        ),
        (
            "modify",
            event_with(
                "modify",
                doc! {
                    "ns": orders(),
                    "operationDescription": {"index": {"name": "a_1", "hidden": true}},
                    "stateBeforeChange": {"collectionOptions": {}},
                },
            ),
            "shop.orders",
        ),
        ("unknown", event_with("newop", doc! {"ns": orders(), "detail": 1}), "shop.orders"),
    ]
}

fn golden(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.json"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What of a record can be compared after its buffers are gone.
#[derive(Debug, PartialEq)]
struct Owned {
    value: String,
    key: String,
}

impl From<EventRecord<'_>> for Owned {
    fn from(record: EventRecord<'_>) -> Self {
        Self {
            value: String::from_utf8(record.value.to_vec()).unwrap(),
            key: String::from_utf8(record.key.to_vec()).unwrap(),
        }
    }
}

fn transcoded(event: &Document) -> Result<Owned, EventError> {
    transcoded_as(event, JsonDialect::Relaxed, KeyFormat::ExtendedJson)
}

fn transcoded_as(event: &Document, dialect: JsonDialect, key: KeyFormat) -> Result<Owned, EventError> {
    let mut transcoder = EventTranscoder::new("orders-cdc", dialect, key);
    transcoder.transcode(&bytes_of(event), &CONTEXT).map(Owned::from)
}

#[test]
fn each_operation_gives_its_golden_line() {
    // One transcoder for all: nothing of an event may show in the next one.
    let mut transcoder = EventTranscoder::new("orders-cdc", JsonDialect::Relaxed, KeyFormat::ExtendedJson);
    for (name, event, key) in cases() {
        let record = Owned::from(transcoder.transcode(&bytes_of(&event), &CONTEXT).unwrap());
        assert_eq!(record.value, golden(name).trim_end(), "{name}");
        assert_eq!(record.key, key, "{name}");
    }
}

/// What the sink makes of the Avro is the JSON line, to the byte.
#[test]
fn avro_gives_each_golden_line_back() {
    for dialect in [JsonDialect::Relaxed, JsonDialect::Canonical] {
        let mut lines = EventTranscoder::new("orders-cdc", dialect, KeyFormat::ExtendedJson);
        let mut avro = EventTranscoder::new("orders-cdc", dialect, KeyFormat::ExtendedJson)
            .in_format(ValueFormat::Avro(SchemaId::new(7)), "orders-cdc");
        for (name, event, key) in cases() {
            let event = bytes_of(&event);
            let line = Owned::from(lines.transcode(&event, &CONTEXT).unwrap()).value;
            let record = avro.transcode(&event, &CONTEXT).unwrap();
            assert_eq!(record.key, key.as_bytes());
            let (id, datum) = shared::avro::split(record.value).unwrap();
            assert_eq!(id, SchemaId::new(7));
            let read = ChangeEvent::read(datum).unwrap();
            // Typed fields are enough for what a server sends.
            assert_eq!(read.meta_text.is_none(), dialect == JsonDialect::Relaxed, "{name}");
            assert_eq!(read.meta.operation, record.operation.name());
            let mut json = Vec::new();
            read.write_json(&mut json);
            assert_eq!(String::from_utf8(json).unwrap(), line, "{name}");
        }
    }
}

proptest! {
    /// The same for members that no server sends so, in any order of kinds, and for names that need escapes.
    #[test]
    fn avro_gives_the_line_back_whatever_a_pipeline_did(
        values in proptest::collection::vec(odd_value(), 8),
        names in proptest::collection::vec("\\PC{1,9}|[\"\\\\\u{1}\u{85}\u{2028}]{1,3}", 3),
        canonical in any::<bool>(),
        processed_at_ms in any::<i64>(),
    ) {
        let mut event = event_with("update", doc! {
            "ns": {"db": &names[0], "coll": &names[1]},
            "documentKey": {"_id": values[0].clone()},
        });
        let members = ["wallTime", "lsid", "txnNumber", "fullDocument", "updateDescription", "fullDocumentBeforeChange"];
        for (name, value) in members.into_iter().chain([names[2].as_str()]).zip(&values[1..]) {
            event.insert(name, value.clone());
        }
        let dialect = if canonical { JsonDialect::Canonical } else { JsonDialect::Relaxed };
        let (event, context) = (bytes_of(&event), EventContext { processed_at_ms, ..CONTEXT });
        let mut lines = EventTranscoder::new("s", dialect, KeyFormat::ExtendedJson);
        let mut avro = EventTranscoder::new("s", dialect, KeyFormat::ExtendedJson)
            .in_format(ValueFormat::Avro(SchemaId::new(1)), "s");
        let line = lines.transcode(&event, &context).map(Owned::from);
        let record = avro.transcode(&event, &context);
        match (line, record) {
            (Ok(line), Ok(record)) => {
                let mut json = Vec::new();
                shared::avro::write_json(&record.value[5..], &mut json).unwrap();
                prop_assert_eq!(String::from_utf8(json).unwrap(), line.value);
            }
            (line, record) => prop_assert_eq!(line.err(), record.err()),
        }
    }
}

fn odd_value() -> impl Strategy<Value = Bson> {
    prop_oneof![
        Just(Bson::Null),
        any::<i64>().prop_map(Bson::Int64),
        any::<i32>().prop_map(Bson::Int32),
        any::<i64>().prop_map(|ms| DateTime::from_millis(ms).into()),
        (0..253_402_300_800_000_i64).prop_map(|ms| DateTime::from_millis(ms).into()),
        "\\PC{0,70}".prop_map(Bson::String),
        "\\PC{0,9}".prop_map(|text| bson!({"id": text, "null": null, "n": [1, "null"]})),
    ]
}

#[test]
fn canonical_value_has_a_relaxed_key_and_plain_instants_of_ours() {
    let mut event = insert();
    event.insert("documentKey", doc! {"_id": 7_i64});
    let record = transcoded_as(&event, JsonDialect::Canonical, KeyFormat::ExtendedJson).unwrap();
    assert_eq!(record.value, golden("insert_canonical").trim_end());
    assert_eq!(record.key, "7");
}

#[test]
fn a_plain_value_keeps_the_key_of_the_other_dialects() {
    let record = transcoded_as(&insert(), JsonDialect::Plain, KeyFormat::ExtendedJson).unwrap();
    assert_eq!(record.value, golden("insert_plain").trim_end());
    assert_eq!(record.key, r#"{"$oid":"66c1a0b2c3d4e5f60718293a"}"#);
}

/// What is prepared before the transaction is what the transaction's records need, and no more.
#[test]
fn the_collection_that_is_prepared_is_the_one_of_the_record() {
    let mut transcoder = EventTranscoder::new("orders", JsonDialect::Relaxed, KeyFormat::ExtendedJson);
    let without_key = event_with("insert", doc! {"ns": orders()});
    let odd = event_with("insert", doc! {"ns": orders(), "documentKey": 7});
    let of_database = event_with("dropDatabase", doc! {"ns": {"db": "shop"}});
    let more =
        event_with("insert", doc! {"ns": {"db": "a", "db2": 0, "coll": "b"}, "documentKey": {"_id": 1}});
    let drop = event_with("drop", doc! {"ns": orders()});
    for event in [insert(), drop, of_database, event("invalidate"), without_key, odd, more] {
        let event = bytes_of(&event);
        let prepared = collection(&event).map(|namespace| (namespace.raw, namespace.db, namespace.coll));
        let needed = transcoder.transcode(&event, &CONTEXT).ok().filter(|record| record.is_document_change);
        let needed = needed.and_then(|record| record.namespace);
        assert_eq!(prepared, needed.map(|namespace| (namespace.raw, namespace.db, namespace.coll)));
        assert!(needed.is_none_or(|namespace| raw_namespace(&event) == Some(namespace.raw)));
    }
    assert_eq!(raw_namespace(&bytes_of(&event("invalidate"))), None);
}

#[test]
fn routing_and_position_are_told() {
    let events = cases();
    let bytes = |name: &str| bytes_of(&events.iter().find(|case| case.0 == name).unwrap().1);
    let mut transcoder = EventTranscoder::new("orders-cdc", JsonDialect::Relaxed, KeyFormat::ExtendedJson);

    let insert = bytes("insert");
    let record = transcoder.transcode(&insert, &CONTEXT).unwrap();
    assert_eq!(record.operation, Operation::Insert);
    assert!(record.is_document_change && !record.in_transaction && !record.snapshot);
    let namespace = record.namespace.unwrap();
    assert_eq!((namespace.db, namespace.coll), ("shop", Some("orders")));
    assert_eq!(namespace.raw, bytes_of(&orders()));
    assert_eq!(record.cluster_time, ClusterTime::new(1_755_900_000, 3));
    assert_eq!(record.event_id, TOKEN);
    assert_eq!(record.resume_token, bytes_of(&doc! {"_data": TOKEN}));
    assert_eq!(record.wall_time_ms, Some(1_755_900_000_123));
    assert_eq!(record.repaired_texts, 0);
    assert_eq!(resume_token(&insert).unwrap(), (record.resume_token, TOKEN));

    let transaction = bytes("transaction");
    assert!(transcoder.transcode(&transaction, &CONTEXT).unwrap().in_transaction);

    let invalidate = bytes("invalidate");
    let record = transcoder.transcode(&invalidate, &CONTEXT).unwrap();
    assert!(record.namespace.is_none() && !record.is_document_change);

    let unknown = bytes("unknown");
    assert_eq!(transcoder.transcode(&unknown, &CONTEXT).unwrap().operation, Operation::Unknown("newop"));
}

#[test]
fn every_operation_keeps_its_name() {
    for (_, event, _) in cases() {
        let name = event.get_str("operationType").unwrap();
        assert_eq!(Operation::from_name(name).name(), name);
        assert_eq!(matches!(Operation::from_name(name), Operation::Unknown(_)), name == "newop");
    }
}

#[test]
fn snapshot_rows_are_marked() {
    let mut transcoder = EventTranscoder::new("s", JsonDialect::Relaxed, KeyFormat::ExtendedJson);
    let event = bytes_of(&insert());
    let record = transcoder.transcode(&event, &EventContext { snapshot: true, ..CONTEXT }).unwrap();
    assert!(record.snapshot);
    assert!(std::str::from_utf8(record.value).unwrap().contains(r#","source":"s","snapshot":true,"#));
}

#[test]
fn plain_keys_are_bare_text() {
    let decimal: Decimal128 = "1.20".parse().unwrap();
    let table: [(Bson, &str); 10] = [
        (oid().into(), "66c1a0b2c3d4e5f60718293a"),
        (42.into(), "42"),
        (42_i64.into(), "42"),
        (1.5.into(), "1.5"),
        ("sku-9 \"x\"".into(), "sku-9 \"x\""),
        (true.into(), "true"),
        (decimal.into(), "1.20"),
        (DateTime::from_millis(1).into(), "1970-01-01T00:00:00.001Z"),
        (DateTime::from_millis(-1).into(), r#"{"$date":{"$numberLong":"-1"}}"#),
        (bson!({"a": 1}), r#"{"a":1}"#),
    ];
    for (id, expected) in table {
        let event = event_with("delete", doc! {"ns": orders(), "documentKey": {"_id": id}});
        let record = transcoded_as(&event, JsonDialect::Relaxed, KeyFormat::Plain).unwrap();
        assert_eq!(record.key, expected);
    }
}

#[test]
fn an_event_without_what_routing_needs_is_refused_by_name() {
    for (removed, operation) in [
        ("_id", "insert"),
        ("operationType", "insert"),
        ("clusterTime", "drop"),
        ("documentKey", "update"),
        ("documentKey", "delete"),
        ("ns", "insert"),
    ] {
        let mut event = insert();
        event.insert("operationType", operation);
        event.remove(removed);
        assert_eq!(transcoded(&event), Err(EventError::Incomplete { member: removed }));
        event.insert(removed, Bson::Int32(1));
        assert_eq!(transcoded(&event), Err(EventError::Incomplete { member: removed }));
    }
    for (member, value) in [
        ("ns", doc! {"coll": "c"}),
        ("ns", doc! {"db": "d", "coll": 1}),
        ("ns", doc! {"db": "d"}),
        ("documentKey", doc! {"region": 1}),
        ("_id", doc! {"_data": 1}),
    ] {
        let event =
            event_with("insert", insert().into_iter().chain([(member.to_owned(), value.into())]).collect());
        assert_eq!(transcoded(&event), Err(EventError::Incomplete { member }));
    }
}

#[test]
fn names_of_the_envelope_and_the_sink_are_not_for_pipelines() {
    for name in ["_meta", "_kafka"] {
        let event = event_with("drop", doc! {"ns": orders(), name: 1});
        assert_eq!(transcoded(&event), Err(EventError::NameClash { name: name.to_owned() }));
    }
    let mut twice = RawDocumentBuf::try_from(&insert()).unwrap();
    twice.append(bson::raw::cstr!("fullDocument"), RawDocumentBuf::new());
    let mut transcoder = EventTranscoder::new("s", JsonDialect::Relaxed, KeyFormat::ExtendedJson);
    let error = transcoder.transcode(twice.as_bytes(), &CONTEXT).unwrap_err();
    assert_eq!(error, EventError::NameClash { name: "fullDocument".to_owned() });
}

#[test]
fn a_damaged_event_does_not_spoil_the_next() {
    let mut transcoder = EventTranscoder::new("orders-cdc", JsonDialect::Relaxed, KeyFormat::ExtendedJson);
    let mut damaged = RawDocumentBuf::try_from(&insert()).unwrap().into_bytes();
    // The type of `weight`, inside the document: the walk over the top level does not see it.
    let place = damaged.windows(7).position(|window| window == b"weight\0").unwrap() - 1;
    damaged[place] = 0x20;
    let error = transcoder.transcode(&damaged, &CONTEXT).unwrap_err();
    assert_eq!(error, EventError::Unreadable(MalformedBson::UnknownType(0x20)));

    let event = bytes_of(&insert());
    let record = Owned::from(transcoder.transcode(&event, &CONTEXT).unwrap());
    assert_eq!(record.value, golden("insert").trim_end());
}

#[test]
fn a_large_event_gives_its_room_back() {
    let large = bytes_of(&event_with(
        "insert",
        doc! {"ns": orders(), "documentKey": {"_id": 1}, "fullDocument": {"text": "x".repeat(3 << 20)}},
    ));
    let small = bytes_of(&insert());
    let mut transcoder = EventTranscoder::new("s", JsonDialect::Relaxed, KeyFormat::ExtendedJson);
    assert!(transcoder.transcode(&large, &CONTEXT).unwrap().value.len() > 3 << 20);
    transcoder.transcode(&small, &CONTEXT).unwrap();
    assert!(transcoder.value.capacity() < 2 << 20);
}

#[test]
fn repaired_texts_are_counted() {
    let mut event = bytes_of(&insert());
    let place = event.windows(3).position(|window| window == b"a-1").unwrap();
    event[place] = 0xFF;
    let mut transcoder = EventTranscoder::new("s", JsonDialect::Relaxed, KeyFormat::ExtendedJson);
    assert_eq!(transcoder.transcode(&event, &CONTEXT).unwrap().repaired_texts, 1);
}

proptest! {
    /// Any order of the members, and any of the optional ones missing: the names and their order in the line
    /// are the same.
    #[test]
    fn order_and_absence_of_members_do_not_change_the_frame(
        members in Just(cases()[1].1.clone().into_iter().collect::<Vec<_>>()).prop_shuffle(),
        missing in prop::sample::subsequence(
            vec!["wallTime", "updateDescription", "fullDocument", "fullDocumentBeforeChange"], 0..=4),
    ) {
        let whole = transcoded(&members.iter().cloned().collect()).unwrap();
        let golden = golden("update");
        prop_assert_eq!(&whole.value, golden.trim_end());

        let some: Document =
            members.into_iter().filter(|(name, _)| !missing.contains(&name.as_str())).collect();
        let record = transcoded(&some).unwrap();
        let mut expected: Value = serde_json::from_str(&whole.value).unwrap();
        for name in missing {
            let parent = if name == "wallTime" { &mut expected["_meta"] } else { &mut expected };
            parent[name] = Value::Null;
        }
        prop_assert_eq!(serde_json::from_str::<Value>(&record.value).unwrap(), expected);
    }

    #[test]
    fn damaged_events_never_panic(
        case in 0..cases().len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut event = bytes_of(&cases()[case].1);
        for (index, byte) in changes {
            let place = index.index(event.len());
            event[place] = byte;
        }
        let mut transcoder = EventTranscoder::new("s", JsonDialect::Relaxed, KeyFormat::Plain);
        if let Ok(record) = transcoder.transcode(&event, &CONTEXT) {
            prop_assert!(serde_json::from_slice::<Value>(record.value).is_ok());
            prop_assert!(std::str::from_utf8(record.key).is_ok());
        }
    }
}

//! The ledger can fail: each kind of violation is found in a small world that has exactly that flaw.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, sync::Arc};

use bson::{Bson, Document, Timestamp, doc};

use super::{Evidence, Expected, ExpectedEvent, Topics, ViolationKind, Violations};
use crate::{
    kafka_reader::{KafkaContent, KafkaRecord, PartitionContent},
    lake_reader::{LakeContent, LakeFile, LakeHead},
};

const SECONDS: u32 = 1_755_900_000; // 2025-08-22T22:00:00Z
const FOLDER: &str = "shop/orders/year=2025/month=08/day=22/hour=22";
const TOPIC: &str = "atlas.shop.orders";
const CONTROL: &str = "atlas.control";

/// Three inserts, all well, in Kafka and in a chain of two files.
struct World {
    expected: Expected,
    records: Vec<KafkaRecord>,
    tokens: Vec<KafkaRecord>,
    control: Vec<KafkaRecord>,
    letters: Vec<KafkaRecord>,
    /// Of the one partition.
    committed: i64,
    files: Vec<LakeFile>,
    head: LakeHead,
    /// The archive of the control topic.
    control_file: Option<LakeFile>,
}

fn event(index: u32, id: Bson) -> ExpectedEvent {
    let event = doc! {
        "_id": { "_data": format!("82{index:04}") },
        "operationType": "insert",
        "ns": { "db": "shop", "coll": "orders" },
        "clusterTime": Timestamp { time: SECONDS, increment: index },
        "wallTime": bson::DateTime::from_millis(1_755_900_000_123),
        "documentKey": { "_id": id.clone() },
        "fullDocument": { "_id": id, "n": i64::from(index) },
    };
    ExpectedEvent::new(event).unwrap()
}

/// The crate's own print keeps the order of members, which `serde_json` would not; these documents need no more.
fn json(document: Option<&Document>) -> String {
    document.map_or("null".to_owned(), Document::to_string)
}

fn record(event: &ExpectedEvent, offset: i64) -> KafkaRecord {
    let part = |name: &str| json(event.event.get_document(name).ok());
    let wall_time = event
        .event
        .get("wallTime")
        .map_or(serde_json::Value::Null, |time| time.clone().into_relaxed_extjson());
    let time = event.cluster_time;
    let value = format!(
        r#"{{"_meta":{{"eventId":"{}","operationType":"{}","ns":{},"clusterTime":{{"$timestamp":{{"t":{},"i":{}}}}},"wallTime":{wall_time},"lsid":null,"txnNumber":null,"source":"s","snapshot":false,"processedAt":"2025-08-22T22:00:00.151Z"}},"documentKey":{},"fullDocument":{},"updateDescription":null,"fullDocumentBeforeChange":null}}"#,
        event.id,
        event.operation,
        part("ns"),
        time.time,
        time.increment,
        part("documentKey"),
        part("fullDocument"),
    );
    let headers = [
        ("operation-type", event.operation.clone()),
        ("database", event.db.clone()),
        ("collection", event.coll.clone().unwrap_or_default()),
        ("cluster-time", format!("{}.{}", time.time, time.increment)),
        ("event-id", event.id.clone()),
        ("source", "s/1".to_owned()),
        ("content-type", "application/json".to_owned()),
        ("schema-version", "1".to_owned()),
    ];
    KafkaRecord {
        topic: Arc::from(TOPIC),
        partition: 0,
        offset,
        timestamp_ms: Some(i64::from(time.time) * 1000),
        key: Some(event.document_id().clone().into_relaxed_extjson().to_string().into_bytes()),
        value: Some(value.into_bytes()),
        headers: headers.map(|(name, value)| (name.to_owned(), value.into_bytes())).to_vec(),
    }
}

fn line(record: &KafkaRecord) -> Vec<u8> {
    let mut line = record.value.clone().unwrap();
    line.pop();
    let tail = format!(
        ",\"_kafka\":{{\"topic\":\"{}\",\"partition\":0,\"offset\":{},\"timestamp\":{}}}}}\n",
        record.topic,
        record.offset,
        record.timestamp_ms.unwrap()
    );
    line.extend_from_slice(tail.as_bytes());
    line
}

fn file(records: &[&KafkaRecord], first: i64, next: i64, sealed: bool) -> LakeFile {
    let bytes: Vec<u8> = records.iter().flat_map(|record| line(record)).collect();
    let topic = records.first().map_or(TOPIC, |record| &record.topic);
    let folder = if topic == CONTROL { FOLDER.replace("shop/orders", "_control") } else { FOLDER.to_owned() };
    let facts = [
        ("topic", topic.to_owned()),
        ("partition", "0".to_owned()),
        ("first", first.to_string()),
        ("next", next.to_string()),
        ("rows", records.len().to_string()),
        ("sealed", sealed.to_string()),
        ("compressed", "none".to_owned()),
    ];
    let metadata = facts.map(|(name, value)| (name.to_owned(), value)).into();
    let path = format!("{folder}/events-20250822-22-p0000-{first:020}.jsonl");
    let mut file = LakeFile::new(path, metadata, bytes).unwrap();
    seal_sums(&mut file);
    file
}

/// Makes sizes and sum agree with the bytes again.
fn seal_sums(file: &mut LakeFile) {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &file.bytes);
    for (name, value) in [
        ("crc", format!("{crc:016x}")),
        ("originalsize", file.bytes.len().to_string()),
        ("storedsize", file.bytes.len().to_string()),
    ] {
        file.metadata.insert(name.to_owned(), value);
    }
}

fn token(event: &ExpectedEvent) -> KafkaRecord {
    KafkaRecord {
        topic: Arc::from("atlas.resume-tokens-s"),
        key: Some(b"s".to_vec()),
        value: Some(format!(r#"{{"version":1,"token":{{"_data":"{}"}}}}"#, event.id).into_bytes()),
        ..record(event, 9)
    }
}

impl World {
    fn new() -> Self {
        // Offset 1 is a transaction's marker.
        let events = [event(1, Bson::Int32(7)), event(2, "sku".into()), event(3, Bson::Int32(7))];
        let records = vec![record(&events[0], 0), record(&events[1], 2), record(&events[2], 3)];
        let files = vec![file(&[&records[0]], 0, 2, true), file(&[&records[1], &records[2]], 2, 5, false)];
        let head = LakeHead {
            document_path: format!("_chain/{TOPIC}/p0.json"),
            topic: TOPIC.to_owned(),
            partition: 0,
            start: 0,
            scanned: 0,
            path: Some(files[1].path.clone()),
            first: Some(2),
            created: true,
        };
        let tokens = vec![token(&events[2])];
        let (control, letters) = (Vec::new(), Vec::new());
        Self {
            expected: Expected { events: events.to_vec() },
            records,
            tokens,
            control,
            letters,
            committed: 5,
            files,
            head,
            control_file: None,
        }
    }

    /// A collection was dropped: in Kafka and in the lake.
    fn drop_of(&mut self, increment: u32) -> KafkaRecord {
        let drop = doc! {
            "_id": { "_data": format!("82{increment:04}") }, "operationType": "drop", "ns": { "db": "shop", "coll": "orders" },
            "clusterTime": Timestamp { time: SECONDS, increment }, "wallTime": bson::DateTime::from_millis(1),
        };
        let drop = ExpectedEvent::new(drop).unwrap();
        let offset = i64::try_from(self.control.len()).unwrap();
        let mut right = record(&drop, offset);
        right.topic = Arc::from(CONTROL);
        right.key = Some(b"shop.orders".to_vec());
        self.tokens.push(KafkaRecord { offset: 10 + offset, ..token(&drop) });
        self.expected.events.push(drop);
        self.control.push(right.clone());
        self.archive();
        right
    }

    /// The lake has of the control topic what Kafka has.
    fn archive(&mut self) {
        let records: Vec<&KafkaRecord> = self.control.iter().collect();
        self.control_file = (!records.is_empty()).then(|| file(&records, 0, 5, false));
    }

    fn judge(&self) -> Violations {
        let mut kafka = KafkaContent::default();
        for (topic, records) in [
            (TOPIC, &self.records),
            ("atlas.resume-tokens-s", &self.tokens),
            (CONTROL, &self.control),
            ("atlas.dlq", &self.letters),
        ] {
            let part = PartitionContent { low: 0, high: 5, records: records.clone() };
            kafka.topics.insert(topic.to_owned(), BTreeMap::from([(0, part)]));
        }
        let committed = BTreeMap::from([((TOPIC.to_owned(), 0), self.committed)]);
        let mut lake = LakeContent { files: self.files.clone(), heads: vec![self.head.clone()] };
        if let Some(file) = &self.control_file {
            lake.heads.push(LakeHead {
                document_path: format!("_chain/{CONTROL}/p0.json"),
                topic: CONTROL.to_owned(),
                path: Some(file.path.clone()),
                first: Some(0),
                ..self.head.clone()
            });
            lake.files.push(file.clone());
        }
        self.expected.judge(&Evidence {
            topics: Topics::new("atlas", "s"),
            kafka,
            lake: Some(lake),
            committed,
        })
    }
}

/// Every violation is of one of these kinds, and each of them is found.
fn assert_kinds(world: &World, kinds: &[ViolationKind]) {
    let violations = world.judge();
    let found: Vec<ViolationKind> = violations.counts().into_keys().collect();
    assert_eq!(found, kinds, "{violations}");
}

#[test]
fn a_world_without_flaw_passes() {
    assert_kinds(&World::new(), &[]);
}

#[test]
fn a_lost_event_is_found() {
    let mut world = World::new();
    world.expected.events.insert(1, event(9, "never came".into()));
    world.expected.events[1].id = "820001ff".to_owned();
    assert_kinds(&world, &[ViolationKind::LostInKafka]);
}

#[test]
fn a_dead_letter_of_the_source_accounts_for_its_event() {
    let mut world = World::new();
    let lost = event(9, "too large".into());
    world.letters.push(KafkaRecord { key: Some(lost.id.clone().into_bytes()), ..record(&lost, 0) });
    world.expected.events.push(lost);
    assert_kinds(&world, &[]);
}

#[test]
fn an_event_that_came_twice_is_found() {
    let mut world = World::new();
    let again = record(&world.expected.events[2], 4);
    world.files[1] = file(&[&world.records[1], &world.records[2], &again], 2, 5, false);
    world.records.push(again);
    assert_kinds(&world, &[ViolationKind::TwiceInKafka]);
}

#[test]
fn an_event_that_never_was_is_found() {
    let mut world = World::new();
    world.expected.events.remove(1);
    assert_kinds(&world, &[ViolationKind::InventedInKafka]);
}

#[test]
fn the_wrong_topic_is_found() {
    let mut world = World::new();
    let mut right = world.drop_of(9);
    assert_kinds(&world, &[]);
    // The same record in a data topic.
    world.control.clear();
    world.archive();
    right.offset = 4;
    right.topic = Arc::from(TOPIC);
    world.files[1] = file(&[&world.records[1], &world.records[2], &right], 2, 5, false);
    world.records.push(right);
    assert_kinds(&world, &[ViolationKind::WrongTopic]);
}

#[test]
fn a_definition_that_is_not_archived_as_it_came_is_found() {
    let mut world = World::new();
    world.drop_of(8);
    world.drop_of(9);
    assert_kinds(&world, &[]);
    let whole = world.control.clone();
    // Not in the lake, which has it nowhere, or says that it has it.
    world.control_file = None;
    assert_kinds(&world, &[ViolationKind::LostInLake]);
    world.control_file = Some(file(&[&whole[0]], 0, 5, false));
    assert_kinds(&world, &[ViolationKind::LostInLake]);
    world.control_file = Some(file(&[&whole[1], &whole[0]], 0, 5, false));
    assert_kinds(&world, &[ViolationKind::WrongOrder]);
    let mut elsewhere = file(&[&whole[0], &whole[1]], 0, 5, false);
    elsewhere.path = elsewhere.path.replace("_control/", "shop/orders/");
    world.control_file = Some(elsewhere);
    assert_kinds(&world, &[ViolationKind::WrongTopic]);
    // What a plain stream does not show is told by its ids alone.
    world.expected.events.truncate(3);
    world.archive();
    assert_kinds(&world, &[]);
    world.control.push(KafkaRecord { offset: 2, ..whole[1].clone() });
    world.archive();
    assert_kinds(&world, &[ViolationKind::TwiceInKafka]);
    world.control =
        vec![KafkaRecord { offset: 0, ..whole[1].clone() }, KafkaRecord { offset: 1, ..whole[0].clone() }];
    world.archive();
    assert_kinds(&world, &[ViolationKind::WrongOrder]);
}

#[test]
fn the_wrong_order_of_one_document_is_found() {
    let mut world = World::new();
    // Events 1 and 3 are of the same document.
    let (first, third) = (record(&world.expected.events[2], 0), record(&world.expected.events[0], 3));
    world.records = vec![first, world.records[1].clone(), third];
    world.files[0] = file(&[&world.records[0]], 0, 2, true);
    world.files[1] = file(&[&world.records[1], &world.records[2]], 2, 5, false);
    assert_kinds(&world, &[ViolationKind::WrongOrder]);
}

#[test]
fn wrong_key_header_timestamp_and_content_are_found() {
    let mut world = World::new();
    world.records[1].key = Some(b"sku".to_vec());
    assert_kinds(&world, &[ViolationKind::WrongKey]);

    let mut world = World::new();
    world.records[1].headers.retain(|(name, _)| name != "operation-type");
    assert_kinds(&world, &[ViolationKind::WrongHeader]);

    let mut world = World::new();
    world.records[1].timestamp_ms = Some(i64::from(SECONDS) * 1000 + 1);
    world.files[1] = file(&[&world.records[1], &world.records[2]], 2, 5, false);
    assert_kinds(&world, &[ViolationKind::WrongTimestamp]);

    let mut world = World::new();
    let value = String::from_utf8(world.records[1].value.clone().unwrap()).unwrap();
    world.records[1].value = Some(value.replace("\"n\": 2", "\"n\": 2.0").into_bytes());
    world.files[1] = file(&[&world.records[1], &world.records[2]], 2, 5, false);
    assert_kinds(&world, &[ViolationKind::WrongContent]);
}

#[test]
fn a_token_behind_its_events_is_found() {
    let mut world = World::new();
    world.tokens = vec![token(&world.expected.events[1])];
    assert_kinds(&world, &[ViolationKind::TornToken]);
    world.tokens.clear();
    assert_kinds(&world, &[ViolationKind::TornToken]);
}

#[test]
fn a_record_that_is_not_in_the_lake_is_found() {
    let mut world = World::new();
    world.files[1] = file(&[&world.records[2]], 2, 5, false);
    assert_kinds(&world, &[ViolationKind::LostInLake]);
    // Not yet reached is lost too: the ledger judges a drained pipeline.
    world.files[1] = file(&[&world.records[1]], 2, 3, false);
    world.committed = 3;
    assert_kinds(&world, &[ViolationKind::LostInLake]);
    // A dead letter of the sink accounts for it.
    world
        .letters
        .push(KafkaRecord { key: Some(format!("{TOPIC}/0/2").into_bytes()), ..world.records[1].clone() });
    world.files[1] = file(&[&world.records[2]], 2, 5, false);
    assert_kinds(&world, &[]);
}

#[test]
fn a_line_that_came_twice_or_from_nowhere_is_found() {
    let mut world = World::new();
    world.files[1] = file(&[&world.records[1], &world.records[1], &world.records[2]], 2, 5, false);
    assert_kinds(&world, &[ViolationKind::WrongOrder, ViolationKind::TwiceInLake]);

    let mut world = World::new();
    let invented = KafkaRecord { offset: 4, ..world.records[2].clone() };
    world.files[1] = file(&[&world.records[1], &world.records[2], &invented], 2, 5, false);
    assert_kinds(&world, &[ViolationKind::InventedInLake]);
}

#[test]
fn a_line_in_another_hour_is_found() {
    let mut world = World::new();
    let path = world.files[1].path.replace("hour=22", "hour=23");
    world.files[1].path = path.clone();
    world.head.path = Some(path);
    assert_kinds(&world, &[ViolationKind::WrongHour]);
}

#[test]
fn a_gap_and_an_overlap_of_the_chain_are_found() {
    let mut world = World::new();
    world.files[0] = file(&[&world.records[0]], 0, 1, true);
    assert_kinds(&world, &[ViolationKind::ChainGap]);

    let mut world = World::new();
    world.files[0] = file(&[&world.records[0], &world.records[1]], 0, 3, true);
    assert_kinds(&world, &[ViolationKind::TwiceInLake, ViolationKind::ChainOverlap]);

    let mut world = World::new();
    world.head.start = 1;
    assert_kinds(&world, &[ViolationKind::ChainOverlap]);
}

#[test]
fn an_offset_ahead_of_the_chain_is_found() {
    let mut world = World::new();
    world.committed = 6;
    assert_kinds(&world, &[ViolationKind::OffsetAhead]);
}

#[test]
fn an_unsealed_predecessor_is_found() {
    let mut world = World::new();
    world.files[0] = file(&[&world.records[0]], 0, 2, false);
    assert_kinds(&world, &[ViolationKind::NotSealed]);
}

#[test]
fn a_head_that_names_another_file_is_found() {
    let mut world = World::new();
    world.head.path = Some(world.files[0].path.clone());
    world.head.first = Some(0);
    assert_kinds(&world, &[ViolationKind::WrongHead]);
    // A successor that is about to be made is no flaw.
    let mut world = World::new();
    world.files[1] = file(&[&world.records[1], &world.records[2]], 2, 5, true);
    world.head.path = Some(format!("{FOLDER}/events-20250822-22-p0000-{:020}.jsonl", 5));
    (world.head.first, world.head.created) = (Some(5), false);
    assert_kinds(&world, &[]);
}

#[test]
fn metadata_that_does_not_agree_is_found() {
    for name in ["rows", "crc", "originalsize"] {
        let mut world = World::new();
        world.files[1].metadata.insert(name.to_owned(), "1".to_owned());
        assert_kinds(&world, &[ViolationKind::WrongMetadata]);
    }
}

#[test]
fn a_changed_byte_of_a_line_is_found() {
    let mut world = World::new();
    let at = world.files[1].bytes.windows(6).position(|window| window == b"\"n\": 2").unwrap() + 5;
    world.files[1].bytes[at] = b'5';
    assert_kinds(&world, &[ViolationKind::WrongContent, ViolationKind::WrongMetadata]);
    seal_sums(&mut world.files[1]);
    assert_kinds(&world, &[ViolationKind::WrongContent]);
}

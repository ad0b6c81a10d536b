//! Records in the form of other connectors.
//!
//! Goal: `EVENT_PROFILE=debezium` and `=mongo-kafka` write, byte for byte, what those connectors write of the same changes, and keep the
//! source's promises. Method: the real connectors run beside the source on the same collection; then a source of each profile is killed again
//! and again under writes, and every event, with its tombstone, has to be in the topic and in the lake once.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use mongodb::{
    Collection,
    bson::{
        Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, RawDocumentBuf, Regex,
        Timestamp, doc, oid::ObjectId, spec::BinarySubtype,
    },
};
use pipeline_tests::{
    kafka_reader::KafkaRecord,
    pipeline::Pipeline,
    servers::{Connect, Connector},
    service::{Binary as Program, Environment},
    wait,
};

use crate::stage::{LIMIT, Stage};

const COLLECTION: &str = "things";

/// Starts both connectors on a database.
async fn connectors(stage: &Stage, database: &str) -> Result<Connect> {
    let uri = stage.mongod.uri();
    let json = "org.apache.kafka.connect.json.JsonConverter";
    let debezium = vec![
        ("connector.class", "io.debezium.connector.mongodb.MongoDbConnector".to_owned()),
        ("mongodb.connection.string", uri.clone()),
        ("topic.prefix", "dbz".to_owned()),
        ("database.include.list", database.to_owned()),
        ("capture.mode", "change_streams_update_full_with_pre_image".to_owned()),
        ("snapshot.mode", "no_data".to_owned()),
        ("key.converter", json.to_owned()),
        ("key.converter.schemas.enable", "false".to_owned()),
        ("value.converter", json.to_owned()),
        ("value.converter.schemas.enable", "false".to_owned()),
    ];
    let mongo_kafka = vec![
        ("connector.class", "com.mongodb.kafka.connect.MongoSourceConnector".to_owned()),
        ("connection.uri", uri),
        ("database", database.to_owned()),
        ("topic.prefix", "mk".to_owned()),
        ("change.stream.full.document", "updateLookup".to_owned()),
        ("change.stream.full.document.before.change", "whenAvailable".to_owned()),
        ("poll.await.time.ms", "200".to_owned()),
    ];
    let connectors = [
        Connector { name: "debezium", properties: debezium },
        Connector { name: "mongo-kafka", properties: mongo_kafka },
    ];
    Connect::start(&stage.kafka, &connectors).await
}

fn environment(pipeline: &Pipeline, profile: &str) -> Environment {
    pipeline
        .source_environment()
        .set("EVENT_PROFILE", profile)
        .set("TOPIC_PARTITIONS", 1)
        .set("TOPIC_PREFIX", format!("ours-{profile}"))
        .set("SOURCE_ID", format!("profile-{profile}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_those_of_the_connectors() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("profiles")?;
    let database = stage.mongod.client().await?.database(pipeline.database());
    let images = doc! { "create": COLLECTION, "changeStreamPreAndPostImages": { "enabled": true } };
    database.run_command(images).await?;
    let things = database.collection::<Document>(COLLECTION);
    let mut sources = Vec::new();
    for profile in ["debezium", "mongo-kafka"] {
        let mut source = pipeline.start(Program::Source, environment(&pipeline, profile))?;
        source.wait_until_ready().await?;
        sources.push(source);
    }
    let _connect = connectors(stage, pipeline.database()).await?;
    // A task that runs may not have its stream open yet: a probe is written until both have seen one.
    let probes = database.collection::<Document>("probes");
    let topic = |prefix: &str, collection: &str| format!("{prefix}.{}.{collection}", pipeline.database());
    let mut number = 0;
    wait::until("both connectors read the stream", LIMIT, || {
        number += 1;
        let probe = probes.insert_one(doc! { "_id": number });
        let kafka = pipeline.kafka();
        let wanted = [topic("dbz", "probes"), topic("mk", "probes")];
        async move {
            probe.await?;
            for prefix in ["dbz", "mk"] {
                let there = kafka.topics(prefix).await?;
                if !wanted.iter().any(|topic| topic.starts_with(prefix) && there.contains(topic)) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        }
    })
    .await?;

    let changes = write_everything(&things).await?;
    let records = async |prefix: &str, count: usize| -> Result<Vec<KafkaRecord>> {
        let topic = topic(prefix, COLLECTION);
        wait::until(&format!("{count} records in {topic}"), LIMIT, || async {
            if !pipeline.kafka().topics(&topic).await?.contains(&topic) {
                return Ok(None);
            }
            let content = pipeline.kafka().read([topic.clone()]).await?;
            let records: Vec<KafkaRecord> = content.records(&topic).cloned().collect();
            Ok((records.len() >= count).then_some(records))
        })
        .await
    };
    let with_tombstones = changes.all + changes.deletes;
    let (ours, theirs) =
        (records("ours-debezium", with_tombstones).await?, records("dbz", with_tombstones).await?);
    same_records(&ours, &theirs, debezium_apart_from_times)?;
    let (ours, theirs) = (records("ours-mongo-kafka", changes.all).await?, records("mk", changes.all).await?);
    same_records(&ours, &theirs, |_, value| Ok(value))?;
    for source in &mut sources {
        source.assert_running()?;
    }
    Ok(())
}

fn same_records(
    ours: &[KafkaRecord],
    theirs: &[KafkaRecord],
    comparable: impl Fn(&KafkaRecord, String) -> Result<String>,
) -> Result<()> {
    let text =
        |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    ensure!(ours.len() == theirs.len(), "{} records, the connector has {}", ours.len(), theirs.len());
    for (our, their) in ours.iter().zip(theirs) {
        let (key, expected) = (text(&our.key), text(&their.key));
        ensure!(key == expected, "key {key:?}\nexpected {expected:?}");
        let value = text(&our.value).map(|value| comparable(our, value)).transpose()?;
        let expected = text(&their.value).map(|value| comparable(their, value)).transpose()?;
        ensure!(value == expected, "of key {key:?}\n{value:?}\nexpected\n{expected:?}");
        for (name, value) in &their.headers {
            let found = our.header(name).with_context(|| format!("no header {name}"))?;
            // Of the process, and of the configuration.
            let apart = name.ends_with("runId") || name.ends_with("connectorLogicalName");
            ensure!(apart || found.as_bytes() == value, "header {name} is {found}");
        }
    }
    Ok(())
}

/// When it was processed, and what the topics' prefix is, differ; both are checked for being there.
fn debezium_apart_from_times(record: &KafkaRecord, value: String) -> Result<String> {
    let prefix = record.topic.split('.').next().unwrap_or_default();
    let name = format!("\"name\":\"{prefix}\"");
    ensure!(value.contains(&name), "{value} does not name {prefix}");
    let (head, tail) = value.rsplit_once(",\"ts_ms\":").context("ts_ms")?;
    let (time, rest) = tail.split_once(',').context("something behind ts_ms")?;
    ensure!(time.parse::<i64>().is_ok_and(|time| time > 1_700_000_000_000), "ts_ms is {time}");
    Ok(format!("{},{rest}", head.replace(&name, "\"name\":\"\"")))
}

struct Changes {
    all: usize,
    deletes: usize,
}

/// Every type, every kind of change. Each document is looked up once at most, so it does not matter when.
async fn write_everything(things: &Collection<Document>) -> Result<Changes> {
    let mut changes = Changes { all: 0, deletes: 0 };
    for (number, value) in values().into_iter().enumerate() {
        things.insert_one(doc! { "_id": i32::try_from(number)?, "v": value }).await?;
        changes.all += 1;
    }
    for id in ids() {
        things.insert_one(doc! { "_id": id.clone(), "x": 1 }).await?;
        things.delete_one(doc! { "_id": id }).await?;
        changes.all += 2;
        changes.deletes += 1;
    }
    let raw = things.clone_with_type::<RawDocumentBuf>();
    raw.insert_one(pointer()?).await?;
    changes.all += 1;
    let at = DateTime::from_millis(1_755_900_000_000);
    for (id, update) in [
        (
            "set",
            vec![
                doc! { "$set": { "a.b": 5_i64, "d": at, "e": DateTime::from_millis(1_755_900_000_120), "f": 1e10, "n": Bson::Null } },
            ],
        ),
        ("unset", vec![doc! { "$unset": { "s": 1 } }]),
        ("push", vec![doc! { "$push": { "list": "é" } }]),
        ("cut", vec![doc! { "$set": { "list": { "$slice": ["$list", 1] } } }]),
        (
            "typed",
            vec![
                doc! { "$set": { "bin": Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] }, "re": Bson::RegularExpression(Regex { pattern: "^a".try_into()?, options: "i".try_into()? }), "far": DateTime::from_millis(-5), "nan": f64::NAN } },
            ],
        ),
    ] {
        things.insert_one(doc! { "_id": id, "a": { "b": 1 }, "s": "gone", "list": [1, 2, 3] }).await?;
        if id == "cut" {
            things.update_one(doc! { "_id": id }, update).await?;
        } else {
            things.update_one(doc! { "_id": id }, update[0].clone()).await?;
        }
        changes.all += 2;
    }
    things.insert_one(doc! { "_id": "replaced", "old": true }).await?;
    things.replace_one(doc! { "_id": "replaced" }, doc! { "new": true }).await?;
    changes.all += 2;
    let mut session = things.client().start_session().await?;
    session.start_transaction().await?;
    things.insert_one(doc! { "_id": "in-a-transaction" }).session(&mut session).await?;
    things.delete_one(doc! { "_id": "replaced" }).session(&mut session).await?;
    session.commit_transaction().await?;
    changes.all += 2;
    changes.deletes += 1;
    Ok(changes)
}

fn values() -> Vec<Bson> {
    let mut values: Vec<Bson> = [
        1.0,
        1.5,
        1e10,
        1e-5,
        123_456_789.123,
        -0.0,
        1e7,
        9_999_999.0,
        0.001,
        1e22,
        5e-324,
        f64::MAX,
        0.1 + 0.2,
        1e23,
        100.0,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MIN_POSITIVE,
    ]
    .map(Bson::Double)
    .to_vec();
    values.extend([5, i32::MIN].map(Bson::Int32));
    values.extend([5, i64::MAX, i64::MIN].map(Bson::Int64));
    let times = [1_755_900_000_123, 0, 1_755_900_000_000, -1, 253_402_300_800_000, 1_755_900_000_100];
    values.extend(times.map(|ms| Bson::DateTime(DateTime::from_millis(ms))));
    let decimals = ["1.20", "NaN", "1E+30", "-0"].map(|text| text.parse::<Decimal128>().expect("a decimal"));
    values.extend(decimals.map(Bson::Decimal128));
    values.extend(ids());
    values.extend([
        Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: Vec::new() }),
        Bson::Binary(Binary { subtype: BinarySubtype::UserDefined(0x80), bytes: b"x".to_vec() }),
        Bson::RegularExpression(Regex {
            pattern: "a/b\"c".try_into().expect("a pattern"),
            options: "im".try_into().expect("options"),
        }),
        Bson::JavaScriptCode("function(){}".to_owned()),
        Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
            code: "f()".to_owned(),
            scope: doc! { "x": 1, "y": [1] },
        }),
        Bson::Symbol("sym".to_owned()),
        Bson::Undefined,
        Bson::MaxKey,
        Bson::Boolean(false),
        Bson::String("q\"b\\n\n\r\t\u{8}\u{c}/\u{1}\u{7f}\u{85}\u{2028}\u{2029}é€😀\u{200b}\u{ad}\u{e000}\u{301}\u{feff}\u{378}".to_owned()),
        Bson::Array(vec![Bson::Int32(1), "a".into(), Bson::Array(Vec::new()), doc! {}.into(), doc! { "x": [2] }.into()]),
        doc! { "na\"me.x": "v", "é": { "c": Bson::Null, "e": {} } }.into(),
    ]);
    values
}

fn ids() -> Vec<Bson> {
    vec![
        ObjectId::parse_str("66c1f0a2e4b0c1d2e3f40512").expect("an id").into(),
        Bson::Int32(-42),
        Bson::Int64(9_007_199_254_740_993),
        Bson::Double(-1.5e-30),
        "sku-9".into(),
        "q\"é😀\u{2028}".into(),
        Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: (0..16).collect() }),
        doc! { "region": "eu", "n": 7, "l": 1_i64 }.into(),
        DateTime::from_millis(1_755_900_000_120).into(),
        Bson::Boolean(true),
        Bson::Null,
        Bson::MinKey,
        Bson::Timestamp(Timestamp { time: 5, increment: 6 }),
    ]
}

/// `{_id: "p", v: DBPointer("db.c", …)}`, a type that drivers no longer make.
fn pointer() -> Result<RawDocumentBuf> {
    let mut body = Vec::new();
    body.extend_from_slice(b"\x02_id\0\x02\0\0\0p\0\x0Cv\0\x05\0\0\0db.c\0");
    body.extend_from_slice(&[1; 12]);
    body.push(0);
    let length = i32::try_from(body.len() + 4)?.to_le_bytes();
    RawDocumentBuf::from_bytes([&length[..], &body].concat()).context("a document")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debezium_with_tombstones() -> Result<()> {
    kills(&Stage::shared().await?.pipeline("profiledbz")?, Stage::shared().await?, "debezium", true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mongo_kafka() -> Result<()> {
    kills(&Stage::shared().await?.pipeline("profilemk")?, Stage::shared().await?, "mongo-kafka", false).await
}

/// Every event once and in order per document, with its tombstone behind it, and in the lake.
async fn kills(pipeline: &Pipeline, stage: &Stage, profile: &str, tombstones: bool) -> Result<()> {
    let environment = || pipeline.source_environment().set("EVENT_PROFILE", profile);
    let collection =
        stage.mongod.client().await?.database(pipeline.database()).collection::<Document>("orders");
    let mut source = pipeline.start(Program::Source, environment())?;
    source.wait_until_ready().await?;
    let mut sink = pipeline.ready_sink().await?;
    for round in 0..4 {
        let writes = async {
            for number in 0..60 {
                let id = round * 100 + number;
                collection.insert_one(doc! { "_id": id }).await?;
                collection.update_one(doc! { "_id": id }, doc! { "$set": { "n": 1 } }).await?;
                collection.delete_one(doc! { "_id": id }).await?;
            }
            anyhow::Ok(())
        };
        let kill = async {
            let before =
                pipeline.kafka().high_watermarks([pipeline.data_topic("orders")]).await.unwrap_or_default();
            wait::until("some of it is in Kafka", LIMIT, || async {
                let now = pipeline
                    .kafka()
                    .high_watermarks([pipeline.data_topic("orders")])
                    .await
                    .unwrap_or_default();
                Ok((now.values().sum::<i64>() > before.values().sum::<i64>() + 20).then_some(()))
            })
            .await?;
            source.kill9()
        };
        let (written, killed) = tokio::join!(writes, kill);
        written?;
        killed?;
        source = pipeline.start(Program::Source, environment())?;
    }
    source.wait_until_ready().await?;
    let topic = pipeline.data_topic("orders");
    let each = if tombstones { 4 } else { 3 };
    let content = wait::until("everything is in Kafka", LIMIT, || async {
        let content = pipeline.kafka().read([topic.clone()]).await?;
        Ok((content.records(&topic).count() >= 240 * each).then_some(content))
    })
    .await?;
    let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in content.records(&topic) {
        let key = String::from_utf8_lossy(record.key.as_deref().context("a key")?).into_owned();
        let what =
            record.value.as_ref().map_or("tombstone", |_| record.header("operation-type").unwrap_or("?"));
        by_key.entry(key).or_default().push(what.to_owned());
    }
    let expected: &[&str] = if tombstones {
        &["insert", "update", "delete", "tombstone"]
    } else {
        &["insert", "update", "delete"]
    };
    ensure!(by_key.len() == 240, "{} documents", by_key.len());
    for (key, what) in &by_key {
        ensure!(what == expected, "{key}: {what:?}");
    }
    pipeline.wait_for_lake(&mut [&mut source, &mut sink]).await?;
    let mut files = pipeline.lake().read().await?.files;
    // Definitions keep the envelope.
    files.retain(|file| !file.path.starts_with("_control/"));
    let rows: i64 = files.iter().map(|file| file.number("rows")).sum::<Result<_>>()?;
    let empty: i64 = files.iter().map(|file| file.number("tombstones")).sum::<Result<_>>()?;
    ensure!(rows == 720 && empty == if tombstones { 240 } else { 0 }, "{rows} rows, {empty} tombstones");
    ensure!(pipeline.evidence().await?.dead_letters() == 0, "dead letters");
    Ok(())
}

//! The snapshot: what was there before the source came.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt as _;
use mongodb::bson::{
    Binary, Bson, DateTime, Decimal128, Document, Timestamp, doc, oid::ObjectId, spec::BinarySubtype,
};
use pipeline_tests::{
    json::Json,
    kafka_reader::KafkaRecord,
    ledger::extended_json::document_difference,
    service::{Environment, Service},
    wait,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::stage::{LIMIT, Stage};

/// `_id`s of many types that sort into each other in BSON's order, `count` of each.
pub(crate) fn ids(count: i32) -> Vec<Bson> {
    let mut ids = Vec::new();
    for n in 0..count {
        let byte = u8::try_from(n % 251).unwrap();
        ids.extend([
            Bson::Int32(n),
            Bson::Int64(1_000_000_000_000 + i64::from(n)),
            Bson::Double(f64::from(n) + 0.25),
            Bson::String(format!("sku-{n:06}")),
            Bson::Document(doc! { "region": if n % 2 == 0 { "eu" } else { "us" }, "n": n }),
            Bson::Binary(Binary {
                subtype: BinarySubtype::Generic,
                bytes: [n.to_be_bytes(), [byte; 4]].concat(),
            }),
            Bson::ObjectId(ObjectId::from_bytes([
                0,
                0,
                0,
                0,
                7,
                7,
                7,
                7,
                byte,
                1,
                2,
                u8::try_from(n / 251).unwrap(),
            ])),
            Bson::DateTime(DateTime::from_millis(1_700_000_000_001 + 1_000 * i64::from(n))),
            Bson::Timestamp(Timestamp { time: 1_700_000_000, increment: u32::try_from(n).unwrap() + 1 }),
        ]);
    }
    ids.extend([Bson::Boolean(true), Bson::Boolean(false), Bson::Null, Bson::MinKey, Bson::MaxKey]);
    ids.push(Bson::Decimal128("12345.678".parse::<Decimal128>().unwrap()));
    ids
}

pub(crate) async fn fill(stage: &Stage, collection: &str, ids: &[Bson]) -> Result<()> {
    let (db, coll) = collection.split_once('.').unwrap();
    let documents: Vec<Document> =
        ids.iter().map(|id| doc! { "_id": id.clone(), "v": 0, "pad": "x".repeat(100) }).collect();
    for part in documents.chunks(5_000) {
        stage.client.database(db).collection::<Document>(coll).insert_many(part).await?;
    }
    Ok(())
}

/// Updates, replaces, deletes and inserts at random until it is told to stop.
pub(crate) async fn disturb(
    stage: &Stage,
    collection: &str,
    ids: &[Bson],
    seed: u64,
    count: usize,
) -> Result<()> {
    let (db, coll) = collection.split_once('.').unwrap();
    let collection = stage.client.database(db).collection::<Document>(coll);
    let mut random = StdRng::seed_from_u64(seed);
    for step in 0..count {
        let id = ids[random.random_range(0..ids.len())].clone();
        let key = doc! { "_id": id.clone() };
        let step = i64::try_from(step)?;
        match random.random_range(0..4) {
            0 => {
                collection.update_one(key, doc! { "$set": { "v": step } }).await?;
            }
            1 => {
                collection.delete_one(key).await?;
            }
            2 => {
                collection.replace_one(key, doc! { "replaced": step }).upsert(true).await?;
            }
            _ => {
                collection.insert_one(doc! { "_id": format!("new-{seed}-{step}"), "v": step }).await?;
            }
        }
    }
    Ok(())
}

pub(crate) fn is_copied(source: &Service) -> Result<bool> {
    let status = Json::parse(source.status()?.as_bytes())?;
    Ok(status.get("snapshot").and_then(|snapshot| snapshot.get("done")) == Some(&Json::Bool(true)))
}

pub(crate) async fn wait_for_copy(source: &Service) -> Result<()> {
    wait::until("the snapshot is done", LIMIT, || async { Ok(is_copied(source)?.then_some(())) }).await
}

/// Ends by itself when everything is published.
pub(crate) async fn drained(stage: &Stage, environment: Environment) -> Result<()> {
    let mut source = stage.start_with(environment, &["--until-end"])?;
    ensure!(source.exit_code(LIMIT).await? == 0, "{}", source.log_text()?);
    Ok(())
}

pub(crate) fn is_row(record: &KafkaRecord) -> bool {
    record.header("snapshot") == Some("true")
}

/// Keeps the last record of each key, and holds the result against the collection.
pub(crate) async fn compare(stage: &Stage, collection: &str, records: &[KafkaRecord]) -> Result<()> {
    let mut state: BTreeMap<String, Json> = BTreeMap::new();
    for record in records {
        let key = record.key.as_deref().context("a record without key")?;
        // Members in one order, whoever wrote them.
        let key = serde_json::from_slice::<serde_json::Value>(key)?.to_string();
        let value = Json::parse(record.value.as_deref().context("a record without value")?)?;
        if record.header("operation-type") == Some("delete") {
            state.remove(&key);
        } else {
            let full = value.get("fullDocument").context("no fullDocument")?.clone();
            // A lookup that found nothing: the document is gone, and its delete comes later.
            if full.get("_id").is_some() {
                state.insert(key, full);
            }
        }
    }
    let (db, coll) = collection.split_once('.').unwrap();
    let mut cursor = stage.client.database(db).collection::<Document>(coll).find(doc! {}).await?;
    let mut count = 0;
    while let Some(document) = cursor.try_next().await? {
        let id = document.get("_id").unwrap().clone();
        // Members in one order, whoever wrote them.
        let key = id.clone().into_relaxed_extjson().to_string();
        let found = state.get(&key).with_context(|| format!("{collection}: {key} is missing"))?;
        if let Some(difference) = document_difference(found, &document) {
            anyhow::bail!("{collection}: {key}: {difference}");
        }
        count += 1;
    }
    ensure!(state.len() == count, "{collection}: {} keys, {count} documents", state.len());
    Ok(())
}

/// In every partition: time never goes back, ids rise, and a key has one row at most.
pub(crate) fn check_order(records: &[KafkaRecord]) -> Result<usize> {
    let mut last: BTreeMap<i32, (i64, String)> = BTreeMap::new();
    let mut keys = BTreeSet::new();
    let mut rows = 0;
    for record in records {
        let time = record.timestamp_ms.context("no timestamp")?;
        let id = record.header("event-id").context("no event id")?.to_owned();
        if let Some((time_before, id_before)) = last.get(&record.partition) {
            ensure!(time >= *time_before, "time goes back at {}/{}", record.partition, record.offset);
            ensure!(id > *id_before, "ids fall at {}/{}: {id_before} {id}", record.partition, record.offset);
        }
        last.insert(record.partition, (time, id));
        if is_row(record) {
            rows += 1;
            ensure!(record.header("operation-type") == Some("insert"), "a row is an insert");
            ensure!(keys.insert(record.key.clone()), "two rows of {:?}", record.key);
        }
    }
    Ok(rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_under_writes_and_kills_ends_with_the_collection() -> Result<()> {
    let stage = Stage::new().await?;
    let ids = ids(3_000);
    fill(&stage, "shop.orders", &ids).await?;
    fill(&stage, "shop.small", &ids[..50]).await?;
    let environment = stage
        .environment()
        .set("START_FROM", "snapshot")
        .set("MONGO_DATABASES", "shop")
        .set("SNAPSHOT_RATE", "7000");

    let mut source = stage.started(environment.clone()).await?;
    for round in 0..4 {
        let rows_before = source.metrics()?.sum("cdc_source_snapshot_rows").unwrap_or(0.0);
        disturb(&stage, "shop.orders", &ids, round, 300).await?;
        wait::until("rows are copied", LIMIT, || async {
            let rows = source.metrics()?.sum("cdc_source_snapshot_rows").unwrap_or(0.0);
            Ok((rows > rows_before || is_copied(&source)?).then_some(()))
        })
        .await
        .with_context(|| source.log_tail())?;
        source.kill9()?;
        source = stage.started(environment.clone()).await?;
    }
    wait_for_copy(&source).await?;
    disturb(&stage, "shop.orders", &ids, 99, 200).await?;
    source.stop(LIMIT).await?;
    drained(&stage, environment).await?;

    for collection in ["shop.orders", "shop.small"] {
        let topic = format!("atlas.{collection}");
        let content = stage.reader.read([topic.clone()]).await?;
        let records: Vec<KafkaRecord> = content.records(&topic).cloned().collect();
        let rows = check_order(&records)?;
        ensure!(rows > 40, "{rows} rows of {collection}");
        compare(&stage, collection, &records).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_snapshot_is_each_document_once() -> Result<()> {
    let stage = Stage::new().await?;
    let ids = ids(5_000);
    fill(&stage, "shop.orders", &ids).await?;
    let orders = stage.client.database("shop").collection::<Document>("orders");
    ensure!(orders.count_documents(doc! {}).await? == ids.len() as u64, "ids collide");
    // As large as a document may be: each is a reply of its own.
    let large = "x".repeat(9 * 1024 * 1024);
    let huge = stage.client.database("shop").collection::<Document>("large");
    for id in 0..3 {
        huge.insert_one(doc! { "_id": id, "text": &large }).await?;
    }
    stage.client.database("shop").create_collection("empty").await?;
    stage.client.database("shop").create_collection("view").view_on("orders".to_owned()).await?;
    let filters = stage.file("filters.json", br#"{"crm.people": {"active": true}}"#)?;
    let people = (0..100).map(|id| doc! { "_id": id, "active": id % 4 == 0 });
    stage.client.database("crm").collection::<Document>("people").insert_many(people).await?;
    // The newest write may be an event of the stream as well.
    stage.insert("other.last", 0..1).await?;

    let environment =
        stage.environment().set("START_FROM", "snapshot").set("SNAPSHOT_FILTER_FILE", filters.display());
    drained(&stage, environment.clone()).await?;
    for (topic, count) in
        [("atlas.shop.orders", ids.len()), ("atlas.shop.large", 3), ("atlas.crm.people", 25)]
    {
        let content = stage.reader.read([topic.to_owned()]).await?;
        let records: Vec<KafkaRecord> = content.records(topic).cloned().collect();
        if topic != "atlas.crm.people" {
            compare(&stage, topic.trim_start_matches("atlas."), &records).await?;
        }
        let rows = check_order(&records)?;
        ensure!(rows == count && records.len() == count, "{topic}: {rows} rows, not {count}");
    }
    ensure!(stage.reader.topics("atlas.shop.view").await?.is_empty(), "a view was copied");

    // It is not begun again.
    drained(&stage, environment).await?;
    let content = stage.reader.read(["atlas.shop.orders".to_owned()]).await?;
    ensure!(content.records("atlas.shop.orders").count() == ids.len(), "copied twice");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_goes_on_while_much_is_copied() -> Result<()> {
    let stage = Stage::new().await?;
    let many: Vec<Bson> = (0..40_000).map(Bson::Int32).collect();
    fill(&stage, "shop.orders", &many).await?;
    let environment = stage.environment().set("START_FROM", "snapshot").set("SNAPSHOT_RATE", "4000");
    let mut source = stage.started(environment).await?;
    for round in 0..5 {
        stage.insert("shop.live", round * 10..round * 10 + 10).await?;
        let count = usize::try_from(round * 10 + 10)?;
        stage.records("atlas.shop.live", count).await?;
        ensure!(!source.status()?.contains("\"done\":true"), "the snapshot was over too early to tell");
        tokio::time::timeout(Duration::from_secs(30), source_is_ready(&source)).await?;
    }
    source.assert_running()?;
    source.stop(LIMIT).await
}

async fn source_is_ready(source: &Service) {
    while !source.is_ready() {
        tokio::task::yield_now().await;
    }
}

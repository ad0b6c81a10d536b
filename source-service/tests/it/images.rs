//! The documents that events carry.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use mongodb::bson::{Bson, Document, Timestamp, doc, oid::ObjectId, spec::BinarySubtype};
use pipeline_tests::{kafka_reader::KafkaRecord, service::Environment};
use serde_json::Value;

use crate::stage::{LIMIT, Stage};

/// Every kind of `_id` that has an order of its own.
fn ids() -> Vec<Bson> {
    let text = |length: usize| Bson::from("x".repeat(length));
    let binary = mongodb::bson::Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] };
    vec![
        Bson::Int32(1),
        Bson::Int64(1 << 40),
        Bson::Double(1.5),
        Bson::Double(f64::NAN),
        text(1),
        text(100_000),
        Bson::ObjectId(ObjectId::from_bytes([3; 12])),
        Bson::Boolean(true),
        Bson::DateTime(mongodb::bson::DateTime::from_millis(1)),
        Bson::Timestamp(Timestamp { time: 1, increment: 2 }),
        Bson::Binary(binary),
        Bson::Document(doc! { "b": 1, "a": { "c": 2 } }),
        Bson::Null,
        Bson::MinKey,
        Bson::MaxKey,
    ]
}

impl Stage {
    fn with_look_up(&self, mode: &str) -> Environment {
        let id = mode.to_lowercase();
        self.environment().set("FULL_DOCUMENT", mode).set("SOURCE_ID", &id).set("TOPIC_PREFIX", id)
    }
}

/// By event id, without what two sources cannot have in common.
fn values(records: &[KafkaRecord]) -> Result<BTreeMap<String, Value>> {
    let value = |record: &KafkaRecord| {
        let mut value: Value = serde_json::from_slice(record.value.as_deref().context("no value")?)?;
        let meta = value["_meta"].as_object_mut().context("no _meta")?;
        meta.remove("processedAt");
        meta.remove("source");
        anyhow::Ok((record.header("event-id").context("no id")?.to_owned(), value))
    };
    records.iter().map(value).collect()
}

/// While nothing changes, one look-up for all is as good as one for each.
#[tokio::test(flavor = "multi_thread")]
async fn looking_up_together_and_one_by_one_agree() -> Result<()> {
    let stage = Stage::new().await?;
    let modes = ["updateLookup", "batchedLookup"];
    for mode in modes {
        let mut source = stage.started(stage.with_look_up(mode)).await?;
        source.stop(LIMIT).await?;
    }
    let shop = stage.client.database("shop");
    let (ids, many) = (ids(), 3_000);
    for name in ["orders", "stock", "gone"] {
        let collection = shop.collection::<Document>(name);
        collection.insert_many(ids.iter().map(|id| doc! { "_id": id, "v": 0 })).await?;
        collection.update_many(doc! {}, doc! { "$set": { "note": format!("of {name}") } }).await?;
        collection.update_many(doc! {}, doc! { "$inc": { "v": 1 } }).await?;
        collection.replace_one(doc! { "_id": 1 }, doc! { "replaced": true }).await?;
        collection.update_one(doc! { "_id": 1 }, doc! { "$set": { "again": true } }).await?;
        collection.delete_one(doc! { "_id": "x" }).await?;
    }
    shop.collection::<Document>("gone").drop().await?;
    let large = shop.collection::<Document>("large");
    large.insert_many((0..many).map(|id| doc! { "_id": id, "text": "x".repeat(5_000) })).await?;
    large.update_many(doc! {}, doc! { "$inc": { "v": 1 } }).await?;

    let each = ids.len() * 3 + 3;
    let mut found = Vec::new();
    for mode in modes {
        let mut source = stage.started(stage.with_look_up(mode)).await?;
        let prefix = mode.to_lowercase();
        let mut all = BTreeMap::new();
        for (name, count) in
            [("orders", each), ("stock", each), ("gone", each), ("large", 2 * usize::try_from(many)?)]
        {
            let records = stage.records(&format!("{prefix}.shop.{name}"), count).await?;
            assert_eq!(records.len(), count, "{mode} {name}");
            all.extend(values(&records)?);
        }
        found.push(all);
        source.stop(LIMIT).await?;
    }
    assert_eq!(found[0].len(), each * 3 + 2 * usize::try_from(many)?);
    for (id, one_by_one) in &found[0] {
        assert_eq!(found[1].get(id), Some(one_by_one), "{id}");
    }
    let updates = found[1].values().filter(|value| value["_meta"]["operationType"] == "update");
    let (gone, there): (Vec<_>, Vec<_>) = updates.partition(|value| value["fullDocument"].is_null());
    // Those of the dropped collection, and of the document that was deleted in the two others.
    assert_eq!(gone.len(), ids.len() * 2 + 1 + 2 * 2);
    assert_eq!(there.len(), (ids.len() * 2 + 1) * 2 - 2 * 2 + usize::try_from(many)?);
    Ok(())
}

/// Nothing is asked twice while MongoDB is away, and nothing is published without its document.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_that_fails_is_made_again() -> Result<()> {
    let stage = Stage::new().await?;
    let environment = || stage.environment().set("FULL_DOCUMENT", "batchedLookup");
    let mut source = stage.started(environment()).await?;
    stage.insert("shop.orders", 0..100).await?;
    stage.records("atlas.shop.orders", 100).await?;
    stage.fail("find", 11600, 3).await?;
    let orders = stage.client.database("shop").collection::<Document>("orders");
    orders.update_many(doc! {}, doc! { "$set": { "v": 7 } }).await?;
    let records = stage.records("atlas.shop.orders", 200).await?;
    assert_eq!((records.len(), values(&records)?.len()), (200, 200));
    let updates: Vec<Value> =
        values(&records)?.into_values().filter(|value| value["_meta"]["operationType"] == "update").collect();
    assert!(
        updates.len() == 100 && updates.iter().all(|value| value["fullDocument"]["v"] == 7),
        "{updates:?}"
    );
    assert!(source.log_text()?.contains("the change stream broke"), "{}", source.log_text()?);
    source.stop(LIMIT).await
}

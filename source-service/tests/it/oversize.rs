//! Events that are too large: for a reply of MongoDB, or for their topic.

use anyhow::{Context as _, Result};
use mongodb::bson::{Document, doc};
use pipeline_tests::kafka_reader::KafkaRecord;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::stage::{LIMIT, Stage, repeated};

const TOPIC: &str = "atlas.shop.orders";
const DEAD_LETTERS: &str = "atlas.dlq";

/// Digits of a generator, which do not compress to a half.
fn noise(bytes: usize) -> String {
    let mut state = 1_u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'0' + u8::try_from((state >> 33) % 75).unwrap())
    })
    .take(bytes)
    .collect()
}

fn value(record: &KafkaRecord) -> Result<Value> {
    Ok(serde_json::from_slice(record.value.as_deref().context("no value")?)?)
}

/// By key and operation, in the order of their events.
fn names(records: &[KafkaRecord]) -> Vec<String> {
    let mut named: Vec<(&str, String)> = records
        .iter()
        .map(|record| {
            let key = String::from_utf8_lossy(record.key.as_deref().unwrap());
            let operation = record.header("operation-type").unwrap();
            (record.header("event-id").unwrap(), format!("{operation} {key}"))
        })
        .collect();
    named.sort();
    named.into_iter().map(|(_, name)| name).collect()
}

impl Stage {
    /// A document of 9 MB that keeps pre-images, one change of it, and good events on both sides, all of them in one reply.
    async fn write_too_large_for_mongodb(&self) -> Result<()> {
        let shop = self.client.database("shop");
        let orders = shop.collection::<Document>("orders");
        for id in 0..3 {
            orders.insert_one(doc! { "_id": id, "v": 0 }).await?;
        }
        orders.update_one(doc! { "_id": 100 }, doc! { "$inc": { "v": 1 } }).await?;
        for id in 3..6 {
            orders.insert_one(doc! { "_id": id, "v": 0 }).await?;
        }
        Ok(())
    }

    async fn large_document(&self) -> Result<()> {
        let images = doc! { "create": "orders", "changeStreamPreAndPostImages": { "enabled": true } };
        self.client.database("shop").run_command(images).await?;
        let orders = self.client.database("shop").collection::<Document>("orders");
        orders.insert_one(doc! { "_id": 100, "v": 0, "text": "x".repeat(9 << 20) }).await?;
        Ok(())
    }
}

const IN_ORDER: [&str; 8] =
    ["insert 100", "insert 0", "insert 1", "insert 2", "update 100", "insert 3", "insert 4", "insert 5"];

/// The event would have 18 MB. What is before it is published, then the source stops; with a stub it goes on, whole events on both sides.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_mongodb_cannot_send_hides_no_other() -> Result<()> {
    let stage = Stage::new().await?;
    stage.large_document().await?;
    let mut source = stage.started(stage.environment()).await?;
    source.stop(LIMIT).await?;
    stage.write_too_large_for_mongodb().await?;

    let mut source = stage.start(stage.environment())?;
    assert_eq!(source.exit_code(LIMIT).await?, 78, "{}", source.log_text()?);
    let log = source.log_text()?;
    assert!(log.contains("larger than the 16 MB") && log.contains("OVERSIZE=stub"), "{log}");
    let records = stage.records(TOPIC, 3).await?;
    let before: Vec<String> = names(&records).into_iter().filter(|name| name != "insert 100").collect();
    assert_eq!(before, IN_ORDER[1..4]);

    let mut source = stage.started(stage.environment().set("OVERSIZE", "stub")).await?;
    stage.records(TOPIC, records.len() + 4).await?;
    stage.insert("shop.orders", 6..7).await?;
    let records = stage.records(TOPIC, records.len() + 5).await?;
    assert!(repeated(&records).is_empty());
    let after: Vec<String> = names(&records).into_iter().filter(|name| name != "insert 100").collect();
    assert_eq!(after, [&IN_ORDER[1..], &["insert 6"]].concat());
    let stub = records
        .iter()
        .find(|record| record.header("operation-type") == Some("update"))
        .context("no update")?;
    let stub = value(stub)?;
    assert_eq!((&stub["fullDocument"], &stub["fullDocumentBeforeChange"]), (&Value::Null, &Value::Null));
    assert_eq!(stub["updateDescription"]["updatedFields"], serde_json::json!({ "v": 1 }));
    assert_eq!(
        stub["oversize"],
        serde_json::json!({ "reason": "event", "leftOut": ["fullDocument", "fullDocumentBeforeChange"] })
    );
    assert_eq!(source.metrics()?.sum("cdc_source_oversize_events_total"), Some(1.0));
    // And it reads full replies again.
    assert!(source.log_text()?.matches("change stream open").count() >= 4, "{}", source.log_text()?);
    source.stop(LIMIT).await
}

/// Whether a record is too large is decided after compression, by the broker; then the source stops and names the event.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_over_the_limit_stops_the_source() -> Result<()> {
    let stage = Stage::new().await?;
    let environment = || stage.environment().set("TOPIC_MAX_MESSAGE_BYTES", "1MiB");
    let mut source = stage.started(environment()).await?;
    let blobs = stage.client.database("shop").collection::<Document>("orders");
    blobs.insert_one(doc! { "_id": 1, "text": "planted ".repeat(1 << 20) }).await?;
    assert_eq!(stage.records(TOPIC, 1).await?.len(), 1);

    blobs.insert_one(doc! { "_id": 2, "text": noise(3 << 20) }).await?;
    assert_eq!(source.exit_code(LIMIT).await?, 78);
    let log = source.log_text()?;
    assert!(
        log.contains("TOPIC_MAX_MESSAGE_BYTES") && log.contains("event 82") && !log.contains("planted"),
        "{log}"
    );

    // It stops there again: nothing was skipped.
    let mut source = stage.start(environment())?;
    assert_eq!(source.exit_code(LIMIT).await?, 78);
    Ok(())
}

/// Its place in the topic is a stub's; its value is in the dead-letter topic, in parts, in the same transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_stub_stands_for_a_record_over_the_limit() -> Result<()> {
    let stage = Stage::new().await?;
    let environment = || stage.environment().set("TOPIC_MAX_MESSAGE_BYTES", "1MiB").set("OVERSIZE", "stub");
    let mut source = stage.started(environment()).await?;
    let orders = stage.client.database("shop").collection::<Document>("orders");
    let text = noise(3 << 20);
    // Two of them, among good ones, in one transaction.
    let documents = (0..9).map(|id| match id {
        3 | 7 => doc! { "_id": id, "text": &text },
        _ => doc! { "_id": id, "text": "small" },
    });
    orders.insert_many(documents).await?;
    let records = stage.records(TOPIC, 9).await?;
    assert_eq!((records.len(), repeated(&records).len()), (9, 0));
    let letters = stage.reader.read([DEAD_LETTERS.to_owned()]).await?;
    for record in &records {
        let value = value(record)?;
        let Some(oversize) = value.get("oversize") else {
            assert_eq!(value["fullDocument"]["text"], "small");
            continue;
        };
        assert!(["3", "7"].contains(&String::from_utf8_lossy(record.key.as_deref().unwrap()).as_ref()));
        assert_eq!(
            (&value["fullDocument"], &value["documentKey"]["_id"]),
            (&Value::Null, &value["documentKey"]["_id"])
        );
        assert_eq!(oversize["reason"], "record");
        let id = record.header("event-id").context("no id")?;
        let parts: Vec<&KafkaRecord> = letters
            .records(DEAD_LETTERS)
            .filter(|letter| letter.key.as_deref() == Some(id.as_bytes()))
            .collect();
        let places: Vec<&str> = parts.iter().filter_map(|part| part.header("dlq-part")).collect();
        let of = places.len();
        assert_eq!(places, (1..=of).map(|number| format!("{number}/{of}")).collect::<Vec<_>>());
        assert!(of >= 6 && parts.iter().all(|part| part.header("dlq-reason") == Some("oversize")));
        let whole: Vec<u8> = parts.iter().flat_map(|part| part.value.clone().unwrap_or_default()).collect();
        let hash: String = Sha256::digest(&whole).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            (oversize["sha256"].as_str(), oversize["bytes"].as_u64()),
            (Some(hash.as_str()), Some(whole.len() as u64))
        );
        assert_eq!(
            serde_json::from_slice::<Value>(&whole)?["fullDocument"]["text"].as_str(),
            Some(text.as_str())
        );
    }
    assert_eq!(
        records
            .iter()
            .filter(|record| value(record).is_ok_and(|value| value.get("oversize").is_some()))
            .count(),
        2
    );
    assert_eq!(source.metrics()?.sum("cdc_source_oversize_events_total"), Some(2.0));

    // Across a kill too, nothing comes twice.
    source.kill9()?;
    orders.insert_one(doc! { "_id": 20, "text": &text }).await?;
    let mut source = stage.started(environment()).await?;
    orders.insert_one(doc! { "_id": 21, "text": "small" }).await?;
    let records = stage.records(TOPIC, 11).await?;
    assert_eq!((records.len(), repeated(&records).len()), (11, 0));
    source.stop(LIMIT).await
}

/// Without transactions a producer that the broker does not know yet must not have its second record taken when the first one was refused: the
/// first, sent again later, would lie behind it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_delivered_at_least_once_behind_a_record_over_the_limit() -> Result<()> {
    let stage = Stage::new().await?;
    let environment = || {
        let environment = stage.environment().set("TOPIC_MAX_MESSAGE_BYTES", "1MiB");
        environment.set("DELIVERY", "at-least-once").set("TOPIC_PARTITIONS", "1")
    };
    let mut source = stage.started(environment()).await?;
    stage.insert("shop.orders", 0..3).await?;
    let before = stage.records(TOPIC, 3).await?;
    source.stop(LIMIT).await?;
    let orders = stage.client.database("shop").collection::<Document>("orders");
    orders.insert_one(doc! { "_id": 100, "large": noise(3 * 1024 * 1024) }).await?;
    stage.insert("shop.orders", 3..6).await?;
    let mut source = stage.start(environment())?;
    assert_eq!(source.exit_code(LIMIT).await?, 78, "{}", source.log_text()?);
    assert_eq!(stage.records(TOPIC, 3).await?, before, "something lies behind what was refused");
    // A stub stands for it, and the others follow.
    let _source = stage.started(environment().set("OVERSIZE", "stub")).await?;
    let records = stage.records(TOPIC, 7).await?;
    let ids: Vec<&str> = records.iter().filter_map(|record| record.header("event-id")).collect();
    assert!(ids.len() == 7 && ids.is_sorted(), "{ids:?}");
    Ok(())
}

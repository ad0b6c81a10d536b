//! MongoDB transactions: their events know their place, and are in Kafka together.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use mongodb::bson::{Document, doc};
use pipeline_tests::kafka_reader::KafkaRecord;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;

use crate::stage::{LIMIT, Stage, repeated};

const ORDERS: &str = "atlas.shop.orders";
const STOCK: &str = "atlas.shop.stock";

impl Stage {
    /// Inserts these into both collections, in one transaction, first the orders.
    async fn insert_together(&self, ids: std::ops::Range<i32>) -> Result<()> {
        let shop = self.client.database("shop");
        let mut session = self.client.start_session().await?;
        session.start_transaction().await?;
        for name in ["orders", "stock"] {
            let documents = ids.clone().map(|id| doc! { "_id": id, "note": "of one transaction" });
            shop.collection::<Document>(name).insert_many(documents).session(&mut session).await?;
        }
        Ok(session.commit_transaction().await?)
    }
}

/// `transaction` of each event, by key; `null` where there is none.
fn places(records: &[KafkaRecord]) -> Result<BTreeMap<i32, Value>> {
    let mut places = BTreeMap::new();
    for record in records {
        let value: Value = serde_json::from_slice(record.value.as_deref().context("no value")?)?;
        let key = String::from_utf8(record.key.clone().context("no key")?)?;
        places.insert(key.parse()?, value.get("transaction").cloned().unwrap_or_default());
    }
    Ok(places)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_know_their_place() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 0..1).await?;
    stage.insert("shop.stock", 0..1).await?;
    stage.insert_together(1..3).await?;
    stage.insert_together(3..4).await?;
    stage.insert("shop.orders", 4..5).await?;
    let place = |index: u32, count: u32| serde_json::json!({ "index": index, "count": count });
    let orders = places(&stage.records(ORDERS, 5).await?)?;
    assert_eq!(
        orders.into_values().collect::<Vec<_>>(),
        [Value::Null, place(0, 4), place(1, 4), place(0, 2), Value::Null]
    );
    let stock = places(&stage.records(STOCK, 4).await?)?;
    assert_eq!(stock.into_values().collect::<Vec<_>>(), [Value::Null, place(2, 4), place(3, 4), place(1, 2)]);
    source.stop(LIMIT).await?;

    // Of what is in scope: how many come is the count, which of all operations it is the index.
    let only = stage
        .environment()
        .set("MONGO_COLLECTIONS", "shop.stock")
        .set("SOURCE_ID", "stock")
        .set("TOPIC_PREFIX", "part");
    let mut source = stage.started(only).await?;
    stage.insert("shop.stock", 10..11).await?;
    stage.insert_together(11..13).await?;
    stage.insert("shop.stock", 13..14).await?;
    let stock = places(&stage.records("part.shop.stock", 4).await?)?;
    assert_eq!(stock[&11], place(2, 2));
    assert_eq!(stock[&12], place(3, 2));
    source.stop(LIMIT).await
}

/// Ten thousand operations are five replies of the server and one transaction of Kafka, whenever the source is killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_one_is_whole_or_not_there() -> Result<()> {
    const EACH: i32 = 5_000;
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", -1..0).await?;
    stage.insert("shop.stock", -1..0).await?;
    stage.records(STOCK, 1).await?;
    let mut random = StdRng::seed_from_u64(20_261_126);
    for round in 0..4 {
        let first = round * EACH;
        stage.insert_together(first..first + EACH).await?;
        // Any moment will do, that is the point: before the first reply, between replies, within the transaction, behind it.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..400))).await;
        source.kill9()?;
        source = stage.started(stage.environment()).await?;
        let count = usize::try_from(first + EACH + 1)?;
        for topic in [ORDERS, STOCK] {
            let records = stage.records(topic, count).await?;
            assert_eq!((records.len(), repeated(&records).len()), (count, 0), "{topic}");
            let mut offsets: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
            for record in &records {
                let id: i32 = String::from_utf8(record.key.clone().context("no key")?)?.parse()?;
                if id >= first {
                    offsets.entry(record.partition).or_default().push(record.offset);
                }
            }
            // The end of a Kafka transaction takes an offset in each of its partitions.
            for (partition, offsets) in offsets {
                let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
                assert_eq!(last - first + 1, i64::try_from(offsets.len())?, "{topic}/{partition}");
            }
        }
    }
    source.stop(LIMIT).await
}

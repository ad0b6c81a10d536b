//! What happens to collections and databases: all of it, in order, once, also when it ends the stream.

use std::collections::BTreeSet;

use anyhow::Result;
use mongodb::bson::{Document, doc};
use pipeline_tests::kafka_reader::KafkaRecord;

use crate::stage::{LIMIT, Stage, repeated};

const CONTROL: &str = "atlas.control";

fn operations(records: &[KafkaRecord]) -> Vec<&str> {
    records.iter().filter_map(|record| record.header("operation-type")).collect()
}

fn id(record: &KafkaRecord) -> &str {
    record.header("event-id").unwrap()
}

/// The event id of a definition is its pointer into the data topics: what is smaller happened before it, the rest after.
#[tokio::test(flavor = "multi_thread")]
async fn definitions_come_in_order_and_divide_the_data() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment().set("MONGO_DATABASES", "shop")).await?;
    let shop = stage.client.database("shop");
    let index = doc! { "key": { "v": 1 }, "name": "by-v" };
    stage.insert("shop.orders", 0..5).await?;
    shop.run_command(doc! { "createIndexes": "orders", "indexes": [index] }).await?;
    stage.insert("shop.orders", 5..10).await?;
    shop.run_command(doc! { "collMod": "orders", "index": { "name": "by-v", "hidden": true } }).await?;
    stage.insert("shop.orders", 10..12).await?;
    shop.run_command(doc! { "dropIndexes": "orders", "index": "by-v" }).await?;
    let rename = doc! { "renameCollection": "shop.orders", "to": "shop.archive" };
    stage.client.database("admin").run_command(rename).await?;
    stage.insert("shop.archive", 12..15).await?;
    shop.collection::<Document>("archive").drop().await?;
    shop.run_command(doc! { "create": "empty" }).await?;
    shop.drop().await?;
    // Behind the end of the database the same stream goes on.
    stage.insert("shop.orders", 15..16).await?;

    let control = stage.records(CONTROL, 11).await?;
    let expected = [
        "create",
        "createIndexes",
        "modify",
        "dropIndexes",
        "rename",
        "drop",
        "create",
        "drop",
        "dropDatabase",
        "invalidate",
        "create",
    ];
    assert_eq!(operations(&control), expected);
    assert!(control.is_sorted_by(|left, right| id(left) < id(right)));
    let key = |record: &KafkaRecord| String::from_utf8_lossy(record.key.as_deref().unwrap()).into_owned();
    assert_eq!(
        (key(&control[1]), key(&control[8]), key(&control[9])),
        ("shop.orders".into(), "shop".into(), String::new())
    );
    let rename = String::from_utf8_lossy(control[4].value.as_deref().unwrap());
    assert!(
        rename.contains(r#""to":{"db":"shop","coll":"archive"}"#)
            && rename.contains(r#""operationDescription""#),
        "{rename}"
    );

    let mut data = stage.records("atlas.shop.orders", 13).await?;
    data.extend(stage.records("atlas.shop.archive", 3).await?);
    assert_eq!(data.len(), 16);
    let before = |definition: &KafkaRecord| data.iter().filter(|record| id(record) < id(definition)).count();
    let divided: Vec<usize> = control.iter().map(before).collect();
    assert_eq!(divided, [0, 5, 10, 12, 12, 15, 15, 15, 15, 15, 15]);
    source.stop(LIMIT).await
}

/// The server is asked and not guessed at by its version; another option that it does not know is still a mistake.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_expanded_events_is_read_without_them() -> Result<()> {
    let stage = Stage::new().await?;
    stage.fail("aggregate", 40415, 1).await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 0..3).await?;
    stage.client.database("shop").collection::<Document>("orders").drop().await?;
    stage.insert("shop.orders", 3..5).await?;
    assert_eq!(stage.records("atlas.shop.orders", 5).await?.len(), 5);
    assert_eq!(operations(&stage.records(CONTROL, 1).await?), ["drop"]);
    assert!(source.log_text()?.contains("this server does not report creates"));
    source.stop(LIMIT).await?;

    stage.fail("aggregate", 40415, 2).await?;
    let mut source = stage.start(stage.environment())?;
    assert_eq!(source.exit_code(LIMIT).await?, 78);
    assert!(source.log_text()?.contains("this server does not know an option of the stream"));
    Ok(())
}

/// A stream of one collection is ended by its drop; the next one begins behind that, wherever the source was killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_dropped_and_made_again_keeps_exactly_once() -> Result<()> {
    const ROUNDS: i32 = 60;
    const TOPIC: &str = "atlas.shop.orders";
    let stage = Stage::new().await?;
    let environment = || stage.environment().set("MONGO_COLLECTIONS", "shop.orders");
    let mut source = stage.started(environment()).await?;
    let writes = async {
        let orders = stage.client.database("shop").collection::<Document>("orders");
        for round in 0..ROUNDS {
            stage.insert("shop.orders", round * 10..round * 10 + 10).await?;
            orders.drop().await?;
            // At the pace of the reader, so that it is killed among drops and not before all of them.
            stage.records(TOPIC, usize::try_from((round - 10).max(0) * 10)?).await?;
        }
        stage.insert("shop.orders", ROUNDS * 10..ROUNDS * 10 + 1).await
    };
    let kills = async {
        for records in [95, 190, 285, 380, 475] {
            stage.records(TOPIC, records).await?;
            source.kill9()?;
            source = stage.started(environment()).await?;
        }
        Ok(())
    };
    tokio::try_join!(writes, kills)?;

    let count = usize::try_from(ROUNDS)?;
    let records = stage.records(TOPIC, count * 10 + 1).await?;
    let keys: BTreeSet<_> = records.iter().map(|record| record.key.clone()).collect();
    assert_eq!((records.len(), keys.len(), repeated(&records).len()), (count * 10 + 1, count * 10 + 1, 0));
    let control = stage.records(CONTROL, count * 3 + 1).await?;
    let expected: Vec<&str> =
        ["create", "drop", "invalidate"].into_iter().cycle().take(count * 3 + 1).collect();
    assert_eq!(operations(&control), expected);
    assert!(control.is_sorted_by(|left, right| id(left) < id(right)));
    source.stop(LIMIT).await
}

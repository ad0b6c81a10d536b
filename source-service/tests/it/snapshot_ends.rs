//! What becomes of a snapshot whose collection goes, and of its rows when there are stages of the user's.

use anyhow::{Context as _, Result, ensure};
use mongodb::bson::{Bson, Document, doc};
use pipeline_tests::{kafka_reader::KafkaRecord, wait};
use serde_json::Value;

use crate::{
    snapshot::{check_order, drained, fill, ids, is_row, wait_for_copy},
    stage::{LIMIT, Stage},
};

fn value(record: &KafkaRecord) -> Result<Value> {
    Ok(serde_json::from_slice(record.value.as_deref().context("no value")?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_goes_while_it_is_copied_ends_its_copy_only() -> Result<()> {
    let stage = Stage::new().await?;
    let many: Vec<Bson> = (0..10_000).map(Bson::Int32).collect();
    for collection in ["shop.dropped", "shop.renamed", "shop.kept"] {
        fill(&stage, collection, &many).await?;
    }
    let shop = stage.client.database("shop");
    shop.create_collection("empty").await?;
    let environment = stage.environment().set("START_FROM", "snapshot").set("SNAPSHOT_RATE", "4000");
    let mut source = stage.started(environment).await?;
    // In the order of their names.
    let some_rows_of = async |collection: &str| {
        wait::until(&format!("rows of {collection}"), LIMIT, || async {
            let copy = stage.copy_of(collection).await?;
            Ok((copy["rows"].as_u64().unwrap_or(0) > 0).then_some(()))
        })
        .await
    };
    some_rows_of("shop.dropped").await?;
    shop.collection::<Document>("dropped").drop().await?;
    some_rows_of("shop.kept").await?;
    some_rows_of("shop.renamed").await?;
    let rename = doc! { "renameCollection": "shop.renamed", "to": "shop.renamed_2" };
    stage.mongod.admin_command(rename).await?;
    wait_for_copy(&source).await?;

    for collection in ["shop.dropped", "shop.renamed"] {
        let copy = stage.copy_of(collection).await?;
        let rows = copy["rows"].as_u64().unwrap();
        ensure!(copy["state"] == "ended" && rows > 0 && rows < 10_000, "{copy}");
        ensure!(copy["why"].as_str().is_some_and(|why| why.contains("dropped or renamed")), "{copy}");
    }
    for (collection, rows) in [("shop.kept", 10_000), ("shop.empty", 0)] {
        let copy = stage.copy_of(collection).await?;
        ensure!(copy["state"] == "copied" && copy["rows"] == rows, "{copy}");
    }
    ensure!(stage.copy_of("shop.renamed_2").await?.is_null());
    ensure!(source.log_text()?.contains("if it was renamed, ask for a snapshot under its new name"));
    stage.insert("shop.kept", 10_000..10_001).await?;
    stage.records("atlas.shop.kept", 10_001).await?;
    source.stop(LIMIT).await
}

/// Stages do to rows what they do to inserts of the stream.
#[tokio::test(flavor = "multi_thread")]
async fn rows_pass_the_users_stages() -> Result<()> {
    let stage = Stage::new().await?;
    // More than one range.
    let ids = ids(4_500);
    fill(&stage, "shop.orders", &ids).await?;
    let orders = stage.client.database("shop").collection::<Document>("orders");
    let open = doc! { "$or": [{ "_id": { "$type": ["int", "string", "minKey", "maxKey", "object"] } }] };
    orders.update_many(open, doc! { "$set": { "open": true, "secret": "planted" } }).await?;
    let expected = orders.count_documents(doc! { "open": true }).await?;
    let last = ids.last().unwrap();
    stage.insert("other.last", 0..1).await?;
    let file = stage.file(
        "pipeline.json",
        br#"[{"$match": {"fullDocument.open": true}},
             {"$addFields": {"class": {"$concat": ["c-", "$operationType", "-", "$ns.coll"]}}},
             {"$unset": "fullDocument.secret"}]"#,
    )?;
    let environment = || {
        stage
            .environment()
            .set("MONGO_DATABASES", "shop")
            .set("START_FROM", "snapshot")
            .set("PIPELINE_FILE", file.display())
    };
    drained(&stage, environment()).await?;
    let records = stage.content("atlas.shop.orders").await?;
    let rows = u64::try_from(check_order(&records)?)?;
    ensure!(rows == expected && records.len() == usize::try_from(expected)?, "{rows} rows of {expected}");
    ensure!(rows > 9_000, "{rows} rows, and {last} is the last id");

    let mut source = stage.started(environment()).await?;
    orders.insert_one(doc! { "_id": "later", "open": true, "secret": "planted", "v": 0 }).await?;
    orders.insert_one(doc! { "_id": "never", "open": false }).await?;
    orders.insert_one(doc! { "_id": "last", "open": true }).await?;
    let records = stage.records("atlas.shop.orders", records.len() + 2).await?;
    source.stop(LIMIT).await?;
    for record in &records {
        let text = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default());
        ensure!(!text.contains("planted"), "{text}");
        let value = value(record)?;
        ensure!(value["class"] == "c-insert-orders" && value["fullDocument"]["open"] == true, "{value}");
        ensure!(value["_meta"]["snapshot"] == is_row(record), "{value}");
        ensure!(value["documentKey"]["_id"] == value["fullDocument"]["_id"], "{value}");
        ensure!(Some(value["_meta"]["eventId"].as_str().unwrap()) == record.header("event-id"), "{value}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_a_bar() -> Result<()> {
    let stage = Stage::new().await?;
    let many: Vec<Bson> = (0..20_000).map(Bson::Int32).collect();
    fill(&stage, "shop.orders", &many).await?;
    let settings = "START_FROM=snapshot SNAPSHOT_RATE=5000 ADMIN_ADDR=127.0.0.1:0 TERM=xterm";
    let line = format!(
        r#"export MONGO_URI='{}' {settings}; script -qec "stty cols 150; $0 run --until-end" /dev/null"#,
        stage.mongod.uri()
    );
    let (code, text, _) = stage.shell(&line).await?;
    ensure!(code == 0 && text.contains("% "), "{text}");
    ensure!(text.contains(" of about 20,000 rows, 0 of 1 collections, ETA "), "{text}");
    // The bar says it, so the log does not repeat it.
    ensure!(!text.contains("collections_left=1"), "{text}");
    Ok(())
}

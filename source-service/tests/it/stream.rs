//! The change stream: what ends it, what it goes on after.

use anyhow::Result;
use mongodb::{
    bson::{Document, doc},
    options::{CollectionOptions, WriteConcern},
};
use pipeline_tests::wait;

use crate::stage::{LIMIT, Stage, repeated};

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_goes_on_behind_an_invalidate() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment().set("MONGO_COLLECTIONS", "shop.orders")).await?;
    for round in 1..=2 {
        stage.insert("shop.orders", round * 10..round * 10 + 5).await?;
        stage.client.database("shop").collection::<Document>("orders").drop().await?;
    }
    stage.insert("shop.orders", 50..55).await?;
    let records = stage.records("atlas.shop.orders", 15).await?;
    assert_eq!((records.len(), repeated(&records).len()), (15, 0));
    let control = stage.records("atlas.control", 7).await?;
    let operations: Vec<&str> = control.iter().filter_map(|record| record.header("operation-type")).collect();
    assert_eq!(operations, ["create", "drop", "invalidate", "create", "drop", "invalidate", "create"]);
    source.stop(LIMIT).await?;

    let mut source = stage.started(stage.environment().set("MONGO_COLLECTIONS", "shop.orders")).await?;
    stage.insert("shop.orders", 60..61).await?;
    let records = stage.records("atlas.shop.orders", 16).await?;
    assert_eq!((records.len(), repeated(&records).len()), (16, 0));
    source.stop(LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_heals_is_opened_again() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment()).await?;
    for (round, code) in [(0, 43), (1, 91), (2, 189), (3, 50), (4, 6)] {
        stage.fail("getMore", code, 1).await?;
        stage.insert("shop.orders", round * 10..round * 10 + 10).await?;
        let count = usize::try_from(round * 10 + 10)?;
        let records = stage.records("atlas.shop.orders", count).await?;
        assert_eq!((records.len(), repeated(&records).len()), (count, 0), "code {code}");
        source.wait_until_ready().await?;
    }
    source.assert_running()?;
    source.stop(LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_heal_stops_with_its_code() -> Result<()> {
    let stage = Stage::new().await?;
    for (command, code, exit) in
        [("getMore", 286, 20), ("getMore", 280, 20), ("aggregate", 260, 20), ("getMore", 13, 77)]
    {
        let mut source = if command == "getMore" {
            let source = stage.started(stage.environment()).await?;
            stage.fail(command, code, 1).await?;
            source
        } else {
            stage.fail(command, code, 1).await?;
            stage.start(stage.environment())?
        };
        assert_eq!(source.exit_code(LIMIT).await?, exit, "{command} with {code}: {}", source.log_text()?);
    }
    // Its position was not touched by any of that.
    stage.insert("shop.orders", 0..3).await?;
    let mut source = stage.started(stage.environment()).await?;
    assert_eq!(stage.records("atlas.shop.orders", 3).await?.len(), 3);
    source.stop(LIMIT).await
}

/// MongoDB answers, its time moves on, and the stream does not: what it does when it can no longer advance what a majority has.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_stands_still_is_opened_again_and_not_ready_until_it_moves() -> Result<()> {
    let stage = Stage::own().await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 0..5).await?;
    stage.records("atlas.shop.orders", 5).await?;

    let freeze = async |mode: &str| {
        stage.mongod.admin_command(doc! { "configureFailPoint": "disableSnapshotting", "mode": mode }).await
    };
    freeze("alwaysOn").await?;
    let written =
        CollectionOptions::builder().write_concern(WriteConcern::builder().w(Some(1.into())).build()).build();
    let orders = stage.client.database("shop").collection_with_options::<Document>("orders", written);
    for times in 1..=2 {
        wait::until(&format!("it stands still for the {times}. time"), LIMIT, || async {
            orders.update_one(doc! { "_id": 0 }, doc! { "$inc": { "v": 1 } }).await?;
            // The last line of the attempt.
            Ok((source.log_text()?.matches("the change stream broke").count() >= times).then_some(()))
        })
        .await?;
        assert!(
            source.log_text()?.contains("the stream stands still at cluster time"),
            "{}",
            source.log_text()?
        );
        source.wait_until_not_ready(LIMIT).await?;
    }
    assert_eq!(source.metrics()?.sum("cdc_source_stream_up"), Some(0.0));
    freeze("off").await?;
    source.wait_until_ready().await?;
    stage.insert("shop.orders", 5..10).await?;
    wait::until("everything is published", LIMIT, || async {
        let records = stage.records("atlas.shop.orders", 10).await?;
        let inserts =
            records.iter().filter(|record| record.header("operation-type") == Some("insert")).count();
        anyhow::ensure!(repeated(&records).is_empty(), "{:?}", repeated(&records));
        Ok((inserts == 10).then_some(()))
    })
    .await?;
    source.stop(LIMIT).await
}

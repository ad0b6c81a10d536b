//! The change stream: what ends it, what it goes on after.

use anyhow::Result;
use mongodb::bson::Document;

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

//! Positions: torn, lost, foreign, changed.

use anyhow::Result;
use pipeline_tests::wait;

use crate::stage::{LIMIT, Stage, repeated};

const TOPIC: &str = "atlas.shop.orders";

/// Events are committed, their token is not: what a late EndTxn does to the next transaction. The tails keep them from coming twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_torn_commit_is_repaired() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 0..5).await?;
    stage.records(TOPIC, 5).await?;
    let before = stage.last_token().await?;
    stage.insert("shop.orders", 5..50).await?;
    stage.insert("shop.other", 0..5).await?;
    stage.records(TOPIC, 50).await?;
    stage.records("atlas.shop.other", 5).await?;
    source.kill9()?;
    // The token of the first five again: all that came after is committed without one.
    stage.produce("atlas.resume-tokens-default", "default", Some(&before))?;

    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 50..60).await?;
    let records = stage.records(TOPIC, 60).await?;
    assert_eq!(records.len(), 60);
    assert!(repeated(&records).is_empty(), "{:?}", repeated(&records));
    assert_eq!(stage.records("atlas.shop.other", 5).await?.len(), 5);
    let skipped = source.metrics()?.sum("cdc_source_duplicates_skipped_total");
    // The documents, and the event that the collection was made.
    assert_eq!(skipped, Some(51.0));
    source.stop(LIMIT).await
}

/// A stop before the events in doubt are passed leaves them in doubt: "clean" would let their keys move.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_amid_a_repair_is_not_called_clean() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 0..5).await?;
    stage.records(TOPIC, 5).await?;
    let before = stage.last_token().await?;
    stage.insert("shop.orders", 5..50).await?;
    stage.records(TOPIC, 50).await?;
    source.kill9()?;
    stage.produce("atlas.resume-tokens-default", "default", Some(&before))?;

    let is_clean = async || -> Result<bool> {
        let record: serde_json::Value = serde_json::from_slice(&stage.last_token().await?)?;
        Ok(record["clean"] == true)
    };
    // ShutdownInProgress: the stream does not open.
    stage.fail("aggregate", 91, 100_000).await?;
    let mut source = stage.start(stage.environment())?;
    wait::until("the position is known", LIMIT, || async {
        // In the log of both.
        Ok((source.log_text()?.matches("position is known").count() == 2).then_some(()))
    })
    .await?;
    source.stop(LIMIT).await?;
    assert!(!is_clean().await?);

    stage.fail("aggregate", 91, 0).await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 50..60).await?;
    let records = stage.records(TOPIC, 60).await?;
    assert_eq!((records.len(), repeated(&records).len()), (60, 0));
    source.stop(LIMIT).await?;
    assert!(is_clean().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn records_without_a_token_are_a_lost_position() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 0..5).await?;
    stage.records(TOPIC, 5).await?;
    source.stop(LIMIT).await?;
    stage.produce("atlas.resume-tokens-default", "default", None)?;

    let mut source = stage.start(stage.environment())?;
    assert_eq!(source.exit_code(LIMIT).await?, 20);
    assert!(source.log_text()?.contains("position is lost"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_their_format_only_after_an_orderly_stop() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment()).await?;
    source.kill9()?;
    let plain = || stage.environment().set("KEY_FORMAT", "plain");
    let mut source = stage.start(plain())?;
    assert_eq!(source.exit_code(LIMIT).await?, 78);
    assert!(source.log_text()?.contains("The keys' format is plain, but was json"));

    let mut source = stage.started(stage.environment()).await?;
    source.stop(LIMIT).await?;
    let mut source = stage.started(plain()).await?;
    source.stop(LIMIT).await
}

/// Another scope cannot use the token, but its time; nothing comes twice and what is new in scope comes from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_scope_goes_on_at_the_tokens_time() -> Result<()> {
    let stage = Stage::new().await?;
    let orders = || stage.environment().set("MONGO_COLLECTIONS", "shop.orders");
    let mut source = stage.started(orders()).await?;
    stage.insert("shop.orders", 0..5).await?;
    stage.records(TOPIC, 5).await?;
    source.stop(LIMIT).await?;
    stage.insert("shop.orders", 5..10).await?;
    stage.insert("shop.other", 0..5).await?;

    let both = stage.environment().set("MONGO_COLLECTIONS", "shop.orders,shop.other");
    let mut source = stage.started(both).await?;
    assert_eq!(stage.records("atlas.shop.other", 5).await?.len(), 5);
    let records = stage.records(TOPIC, 10).await?;
    assert_eq!((records.len(), repeated(&records).len()), (10, 0));
    source.stop(LIMIT).await
}

/// A broker that is killed and comes back: nothing is lost or doubled, and the source says that it waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_is_waited_for() -> Result<()> {
    let mut stage = Stage::new().await?;
    let mut source = stage.started(stage.environment()).await?;
    for round in 0..3 {
        stage.insert("shop.orders", round * 100..round * 100 + 50).await?;
        stage.kafka.kill9()?;
        stage.insert("shop.orders", round * 100 + 50..round * 100 + 100).await?;
        source.wait_until_not_ready(LIMIT).await?;
        stage.kafka.restart().await?;
        let count = usize::try_from(round * 100 + 100)?;
        let records = stage.records(TOPIC, count).await?;
        assert_eq!((records.len(), repeated(&records).len()), (count, 0));
        source.wait_until_ready().await?;
    }
    source.stop(LIMIT).await
}

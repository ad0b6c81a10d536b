//! Forms of records that the connectors do not show: tombstones after a torn commit, and profiles over a position of another form.
//!
//! That the records are those of the connectors is judged beside the real ones, in `tests/tests/it/profiles.rs`.

use anyhow::{Result, ensure};
use mongodb::bson::{Document, doc};
use pipeline_tests::kafka_reader::KafkaRecord;

use crate::stage::{LIMIT, Stage};

const TOPIC: &str = "atlas.shop.orders";

/// What became of each key, in the order of the topic.
fn of_key(records: &[KafkaRecord], key: &str) -> Vec<String> {
    let of_key = records.iter().filter(|record| record.key.as_deref() == Some(key.as_bytes()));
    let what = of_key.map(|record| match &record.value {
        None => "tombstone".to_owned(),
        Some(_) => record.header("operation-type").unwrap_or("?").to_owned(),
    });
    what.collect()
}

/// The deletion is committed, its tombstone and the position are not: only the tombstone comes again.
#[tokio::test(flavor = "multi_thread")]
async fn a_delete_is_followed_by_a_tombstone() -> Result<()> {
    let stage = Stage::new().await?;
    let orders = stage.client.database("shop").collection::<Document>("orders");
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 0..5).await?;
    stage.records(TOPIC, 5).await?;
    let before = stage.last_token().await?;
    for id in 0..2 {
        orders.delete_one(doc! { "_id": id }).await?;
    }
    ensure!(
        stage.records(TOPIC, 7).await?.iter().all(|record| record.value.is_some()),
        "off, and there is one"
    );
    source.kill9()?;
    stage.produce("atlas.resume-tokens-default", "default", Some(&before))?;

    let with_tombstones = || stage.environment().set("TOMBSTONES", "on");
    let mut source = stage.started(with_tombstones()).await?;
    orders.delete_one(doc! { "_id": 2 }).await?;
    let records = stage.records(TOPIC, 11).await?;
    for key in ["0", "1", "2"] {
        let found = of_key(&records, key);
        ensure!(found.last().is_some_and(|last| last == "tombstone"), "{key}: {found:?}");
        ensure!(found.iter().filter(|what| *what == "delete").count() == 1, "{key}: {found:?}");
        ensure!(found.iter().filter(|what| *what == "tombstone").count() == 1, "{key}: {found:?}");
    }
    ensure!(records.len() == 11, "{} records", records.len());
    // The position is behind them now: nothing comes twice.
    source.kill9()?;
    let mut source = stage.started(with_tombstones()).await?;
    stage.insert("shop.orders", 10..11).await?;
    ensure!(stage.records(TOPIC, 12).await?.len() == 12, "something came twice");
    source.stop(LIMIT).await
}

/// Keys have another form in each profile: they must not move while events are in doubt.
#[tokio::test(flavor = "multi_thread")]
async fn a_profile_changes_only_after_an_orderly_stop() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment()).await?;
    source.kill9()?;
    let debezium = || stage.environment().set("EVENT_PROFILE", "debezium");
    let mut source = stage.start(debezium())?;
    ensure!(source.exit_code(LIMIT).await? == 78, "{}", source.log_tail());
    ensure!(
        source.log_text()?.contains("The keys' format is debezium, but was json"),
        "{}",
        source.log_tail()
    );

    let mut source = stage.started(stage.environment()).await?;
    source.stop(LIMIT).await?;
    let mut source = stage.started(debezium()).await?;
    stage.insert("shop.orders", 0..1).await?;
    let records = stage.records(TOPIC, 1).await?;
    ensure!(records[0].key.as_deref() == Some(b"{\"id\":\"0\"}"), "{:?}", records[0].key);
    source.stop(LIMIT).await
}

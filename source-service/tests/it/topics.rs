//! Topics that are there already, and topics that change.

use anyhow::Result;
use pipeline_tests::kafka_reader::KafkaRecord;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};

use crate::stage::{LIMIT, Stage};

const TOPIC: &str = "atlas.shop.orders";

fn admin(stage: &Stage) -> Result<AdminClient<DefaultClientContext>> {
    Ok(ClientConfig::new().set("bootstrap.servers", stage.kafka.bootstrap()).create()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_breaks_a_promise_is_refused() -> Result<()> {
    let stage = Stage::new().await?;
    let compacted = NewTopic::new(TOPIC, 3, TopicReplication::Fixed(1))
        .set("cleanup.policy", "compact")
        .set("max.message.bytes", "16777216");
    for result in admin(&stage)?.create_topics([&compacted], &AdminOptions::new()).await? {
        result.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
    }
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 0..1).await?;
    assert_eq!(source.exit_code(LIMIT).await?, 78);
    let log = source.log_text()?;
    assert!(log.contains("cleanup.policy") && log.contains("compact") && log.contains(TOPIC), "{log}");
    Ok(())
}

fn places(records: &[KafkaRecord]) -> std::collections::BTreeMap<Vec<u8>, std::collections::BTreeSet<i32>> {
    let mut places = std::collections::BTreeMap::new();
    for record in records {
        let keys: &mut std::collections::BTreeSet<i32> =
            places.entry(record.key.clone().unwrap()).or_default();
        keys.insert(record.partition);
    }
    places
}

/// Partitions added to a live topic move no key, across a kill too; after an orderly stop they are used.
#[tokio::test(flavor = "multi_thread")]
async fn added_partitions_wait_for_an_orderly_stop() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 0..20).await?;
    stage.records(TOPIC, 20).await?;
    for result in
        admin(&stage)?.create_partitions([&NewPartitions::new(TOPIC, 6)], &AdminOptions::new()).await?
    {
        result.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
    }
    source.kill9()?;
    let mut source = stage.started(stage.environment()).await?;
    let orders = stage.client.database("shop").collection::<mongodb::bson::Document>("orders");
    orders.update_many(mongodb::bson::doc! {}, mongodb::bson::doc! { "$inc": { "v": 1 } }).await?;
    let records = stage.records(TOPIC, 40).await?;
    assert!(places(&records).values().all(|partitions| partitions.len() == 1));
    assert!(records.iter().all(|record| record.partition < 3));
    source.stop(LIMIT).await?;

    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 100..150).await?;
    let records = stage.records(TOPIC, 90).await?;
    assert!(records.iter().any(|record| record.partition >= 3));
    source.stop(LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_would_expire_at_once_are_refused() -> Result<()> {
    let stage = Stage::new().await?;
    let short = NewTopic::new(TOPIC, 3, TopicReplication::Fixed(1))
        .set("retention.ms", "1000")
        .set("max.message.bytes", "16777216");
    for result in admin(&stage)?.create_topics([&short], &AdminOptions::new()).await? {
        result.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
    }
    let mut source = stage.started(stage.environment()).await?;
    source.stop(LIMIT).await?;
    stage.insert("shop.orders", 0..1).await?;
    pipeline_tests::wait::until("the event gets old", LIMIT, || async {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let hello = stage.mongod.admin_command(mongodb::bson::doc! { "hello": 1 }).await?;
        let written =
            u64::from(hello.get_document("lastWrite")?.get_document("opTime")?.get_timestamp("ts")?.time);
        Ok((now > written + 2).then_some(()))
    })
    .await?;
    let mut source = stage.start(stage.environment())?;
    assert_eq!(source.exit_code(LIMIT).await?, 78);
    assert!(source.log_text()?.contains("retention.ms"));
    Ok(())
}

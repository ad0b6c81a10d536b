//! Another number of partitions: keys move only when somebody says so, and only when nothing is in doubt.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use mongodb::bson::{Document, doc};
use pipeline_tests::{kafka_reader::KafkaRecord, service::Environment};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewPartitions},
    client::DefaultClientContext,
};

use crate::stage::{LIMIT, Stage, one_shot, repeated};

const TOPIC: &str = "atlas.shop.orders";

impl Stage {
    async fn give_partitions(&self, count: usize) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", self.kafka.bootstrap()).create()?;
        let more = [&NewPartitions::new(TOPIC, count)];
        for result in admin.create_partitions(more, &AdminOptions::new()).await? {
            result.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
        }
        Ok(())
    }

    fn accepting(&self, count: u32) -> Environment {
        self.environment().set("ACCEPT_PARTITIONS", format!("{TOPIC}:{count}"))
    }

    async fn touch_all(&self) -> Result<()> {
        let orders = self.client.database("shop").collection::<Document>("orders");
        orders.update_many(doc! {}, doc! { "$inc": { "v": 1 } }).await?;
        Ok(())
    }

    /// Starts, and waits for the refusal.
    async fn refused(&self, environment: Environment) -> Result<String> {
        let mut source = self.start(environment)?;
        let code = source.exit_code(LIMIT).await?;
        assert_eq!(code, 78, "{}", source.log_text()?);
        source.log_text()
    }

    async fn clean(&self) -> Result<bool> {
        let record: serde_json::Value = serde_json::from_slice(&self.last_token().await?)?;
        Ok(record["clean"] == true)
    }
}

/// The partitions of each key.
fn places(records: &[KafkaRecord]) -> BTreeMap<Vec<u8>, BTreeSet<i32>> {
    let mut places = BTreeMap::new();
    for record in records {
        let key = record.key.clone().unwrap_or_default();
        let keys: &mut BTreeSet<i32> = places.entry(key).or_default();
        keys.insert(record.partition);
    }
    places
}

fn assert_nothing_moved(records: &[KafkaRecord]) {
    assert!(places(records).values().all(|partitions| partitions.len() == 1), "a key has moved");
    assert!(records.iter().all(|record| record.partition < 3), "an added partition is used");
}

/// Seen while it runs: it drains, says so, and waits for the confirmation, which is then in force whatever happens next.
#[tokio::test(flavor = "multi_thread")]
async fn added_partitions_end_a_running_source_in_order_and_are_used_when_confirmed() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 0..20).await?;
    stage.records(TOPIC, 20).await?;
    stage.give_partitions(6).await?;
    stage.touch_all().await?;
    let records = stage.records(TOPIC, 40).await?;
    assert_nothing_moved(&records);
    assert_eq!(source.exit_code(LIMIT).await?, 78, "{}", source.log_text()?);
    let log = source.log_text()?;
    for named in [TOPIC, "6 partitions", "over 3", "ACCEPT_PARTITIONS=atlas.shop.orders:6", "drained"] {
        assert!(log.contains(named), "{named}: {log}");
    }
    assert!(stage.clean().await?, "it was not drained");

    // Each start says it again, and leaves the record of the orderly stop.
    for _ in 0..2 {
        stage.refused(stage.environment()).await?;
        assert!(stage.clean().await?, "a start that was refused took the order away");
    }
    let (code, text, _) = one_shot(stage.environment(), &["check"]).await?;
    assert!(code == 78 && text.contains("ACCEPT_PARTITIONS=atlas.shop.orders:6"), "{text}");

    // Committed with the start: a kill before the first event changes nothing.
    let mut source = stage.started(stage.accepting(6)).await?;
    source.kill9()?;
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 100..150).await?;
    let records = stage.records(TOPIC, 90).await?;
    assert!(records.iter().any(|record| record.partition >= 3), "they are not used");
    assert_eq!(repeated(&records).len(), 0);
    source.kill9()?;
    // The confirmation may stay where it is.
    let mut source = stage.started(stage.accepting(6)).await?;
    source.stop(LIMIT).await
}

/// After a crash keys stay where recovery looks for them, until an orderly stop.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_the_old_number_is_kept_until_an_orderly_stop() -> Result<()> {
    let stage = Stage::new().await?;
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 0..20).await?;
    stage.records(TOPIC, 20).await?;
    source.kill9()?;
    stage.give_partitions(6).await?;

    let log = stage.refused(stage.environment()).await?;
    assert!(log.contains("ACCEPT_PARTITIONS=atlas.shop.orders:3"), "{log}");
    let log = stage.refused(stage.accepting(6)).await?;
    assert!(
        log.contains("did not end in order") && log.contains("ACCEPT_PARTITIONS=atlas.shop.orders:3"),
        "{log}"
    );

    let mut source = stage.started(stage.accepting(3)).await?;
    stage.touch_all().await?;
    let records = stage.records(TOPIC, 40).await?;
    assert_nothing_moved(&records);
    source.kill9()?;
    let mut source = stage.started(stage.accepting(3)).await?;
    stage.touch_all().await?;
    let records = stage.records(TOPIC, 60).await?;
    assert_nothing_moved(&records);
    assert_eq!((records.len(), repeated(&records).len()), (60, 0));
    source.stop(LIMIT).await?;

    let mut source = stage.started(stage.accepting(6)).await?;
    stage.insert("shop.orders", 100..150).await?;
    let records = stage.records(TOPIC, 110).await?;
    assert!(records.iter().any(|record| record.partition >= 3), "they are not used");
    source.stop(LIMIT).await
}

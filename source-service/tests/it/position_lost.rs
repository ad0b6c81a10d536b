//! The oplog rolls over while the source is away: what each `ON_POSITION_LOST` makes of it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use mongodb::bson::{Document, Timestamp, doc};
use pipeline_tests::{kafka_reader::KafkaRecord, servers::MongodOptions, service::Environment, wait};
use serde_json::Value;

use crate::stage::{LIMIT, Stage, repeated};

const TOPIC: &str = "atlas.shop.orders";
const CONTROL: &str = "atlas.control";

impl Stage {
    /// The first entry of the oplog.
    async fn oplog_begins(&self) -> Result<Timestamp> {
        let oplog = self.client.database("local").collection::<Document>("oplog.rs");
        let first = oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).await?;
        Ok(first.context("an oplog is never empty")?.get_timestamp("ts")?)
    }

    /// Writes outside of the scope until everything up to now has left the oplog.
    async fn roll_oplog_over(&self) -> Result<()> {
        let filler = self.client.database("filler").collection::<Document>("blobs");
        let text = "x".repeat(1 << 20);
        let reply = self.mongod.admin_command(doc! { "ping": 1 }).await?;
        let now = reply.get_timestamp("operationTime")?;
        wait::until("the oplog has rolled over", LIMIT, || async {
            filler.insert_one(doc! { "text": &text }).await?;
            Ok((self.oplog_begins().await? > now).then_some(()))
        })
        .await
    }

    /// Five documents are published, five are not and leave the oplog, two more are in it.
    async fn lose_five(&self) -> Result<()> {
        let mut source = self.started(self.scope()).await?;
        self.insert("shop.orders", 0..5).await?;
        self.records(TOPIC, 5).await?;
        source.kill9()?;
        self.insert("shop.orders", 5..10).await?;
        self.roll_oplog_over().await?;
        self.insert("shop.orders", 10..12).await
    }

    fn scope(&self) -> Environment {
        self.environment().set("MONGO_DATABASES", "shop")
    }

    async fn markers(&self) -> Result<Vec<Value>> {
        let content = self.reader.read([CONTROL.to_owned()]).await?;
        let gaps = content.records(CONTROL).filter(|record| record.header("operation-type") == Some("gap"));
        gaps.map(|record| Ok(serde_json::from_slice(record.value.as_deref().context("no value")?)?)).collect()
    }
}

/// With an oplog that holds a few documents of a megabyte and is cut every second.
async fn small_oplog() -> Result<Stage> {
    Stage::with_mongod(MongodOptions { oplog_size_mb: 1, syncdelay_s: Some(1), ..MongodOptions::default() })
        .await
}

fn keys(records: &[KafkaRecord]) -> BTreeMap<i32, usize> {
    let mut keys = BTreeMap::new();
    for record in records {
        let key = String::from_utf8(record.key.clone().unwrap()).unwrap();
        *keys.entry(key.parse().unwrap()).or_insert(0) += 1;
    }
    keys
}

/// Without a choice nothing is decided; with one, what is missing lies between the two times of the marker, and nothing else is.
#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_is_gone_on_with_behind_a_marker() -> Result<()> {
    let stage = small_oplog().await?;
    stage.lose_five().await?;
    let before = stage.last_token().await?;
    let token: Value = serde_json::from_slice(&before)?;

    let mut source = stage.start(stage.scope())?;
    assert_eq!(source.exit_code(LIMIT).await?, 20, "{}", source.log_text()?);
    assert!(source.log_text()?.contains("ON_POSITION_LOST"), "{}", source.log_text()?);
    let untouched: Value = serde_json::from_slice(&stage.last_token().await?)?;
    assert_eq!((&untouched["token"], &untouched["run"]), (&token["token"], &token["run"]));
    assert!(stage.markers().await?.is_empty());

    let policy = || stage.scope().set("ON_POSITION_LOST", "resume-at-oldest");
    let mut source = stage.started(policy()).await?;
    let records = stage.records(TOPIC, 7).await?;
    let expected = (0..5).chain(10..12).map(|id| (id, 1)).collect();
    assert_eq!((keys(&records), repeated(&records).len()), (expected, 0));
    assert!(records.iter().any(|record| record.header("source") == Some("default/1")));
    // While this one looks, the oplog may be cut once more; then that is said too.
    let markers = stage.markers().await?;
    assert!(!markers.is_empty());
    assert_eq!(markers[0]["gap"]["from"], untouched["clusterTime"], "{markers:?}");
    assert!(markers.windows(2).all(|pair| pair[0]["gap"]["to"] == pair[1]["gap"]["from"]), "{markers:?}");
    assert!(markers.iter().all(|marker| marker["gap"]["reason"] == "position-lost"
        && marker["gap"]["databases"] == serde_json::json!(["shop"])));
    let run = format!("default/{}", 1 + markers.len());
    assert_eq!(records.iter().filter(|record| record.header("source") == Some(&run)).count(), 2);
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let count = markers.len() as f64;
    assert_eq!(source.metrics()?.sum("cdc_source_gaps_total"), Some(count));
    assert!(source.log_text()?.contains("GAP: "), "{}", source.log_text()?);
    assert_eq!(
        source.metrics()?.sum_where("cdc_errors_total", "stage=\"stream\",type=\"position-lost\""),
        Some(count)
    );
    let oplog = source.metrics()?.sum("cdc_source_oplog_start_timestamp_seconds").context("no metric")?;
    assert!(oplog >= untouched["clusterTime"]["$timestamp"]["t"].as_f64().context("no time")?);

    // The gap is made once: later starts go on behind it.
    source.kill9()?;
    let mut source = stage.started(policy()).await?;
    stage.insert("shop.orders", 12..13).await?;
    let records = stage.records(TOPIC, 8).await?;
    assert_eq!((repeated(&records).len(), stage.markers().await?.len()), (0, markers.len()));
    source.stop(LIMIT).await
}

/// What was missed is copied: every document is there, once as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_fills_what_is_there_behind_a_marker() -> Result<()> {
    let stage = small_oplog().await?;
    stage.lose_five().await?;
    let policy = stage.scope().set("ON_POSITION_LOST", "snapshot");
    let mut source = stage.started(policy).await?;
    // The time that it goes on at may be that of the newest event, which then comes too.
    let records = stage.records(TOPIC, 18).await?;
    let rows: Vec<KafkaRecord> =
        records.iter().filter(|record| record.header("snapshot") == Some("true")).cloned().collect();
    assert_eq!(keys(&rows), (0..12).map(|id| (id, 1)).collect());
    assert_eq!((records.len(), repeated(&records).len()), (18, 0));
    assert_eq!(stage.markers().await?.len(), 1);
    // And the stream goes on.
    stage.insert("shop.orders", 12..15).await?;
    let records = stage.records(TOPIC, 21).await?;
    assert_eq!((records.len(), repeated(&records).len()), (21, 0));
    source.stop(LIMIT).await
}

//! `snapshot`: copies that are asked for, of a source that runs and of one that is stopped.

use anyhow::{Context as _, Result, ensure};
use mongodb::bson::{Document, doc};
use pipeline_tests::{kafka_reader::KafkaRecord, service::Environment, wait};
use serde_json::{Value, json};

use crate::{
    snapshot::{check_order, compare, fill, ids, is_row},
    stage::{LIMIT, Stage, one_shot, repeated},
};

const TOPIC: &str = "atlas.shop.orders";
const TOKENS: &str = "atlas.resume-tokens-default";
const ASK: [&str; 4] = ["snapshot", "--collection", "shop.orders", "--yes"];

impl Stage {
    /// What `snapshot status --json` says of a collection; null if nothing.
    pub(crate) async fn copy_of(&self, collection: &str) -> Result<Value> {
        let kafka_only = Environment::new().set("KAFKA_BROKERS", self.kafka.bootstrap());
        let (code, text, complaint) = one_shot(kafka_only, &["snapshot", "status", "--json"]).await?;
        ensure!(code == 0, "{complaint}");
        let status: Value = serde_json::from_str(&text)?;
        let lines = status["collections"].as_array().context("no collections")?;
        Ok(lines.iter().find(|line| line["collection"] == collection).cloned().unwrap_or_default())
    }

    pub(crate) async fn wait_for_state(&self, collection: &str, state: &str) -> Result<Value> {
        wait::until(&format!("{collection} is {state}"), LIMIT, || async {
            let copy = self.copy_of(collection).await?;
            Ok((copy["state"] == state).then_some(copy))
        })
        .await
    }

    pub(crate) async fn content(&self, topic: &str) -> Result<Vec<KafkaRecord>> {
        let content = self.reader.read([topic.to_owned()]).await?;
        Ok(content.records(topic).cloned().collect())
    }

    async fn requests(&self) -> Result<usize> {
        let is_request = |record: &KafkaRecord| {
            record.key.as_deref().is_some_and(|key| key.starts_with(b"snapshot-request/"))
        };
        Ok(self.content(TOKENS).await?.iter().filter(|record| is_request(record)).count())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_source_copies_what_is_asked_for_while_it_streams() -> Result<()> {
    let stage = Stage::new().await?;
    let ids = ids(500);
    fill(&stage, "shop.orders", &ids).await?;
    // The newest write may be an event of the stream as well.
    stage.insert("other.last", 0..1).await?;
    stage.client.database("shop").create_collection("view").view_on("orders".to_owned()).await?;
    let mut source = stage.started(stage.environment().set("MONGO_DATABASES", "shop")).await?;
    let environment = || stage.environment().set("MONGO_DATABASES", "shop");

    // Without --yes nothing is written.
    let (code, text, _) = one_shot(environment(), &ASK[..3]).await?;
    assert!(
        code == 0 && text.contains("about 4506 documents") && text.contains("no: this only said"),
        "{text}"
    );
    assert_eq!((stage.requests().await?, stage.copy_of("shop.orders").await?), (0, Value::Null));

    let (code, text, complaint) = one_shot(environment(), &ASK).await?;
    assert!(code == 0 && text.contains("it runs, and has begun"), "{text}{complaint}");
    stage.insert("shop.live", 0..10).await?;
    stage.records("atlas.shop.live", 10).await?;
    let copy = stage.wait_for_state("shop.orders", "copied").await?;
    assert_eq!((&copy["rows"], &copy["percent"]), (&json!(ids.len()), &json!(100)), "{copy}");
    let records = stage.content(TOPIC).await?;
    compare(&stage, "shop.orders", &records).await?;
    assert_eq!((check_order(&records)?, records.len()), (ids.len(), ids.len()));

    // Once more, some of it: behind all that is there.
    stage
        .client
        .database("shop")
        .collection::<Document>("orders")
        .update_many(doc! { "_id": { "$type": "int" } }, doc! { "$set": { "v": 7 } })
        .await?;
    stage.records(TOPIC, ids.len() + 500).await?;
    let file = stage.file("open.json", br#"{"shop.orders": {"v": 7}}"#)?;
    let file = file.display().to_string();
    let filtered = [&ASK[..], &["--filter-file", &file]].concat();
    let (code, text, complaint) = one_shot(environment(), &filtered).await?;
    assert!(code == 0 && text.contains("copied before, 4506 rows until"), "{text}{complaint}");
    let copy = stage.wait_for_state("shop.orders", "copied").await?;
    assert_eq!(copy["rows"], 500, "{copy}");
    let records = stage.content(TOPIC).await?;
    assert_eq!(records.iter().filter(|record| is_row(record)).count(), ids.len() + 500);
    assert!(repeated(&records).is_empty());
    let rows_again: Vec<KafkaRecord> = records.iter().skip(ids.len()).cloned().collect();
    check_order(&rows_again)?;

    // Nobody was fenced.
    assert_eq!(source.metrics()?.sum("cdc_source_producer_recreated_total").unwrap_or(0.0), 0.0);
    source.stop(LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_neither_lost_nor_done_twice_by_kills() -> Result<()> {
    let stage = Stage::new().await?;
    let ids = ids(1_000);
    fill(&stage, "shop.orders", &ids).await?;
    // The newest write may be an event of the stream as well.
    stage.insert("other.last", 0..1).await?;
    let environment = || stage.environment().set("SNAPSHOT_RATE", "6000");
    let mut source = stage.started(environment()).await?;
    source.stop(LIMIT).await?;
    let without_mongodb = Environment::new().set("KAFKA_BROKERS", stage.kafka.bootstrap());
    let (code, text, complaint) = one_shot(without_mongodb.clone(), &ASK).await?;
    assert!(
        code == 0
            && text.contains("not asked, because MONGO_URI is not set")
            && text.contains("it is stopped"),
        "{text}{complaint}"
    );
    assert_eq!(stage.copy_of("shop.orders").await?["state"], "asked for");
    let (code, _, complaint) = one_shot(without_mongodb, &ASK).await?;
    assert!(code == 75 && complaint.contains("it was asked for already"), "{complaint}");

    for _ in 0..4 {
        let mut source = stage.started(environment()).await?;
        wait::until("the request is taken up", LIMIT, || async {
            Ok((stage.copy_of("shop.orders").await?["state"] != "asked for").then_some(()))
        })
        .await
        .with_context(|| source.log_tail())?;
        source.kill9()?;
    }
    let mut source = stage.started(environment()).await?;
    let copy = stage.wait_for_state("shop.orders", "copied").await.with_context(|| source.log_tail())?;
    assert_eq!(copy["rows"], ids.len(), "{copy}");
    source.stop(LIMIT).await?;
    // Nor by a further start.
    let mut source = stage.started(environment()).await?;
    stage.insert("shop.live", 0..1).await?;
    stage.records("atlas.shop.live", 1).await?;
    source.stop(LIMIT).await?;
    let records = stage.content(TOPIC).await?;
    assert_eq!((check_order(&records)?, records.len()), (ids.len(), ids.len()));
    compare(&stage, "shop.orders", &records).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_copied_is_refused_by_name() -> Result<()> {
    let stage = Stage::new().await?;
    let many: Vec<_> = (0..20_000).map(mongodb::bson::Bson::Int32).collect();
    fill(&stage, "shop.orders", &many).await?;
    let shop = stage.client.database("shop");
    shop.create_collection("view").view_on("orders".to_owned()).await?;
    let timeseries = mongodb::options::TimeseriesOptions::builder().time_field("at").build();
    shop.create_collection("series").timeseries(timeseries).await?;
    let environment = || stage.environment().set("MONGO_DATABASES", "shop").set("SNAPSHOT_RATE", "500");
    let refused = |environment: Environment, line: &'static [&'static str]| async move {
        let (code, text, complaint) = one_shot(environment, line).await?;
        ensure!(text.is_empty(), "{text}");
        anyhow::Ok((code, complaint))
    };

    let (code, complaint) = refused(environment(), &ASK).await?;
    assert!(code == 78 && complaint.contains("source default has no position"), "{complaint}");
    let mut source = stage.started(environment()).await?;
    let all = ["snapshot", "--collection", "crm.a,shop.none,shop.view,shop.series,shop.orders", "--yes"];
    let (code, text, complaint) = one_shot(environment(), &all).await?;
    assert!(code == 78 && text.is_empty(), "{text}{complaint}");
    for why in [
        "crm.a: it is not in the source's scope",
        "shop.none: the collection does not exist",
        "shop.view: it is a view or a time-series",
        "shop.series: it is a view or a time-series",
    ] {
        assert!(complaint.contains(why), "{complaint}");
    }
    let (code, complaint) = refused(environment().set("OPERATIONS", "update"), &ASK).await?;
    assert!(code == 78 && complaint.contains("OPERATIONS leaves out insert"), "{complaint}");
    assert_eq!(stage.requests().await?, 0);

    // Nobody looked: the source does.
    let blind =
        || Environment::new().set("KAFKA_BROKERS", stage.kafka.bootstrap()).set("MONGO_DATABASES", "shop");
    let (code, _, complaint) = one_shot(blind(), &["snapshot", "--collection", "shop.view", "--yes"]).await?;
    assert!(code == 78 && complaint.contains("shop.view is not copied: it is a view"), "{complaint}");

    let (code, _, complaint) = one_shot(environment(), &ASK).await?;
    assert_eq!(code, 0, "{complaint}");
    stage.wait_for_state("shop.orders", "copying").await?;
    let (code, complaint) = refused(environment(), &ASK).await?;
    assert!(code == 75 && complaint.contains("it is being copied already"), "{complaint}");
    source.stop(LIMIT).await?;

    // Nor may what is under way go on when the settings do not want it any more.
    let mut source = stage.started(stage.environment().set("MONGO_DATABASES", "crm")).await?;
    let copy = stage.wait_for_state("shop.orders", "ended").await?;
    assert_eq!(copy["why"], "it is not in the source's scope");
    source.stop(LIMIT).await?;
    let both = stage.environment().set("START_FROM", "snapshot").set("OPERATIONS", "update,delete");
    let mut source = stage.start(both)?;
    assert_eq!(source.exit_code(LIMIT).await?, 78);
    assert!(source.log_text()?.contains("rows of a snapshot are inserts"));
    Ok(())
}

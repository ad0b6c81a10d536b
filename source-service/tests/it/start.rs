//! Where a stream begins: `START_FROM` at the very first start, and what changed settings do to a stored position.

use anyhow::{Context as _, Result};
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use pipeline_tests::{http, kafka_reader::KafkaRecord, ports::free_port, servers::KafkaOptions, wait};

use crate::stage::{LIMIT, Stage, repeated};

const TOPIC: &str = "atlas.shop.orders";

impl Stage {
    /// What MongoDB has committed by now; the next event has a later time.
    async fn cluster_time(&self) -> Result<mongodb::bson::Timestamp> {
        let reply = self.mongod.admin_command(doc! { "ping": 1 }).await?;
        reply.get_timestamp("operationTime").context("no operationTime")
    }

    /// Inserts one document and returns the resume token of its event, as the server sent it.
    async fn token_of_insert(&self, id: i32) -> Result<Document> {
        let orders = self.client.database("shop").collection::<RawDocumentBuf>("orders");
        let mut stream = orders.watch().await?.with_type::<RawDocumentBuf>();
        self.insert("shop.orders", id..id + 1).await?;
        let event = futures::StreamExt::next(&mut stream).await.context("the stream has ended")??;
        Ok(event.get_document("_id")?.try_into()?)
    }
}

fn ids(records: &[KafkaRecord]) -> Vec<i32> {
    let key = |record: &KafkaRecord| String::from_utf8(record.key.clone().unwrap()).unwrap();
    let mut ids: Vec<i32> = records.iter().map(|record| key(record).parse().unwrap()).collect();
    ids.sort_unstable();
    ids
}

/// There a late request of a dead transaction could get into the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_does_not_verify_transactions_is_refused() -> Result<()> {
    let off = ("transaction.partition.verification.enable".to_owned(), "false".to_owned());
    let broker = KafkaOptions { properties: vec![off], ..KafkaOptions::default() };
    let stage = Stage::with_broker(broker).await?;
    let mut source = stage.start(stage.environment())?;
    let (code, log) = (source.exit_code(LIMIT).await?, source.log_text()?);
    assert_eq!(code, 78, "{log}");
    assert!(log.contains("broker 1 has transaction.partition.verification.enable=false"), "{log}");
    assert!(!stage.reader.topics("atlas.").await?.contains(TOPIC), "nothing was published");

    // Who has looked at it himself may say so.
    let mut source = stage.started(stage.environment().set("BROKER_CHECK", "skip")).await?;
    source.stop(LIMIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_begins_at_a_time_and_only_the_first() -> Result<()> {
    let stage = Stage::new().await?;
    stage.insert("shop.orders", 0..5).await?;
    let before = stage.cluster_time().await?;
    stage.insert("shop.orders", 5..10).await?;
    let from = format!("timestamp:{}.{}", before.time, before.increment + 1);
    let mut source = stage.started(stage.environment().set("START_FROM", from)).await?;
    assert_eq!(ids(&stage.records(TOPIC, 5).await?), [5, 6, 7, 8, 9]);
    source.stop(LIMIT).await?;

    // A later start does not jump back.
    let again = stage.environment().set("START_FROM", format!("timestamp:{}", before.time));
    let mut source = stage.started(again).await?;
    stage.insert("shop.orders", 10..11).await?;
    assert_eq!(ids(&stage.records(TOPIC, 6).await?), [5, 6, 7, 8, 9, 10]);
    assert!(source.log_text()?.contains("START_FROM is for the very first start"));
    source.stop(LIMIT).await
}

/// As a file of another reader may hold it: the whole document, or its digits alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_begins_behind_a_token() -> Result<()> {
    let stage = Stage::new().await?;
    stage.insert("shop.orders", 0..5).await?;
    let token = stage.token_of_insert(5).await?;
    stage.insert("shop.orders", 6..9).await?;
    let data = token.get_str("_data")?.to_owned();
    let whole = Bson::Document(token).into_canonical_extjson().to_string();
    for (id, text) in [("whole", whole), ("digits", data)] {
        let environment = stage
            .environment()
            .set("SOURCE_ID", id)
            .set("TOPIC_PREFIX", id)
            .set("START_FROM", format!("token:{text}"));
        let mut source = stage.started(environment).await?;
        assert_eq!(ids(&stage.records(&format!("{id}.shop.orders"), 3).await?), [6, 7, 8]);
        source.stop(LIMIT).await?;
    }
    Ok(())
}

/// A refused position is not recorded: the setting can be corrected.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_mongodb_does_not_have_is_refused_before_anything_is_committed() -> Result<()> {
    let stage = Stage::new().await?;
    stage.insert("shop.orders", 0..5).await?;
    let token = stage.token_of_insert(5).await?;
    // The same event a thousand seconds earlier: it never was.
    let data = token.get_str("_data")?;
    let seconds = u32::from_str_radix(&data[2..10], 16)? - 1000;
    let foreign = format!("token:82{seconds:08X}{}", &data[10..]);
    for (from, code, text) in [
        ("timestamp:2020-01-01T00:00:00Z", 20, "MongoDB's oplog begins at"),
        ("timestamp:2099-01-01T00:00:00Z", 78, "in the future"),
        (foreign.as_str(), 20, "MongoDB's oplog"),
    ] {
        let mut source = stage.start(stage.environment().set("START_FROM", from))?;
        assert_eq!(source.exit_code(LIMIT).await?, code, "{from}: {}", source.log_text()?);
        assert!(source.log_text()?.contains(text), "{from}: {}", source.log_text()?);
    }
    // From now on: the newest event may be the first.
    let mut source = stage.started(stage.environment()).await?;
    stage.insert("shop.orders", 10..11).await?;
    stage.records(TOPIC, 1).await?;
    source.stop(LIMIT).await?;
    let ids = ids(&stage.records(TOPIC, 1).await?);
    assert!(ids.ends_with(&[10]) && ids[0] >= 5, "{ids:?}");
    Ok(())
}

/// Acceptance by the server alone proves nothing; what could not be checked is said.
#[tokio::test(flavor = "multi_thread")]
async fn an_oplog_that_may_not_be_read_is_said() -> Result<()> {
    let stage = Stage::new().await?;
    let before = stage.cluster_time().await?;
    stage.insert("shop.orders", 0..5).await?;
    stage.fail("find", 13, 1).await?;
    let from = format!("timestamp:{}.{}", before.time, before.increment + 1);
    let mut source = stage.started(stage.environment().set("START_FROM", from)).await?;
    assert_eq!(ids(&stage.records(TOPIC, 5).await?), [0, 1, 2, 3, 4]);
    let log = source.log_text()?;
    assert!(log.contains("cannot be told, because its first entry cannot be read (Unauthorized"), "{log}");
    source.stop(LIMIT).await
}

/// A token of another stream cannot be resumed; its time can. Across a kill, so that events may be in doubt.
#[tokio::test(flavor = "multi_thread")]
async fn changed_options_go_on_at_the_tokens_time_and_say_so() -> Result<()> {
    let stage = Stage::new().await?;
    let orders = stage.client.database("shop").collection::<Document>("orders");
    let mut source = stage.started(stage.environment().set("FULL_DOCUMENT", "default")).await?;
    stage.insert("shop.orders", 0..20).await?;
    stage.records(TOPIC, 20).await?;
    source.kill9()?;
    orders.update_many(doc! {}, doc! { "$inc": { "v": 1 } }).await?;
    assert!(!source.log_text()?.contains("scope or options have changed"));

    let mut source = stage.started(stage.environment().set("FULL_DOCUMENT", "updateLookup")).await?;
    stage.insert("shop.orders", 20..25).await?;
    let records = stage.records(TOPIC, 45).await?;
    assert_eq!((records.len(), repeated(&records).len()), (45, 0));
    let updates = records.iter().filter(|record| record.header("operation-type") == Some("update"));
    let value = |record: &KafkaRecord| String::from_utf8(record.value.clone().unwrap()).unwrap();
    assert_eq!(updates.filter(|record| value(record).contains(r#""fullDocument":{"_id""#)).count(), 20);
    assert!(
        source
            .log_text()?
            .contains("scope or options have changed: the stream is opened at the token's time")
    );
    source.stop(LIMIT).await?;

    // Settled: the next start with the same options resumes the token itself.
    let said = source.log_text()?.matches("scope or options have changed").count();
    let mut source = stage.started(stage.environment().set("FULL_DOCUMENT", "updateLookup")).await?;
    assert_eq!(source.log_text()?.matches("scope or options have changed").count(), said);
    source.stop(LIMIT).await
}

/// Nothing is in flight yet, so a stop is never waited for; until then it says what it waits for.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_without_mongodb_can_be_stopped() -> Result<()> {
    let stage = Stage::new().await?;
    for from in ["now", "timestamp:2026-01-01T00:00:00Z"] {
        let nobody = format!("mongodb://127.0.0.1:{}/?replicaSet=rs0", free_port()?);
        let mut source = stage.start(stage.environment().set("MONGO_URI", nobody).set("START_FROM", from))?;
        wait::until("the source says that it waits for MongoDB", LIMIT, || async {
            let answer = http::get(source.admin_port(), "/readyz").map(|answer| answer.text());
            let waits = |text: &String| text.contains("mongodb: asked where to begin; mongodb: ");
            Ok(answer.ok().filter(|text| waits(text) && text.contains("Server selection")))
        })
        .await?;
        let asked = std::time::Instant::now();
        source.stop(LIMIT).await?;
        assert!(asked.elapsed() < std::time::Duration::from_secs(10), "{:?}", asked.elapsed());
        assert!(source.log_text()?.contains("stopped"));
    }
    Ok(())
}

//! Chunks of a snapshot that are committed without their records: what a late EndTxn does.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use pipeline_tests::{kafka_reader::KafkaRecord, wait};
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use serde_json::Value;

use crate::{
    snapshot::{check_order, compare, disturb, fill, ids, is_row, wait_for_copy},
    stage::{LIMIT, Stage, repeated},
};

const TOPIC: &str = "atlas.shop.orders";
const TOKENS: &str = "atlas.resume-tokens-default";
const COPY: &str = "snapshot/shop.orders";

impl Stage {
    /// The last record of a key of the token topic.
    async fn state(&self, key: &str) -> Result<Vec<u8>> {
        let records = self.content(TOKENS).await?;
        let last = records.iter().rfind(|record| record.key.as_deref() == Some(key.as_bytes()));
        last.and_then(|record| record.value.clone()).with_context(|| format!("no {key}"))
    }

    async fn next_chunk(&self) -> Result<u64> {
        let copy: Value = serde_json::from_slice(&self.state(COPY).await?)?;
        copy["nextChunk"].as_u64().context("no nextChunk")
    }

    /// Takes the records of the last transaction back, if it was a chunk's: its rows stay. Returns whether it was.
    async fn tear(&self) -> Result<bool> {
        let records = self.content(TOKENS).await?;
        let is = |record: &KafkaRecord, key: &str| record.key.as_deref() == Some(key.as_bytes());
        let last = records.iter().rposition(|record| is(record, COPY)).context("nothing is copied")?;
        // Behind it there is the token of its own transaction.
        let (before, [token]) = (&records[..last], &records[last + 1..]) else { return Ok(false) };
        ensure!(is(token, "default"), "a transaction without a token");
        for key in [COPY, "default"] {
            let former = before.iter().rfind(|record| is(record, key)).context("there is no former one")?;
            self.produce(TOKENS, key, former.value.as_deref())?;
        }
        Ok(true)
    }
}

/// The rows of a chunk are committed, its record and the position are not: found again, also while documents change and go.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_without_its_records_is_not_sent_again() -> Result<()> {
    let stage = Stage::new().await?;
    // More than one range.
    let ids = ids(5_000);
    fill(&stage, "shop.orders", &ids).await?;
    let environment = || stage.environment().set("START_FROM", "snapshot");
    let slow = || environment().set("SNAPSHOT_RATE", "3000");
    let mut source = stage.started(slow()).await?;
    let mut torn = 0;
    for round in 0..3 {
        let further = stage.next_chunk().await.unwrap_or(0) + 2;
        wait::until("chunks are copied", LIMIT, || async {
            Ok((stage.next_chunk().await.unwrap_or(0) >= further).then_some(()))
        })
        .await
        .with_context(|| source.log_tail())?;
        source.kill9()?;
        ensure!(stage.copy_of("shop.orders").await?["state"] == "copying", "it was over too early to tell");
        torn += usize::from(stage.tear().await?);
        disturb(&stage, "shop.orders", &ids, round, 100).await?;
        source = stage.started(if round < 2 { slow() } else { environment() }).await?;
    }
    wait_for_copy(&source).await?;
    source.stop(LIMIT).await?;
    let found = source.log_text()?.matches("these rows are committed, and are not sent again").count();
    ensure!(torn > 0 && found == torn, "{torn} commits were torn, {found} found");
    let records = stage.content(TOPIC).await?;
    // No key has two rows, and no id falls.
    check_order(&records)?;
    assert!(repeated(&records).is_empty());
    compare(&stage, "shop.orders", &records).await
}

/// The first rows of a chunk are committed in one partition, the others nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_committed_in_part_is_completed() -> Result<()> {
    let stage = Stage::new().await?;
    let ids = ids(20);
    fill(&stage, "shop.orders", &ids).await?;
    // The newest write may be an event of the stream as well.
    stage.insert("other.last", 0..1).await?;
    let mut source = stage.started(stage.environment().set("START_FROM", "snapshot")).await?;
    wait_for_copy(&source).await?;
    source.stop(LIMIT).await?;
    let rows = stage.content(TOPIC).await?;
    assert_eq!(rows.len(), ids.len());

    // A second copy was begun, and its first chunk torn.
    let mut copy: Value = serde_json::from_slice(&stage.state(COPY).await?)?;
    (copy["finishedAt"], copy["ranges"], copy["rows"]) = (Value::Null, Value::Null, 0.into());
    stage.produce(TOKENS, COPY, Some(copy.to_string().as_bytes()))?;
    let token: Value = serde_json::from_slice(&stage.state("default").await?)?;
    let data = token["token"]["_data"].as_str().context("no token")?;
    let chunk = stage.next_chunk().await?;
    let mut planted = Vec::new();
    for (number, row) in rows.iter().filter(|row| row.partition == 1).take(10).enumerate() {
        let id = format!("{data}~{}~{chunk:08}~{number:08}", &data[2..18]);
        plant(&stage, row, &id)?;
        planted.push(row.key.clone());
    }
    assert_eq!(planted.len(), 10);

    let mut source = stage.started(stage.environment()).await?;
    let copy = stage.wait_for_state("shop.orders", "copied").await?;
    assert_eq!(copy["rows"], ids.len(), "{copy}");
    ensure!(source.log_text()?.contains("these rows are committed, and are not sent again"));
    source.stop(LIMIT).await?;
    let records = stage.content(TOPIC).await?;
    let mut rows_of: BTreeMap<Option<Vec<u8>>, usize> = BTreeMap::new();
    for record in records.iter().filter(|record| is_row(record)) {
        *rows_of.entry(record.key.clone()).or_insert(0) += 1;
    }
    let odd: Vec<_> = rows_of.iter().filter(|(_, count)| **count != 2).collect();
    assert!(odd.is_empty() && rows_of.len() == ids.len(), "{odd:?}");
    assert!(repeated(&records).is_empty());
    Ok(())
}

/// The row once more, under another id.
fn plant(stage: &Stage, row: &KafkaRecord, id: &str) -> Result<()> {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", stage.kafka.bootstrap()).create()?;
    let mut headers = OwnedHeaders::new();
    for name in ["operation-type", "database", "collection", "cluster-time", "source", "snapshot"] {
        headers = headers.insert(Header { key: name, value: row.header(name) });
    }
    headers = headers.insert(Header { key: "event-id", value: Some(id) });
    let seconds = i64::from_str_radix(&id[2..10], 16)?;
    let record = BaseRecord::to(TOPIC)
        .partition(row.partition)
        .timestamp(seconds * 1000)
        .key(row.key.as_deref().context("no key")?)
        .payload(row.value.as_deref().context("no value")?)
        .headers(headers);
    producer.send(record).map_err(|(error, _)| error)?;
    producer.flush(LIMIT)?;
    Ok(())
}

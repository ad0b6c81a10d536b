//! A partition where nothing happens, and whose records expire.
//!
//! Goal: records that are durable in the lake may vanish from Kafka; that is no gap, however the sink is restarted. Method:
//! the log is emptied by retention up to its very end, a transaction's marker included, then a new sink goes on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pipeline_tests::wait;

use crate::{
    records::{LONG_AGO_S, changes, judge, make_topic},
    stage::{LIMIT, Stage},
};

/// A position that only markers moved is published within a minute.
const POSITION_LIMIT: Duration = Duration::from_secs(100);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_records_that_are_in_the_lake_are_no_gap() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("idle")?;
    let writer = pipeline.kafka_writer();
    let topic = make_topic(&pipeline).await?;
    writer.send(&topic, 0, changes(&pipeline, 0..20, LONG_AGO_S)).await?;
    let mut sink = pipeline.ready_sink().await?;
    let (_, violations) = judge(&pipeline, &mut [&mut sink]).await?;
    violations.none()?;

    // The marker behind the last record is not a record, but the log's start will be behind it.
    let key = (topic.clone(), 0);
    wait::until("the lake's position passes the marker", POSITION_LIMIT, || async {
        let end = pipeline.kafka().high_watermarks([topic.clone()]).await?;
        let reached = pipeline.lake().positions().await?;
        Ok((reached.get(&key) >= end.get(&key)).then_some(()))
    })
    .await?;
    writer.set_topic_setting(&topic, "retention.ms", "1").await?;
    wait::until("retention empties the log", LIMIT, || async {
        // Not by reading: a reader that starts where records are being deleted has nowhere to go.
        let ends = pipeline.kafka().log_ends([topic.clone()]).await?;
        let (start, end) = ends.get(&key).context("the partition")?;
        Ok((start == end).then_some(()))
    })
    .await?;
    sink.assert_running()?;

    sink.kill9()?;
    let mut sink = pipeline.ready_sink().await?;
    writer.set_topic_setting(&topic, "retention.ms", "-1").await?;
    writer.send(&topic, 0, changes(&pipeline, 20..40, LONG_AGO_S)).await?;
    let (evidence, violations) = judge(&pipeline, &mut [&mut sink]).await?;
    violations.none()?;
    let lake = evidence.lake.context("a lake")?;
    let mut rows = 0;
    for file in &lake.files {
        rows += file.lines()?.len();
    }
    ensure!(rows == 40, "{rows} rows of 40 records");
    sink.assert_running()
}

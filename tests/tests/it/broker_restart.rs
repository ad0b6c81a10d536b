//! The broker goes away and comes back.
//!
//! Goal: neither service ends, nothing is lost or doubled. Method: Kafka is killed under a workload, comes back on the
//! same data, is stopped in good order and comes back again.

use anyhow::Result;
use pipeline_tests::workload::Pace;

use crate::stage::{LIMIT, Run, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_services_go_on_where_they_were() -> Result<()> {
    let mut stage = Stage::own().await?;
    let pipeline = stage.pipeline("brokerrestart")?;
    let client = stage.mongod.client().await?;
    let run = Run::start(&pipeline, &client, Pace::PerSecond(200)).await?;
    let mut sink = pipeline.start_sink()?;
    run.workload.wait_for(300, LIMIT).await?;
    stage.kafka.kill9()?;
    sink.wait_until_not_ready(LIMIT).await?;
    // MongoDB goes on meanwhile: what happens now has to wait for the broker.
    run.workload.wait_for(200, LIMIT).await?;
    stage.kafka.restart().await?;
    run.workload.wait_for(300, LIMIT).await?;
    stage.kafka.stop().await?;
    run.workload.wait_for(100, LIMIT).await?;
    stage.kafka.restart().await?;
    run.workload.wait_for(200, LIMIT).await?;
    let (expected, mut source) = run.finish().await?;
    pipeline.drain_and_judge(&expected, &mut [&mut source, &mut sink]).await
}

//! Sinks come and go.
//!
//! Goal: partitions move between sinks without a gap or a repetition. Method: under a workload a group grows from one to
//! three sinks, one is killed, one leaves in good order, and a new one joins.

use anyhow::Result;
use pipeline_tests::workload::Pace;

use crate::stage::{LIMIT, Run, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sinks_come_and_go() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("rebalance")?;
    let client = stage.mongod.client().await?;
    let run = Run::start(&pipeline, &client, Pace::PerSecond(200)).await?;
    let mut first = pipeline.ready_sink().await?;
    run.workload.wait_for(200, LIMIT).await?;
    let mut second = pipeline.ready_sink().await?;
    let mut third = pipeline.ready_sink().await?;
    run.workload.wait_for(300, LIMIT).await?;
    first.kill9()?;
    run.workload.wait_for(200, LIMIT).await?;
    second.stop(LIMIT).await?;
    let mut fourth = pipeline.ready_sink().await?;
    run.workload.wait_for(200, LIMIT).await?;
    let (expected, mut source) = run.finish().await?;
    pipeline.drain_and_judge(&expected, &mut [&mut source, &mut third, &mut fourth]).await
}

//! A sink that the group has given up but that still lives.
//!
//! Goal: what it had in hand cannot land a second time. Method: SIGSTOP one of two sinks past its session, wait until the
//! other one has everything, SIGCONT, and let both go on under more writes.

use anyhow::Result;
use pipeline_tests::workload::Pace;

use crate::stage::{LIMIT, Run, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_work_of_a_frozen_sink_does_not_land() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline_into_azurite("zombie").await?;
    let client = stage.mongod.client().await?;
    let mut run = Run::start(&pipeline, &client, Pace::PerSecond(300)).await?;
    let mut frozen = pipeline.ready_sink().await?;
    let mut other = pipeline.ready_sink().await?;
    run.workload.wait_for(500, LIMIT).await?;
    // On the directory a frozen sink may hold a partition's lock, which only its death frees; that is why this is Azurite.
    frozen.sigstop()?;
    run.workload.wait_for(300, LIMIT).await?;
    run.workload.pause();
    // The other one has the frozen one's partitions when it has written what they hold.
    pipeline.wait_for_lake(&mut [&mut run.source, &mut other]).await?;
    frozen.sigcont()?;
    run.workload.resume();
    run.workload.wait_for(500, LIMIT).await?;
    let (expected, mut source) = run.finish().await?;
    pipeline.drain_and_judge(&expected, &mut [&mut source, &mut other, &mut frozen]).await
}

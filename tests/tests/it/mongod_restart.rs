//! The database goes away and comes back.
//!
//! Goal: the source waits and goes on by itself, exactly where it was. Method: mongod is killed twice and frozen once
//! under a workload; source and sink must live through it and the ledger must find nothing.

use anyhow::Result;
use pipeline_tests::workload::Pace;

use crate::stage::{LIMIT, Run, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_source_goes_on_where_it_was() -> Result<()> {
    let mut stage = Stage::own().await?;
    let pipeline = stage.pipeline("mongodrestart")?;
    let client = stage.mongod.client().await?;
    let mut run = Run::start(&pipeline, &client, Pace::PerSecond(200)).await?;
    let mut sink = pipeline.start_sink()?;
    for _ in 0..2 {
        run.workload.wait_for(200, LIMIT).await?;
        stage.mongod.kill9()?;
        run.source.wait_until_not_ready(LIMIT).await?;
        stage.mongod.restart().await?;
        run.workload.wait_for(200, LIMIT).await?;
        run.source.wait_until_ready().await?;
    }
    let (expected, mut source) = run.finish().await?;
    pipeline.drain_and_judge(&expected, &mut [&mut source, &mut sink]).await
}

//! Two sources with one id.
//!
//! Goal: the later one wins without a lock, the earlier one ends with 22 and nothing comes twice. Method: a second source
//! is started under a workload.

use anyhow::{Result, ensure};
use pipeline_tests::workload::Pace;

use crate::stage::{LIMIT, Run, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_earlier_source_ends_with_22() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("fenced")?;
    let client = stage.mongod.client().await?;
    let mut run = Run::start(&pipeline, &client, Pace::PerSecond(200)).await?;
    run.workload.wait_for(200, LIMIT).await?;
    let second = pipeline.ready_source().await?;
    let mut first = std::mem::replace(&mut run.source, second);
    run.workload.wait_for(200, LIMIT).await?;
    let code = first.exit_code(LIMIT).await?;
    ensure!(code == 22, "the fenced source ended with {code}\n{}", first.log_tail());
    let (expected, mut source) = run.finish().await?;
    pipeline.wait_for_kafka(&expected, &mut [&mut source]).await?;
    expected.judge(&pipeline.evidence_of_kafka().await?).none()
}

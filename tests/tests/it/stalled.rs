//! A source that stands still for longer than its transaction may.
//!
//! Goal: the broker ends its transaction and refuses its next request as it would a fenced one; the source finds out that
//! nobody else is there and goes on by itself. Method: SIGSTOP past the transaction's timeout, then SIGCONT.

use std::time::Duration;

use anyhow::Result;
use pipeline_tests::workload::Pace;

use crate::stage::{LIMIT, Run, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_source_goes_on_by_itself() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("stalled")?;
    let client = stage.mongod.client().await?;
    let mut run = Run::start(&pipeline, &client, Pace::PerSecond(300)).await?;
    run.workload.wait_for(300, LIMIT).await?;
    run.source.sigstop()?;
    // The broker looks for such transactions every second; nothing outside tells when it has ended one.
    tokio::time::sleep(TRANSACTION_TIMEOUT + Duration::from_secs(3)).await;
    run.source.sigcont()?;
    run.workload.wait_for(300, LIMIT).await?;
    let (expected, mut source) = run.finish().await?;
    pipeline.wait_for_kafka(&expected, &mut [&mut source]).await?;
    source.assert_running()?;
    expected.judge(&pipeline.evidence_of_kafka().await?).none()
}

/// As [`pipeline_tests::pipeline::Pipeline::source_environment`] sets it.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(8);

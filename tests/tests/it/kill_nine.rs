//! `kill -9` of sources and sinks, over and over, at moments that a seed chooses.
//!
//! Goal: nothing is lost, nothing comes twice. Method: a workload of everything MongoDB can do runs while the source is
//! killed ten times and two sinks ten times; then the ledger compares MongoDB, Kafka and the lake whole.

use anyhow::Result;
use pipeline_tests::{pipeline::Pipeline, workload::Pace};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::stage::{LIMIT, Run, Stage};

/// Of the source; sinks are killed as often.
const KILLS: u32 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn into_a_directory() -> Result<()> {
    let stage = Stage::shared().await?;
    kill_nine(&stage.pipeline("killdir")?, stage).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn into_azurite() -> Result<()> {
    let stage = Stage::shared().await?;
    kill_nine(&stage.pipeline_into_azurite("killazure").await?, stage).await
}

async fn kill_nine(pipeline: &Pipeline, stage: &Stage) -> Result<()> {
    let seed: u64 = rand::random();
    eprintln!("kills of {}: seed {seed}", pipeline.database());
    let mut random = StdRng::seed_from_u64(seed);

    let client = stage.mongod.client().await?;
    let mut run = Run::start(pipeline, &client, Pace::PerSecond(300)).await?;
    let mut sinks = [pipeline.start_sink()?, pipeline.start_sink()?];
    for _ in 0..KILLS {
        // Some of these fall into starts, some into the middle of transactions and flushes.
        run.workload.wait_for(random.random_range(30..400), LIMIT).await?;
        run.source.kill9()?;
        run.source = pipeline.start_source()?;
        run.workload.wait_for(random.random_range(30..400), LIMIT).await?;
        let victim = random.random_range(0..sinks.len());
        sinks[victim].kill9()?;
        sinks[victim] = pipeline.start_sink()?;
    }
    let (expected, mut source) = run.finish().await?;
    let [one, two] = &mut sinks;
    pipeline.drain_and_judge(&expected, &mut [&mut source, one, two]).await
}

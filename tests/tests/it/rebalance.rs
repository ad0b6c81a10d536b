//! Sinks come and go.
//!
//! Goal: partitions move between sinks without a gap or a repetition. Method: under a workload a group grows from one to
//! three sinks, one is killed, one leaves in good order, and a new one joins.

use anyhow::Result;
use pipeline_tests::{
    pipeline::Pipeline,
    service::{Binary, Environment},
    workload::Pace,
};

use crate::stage::{LIMIT, Run, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sinks_come_and_go() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("rebalance")?;
    come_and_go(stage, &pipeline, &|_| pipeline.sink_environment()).await
}

/// The broker assigns (KIP-848). Each sink has an id of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_shares_the_partitions_out() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("rebalancebroker")?;
    let environment = |number: u32| {
        pipeline
            .sink_environment()
            .set("KAFKA_GROUP_PROTOCOL", "consumer")
            .set("GROUP_INSTANCE_ID", format!("sink-{number}"))
            // The session is the broker's business.
            .set("KAFKA_OPTIONS", "topic.metadata.refresh.interval.ms=2000")
    };
    come_and_go(stage, &pipeline, &environment).await
}

async fn come_and_go(
    stage: &Stage,
    pipeline: &Pipeline,
    environment: &impl Fn(u32) -> Environment,
) -> Result<()> {
    let ready = async |number: u32| {
        let mut sink = pipeline.start(Binary::Sink, environment(number))?;
        sink.wait_until_ready().await?;
        anyhow::Ok(sink)
    };
    let client = stage.mongod.client().await?;
    let run = Run::start(pipeline, &client, Pace::PerSecond(200)).await?;
    let mut first = ready(1).await?;
    run.workload.wait_for(200, LIMIT).await?;
    let mut second = ready(2).await?;
    let mut third = ready(3).await?;
    run.workload.wait_for(300, LIMIT).await?;
    first.kill9()?;
    run.workload.wait_for(200, LIMIT).await?;
    second.stop(LIMIT).await?;
    let mut fourth = ready(4).await?;
    run.workload.wait_for(200, LIMIT).await?;
    let (expected, mut source) = run.finish().await?;
    pipeline.drain_and_judge(&expected, &mut [&mut source, &mut third, &mut fourth]).await
}

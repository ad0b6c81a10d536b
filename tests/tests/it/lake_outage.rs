//! A lake that is down, as the operator sees it.
//!
//! Goal: `/status`, `/readyz` and the metrics say that writes fail, since when, how often, why, and when the next attempt is due; and no
//! longer say so when it is back. Method: an Azurite that is stopped and started again while a sink has something to write.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    pipeline::Pipeline,
    servers::{Azurite, AzuriteStorage, azurite::ACCOUNT_KEY},
    service::Service,
    wait,
};
use serde_json::Value;

use crate::{
    records::{LONG_AGO_S, event},
    stage::{LIMIT, Stage},
};

fn lake(sink: &Service) -> Result<Value> {
    let status: Value = serde_json::from_str(&sink.status()?)?;
    Ok(status["lake"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_fail_are_told_until_they_succeed() -> Result<()> {
    let stage = Stage::shared().await?;
    let mut azurite = Azurite::start(AzuriteStorage::Folder).await?;
    let (uri, brokers) = (stage.mongod.uri(), stage.kafka.bootstrap());
    let pipeline = Pipeline::into_azurite("outage", uri, brokers, &azurite)?;
    let (topic, writer) = (pipeline.data_topic("orders"), pipeline.kafka_writer());
    writer.create_topic(&topic, 1, &[]).await?;
    writer.send(&topic, 0, vec![event(&pipeline, 0, LONG_AGO_S)]).await?;
    let mut sink = pipeline.ready_sink().await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    let up = lake(&sink)?;
    ensure!(up["up"] == true && up["failsSince"].is_null() && up["failures"] == 0, "{up:#}");
    ensure!(sink.metrics()?.sum("cdc_sink_lake_up") == Some(1.0), "the lake is up");

    let stopped = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    azurite.stop().await?;
    writer.send(&topic, 0, vec![event(&pipeline, 1, LONG_AGO_S)]).await?;
    let down = wait::until("writes fail", LIMIT, || async {
        let lake = lake(&sink)?;
        Ok((lake["failures"].as_u64() >= Some(2)).then_some(lake))
    })
    .await?;
    let cause = down["cause"].as_str().context("a cause")?;
    ensure!(down["up"] == false && cause.contains("no connection to the storage service"), "{down:#}");
    ensure!(down["waitingPartitions"] == 1 && !sink.status()?.contains(ACCOUNT_KEY), "{down:#}");
    let time = |member: &str| -> Result<u64> {
        let text = down[member].as_str().with_context(|| format!("{member}: {down:#}"))?;
        Ok(u64::try_from(chrono::DateTime::parse_from_rfc3339(text)?.timestamp())?)
    };
    let (since, next) = (time("failsSince")?, time("nextAttempt")?);
    let limit = stopped + LIMIT.as_secs();
    ensure!((stopped..limit).contains(&since) && next >= since && next < limit + 30, "{down:#}");
    let metrics = sink.metrics()?;
    ensure!(metrics.sum("cdc_sink_lake_up") == Some(0.0), "the lake is down");
    let told = metrics.sum("cdc_sink_lake_fails_since_timestamp_seconds").context("a metric")?;
    ensure!(Duration::from_secs_f64(told).as_secs() == since, "{told} is not {since}");
    ensure!(!sink.is_ready(), "it is ready although nothing can be written");

    azurite.restart().await?;
    sink.wait_until_ready().await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    let up = lake(&sink)?;
    ensure!(up["up"] == true && up["nextAttempt"].is_null() && up["cause"].is_null(), "{up:#}");
    ensure!(sink.metrics()?.sum("cdc_sink_lake_up") == Some(1.0), "the lake is up again");
    sink.stop(LIMIT).await
}

//! What a sink does with partitions that it has to give up.
//!
//! Goal: while the lake hangs, a revoked partition is given up within the bound (four tenths of `SHUTDOWN_TIMEOUT`): the sink that joins
//! gets it and goes on when the lake is back. Only what is revoked is flushed. What is lost is told from what is revoked: it is dropped.
//! Every row is there once. Method: two sinks, one of which joins while records of all partitions wait in the other.

use std::{
    fs::{File, OpenOptions},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    pipeline::Pipeline,
    servers::{Azurite, AzuriteStorage, azurite::ACCOUNT},
    service::{Binary, Environment, Service},
    slow_lake::SlowLake,
    wait,
};

use crate::{
    closing::{HOUR_S, Positions, partitions_of, wait_for_hours},
    records::{LONG_AGO_S, event, judge},
    stage::{LIMIT, Stage},
};

const PARTITIONS: i32 = 2;

/// `SHUTDOWN_TIMEOUT`, and what of it a flush of revoked partitions may take. Below the 10 s that one attempt waits for a lock of a
/// directory, so that it is the bound that ends it.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
const BOUND: Duration = Duration::from_secs(4);

/// The other sink's start and the group's messages, on a busy machine.
const MARGIN: Duration = Duration::from_secs(8);

const NOT_IN_TIME: &str = "not everything could be flushed in time";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_answered_in_time_while_locks_of_a_directory_are_held() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline("revokedir")?;
    let first = sink_with_open_files(&pipeline, None).await?;
    let chain =
        pipeline.lake_folder().context("a directory")?.join("_chain").join(pipeline.data_topic("orders"));
    let locks = (0..PARTITIONS).map(|partition| {
        let lock = OpenOptions::new().write(true).open(chain.join(format!("p{partition}.lock")))?;
        lock.lock()?;
        Ok(lock)
    });
    let locks: Vec<File> = locks.collect::<Result<_>>()?;
    let (first, second) = revoked_in_time(&pipeline, first).await?;
    drop(locks);
    everything_arrives(&pipeline, first, second).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_answered_in_time_while_requests_to_azurite_hang() -> Result<()> {
    let stage = Stage::shared().await?;
    let azurite = Azurite::start(AzuriteStorage::Memory).await?;
    let lake = SlowLake::start(azurite.port()).await?;
    let (uri, brokers) = (stage.mongod.uri(), stage.kafka.bootstrap());
    let pipeline = Pipeline::into_azurite("revokeazure", uri, brokers, &azurite)?;
    // Only its own way to the lake is blocked: a sink that cannot reach the lake does not join in the first place.
    let first = sink_with_open_files(&pipeline, Some(lake.port())).await?;
    lake.keep("/orders/");
    let (first, mut second) = revoked_in_time(&pipeline, first).await?;
    second.wait_until_ready().await?;
    let key = (pipeline.data_topic("orders"), partition_of(&second).await?);
    wait::until("the second one writes what the first one could not", LIMIT, || async {
        // Two transactions of one record and a marker each; the last marker may not be passed yet.
        Ok((pipeline.lake().positions().await?.get(&key) >= Some(&3)).then_some(()))
    })
    .await?;
    // Now come the requests that the first one had on their way when it gave the partition up.
    lake.release();
    everything_arrives(&pipeline, first, second).await
}

/// A topic whose source is still in the hour of all records: its end writes nothing.
async fn open_hour(pipeline: &Pipeline) -> Result<()> {
    Positions::new(pipeline).await?.commit(LONG_AGO_S / HOUR_S * HOUR_S + 10).await?;
    pipeline.kafka_writer().create_topic(&pipeline.data_topic("orders"), PARTITIONS, &[]).await
}

/// A sink that has all partitions, and written one record of each.
async fn sink_with_open_files(pipeline: &Pipeline, proxy: Option<u16>) -> Result<Service> {
    open_hour(pipeline).await?;
    write(pipeline, 0).await?;
    let mut environment = environment(pipeline, "1s");
    if let Some(port) = proxy {
        environment = environment.set("LAKE_ENDPOINT", format!("http://127.0.0.1:{port}/{ACCOUNT}"));
    }
    let mut sink = pipeline.start(Binary::Sink, environment)?;
    sink.wait_until_ready().await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    Ok(sink)
}

/// From the revocation to the other sink's assignment; nothing can be written meanwhile.
async fn revoked_in_time(pipeline: &Pipeline, first: Service) -> Result<(Service, Service)> {
    write(pipeline, 1).await?;
    wait::until("both partitions' records wait", LIMIT, || async { Ok(all_wait(&first)?.then_some(())) })
        .await?;
    let second = start(pipeline, "1s")?;
    wait::until("the first one is asked for a partition", LIMIT, || async {
        Ok(told(&first, "revoked")?.then_some(()))
    })
    .await?;
    let revoked = Instant::now();
    wait::until("the second one has a partition", BOUND + MARGIN, || async {
        Ok(told(&second, "assigned")?.then_some(()))
    })
    .await?;
    eprintln!("given up {:?} after it was asked for", revoked.elapsed());
    ensure!(first.log_text()?.contains(NOT_IN_TIME), "it was flushed in time:\n{}", first.log_tail());
    ensure!(count(&first, "revoke")? == 1.0 && count(&first, "lost")? == 0.0, "{}", first.log_tail());
    let ours = partitions_of(&first)?;
    ensure!(ours.len() == 1, "it has {ours:?}");
    Ok((first, second))
}

async fn everything_arrives(pipeline: &Pipeline, mut first: Service, mut second: Service) -> Result<()> {
    second.wait_until_ready().await?;
    write(pipeline, 2).await?;
    let (evidence, violations) = judge(pipeline, &mut [&mut first, &mut second]).await?;
    violations.none()?;
    let (found, wanted) = (evidence.data_records(), usize::try_from(3 * PARTITIONS)?);
    ensure!(found == wanted && evidence.dead_letters() == 0, "{found} of {wanted} records");
    ensure!(partitions_of(&first)?.len() == 1 && partitions_of(&second)?.len() == 1, "one partition each");
    first.stop(LIMIT).await?;
    second.stop(LIMIT).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_revoked_is_flushed_and_what_is_lost_is_dropped() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline("revokeonly")?;
    open_hour(&pipeline).await?;
    // Nothing but a revocation, or the end, flushes.
    let mut first = start(&pipeline, "1h")?;
    first.wait_until_ready().await?;
    // The hours before are over, and that is published with all that was read by then.
    wait_for_hours(&first).await?;
    write(&pipeline, 0).await?;
    wait::until("both records are read", LIMIT, || async { Ok(all_wait(&first)?.then_some(())) }).await?;
    let mut second = start(&pipeline, "1h")?;
    second.wait_until_ready().await?;
    wait::until("one partition each", LIMIT, || async {
        Ok((partitions_of(&first)?.len() == 1 && partitions_of(&second)?.len() == 1).then_some(()))
    })
    .await?;
    let (kept, moved) = (partition_of(&first).await?, partition_of(&second).await?);
    // One of each partition was sent, with a marker behind it that the position may have passed.
    let positions = pipeline.lake().positions().await?;
    let position = |partition| {
        let key = (pipeline.data_topic("orders"), partition);
        positions.get(&key).copied().unwrap_or(0)
    };
    ensure!(position(moved) >= 1, "what was revoked was not flushed: {positions:?}");
    ensure!(position(kept) == 0, "what was not revoked was flushed: {positions:?}\n{}", first.log_tail());
    ensure!(all_wait(&first)?, "the rest is no longer there:\n{}", first.status()?);
    ensure!((count(&first, "revoke")?, count(&first, "lost")?) == (1.0, 0.0), "{}", first.log_tail());

    // The group goes on without it: what it holds is the other one's to read.
    let flushes =
        |sink: &Service| anyhow::Ok(sink.metrics()?.sum("cdc_sink_flushes_total").context("flushes")?);
    let before = flushes(&first)?;
    first.sigstop()?;
    wait::until("the other sink has both", LIMIT, || async {
        let reads = partitions_of(&second)?.len() == 2 && second.is_ready();
        Ok(reads.then_some(()))
    })
    .await?;
    first.sigcont()?;
    wait::until("it sees that it has lost a partition", LIMIT, || async {
        Ok((count(&first, "lost")? == 1.0).then_some(()))
    })
    .await?;
    ensure!(flushes(&first)? == before, "what was lost was flushed:\n{}", first.log_tail());
    first.stop(LIMIT).await?;
    second.stop(LIMIT).await?;
    let (evidence, violations) = judge(&pipeline, &mut []).await?;
    violations.none()?;
    ensure!(evidence.data_records() == usize::try_from(PARTITIONS)?, "{} records", evidence.data_records());
    Ok(())
}

fn start(pipeline: &Pipeline, flush_interval: &str) -> Result<Service> {
    pipeline.start(Binary::Sink, environment(pipeline, flush_interval))
}

fn environment(pipeline: &Pipeline, flush_interval: &str) -> Environment {
    pipeline
        .sink_environment()
        .set("FLUSH_INTERVAL", flush_interval)
        .set("SHUTDOWN_TIMEOUT", format!("{}s", SHUTDOWN_TIMEOUT.as_secs()))
}

/// One record for each partition.
async fn write(pipeline: &Pipeline, round: i32) -> Result<()> {
    let record =
        |partition| (partition, event(pipeline, i64::from(round * PARTITIONS + partition), LONG_AGO_S));
    let records = (0..PARTITIONS).map(record).collect();
    pipeline.kafka_writer().send_to_partitions(&pipeline.data_topic("orders"), records).await
}

/// Whether the sink holds something of each of its partitions that is not durable.
fn all_wait(sink: &Service) -> Result<bool> {
    let partitions = partitions_of(sink)?;
    let waits = |partition: &serde_json::Value| partition["bufferedBytes"].as_u64() > Some(0);
    Ok(!partitions.is_empty() && partitions.iter().all(waits))
}

/// The one that it has.
async fn partition_of(sink: &Service) -> Result<i32> {
    let number = wait::until("it has one partition", LIMIT, || async {
        let [partition] = &partitions_of(sink)?[..] else { return Ok(None) };
        Ok(partition["partition"].as_i64())
    });
    Ok(i32::try_from(number.await?)?)
}

/// Whether the sink's log says that partitions were assigned or revoked.
fn told(sink: &Service, what: &str) -> Result<bool> {
    let message = format!(r#""{what}""#);
    Ok(sink.log_text()?.lines().any(|line| line.contains(&message) && line.contains(".orders")))
}

fn count(sink: &Service, kind: &str) -> Result<f64> {
    sink.metrics()?.sum_where("cdc_sink_rebalances_total", &format!("kind=\"{kind}\"")).context("rebalances")
}

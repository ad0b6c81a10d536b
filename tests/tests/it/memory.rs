//! `MEMORY_LIMIT` while the lake takes nothing.
//!
//! Goal: a sink whose lake stands still does not grow with what Kafka holds. It pauses, stays a member of its group, and when
//! the lake is back everything arrives once. Method: the smallest limit, six times as much in Kafka, and a lake that hangs for
//! longer than the group would wait for a member that does not poll.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    http,
    kafka_writer::NewRecord,
    pipeline::Pipeline,
    servers::{Azurite, AzuriteStorage},
    service::{Binary, Service},
    wait,
};

use crate::{
    records::{LONG_AGO_S, event, judge, padded},
    stage::{LIMIT, Stage},
};

pub(crate) const MIB: u64 = 1024 * 1024;

/// The smallest that `MEMORY_LIMIT` may be.
const MEMORY_LIMIT: u64 = 16 * MIB;

/// What Kafka holds meanwhile.
const BACKLOG: u64 = 6 * MEMORY_LIMIT;

const PARTITIONS: i32 = 4;

/// What a sink may take beside the limit: code, threads, what one fetch brings, requests on their way. Built for debugging
/// it took 23 MiB at rest; with this limit 55 MiB in all while it was paused, and 77 MiB while it caught up into Azurite.
const BASE: u64 = 80 * MIB;

/// `max.poll.interval.ms`: whoever does not poll for so long is put out of the group.
const POLL_LIMIT: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_locked() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("memorydir")?;
    let (topic, mut sink) = idle_sink(&pipeline).await?;
    let chain = pipeline.lake_folder().context("a directory")?.join("_chain").join(&topic);
    let locks = (0..PARTITIONS).map(|partition| {
        let path = chain.join(format!("p{partition}.lock"));
        let mut lock =
            OpenOptions::new().write(true).open(&path).with_context(|| path.display().to_string())?;
        lock.lock()?;
        lock.set_len(0)?;
        write!(lock, "{}", std::process::id())?;
        Ok(lock)
    });
    let locks: Vec<File> = locks.collect::<Result<_>>()?;

    let members = hold_the_backlog(&pipeline, &topic, &sink).await?;
    let holder = format!("locked by process {}", std::process::id());
    wait::until("/readyz says what is waited for", LIMIT, || async {
        let answer = http::get(sink.admin_port(), "/readyz")?;
        Ok((answer.status != 200 && answer.text().contains(&holder)).then_some(()))
    })
    .await?;
    ensure!(is_paused(&sink)?, "it reads although the lake takes nothing");
    drop(locks);
    everything_arrives(&pipeline, &topic, &mut sink, &members).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_azurite_that_hangs() -> Result<()> {
    let stage = Stage::shared().await?;
    let mut azurite = Azurite::start(AzuriteStorage::Memory).await?;
    let (uri, brokers) = (stage.mongod.uri(), stage.kafka.bootstrap());
    let pipeline = Pipeline::into_azurite("memoryazure", uri, brokers, &azurite)?;
    let (topic, mut sink) = idle_sink(&pipeline).await?;
    azurite.sigstop()?;
    let members = hold_the_backlog(&pipeline, &topic, &sink).await?;
    // Long before a request is given up.
    wait::until("the silence is told", LIMIT, || async {
        let status: serde_json::Value = serde_json::from_str(&sink.status()?)?;
        let cause = status["lake"]["cause"].as_str().unwrap_or_default();
        let told = status["lake"]["up"] == false && cause.contains("has not answered");
        Ok((told && sink.metrics()?.sum("cdc_sink_lake_up") == Some(0.0)).then_some(()))
    })
    .await?;
    azurite.sigcont()?;
    everything_arrives(&pipeline, &topic, &mut sink, &members).await?;
    ensure!(sink.metrics()?.sum("cdc_sink_lake_up") == Some(1.0), "the lake is still told to be down");
    Ok(())
}

/// A sink with an open file in each partition.
async fn idle_sink(pipeline: &Pipeline) -> Result<(String, Service)> {
    let topic = pipeline.data_topic("orders");
    let writer = pipeline.kafka_writer();
    writer.create_topic(&topic, PARTITIONS, &[]).await?;
    for partition in 0..PARTITIONS {
        let small = (0..10).map(|number| event(pipeline, number, LONG_AGO_S)).collect();
        writer.send(&topic, partition, small).await?;
    }
    let options = format!(
        "session.timeout.ms=6000,heartbeat.interval.ms=1000,max.poll.interval.ms={}",
        POLL_LIMIT.as_millis()
    );
    let environment = pipeline
        .sink_environment()
        .set("MEMORY_LIMIT", format!("{}MiB", MEMORY_LIMIT / MIB))
        .set("ROLL_BYTES", "128MiB")
        .set("KAFKA_OPTIONS", options);
    let mut sink = pipeline.start(Binary::Sink, environment)?;
    sink.wait_until_ready().await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    Ok((topic, sink))
}

/// Writes the backlog and waits until the sink has been paused for longer than a member may be silent. Returns the
/// group's members.
async fn hold_the_backlog(pipeline: &Pipeline, topic: &str, sink: &Service) -> Result<Vec<String>> {
    let members = pipeline.kafka().group_members(&pipeline.sink_group()).await?;
    ensure!(members.len() == 1, "{members:?}");
    for partition in 0..PARTITIONS {
        pipeline.kafka_writer().send(topic, partition, backlog(pipeline)).await?;
    }
    wait::until("the sink pauses", LIMIT, || async { Ok(is_paused(sink)?.then_some(())) }).await?;
    let paused_since = Instant::now();
    // What was read until then is counted a moment later; from there on nothing more may come.
    let mut read = None;
    while paused_since.elapsed() < POLL_LIMIT * 2 {
        ensure!(is_paused(sink)?, "it does not stay paused although the lake takes nothing");
        let records = sink.metrics()?.sum("cdc_sink_records_total");
        if paused_since.elapsed() > POLL_LIMIT {
            ensure!(*read.get_or_insert(records) == records, "it reads on although it is paused");
        }
        bounded(sink)?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eprintln!("paused, the sink has taken {} MiB at most", resident(sink, "VmHWM")? / MIB);
    ensure!(pipeline.kafka().group_members(&pipeline.sink_group()).await? == members, "it left the group");
    Ok(members)
}

async fn everything_arrives(
    pipeline: &Pipeline,
    topic: &str,
    sink: &mut Service,
    members: &[String],
) -> Result<()> {
    let (evidence, violations) = judge(pipeline, &mut [sink]).await?;
    violations.none()?;
    let wanted = usize::try_from(PARTITIONS)? * (10 + backlog(pipeline).len());
    let found = evidence.kafka.records(topic).count();
    ensure!(found == wanted, "{found} records of {wanted} in Kafka");
    bounded(sink)?;
    sink.wait_until_ready().await?;
    ensure!(!is_paused(sink)?, "it stays paused");
    ensure!(pipeline.kafka().group_members(&pipeline.sink_group()).await? == members, "it left the group");
    let metrics = sink.metrics()?;
    for kind in ["revoke", "lost"] {
        let label = format!("kind=\"{kind}\"");
        ensure!(metrics.sum_where("cdc_sink_rebalances_total", &label) == Some(0.0), "{kind}");
    }
    eprintln!("drained, the sink has taken {} MiB at most", resident(sink, "VmHWM")? / MIB);
    sink.assert_running()
}

/// One partition's share of [`BACKLOG`]: records of half a kilobyte up to nearly the largest that a topic takes.
fn backlog(pipeline: &Pipeline) -> Vec<NewRecord> {
    let share = BACKLOG / u64::from(PARTITIONS.unsigned_abs());
    let sizes = [500, 2_000, 500, 10_000, 500, 60_000, 500, 900_000];
    let mut records = Vec::new();
    let mut bytes = 0;
    for (number, size) in (10..).zip(sizes.into_iter().cycle()) {
        if bytes >= share {
            break;
        }
        let record = padded(event(pipeline, number, LONG_AGO_S), size);
        bytes += record.value.as_ref().map_or(0, Vec::len) as u64;
        records.push(record);
    }
    records
}

fn is_paused(sink: &Service) -> Result<bool> {
    let paused = sink.metrics()?.sum("cdc_sink_paused_partitions") == Some(f64::from(PARTITIONS));
    let status: serde_json::Value = serde_json::from_str(&sink.status()?)?;
    Ok(paused && status["memoryPaused"] == true)
}

fn bounded(sink: &Service) -> Result<()> {
    let peak = resident(sink, "VmHWM")?;
    ensure!(peak <= MEMORY_LIMIT + BASE, "{} MiB were resident", peak / MIB);
    Ok(())
}

/// `VmRSS` or `VmHWM` (the highest so far) of a process, in bytes.
pub(crate) fn resident(sink: &Service, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sink.process_id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kibibytes: u64 = line.context("a line of its memory")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes * 1024)
}

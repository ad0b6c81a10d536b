//! One collection that the lake does not take, among others.
//!
//! Goal: it takes neither all uploads nor all memory: the others go on landing as if it were not there, however much of it
//! waits in Kafka. Uploads at the same time are never more than `UPLOAD_CONCURRENCY`. When it is let go, everything is there once.
//! Method: all of its partitions, more than there are uploads, stand still (their locks are held; their requests are kept waiting)
//! while more than `MEMORY_LIMIT` comes of it, and then of another collection. Its attempts end only long after the test could wait.

use std::{
    fs::{self, File, OpenOptions},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    pipeline::Pipeline,
    servers::{Azurite, AzuriteStorage, azurite::ACCOUNT},
    service::{Binary, Service},
    slow_lake::SlowLake,
    wait,
};

use crate::{
    closing::{HOUR_S, Positions, partitions_of},
    memory::MIB,
    records::{LONG_AGO_S, event_of, judge, padded},
    stage::{LIMIT, Stage},
};

const SLOW: &str = "slow";
const SLOW_PARTITIONS: i32 = 12;
const OTHER: &str = "orders";
const OTHER_PARTITIONS: i32 = 4;

/// The default.
const UPLOADS: usize = 8;

/// The smallest that `MEMORY_LIMIT` may be.
const MEMORY_LIMIT: u64 = 16 * MIB;

/// Of each collection.
const BACKLOG: u64 = 24 * MIB;
const RECORD_BYTES: usize = 32 * 1024;

/// One attempt waits 10 s for a lock of a directory, and 60 s for an answer. Whoever stood behind the slow collection would not
/// land within these.
const BEFORE_A_LOCK_IS_GIVEN_UP: Duration = Duration::from_secs(8);
const BEFORE_A_REQUEST_IS_GIVEN_UP: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_not_stop_others_in_a_directory() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline("slowdir")?;
    let mut sink = idle_sink(&pipeline, None).await?;
    let topic = pipeline.data_topic(SLOW);
    let chain = pipeline.lake_folder().context("a directory")?.join("_chain").join(&topic);
    let locks = (0..SLOW_PARTITIONS).map(|partition| {
        let path = chain.join(format!("p{partition}.lock"));
        let lock = OpenOptions::new().write(true).open(&path).with_context(|| path.display().to_string())?;
        lock.lock()?;
        Ok(lock)
    });
    let locks: Vec<File> = locks.collect::<Result<_>>()?;
    let waiting = || waiting_for_locks(&sink, &topic);
    others_go_on(&pipeline, &sink, BEFORE_A_LOCK_IS_GIVEN_UP, waiting).await?;
    drop(locks);
    everything_arrives(&pipeline, &mut sink).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_not_stop_others_in_azurite() -> Result<()> {
    let stage = Stage::shared().await?;
    let azurite = Azurite::start(AzuriteStorage::Memory).await?;
    let lake = SlowLake::start(azurite.port()).await?;
    let (uri, brokers) = (stage.mongod.uri(), stage.kafka.bootstrap());
    let pipeline = Pipeline::into_azurite("slowazure", uri, brokers, &azurite)?;
    let mut sink = idle_sink(&pipeline, Some(lake.port())).await?;
    lake.keep(&format!("/{SLOW}/"));
    others_go_on(&pipeline, &sink, BEFORE_A_REQUEST_IS_GIVEN_UP, || Ok(lake.waiting())).await?;
    lake.release();
    everything_arrives(&pipeline, &mut sink).await?;
    let most = lake.most_at_once();
    ensure!((UPLOADS - 1..=UPLOADS).contains(&most), "{most} uploads at once");
    Ok(())
}

/// A sink with an open file in each partition.
async fn idle_sink(pipeline: &Pipeline, proxy: Option<u16>) -> Result<Service> {
    Positions::new(pipeline).await?.commit(LONG_AGO_S / HOUR_S * HOUR_S + 10).await?;
    for (name, partitions) in [(SLOW, SLOW_PARTITIONS), (OTHER, OTHER_PARTITIONS)] {
        pipeline.kafka_writer().create_topic(&pipeline.data_topic(name), partitions, &[]).await?;
        write(pipeline, name, partitions, 1, 100).await?;
    }
    let mut environment = pipeline
        .sink_environment()
        .set("MEMORY_LIMIT", format!("{}MiB", MEMORY_LIMIT / MIB))
        .set("ROLL_BYTES", "128MiB");
    if let Some(port) = proxy {
        environment = environment.set("LAKE_ENDPOINT", format!("http://127.0.0.1:{port}/{ACCOUNT}"));
    }
    let mut sink = pipeline.start(Binary::Sink, environment)?;
    sink.wait_until_ready().await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    Ok(sink)
}

/// `waiting` counts the uploads of the slow collection that stand still.
async fn others_go_on(
    pipeline: &Pipeline,
    sink: &Service,
    limit: Duration,
    waiting: impl Fn() -> Result<usize>,
) -> Result<()> {
    backlog(pipeline, SLOW, SLOW_PARTITIONS).await?;
    let mut most = 0;
    wait::until("the slow collection is paused, and it alone", LIMIT, || {
        let mut look = || {
            let waiting = waiting()?;
            most = most.max(waiting);
            let partitions = partitions_of(sink)?;
            let slow = |partition: &serde_json::Value| partition["topic"] == pipeline.data_topic(SLOW);
            let mut partitions = partitions.iter();
            let paused = partitions.all(|partition| (partition["paused"] == true) == slow(partition));
            anyhow::Ok(waiting > 0 && paused)
        };
        let paused = look();
        async move { Ok(paused?.then_some(())) }
    })
    .await?;

    let before = reached(pipeline, SLOW).await?;
    backlog(pipeline, OTHER, OTHER_PARTITIONS).await?;
    let written = Instant::now();
    let topic = pipeline.data_topic(OTHER);
    let ends: i64 = pipeline.kafka().high_watermarks([topic]).await?.values().sum();
    // The marker behind the last record of each partition belongs to the next file or append.
    let wanted = ends - i64::from(OTHER_PARTITIONS);
    wait::until("the other collection lands", limit, || {
        let looked = waiting().map(|now| most = most.max(now));
        let reached = reached(pipeline, OTHER);
        async move {
            looked?;
            Ok((reached.await? >= wanted).then_some(()))
        }
    })
    .await?;
    eprintln!("landed {:?} after it was written, {most} uploads stood still", written.elapsed());
    ensure!(reached(pipeline, SLOW).await? == before, "the slow collection was not slow");
    // Three quarters of the uploads are one collection's at most.
    ensure!((1..=UPLOADS / 4 * 3).contains(&most), "{most} uploads stood still at once");
    Ok(())
}

async fn everything_arrives(pipeline: &Pipeline, sink: &mut Service) -> Result<()> {
    let (evidence, violations) = judge(pipeline, &mut [sink]).await?;
    violations.none()?;
    let backlog = usize::try_from(BACKLOG)? / RECORD_BYTES;
    let first = usize::try_from(SLOW_PARTITIONS + OTHER_PARTITIONS)?;
    let found = evidence.data_records();
    ensure!(found == first + 2 * backlog && evidence.dead_letters() == 0, "{found} records");
    sink.assert_running()
}

async fn backlog(pipeline: &Pipeline, collection: &str, partitions: i32) -> Result<()> {
    let each = usize::try_from(BACKLOG)? / RECORD_BYTES / usize::try_from(partitions)?;
    write(pipeline, collection, partitions, each, RECORD_BYTES).await
}

async fn write(
    pipeline: &Pipeline,
    collection: &str,
    partitions: i32,
    each: usize,
    bytes: usize,
) -> Result<()> {
    let mut records = Vec::new();
    for partition in 0..partitions {
        for _ in 0..each {
            let number = i64::try_from(records.len())?;
            records.push((partition, padded(event_of(pipeline, collection, number, LONG_AGO_S), bytes)));
        }
    }
    pipeline.kafka_writer().send_to_partitions(&pipeline.data_topic(collection), records).await
}

/// The sum of a collection's positions in the lake.
async fn reached(pipeline: &Pipeline, collection: &str) -> Result<i64> {
    let topic = pipeline.data_topic(collection);
    let positions = pipeline.lake().positions().await?;
    Ok(positions.iter().filter(|((of, _), _)| *of == topic).map(|(_, position)| position).sum())
}

/// Locks of a topic's partitions that the sink has open: each is one step that waits for its lock, or has it.
fn waiting_for_locks(sink: &Service, topic: &str) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(format!("/proc/{}/fd", sink.process_id()))? {
        // It may have been closed since.
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        let is_lock = target.extension().is_some_and(|end| end == "lock");
        count += usize::from(is_lock && target.parent().is_some_and(|folder| folder.ends_with(topic)));
    }
    Ok(count)
}

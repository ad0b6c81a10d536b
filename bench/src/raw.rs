//! What the drivers alone can do: the yardstick for both services.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mongodb::{
    Client,
    bson::{Timestamp, doc},
};
use pipeline_tests::latency::{self, Journey};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};

use crate::{load::DATABASE, usage};

const STALL_LIMIT: Duration = Duration::from_secs(60);
/// The sink's FLUSH_BYTES.
const SYNC_BYTES: usize = 8 * 1024 * 1024;

/// How long the events took, and what the process spent on them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

/// Reads `count` events of the change stream as raw batches and touches each one.
///
/// # Errors
/// The server's.
pub(crate) async fn drain_stream(client: &Client, from: Timestamp, count: u64) -> Result<Spent> {
    let own = std::process::id();
    let (start, cpu) = (Instant::now(), usage::cpu_time(own)?);
    let stage = doc! { "$changeStream": {
        "startAtOperationTime": from, "fullDocument": "updateLookup", "fullDocumentBeforeChange": "whenAvailable",
    } };
    let database = client.database(DATABASE);
    let mut cursor =
        database.aggregate([stage]).batch_size(2000).batch().await.context("open the change stream")?;
    let mut seen = 0;
    while seen < count {
        let Some(batch) = std::future::poll_fn(|context| {
            futures::Stream::poll_next(std::pin::Pin::new(&mut cursor), context)
        })
        .await
        else {
            bail!("the change stream ended after {seen} of {count} events");
        };
        let batch = batch.context("read the change stream")?;
        for event in batch.doc_slices().context("read a batch")? {
            event.context("read an event")?;
            seen += 1;
        }
        if start.elapsed() > STALL_LIMIT * 5 {
            bail!("only {seen} of {count} events");
        }
    }
    Ok(Spent { wall: start.elapsed(), cpu: usage::cpu_time(own)?.saturating_sub(cpu) })
}

/// Reads `count` records of a topic, read committed, from its beginning.
///
/// # Errors
/// The broker's, or that they do not come.
pub(crate) fn drain_topic(bootstrap: &str, topic: &str, count: u64) -> Result<Spent> {
    let mut bytes = 0;
    let spent = drain(bootstrap, topic, count, |value| {
        bytes += value.len();
        Ok(())
    })?;
    anyhow::ensure!(bytes > 0, "{topic} has only empty records");
    Ok(spent)
}

/// As [`drain_topic`], and writes the values to a file that is synced after each [`SYNC_BYTES`], as the sink syncs after each
/// flush: what reading and durable writing cost when nothing is checked and nothing else is kept.
///
/// # Errors
/// The broker's, or the file system's.
pub(crate) fn drain_topic_to_file(bootstrap: &str, topic: &str, count: u64, path: &Path) -> Result<Spent> {
    let mut file = File::create(path).context("create a file")?;
    let mut lines = Vec::with_capacity(SYNC_BYTES);
    let mut write = |lines: &mut Vec<u8>| {
        file.write_all(lines).and_then(|()| file.sync_data()).context("write lines")?;
        lines.clear();
        Ok(())
    };
    let spent = drain(bootstrap, topic, count, |value| {
        lines.extend_from_slice(value);
        lines.push(b'\n');
        if lines.len() >= SYNC_BYTES { write(&mut lines) } else { Ok(()) }
    })?;
    write(&mut lines)?;
    Ok(spent)
}

fn drain(
    bootstrap: &str,
    topic: &str,
    count: u64,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<Spent> {
    let consumer = consumer(bootstrap)?;
    assign(&consumer, topic, Offset::Beginning)?;
    let own = std::process::id();
    let (start, cpu) = (Instant::now(), usage::cpu_time(own)?);
    let mut seen = 0_u64;
    while seen < count {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            take(message.context("read the topic")?.payload().unwrap_or_default())?;
            seen += 1;
        }
        if start.elapsed() > STALL_LIMIT * 2 {
            bail!("only {seen} of {count} records in {topic}");
        }
    }
    Ok(Spent { wall: start.elapsed(), cpu: usage::cpu_time(own)?.saturating_sub(cpu) })
}

/// Reads the next `count` records as they come and notes how long each was on its way.
///
/// # Errors
/// As [`drain_topic`].
pub(crate) fn follow(consumer: &BaseConsumer, count: u64) -> Result<Vec<Journey>> {
    let mut journeys = Vec::new();
    let mut last = Instant::now();
    while (journeys.len() as u64) < count {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            let message = message.context("read the topic")?;
            let wall =
                message.payload().and_then(latency::wall_time_ms).context("an event without wall time")?;
            journeys.push(Journey::new(wall, latency::now_ms()));
            last = Instant::now();
        }
        if last.elapsed() > STALL_LIMIT {
            bail!("only {} of {count} events while following", journeys.len());
        }
    }
    Ok(journeys)
}

/// A consumer that stands at the end of a topic; what is written from now on is read.
///
/// # Errors
/// The broker's.
pub(crate) fn consumer_at_end(bootstrap: &str, topic: &str) -> Result<BaseConsumer> {
    let consumer = consumer(bootstrap)?;
    let mut ends = TopicPartitionList::new();
    for partition in partitions(&consumer, topic)? {
        let (_, high) = consumer.fetch_watermarks(topic, partition, STALL_LIMIT).context("ask for an end")?;
        ends.add_partition_offset(topic, partition, Offset::Offset(high)).context("name a partition")?;
    }
    consumer.assign(&ends).context("assign partitions")?;
    Ok(consumer)
}

pub(crate) fn consumer(bootstrap: &str) -> Result<BaseConsumer> {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "10")
        .set("fetch.queue.backoff.ms", "20")
        .set("log_level", "2")
        .create()
        .context("make a Kafka consumer")
}

fn assign(consumer: &BaseConsumer, topic: &str, offset: Offset) -> Result<()> {
    let mut list = TopicPartitionList::new();
    for partition in partitions(consumer, topic)? {
        list.add_partition_offset(topic, partition, offset).context("name a partition")?;
    }
    consumer.assign(&list).context("assign partitions")
}

pub(crate) fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), STALL_LIMIT).context("describe the topic")?;
    let described = metadata.topics().first().context("no such topic")?;
    Ok(described.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect())
}

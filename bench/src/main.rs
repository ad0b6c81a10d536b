//! `make bench`: both services against the raw drivers, on one oplog and one topic, in one run.
//!
//! ```text
//!   load N events ─▶ oplog ─┬─ raw drain of a cursor      ┐ in turn,
//!                           └─ source-service, prefix k ──┘ k = 1 … repetitions
//!   topic of prefix k ──────┬─ raw consume                ┐
//!                           ├─ raw consume to a file      ├ in turn
//!                           └─ sink-service, directory k ┘
//!   then 1,000 events/s: how long until a read_committed consumer has them
//! ```
//!
//! Medians of all repetitions. The figures decide nothing: the exit code says only whether everything ran.

mod load;
mod raw;
mod report;
mod services;
mod usage;

use std::{io, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;
use pipeline_tests::{
    folders,
    latency::Percentiles,
    servers::{Kafka, KafkaOptions, Mongod, MongodOptions},
};
use tokio::task::spawn_blocking;

use crate::{
    report::{Figure, Target, median},
    services::Lane,
};

/// Changes per second while latency is measured.
const LATENCY_RATE: u64 = 1000;

/// Measures source-service and sink-service against the raw drivers on this machine.
#[derive(Clone, Copy, Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    /// Events of 0.5 KB.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// How often each measurement is repeated.
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Seconds of latency measurement.
    #[arg(long, default_value_t = 20)]
    latency_seconds: u64,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    anyhow::ensure!(arguments.repetitions > 0, "--repetitions must be above 0");
    // Ctrl-C drops everything that runs, which kills it.
    let figures = tokio::select! {
        figures = measure(arguments) => figures?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("listen to Ctrl-C")?;
            anyhow::bail!("interrupted");
        }
    };
    let conditions = format!(
        "{} events, {} repetitions (medians), {} cores, load of the last minute {}",
        arguments.events,
        arguments.repetitions,
        std::thread::available_parallelism().context("count the cores")?,
        usage::load()?,
    );
    report::print(&figures, &conditions, arguments.json, &mut io::stdout()).context("print the figures")
}

async fn measure(arguments: Arguments) -> Result<Vec<Figure>> {
    let folder = folders::new("bench-")?;
    let (mongod, kafka) = tokio::try_join!(
        Mongod::start(MongodOptions { oplog_size_mb: 8192, cache_gb: 2.0, ..MongodOptions::default() }),
        Kafka::start(KafkaOptions { heap_mb: 512, ..KafkaOptions::default() }),
    )?;
    let (uri, brokers) = (mongod.uri(), kafka.bootstrap());
    let client = services::client(&uri).await?;
    let lanes: Vec<Lane<'_>> = (1..=arguments.repetitions)
        .map(|number| Lane { number, mongo_uri: &uri, brokers: &brokers, folder: folder.path() })
        .collect();

    // All sources commit their position before the load, so that each finds the same oplog.
    let mut registered = Vec::new();
    for lane in &lanes {
        registered.push(lane.ready_source().await?);
    }
    let from = load::first_order(&client).await?;
    for (lane, mut source) in lanes.iter().zip(registered) {
        lane.wait_for_first_event().await?;
        services::stop(&mut source).await?;
    }
    eprintln!("loading {} events", arguments.events);
    load::insert_all(&client, arguments.events).await?;

    let (mut drains, mut sources) = (Vec::new(), Vec::new());
    let (mut consumes, mut writes, mut sinks) = (Vec::new(), Vec::new(), Vec::new());
    for lane in &lanes {
        eprintln!("repetition {}: cursor, source", lane.number);
        drains.push(raw::drain_stream(&client, from, arguments.events).await?);
        sources.push(lane.run_source(arguments.events).await?);
    }
    // The first order is in each topic, too.
    let records = arguments.events + 1;
    for lane in &lanes {
        eprintln!("repetition {}: consumer, sink", lane.number);
        let (bootstrap, topic) = (brokers.clone(), lane.topic());
        let consume = spawn_blocking(move || raw::drain_topic(&bootstrap, &topic, records)).await;
        consumes.push(consume.context("a consumer's thread")??);
        let (bootstrap, topic) = (brokers.clone(), lane.topic());
        let file = folder.path().join(format!("raw-{}.jsonl", lane.number));
        let write =
            spawn_blocking(move || raw::drain_topic_to_file(&bootstrap, &topic, records, &file)).await;
        writes.push(write.context("a consumer's thread")??);
        sinks.push(lane.run_sink(records).await?);
    }
    eprintln!("latency at {LATENCY_RATE} events/s");
    let latency = latency(&client, &lanes[0], &brokers, arguments.latency_seconds).await?;

    let events = count(arguments.events)?;
    let per_million = |cpu: Duration| cpu.as_secs_f64() * 1e6 / events;
    let drain_rate = median(drains.iter().map(|spent| events / spent.wall.as_secs_f64()));
    let source_rate = median(sources.iter().map(|run| run.per_second));
    let consume_rate = median(consumes.iter().map(|spent| events / spent.wall.as_secs_f64()));
    let write_rate = median(writes.iter().map(|spent| events / spent.wall.as_secs_f64()));
    let sink_rate = median(sinks.iter().map(|run| run.per_second));
    let megabytes = |bytes: u64| count(bytes / 1024).map(|kilobytes| kilobytes / 1024.0);
    let peak = |runs: &[services::Run]| {
        runs.iter().map(|run| megabytes(run.peak_memory_bytes)).collect::<Result<Vec<_>>>()
    };
    let milliseconds = |span: Duration| span.as_secs_f64() * 1000.0;
    Ok(vec![
        Figure::new("raw cursor", drain_rate, "events/s", Target::None),
        Figure::new(
            "raw cursor, CPU",
            median(drains.iter().map(|spent| per_million(spent.cpu))),
            "s/million",
            Target::None,
        ),
        Figure::new("source", source_rate, "events/s", Target::None),
        Figure::new("source / raw cursor", source_rate / drain_rate, "ratio", Target::AtLeast(0.6)),
        Figure::new(
            "source, CPU",
            median(sources.iter().map(|run| per_million(run.cpu))),
            "s/million",
            Target::AtMost(8.0),
        ),
        Figure::new("source, peak memory", median(peak(&sources)?), "MiB", Target::AtMost(96.0)),
        Figure::new("raw consumer", consume_rate, "records/s", Target::None),
        Figure::new(
            "raw consumer, CPU",
            median(consumes.iter().map(|spent| per_million(spent.cpu))),
            "s/million",
            Target::None,
        ),
        Figure::new("raw consumer to a file", write_rate, "records/s", Target::None),
        Figure::new(
            "raw consumer to a file, CPU",
            median(writes.iter().map(|spent| per_million(spent.cpu))),
            "s/million",
            Target::None,
        ),
        Figure::new("sink", sink_rate, "rows/s", Target::None),
        Figure::new("sink / raw consumer", sink_rate / consume_rate, "ratio", Target::AtLeast(0.5)),
        Figure::new("sink / raw consumer to a file", sink_rate / write_rate, "ratio", Target::None),
        Figure::new(
            "sink, CPU",
            median(sinks.iter().map(|run| per_million(run.cpu))),
            "s/million",
            Target::None,
        ),
        Figure::new("sink, peak memory", median(peak(&sinks)?), "MiB", Target::None),
        Figure::new("write to Kafka, p50", milliseconds(latency.p50), "ms", Target::AtMost(50.0)),
        Figure::new("write to Kafka, p99", milliseconds(latency.p99), "ms", Target::AtMost(200.0)),
    ])
}

async fn latency(
    client: &mongodb::Client,
    lane: &Lane<'_>,
    brokers: &str,
    seconds: u64,
) -> Result<Percentiles> {
    let mut source = lane.ready_source().await?;
    let consumer = raw::consumer_at_end(brokers, &lane.topic())?;
    let expected = LATENCY_RATE * seconds;
    let following = spawn_blocking(move || raw::follow(&consumer, expected));
    load::insert_steadily(client, LATENCY_RATE, Duration::from_secs(seconds)).await?;
    let journeys = following.await.context("a consumer's thread")??;
    services::stop(&mut source).await?;
    Percentiles::of(&journeys, i64::MIN, i64::MAX).context("nothing was measured")
}

/// Counts of events and kilobytes stay far below 2^32.
fn count(number: u64) -> Result<f64> {
    Ok(f64::from(u32::try_from(number).context("a count")?))
}

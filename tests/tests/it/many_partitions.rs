//! A thousand partitions and three open hours under one `MEMORY_LIMIT`.
//!
//! Goal: what the sink takes does not grow with the number of partitions times hours. When the limit is near, the largest
//! buffers are written early; at the limit it pauses; every row comes into the lake once, in its own hour; and its resident
//! memory stays below the limit plus what it takes with all these partitions and nothing to do.
//! Method: several times the limit in Kafka, and a flush interval that never comes, so that nothing but the limit writes.
//!
//! Each partition has one block of each hour, and all partitions have the first hour's before any has the second's: so come
//! records of a source that is hours behind, and so every file ends and the next begins while all the others do the same. Hours
//! that alternate from record to record would make a file of each, in any sink that keeps a chain of files per partition.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    pipeline::Pipeline,
    servers::{Azurite, AzuriteStorage, Kafka, KafkaOptions},
    service::{Binary, Service},
    wait,
};

use crate::{
    closing::{HOUR_S, Positions, folder_of, instant},
    memory::{MIB, resident},
    records::{LONG_AGO_S, event_of, judge, padded},
    stage::LIMIT,
};

const TOPICS: [&str; 4] = ["customers", "invoices", "orders", "payments"];
const HOURS: i64 = 3;
const RECORD_BYTES: usize = 4096;

/// For what takes half a minute where other work goes on beside it.
const LONG: Duration = Duration::from_secs(150);

/// Azurite takes a few hundred requests a second.
const VERY_LONG: Duration = Duration::from_secs(900);

/// How much more than the limit there is to read.
const TIMES_LIMIT: u64 = 3;

/// What may come on top of the limit and of the memory at rest: an answer of the broker's of up to 8 MiB, which the client holds
/// beside its queue while it takes it apart; the pieces that are on their way, as the requests hold them; and what the allocator keeps
/// of the many small and large pieces it was asked for. It was 17 to 31 MiB with limits of 16 to 48 MiB.
const MARGIN: u64 = 48 * MIB;

struct Size {
    partitions_of_topic: i32,
    memory_limit: u64,
    /// For each of: all chains begun, everything read, everything written at the end.
    limit: Duration,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_in_a_directory() -> Result<()> {
    let kafka = broker().await?;
    let pipeline = Pipeline::into_directory("manydir", String::new(), kafka.bootstrap())?;
    bounded_and_whole(&pipeline, &Size { partitions_of_topic: 250, memory_limit: 32 * MIB, limit: LONG })
        .await
}

/// As many as Azurite, which does one thing at a time, takes in a few seconds: a file costs it about seven requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eighty_in_azurite() -> Result<()> {
    let (kafka, azurite) = tokio::try_join!(broker(), Azurite::start(AzuriteStorage::Memory))?;
    let pipeline = Pipeline::into_azurite("manyazure", String::new(), kafka.bootstrap(), &azurite)?;
    bounded_and_whole(&pipeline, &Size { partitions_of_topic: 20, memory_limit: 16 * MIB, limit: LONG }).await
}

/// Takes minutes: `make test-large`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; `make test-large` runs it"]
async fn a_thousand_in_azurite() -> Result<()> {
    let (kafka, azurite) = tokio::try_join!(broker(), Azurite::start(AzuriteStorage::Memory))?;
    let pipeline = Pipeline::into_azurite("manylarge", String::new(), kafka.bootstrap(), &azurite)?;
    bounded_and_whole(&pipeline, &Size { partitions_of_topic: 250, memory_limit: 32 * MIB, limit: VERY_LONG })
        .await
}

/// A broker of its own: clients of the other tests would learn of a thousand partitions again and again.
async fn broker() -> Result<Kafka> {
    // Of each partition's indexes Kafka maps 10 MiB otherwise, twice.
    let properties = [("log.index.size.max.bytes", "4096"), ("num.io.threads", "4")];
    let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Kafka::start(KafkaOptions { heap_mb: 256, properties, ..KafkaOptions::default() }).await
}

async fn bounded_and_whole(pipeline: &Pipeline, size: &Size) -> Result<()> {
    for name in TOPICS {
        pipeline
            .kafka_writer()
            .create_topic(&pipeline.data_topic(name), size.partitions_of_topic, &[])
            .await?;
    }
    // The source is still in the first hour: none of them closes.
    let first_hour = LONG_AGO_S / HOUR_S * HOUR_S;
    Positions::new(pipeline).await?.commit(first_hour + 10).await?;
    let environment = pipeline
        .sink_environment()
        .set("MEMORY_LIMIT", format!("{}MiB", size.memory_limit / MIB))
        .set("FLUSH_INTERVAL", "1h")
        .set("SHUTDOWN_TIMEOUT", format!("{}s", size.limit.as_secs()))
        .set("ROLL_BYTES", "128MiB");
    let mut sink = pipeline.start(Binary::Sink, environment)?;
    let partitions = TOPICS.len() * usize::try_from(size.partitions_of_topic)?;
    wait::until("all chains are begun", size.limit, || async {
        let assigned = || anyhow::Ok(sink.metrics()?.sum("cdc_sink_assigned_partitions"));
        Ok((sink.is_ready() && assigned()? == Some(f64::from(u32::try_from(partitions)?))).then_some(()))
    })
    .await?;
    let at_rest = resident(&sink, "VmHWM")?;

    let block = usize::try_from(size.memory_limit * TIMES_LIMIT)?
        .div_ceil(partitions * RECORD_BYTES * usize::try_from(HOURS)?);
    write(pipeline, size, first_hour, block).await?;
    let records = partitions * usize::try_from(HOURS)? * block;
    let (mut paused, mut buffered) = (false, 0.0_f64);
    let read = wait::until("everything is read", size.limit, || {
        let mut look = || {
            let metrics = sink.metrics()?;
            buffered = buffered.max(metrics.sum("cdc_sink_buffer_bytes").context("buffer_bytes")?);
            paused |= metrics.sum("cdc_sink_paused_partitions") > Some(0.0);
            anyhow::Ok(metrics.sum("cdc_sink_records_total").context("records_total")?)
        };
        let read = look();
        let running = sink.assert_running();
        async move {
            running?;
            Ok((read? >= f64::from(u32::try_from(records)?)).then_some(()))
        }
    });
    read.await?;
    ensure!(paused, "it never paused, though it read {TIMES_LIMIT} times its limit");
    let before_drain = rows_by_hour(pipeline).await?;
    ensure!(!before_drain.is_empty(), "nothing was written early");

    let peak = drained(&mut sink, size.limit).await?;
    eprintln!(
        "{partitions} partitions: {} MiB at rest, limit {} MiB, {} MiB read, {} MiB buffered and {} MiB resident at most",
        at_rest / MIB,
        size.memory_limit / MIB,
        size.memory_limit * TIMES_LIMIT / MIB,
        (buffered / 1024.0 / 1024.0).ceil(),
        peak / MIB,
    );
    ensure!(peak <= at_rest + size.memory_limit + MARGIN, "{} MiB were resident", peak / MIB);

    let (evidence, violations) = judge(pipeline, &mut []).await?;
    violations.none()?;
    ensure!(evidence.data_records() == records && evidence.dead_letters() == 0, "not all of {records} rows");
    let of_each = i64::try_from(records)? / HOURS;
    let wanted = (0..HOURS).map(|hour| (instant(first_hour + hour * HOUR_S), of_each)).collect();
    let found = rows_by_hour(pipeline).await?;
    ensure!(found == wanted, "rows by hour: {found:?}");
    Ok(())
}

/// One transaction for each topic and hour.
async fn write(pipeline: &Pipeline, size: &Size, first_hour: i64, block: usize) -> Result<()> {
    let mut number = 0;
    for hour in 0..HOURS {
        for name in TOPICS {
            let mut records = Vec::new();
            for partition in 0..size.partitions_of_topic {
                for _ in 0..block {
                    number += 1;
                    let event = event_of(pipeline, name, number, first_hour + hour * HOUR_S + 5);
                    records.push((partition, padded(event, RECORD_BYTES)));
                }
            }
            pipeline.kafka_writer().send_to_partitions(&pipeline.data_topic(name), records).await?;
        }
    }
    Ok(())
}

/// Ends the sink, which writes the rest; what it took at most in its whole life, in bytes.
async fn drained(sink: &mut Service, limit: Duration) -> Result<u64> {
    let mut peak = resident(sink, "VmHWM")?;
    sink.sigterm()?;
    let begun = Instant::now();
    while sink.is_running()? && begun.elapsed() < limit {
        // A process that has just ended says nothing of its memory.
        peak = peak.max(resident(sink, "VmHWM").unwrap_or(0));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let code = sink.exit_code(LIMIT).await?;
    ensure!(code == 0 && sink.log_text()?.contains(r#""drained":true"#), "{code}\n{}", sink.log_tail());
    Ok(peak)
}

async fn rows_by_hour(pipeline: &Pipeline) -> Result<BTreeMap<String, i64>> {
    let mut rows = BTreeMap::new();
    for file in pipeline.lake().files().await? {
        let hour = (0..HOURS).map(|hour| LONG_AGO_S / HOUR_S * HOUR_S + hour * HOUR_S);
        let hour = hour.into_iter().find(|hour| file.path.contains(&format!("/{}/", folder_of(*hour))));
        *rows.entry(hour.map_or(file.path.clone(), instant)).or_default() += file.number("rows")?;
    }
    Ok(rows)
}

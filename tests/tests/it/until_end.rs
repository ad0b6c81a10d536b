//! `sink-service run --until-end`.
//!
//! Goal: exit code 0 says that the lake has everything that Kafka held when the sink was given its partitions, whatever the log's end is made of,
//! and the end comes although records go on coming. Method: the test writes topics, runs sinks to their end, and compares positions with the high
//! watermarks that it took before it started them.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    ledger::{Violations, judge_lake},
    pipeline::Pipeline,
    service::{Binary, Environment, Service},
    wait,
};

use crate::{
    records::{LONG_AGO_S, changes},
    stage::{LIMIT, Stage},
};

/// An idle position is published after 45 s; this has to be far less.
const RUN_LIMIT: Duration = Duration::from_secs(25);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_ends_at_the_end_in_a_directory() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline("untilenddir")?;
    to_the_end(&pipeline, &pipeline.sink_environment()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_ends_at_the_end_in_azurite() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline_into_azurite("untilendazure").await?;
    to_the_end(&pipeline, &pipeline.sink_environment()).await
}

/// Flushes and files would be due much later by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_ends_its_sealed_files_in_a_directory() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline("untilendsealed")?;
    to_the_end(&pipeline, &sealed(&pipeline)).await?;
    all_sealed(&pipeline).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_ends_its_sealed_files_in_azurite() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline_into_azurite("untilendsealedazure").await?;
    to_the_end(&pipeline, &sealed(&pipeline)).await?;
    all_sealed(&pipeline).await
}

fn sealed(pipeline: &Pipeline) -> Environment {
    pipeline.sink_environment().set("PUBLISH", "sealed").set("FLUSH_INTERVAL", "1h")
}

async fn all_sealed(pipeline: &Pipeline) -> Result<()> {
    for file in pipeline.lake().files().await? {
        ensure!(file.text("sealed")? == "true", "{} is not sealed", file.path);
    }
    Ok(())
}

fn start(pipeline: &Pipeline, name: &str, environment: &Environment) -> Result<Service> {
    let line = ["run", "--until-end"];
    Service::start_with(Binary::Sink, name, &line, environment.clone(), pipeline.folder())
}

async fn ends_with_0(sink: &mut Service, limit: Duration) -> Result<()> {
    let code = sink.exit_code(limit).await?;
    ensure!(code == 0, "{} ends with {code}\n{}", sink.name(), sink.log_tail());
    let log = sink.log_text()?;
    ensure!(log.contains("the end is reached") && log.contains(r#""stopped""#), "{log}");
    Ok(())
}

async fn ends(pipeline: &Pipeline, topic: &str) -> Result<BTreeMap<(String, i32), i64>> {
    Ok(pipeline.kafka().high_watermarks([topic.to_owned()]).await?.into_iter().collect())
}

/// The lake's positions have reached these ends.
async fn reached(pipeline: &Pipeline, ends: &BTreeMap<(String, i32), i64>) -> Result<()> {
    let positions = pipeline.lake().positions().await?;
    for (partition, end) in ends {
        let position = positions.get(partition).with_context(|| format!("{partition:?} has no chain"))?;
        ensure!(position >= end, "{partition:?} is at {position} of {end}");
    }
    Ok(())
}

/// What Kafka has and the lake has, row for row.
async fn judge(pipeline: &Pipeline, records: usize) -> Result<()> {
    let evidence = pipeline.evidence().await?;
    let mut violations = Violations::default();
    judge_lake(&evidence, &mut violations);
    violations.none()?;
    ensure!(evidence.data_records() == records, "{} records", evidence.data_records());
    Ok(())
}

/// Which writer's which commit each file is.
async fn commits(pipeline: &Pipeline) -> Result<BTreeMap<String, String>> {
    let facts = ["writer", "seq", "next", "rows", "storedsize"];
    let mut commits = BTreeMap::new();
    for file in pipeline.lake().files().await? {
        let facts: Vec<&str> = facts.iter().map(|name| file.text(name)).collect::<Result<_>>()?;
        commits.insert(file.path.clone(), facts.join(" "));
    }
    Ok(commits)
}

async fn to_the_end(pipeline: &Pipeline, environment: &Environment) -> Result<()> {
    let topic = pipeline.data_topic("orders");
    let writer = pipeline.kafka_writer();
    // The third partition stays empty.
    writer.create_topic(&topic, 4, &[]).await?;
    writer.send(&topic, 0, changes(pipeline, 0..50, LONG_AGO_S)).await?;
    writer.send(&topic, 1, changes(pipeline, 50..80, LONG_AGO_S)).await?;
    writer.send_aborted(&topic, 1, changes(pipeline, 80..90, LONG_AGO_S)).await?;
    writer.send_aborted(&topic, 3, changes(pipeline, 90..95, LONG_AGO_S)).await?;
    let wanted = ends(pipeline, &topic).await?;
    ensure!(wanted.values().copied().collect::<Vec<_>>() == [51, 42, 0, 6], "{wanted:?}");

    let mut first = start(pipeline, "first", environment)?;
    ends_with_0(&mut first, RUN_LIMIT).await?;
    reached(pipeline, &wanted).await?;
    judge(pipeline, 80).await?;
    let group = pipeline.sink_group();
    wait::until("the offsets are committed", LIMIT, || async {
        let committed = pipeline.kafka().committed(&group, [topic.clone()]).await?;
        let of = |number: i32| committed.get(&(topic.clone(), number)).copied();
        Ok(((of(0), of(1)) == (Some(51), Some(42))).then_some(()))
    })
    .await?;

    // Nothing has come since.
    let before = (commits(pipeline).await?, pipeline.lake().positions().await?);
    ensure!(before.0.len() == 2, "{before:?}");
    let mut second = start(pipeline, "second", environment)?;
    ends_with_0(&mut second, RUN_LIMIT).await?;
    let after = (commits(pipeline).await?, pipeline.lake().positions().await?);
    ensure!(before == after, "{before:?}, and then {after:?}");

    writer.send(&topic, 2, changes(pipeline, 100..110, LONG_AGO_S)).await?;
    let wanted = ends(pipeline, &topic).await?;
    let mut third = start(pipeline, "third", environment)?;
    ends_with_0(&mut third, RUN_LIMIT).await?;
    reached(pipeline, &wanted).await?;
    judge(pipeline, 90).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_go_on_coming_do_not_prolong_it() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline("untilendbusy")?;
    let topic = pipeline.data_topic("orders");
    let writer = pipeline.kafka_writer();
    writer.create_topic(&topic, 2, &[]).await?;
    writer.send(&topic, 0, changes(&pipeline, 0..500, LONG_AGO_S)).await?;
    let wanted = ends(&pipeline, &topic).await?;
    let over = AtomicBool::new(false);
    let go_on_writing = async {
        let mut number = 500;
        while !over.load(Ordering::Relaxed) {
            for partition in 0..2 {
                let rows = changes(&pipeline, number..number + 5, LONG_AGO_S);
                writer.send(&topic, partition, rows).await?;
                number += 5;
            }
        }
        anyhow::Ok(usize::try_from(number)?)
    };
    let run = async {
        let mut sink = start(&pipeline, "busy", &pipeline.sink_environment())?;
        let ended = ends_with_0(&mut sink, RUN_LIMIT).await;
        let written = ends(&pipeline, &topic).await?;
        over.store(true, Ordering::Relaxed);
        ended?;
        anyhow::Ok(written)
    };
    let (records, written) = tokio::try_join!(go_on_writing, run)?;
    let before: i64 = wanted.values().sum();
    let meanwhile: i64 = written.values().sum::<i64>() - before;
    // More than one transaction, of six offsets.
    ensure!(meanwhile > 6, "only {meanwhile} offsets were written meanwhile");
    reached(&pipeline, &wanted).await?;
    let mut last = start(&pipeline, "last", &pipeline.sink_environment())?;
    ends_with_0(&mut last, RUN_LIMIT).await?;
    reached(&pipeline, &ends(&pipeline, &topic).await?).await?;
    judge(&pipeline, records).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sinks_of_a_group_share_the_work() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline("untilendtwo")?;
    let topic = pipeline.data_topic("orders");
    let writer = pipeline.kafka_writer();
    writer.create_topic(&topic, 4, &[]).await?;
    let rows = (0..4).flat_map(|partition| {
        let first = i64::from(partition) * 1000;
        changes(&pipeline, first..first + 1000, LONG_AGO_S).into_iter().map(move |row| (partition, row))
    });
    writer.send_to_partitions(&topic, rows.collect()).await?;
    let wanted = ends(&pipeline, &topic).await?;
    let environment = pipeline.sink_environment().set("SHUTDOWN_TIMEOUT", "10s");
    let mut sinks = [start(&pipeline, "one", &environment)?, start(&pipeline, "two", &environment)?];
    for sink in &mut sinks {
        ends_with_0(sink, LIMIT).await?;
    }
    reached(&pipeline, &wanted).await?;
    judge(&pipeline, 4000).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_without_a_partition_ends_too() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline("untilendmore")?;
    let environment = pipeline.sink_environment().set("SHUTDOWN_TIMEOUT", "5s");
    // No topic is there yet.
    let mut nothing = start(&pipeline, "nothing", &environment)?;
    ends_with_0(&mut nothing, RUN_LIMIT).await.context("without a topic")?;

    let topic = pipeline.data_topic("orders");
    let writer = pipeline.kafka_writer();
    writer.create_topic(&topic, 1, &[]).await?;
    writer.send(&topic, 0, changes(&pipeline, 0..50, LONG_AGO_S)).await?;
    let wanted = ends(&pipeline, &topic).await?;
    // One that goes on has the only partition.
    let mut live = pipeline.start(Binary::Sink, environment.clone())?;
    live.wait_until_ready().await?;
    let mut idle = start(&pipeline, "idle", &environment)?;
    ends_with_0(&mut idle, RUN_LIMIT).await.context("beside another")?;
    live.stop(LIMIT).await?;
    two_for_one_partition(&pipeline, &environment).await?;
    reached(&pipeline, &wanted).await?;
    judge(&pipeline, 50).await
}

/// It has not looked at everything, so what follows it must not go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_before_the_end_gives_75() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline("untilendsignal")?;
    // Nothing to read: it waits that long for what the group may give it.
    let environment = pipeline.sink_environment().set("SHUTDOWN_TIMEOUT", "10m");
    let mut sink = start(&pipeline, "waits", &environment)?;
    sink.wait_until_ready().await?;
    sink.sigterm()?;
    let code = sink.exit_code(LIMIT).await?;
    ensure!(code == 75 && sink.log_text()?.contains("before the end"), "{code}\n{}", sink.log_tail());
    Ok(())
}

/// The client does not say that the broker gives it nothing: the second one ends when the first one has, and its partition moves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_without_a_partition_ends_after_the_others_where_the_broker_assigns() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline("untilendbroker")?;
    let environment = pipeline
        .sink_environment()
        .set("KAFKA_GROUP_PROTOCOL", "consumer")
        .set("KAFKA_OPTIONS", "topic.metadata.refresh.interval.ms=2000");
    let topic = pipeline.data_topic("orders");
    let writer = pipeline.kafka_writer();
    writer.create_topic(&topic, 1, &[]).await?;
    writer.send(&topic, 0, changes(&pipeline, 0..50, LONG_AGO_S)).await?;
    let wanted = ends(&pipeline, &topic).await?;
    two_for_one_partition(&pipeline, &environment).await?;
    reached(&pipeline, &wanted).await?;
    judge(&pipeline, 50).await
}

async fn two_for_one_partition(pipeline: &Pipeline, environment: &Environment) -> Result<()> {
    let mut sinks = [start(pipeline, "one", environment)?, start(pipeline, "two", environment)?];
    for sink in &mut sinks {
        ends_with_0(sink, LIMIT).await?;
    }
    Ok(())
}

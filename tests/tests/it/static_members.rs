//! Static membership: sinks with a `GROUP_INSTANCE_ID`.
//!
//! Goal: a sink that is restarted within its session has the partitions that it had, and the other sink of the group does not notice: nothing
//! is revoked from it, nothing is assigned to it. Of two sinks with one id one ends, with its own exit code and a message. Nothing is lost or
//! doubled. Method: two sinks under writes, one of which ends and starts again; then one more with the id of a running one. On both protocols.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    pipeline::Pipeline,
    service::{Binary, Environment, Service},
    wait,
};

use crate::{
    closing::partitions_of,
    records::{LONG_AGO_S, event, judge},
    stage::{LIMIT, Stage},
};

const PARTITIONS: i32 = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// The session is the member's own setting. A newer member with the same id fences the older one.
    Classic,
    /// KIP-848: the session is the broker's, 45 s. The older member stays, a newer one is turned away until it has left.
    Consumer,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_within_the_session_moves_nothing() -> Result<()> {
    restart_and_clash("staticclassic", Protocol::Classic).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_within_the_brokers_session_moves_nothing() -> Result<()> {
    restart_and_clash("staticbroker", Protocol::Consumer).await
}

async fn restart_and_clash(name: &str, protocol: Protocol) -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline(name)?;
    pipeline.kafka_writer().create_topic(&pipeline.data_topic("orders"), PARTITIONS, &[]).await?;
    let mut written = 0;
    write(&pipeline, &mut written).await?;
    let mut other = pipeline.start(Binary::Sink, environment(&pipeline, protocol, "b"))?;
    other.wait_until_ready().await?;
    let mut restarted = pipeline.start(Binary::Sink, environment(&pipeline, protocol, "a"))?;
    let (before, of_other) = shared_out(&restarted, &other).await?;
    let undisturbed = rebalances(&other)?;

    restarted.stop(LIMIT).await?;
    write(&pipeline, &mut written).await?;
    let mut restarted = pipeline.start(Binary::Sink, environment(&pipeline, protocol, "a"))?;
    ensure!(shared_out(&restarted, &other).await? == (before.clone(), of_other.clone()), "other partitions");
    if protocol == Protocol::Classic {
        restarted.kill9()?;
        write(&pipeline, &mut written).await?;
        restarted = pipeline.start(Binary::Sink, environment(&pipeline, protocol, "a"))?;
        let after = shared_out(&restarted, &other).await?;
        ensure!(after == (before.clone(), of_other.clone()), "other partitions after a kill");
    }
    write(&pipeline, &mut written).await?;
    pipeline.wait_for_lake(&mut [&mut restarted, &mut other]).await?;
    ensure!(rebalances(&other)? == undisturbed, "the other sink noticed:\n{}", other.log_tail());

    let mut newer = pipeline.start(Binary::Sink, environment(&pipeline, protocol, "a"))?;
    let mut stays = match protocol {
        Protocol::Classic => {
            ends_with(&mut restarted, 22, "another sink with the same GROUP_INSTANCE_ID has joined").await?;
            newer
        }
        Protocol::Consumer => {
            ends_with(&mut newer, 75, "the group still has a member with this GROUP_INSTANCE_ID").await?;
            restarted
        }
    };
    write(&pipeline, &mut written).await?;
    ensure!(shared_out(&stays, &other).await? == (before, of_other), "other partitions after a clash");
    let (evidence, violations) = judge(&pipeline, &mut [&mut stays, &mut other]).await?;
    violations.none()?;
    let found = evidence.data_records();
    ensure!(found == usize::try_from(written)? && evidence.dead_letters() == 0, "{found} of {written}");
    ensure!(rebalances(&other)? == undisturbed, "the other sink noticed:\n{}", other.log_tail());
    Ok(())
}

fn environment(pipeline: &Pipeline, protocol: Protocol, id: &str) -> Environment {
    let environment = pipeline.sink_environment().set("GROUP_INSTANCE_ID", id);
    match protocol {
        // Long enough for a start while other tests have the machine.
        Protocol::Classic => environment.set(
            "KAFKA_OPTIONS",
            "session.timeout.ms=30000,heartbeat.interval.ms=500,topic.metadata.refresh.interval.ms=2000",
        ),
        Protocol::Consumer => environment
            .set("KAFKA_GROUP_PROTOCOL", "consumer")
            .set("KAFKA_OPTIONS", "topic.metadata.refresh.interval.ms=2000"),
    }
}

/// Some records for each partition.
async fn write(pipeline: &Pipeline, written: &mut i64) -> Result<()> {
    let each = i64::from(PARTITIONS) * 5;
    let records = (*written..*written + each).map(|number| {
        let partition = i32::try_from(number % i64::from(PARTITIONS))?;
        anyhow::Ok((partition, event(pipeline, number, LONG_AGO_S)))
    });
    let records = records.collect::<Result<_>>()?;
    *written += each;
    pipeline.kafka_writer().send_to_partitions(&pipeline.data_topic("orders"), records).await
}

/// Waits until each of two sinks has some partitions of the topic and reads them, and both together have all; whose they are.
async fn shared_out(one: &Service, other: &Service) -> Result<(BTreeSet<i64>, BTreeSet<i64>)> {
    wait::until("the partitions are shared out", LIMIT, || async {
        if !one.is_ready() || !other.is_ready() {
            return Ok(None);
        }
        let (of_one, of_other) = (numbers_of(one)?, numbers_of(other)?);
        let all = of_one.union(&of_other).count() == usize::try_from(PARTITIONS)?;
        let whole = all && of_one.is_disjoint(&of_other) && !of_one.is_empty() && !of_other.is_empty();
        Ok(whole.then_some((of_one, of_other)))
    })
    .await
}

fn numbers_of(sink: &Service) -> Result<BTreeSet<i64>> {
    let orders = |partition: &&serde_json::Value| {
        partition["topic"].as_str().is_some_and(|topic| topic.ends_with(".orders"))
    };
    let partitions = partitions_of(sink)?;
    partitions.iter().filter(orders).map(|one| one["partition"].as_i64().context("a number")).collect()
}

/// Assignments, revocations and losses so far. With the cooperative protocol a rebalance in which a member keeps what it has may still tell
/// it of an assignment, of nothing: what is asked here is that it is told nothing at all.
fn rebalances(sink: &Service) -> Result<(f64, usize)> {
    let log = sink.log_text()?;
    let told = log.lines().filter(|line| line.contains(r#""revoked""#) || line.contains(r#""assigned""#));
    Ok((sink.metrics()?.sum("cdc_sink_rebalances_total").context("rebalances")?, told.count()))
}

async fn ends_with(sink: &mut Service, expected: i32, message: &str) -> Result<()> {
    let code = sink.exit_code(LIMIT).await?;
    ensure!(
        code == expected && sink.log_text()?.contains(message),
        "it ended with {code}\n{}",
        sink.log_tail()
    );
    Ok(())
}

//! The ledger can fail: classic mistakes, planted in a special build, are each caught by it.
//!
//! Every test is a scenario that the product passes and that this one mistake does not survive.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use pipeline_tests::{
    ledger::{ViolationKind, Violations},
    pipeline::Pipeline,
    service::{Binary, Service},
    wait,
    workload::Pace,
};

use crate::{
    closing::wait_for_hours,
    records::{LONG_AGO_S, events, judge, make_topic},
    stage::{LIMIT, Run, Stage},
};

/// Passes if the ledger found one of these kinds.
fn caught(violations: &Violations, kinds: &[ViolationKind]) -> Result<()> {
    ensure!(kinds.iter().any(|&kind| violations.has(kind)), "none of {kinds:?} was found, but\n{violations}");
    Ok(())
}

fn buggy_source(pipeline: &Pipeline, bug: &str) -> Result<Service> {
    pipeline.start(Binary::SourceWithSeededBugs, pipeline.source_environment().set("SEEDED_BUG", bug))
}

async fn buggy_sink(pipeline: &Pipeline, bug: &str) -> Result<Service> {
    let mut sink =
        pipeline.start(Binary::SinkWithSeededBugs, pipeline.sink_environment().set("SEEDED_BUG", bug))?;
    sink.wait_until_ready().await?;
    Ok(sink)
}

/// One record in a thousand is skipped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_record_is_lost_in_kafka() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("bugdropped")?;
    let client = stage.mongod.client().await?;
    let mut source = buggy_source(&pipeline, "dropped-record")?;
    source.wait_until_ready().await?;
    let run = Run::start_with(&pipeline, &client, Pace::Unlimited, source).await?;
    run.workload.wait_for(1_500, LIMIT).await?;
    let (expected, mut source) = run.finish().await?;
    pipeline.wait_for_kafka(&expected, &mut [&mut source]).await?;
    caught(&expected.judge(&pipeline.evidence_of_kafka().await?), &[ViolationKind::LostInKafka])
}

/// Killed between token and commit, the source goes on behind events that were never committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_outside_the_transaction_loses_events() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("bugtoken")?;
    let client = stage.mongod.client().await?;
    let mut source = buggy_source(&pipeline, "token-outside-transaction")?;
    source.wait_until_ready().await?;
    let mut run = Run::start_with(&pipeline, &client, Pace::Unlimited, source).await?;
    // A transaction takes a few milliseconds of each round: a dozen kills hit one.
    for _ in 0..12 {
        run.workload.wait_for(60, LIMIT).await?;
        run.source.kill9()?;
        run.source = buggy_source(&pipeline, "token-outside-transaction")?;
        run.source.wait_until_ready().await?;
    }
    let (expected, mut source) = run.finish().await?;
    pipeline.wait_for_kafka(&expected, &mut [&mut source]).await?;
    let violations = expected.judge(&pipeline.evidence_of_kafka().await?);
    caught(&violations, &[ViolationKind::LostInKafka, ViolationKind::TornToken])
}

/// Offsets run ahead of the rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_before_the_flush_are_ahead_of_the_chain() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("bugoffsets")?;
    let topic = make_topic(&pipeline).await?;
    let environment = pipeline.sink_environment().set("SEEDED_BUG", "offsets-before-flush");
    // Rows wait long, so that there is a moment between the commit and the flush.
    let environment = environment.set("FLUSH_INTERVAL", "20s");
    let mut sink = pipeline.start(Binary::SinkWithSeededBugs, environment)?;
    sink.wait_until_ready().await?;
    // What it is told of hours that are over would make it flush at once.
    wait_for_hours(&sink).await?;
    pipeline.kafka_writer().send(&topic, 0, events(&pipeline, 0..50, LONG_AGO_S)).await?;
    wait::until("offsets are committed", LIMIT, || async {
        let committed = pipeline.kafka().committed(&pipeline.sink_group(), [topic.clone()]).await?;
        Ok(committed.values().any(|&offset| offset > 0).then_some(()))
    })
    .await?;
    sink.kill9()?;
    let mut violations = Violations::default();
    pipeline_tests::ledger::judge_lake(&pipeline.evidence().await?, &mut violations);
    caught(&violations, &[ViolationKind::OffsetAhead])
}

/// A frozen sink wakes up with rows in hand that another one has long written, and overwrites what came after them.
///
/// Whether its put is late is not in the test's hands: on a busy machine it may have flushed before it was stopped, or
/// hears of its revocation before it flushes. So the scene is played until the put lands, each time on new ground.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_without_condition_overwrites_the_successors_rows() -> Result<()> {
    let stage = Stage::shared().await?;
    for round in 0..LATE_PUT_ROUNDS {
        let pipeline = stage.pipeline_into_azurite(&format!("bugput{round}")).await?;
        match late_put(&pipeline).await? {
            LatePut::Landed => {
                let mut violations = Violations::default();
                pipeline_tests::ledger::judge_lake(&pipeline.evidence().await?, &mut violations);
                return caught(&violations, &[ViolationKind::LostInLake, ViolationKind::OffsetAhead]);
            }
            missed => eprintln!("round {round}: {missed:?}"),
        }
    }
    bail!("in {LATE_PUT_ROUNDS} rounds no late put landed")
}

const LATE_PUT_ROUNDS: u32 = 6;

/// How long a sink that was woken may take for its put.
const LATE_PUT_LIMIT: Duration = Duration::from_secs(15);

#[derive(Debug)]
enum LatePut {
    Landed,
    /// The rows that should have been late were in the lake before their sink was stopped.
    FlushedBeforeStop,
    /// The sink woke up and did not put them.
    GivenUp,
}

/// One round: whether the frozen sink's rows land behind its successor's.
async fn late_put(pipeline: &Pipeline) -> Result<LatePut> {
    let topic = make_topic(pipeline).await?;
    let key = (topic.clone(), 0);
    let position =
        || async { anyhow::Ok(pipeline.lake().positions().await?.get(&key).copied().unwrap_or(0)) };
    let writer = pipeline.kafka_writer();
    let environment = pipeline.sink_environment().set("SEEDED_BUG", "unconditional-put");
    // The first rows are flushed by their number. The second ones wait, but not as long as the group waits for a member
    // that is silent (`session.timeout.ms`): whoever sleeps that long wakes up with a flush that is due.
    let held = environment.clone().set("FLUSH_ROWS", 20).set("FLUSH_INTERVAL", "4s");
    let mut frozen = pipeline.start(Binary::SinkWithSeededBugs, held)?;
    frozen.wait_until_ready().await?;
    writer.send(&topic, 0, events(pipeline, 0..20, LONG_AGO_S)).await?;
    pipeline.wait_for_lake(&mut [&mut frozen]).await?;
    let first_rows = position().await?;
    writer.send(&topic, 0, events(pipeline, 20..30, LONG_AGO_S)).await?;
    wait::until("the second rows are in hand", LIMIT, || async {
        Ok((frozen.metrics()?.sum("cdc_sink_records_total") >= Some(30.0)).then_some(()))
    })
    .await?;
    frozen.sigstop()?;
    if position().await? > first_rows {
        return Ok(LatePut::FlushedBeforeStop);
    }

    let mut successor =
        pipeline.start(Binary::SinkWithSeededBugs, environment.set("FLUSH_INTERVAL", "100ms"))?;
    writer.send(&topic, 0, events(pipeline, 30..60, LONG_AGO_S)).await?;
    pipeline.wait_for_lake(&mut [&mut successor]).await?;
    let before = position().await?;
    frozen.sigcont()?;
    let woken = Instant::now();
    while woken.elapsed() < LATE_PUT_LIMIT {
        if position().await? < before {
            return Ok(LatePut::Landed);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(LatePut::GivenUp)
}

/// Events of another hour land in the clock's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_from_the_clock_is_the_wrong_hour() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("bughour")?;
    let topic = make_topic(&pipeline).await?;
    pipeline.kafka_writer().send(&topic, 0, events(&pipeline, 0..20, LONG_AGO_S)).await?;
    let mut sink = buggy_sink(&pipeline, "hour-from-clock").await?;
    let (_, violations) = judge(&pipeline, &mut [&mut sink]).await?;
    caught(&violations, &[ViolationKind::WrongHour])
}

/// The hour changes and the old file stays open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_without_seal_is_seen() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("bugseal")?;
    let topic = make_topic(&pipeline).await?;
    let mut records = events(&pipeline, 0..20, LONG_AGO_S);
    records.extend(events(&pipeline, 20..40, LONG_AGO_S + 3_600));
    pipeline.kafka_writer().send(&topic, 0, records).await?;
    let mut sink = buggy_sink(&pipeline, "roll-without-seal").await?;
    let (_, violations) = judge(&pipeline, &mut [&mut sink]).await?;
    caught(&violations, &[ViolationKind::NotSealed])
}

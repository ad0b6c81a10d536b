//! A source that delivers at least once.
//!
//! Goal: behind `DELIVERY=at-least-once` every event is in Kafka, some of them more than once, and in the lake once, in order, whoever is killed.
//! Method: the source is killed fifty times in all under a workload, at times two of it run at once, and sinks are killed too. What repeats an event in its partition
//! is taken out of what was read from Kafka, by the events' ids alone; the rest and the lake are judged as ever.
//!
//! Where two sources write by turns into one partition, each of their events is one row too: records of the test's own, with sinks killed between
//! them, and the control topic of two sources that both run twice.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use mongodb::bson::doc;
use pipeline_tests::{
    kafka_writer::NewRecord,
    ledger::Evidence,
    pipeline::Pipeline,
    service::{Binary, Service},
    wait,
    workload::Pace,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    closing::{HOUR_S, Positions, closed, named_as_they_are},
    records::{LONG_AGO_S, event},
    stage::{LIMIT, Run, Stage},
};

/// On each target.
const KILLS: u32 = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_killed_source_do_not_reach_a_directory() -> Result<()> {
    let stage = Stage::shared().await?;
    kill_the_source(&stage.pipeline("repeatsdir")?, stage).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_killed_source_do_not_reach_azurite() -> Result<()> {
    let stage = Stage::shared().await?;
    kill_the_source(&stage.pipeline_into_azurite("repeatsazure").await?, stage).await
}

/// Takes out what its partition has already, and says how much that was.
fn without_repeats(evidence: &mut Evidence) -> usize {
    let mut repeats = 0;
    for (topic, partitions) in &mut evidence.kafka.topics {
        if topic.contains(".resume-tokens-") {
            continue;
        }
        for part in partitions.values_mut() {
            let mut seen = HashSet::new();
            let before = part.records.len();
            part.records.retain(|record| {
                let id = record.header("event-id").map(str::to_owned);
                id.is_none_or(|id| seen.insert(id))
            });
            repeats += before - part.records.len();
        }
    }
    repeats
}

async fn kill_the_source(pipeline: &Pipeline, stage: &Stage) -> Result<()> {
    let seed: u64 = rand::random();
    eprintln!("kills of {}: seed {seed}", pipeline.database());
    let mut random = StdRng::seed_from_u64(seed);
    let client = stage.mongod.client().await?;
    let environment = || pipeline.source_environment().set("DELIVERY", "at-least-once");
    let mut source = pipeline.start(Binary::Source, environment())?;
    source.wait_until_ready().await?;
    let mut run = Run::start_with(pipeline, &client, Pace::PerSecond(300), source).await?;
    let mut sinks = [pipeline.start_sink()?, pipeline.start_sink()?];
    for kill in 0..KILLS {
        run.workload.wait_for(random.random_range(20..300), LIMIT).await?;
        let next = pipeline.start(Binary::Source, environment());
        if kill % 6 == 5 {
            // Nothing fences: for a while both publish the same.
            let mut both = next?;
            both.wait_until_ready().await?;
            run.workload.wait_for(random.random_range(50..150), LIMIT).await?;
            run.source.kill9()?;
            run.source = both;
            let victim = random.random_range(0..sinks.len());
            sinks[victim].kill9()?;
            sinks[victim] = pipeline.start_sink()?;
        } else {
            run.source.kill9()?;
            run.source = next?;
        }
    }
    let (expected, mut source) = run.finish().await?;
    let [one, two] = &mut sinks;
    pipeline.wait_for_kafka(&expected, &mut [&mut source, one, two]).await?;
    source.stop(LIMIT).await?;
    let mut in_kafka = pipeline.evidence_of_kafka().await?;
    let repeats = without_repeats(&mut in_kafka);
    eprintln!("{repeats} of {} records repeat an event", in_kafka.data_records() + repeats);
    ensure!(repeats > 0, "nothing was published twice: the test shows nothing");
    // A repeat at the very end is passed over without a file that says so at once.
    wait::until("the lake has every event", LIMIT, || async {
        let positions = pipeline.lake().positions().await?;
        let is_there = |topic: &String, partition: i32, end: i64| {
            positions.get(&(topic.clone(), partition)).is_some_and(|position| *position >= end)
        };
        let mut last = in_kafka.kafka.topics.iter().flat_map(|(topic, partitions)| {
            let ends = partitions
                .iter()
                .filter_map(|(partition, part)| Some((*partition, part.records.last()?.offset + 1)));
            ends.map(move |(partition, end)| (topic, partition, end))
        });
        let archived = |topic: &String| in_kafka.topics.is_archived(topic);
        Ok(last
            .all(|(topic, partition, end)| !archived(topic) || is_there(topic, partition, end))
            .then_some(()))
    })
    .await
    .with_context(|| sinks.iter().map(Service::log_tail).collect::<String>())?;

    let mut evidence = pipeline.evidence().await?;
    without_repeats(&mut evidence);
    expected.judge(&evidence).none()?;
    ensure!(evidence.dead_letters() == 0, "dead letters although nothing was wrong with any event");
    let environment = pipeline.sink_environment();
    let arguments = ["verify", "--all"];
    let mut verify =
        Service::start_with(Binary::Sink, "verify-repeats", &arguments, environment, pipeline.folder())?;
    let code = verify.exit_code(LIMIT).await?;
    let text = verify.log_text()?;
    ensure!(code == 0 && text.contains("repeat an event that is there already"), "{code}\n{text}");
    Ok(())
}

/// A rebuild, also of files of which nothing is left, and `verify` pass over the same records as the live sink did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn are_passed_over_by_a_rebuild() -> Result<()> {
    let pipeline = &Stage::shared().await?.pipeline("repeatsreplay")?;
    let topic = pipeline.data_topic("orders");
    let writer = pipeline.kafka_writer();
    writer.create_topic(&topic, 1, &[]).await?;
    let positions = Positions::new(pipeline).await?;
    let begin = LONG_AGO_S / HOUR_S * HOUR_S;
    positions.commit(begin + 10).await?;
    let of = |numbers: std::ops::Range<i64>| -> Vec<NewRecord> {
        let named = |number: i64| {
            let second = begin + if number < 20 { 0 } else { HOUR_S } + number;
            event(pipeline, number, second)
                .header("event-id", &event_id(second, number))
                .header("source", "w/1")
        };
        numbers.map(named).collect()
    };
    let mut sink = pipeline.start(Binary::Sink, pipeline.sink_environment().set("ROLL_ROWS", "7"))?;
    // Within an hour, across its end, and everything from the start.
    for numbers in [0..20, 11..20, 15..30, 0..30, 25..40] {
        writer.send(&topic, 0, of(numbers)).await?;
    }
    // Other sources and nameless records are nobody's repeats.
    let strangers = vec![
        event(pipeline, 50, begin + HOUR_S + 50)
            .header("event-id", &event_id(begin + HOUR_S + 50, 1))
            .header("source", "v/1"),
        event(pipeline, 52, begin + HOUR_S + 52).header("event-id", "0b54").header("source", "billing"),
    ];
    writer.send(&topic, 0, strangers).await?;
    writer.send(&topic, 0, vec![event(pipeline, 51, begin + 2 * HOUR_S)]).await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    closed(pipeline, begin - HOUR_S).await?;
    positions.commit(begin + 2 * HOUR_S).await?;
    for hour in 0..2 {
        named_as_they_are(pipeline, begin + hour * HOUR_S, &mut [&mut sink]).await?;
    }
    let repeats = sink.metrics()?.sum("cdc_sink_repeats_total").unwrap_or_default();
    ensure!((repeats - (9.0 + 5.0 + 30.0 + 5.0)).abs() < 0.5, "{repeats} repeats are counted");
    let lines = async || -> Result<Vec<(String, Vec<u8>)>> {
        let files = pipeline.lake().read().await?.files;
        Ok(files.into_iter().map(|file| (file.path.clone(), file.bytes)).collect())
    };
    let before = lines().await?;
    let rows: usize =
        before.iter().map(|(_, bytes)| bytes.iter().filter(|byte| **byte == b'\n').count()).sum();
    ensure!(rows == 40 + 3, "{rows} rows");

    let text = run_sink(pipeline, "verify", &["verify", "--all", "--drained"]).await?;
    ensure!(text.contains("49 records of Kafka repeat an event"), "{text}");
    let sealed: Vec<&String> = before.iter().map(|(path, _)| path).collect();
    for path in &sealed[1..4] {
        pipeline.lake().delete(path).await?;
    }
    run_sink(pipeline, "replay", &["replay", "--topic", &topic, "--all"]).await?;
    ensure!(lines().await? == before, "a rebuild has made other lines");
    run_sink(pipeline, "verify-again", &["verify", "--all", "--drained"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_sources_by_turns_do_not_reach_a_directory() -> Result<()> {
    take_turns(&Stage::shared().await?.pipeline("turnsdir")?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_sources_by_turns_do_not_reach_azurite() -> Result<()> {
    take_turns(&Stage::shared().await?.pipeline_into_azurite("turnsazure").await?).await
}

/// Both sources repeat, within a batch, across flushes, files and hours, and behind a killed sink; `verify` and a rebuild agree.
async fn take_turns(pipeline: &Pipeline) -> Result<()> {
    const EVENTS: i64 = 40;
    let topic = pipeline.data_topic("orders");
    let writer = pipeline.kafka_writer();
    writer.create_topic(&topic, 1, &[]).await?;
    let positions = Positions::new(pipeline).await?;
    let begin = LONG_AGO_S / HOUR_S * HOUR_S;
    positions.commit(begin + 10).await?;
    let mut sent = 0;
    // One of each by turns; the second half is of the next hour. The same ids: only the source tells them apart.
    let mut by_turns = |numbers: std::ops::Range<i64>| -> Vec<NewRecord> {
        let of = |number: i64, source: i64| {
            let second = begin + if number < EVENTS / 2 { 0 } else { HOUR_S } + number;
            event(pipeline, 1_000 * source + number, second)
                .header("event-id", &event_id(second, number))
                .header("source", ["v/1", "w/3"][usize::from(source > 0)])
        };
        sent += 2 * (numbers.end - numbers.start);
        numbers.flat_map(|number| [of(number, 0), of(number, 1)]).collect()
    };
    let environment = || pipeline.sink_environment().set("ROLL_ROWS", "7");
    let mut sink = pipeline.start(Binary::Sink, environment())?;
    // In one batch, then across a flush.
    for numbers in [0..10, 4..12] {
        writer.send(&topic, 0, by_turns(numbers)).await?;
        pipeline.wait_for_lake(&mut [&mut sink]).await?;
    }
    // At any moment, and while nobody reads.
    writer.send(&topic, 0, by_turns(6..15)).await?;
    sink.kill9()?;
    writer.send(&topic, 0, by_turns(9..16)).await?;
    sink = pipeline.start(Binary::Sink, environment())?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    // Only repeats, then behind them another hour, and once more everything.
    sink.kill9()?;
    writer.send(&topic, 0, by_turns(0..16)).await?;
    sink = pipeline.start(Binary::Sink, environment())?;
    for numbers in [14..25, 19..30, 0..EVENTS] {
        writer.send(&topic, 0, by_turns(numbers)).await?;
    }
    writer.send(&topic, 0, vec![event(pipeline, 999, begin + 2 * HOUR_S)]).await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    closed(pipeline, begin - HOUR_S).await?;
    positions.commit(begin + 2 * HOUR_S).await?;
    for hour in 0..2 {
        named_as_they_are(pipeline, begin + hour * HOUR_S, &mut [&mut sink]).await?;
    }

    let files = || async { anyhow::Ok(pipeline.lake().read().await?.files) };
    let before = files().await?;
    let mut seen = HashSet::new();
    for file in &before {
        for line in file.lines()? {
            let line: serde_json::Value = serde_json::from_slice(line)?;
            let number = line["documentKey"]["_id"].as_i64().context("a number")?;
            ensure!(seen.insert(number), "{number} is there twice");
        }
    }
    ensure!(seen.len() == 2 * usize::try_from(EVENTS)? + 1, "{} rows", seen.len());
    ensure!(before.iter().any(|file| file.metadata.contains_key("otherevents")), "no file knows two sources");

    run_sink(pipeline, "replay", &["replay", "--topic", &topic, "--all"]).await?;
    let repeats = format!("{} records of Kafka repeat an event", sent - 2 * EVENTS);
    let text = run_sink(pipeline, "verify", &["verify", "--all", "--drained"]).await?;
    ensure!(text.contains(&repeats), "{repeats}: {text}");
    for file in &before[1..4] {
        pipeline.lake().delete(&file.path).await?;
    }
    run_sink(pipeline, "replay-lost", &["replay", "--topic", &topic, "--all"]).await?;
    let after = files().await?;
    ensure!(after.len() == before.len(), "{} files, and before {}", after.len(), before.len());
    for (after, before) in after.iter().zip(&before) {
        ensure!((&after.path, &after.bytes) == (&before.path, &before.bytes), "{} differs", before.path);
        for fact in ["first", "next", "lastevent", "otherevents"] {
            let (after, before) = (after.metadata.get(fact), before.metadata.get(fact));
            ensure!(after == before, "{fact} is {after:?}, and was {before:?}");
        }
    }
    run_sink(pipeline, "verify-again", &["verify", "--all", "--drained"]).await?;
    Ok(())
}

/// What the command says; it must end with 0.
async fn run_sink(pipeline: &Pipeline, name: &str, arguments: &[&str]) -> Result<String> {
    let environment = pipeline.sink_environment();
    let mut service = Service::start_with(Binary::Sink, name, arguments, environment, pipeline.folder())?;
    let code = service.exit_code(LIMIT).await?;
    let text = service.log_text()?;
    ensure!(code == 0, "{name}: {code}\n{text}");
    Ok(text)
}

/// Nothing fences, so each of two sources that runs twice publishes everything twice, in between the other's: definitions in the one control topic, and
/// the changes of the collections that both read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_sources_do_not_reach_the_archive() -> Result<()> {
    const ROUNDS: i32 = 6;
    let stage = Stage::shared().await?;
    let pipeline = &stage.pipeline("turnscontrol")?;
    let database = stage.mongod.client().await?.database(pipeline.database());
    let start = |id: &str| {
        let environment = pipeline.source_environment().set("DELIVERY", "at-least-once");
        pipeline.start(Binary::Source, environment.set("SOURCE_ID", id))
    };
    let mut sink = pipeline.start_sink()?;
    let mut sources = Vec::new();
    for id in ["x", "y", "x", "y"] {
        let mut source = start(id)?;
        source.wait_until_ready().await?;
        sources.push(source);
    }
    for round in 0..ROUNDS {
        let name = format!("c{round}");
        database.create_collection(&name).await?;
        let orders = database.collection("orders");
        orders.insert_many((0..20).map(|number| doc! { "_id": 20 * round + number })).await?;
        database.collection::<mongodb::bson::Document>(&name).drop().await?;
        if round == ROUNDS / 2 {
            sink.kill9()?;
            sources[0].kill9()?;
            sources[0] = start("x")?;
            sources[0].wait_until_ready().await?;
            sink = pipeline.start_sink()?;
        }
    }
    let control = pipeline.topics().control();
    let published = || async {
        let content = pipeline.evidence_of_kafka().await?.kafka;
        let of = |topic: &str| -> Result<Vec<(String, String)>> {
            let key = |record: &pipeline_tests::kafka_reader::KafkaRecord| {
                let (source, _) = record.header("source")?.split_once('/')?;
                Some((source.to_owned(), record.header("event-id")?.to_owned()))
            };
            content.records(topic).map(|record| key(record).context("an event")).collect()
        };
        anyhow::Ok((of(&control)?, of(&pipeline.data_topic("orders"))?))
    };
    wait::until("both sources have published everything", LIMIT, || async {
        let (definitions, rows) = published().await?;
        let each = |of: &[(String, String)], events: i32| {
            ["x", "y"].iter().all(|id| {
                let events_of: HashSet<_> = of.iter().filter(|(source, _)| source == id).collect();
                i32::try_from(events_of.len()).is_ok_and(|count| count >= events)
            })
        };
        // Of each round a creation and a drop.
        Ok((each(&definitions, 2 * ROUNDS) && each(&rows, 20 * ROUNDS)).then_some(()))
    })
    .await
    .with_context(|| sources.iter().map(Service::log_tail).collect::<String>())?;
    for source in &mut sources {
        source.stop(LIMIT).await?;
    }
    let (definitions, rows) = published().await?;
    // Such a repeat is not behind its own source's last event.
    let mut seen = HashSet::new();
    let mut last = None;
    let mut by_turns = 0;
    for (source, id) in &definitions {
        if seen.insert((source, id)) {
            last = Some(source);
        } else if last != Some(source) {
            by_turns += 1;
        }
    }
    ensure!(by_turns > 0, "no definition was repeated behind one of the other source: {definitions:?}");
    eprintln!("{by_turns} of {} definitions repeat one behind the other source's", definitions.len());
    let expected: HashSet<(String, String)> = definitions.into_iter().chain(rows).collect();
    let in_the_lake = || async {
        let mut seen = HashSet::new();
        for file in pipeline.lake().read().await?.files {
            for line in file.lines()? {
                let line: serde_json::Value = serde_json::from_slice(line)?;
                let text = |name: &str| line["_meta"][name].as_str().map(str::to_owned).context("a text");
                let key = (text("source")?, text("eventId")?);
                ensure!(seen.insert(key.clone()), "{key:?} is there twice, in {}", file.path);
            }
        }
        Ok(seen)
    };
    wait::until("the lake has every event once", LIMIT, || async {
        Ok((in_the_lake().await? == expected).then_some(()))
    })
    .await
    .with_context(|| sink.log_tail())?;
    run_sink(pipeline, "verify", &["verify", "--all"]).await?;
    sink.stop(LIMIT).await
}

/// Only the operator knows whether a row of a snapshot may come twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_snapshot_are_told_by_verify() -> Result<()> {
    let pipeline = &Stage::shared().await?.pipeline("repeatssnapshot")?;
    let topic = pipeline.data_topic("orders");
    let writer = pipeline.kafka_writer();
    writer.create_topic(&topic, 1, &[]).await?;
    let rows = [1, 2, 1].map(|row| {
        event(pipeline, row, LONG_AGO_S)
            .header("event-id", &format!("00~5.1~00000000~{row:08}"))
            .header("source", "w/1")
            .header("snapshot", "true")
    });
    writer.send(&topic, 0, rows.into()).await?;
    let mut sink = pipeline.start_sink()?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    for (arguments, code, says) in [
        (
            &["verify", "--all"][..],
            25,
            "p0000-00000000000000000000.jsonl: the snapshot's row at offset 2 is there twice",
        ),
        (&["verify", "--all", "--at-least-once"], 0, "1 rows of snapshots are there more than once."),
    ] {
        let environment = pipeline.sink_environment();
        let name = format!("verify-{code}");
        let mut verify = Service::start_with(Binary::Sink, &name, arguments, environment, pipeline.folder())?;
        let (found, text) = (verify.exit_code(LIMIT).await?, verify.log_text()?);
        ensure!(found == code && text.contains(says), "{found}\n{text}");
    }
    Ok(())
}

/// As a resume token begins; `records::event` has 1 as the increment.
fn event_id(seconds: i64, number: i64) -> String {
    format!("82{seconds:08X}00000001{number:06X}04")
}

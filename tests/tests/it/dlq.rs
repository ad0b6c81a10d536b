//! Dead letters looked at, sent back and given up; and a sink that stops because there are too many.
//!
//! Goal: a letter that is sent back is a row exactly once, in its own hour, whatever is killed meanwhile; what the lake holds already is never
//! sent; nothing is written without `--yes`. Method: topics with bad records, the commands as an operator types them, the ledger.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    kafka_reader::KafkaRecord,
    kafka_writer::NewRecord,
    pipeline::Pipeline,
    service::{Binary, Service},
    wait,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;

use crate::{
    closing::HOUR_S,
    records::{LONG_AGO_S, event, events, judge, make_topic},
    stage::{LIMIT, Stage},
};

const KILLS: u32 = 12;
/// They take four transactions, about half a second each in a debug build; a kill comes before, within, or after some of them.
const BAD: i64 = 400;
const PAUSE_MS: u64 = 2600;

fn start(pipeline: &Pipeline, name: &str, arguments: &[&str]) -> Result<Service> {
    let arguments: Vec<&str> = ["dlq"].into_iter().chain(arguments.iter().copied()).collect();
    Service::start_with(Binary::Sink, name, &arguments, pipeline.sink_environment(), pipeline.folder())
}

/// Runs a command to its end: its code and what it printed.
async fn run(pipeline: &Pipeline, name: &str, arguments: &[&str]) -> Result<(i32, String)> {
    let mut command = start(pipeline, name, arguments)?;
    let code = command.exit_code(LIMIT).await?;
    Ok((code, command.log_text()?))
}

async fn ok(pipeline: &Pipeline, name: &str, arguments: &[&str]) -> Result<String> {
    let (code, text) = run(pipeline, name, arguments).await?;
    ensure!(code == 0, "{name}: {code}\n{text}");
    Ok(text)
}

/// The states of all letters, by key.
async fn states(pipeline: &Pipeline, name: &str) -> Result<BTreeMap<String, Value>> {
    let text = ok(pipeline, name, &["list", "--json"]).await?;
    let letters = text.lines().map(|line| {
        let letter: Value = serde_json::from_str(line).with_context(|| format!("{line:?} is no JSON"))?;
        Ok((letter["key"].as_str().context("a key")?.to_owned(), letter))
    });
    letters.collect()
}

/// A bad record with headers of its own, of an hour of its own.
fn bad(pipeline: &Pipeline, value: &[u8], number: i64, seconds: i64) -> NewRecord {
    NewRecord { value: Some(value.to_vec()), ..event(pipeline, number, seconds) }
}

/// The records of the topic that came out of a letter.
fn sent_back(records: &[KafkaRecord]) -> Vec<&KafkaRecord> {
    records.iter().filter(|record| record.header("dlq-retry").is_some()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_listed_repaired_and_dropped_in_a_directory() -> Result<()> {
    letters_are_listed_repaired_and_dropped(&Stage::shared().await?.pipeline("dlqdir")?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_listed_repaired_and_dropped_in_azurite() -> Result<()> {
    letters_are_listed_repaired_and_dropped(&Stage::shared().await?.pipeline_into_azurite("dlqazure").await?)
        .await
}

async fn letters_are_listed_repaired_and_dropped(pipeline: &Pipeline) -> Result<()> {
    let topic = make_topic(pipeline).await?;
    let own_hour = LONG_AGO_S - 5 * HOUR_S;
    let original = NewRecord {
        timestamp_ms: Some(chrono::Utc::now().timestamp_millis() - 60_000),
        ..bad(pipeline, b"{\"no\":", 7, own_hour)
    };
    let mut records = events(pipeline, 0..60, LONG_AGO_S);
    records.insert(10, original.clone());
    records.insert(20, bad(pipeline, b"[1]", 8, LONG_AGO_S));
    records.insert(30, bad(pipeline, b"", 9, LONG_AGO_S));
    pipeline.kafka_writer().send(&topic, 0, records).await?;
    let mut sink = pipeline.ready_sink().await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;

    // A letter of a record that is a row, and one of the source in two parts: as they are written, by others than this sink.
    let dead_letters = pipeline.topics().dead_letters();
    let key = |offset: i64| format!("{topic}/0/{offset}");
    let letter = |key: &str, value: &str, reason: &str| {
        let record = NewRecord { key: Some(key.as_bytes().to_vec()), ..NewRecord::new(value) };
        record
            .header("dlq-reason", reason)
            .header("dlq-stage", "publish")
            .header("dlq-failed-at", "2026-11-20T10:00:00.000Z")
    };
    let of_a_row = letter(&key(5), "{}", "invalid-json")
        .header("dlq-original-topic", &topic)
        .header("dlq-original-partition", "0")
        .header("dlq-original-offset", "5");
    let parts = ["1/2", "2/2"].map(|part| letter("82AB", "half", "oversize").header("dlq-part", part));
    let forged = [of_a_row].into_iter().chain(parts).collect();
    pipeline.kafka_writer().send(&dead_letters, 1, forged).await?;

    let found = states(pipeline, "list").await?;
    let state = |found: &BTreeMap<String, Value>, key: &str| {
        found[key]["state"].as_str().unwrap_or_default().to_owned()
    };
    ensure!(found.len() == 5, "{found:?}");
    for (key, expected, reason) in [
        (key(10), "open", "invalid-json"),
        (key(20), "open", "not-an-object"),
        (key(30), "open", "empty"),
        (key(5), "void", "invalid-json"),
        ("82AB".to_owned(), "open", "oversize"),
    ] {
        ensure!(state(&found, &key) == expected && found[&key]["reason"] == reason, "{}", found[&key]);
    }
    ensure!(found["82AB"]["bytes"] == 8 && found["82AB"]["parts"] == 2, "{}", found["82AB"]);

    // Filters.
    for (name, arguments, count) in [
        ("by-reason", vec!["list", "--reason", "empty", "--reason", "not-an-object"], 2),
        ("by-topic", vec!["list", "--topic", &topic], 4),
        ("by-state", vec!["list", "--state", "void"], 1),
        ("by-time", vec!["list", "--to", "2026-11-21T00:00:00Z"], 2),
        ("by-both", vec!["list", "--topic", &topic, "--from", "2026-11-21T00:00:00Z"], 3),
    ] {
        let text = ok(pipeline, name, &arguments).await?;
        let columns = text.lines().all(|line| line.split('\t').count() == 7);
        ensure!(text.lines().count() == count && columns, "{name}: {text}");
    }

    // What is shown is what was sent.
    let shown = ok(pipeline, "show", &["show", "--key", &key(10)]).await?;
    ensure!(
        shown.contains("{\"no\":") && shown.contains("cluster-time") && shown.contains("dlq-reason"),
        "{shown}"
    );
    ensure!(ok(pipeline, "value", &["show", "--key", &key(10), "--value"]).await? == "{\"no\":", "the value");
    ensure!(ok(pipeline, "parts", &["show", "--key", "82AB", "--value"]).await? == "halfhalf", "both parts");
    let (code, text) = run(pipeline, "no-such-letter", &["show", "--key", "nothing"]).await?;
    ensure!(code == 64 && text.contains("no letter with the key nothing"), "{code}: {text}");

    // Nothing without --yes, and nothing that would be a letter again, is a row, or is the source's.
    let file = pipeline.folder().join("repaired.json");
    std::fs::write(&file, br#"{"yes":1}"#)?;
    let file = file.display().to_string();
    let before = pipeline.kafka().read([topic.clone(), dead_letters.clone()]).await?;
    let plan = ok(pipeline, "dry", &["retry", "--key", &key(10), "--with-value", &file]).await?;
    ensure!(
        plan.contains("year=2025/month=08/day=22/hour=17") && plan.contains("Nothing was written"),
        "{plan}"
    );
    let all = ok(pipeline, "all", &["retry", "--all", "--yes"]).await?;
    for says in ["a dead letter again (invalid-json", "is a row of the lake", "a letter of the source"] {
        ensure!(all.contains(says), "{says}: {all}");
    }
    ensure!(all.contains("0 sent back"), "{all}");
    let after = pipeline.kafka().read([topic.clone(), dead_letters.clone()]).await?;
    ensure!(before.topics == after.topics, "something was written");

    // A repaired value lands in the hour of its record, once, however often it is asked for.
    for name in ["first", "second"] {
        ok(pipeline, name, &["retry", "--key", &key(10), "--with-value", &file, "--yes"]).await?;
    }
    let because = "a test\u{1b} of\tours";
    ok(pipeline, "drop-dry", &["drop", "--reason", "empty", "--because", because]).await?;
    ensure!(state(&states(pipeline, "after-dry").await?, &key(30)) == "open", "dropped by a dry run");
    ok(pipeline, "drop", &["drop", "--key", &key(30), "--key", "82AB", "--because", because, "--yes"])
        .await?;
    let (evidence, violations) = judge(pipeline, &mut [&mut sink]).await?;
    violations.none()?;
    let records: Vec<KafkaRecord> = evidence.kafka.records(&topic).cloned().collect();
    let [back] = sent_back(&records)[..] else { anyhow::bail!("not one record came back") };
    ensure!(back.key == original.key && back.timestamp_ms == original.timestamp_ms, "{back:?}");
    ensure!(back.value.as_deref() == Some(&br#"{"yes":1}"#[..]), "{back:?}");
    ensure!(back.headers[..original.headers.len()] == original.headers, "{back:?}");
    ensure!(
        back.header("dlq-retry") == Some(&key(10)) && back.header("dlq-repaired") == Some("true"),
        "{back:?}"
    );
    ensure!(back.headers.len() == original.headers.len() + 2, "{back:?}");
    let lake = pipeline.lake().read().await?;
    let rows: Vec<_> =
        lake.files.iter().filter(|file| file.bytes.windows(9).any(|part| part == b"{\"yes\":1,")).collect();
    ensure!(
        rows.len() == 1 && rows[0].path.contains("/hour=17/"),
        "{:?}",
        rows.iter().map(|file| &file.path).collect::<Vec<_>>()
    );

    let found = states(pipeline, "after").await?;
    for (key, expected) in
        [(key(10), "retried"), (key(20), "open"), (key(30), "dropped"), ("82AB".to_owned(), "dropped")]
    {
        ensure!(state(&found, &key) == expected, "{}", found[&key]);
    }
    ensure!(found[&key(30)]["because"] == because, "{}", found[&key(30)]);
    sink.stop(LIMIT).await
}

/// Goal: every letter that is sent back is one row in its own hour, with kills of the command at random moments, and two at once. Method: so many letters
/// that they take several transactions; their contents are repaired by later copies, which are the same letters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_is_killed_lands_every_row_once() -> Result<()> {
    let pipeline = &Stage::shared().await?.pipeline("dlqkill")?;
    let topic = make_topic(pipeline).await?;
    let hour = |number: i64| LONG_AGO_S - (number % 5) * HOUR_S;
    let mut records: Vec<NewRecord> =
        (0..BAD).map(|number| bad(pipeline, b"{\"no\":", number, hour(number))).collect();
    records.extend(events(pipeline, 0..10, LONG_AGO_S));
    pipeline.kafka_writer().send(&topic, 0, records).await?;
    let mut sink = pipeline.start(Binary::Sink, pipeline.sink_environment().set("DLQ_MAX_RATIO", "off"))?;
    sink.wait_until_ready().await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    let dead_letters = pipeline.topics().dead_letters();
    let letters: Vec<KafkaRecord> =
        pipeline.kafka().read([dead_letters.clone()]).await?.records(&dead_letters).cloned().collect();
    ensure!(letters.len() == usize::try_from(BAD)?, "{} letters", letters.len());
    for partition in 0..3 {
        let of_partition = letters.iter().filter(|letter| letter.partition == partition);
        let repaired = of_partition.map(|letter| NewRecord {
            key: letter.key.clone(),
            value: Some(br#"{"yes":1}"#.to_vec()),
            headers: letter.headers.clone(),
            timestamp_ms: None,
        });
        pipeline.kafka_writer().send(&dead_letters, partition, repaired.collect()).await?;
    }

    let mut random = StdRng::seed_from_u64(11);
    let (mut killed, mut between) = (0, 0);
    for kill in 0..KILLS {
        let mut retry = start(pipeline, &format!("killed-{kill}"), &["retry", "--all", "--yes"])?;
        // The plan stands before the first transaction: from there on a kill can do harm.
        wait::until("the plan is shown", LIMIT, || async {
            Ok(retry.log_text()?.contains("send\topen").then_some(()))
        })
        .await?;
        let pause = Duration::from_millis(random.random_range(0..PAUSE_MS));
        if retry.exit_code(pause).await.is_err() {
            retry.kill9()?;
            killed += 1;
        }
        let content = pipeline.kafka().read([topic.clone()]).await?;
        let back = content.records(&topic).filter(|record| record.header("dlq-retry").is_some()).count();
        eprintln!("kill {kill} after {pause:?}: {back} of {BAD} are back");
        between += u32::from((1..usize::try_from(BAD)?).contains(&back));
        if back == usize::try_from(BAD)? {
            break;
        }
    }
    ensure!(killed >= 5 && between >= 1, "{killed} were killed, {between} of them between two transactions");
    // Two at once fence each other; one of them, or the next one, finishes it.
    let arguments = ["retry", "--topic", &topic, "--yes"];
    let (mut one, mut two) = (start(pipeline, "one", &arguments)?, start(pipeline, "two", &arguments)?);
    for each in [&mut one, &mut two] {
        let code = each.exit_code(LIMIT).await?;
        ensure!(code == 0 || code == 22, "{} ends with {code}\n{}", each.name(), each.log_tail());
    }
    ok(pipeline, "last", &arguments).await?;

    let (evidence, violations) = judge(pipeline, &mut [&mut sink]).await?;
    violations.none()?;
    let records: Vec<KafkaRecord> = evidence.kafka.records(&topic).cloned().collect();
    ensure!(sent_back(&records).len() == usize::try_from(BAD)?, "{} came back", sent_back(&records).len());
    let states = states(pipeline, "states").await?;
    ensure!(states.values().all(|letter| letter["state"] == "retried"), "{states:?}");
    sink.stop(LIMIT).await
}

/// Where a command is killed, as it is seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// Nothing is in Kafka yet.
    BehindThePlan,
    /// The first of its records are in the log.
    InTheTransaction,
}

/// Goal: a retry that is killed right behind its plan, or in the midst of its one transaction, has done nothing, and typed again it does all, once.
/// Method: letters so large that their transaction takes its time, watched by the topic's high watermark; their schema is taken away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_is_killed_at_its_plan_or_in_its_transaction_can_be_typed_again() -> Result<()> {
    use Moment::{BehindThePlan, InTheTransaction};
    const LETTERS: usize = 18;
    /// A new command ends the transaction of the one before, and that is a record too.
    const MARKERS: i64 = 1;
    let pipeline = &Stage::shared().await?.pipeline("dlqmoment")?;
    let topic = make_topic(pipeline).await?;
    pipeline.kafka_writer().set_topic_setting(&topic, "max.message.bytes", "16777216").await?;
    let schemas = pipeline.folder().join("schemas");
    std::fs::create_dir(&schemas)?;
    std::fs::write(schemas.join("dlqmoment.orders.json"), r#"{"not": {"required": ["padding"]}}"#)?;
    let mut random = StdRng::seed_from_u64(13);
    let large = (0..LETTERS).map(|number| {
        let padding: String = (0..50_000).map(|_| format!("{:016x}", random.random::<u64>())).collect();
        let value = serde_json::json!({"fullDocument": {"_id": number, "padding": padding}}).to_string();
        let number = i64::try_from(number).expect("a small number");
        bad(pipeline, value.as_bytes(), number, LONG_AGO_S - (number % 5) * HOUR_S)
    });
    let large: Vec<NewRecord> = large.collect();
    pipeline.kafka_writer().send(&topic, 0, large).await?;
    pipeline.kafka_writer().send(&topic, 0, events(pipeline, 100..110, LONG_AGO_S)).await?;
    let mut sink = pipeline
        .start(Binary::Sink, pipeline.sink_environment().set("SCHEMA_CHECK_DIR", schemas.display()))?;
    sink.wait_until_ready().await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    sink.stop(LIMIT).await?;
    let mut sink = pipeline.ready_sink().await?;

    let end = async || -> Result<i64> {
        Ok(pipeline.kafka().high_watermarks([topic.clone()]).await?[&(topic.clone(), 0)])
    };
    let mut in_the_transaction = 0;
    // Whoever reads behind a transaction that nobody ends waits for its timeout, half a minute: one is enough.
    for (number, moment) in [BehindThePlan, BehindThePlan, InTheTransaction].into_iter().enumerate() {
        let mut retry = start(pipeline, &format!("moment-{number}"), &["retry", "--all", "--yes"])?;
        wait::until("the plan is shown", LIMIT, || async {
            Ok(retry.log_text()?.contains("send\topen").then_some(()))
        })
        .await?;
        let before = end().await?;
        // A pause between two looks would miss the moment: each is a request of its own.
        while moment == InTheTransaction && end().await? <= before + MARKERS && retry.is_running()? {}
        ensure!(retry.is_running()?, "{moment:?}: it had ended\n{}", retry.log_tail());
        retry.kill9()?;
        let written = end().await? - before;
        let planned = retry.log_text()?.matches("send\topen").count();
        eprintln!("killed {moment:?}: {written} more in the log, {planned} were planned");
        ensure!(planned == LETTERS, "{planned} of {LETTERS} letters: the one before has committed something");
        ensure!(
            moment == InTheTransaction || written <= MARKERS,
            "{written} were written behind the plan already"
        );
        in_the_transaction += u32::from(written > MARKERS);
    }
    ensure!(in_the_transaction == 1, "{in_the_transaction} were killed in the transaction");
    let arguments = ["retry", "--all", "--yes"];
    let text = ok(pipeline, "at-last", &arguments).await?;
    ensure!(text.contains(&format!("{LETTERS} sent back")), "{text}");
    let text = ok(pipeline, "once-more", &arguments).await?;
    ensure!(text.contains("0 sent back"), "{text}");

    let (evidence, violations) = judge(pipeline, &mut [&mut sink]).await?;
    violations.none()?;
    let records: Vec<KafkaRecord> = evidence.kafka.records(&topic).cloned().collect();
    ensure!(sent_back(&records).len() == LETTERS, "{} came back", sent_back(&records).len());
    let states = states(pipeline, "states").await?;
    ensure!(states.values().all(|letter| letter["state"] == "retried"), "{states:?}");
    sink.stop(LIMIT).await
}

/// Goal: a sink that meets mostly poison stops with 26 before its position moves past it, and nothing is lost. Method: few bad records, which it
/// bears; then many; then the same with the breaker off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_meets_mostly_poison_stops() -> Result<()> {
    let pipeline = &Stage::shared().await?.pipeline("dlqbreaker")?;
    let topic = make_topic(pipeline).await?;
    let bad_ones = |count: i64| (0..count).map(|number| bad(pipeline, b"{\"no\":", number, LONG_AGO_S));
    let mut records = events(pipeline, 0..1000, LONG_AGO_S);
    records.extend(bad_ones(40));
    pipeline.kafka_writer().send(&topic, 0, records).await?;
    let mut sink = pipeline.ready_sink().await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    let borne = pipeline.evidence().await?.dead_letters();
    ensure!(borne == 40, "{borne} letters of 40, which are under 5 %");
    let ratio = sink.metrics()?.sum("cdc_sink_dead_letter_ratio").context("the ratio")?;
    ensure!((0.03..0.05).contains(&ratio), "{ratio}");

    pipeline.kafka_writer().send(&topic, 0, bad_ones(200).collect()).await?;
    let code = sink.exit_code(LIMIT).await?;
    let log = sink.log_text()?;
    ensure!(
        code == 26 && log.contains("DLQ_MAX_RATIO (5.0 %)") && log.contains("The warnings above"),
        "{code}\n{log}"
    );
    let evidence = pipeline.evidence().await?;
    ensure!(evidence.dead_letters() < 40 + 200, "all letters were written: {}", evidence.dead_letters());
    let position = pipeline.lake().positions().await?[&(topic.clone(), 0)];
    ensure!(position < 1240, "the position moved past poison, to {position}");

    // The same again while nothing has changed.
    let mut again = pipeline.start_sink()?;
    let code = again.exit_code(LIMIT).await?;
    ensure!(code == 26, "{code}\n{}", again.log_tail());
    let mut sink = pipeline.start(Binary::Sink, pipeline.sink_environment().set("DLQ_MAX_RATIO", "0"))?;
    let (evidence, violations) = judge(pipeline, &mut [&mut sink]).await?;
    violations.none()?;
    let keys: std::collections::BTreeSet<_> = evidence.letters().map(|letter| letter.key.clone()).collect();
    ensure!(keys.len() == 240, "{} letters of 240", keys.len());
    sink.stop(LIMIT).await
}

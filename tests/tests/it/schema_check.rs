//! Documents held against a schema before they become rows.
//!
//! Goal: what breaks its schema is a letter, byte for byte, and nothing else is; `verify` and `replay` go by what was decided then, whatever schema
//! there is now; a letter becomes a row once, in its own hour, when the schema was corrected and somebody asks for it. Method: a topic with a schema and
//! one without, events that a source sends twice, hours that close, the commands as an operator types them.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    kafka_writer::NewRecord,
    lake_reader::LakeFile,
    ledger::{Violations, judge_lake},
    pipeline::Pipeline,
    service::{Binary, Environment, Service},
};
use serde_json::{Value, json};

use crate::{
    check::Checked,
    closing::{HOUR_S, Positions, closed, folder, named_as_they_are},
    records::{LONG_AGO_S, event, event_of},
    stage::{LIMIT, Stage},
};

const BEGIN: i64 = LONG_AGO_S / HOUR_S * HOUR_S;

/// Where the repeats lie in the topic.
const REPEATS: [i64; 5] = [10, 11, 12, 13, 15];

/// The folder of schemas, with this one for the orders.
fn schemas(pipeline: &Pipeline, name: &str, orders: &Value) -> Result<PathBuf> {
    let folder = pipeline.folder().join(name);
    fs::create_dir(&folder)?;
    fs::write(folder.join(format!("{}.orders.json", pipeline.database())), orders.to_string())?;
    fs::write(folder.join(format!("{}.never-comes.json", pipeline.database())), "false")?;
    Ok(folder)
}

fn with(pipeline: &Pipeline, schemas: Option<&PathBuf>) -> Environment {
    let environment = pipeline.sink_environment();
    match schemas {
        Some(folder) => environment.set("SCHEMA_CHECK_DIR", folder.display()),
        None => environment,
    }
}

async fn run(
    pipeline: &Pipeline,
    schemas: Option<&PathBuf>,
    name: &str,
    arguments: &[&str],
) -> Result<(i32, String)> {
    let environment = with(pipeline, schemas);
    let mut service = Service::start_with(Binary::Sink, name, arguments, environment, pipeline.folder())?;
    let code = service.exit_code(LIMIT).await?;
    Ok((code, service.log_text()?))
}

async fn ok(
    pipeline: &Pipeline,
    schemas: Option<&PathBuf>,
    name: &str,
    arguments: &[&str],
) -> Result<String> {
    let (code, text) = run(pipeline, schemas, name, arguments).await?;
    ensure!(code == 0, "{name}: {code}\n{text}");
    Ok(text)
}

/// As a source sends it.
fn order(pipeline: &Pipeline, number: i64, seconds: i64, document: &Value) -> NewRecord {
    let like_others = event(pipeline, number, seconds);
    let value = json!({
        "_meta": {"operationType": "insert", "ns": {"db": pipeline.database(), "coll": "orders"}},
        "documentKey": {"_id": number},
        "fullDocument": document,
    });
    NewRecord { value: Some(value.to_string().into_bytes()), ..like_others }
        .header("event-id", &format!("82{seconds:08X}00000001{number:06X}04"))
        .header("source", "w/1")
}

/// All data files of the closed hours, by path: their bytes and the offsets of their letters.
async fn files(pipeline: &Pipeline) -> Result<BTreeMap<String, (Vec<u8>, Option<String>)>> {
    let folders = [folder(pipeline, BEGIN), folder(pipeline, BEGIN + HOUR_S)];
    let files = pipeline.lake().read().await?.files.into_iter();
    let of_hours = files.filter(|file| folders.iter().any(|folder| file.path.starts_with(folder)));
    let letters = |file: &LakeFile| file.metadata.get("deadletters").cloned();
    Ok(of_hours.map(|file| (file.path.clone(), (file.bytes.clone(), letters(&file)))).collect())
}

/// The hours in which a document is a row, by its number.
async fn hours_of(pipeline: &Pipeline, number: i64) -> Result<Vec<String>> {
    let member = format!("\"documentKey\":{{\"_id\":{number}}}");
    let mut hours = Vec::new();
    for file in pipeline.lake().read().await?.files {
        let hour = file.path.split('/').find(|part| part.starts_with("hour=")).context("an hour")?;
        for line in file.lines()? {
            let found = file.path.contains("/orders/") && String::from_utf8_lossy(line).contains(&member);
            hours.extend(found.then(|| hour.to_owned()));
        }
    }
    Ok(hours)
}

/// Everything of Kafka is in the lake, the repeats taken out.
async fn judge(pipeline: &Pipeline, topic: &str) -> Result<()> {
    let mut evidence = pipeline.evidence().await?;
    let part = evidence.kafka.topics.get_mut(topic).and_then(|parts| parts.get_mut(&0)).context("orders")?;
    part.records.retain(|record| !REPEATS.contains(&record.offset));
    let mut violations = Violations::default();
    judge_lake(&evidence, &mut violations);
    violations.none()
}

async fn states(pipeline: &Pipeline, name: &str) -> Result<BTreeMap<String, Value>> {
    let text = ok(pipeline, None, name, &["dlq", "list", "--json"]).await?;
    let letters = text.lines().map(|line| {
        let letter: Value = serde_json::from_str(line).with_context(|| format!("{line:?} is no JSON"))?;
        Ok((letter["key"].as_str().context("a key")?.to_owned(), letter))
    });
    letters.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_it_is_a_letter_until_it_is_corrected_in_a_directory() -> Result<()> {
    what_breaks_it_is_a_letter(&Stage::shared().await?.pipeline("schemadir")?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_it_is_a_letter_until_it_is_corrected_in_azurite() -> Result<()> {
    what_breaks_it_is_a_letter(&Stage::shared().await?.pipeline_into_azurite("schemaazure").await?).await
}

async fn what_breaks_it_is_a_letter(pipeline: &Pipeline) -> Result<()> {
    let orders =
        json!({"type": "object", "required": ["total"], "properties": {"total": {"type": "number"}}});
    let strict = schemas(pipeline, "strict", &orders)?;
    // What came later: nothing holds, and everything does.
    let later = schemas(pipeline, "later", &json!(false))?;
    let corrected = schemas(pipeline, "corrected", &json!({"type": "object"}))?;
    let (topic, others) = (pipeline.data_topic("orders"), pipeline.data_topic("customers"));
    let writer = pipeline.kafka_writer();
    writer.create_topic(&topic, 1, &[]).await?;
    writer.create_topic(&others, 1, &[]).await?;
    let positions = Positions::new(pipeline).await?;
    positions.commit(BEGIN + 10).await?;
    let mut sink = pipeline.start(Binary::Sink, with(pipeline, Some(&strict)))?;
    sink.wait_until_ready().await?;

    let number = |number: i64| -> NewRecord {
        let second = BEGIN + if number < 20 { 0 } else { HOUR_S } + number;
        let document = match number {
            3 | 20 => json!({"_id": number, "total": "private-4711"}),
            25 => json!({"_id": number}),
            30 => Value::Null,
            _ => json!({"_id": number, "total": number}),
        };
        order(pipeline, number, second, &document)
    };
    // One breaks it in the middle of an hour, one in front of the next hour; one has no document. 2 to 5 come twice, and so does the
    // one in front, at once: then nothing but the letter tells that it is a repeat.
    let all = (0..10).chain(2..6).chain([20]).chain(20..32).map(number).collect();
    writer.send(&topic, 0, all).await?;
    writer
        .send(&others, 0, (0..5).map(|number| event_of(pipeline, "customers", number, BEGIN)).collect())
        .await?;
    writer.send(&topic, 0, vec![order(pipeline, 40, BEGIN + 2 * HOUR_S, &json!({"total": 1}))]).await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;

    // The letters, and nothing else; the repeat of one is no other letter.
    let key = |offset: i64| format!("{topic}/0/{offset}");
    let (middle, front, lacking) = (key(3), key(14), key(20));
    let evidence = pipeline.evidence().await?;
    let letters: BTreeMap<String, _> = evidence
        .letters()
        .map(|letter| {
            (String::from_utf8_lossy(letter.key.as_deref().unwrap_or_default()).into_owned(), letter)
        })
        .collect();
    ensure!(letters.keys().eq([&front, &lacking, &middle]), "{:?}", letters.keys());
    for (key, original, says) in [
        (&middle, number(3), "/total breaks the schema's /properties/total/type"),
        (&front, number(20), "/total breaks the schema's /properties/total/type"),
        (&lacking, number(25), "the document breaks the schema's /required (total)"),
    ] {
        let letter = letters[key];
        let error = letter.header("dlq-error").unwrap_or_default();
        ensure!(letter.value == original.value, "{key} is not byte for byte");
        ensure!(letter.header("dlq-reason") == Some("schema-violation"), "{letter:?}");
        ensure!(error.contains(says) && !error.contains("4711"), "{error}");
    }
    let counted = sink.metrics()?.sum_where("cdc_dlq_records_total", "schema-violation");
    ensure!(counted == Some(3.0), "{counted:?} are counted");
    let log = sink.log_text()?;
    ensure!(!log.contains("4711"), "a value is in the log");
    ensure!(hours_of(pipeline, 30).await?.len() == 1, "a record without a document is a row");
    judge(pipeline, &topic).await?;

    // Which schema there is now is nothing to `verify`.
    closed(pipeline, BEGIN - HOUR_S).await?;
    positions.commit(BEGIN + 2 * HOUR_S).await?;
    for hour in 0..2 {
        named_as_they_are(pipeline, BEGIN + hour * HOUR_S, &mut [&mut sink]).await?;
    }
    for (name, schemas) in [("verify", None), ("verify-later", Some(&later))] {
        let text = ok(pipeline, schemas, name, &["verify", "--all", "--drained"]).await?;
        ensure!(text.contains("5 records of Kafka repeat an event"), "{text}");
    }

    // Nor to the rows of an hour that is made again, also where a file is lost with all that it said.
    let before = files(pipeline).await?;
    ensure!(
        before.values().map(|(bytes, _)| bytes.iter().filter(|byte| **byte == b'\n').count()).sum::<usize>()
            == 19
    );
    let replay = ["replay", "--topic", &topic, "--all"];
    for (name, schemas) in [("replay", &strict), ("replay-later", &later)] {
        ok(pipeline, Some(schemas), name, &replay).await?;
        ensure!(files(pipeline).await? == before, "{name} has made other lines");
    }
    let lost = before.keys().next().context("a file")?;
    pipeline.lake().delete(lost).await?;
    ok(pipeline, Some(&later), "replay-lost", &replay).await?;
    ensure!(files(pipeline).await? == before, "a lost file has other lines");

    // Sent back it would be a letter again, until the schema is corrected, here and in the sink.
    let plan = ok(pipeline, None, "without-a-schema", &["dlq", "retry", "--all"]).await?;
    ensure!(plan.contains("unless the sinks' SCHEMA_CHECK_DIR forbids it"), "{plan}");
    let all = ok(pipeline, Some(&strict), "too-early", &["dlq", "retry", "--all", "--yes"]).await?;
    ensure!(all.contains("a dead letter again (schema-violation") && all.contains("0 sent back"), "{all}");
    sink.stop(LIMIT).await?;
    let mut sink = pipeline.start(Binary::Sink, with(pipeline, Some(&corrected)))?;
    sink.wait_until_ready().await?;
    // While a replay has claimed the letter's hour nothing is sent: its record may be a row there in a moment.
    let manifest = format!("{}/_manifest.json", folder(pipeline, BEGIN));
    let free = pipeline.lake().document(&manifest).await?.context("a manifest")?;
    let mut claimed: Value = serde_json::from_slice(&free)?;
    claimed["rebuilding"] = json!(99);
    pipeline.lake().overwrite(&manifest, serde_json::to_vec(&claimed)?).await?;
    let retry = ["dlq", "retry", "--key", &middle, "--yes"];
    let (code, text) = run(pipeline, Some(&corrected), "beside-a-replay", &retry).await?;
    ensure!(code == 75 && text.contains("a replay is making again"), "{code}\n{text}");
    ensure!(states(pipeline, "beside").await?[&middle]["state"] == "open");
    pipeline.lake().overwrite(&manifest, free).await?;
    for name in ["retry", "retry-again"] {
        ok(pipeline, Some(&corrected), name, &["dlq", "retry", "--key", &middle, "--yes"]).await?;
    }
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    ensure!(hours_of(pipeline, 3).await? == ["hour=22"], "{:?}", hours_of(pipeline, 3).await?);
    judge(pipeline, &topic).await?;

    // The hour made again takes in what is not settled and is of its hour.
    for name in ["replay-corrected", "replay-twice"] {
        ok(pipeline, Some(&corrected), name, &replay).await?;
        for (number, expected) in [(3, vec!["hour=22"]), (25, vec!["hour=23"]), (20, vec![])] {
            let hours = hours_of(pipeline, number).await?;
            ensure!(hours == expected, "{name}: {number} is in {hours:?}");
        }
    }
    let found = states(pipeline, "after").await?;
    for (key, expected) in [(&middle, "retried"), (&front, "open"), (&lacking, "void")] {
        ensure!(found[key]["state"] == expected, "{}", found[key]);
    }
    let all = ok(pipeline, Some(&corrected), "the-rest", &["dlq", "retry", "--all", "--yes"]).await?;
    ensure!(all.contains("1 sent back"), "{all}");
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    for number in (0..10).chain(20..32) {
        let hours = hours_of(pipeline, number).await?;
        let expected = if number < 20 { "hour=22" } else { "hour=23" };
        ensure!(hours == [expected], "{number} is in {hours:?}");
    }
    judge(pipeline, &topic).await?;
    for hour in 0..2 {
        named_as_they_are(pipeline, BEGIN + hour * HOUR_S, &mut [&mut sink]).await?;
    }
    let whole = files(pipeline).await?;
    ok(pipeline, Some(&corrected), "replay-whole", &replay).await?;
    ensure!(files(pipeline).await? == whole, "a replay has made other lines");
    ok(pipeline, None, "verify-whole", &["verify", "--all", "--drained"]).await?;
    sink.stop(LIMIT).await
}

/// All mistakes at once, before anything is done; `check` says the same, and what is checked when there are none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemas_that_cannot_be_used_stop_the_start() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline("schemastart")?;
    let broken = schemas(&pipeline, "broken", &json!({"$ref": "http://127.0.0.1:9/order.json"}))?;
    fs::write(broken.join("shop.typo.jsn"), "{}")?;
    for name in ["run", "check"] {
        let (code, text) = run(&pipeline, Some(&broken), name, &[name]).await?;
        ensure!(code == 78 && text.contains("2 mistakes in the settings"), "{name}: {code}\n{text}");
        ensure!(text.contains("nothing is fetched") && text.contains("in shop.typo.jsn"), "{text}");
    }
    let good = schemas(&pipeline, "good", &json!({"type": "object"}))?;
    let text = ok(&pipeline, Some(&good), "check-good", &["check"]).await?;
    ensure!(text.contains("schemastart.never-comes, schemastart.orders"), "{text}");

    // What may be a slip in a name: no topic is of it.
    pipeline.kafka_writer().create_topic(&pipeline.data_topic("orders"), 1, &[]).await?;
    let checked = Checked::with(&pipeline, "check-names", with(&pipeline, Some(&good))).await?;
    checked.ends_with(0, &[])?;
    checked.says("schema check", "warning", "no topic is of schemastart.never-comes:")?;
    fs::remove_file(good.join("schemastart.never-comes.json"))?;
    let checked = Checked::with(&pipeline, "check-all", with(&pipeline, Some(&good))).await?;
    checked.ends_with(0, &[])?;
    ensure!(!checked.in_state("warning").contains("schema check"), "a schema with a topic is warned of");
    Ok(())
}

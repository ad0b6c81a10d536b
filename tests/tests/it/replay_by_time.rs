//! Hours of a topic whose lake is gone, found in Kafka by time.
//!
//! Goal: the copy has exactly the rows that the live sink wrote of these hours, late ones and those of a producer whose clock is behind included; a
//! second run changes nothing; what retention may have taken is refused, and nothing is written. Method: a live sink writes one lake and goes on; the
//! replay gets another one, which is empty, and the two are compared line by line.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    kafka_writer::NewRecord,
    lake_reader::{LakeFile, LakeReader},
    pipeline::Pipeline,
    service::{Binary, Service},
};

use crate::{
    closing::{HOUR_S, Positions, closed, folder},
    records::{LONG_AGO_S, event},
    replay::instant_day,
    stage::{LIMIT, Stage},
};

const PARTITIONS: i32 = 2;

/// Records here are long older than any retention.
const KEPT: [(&str, &str); 1] = [("retention.ms", "-1")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_without_a_chain_are_found_by_time_in_a_directory() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline("bytimedir")?;
    let (empty, copy) = (pipeline.folder().join("empty"), pipeline.folder().join("copy"));
    std::fs::create_dir(&empty)?;
    let urls = [&empty, &copy].map(|folder| format!("file://{}", folder.display()));
    let live = format!("file://{}", pipeline.lake_folder().context("a directory")?.display());
    let lakes = Lakes { empty: &urls[0], live: &live, copy: &urls[1], reader: LakeReader::Directory(copy) };
    hours_without_a_chain(&pipeline, &lakes).await?;
    ensure!(empty.read_dir()?.next().is_none(), "something was written where no chain is");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_without_a_chain_are_found_by_time_in_azurite() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline_into_azurite("bytimeazure").await?;
    let LakeReader::Azurite { port, container } = pipeline.lake().clone() else {
        anyhow::bail!("a container")
    };
    let url = |container: &str, base: &str| {
        format!("abfss://{container}@devstoreaccount1.dfs.core.windows.net/{base}")
    };
    let copied = format!("{container}copy");
    let (empty, live, copy) = (url(&container, "empty"), url(&container, ""), url(&copied, ""));
    let reader = LakeReader::Azurite { port, container: copied };
    hours_without_a_chain(&pipeline, &Lakes { empty: &empty, live: &live, copy: &copy, reader }).await
}

struct Lakes<'a> {
    empty: &'a str,
    live: &'a str,
    copy: &'a str,
    reader: LakeReader,
}

struct Commands<'a> {
    pipeline: &'a Pipeline,
    topic: &'a str,
    day: String,
}

impl Commands<'_> {
    /// A replay of these arguments, with a lake that has no chain.
    async fn replay(&self, name: &str, lake: &str, more: &[&str], expected: i32) -> Result<String> {
        let mut arguments = vec!["replay", "--topic", self.topic, "--day", &self.day];
        arguments.extend(more);
        let environment = self.pipeline.sink_environment().set("LAKE_URL", lake);
        let folder = self.pipeline.folder();
        let mut replay = Service::start_with(Binary::Sink, name, &arguments, environment, folder)?;
        let code = replay.exit_code(LIMIT).await?;
        let text = replay.log_text()?;
        ensure!(code == expected, "{name} ends with {code}, expected {expected}\n{text}");
        Ok(text)
    }
}

/// A record whose time in Kafka is that of its event, as a source has it.
fn ours(pipeline: &Pipeline, number: i64, seconds: i64) -> NewRecord {
    NewRecord { timestamp_ms: Some(seconds * 1000), ..event(pipeline, number, seconds) }
}

fn run_of(pipeline: &Pipeline, numbers: std::ops::Range<i64>, seconds: i64) -> Vec<NewRecord> {
    numbers.map(|number| ours(pipeline, number, seconds)).collect()
}

/// Lines of the hour, by partition and in the order of their offsets.
fn lines_of(files: &[LakeFile], hour: &str) -> Result<BTreeMap<i64, Vec<Vec<u8>>>> {
    let mut lines: BTreeMap<i64, Vec<(i64, Vec<u8>)>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.path.starts_with(hour)) {
        let first = file.number("first")?;
        let of_partition = lines.entry(file.number("partition")?).or_default();
        of_partition.extend(file.lines()?.into_iter().map(|line| (first, line.to_vec())));
    }
    let in_order = |mut lines: Vec<(i64, Vec<u8>)>| {
        lines.sort_by_key(|(first, _)| *first);
        lines.into_iter().map(|(_, line)| line).collect()
    };
    Ok(lines.into_iter().map(|(partition, lines)| (partition, in_order(lines))).collect())
}

async fn write(pipeline: &Pipeline, topic: &str, begin: i64) -> Result<()> {
    let writer = pipeline.kafka_writer();
    for partition in 0..PARTITIONS {
        let number = i64::from(partition) * 1000;
        // Each of these is a transaction: its marker has the broker's clock, which is far ahead.
        writer.send(topic, partition, run_of(pipeline, number..number + 30, begin - HOUR_S)).await?;
        let mut records = run_of(pipeline, number + 100..number + 120, begin + 5);
        let poison = NewRecord { timestamp_ms: Some(begin * 1000), ..NewRecord::new(&b"{\"no\":"[..]) };
        records.insert(7, poison.header("cluster-time", &format!("{begin}.1")));
        writer.send(topic, partition, records).await?;
        writer.send(topic, partition, run_of(pipeline, number + 200..number + 220, begin + HOUR_S)).await?;
        writer
            .send(topic, partition, run_of(pipeline, number + 300..number + 310, begin + 2 * HOUR_S))
            .await?;
    }
    // Late rows: of a wanted hour, and of a day long before.
    let late = |number, seconds| NewRecord { timestamp_ms: None, ..event(pipeline, number, seconds) };
    let records = vec![late(400, begin + 7), late(401, begin - 30 * HOUR_S), late(402, begin + HOUR_S + 7)];
    writer.send(topic, 0, records).await
}

async fn hours_without_a_chain(pipeline: &Pipeline, lakes: &Lakes<'_>) -> Result<()> {
    let topic = &pipeline.data_topic("orders");
    pipeline.kafka_writer().create_topic(topic, PARTITIONS, &KEPT).await?;
    let positions = Positions::new(pipeline).await?;
    let begin = LONG_AGO_S / HOUR_S * HOUR_S;
    positions.commit(begin).await?;
    let mut sink = pipeline.ready_sink().await?;
    write(pipeline, topic, begin).await?;
    positions.commit(begin + 2 * HOUR_S).await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    let commands = Commands { pipeline, topic, day: instant_day(begin) };
    let (wanted, into) = (["--hour", "22", "--hour", "23"], ["--into", lakes.copy]);

    // What cannot be is said, and what is not over yet is not made.
    let text = commands.replay("in-place", lakes.empty, &wanted, 64).await?;
    ensure!(text.contains("has no chain in this lake") && text.contains("--into"), "{text}");
    let text = commands
        .replay("into-the-live-lake", lakes.empty, &["--hour", "22", "--into", lakes.live], 64)
        .await?;
    ensure!(text.contains("has a chain of"), "{text}");
    let plan =
        commands.replay("dry-run", lakes.empty, &[&wanted[..], &into, &["--dry-run"]].concat(), 0).await?;
    ensure!(plan.contains("by time") && plan.contains("from offset 30 to"), "{plan}");
    ensure!(lakes.reader.files().await.is_ok_and(|files| files.is_empty()), "a dry run has written");

    commands.replay("copy", lakes.empty, &[&wanted[..], &into].concat(), 0).await?;
    let copy = lakes.reader.read().await?.files;
    let live = pipeline.lake().read().await?.files;
    for hour in [begin, begin + HOUR_S] {
        closed(pipeline, hour).await?;
        let folder = folder(pipeline, hour);
        let lines = lines_of(&copy, &folder)?;
        ensure!(lines == lines_of(&live, &folder)?, "{folder}: the copy has other rows");
        let count: usize = lines.values().map(Vec::len).sum();
        ensure!(count == 41, "{folder}: {count} rows");
        let manifest =
            lakes.reader.document(&format!("{folder}/_manifest.json")).await?.context("a manifest")?;
        let manifest: serde_json::Value = serde_json::from_slice(&manifest)?;
        ensure!(manifest["rows"] == 41 && manifest["generation"] == 0, "{manifest}");
        let letters = if hour == begin { i64::from(PARTITIONS) } else { 0 };
        ensure!(manifest["deadletters"] == letters, "{manifest}");
        ensure!(lakes.reader.document(&format!("{folder}/_SUCCESS")).await?.is_some(), "no mark");
    }
    ensure!(
        copy.iter().all(|file| file.path.contains("hour=22") || file.path.contains("hour=23")),
        "more hours"
    );

    // Twice, with other settings and after more has come: the same files. One that was lost comes back.
    let lost = &copy.first().context("a file")?.path;
    lakes.reader.delete(lost).await?;
    pipeline.kafka_writer().send(topic, 0, vec![ours(pipeline, 500, begin + 2 * HOUR_S + 9)]).await?;
    let other = ["--compression", "gzip", "--roll-rows", "7"];
    commands.replay("with-a-file-lost", lakes.empty, &[&wanted[..], &into].concat(), 0).await?;
    commands.replay("again", lakes.empty, &[&wanted[..], &into, &other].concat(), 0).await?;
    let again = lakes.reader.read().await?.files;
    let facts = |files: &[LakeFile]| -> Result<Vec<(String, String, Vec<u8>)>> {
        files
            .iter()
            .map(|file| Ok((file.path.clone(), file.text("crc")?.to_owned(), file.bytes.clone())))
            .collect()
    };
    ensure!(facts(&again)? == facts(&copy)?, "a second run has changed the copy");

    // A late row of an hour that is there comes in beside it.
    let late = NewRecord { timestamp_ms: None, ..event(pipeline, 600, begin + 8) };
    pipeline.kafka_writer().send(topic, 1, vec![late]).await?;
    commands.replay("after-a-late-row", lakes.empty, &[&wanted[..], &into].concat(), 0).await?;
    let path = format!("{}/_manifest.json", folder(pipeline, begin));
    let manifest = lakes.reader.document(&path).await?.context("a manifest")?;
    let manifest: serde_json::Value = serde_json::from_slice(&manifest)?;
    ensure!(manifest["rows"] == 42 && manifest["revision"] == 2, "{manifest}");
    pipeline.wait_for_lake(&mut [&mut sink]).await?;

    a_clock_that_is_behind_is_noticed(&commands, lakes, begin).await?;
    what_retention_may_have_taken_is_refused(&commands, lakes, begin).await
}

/// A record before the bound, of a producer whose clock is behind, is found since another one behind the bound is like it.
async fn a_clock_that_is_behind_is_noticed(
    commands: &Commands<'_>,
    lakes: &Lakes<'_>,
    begin: i64,
) -> Result<()> {
    let Commands { pipeline, .. } = commands;
    let topic = &pipeline.data_topic("behind");
    pipeline.kafka_writer().create_topic(topic, 1, &KEPT).await?;
    let of = |number, seconds, time: i64| NewRecord {
        timestamp_ms: Some(time * 1000),
        ..crate::records::event_of(pipeline, "behind", number, seconds)
    };
    let earlier = begin - 5 * HOUR_S;
    let first = vec![of(1, earlier, earlier), of(2, begin + 1, earlier)];
    pipeline.kafka_writer().send(topic, 0, first).await?;
    let then = vec![of(3, begin + 2, begin + 2), of(4, begin + 3, begin - 60)];
    pipeline.kafka_writer().send(topic, 0, then).await?;
    let others = Commands { pipeline, topic, day: commands.day.clone() };
    let text = others.replay("behind", lakes.empty, &["--hour", "22", "--into", lakes.copy], 0).await?;
    ensure!(text.contains("is before its event's") && text.contains("OK: 3 rows"), "{text}");
    Ok(())
}

async fn what_retention_may_have_taken_is_refused(
    commands: &Commands<'_>,
    lakes: &Lakes<'_>,
    begin: i64,
) -> Result<()> {
    let before = lakes.reader.read().await?.files;
    // The first record that is left is of hour 22.
    commands.pipeline.kafka_writer().delete_records(commands.topic, 1, 35).await?;
    let text = commands.replay("expired", lakes.empty, &["--into", lakes.copy], 21).await?;
    ensure!(text.contains("before offset 35") && text.contains(&format!("{}/1", commands.topic)), "{text}");
    ensure!(text.contains("22 may be missing") && text.contains("23 can be made"), "{text}");
    ensure!(lakes.reader.read().await?.files == before, "a refused replay has written something");
    commands.replay("the-other-hour", lakes.empty, &["--hour", "23", "--into", lakes.copy], 0).await?;
    ensure!(folder(commands.pipeline, begin).contains("hour=22"), "the hours are others");
    a_late_row_says_nothing_of_what_is_gone(commands, lakes, begin).await
}

/// A regression: the first row that is left is of an earlier hour, and was written among rows of this one.
async fn a_late_row_says_nothing_of_what_is_gone(
    commands: &Commands<'_>,
    lakes: &Lakes<'_>,
    begin: i64,
) -> Result<()> {
    let Commands { pipeline, .. } = commands;
    let topic = &pipeline.data_topic("late");
    let writer = pipeline.kafka_writer();
    writer.create_topic(topic, 1, &KEPT).await?;
    let of = |number, seconds, time: i64| NewRecord {
        timestamp_ms: Some(time * 1000),
        ..crate::records::event_of(pipeline, "late", number, seconds)
    };
    let late = vec![
        of(1, begin + 1, begin + 1),
        of(2, begin - 5 * HOUR_S, begin + 2),
        of(3, begin + 3, begin + 3),
        of(4, begin + 2 * HOUR_S, begin + 2 * HOUR_S),
    ];
    writer.send(topic, 0, late).await?;
    writer.delete_records(topic, 0, 1).await?;
    let others = Commands { pipeline, topic, day: commands.day.clone() };
    let text = others.replay("late", lakes.empty, &["--hour", "22", "--into", lakes.copy], 21).await?;
    ensure!(text.contains("before offset 1") && text.contains("these hours may be missing"), "{text}");
    Ok(())
}

//! Closed hours as Parquet.
//!
//! Goal: after `export parquet` there is one file per closed hour that says, to an independent reader, what the hour's lines say; it is made
//! again only where something has changed, with the same bytes; and from an hour that is not what its manifest says nothing is published.
//! Method: a lake whose hours are closed, exported, read with DuckDB and held against the lines; then late rows, damage and replays.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    kafka_writer::NewRecord,
    lake_reader::LakeReader,
    pipeline::Pipeline,
    service::{Binary, Service},
};
use serde_json::{Value, json};

use crate::{
    closing::{HOUR_S, Positions, closed, folder, instant, named_as_they_are},
    readers::{blocks, python},
    records::{LONG_AGO_S, event, events},
    stage::{LIMIT, Stage},
};

const PARTITIONS: i32 = 2;

/// As a source writes it, with a member that a pipeline computed, and numbers that a re-encoding would change.
const DOCUMENT: &str =
    r#"{"_id":7,"price":1.10,"large":12345678901234567890123,"text":"ä\u00e4\"","nothing":null}"#;

/// Another connector's form.
const FOREIGN: &str = r#"{"before":null,"after":"{\"_id\": 8}","op":"c","ts_ms":5}"#;

fn special(pipeline: &Pipeline, seconds: i64) -> Vec<NewRecord> {
    let database = pipeline.database();
    let ours = format!(
        r#"{{"_meta":{{"eventId":"82AB","operationType":"update","ns":{{"db":"{database}","coll":"orders"}},"clusterTime":{{"$timestamp":{{"t":{seconds},"i":3}}}},"wallTime":{{"$date":"2025-08-22T22:00:00.123Z"}},"lsid":null,"txnNumber":null,"source":"w","snapshot":false,"processedAt":"2025-08-22T22:00:00.151Z"}},"documentKey":{{"_id":7}},"fullDocument":{DOCUMENT},"updateDescription":null,"fullDocumentBeforeChange":null,"computed":[1.0,2]}}"#
    );
    let headers = |value: &str| {
        NewRecord::new(value.to_owned())
            .header("operation-type", "update")
            .header("database", database)
            .header("collection", "orders")
            .header("cluster-time", &format!("{seconds}.3"))
    };
    vec![headers(&ours), headers(FOREIGN)]
}

/// Two hours that have closed behind an empty one, and a third that goes on.
struct Hours<'a> {
    pipeline: &'a Pipeline,
    topic: String,
    sink: Service,
    begin: i64,
    /// What `--into` names, and how a test reads it.
    into: String,
    silver: LakeReader,
}

impl<'a> Hours<'a> {
    async fn new(pipeline: &'a Pipeline, into: String, silver: LakeReader) -> Result<Self> {
        let topic = pipeline.data_topic("orders");
        let writer = pipeline.kafka_writer();
        writer.create_topic(&topic, PARTITIONS, &[]).await?;
        let positions = Positions::new(pipeline).await?;
        let begin = LONG_AGO_S / HOUR_S * HOUR_S;
        positions.commit(begin + 10).await?;
        let (compression, format) =
            if pipeline.lake_folder().is_some() { ("none", "envelope") } else { ("zstd", "flat") };
        let environment = pipeline.sink_environment().set("ROLL_BYTES", "4KiB");
        let environment = environment.set("COMPRESSION", compression).set("LINE_FORMAT", format);
        let mut sink = pipeline.start(Binary::Sink, environment)?;
        for partition in 0..PARTITIONS {
            let number = i64::from(partition) * 1000;
            writer.send(&topic, partition, events(pipeline, number..number + 40, begin + 5)).await?;
            writer.send(&topic, partition, special(pipeline, begin + 6)).await?;
            let (next, last) = (begin + HOUR_S + 5, begin + 2 * HOUR_S);
            writer.send(&topic, partition, events(pipeline, number + 100..number + 130, next)).await?;
            writer.send(&topic, partition, events(pipeline, number + 200..number + 205, last)).await?;
        }
        pipeline.wait_for_lake(&mut [&mut sink]).await?;
        // The first hour that is over when the topic is first seen.
        closed(pipeline, begin - HOUR_S).await?;
        positions.commit(begin + 2 * HOUR_S).await?;
        for (hour, rows) in [(-1, 0), (0, 84), (1, 60)] {
            let manifest = closed(pipeline, begin + hour * HOUR_S).await?;
            ensure!(manifest["rows"] == rows, "{manifest}");
        }
        Ok(Self { pipeline, topic, sink, begin, into, silver })
    }

    fn hour(&self, hour: i64) -> String {
        format!("{}/events.parquet", folder(self.pipeline, self.begin + hour * HOUR_S))
    }

    /// The hours' Parquet files.
    async fn files(&self) -> Result<BTreeMap<i64, Vec<u8>>> {
        let mut files = BTreeMap::new();
        for hour in -2..4 {
            if let Some(bytes) = self.silver.document(&self.hour(hour)).await? {
                files.insert(hour, bytes);
            }
        }
        Ok(files)
    }

    async fn delete_files(&self) -> Result<()> {
        for hour in self.files().await?.keys() {
            self.silver.delete(&self.hour(*hour)).await?;
        }
        Ok(())
    }

    async fn run(&self, name: &str, arguments: &[&str]) -> Result<(i32, String)> {
        let environment = self.pipeline.sink_environment();
        let mut service =
            Service::start_with(Binary::Sink, name, arguments, environment, self.pipeline.folder())?;
        let code = service.exit_code(LIMIT).await?;
        Ok((code, service.log_text()?))
    }

    /// Ends with `expected`; what it printed.
    async fn export(&self, name: &str, span: &[&str], expected: i32) -> Result<String> {
        let mut arguments = vec!["export", "parquet", "--topic", &self.topic, "--into", &self.into];
        arguments.extend(span);
        let (code, text) = self.run(name, &arguments).await?;
        ensure!(code == expected, "{name} ends with {code}, expected {expected}\n{text}");
        Ok(text)
    }

    async fn replay(&self, name: &str) -> Result<()> {
        let day = day(self.begin);
        let arguments = ["replay", "--topic", &self.topic, "--day", &day, "--hour", "22"];
        let (code, text) = self.run(name, &arguments).await?;
        ensure!(code == 0, "{name}: {code}\n{text}");
        Ok(())
    }

    /// The lines of an hour by partition and offset; where they are flat, as they would be if they were not.
    async fn lines(&self, hour: i64) -> Result<BTreeMap<(i64, i64), String>> {
        let kafka = self.pipeline.evidence_of_kafka().await?.kafka;
        let values: BTreeMap<(i64, i64), &[u8]> = kafka
            .records(&self.topic)
            .filter_map(|record| Some(((record.partition.into(), record.offset), record.value.as_deref()?)))
            .collect();
        let folder = folder(self.pipeline, self.begin + hour * HOUR_S);
        let mut lines = BTreeMap::new();
        for file in self.pipeline.lake().read().await?.files {
            if !file.path.starts_with(&folder) {
                continue;
            }
            for line in file.lines()? {
                let text = String::from_utf8(line.to_vec())?;
                let value: Value = serde_json::from_str(&text)?;
                let number = |name: &str| value["_kafka"][name].as_i64().context("a number");
                let place = (number("partition")?, number("offset")?);
                let text = match file.metadata.get("lineformat").map(String::as_str) {
                    Some("flat") => {
                        let own = std::str::from_utf8(values.get(&place).context("a record")?)?;
                        let own = own.strip_suffix('}').context("an object")?;
                        format!("{own},\"_kafka\":{}}}", value["_kafka"])
                    }
                    _ => text,
                };
                lines.insert(place, text);
            }
        }
        Ok(lines)
    }

    /// An independent reader finds in the file what the lines say, in their order.
    async fn agrees(&self, hour: i64) -> Result<()> {
        let place = self.pipeline.folder().join("read.parquet");
        let bytes = self.silver.document(&self.hour(hour)).await?.context("a Parquet file")?;
        std::fs::write(&place, bytes)?;
        let rows = duckdb(
            &place,
            "SELECT kafka_partition, kafka_offset, operation, db, coll, document_key, full_document, rest, kafka_topic FROM it",
        )?;
        let rows = rows.as_array().context("rows")?;
        let lines = self.lines(hour).await?;
        ensure!(rows.len() == lines.len(), "hour {hour}: {} rows, {} lines", rows.len(), lines.len());
        for (row, (place, line)) in rows.iter().zip(&lines) {
            ensure!(row[0] == place.0 && row[1] == place.1, "{row} where {place:?} is expected");
            let said: Value = serde_json::from_str(line)?;
            let meta = &said["_meta"];
            let text = |value: &Value| value.as_str().map(str::to_owned);
            ensure!(row[2] == meta["operationType"] && row[3] == meta["ns"]["db"], "{row}\n{line}");
            ensure!(row[4] == meta["ns"]["coll"] && row[8] == said["_kafka"]["topic"], "{row}\n{line}");
            for (column, name) in [(5, "documentKey"), (6, "fullDocument")] {
                match text(&row[column]) {
                    Some(part) => {
                        ensure!(line.contains(&format!("\"{name}\":{part}")), "{name} of {row}\n{line}");
                    }
                    None => ensure!(said[name].is_null(), "{name} is missing in {row}\n{line}"),
                }
            }
            match said.get("op") {
                Some(_) => ensure!(row[7] == FOREIGN, "{row}"),
                None if said.get("computed").is_some() => {
                    ensure!(row[7] == r#"{"computed":[1.0,2]}"#, "{row}")
                }
                None => ensure!(row[7].is_null(), "{row}"),
            }
        }
        Ok(())
    }
}

/// A query over the file `it`.
fn duckdb(place: &Path, query: &str) -> Result<Value> {
    let view = format!("CREATE VIEW it AS SELECT * FROM read_parquet('{}')", place.display());
    python(&format!(
        "import duckdb, json\ncon = duckdb.connect()\ncon.execute({})\nprint(json.dumps(con.execute({}).fetchall(), default=str))",
        json!(view),
        json!(query)
    ))
}

fn day(seconds: i64) -> String {
    instant(seconds)[..10].to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_of_a_directory_become_parquet() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline("exportdir")?;
    let silver: PathBuf = pipeline.folder().join("silver");
    let into = format!("file://{}", silver.display());
    let mut hours = Hours::new(&pipeline, into, LakeReader::Directory(silver.clone())).await?;
    hours_become_parquet(&mut hours).await?;
    the_pages_queries(&hours, &silver)?;
    let mut folders = vec![silver.join("_chain/pending")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let place = entry?.path();
            ensure!(place.is_dir(), "left behind: {}", place.display());
            folders.push(place);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_of_azurite_become_parquet_in_azurite() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline_into_azurite("exportazure").await?;
    let LakeReader::Azurite { port, .. } = pipeline.lake() else { anyhow::bail!("not Azurite") };
    let container = "exportazuresilver".to_owned();
    let into = format!("abfss://{container}@devstoreaccount1.dfs.core.windows.net");
    let silver = LakeReader::Azurite { port: *port, container };
    let mut hours = Hours::new(&pipeline, into, silver).await?;
    hours_become_parquet(&mut hours).await?;

    // The same lake into a directory: the same bytes.
    let folder = pipeline.folder().join("silver");
    hours.into = format!("file://{}", folder.display());
    let expected = hours.files().await?;
    hours.silver = LakeReader::Directory(folder);
    hours.export("into-a-directory", &["--all"], 0).await?;
    ensure!(hours.files().await? == expected, "a directory gets other bytes than Azurite");
    Ok(())
}

/// An export that is killed leaves an hour's file as it was: whole, or not there. The next one makes the rest.
async fn killed(hours: &Hours<'_>, span: &[&str], whole: &BTreeMap<i64, Vec<u8>>) -> Result<()> {
    const KILLS: u32 = 10;
    let arguments = ["export", "parquet", "--topic", &hours.topic, "--into", &hours.into];
    let arguments = [&arguments[..], span].concat();
    hours.delete_files().await?;
    let begin = Instant::now();
    hours.export("before-kills", span, 0).await?;
    let takes = begin.elapsed();
    let mut finished = 0;
    for kill in 0..KILLS {
        hours.delete_files().await?;
        let environment = hours.pipeline.sink_environment();
        let name = format!("killed-{kill}");
        let mut service =
            Service::start_with(Binary::Sink, &name, &arguments, environment, hours.pipeline.folder())?;
        tokio::time::sleep(rand::random_range(Duration::ZERO..takes)).await;
        service.kill9()?;
        let files = hours.files().await?;
        finished += files.len();
        for (hour, bytes) in &files {
            ensure!(bytes == &whole[hour], "a killed export left another file of hour {hour}");
        }
    }
    let all = whole.len() * KILLS as usize;
    ensure!(finished < all, "every kill came too late");
    eprintln!("{finished} of {all} files were done when their export was killed");
    hours.export("after-kills", span, 0).await?;
    ensure!(&hours.files().await? == whole, "after kills the files are others");
    Ok(())
}

async fn hours_become_parquet(hours: &mut Hours<'_>) -> Result<()> {
    let (this_day, next_day) = (day(hours.begin), day(hours.begin + 2 * HOUR_S));
    let span = ["--day", this_day.as_str()];
    let plan = hours.export("dry-run", &["--day", &this_day, "--dry-run"], 0).await?;
    ensure!(plan.contains("write") && plan.contains(" 84 "), "{plan}");
    ensure!(hours.files().await?.is_empty(), "a dry run has written something");

    let text = hours.export("first", &span, 0).await?;
    eprintln!("{plan}\n{text}");
    let first = hours.files().await?;
    ensure!(first.keys().eq([-1, 0, 1].iter()), "{:?}\n{text}", first.keys());
    for hour in -1..2 {
        hours.agrees(hour).await?;
    }
    typed_columns(hours).await?;

    // Again: nothing to do. Deleted: the same bytes.
    let text = hours.export("second", &span, 0).await?;
    ensure!(text.contains("0 written, 0 replaced") && text.contains("3 were current"), "{text}");
    ensure!(hours.files().await? == first);
    hours.silver.delete(&hours.hour(0)).await?;
    let text = hours.export("after-a-deletion", &["--day", &this_day, "--hour", "22", "--json"], 0).await?;
    ensure!(text.contains(r#""done":"written""#) && !text.contains("current"), "{text}");
    ensure!(hours.files().await? == first, "made again it has other bytes");
    hours.silver.delete(&hours.hour(1)).await?;
    let (one, two) = tokio::join!(hours.export("one", &span, 0), hours.export("two", &span, 0));
    let text = format!("{}{}", one?, two?);
    ensure!(text.contains("1 written") && hours.files().await? == first, "two at once: {text}");
    killed(hours, &span, &first).await?;

    // An hour that has not closed.
    let text = hours.export("open", &["--day", &next_day, "--hour", "0"], 75).await?;
    ensure!(text.contains(&format!("{next_day} 00")), "{text}");
    let (from, to) = (instant(hours.begin), instant(hours.begin + 3 * HOUR_S));
    let text = hours.export("open-between", &["--from", &from, "--to", &to], 0).await?;
    ensure!(text.contains(&format!("not closed yet: {next_day} 00")), "{text}");
    ensure!(hours.files().await? == first);

    // A late row; the head moves off its file at once.
    let rows = vec![
        event(hours.pipeline, 5000, hours.begin + 30),
        event(hours.pipeline, 5001, hours.begin + 3 * HOUR_S),
    ];
    hours.pipeline.kafka_writer().send(&hours.topic, 0, rows).await?;
    hours.pipeline.wait_for_lake(&mut [&mut hours.sink]).await?;
    named_as_they_are(hours.pipeline, hours.begin, &mut [&mut hours.sink]).await?;
    let text = hours.export("late", &span, 0).await?;
    ensure!(text.contains("1 replaced") && text.contains("2 were current"), "{text}");
    hours.agrees(0).await?;
    let late = hours.files().await?;
    ensure!(late[&0] != first[&0] && late[&1] == first[&1]);

    // Of a damaged lake nothing is published, and what was there stays.
    hours.replay("another-generation").await?;
    let folder = folder(hours.pipeline, hours.begin);
    let files = hours.pipeline.lake().read().await?.files;
    let file = files.iter().find(|file| file.path.starts_with(&folder)).context("a file")?;
    // Where it is plain, another word of the same length: still a line of this offset, and only the checksum tells.
    let word = file.bytes.windows(8).position(|found| found == b"\"insert\"");
    let mut spoilt = file.bytes.clone();
    spoilt[word.map_or(file.bytes.len() / 2, |at| at + 1)] ^= 1;
    hours.pipeline.lake().overwrite(&file.path, spoilt).await?;
    let text = hours.export("damaged", &span, 25).await?;
    ensure!(text.contains(&file.path) && text.contains("replay"), "{text}");
    ensure!(word.is_none() || text.contains("it holds ") && text.contains("checksum"), "{text}");
    ensure!(hours.files().await? == late, "something of a damaged hour was published");
    hours.replay("healed").await?;
    let text = hours.export("healed-export", &span, 0).await?;
    ensure!(text.contains("1 replaced"), "{text}");
    hours.agrees(0).await?;

    refusals(hours).await
}

async fn typed_columns(hours: &Hours<'_>) -> Result<()> {
    let place = hours.pipeline.folder().join("typed.parquet");
    let bytes = hours.silver.document(&hours.hour(0)).await?.context("a Parquet file")?;
    std::fs::write(&place, bytes)?;
    let query = "SELECT event_id, epoch_ms(cluster_time), cluster_time_increment, epoch_ms(wall_time), epoch_ms(processed_at), source, \
                 snapshot, full_document FROM it WHERE event_id IS NOT NULL";
    let expected = json!([
        "82AB",
        (hours.begin + 6) * 1000,
        3,
        1_755_900_000_123_i64,
        1_755_900_000_151_i64,
        "w",
        false,
        DOCUMENT
    ]);
    let found = duckdb(&place, query)?;
    ensure!(found == json!([expected, expected]), "{found}");
    let facts = duckdb(
        &place,
        &format!(
            "SELECT decode(key), decode(value) FROM parquet_kv_metadata('{}') ORDER BY 1",
            place.display()
        ),
    )?;
    let facts: BTreeMap<&str, &str> = facts
        .as_array()
        .context("rows")?
        .iter()
        .filter_map(|row| Some((row[0].as_str()?, row[1].as_str()?)))
        .collect();
    let (topic, hour) = (hours.topic.as_str(), instant(hours.begin));
    for (key, value) in
        [("atlas.topic", topic), ("atlas.hour", &hour), ("atlas.generation", "0"), ("atlas.rows", "84")]
    {
        ensure!(facts.get(key) == Some(&value), "{key}: {facts:?}");
    }
    let shape = duckdb(&place, "DESCRIBE it")?;
    eprintln!("{shape}\n{facts:?}");
    Ok(())
}

/// The blocks of `docs/lake/parquet.md`, on these files.
fn the_pages_queries(hours: &Hours<'_>, silver: &Path) -> Result<()> {
    let root = format!("{}/{}/orders", silver.display(), hours.pipeline.database());
    let blocks = blocks("parquet.md", "sql")?;
    let block = |name: &str| blocks.get(name).with_context(|| format!("no block under {name}"));
    let view = block("The changes")?.replace("/silver/shop/orders", &root);
    for (name, rows) in [
        // A row of each hour and partition; 7 in both, and the late one.
        ("Current state of a collection", 2 * 40 + 2 * 30 + 1),
        ("Changes per hour", 4),
        ("What the files say of themselves", 3),
    ] {
        let query = block(name)?.replace("/silver/shop/orders", &root);
        let found = python(&format!(
            "import duckdb, json\ncon = duckdb.connect()\ncon.execute({})\nprint(json.dumps(con.execute({}).fetchall(), default=str))",
            json!(view),
            json!(query)
        ))?;
        ensure!(found.as_array().is_some_and(|found| found.len() == rows), "{name}: {found}");
    }
    Ok(())
}

/// What is asked for wrongly is answered, and nothing is done.
async fn refusals(hours: &mut Hours<'_>) -> Result<()> {
    let before = hours.files().await?;
    hours.silver.overwrite(&hours.hour(1), b"somebody else's".to_vec()).await?;
    let text = hours.export("foreign", &["--all"], 25).await?;
    ensure!(text.contains("is no export of") && text.contains(&hours.hour(1)), "{text}");
    hours.silver.overwrite(&hours.hour(1), before[&1].clone()).await?;
    let topic = std::mem::replace(&mut hours.topic, "no.such.topic".to_owned());
    let text = hours.export("no-such-topic", &["--all"], 64).await?;
    ensure!(text.contains("has no files in this lake"), "{text}");
    hours.topic = topic;
    if let Some(root) = hours.pipeline.lake_folder() {
        let itself = format!("file://{}", root.display());
        let into = std::mem::replace(&mut hours.into, itself);
        let text = hours.export("into-itself", &["--all"], 64).await?;
        ensure!(text.contains("the lake itself"), "{text}");
        hours.into = into;
    }
    let text = hours.export("all", &["--all"], 0).await?;
    ensure!(text.contains("3 were current"), "{text}");
    ensure!(hours.files().await? == before);
    Ok(())
}

//! The recipes of `docs/lake/`, as they stand there, on lakes that the services wrote.
//!
//! Goal: what the pages tell a data team to type gives what is true: the collection's documents, a document's history, counts per hour, closed
//! hours only; in a directory, and in Azurite where the reader can. Method: the blocks are taken out of the pages; only the lake's place is
//! changed in them.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};
use futures::TryStreamExt as _;
use mongodb::bson::{Bson, Document, doc};
use pipeline_tests::{
    lake_reader::LakeReader,
    paths,
    pipeline::Pipeline,
    servers::azurite::{ACCOUNT, ACCOUNT_KEY},
    service::{Binary, Service},
    wait,
};
use serde_json::{Value, json};

use crate::{
    closing::{HOUR_S, Positions, closed},
    records::{LONG_AGO_S, events},
    stage::Stage,
};

/// The blocks of a page in this language, by the heading that they stand under.
pub(crate) fn blocks(page: &str, language: &str) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(paths::repository().join("docs/lake").join(page)).context("a page")?;
    let (mut heading, mut block) = (String::new(), None::<String>);
    let mut found = BTreeMap::new();
    for line in text.lines() {
        match &mut block {
            None if line == format!("```{language}") => block = Some(String::new()),
            None => {
                if let Some(title) = line.strip_prefix("## ") {
                    heading = title.to_owned();
                }
            }
            Some(_) if line == "```" => {
                found.insert(heading.clone(), block.take().unwrap_or_default());
            }
            Some(block) => {
                block.push_str(line);
                block.push('\n');
            }
        }
    }
    ensure!(found.len() > 3, "{page} has {} blocks of {language}", found.len());
    Ok(found)
}

/// Runs a script with the readers that were fetched; it prints one JSON value.
pub(crate) fn python(script: &str) -> Result<Value> {
    let readers = paths::fetched("readers/duckdb", "--readers")?;
    let readers = readers.parent().context("a folder")?;
    let done = Command::new("python3")
        .args(["-c", script])
        .env("PYTHONPATH", readers)
        .output()
        .context("run python3")?;
    if !done.status.success() {
        bail!("{script}\n{}", String::from_utf8_lossy(&done.stderr));
    }
    serde_json::from_slice(&done.stdout).context("what it printed")
}

/// A query of the page over the view of the page.
fn duckdb(pipeline: &Pipeline, heading: &str) -> Result<Value> {
    duckdb_on(pipeline.lake_folder().context("a directory")?, pipeline, heading)
}

fn duckdb_on(root: &Path, pipeline: &Pipeline, heading: &str) -> Result<Value> {
    let blocks = blocks("duckdb.md", "sql")?;
    let folder = format!("{}/{}/orders", root.display(), pipeline.database());
    let placed = |name: &str| -> Result<String> {
        let block = blocks.get(name).with_context(|| format!("no block under {name}"))?;
        Ok(block.replace("/lake/shop/orders", &folder))
    };
    let (view, query) = (json!(placed("The changes")?), json!(placed(heading)?));
    python(&format!(
        "import duckdb, json\ncon = duckdb.connect()\ncon.execute({view})\nprint(json.dumps(con.execute({query}).fetchall(), default=str))"
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duckdb_sees_the_collection() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("readersduck")?;
    let (mut source, mut sink) = (pipeline.ready_source().await?, pipeline.ready_sink().await?);
    let orders = stage.mongod.client().await?.database(pipeline.database()).collection::<Document>("orders");
    for id in 0..40 {
        orders.insert_one(doc! { "_id": id, "text": "ä\"\n", "nested": { "n": [1, 2.5] } }).await?;
    }
    for id in 0..20 {
        orders.update_one(doc! { "_id": id }, doc! { "$set": { "nested.n": id, "at": id * 2 } }).await?;
    }
    orders.replace_one(doc! { "_id": 7 }, doc! { "fresh": true }).await?;
    for id in 30..40 {
        orders.delete_one(doc! { "_id": id }).await?;
    }
    pipeline.wait_for_records(71, crate::stage::LIMIT).await?;
    pipeline.wait_for_lake(&mut [&mut source, &mut sink]).await?;

    let mut expected = BTreeMap::new();
    let mut documents = orders.find(doc! {}).await?;
    while let Some(document) = documents.try_next().await? {
        let id = document.get_i32("_id")?.to_string();
        expected.insert(id, Bson::Document(document).into_relaxed_extjson());
    }
    let state = duckdb(&pipeline, "Current state of a collection")?;
    let mut found = BTreeMap::new();
    for row in state.as_array().context("rows")? {
        let text = |column: usize| row[column].as_str().context("a text");
        found.insert(text(0)?.to_owned(), serde_json::from_str::<Value>(text(1)?)?);
    }
    ensure!(found == expected, "the lake's state {found:?}\nthe collection {expected:?}");

    let history = duckdb(&pipeline, "History of one document")?;
    let operations: Vec<&str> =
        history.as_array().context("rows")?.iter().filter_map(|row| row[1].as_str()).collect();
    ensure!(operations == ["insert", "update", "replace"], "{history}");
    let hours = duckdb(&pipeline, "Changes per hour")?;
    let all: i64 = hours.as_array().context("rows")?.iter().filter_map(|row| row[5].as_i64()).sum();
    ensure!(all == 71, "{hours}");
    let complete = duckdb(&pipeline, "Only hours that are complete")?;
    ensure!(complete == json!([]), "the hour is not over: {complete}");
    flat_lines(&pipeline, &expected).await
}

/// The same topics in a lake of flat lines.
async fn flat_lines(pipeline: &Pipeline, expected: &BTreeMap<String, Value>) -> Result<()> {
    let root = pipeline.folder().join("flat");
    let environment = pipeline.sink_environment().set("LINE_FORMAT", "flat").set("SINK_GROUP", "flat");
    let environment = environment.set("LAKE_URL", format!("file://{}", root.display()));
    let arguments = ["run"];
    let _sink = Service::start_with(Binary::Sink, "flat", &arguments, environment, pipeline.folder())?;
    let wanted: BTreeMap<i64, (&Value, &Value)> = expected
        .values()
        .filter_map(|document| Some((document["_id"].as_i64()?, (&document["nested"], &document["at"]))))
        .collect();
    ensure!(wanted.len() == 30, "{wanted:?}");
    wait::until("the flat lake has everything", crate::stage::LIMIT, || async {
        // Before there are files, there is nothing to be read.
        let Ok(found) = duckdb_on(&root, pipeline, "Flat lines") else { return Ok(None) };
        let mut rows = BTreeMap::new();
        for row in found.as_array().context("rows")? {
            let nested = row[1].as_str().map_or(Ok(Value::Null), serde_json::from_str)?;
            rows.insert(row[0].as_i64().context("an _id")?, (nested, row[2].clone()));
        }
        Ok(rows.iter().map(|(id, (nested, at))| (*id, (nested, at))).eq(wanted.clone()).then_some(()))
    })
    .await
}

/// An empty hour and two others that have closed, and one that goes on.
async fn closed_hours(pipeline: &Pipeline) -> Result<()> {
    let topic = pipeline.data_topic("orders");
    let writer = pipeline.kafka_writer();
    writer.create_topic(&topic, 2, &[]).await?;
    let positions = Positions::new(pipeline).await?;
    let begin = LONG_AGO_S / HOUR_S * HOUR_S;
    positions.commit(begin + 10).await?;
    let environment = pipeline.sink_environment().set("COMPRESSION", "gzip").set("ROLL_BYTES", "4KiB");
    let mut sink = pipeline.start(pipeline_tests::service::Binary::Sink, environment)?;
    for hour in 0..3 {
        for partition in 0..2 {
            let number = hour * 100 + i64::from(partition) * 50;
            writer
                .send(&topic, partition, events(pipeline, number..number + 30, begin + hour * HOUR_S + 5))
                .await?;
        }
    }
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    closed(pipeline, begin - HOUR_S).await?;
    positions.commit(begin + 2 * HOUR_S).await?;
    for hour in 0..2 {
        closed(pipeline, begin + hour * HOUR_S).await?;
    }
    Ok(())
}

/// The same rows in other files, for those who follow the manifests.
async fn reprinted(pipeline: &Pipeline) -> Result<()> {
    let topic = pipeline.data_topic("orders");
    let arguments = ["replay", "--topic", &topic, "--all", "--reformat", "--compression", "zstd"];
    let environment = pipeline.sink_environment();
    let mut replay = Service::start_with(Binary::Sink, "replay", &arguments, environment, pipeline.folder())?;
    let code = replay.exit_code(crate::stage::LIMIT).await?;
    ensure!(code == 0, "{code}\n{}", replay.log_tail());
    Ok(())
}

/// The page's code, on this lake.
fn with_the_pages_code(pipeline: &Pipeline) -> Result<Value> {
    let blocks = blocks("python.md", "python")?;
    let in_order = [
        "Where the lake is",
        "Only hours that are complete",
        "Changes as a table",
        "Current state of a collection",
        "Changes by operation",
    ];
    let mut script = String::new();
    for heading in in_order {
        script.push_str(blocks.get(heading).with_context(|| format!("no block under {heading}"))?);
    }
    let collection = match pipeline.lake() {
        LakeReader::Directory(root) => format!("{}/{}/orders", root.display(), pipeline.database()),
        LakeReader::Azurite { port, container } => {
            script.push_str(&format!(
                "lake = fs.AzureFileSystem('{ACCOUNT}', account_key='{ACCOUNT_KEY}', blob_storage_authority='127.0.0.1:{port}', \
                 dfs_storage_authority='127.0.0.1:{port}', blob_storage_scheme='http', dfs_storage_scheme='http')\n"
            ));
            format!("{container}/{}/orders", pipeline.database())
        }
    };
    script.push_str(&format!(
        "found = changes(lake, '{collection}')\n\
         print(json.dumps([len(closed_hours(lake, '{collection}')), found.height, current_state(found).height, by_operation(found).rows()]))"
    ));
    python(&script)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_hours_in_a_directory() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline("readersdir")?;
    closed_hours(&pipeline).await?;
    let found = with_the_pages_code(&pipeline)?;
    ensure!(found == json!([3, 120, 120, [["insert", 120]]]), "{found}");
    reprinted(&pipeline).await?;
    ensure!(with_the_pages_code(&pipeline)? == found, "the reprint has other rows");
    let complete = duckdb(&pipeline, "Only hours that are complete")?;
    let counts: Vec<i64> =
        complete.as_array().context("rows")?.iter().filter_map(|row| row[4].as_i64()).collect();
    ensure!(counts == [60, 60], "{complete}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_hours_in_azurite() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline_into_azurite("readersazure").await?;
    closed_hours(&pipeline).await?;
    let found = with_the_pages_code(&pipeline)?;
    ensure!(found == json!([3, 120, 120, [["insert", 120]]]), "{found}");
    reprinted(&pipeline).await?;
    ensure!(with_the_pages_code(&pipeline)? == found, "the reprint has other rows");
    Ok(())
}

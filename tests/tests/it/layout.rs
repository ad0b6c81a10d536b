//! A lake with folders of its own scheme.
//!
//! Goal: with `LAYOUT` set, everything that is promised of the usual folders holds in others; a lake keeps the layout that it was begun with, and
//! nobody goes on with another one. Method: two sinks that begin one lake at once with different layouts; then sinks, hours, commands and damage in
//! what the first of them has begun.

use std::fs;

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt as _;
use mongodb::bson::{Document, doc};
use pipeline_tests::{
    lake_reader::{LakeFile, LakeReader},
    pipeline::Pipeline,
    service::{Binary, Service},
    wait,
};
use serde_json::{Value, json};

use crate::{
    closing::{HOUR_S, Positions, closed, folder, instant, named_as_they_are},
    readers::{blocks, python},
    records::{LONG_AGO_S, event_of, events, judge},
    stage::{LIMIT, Stage},
};

const PARTITIONS: i32 = 2;

/// What two sinks are told: `LAYOUT`, and where that puts a collection and an hour.
const LAYOUTS: [(&str, &str, &str); 2] = [
    ("raw/{coll}.{db}/dt={yyyy}-{MM}-{dd}/hr={HH}", "raw/{coll}.{db}", "dt=%Y-%m-%d/hr=%H"),
    ("{db}/c={coll}/{yyyy}/{MM}/{dd}/{HH}", "{db}/c={coll}", "%Y/%m/%d/%H"),
];

const RECORD: &str = "_chain/layout.json";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_laid_out_as_it_was_begun() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline("layoutdir")?;
    let into = format!("file://{}", pipeline.folder().join("silver").display());
    let silver = LakeReader::Directory(pipeline.folder().join("silver"));
    laid_out(pipeline, &into, &silver).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azurite_is_laid_out_as_it_was_begun() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline_into_azurite("layoutazure").await?;
    let LakeReader::Azurite { port, .. } = pipeline.lake() else { anyhow::bail!("not Azurite") };
    let container = "layoutazuresilver".to_owned();
    let into = format!("abfss://{container}@devstoreaccount1.dfs.core.windows.net");
    let silver = LakeReader::Azurite { port: *port, container };
    laid_out(pipeline, &into, &silver).await
}

/// A lake, the layout that it has, and what is run on it.
struct Lake {
    pipeline: Pipeline,
    layout: &'static str,
    count: usize,
}

impl Lake {
    /// Two sinks begin it at once, each with another layout.
    async fn begin(pipeline: Pipeline) -> Result<(Self, Service)> {
        let start = |group: usize| {
            let environment = pipeline.sink_environment().set("LAYOUT", LAYOUTS[group].0);
            // Not the same group, or one would wait for the other's session.
            let environment = if group == 0 { environment } else { environment.set("SINK_GROUP", "other") };
            pipeline.start(Binary::Sink, environment)
        };
        let mut sinks = vec![start(0)?, start(1)?];
        let loser = wait::until("one of two sinks ends", LIMIT, || {
            let alive: Vec<bool> = sinks.iter_mut().map(|sink| sink.assert_running().is_ok()).collect();
            async move { Ok(alive.iter().position(|alive| !alive)) }
        })
        .await?;
        let (code, text) = (sinks[loser].exit_code(LIMIT).await?, sinks[loser].log_text()?);
        let (won, lost) = (LAYOUTS[1 - loser], LAYOUTS[loser]);
        ensure!(code == 25, "the one that was second ends with {code}\n{text}");
        for layout in [won.0, lost.0] {
            ensure!(text.contains(&format!("LAYOUT={layout}")), "{layout} is not named\n{text}");
        }
        sinks.remove(loser);
        let mut winner = sinks.remove(0);
        winner.wait_until_ready().await?;
        let lake = Self { pipeline: pipeline.laid_out(won.1, won.2), layout: won.0, count: 0 };
        ensure!(lake.record().await? == Some(json!({ "version": 1, "layout": won.0 })), "another record");
        Ok((lake, winner))
    }

    async fn record(&self) -> Result<Option<Value>> {
        let document = self.pipeline.lake().document(RECORD).await?;
        document.map(|bytes| serde_json::from_slice(&bytes).context("the record")).transpose()
    }

    fn sink(&self) -> Result<Service> {
        self.pipeline.start(Binary::Sink, self.pipeline.sink_environment().set("LAYOUT", self.layout))
    }

    /// Runs a command without a layout, or with one.
    async fn run(&mut self, layout: Option<&str>, arguments: &[&str], expected: i32) -> Result<String> {
        self.count += 1;
        let name = format!("{}-{}", arguments[0], self.count);
        let mut environment = self.pipeline.sink_environment();
        if let Some(layout) = layout {
            environment = environment.set("LAYOUT", layout);
        }
        let folder = self.pipeline.folder();
        let mut command = Service::start_with(Binary::Sink, &name, arguments, environment, folder)?;
        let code = command.exit_code(LIMIT).await?;
        let text = command.log_text()?;
        ensure!(code == expected, "{arguments:?} ends with {code}, expected {expected}\n{text}");
        Ok(text)
    }

    /// Everything that a sink could have changed.
    async fn content(&self) -> Result<(Option<Value>, Vec<LakeFile>, usize)> {
        let content = self.pipeline.lake().read().await?;
        Ok((self.record().await?, content.files, content.heads.len()))
    }

    /// Removes any object that is no data file.
    async fn remove(&self, path: &str) -> Result<()> {
        match self.pipeline.lake_folder() {
            Some(root) => Ok(fs::remove_file(root.join(path))?),
            None => self.pipeline.lake().delete(path).await,
        }
    }
}

async fn laid_out(pipeline: Pipeline, into: &str, silver: &LakeReader) -> Result<()> {
    let (mut lake, mut first) = Lake::begin(pipeline).await?;
    first.stop(LIMIT).await?;
    let (orders, dotted) = (lake.pipeline.data_topic("orders"), lake.pipeline.data_topic("orders-x2eeu"));
    let writer = lake.pipeline.kafka_writer();
    writer.create_topic(&orders, PARTITIONS, &[]).await?;
    writer.create_topic(&dotted, 1, &[]).await?;
    let positions = Positions::new(&lake.pipeline).await?;
    let begin = LONG_AGO_S / HOUR_S * HOUR_S;
    positions.commit(begin + 10).await?;
    let (mut one, mut two) = (lake.sink()?, lake.sink()?);
    for hour in 0..3 {
        let at = begin + hour * HOUR_S + 5;
        for partition in 0..PARTITIONS {
            let number = i64::from(partition) * 1000 + hour * 100;
            writer.send(&orders, partition, events(&lake.pipeline, number..number + 20, at)).await?;
        }
        let rows = (0..5).map(|number| event_of(&lake.pipeline, "orders.eu", hour * 10 + number, at));
        writer.send(&dotted, 0, rows.collect()).await?;
    }
    lake.pipeline.wait_for_lake(&mut [&mut one, &mut two]).await?;
    closed(&lake.pipeline, begin - HOUR_S).await?;
    positions.commit(begin + 2 * HOUR_S).await?;
    for hour in 0..2 {
        named_as_they_are(&lake.pipeline, begin + hour * HOUR_S, &mut [&mut one, &mut two]).await?;
    }
    let (evidence, violations) = judge(&lake.pipeline, &mut [&mut one, &mut two]).await?;
    violations.none()?;
    ensure!(evidence.data_records() == 135, "{} records", evidence.data_records());
    let places = [lake.pipeline.place("orders"), lake.pipeline.place("orders.eu")];
    let places = places.map(|place| {
        if place.starts_with("raw/") { place.replace("orders.eu", "orders-x2eeu") } else { place }
    });
    let files = lake.pipeline.lake().files().await?;
    for place in &places {
        let of_place = files.iter().filter(|file| file.path.starts_with(&format!("{place}/"))).count();
        ensure!(of_place >= 3, "{of_place} files in {place}");
    }
    one.stop(LIMIT).await?;
    two.stop(LIMIT).await?;

    nobody_goes_on_otherwise(&mut lake).await?;
    commands_find_it(&mut lake, &orders, begin, into, silver).await?;
    what_was_lost_comes_back(&mut lake, &orders).await?;

    // Hour 0 goes, and a sink goes on.
    let limit = instant(begin + HOUR_S);
    lake.run(None, &["expire", "--all", "--before", &limit], 0).await?;
    let gone = folder(&lake.pipeline, begin);
    let files = lake.pipeline.lake().files().await?;
    ensure!(files.iter().all(|file| !file.path.starts_with(&gone)), "{gone} is still there");
    ensure!(lake.pipeline.lake().document(&format!("{gone}/_SUCCESS")).await?.is_none());
    let mut sink = lake.sink()?;
    writer.send(&orders, 0, events(&lake.pipeline, 5000..5010, begin + 2 * HOUR_S + 9)).await?;
    lake.pipeline.wait_for_lake(&mut [&mut sink]).await?;
    let text = lake.run(Some(lake.layout), &["verify", "--all", "--drained"], 0).await?;
    ensure!(text.contains("without gap"), "{text}");
    sink.stop(LIMIT).await
}

/// Whoever was told another layout, or none where it has to be told, ends with 25 and changes nothing.
async fn nobody_goes_on_otherwise(lake: &mut Lake) -> Result<()> {
    let before = lake.content().await?;
    let other = LAYOUTS.iter().find(|layout| layout.0 != lake.layout).context("another layout")?.0;
    for (layout, arguments) in [
        (None, &["run"][..]),
        (Some(other), &["run"]),
        (Some("hive"), &["verify", "--all"]),
        (Some(other), &["expire", "--all", "--keep", "1d"]),
    ] {
        let text = lake.run(layout, arguments, 25).await?;
        let told = layout.unwrap_or("hive");
        for named in [lake.layout, told] {
            ensure!(text.contains(&format!("LAYOUT={named}")), "{named} is not named\n{text}");
        }
    }
    let text = lake.run(None, &["check"], 25).await?;
    ensure!(text.contains(lake.layout), "{text}");
    let text = lake.run(Some("{db}-{coll}/%Y"), &["run"], 78).await?;
    ensure!(text.contains("two collections could share") && text.contains("{HH} is missing"), "{text}");
    ensure!(lake.content().await? == before, "somebody has changed something");
    Ok(())
}

/// Commands need not be told.
async fn commands_find_it(
    lake: &mut Lake,
    topic: &str,
    begin: i64,
    into: &str,
    silver: &LakeReader,
) -> Result<()> {
    for layout in [None, Some(lake.layout)] {
        let text = lake.run(layout, &["verify", "--all", "--drained"], 0).await?;
        ensure!(text.contains("135 rows"), "{text}");
    }
    lake.run(None, &["dlq", "list"], 0).await?;

    let hour = folder(&lake.pipeline, begin);
    let before = lake.pipeline.lake().read().await?.files;
    let file = before.iter().find(|file| file.path.starts_with(&hour)).context("a file")?.clone();
    lake.pipeline.lake().delete(&file.path).await?;
    let text = lake.run(None, &["verify", "--all"], 25).await?;
    ensure!(text.contains("gap") || text.contains(&file.path), "{text}");
    let day = &instant(begin)[..10];
    lake.run(None, &["replay", "--topic", topic, "--day", day, "--hour", "22"], 0).await?;
    let after = lake.pipeline.lake().read().await?.files;
    let again = after.iter().find(|other| other.path == file.path).context("the file is not made again")?;
    ensure!(again.bytes == file.bytes && after.len() == before.len(), "{} is another one", file.path);

    let export = ["export", "parquet", "--topic", topic, "--day", day, "--hour", "22", "--into", into];
    lake.run(None, &export, 0).await?;
    let parquet = format!("{hour}/events.parquet");
    ensure!(silver.document(&parquet).await?.is_some(), "there is no {parquet}");

    // A copy has the layout of its lake, and a lake of another one is left alone.
    let copy = format!("{into}/copy");
    let replay = ["replay", "--topic", topic, "--day", day, "--hour", "22", "--into", &copy];
    lake.run(None, &replay, 0).await?;
    let copied =
        silver.document(&format!("copy/{}", file.path)).await?.context("the copy has no such file")?;
    ensure!(copied == file.bytes, "the copy has another file");
    let record = silver.document(&format!("copy/{RECORD}")).await?.context("the copy's record")?;
    ensure!(
        serde_json::from_slice::<Value>(&record)?["layout"] == lake.layout,
        "the copy has another layout"
    );
    if let LakeReader::Directory(root) = silver {
        let foreign = root.join("foreign");
        fs::create_dir_all(foreign.join("_chain"))?;
        fs::write(foreign.join(RECORD), r#"{"version":1,"layout":"hive"}"#)?;
        let foreign = format!("file://{}", foreign.display());
        let replay = ["replay", "--topic", topic, "--day", day, "--hour", "22", "--into", &foreign];
        let text = lake.run(None, &replay, 25).await?;
        ensure!(text.contains("LAYOUT=hive") && text.contains(lake.layout), "{text}");
        let copied = silver.files().await?.iter().filter(|file| file.path.starts_with("foreign/")).count();
        ensure!(copied == 0, "{copied} files in a lake of another layout");
    }
    Ok(())
}

/// The head of a partition, then the record of the layout.
async fn what_was_lost_comes_back(lake: &mut Lake, topic: &str) -> Result<()> {
    lake.remove(&format!("_chain/{topic}/p1.json")).await?;
    lake.run(None, &["verify", "--all", "--drained"], 25).await?;
    let text = lake.run(None, &["verify", "--topic", topic, "--restore-head"], 0).await?;
    ensure!(text.contains("is there again"), "{text}");
    lake.run(None, &["verify", "--all", "--drained"], 0).await?;

    let record = lake.record().await?;
    lake.remove(RECORD).await?;
    for arguments in [&["verify", "--all"][..], &["run"]] {
        let text = lake.run(None, arguments, 25).await?;
        ensure!(text.contains(RECORD) && text.contains("it is missing"), "{text}");
    }
    lake.run(Some(lake.layout), &["verify", "--all", "--drained"], 0).await?;
    ensure!(lake.record().await?.is_none(), "verify has written a record");
    let mut sink = lake.sink()?;
    sink.wait_until_ready().await?;
    sink.stop(LIMIT).await?;
    ensure!(lake.record().await? == record, "another record than before");
    Ok(())
}

/// With a real source: the lake is what the collection is, for `compare` and for the page's query.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_find_a_collection_in_other_folders() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("layoutread")?.laid_out("{db}.{coll}", "%Y/%m/%d/%H");
    let layout = "{db}.{coll}/{yyyy}/{MM}/{dd}/{HH}";
    let mut source = pipeline.ready_source().await?;
    let mut sink = pipeline.start(Binary::Sink, pipeline.sink_environment().set("LAYOUT", layout))?;
    let orders = stage.mongod.client().await?.database(pipeline.database()).collection::<Document>("orders");
    for id in 0..30 {
        orders.insert_one(doc! { "_id": id, "text": "ä" }).await?;
    }
    orders.update_one(doc! { "_id": 3 }, doc! { "$set": { "at": 1 } }).await?;
    orders.delete_one(doc! { "_id": 4 }).await?;
    pipeline.wait_for_records(32, LIMIT).await?;
    pipeline.wait_for_lake(&mut [&mut source, &mut sink]).await?;
    let documents: Vec<Document> = orders.find(doc! {}).await?.try_collect().await?;
    ensure!(documents.len() == 29);

    let environment = pipeline.sink_environment().set("MONGO_URI", stage.mongod.uri());
    let arguments = ["compare", "--all"];
    let mut compare =
        Service::start_with(Binary::Sink, "compare", &arguments, environment, pipeline.folder())?;
    let code = compare.exit_code(LIMIT).await?;
    ensure!(code == 0, "compare ends with {code}\n{}", compare.log_text()?);

    let query = blocks("duckdb.md", "sql")?.remove("Another layout").context("the page's query")?;
    let place =
        format!("{}/{}", pipeline.lake_folder().context("a directory")?.display(), pipeline.place("orders"));
    let query = json!(query.replace("/lake/shop.orders", &place));
    let found = python(&format!(
        "import duckdb, json\nprint(json.dumps(duckdb.connect().execute({query}).fetchall(), default=str))"
    ))?;
    let rows = found.as_array().context("rows")?;
    let count = |operation: &str| -> i64 {
        rows.iter().filter(|row| row[1] == operation).filter_map(|row| row[2].as_i64()).sum()
    };
    ensure!((count("insert"), count("update"), count("delete")) == (30, 1, 1), "{found}");
    let day = chrono::Utc::now().format("%Y-").to_string();
    ensure!(rows.iter().all(|row| row[0].as_str().is_some_and(|hour| hour.starts_with(&day))), "{found}");
    sink.stop(LIMIT).await
}

//! `sink-service compare`: the lake against MongoDB itself.
//!
//! Goal: a collection and its lake agree while both go on, whatever types its documents have, and after a drop; what does not agree is found, counted
//! and named. Method: the workload with its nasty values beside the command; then documents from before the source, and rows that no source wrote.

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Bson, Document, doc};
use pipeline_tests::{
    kafka_writer::NewRecord,
    pipeline::Pipeline,
    service::{Binary, Environment, Service},
    workload::Pace,
};
use serde_json::Value;

use crate::stage::{LIMIT, Run, Stage};

const AGREES: i32 = 0;
const DIFFERS: i32 = 25;
const UNDECIDED: i32 = 75;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_living_collection_agrees_with_its_directory() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("comparedir")?;
    compare_with(stage, &pipeline, pipeline.sink_environment(), "relaxed").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_living_collection_agrees_with_its_container() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline_into_azurite("compareazure").await?;
    let environment = pipeline.sink_environment().set("COMPRESSION", "zstd").set("LINE_FORMAT", "flat");
    compare_with(stage, &pipeline, environment, "canonical").await
}

async fn compare_with(
    stage: &Stage,
    pipeline: &Pipeline,
    environment: Environment,
    dialect: &str,
) -> Result<()> {
    let client = stage.mongod.client().await?;
    let database = client.database(pipeline.database());
    let old = database.collection::<Document>("old");
    old.insert_many([doc! { "_id": 1 }, doc! { "_id": 2 }]).await?;
    // The very last change before a first start is taken in.
    let filler = database.collection("filler");
    filler.insert_one(doc! { "_id": 0 }).await?;
    let settings = pipeline.source_environment().set("JSON_DIALECT", dialect);
    let mut source = pipeline.start(Binary::Source, settings)?;
    source.wait_until_ready().await?;
    let run = Run::start_with(pipeline, &client, Pace::PerSecond(200), source).await?;
    let mut sink = pipeline.start(Binary::Sink, environment.clone())?;
    sink.wait_until_ready().await?;
    old.insert_one(doc! { "_id": 3 }).await?;
    run.workload.wait_for(400, LIMIT).await?;

    let compare = Compare { pipeline, environment: environment.set("MONGO_URI", stage.mongod.uri()) };
    let old_topic = pipeline.data_topic("old");
    let (code, report) = compare.run("old", &["compare", "--topic", &old_topic]).await?;
    ensure!(code == DIFFERS && report["differences"] == 2, "{code} {report}");
    ensure!(report["collections"][0]["shown"].to_string().contains("not in the lake"), "{report}");

    filler.drop().await?;
    old.drop().await?;
    old.insert_one(doc! { "_id": 1, "again": true }).await?;
    let topics = [old_topic, pipeline.data_topic("orders")];
    let (code, report) =
        compare.run("living", &["compare", "--topic", &topics[0], "--topic", &topics[1]]).await?;
    ensure!(matches!(code, AGREES | UNDECIDED) && report["differences"] == 0, "{code} {report}");

    let (expected, mut source) = run.finish().await?;
    // Beside a writer it was looked at above; here both sides stand still.
    pipeline.wait_for_kafka(&expected, &mut [&mut source, &mut sink]).await?;
    pipeline.wait_for_lake(&mut [&mut source, &mut sink]).await?;
    let (code, report) = compare.run("still", &["verify", "--all", "--source"]).await?;
    ensure!(code == AGREES && report["ok"] == true, "{code} {report}");
    let mut documents = 0;
    for name in database.list_collection_names().await? {
        documents += database.collection::<Document>(&name).count_documents(doc! {}).await?;
    }
    let sum = |of: &str| -> Option<u64> { collections(&report).map(|each| each[of].as_u64()).sum() };
    ensure!(sum("inMongoDB") == Some(documents) && sum("inLake") == Some(documents), "{documents}: {report}");
    let (code, report) = compare.run("sample", &["compare", "--all", "--sample", "20"]).await?;
    let sampled: Option<u64> = collections(&report).map(|each| each["inMongoDB"].as_u64()).sum();
    ensure!(code == AGREES && sampled.is_some_and(|sampled| (1..documents).contains(&sampled)), "{report}");

    forge(pipeline, &database.collection("orders")).await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    let (code, report) = compare.run("forged", &["compare", "--all"]).await?;
    ensure!(code == DIFFERS && report["differences"] == 4, "{code} {report}");
    let shown = report["collections"].to_string();
    for what in [
        "in the lake, but not in MongoDB",
        "its last change in the lake left another document",
        "its last change in the lake came without the document",
        "deleted in the lake, but in MongoDB",
    ] {
        ensure!(shown.contains(what), "{what}: {report}");
    }
    source.stop(LIMIT).await?;
    sink.stop(LIMIT).await
}

fn collections(report: &Value) -> impl Iterator<Item = &Value> {
    report["collections"].as_array().into_iter().flatten()
}

/// Changes that never were, of documents that are there and of one that is not.
async fn forge(pipeline: &Pipeline, orders: &mongodb::Collection<Document>) -> Result<()> {
    // Members of a document would come back sorted from the reference's JSON.
    let simple = doc! { "_id": { "$type": ["string", "int", "long", "objectId"] } };
    let mut found = orders.find(simple).projection(doc! { "_id": 1 }).limit(3).await?;
    let mut ids = Vec::new();
    while found.advance().await? {
        let document: Document = found.deserialize_current()?;
        ids.push(document.get("_id").context("an _id")?.clone());
    }
    let [other, bare, deleted] = ids.as_slice() else { anyhow::bail!("{} documents", ids.len()) };
    let other_id = other.clone().into_relaxed_extjson();
    let records = [
        (&Bson::from("nobody"), "insert", r#"{"_id":"nobody"}"#.to_owned()),
        (other, "update", format!(r#"{{"_id":{other_id},"forged":1}}"#)),
        (bare, "update", "null".to_owned()),
        (deleted, "delete", "null".to_owned()),
    ];
    let seconds = chrono::Utc::now().timestamp();
    let records = records.map(|(id, operation, document)| {
        let id = id.clone().into_relaxed_extjson();
        let database = pipeline.database();
        let value = format!(
            r#"{{"_meta":{{"operationType":"{operation}","ns":{{"db":"{database}","coll":"orders"}},"clusterTime":{{"$timestamp":{{"t":{seconds},"i":1}}}}}},"documentKey":{{"_id":{id}}},"fullDocument":{document}}}"#
        );
        NewRecord { key: Some(id.to_string().into_bytes()), ..NewRecord::new(value) }
            .header("operation-type", operation)
            .header("cluster-time", &format!("{seconds}.1"))
    });
    pipeline.kafka_writer().send(&pipeline.data_topic("orders"), 0, records.into()).await?;
    Ok(())
}

struct Compare<'a> {
    pipeline: &'a Pipeline,
    environment: Environment,
}

impl Compare<'_> {
    /// Its exit code, and the last JSON object that it printed.
    async fn run(&self, name: &str, arguments: &[&str]) -> Result<(i32, Value)> {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        let folder = self.pipeline.folder();
        let mut command =
            Service::start_with(Binary::Sink, name, &arguments, self.environment.clone(), folder)?;
        let code = command.exit_code(LIMIT * 4).await?;
        let log = command.log_text()?;
        let last = log.lines().rev().find(|line| line.starts_with('{'));
        Ok((code, serde_json::from_str(last.with_context(|| format!("{name}: {code} {log}"))?)?))
    }
}

//! The control topic in the lake.
//!
//! Goal: what happened to collections and databases, and gap markers, are rows of `_control/`, each once and in order, whoever is killed; its hours
//! close when all sources are past them; what is lost of it comes back by a replay; and `compare` knows which collections were dropped when Kafka has
//! long expired that. Method: definitions of each kind through a real source, sinks killed in between, Kafka's records deleted; then records whose
//! hours the test ends.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use mongodb::{
    Client, IndexModel,
    bson::{Document, doc},
};
use pipeline_tests::{
    kafka_reader::KafkaRecord,
    kafka_writer::NewRecord,
    lake_reader::LakeFile,
    ledger::{Evidence, Violations, judge_lake},
    pipeline::Pipeline,
    service::{Binary, Environment, Service},
    wait,
};
use serde_json::Value;

use crate::{
    check::Checked,
    closing::{HOUR_S, Positions, folder_of, instant},
    records::{LONG_AGO_S, events},
    stage::{LIMIT, Stage},
};

const KILLS: i32 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_are_archived_in_a_directory() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("controldir")?;
    definitions_are_archived(stage, &pipeline, pipeline.sink_environment()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_are_archived_in_azurite() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline_into_azurite("controlazure").await?;
    // The choice of data topics leaves definitions alone.
    let orders = pipeline.data_topic("orders");
    let environment = pipeline
        .sink_environment()
        .set("COMPRESSION", "gzip")
        .set("LINE_FORMAT", "flat")
        .set("SINK_TOPICS", orders);
    definitions_are_archived(stage, &pipeline, environment).await
}

async fn definitions_are_archived(
    stage: &Stage,
    pipeline: &Pipeline,
    environment: Environment,
) -> Result<()> {
    let control = pipeline.topics().control();
    let client = stage.mongod.client().await?;
    let environment = environment.set("ROLL_ROWS", "7");
    // Before there is anything to read.
    let mut sink = pipeline.start(Binary::Sink, environment.clone())?;
    sink.wait_until_ready().await?;
    let mut source = pipeline.ready_source().await?;
    let mut deeds = Deeds::new(&client, pipeline);
    deeds.insert("orders", 0..20).await?;
    for kill in 0..KILLS {
        deeds.of_every_kind(&format!("c{kill}")).await?;
        sink.kill9()?;
        deeds.create(&format!("d{kill}")).await?;
        sink = pipeline.start(Binary::Sink, environment.clone())?;
        deeds.drop(&format!("d{kill}")).await?;
    }
    deeds.drop("orders").await?;
    deeds.insert("orders", 0..3).await?;
    deeds.are_in_kafka().await?;
    source.stop(LIMIT).await?;
    // A marker that is of no collection.
    let settings = pipeline.source_environment();
    let arguments = ["token", "set", "--to", "now", "--yes"];
    let mut set = Service::start_with(Binary::Source, "token-set", &arguments, settings, pipeline.folder())?;
    ensure!(set.exit_code(LIMIT).await? == 0, "{}", set.log_text()?);
    deeds.done.push(("gap".to_owned(), None));
    let mut source = pipeline.ready_source().await?;
    deeds.insert("last", 0..1).await?;

    deeds.are_in_kafka().await?;
    wait_for_orders(pipeline, &mut [&mut source, &mut sink]).await?;
    let evidence = pipeline.evidence().await?;
    let archived = archived(pipeline).await?;
    ensure!(archived == deeds.done, "archived: {archived:?}\ndone: {:?}", deeds.done);
    let mut violations = Violations::default();
    let lake = evidence.lake.clone().context("a lake")?;
    judge_lake(&only(&evidence, &[&control, &pipeline.data_topic("orders")])?, &mut violations);
    violations.none()?;
    ensure!(lake.files.iter().filter(|file| file.path.starts_with("_control/year=")).count() > 1, "one file");

    // The hour before the first sight closes at once; nobody has to know of a collection for that.
    let manifest = closed(pipeline, None).await?;
    ensure!(manifest["topic"] == *control && manifest.get("db").is_none(), "{manifest}");

    let commands = Commands { pipeline, environment: environment.set("MONGO_URI", stage.mongod.uri()) };
    let orders = pipeline.data_topic("orders");
    let chosen = ["verify", "--topic", &control, "--topic", &orders, "--drained", "--json"];
    let report = commands.report("verify", 0, &chosen).await?;
    ensure!(report.to_string().contains(&control), "{report}");

    // As retention does in time: what was dropped is known from the lake alone.
    let reached = pipeline.lake().positions().await?[&(control.clone(), 0)];
    pipeline.kafka_writer().delete_records(&control, 0, reached).await?;
    let compare = ["compare", "--topic", &orders, "--json"];
    let report = commands.report("compare-archived", 0, &compare).await?;
    ensure!(report["collections"][0]["inLake"] == 3, "{report}");
    // Behind the archive's end it is known from Kafka.
    sink.stop(LIMIT).await?;
    deeds.drop("orders").await?;
    deeds.are_behind(reached).await?;
    let report = commands.report("compare-tail", 0, &compare).await?;
    ensure!(report["collections"][0]["inLake"] == 0, "{report}");

    let mut sink = pipeline.start(Binary::Sink, commands.environment.clone())?;
    // What is left goes with it.
    deeds.database.drop().await?;
    deeds.did("drop", "last");
    // The stream of a database ends with it.
    for operation in ["dropDatabase", "invalidate"] {
        deeds.done.push((operation.to_owned(), None));
    }
    let is_archived = wait::until("the database's end is archived", LIMIT / 2, || async {
        Ok((self::archived(pipeline).await?.len() >= deeds.done.len()).then_some(()))
    })
    .await;
    let archived = self::archived(pipeline).await?;
    is_archived
        .with_context(|| format!("archived: {archived:?}\ndone: {:?}\n{}", deeds.done, sink.log_tail()))?;
    ensure!(archived == deeds.done, "archived: {archived:?}\ndone: {:?}", deeds.done);
    commands.report("verify-again", 0, &chosen).await?;
    source.stop(LIMIT).await?;
    sink.stop(LIMIT).await
}

/// What there is of some topics; the others may be on their way, or nobody's.
fn only(evidence: &Evidence, topics: &[&String]) -> Result<Evidence> {
    let mut evidence = evidence.clone();
    let letters = evidence.topics.dead_letters();
    evidence.kafka.topics.retain(|topic, _| topics.contains(&topic) || *topic == letters);
    evidence.committed.retain(|(topic, _), _| topics.contains(&topic));
    let lake = evidence.lake.as_mut().context("a lake")?;
    lake.heads.retain(|head| topics.contains(&&head.topic));
    let mut files = Vec::new();
    for file in lake.files.drain(..) {
        if topics.contains(&&file.topic()?) {
            files.push(file);
        }
    }
    lake.files = files;
    Ok(evidence)
}

async fn wait_for_orders(pipeline: &Pipeline, services: &mut [&mut Service]) -> Result<()> {
    let topics = [pipeline.data_topic("orders"), pipeline.topics().control()];
    let content = pipeline.kafka().read(topics).await?;
    wait::until("orders and definitions are in the lake", LIMIT, || async {
        let positions = pipeline.lake().positions().await?;
        let reached = content.topics.iter().all(|(topic, partitions)| {
            partitions.iter().all(|(partition, part)| {
                let end = part.records.last().map_or(0, |last| last.offset + 1);
                positions.get(&(topic.clone(), *partition)).is_some_and(|position| *position >= end)
                    || end == 0
            })
        });
        Ok(reached.then_some(()))
    })
    .await
    .with_context(|| services.iter().map(|service| service.log_tail()).collect::<String>())
}

/// An operation, and the collection that it is of.
type Deed = (String, Option<String>);

/// What is done to a database, one after the other.
struct Deeds<'a> {
    pipeline: &'a Pipeline,
    database: mongodb::Database,
    done: Vec<Deed>,
}

impl<'a> Deeds<'a> {
    fn new(client: &Client, pipeline: &'a Pipeline) -> Self {
        Self { pipeline, database: client.database(pipeline.database()), done: Vec::new() }
    }

    fn did(&mut self, operation: &str, collection: &str) {
        self.done.push((operation.to_owned(), Some(collection.to_owned())));
    }

    async fn create(&mut self, name: &str) -> Result<()> {
        self.database.create_collection(name).await?;
        self.did("create", name);
        Ok(())
    }

    async fn drop(&mut self, name: &str) -> Result<()> {
        self.database.collection::<Document>(name).drop().await?;
        self.did("drop", name);
        Ok(())
    }

    /// Into a collection that is not there.
    async fn insert(&mut self, name: &str, ids: std::ops::Range<i32>) -> Result<()> {
        self.database.collection(name).insert_many(ids.map(|id| doc! { "_id": id })).await?;
        self.did("create", name);
        Ok(())
    }

    async fn of_every_kind(&mut self, name: &str) -> Result<()> {
        self.create(name).await?;
        let collection = self.database.collection::<Document>(name);
        collection.create_index(IndexModel::builder().keys(doc! { "a": 1 }).build()).await?;
        self.did("createIndexes", name);
        self.database.run_command(doc! { "collMod": name, "validator": { "a": { "$gte": 0 } } }).await?;
        self.did("modify", name);
        collection.drop_index("a_1").await?;
        self.did("dropIndexes", name);
        let (database, renamed) = (self.database.name(), format!("{name}-renamed"));
        let (from, to) = (format!("{database}.{name}"), format!("{database}.{renamed}"));
        let admin = self.database.client().database("admin");
        admin.run_command(doc! { "renameCollection": from, "to": to }).await?;
        self.did("rename", name);
        self.drop(&renamed).await
    }

    /// What the source says is what was done, in the same order.
    async fn are_in_kafka(&self) -> Result<()> {
        let control = self.pipeline.topics().control();
        let deeds = async || -> Result<Vec<Deed>> {
            let content = self.pipeline.kafka().read([control.clone()]).await?;
            let deed = |record: &KafkaRecord| {
                let collection = record.header("collection").filter(|name| !name.is_empty());
                Some((record.header("operation-type")?.to_owned(), collection.map(str::to_owned)))
            };
            Ok(content.records(&control).filter_map(deed).collect())
        };
        let all = wait::until("the source has published them", LIMIT, || async {
            Ok((deeds().await?.len() >= self.done.len()).then_some(()))
        });
        let all = all.await;
        let found = deeds().await?;
        all.with_context(|| format!("in Kafka: {found:?}\ndone: {:?}", self.done))?;
        ensure!(found == self.done, "in Kafka: {found:?}\ndone: {:?}", self.done);
        Ok(())
    }

    /// Something came behind this offset.
    async fn are_behind(&self, offset: i64) -> Result<()> {
        let control = self.pipeline.topics().control();
        wait::until("the source has published it", LIMIT, || async {
            let ends = self.pipeline.kafka().log_ends([control.clone()]).await?;
            let end = ends.get(&(control.clone(), 0)).context("the partition")?.1;
            Ok((end > offset + 1).then_some(()))
        })
        .await
    }
}

/// The files of the control topic, in their order.
async fn files(pipeline: &Pipeline) -> Result<Vec<LakeFile>> {
    let mut files = BTreeMap::new();
    for file in pipeline.lake().read().await?.files {
        if file.path.starts_with("_control/") {
            files.insert(file.number("first")?, file);
        }
    }
    Ok(files.into_values().collect())
}

/// What the lake says that was done.
async fn archived(pipeline: &Pipeline) -> Result<Vec<Deed>> {
    let mut deeds = Vec::new();
    for file in files(pipeline).await? {
        for line in file.lines()? {
            let line: Value = serde_json::from_slice(line)?;
            let text = |pointers: [&str; 2]| {
                pointers.iter().find_map(|pointer| line.pointer(pointer)?.as_str()).map(str::to_owned)
            };
            let operation = text(["/_meta/operationType", "/_meta_operationType"]);
            deeds.push((operation.context("an operation")?, text(["/_meta/ns/coll", "/_meta_coll"])));
        }
    }
    Ok(deeds)
}

/// Waits until an hour of the control topic has its mark; any one if none is named.
async fn closed(pipeline: &Pipeline, hour: Option<i64>) -> Result<Value> {
    let record = format!("_chain/{}/hours.json", pipeline.topics().control());
    let hour = match hour {
        Some(hour) => hour,
        None => {
            wait::until("an hour of definitions has closed", LIMIT, || async {
                let Some(record) = pipeline.lake().document(&record).await? else { return Ok(None) };
                let record: Value = serde_json::from_slice(&record)?;
                let closed =
                    record["closed"].as_str().map(chrono::DateTime::parse_from_rfc3339).transpose()?;
                Ok(closed.map(|closed| closed.timestamp()))
            })
            .await?
        }
    };
    let folder = format!("_control/{}", folder_of(hour));
    wait::until(&format!("{} closes", instant(hour)), LIMIT, || async {
        Ok(pipeline.lake().document(&format!("{folder}/_SUCCESS")).await?.map(drop))
    })
    .await?;
    let manifest = pipeline.lake().document(&format!("{folder}/_manifest.json")).await?;
    Ok(serde_json::from_slice(&manifest.context("a manifest")?)?)
}

struct Commands<'a> {
    pipeline: &'a Pipeline,
    environment: Environment,
}

impl Commands<'_> {
    async fn run(&self, name: &str, expected: i32, arguments: &[&str]) -> Result<String> {
        let (environment, folder) = (self.environment.clone(), self.pipeline.folder());
        let mut command = Service::start_with(Binary::Sink, name, arguments, environment, folder)?;
        let code = command.exit_code(LIMIT).await?;
        let text = command.log_text()?;
        ensure!(code == expected, "{name}: {code}\n{text}");
        Ok(text)
    }

    /// The last JSON object that it printed.
    async fn report(&self, name: &str, expected: i32, arguments: &[&str]) -> Result<Value> {
        let text = self.run(name, expected, arguments).await?;
        let last = text.lines().rev().find(|line| line.starts_with('{'));
        Ok(serde_json::from_str(last.with_context(|| format!("{name}: {text}"))?)?)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_of_definitions_close_in_a_directory() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline("controlhoursdir")?;
    hours_close_and_come_back(&pipeline, pipeline.sink_environment()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_of_definitions_close_in_azurite() -> Result<()> {
    let pipeline = Stage::shared().await?.pipeline_into_azurite("controlhoursazure").await?;
    hours_close_and_come_back(&pipeline, pipeline.sink_environment().set("PUBLISH", "sealed")).await
}

/// A definition that no source has written: of any namespace, or of none.
fn definition(number: i64, seconds: i64, database: Option<&str>, collection: Option<&str>) -> NewRecord {
    let value = format!(
        r#"{{"_meta":{{"operationType":"create","number":{number}}},"documentKey":null,"fullDocument":null}}"#
    );
    let mut record = NewRecord::new(value)
        .header("operation-type", "create")
        .header("cluster-time", &format!("{seconds}.{number}"));
    for (name, text) in [("database", database), ("collection", collection)] {
        if let Some(text) = text {
            record = record.header(name, text);
        }
    }
    record
}

async fn hours_close_and_come_back(pipeline: &Pipeline, environment: Environment) -> Result<()> {
    let (control, orders) = (pipeline.topics().control(), pipeline.data_topic("orders"));
    let writer = pipeline.kafka_writer();
    writer.create_topic(&control, 1, &[]).await?;
    writer.create_topic(&orders, 1, &[]).await?;
    // One of the sources reads nothing of this pipeline's database: definitions wait for it all the same.
    let begin = LONG_AGO_S / HOUR_S * HOUR_S;
    let (own, other) =
        (Positions::new(pipeline).await?, Positions::of(pipeline, "other", "elsewhere").await?);
    own.commit(begin + 10).await?;
    other.commit(begin + 10).await?;
    let mut sink = pipeline.start(Binary::Sink, environment.clone())?;
    closed(pipeline, Some(begin - HOUR_S)).await?;
    for hour in 0..2 {
        let at = begin + hour * HOUR_S + 5;
        let number = 10 * hour;
        let mut records = vec![
            definition(number, at, Some(pipeline.database()), Some("orders")),
            definition(number + 1, at, Some("elsewhere"), None),
            definition(number + 2, at, None, None),
        ];
        if hour == 0 {
            records.push(NewRecord::new(&b"no JSON"[..]).header("cluster-time", &format!("{at}.9")));
        }
        writer.send(&control, 0, records).await?;
        writer.send(&orders, 0, events(pipeline, number..number + 5, at)).await?;
    }
    own.commit(begin + 2 * HOUR_S).await?;
    // The collection's own hours do not wait for the other one, and that is how long there was to see the definitions' close too early.
    crate::closing::closed(pipeline, begin + HOUR_S).await?;
    let mark = format!("_control/{}/_SUCCESS", folder_of(begin));
    ensure!(pipeline.lake().document(&mark).await?.is_none(), "closed, and a source was not past it");
    other.commit(begin + 2 * HOUR_S).await?;
    let first = closed(pipeline, Some(begin)).await?;
    ensure!(first["rows"] == 3 && first["deadletters"] == 1, "{first}");
    ensure!(first.get("db").is_none() && first.get("coll").is_none(), "{first}");
    let second = closed(pipeline, Some(begin + HOUR_S)).await?;
    ensure!(second["rows"] == 3, "{second}");
    let head = pipeline.lake().document(&format!("_chain/{control}/p0.json")).await?;
    let head: Value = serde_json::from_slice(&head.context("a head")?)?;
    ensure!(head["db"].is_null() && head["coll"].is_null() && head["path"].is_string(), "{head}");
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    let mut violations = Violations::default();
    judge_lake(&pipeline.evidence().await?, &mut violations);
    violations.none()?;

    sink.stop(LIMIT).await?;

    let commands = Commands { pipeline, environment };
    let text = commands.run("verify", 0, &["verify", "--all", "--drained"]).await?;
    ensure!(text.contains(&control), "{text}");
    let before = files(pipeline).await?;
    pipeline.lake().delete(&before.first().context("a file")?.path).await?;
    let text = commands.run("verify-lost", 25, &["verify", "--all"]).await?;
    ensure!(text.contains("gap: nothing holds offsets"), "{text}");
    commands.run("replay", 0, &["replay", "--topic", &control, "--all"]).await?;
    let after = files(pipeline).await?;
    let bytes = |files: &[LakeFile]| -> Vec<(String, Vec<u8>)> {
        files.iter().map(|file| (file.path.clone(), file.bytes.clone())).collect()
    };
    ensure!(bytes(&after) == bytes(&before), "a rebuild has made other files");
    commands.run("verify-back", 0, &["verify", "--all", "--drained"]).await?;
    pipeline.lake().delete(&format!("_chain/{control}/p0.json")).await?;
    let again = ["verify", "--topic", &control, "--restore-head"];
    commands.run("restored", 0, &again).await?;

    let other = pipeline.folder().join("parquet").display().to_string();
    let into = format!("file://{other}");
    let export = ["export", "parquet", "--topic", &control, "--all", "--into", &into, "--json"];
    let exported = commands.run("export", 0, &export).await?;
    ensure!(exported.contains("_control/"), "{exported}");

    // A purge of everything leaves what says which collections are gone; by name it goes.
    let limit = instant(begin + HOUR_S);
    commands.run("expire-all", 0, &["expire", "--all", "--before", &limit]).await?;
    let gone = crate::closing::manifest(pipeline, begin).await?;
    ensure!(gone.is_none(), "an old hour of the collection is still there");
    ensure!(bytes(&files(pipeline).await?) == bytes(&before), "definitions were purged without being named");
    commands.run("expire-control", 0, &["expire", "--topic", &control, "--before", &limit]).await?;
    ensure!(files(pipeline).await?.len() == before.len() - 1, "the old hour of definitions is still there");
    commands.run("verify-purged", 0, &["verify", "--all", "--drained"]).await?;
    Ok(())
}

/// Two prefixes in one lake. Goal: the second one's definitions never come between those of the first; it says so, and without its definitions its
/// collections are taken. Method: an hour of the first one's closes, then the second one has a definition of the same hour and offset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_prefix_does_not_share_the_folder_in_a_directory() -> Result<()> {
    let stage = Stage::shared().await?;
    a_second_prefix_is_refused(&stage.pipeline("controlone")?, &stage.pipeline("controltwo")?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_prefix_does_not_share_the_folder_in_azurite() -> Result<()> {
    let stage = Stage::shared().await?;
    let first = stage.pipeline_into_azurite("controloneazure").await?;
    a_second_prefix_is_refused(&first, &stage.pipeline("controltwoazure")?).await
}

async fn a_second_prefix_is_refused(first: &Pipeline, second: &Pipeline) -> Result<()> {
    let begin = LONG_AGO_S / HOUR_S * HOUR_S;
    let (control, orders) = (second.topics().control(), second.data_topic("orders"));
    let writer = first.kafka_writer();
    for topic in [&first.topics().control(), &control, &orders] {
        writer.create_topic(topic, 1, &[]).await?;
    }
    for pipeline in [first, second] {
        let record = definition(1, begin + 5, Some(pipeline.database()), Some("orders"));
        writer.send(&pipeline.topics().control(), 0, vec![record]).await?;
    }
    writer.send(&orders, 0, events(second, 0..5, begin + 5)).await?;
    let positions = Positions::new(first).await?;
    positions.commit(begin + 10).await?;
    let mut sink = first.ready_sink().await?;
    first.wait_for_lake(&mut [&mut sink]).await?;
    positions.commit(begin + HOUR_S).await?;
    let manifest = closed(first, Some(begin)).await?;
    ensure!(manifest["rows"] == 1, "{manifest}");
    sink.stop(LIMIT).await?;
    let before = files(first).await?;

    let environment = || {
        let environment = first.sink_environment().set("SINK_GROUP", second.sink_group());
        environment.set("TOPIC_PREFIX", second.topics().prefix().trim_end_matches('.'))
    };
    let checked = Checked::with(second, "check", environment()).await?;
    checked.ends_with(25, &[&format!("chain of {control}")])?;
    for _ in 0..2 {
        let mut refused = second.start(Binary::Sink, environment())?;
        let (code, text) = (refused.exit_code(LIMIT).await?, refused.log_text()?);
        ensure!(code == 25 && text.contains("SINK_EXCLUDE="), "{code}\n{text}");
        ensure!(text.contains(&first.topics().control()) && text.contains(&control), "{text}");
    }

    let mut sink = second.start(Binary::Sink, environment().set("SINK_EXCLUDE", &control))?;
    let arrived = wait::until("the second one's orders are in the lake", LIMIT, || async {
        let position = first.lake().positions().await?.get(&(orders.clone(), 0)).copied();
        Ok((position >= Some(5)).then_some(()))
    });
    arrived.await.with_context(|| sink.log_tail())?;
    sink.stop(LIMIT).await?;
    ensure!(closed(first, Some(begin)).await? == manifest, "the manifest has changed");
    ensure!(files(first).await? == before, "definitions have changed");
    let first_alone = Commands { pipeline: first, environment: first.sink_environment() };
    first_alone.run("verify", 0, &["verify", "--all", "--drained"]).await?;
    let second_alone = Commands { pipeline: first, environment: environment() };
    second_alone.run("verify-second", 0, &["verify", "--topic", &orders, "--drained"]).await?;
    Ok(())
}

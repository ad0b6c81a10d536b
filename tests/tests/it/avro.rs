//! `VALUE_FORMAT=avro`, with a real registry.
//!
//! Goal: what is in the lake does not depend on the format of the records. Method: two pipelines read the same database, one
//! in Avro, one in JSON; their lines are compared byte for byte, and the ledger judges the records in Avro as Apache's own
//! library reads them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use mongodb::bson::{Document, doc};
use pipeline_tests::{
    avro::read_as_json,
    kafka_writer::NewRecord,
    lake_reader::LakeReader,
    pipeline::Pipeline,
    servers::Registry,
    service::{Binary, Environment, Service},
    wait,
    workload::Pace,
};
use tokio::sync::OnceCell;

use crate::{
    gate::Gate,
    password_proxy::PasswordProxy,
    records::{LONG_AGO_S, event, judge, make_topic},
    stage::{LIMIT, Run, Stage},
};

const USER: &str = "atlas";
const PASSWORD: &str = "planted-password";

/// The registry that the tests here share, where it is not stopped.
pub(crate) async fn registry() -> Result<&'static Registry> {
    static SHARED: OnceCell<Registry> = OnceCell::const_new();
    SHARED.get_or_try_init(Registry::start).await
}

/// Looked-up documents depend on the moment: without them two sources say the same of an event.
fn without_look_ups(environment: Environment) -> Environment {
    environment.set("FULL_DOCUMENT", "default")
}

fn in_avro(environment: Environment, url: &str) -> Environment {
    environment.set("VALUE_FORMAT", "avro").set("SCHEMA_REGISTRY_URL", url)
}

/// Every line of a lake by its event id, without what differs between two sources: their names, their clocks, and the
/// coordinates in Kafka.
async fn lines_by_event(lake: &LakeReader, source: &str) -> Result<BTreeMap<String, String>> {
    let mut lines = BTreeMap::new();
    for file in lake.read().await?.files {
        for line in file.lines()? {
            let line = std::str::from_utf8(line)?;
            let (line, _kafka) = line.rsplit_once(",\"_kafka\":").context("a line has its coordinates")?;
            let (head, rest) = line.split_once(",\"processedAt\":\"").context("a line has its instant")?;
            let (instant, rest) = rest.split_once('"').context("an instant ends")?;
            ensure!(instant.len() == "2025-08-22T22:00:00.151Z".len(), "{instant} is no instant");
            let head = head.replace(&format!("\"source\":\"{source}\""), "\"source\":\"\"");
            let id = line.split('"').nth(5).context("a line begins with its event id")?.to_owned();
            // How many events a transaction has may be known to one source and not to the other.
            let rest = match rest.rsplit_once(",\"transaction\":{\"index\":") {
                Some((rest, transaction)) => {
                    let index = transaction.split(',').next().unwrap_or_default();
                    format!("{rest},\"transaction\":{{\"index\":{index}")
                }
                None => rest.to_owned(),
            };
            let before = lines.insert(id, format!("{head},\"processedAt\":\"\"{rest}"));
            ensure!(before.is_none(), "an event is there twice: {line}");
        }
    }
    Ok(lines)
}

/// `kill -9` of both services, a registry that goes away, and records of both formats in one topic included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lake_is_the_same_as_with_json() -> Result<()> {
    let stage = Stage::shared().await?;
    let mut registry = Registry::start().await?;
    let proxy = PasswordProxy::start(registry.port(), USER, PASSWORD).await?;
    let url = proxy.url(&registry.url());
    let pipeline = stage.pipeline("avrolake")?;
    let twin = stage.pipeline("avrotwin")?;
    let with_login = |environment: Environment| {
        environment
            .set("SCHEMA_REGISTRY_URL", &url)
            .set("SCHEMA_REGISTRY_USERNAME", USER)
            .set("SCHEMA_REGISTRY_PASSWORD", PASSWORD)
    };
    let source_environment = without_look_ups(with_login(pipeline.source_environment()));
    let start_source =
        |format: &str| pipeline.start(Binary::Source, source_environment.clone().set("VALUE_FORMAT", format));
    let start_sink = || pipeline.start(Binary::Sink, with_login(pipeline.sink_environment()));

    let client = stage.mongod.client().await?;
    let twin_environment =
        without_look_ups(twin.source_environment()).set("MONGO_DATABASES", pipeline.database());
    let mut twin_source = twin.start(Binary::Source, twin_environment)?;
    let mut twin_sink = twin.start_sink()?;
    // Before there is a schema: the sink learns it from the first record.
    let mut sink = start_sink()?;
    sink.wait_until_ready().await?;
    twin_source.wait_until_ready().await?;
    let mut source = start_source("avro")?;
    source.wait_until_ready().await?;
    let mut run = Run::start_with(&pipeline, &client, Pace::PerSecond(200), source).await?;

    run.workload.wait_for(300, LIMIT).await?;
    run.source.kill9()?;
    run.source = start_source("avro")?;
    run.source.wait_until_ready().await?;
    run.workload.wait_for(150, LIMIT).await?;
    sink.kill9()?;
    sink = start_sink()?;
    sink.wait_until_ready().await?;
    // Neither needs the registry again for a schema that it knows.
    registry.kill9()?;
    run.workload.wait_for(150, LIMIT).await?;
    registry.restart().await?;
    // An orderly change of the format: the topics hold both from now on.
    run.source.stop(LIMIT).await?;
    run.source = start_source("json")?;
    run.source.wait_until_ready().await?;
    run.workload.wait_for(150, LIMIT).await?;
    run.source.kill9()?;
    run.source = start_source("avro")?;
    run.source.wait_until_ready().await?;
    run.workload.wait_for(150, LIMIT).await?;

    let (expected, mut source) = run.finish().await?;
    pipeline.wait_for_kafka(&expected, &mut [&mut source, &mut sink]).await?;
    pipeline.wait_for_lake(&mut [&mut source, &mut sink]).await?;
    twin.wait_for_kafka(&expected, &mut [&mut twin_source, &mut twin_sink]).await?;
    twin.wait_for_lake(&mut [&mut twin_source, &mut twin_sink]).await?;

    let mut evidence = pipeline.evidence().await?;
    let all = evidence.data_records();
    let in_avro = read_as_json(&mut evidence.kafka, &registry)?;
    ensure!(in_avro > 500 && all > in_avro + 100, "{in_avro} of {all} records are in Avro");
    expected.judge(&evidence).none()?;
    ensure!(evidence.dead_letters() == 0, "{} dead letters", evidence.dead_letters());

    let ours = lines_by_event(pipeline.lake(), pipeline.topics().source_id()).await?;
    let theirs = lines_by_event(twin.lake(), twin.topics().source_id()).await?;
    let archived = evidence.archived_records();
    ensure!(archived > all && ours.len() == archived, "{} lines of {archived} records", ours.len());
    for (id, line) in &ours {
        let other = theirs.get(id).with_context(|| format!("the twin has no event {id}"))?;
        ensure!(line == other, "of Avro: {line}\nof JSON: {other}");
    }
    ensure!(ours.len() == theirs.len(), "{} events, the twin has {}", ours.len(), theirs.len());

    // The sink's own judgement; the monitor, which shows the lines; and no secret anywhere.
    let environment = with_login(pipeline.sink_environment());
    let verify = ["verify", "--all", "--drained"];
    run_to_end(&pipeline, Binary::Sink, "verify", &verify, environment).await?;
    let monitor = ["monitor", "--from", "earliest", "--until-end", "--json"];
    let shown =
        run_to_end(&pipeline, Binary::Source, "monitor", &monitor, pipeline.source_environment()).await?;
    let shown: BTreeSet<&str> = shown.lines().collect();
    for file in pipeline.lake().read().await?.files {
        for line in file.lines()? {
            let line = std::str::from_utf8(line)?;
            ensure!(shown.contains(line), "the monitor does not show {line}");
        }
    }
    ensure!(proxy.let_through() > 0, "nobody has asked the registry");
    for log in pipeline.logs() {
        let text = std::fs::read_to_string(&log)?;
        ensure!(!text.contains(PASSWORD), "{} shows the password", log.display());
    }
    Ok(())
}

/// A command that ends by itself with 0; what it printed.
async fn run_to_end(
    pipeline: &Pipeline,
    binary: Binary,
    name: &str,
    arguments: &[&str],
    environment: Environment,
) -> Result<String> {
    let mut command = Service::start_with(binary, name, arguments, environment, pipeline.folder())?;
    let code = command.exit_code(LIMIT).await?;
    ensure!(code == 0, "{name} ends with {code}\n{}", command.log_tail());
    Ok(std::fs::read_to_string(pipeline.folder().join(format!("{name}.log")))?)
}

/// A hostile producer, and one whose schema is its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_claims_avro_and_is_not_becomes_a_dead_letter() -> Result<()> {
    let stage = Stage::shared().await?;
    let registry = registry().await?;
    let pipeline = stage.pipeline("avropoison")?;
    let topic = make_topic(&pipeline).await?;
    let schema = std::fs::read_to_string(
        pipeline_tests::paths::repository().join("shared/src/avro/change_event.avsc"),
    )?;
    let ours = registry.register("atlas.lake.ChangeEvent", &schema)?;
    let foreign = registry.register("foreign", r#"{"type":"string"}"#)?;
    let framed = |id: u32, datum: &[u8]| [&[0][..], &id.to_be_bytes(), datum].concat();
    let as_avro = |value: Vec<u8>| {
        let headers = event(&pipeline, 0, LONG_AGO_S).headers;
        NewRecord { headers, ..NewRecord::new(value) }.header("content-type", "application/avro")
    };
    let bad = [
        ("invalid-avro", framed(ours, b"\x04")),
        ("invalid-avro", framed(ours, b"")),
        ("invalid-avro", b"{\"a\":1}".to_vec()),
        ("invalid-avro", b"\0\0".to_vec()),
        ("unknown-schema", framed(foreign, b"\x02a")),
        ("unknown-schema", framed(0x7fff_fff1, b"\x02a")),
        // Found by its first byte alone.
        ("unknown-schema", framed(foreign, b"\x02b")),
    ];
    let mut records = Vec::new();
    for (number, (_, value)) in (0..).zip(&bad) {
        records.push(event(&pipeline, number, LONG_AGO_S));
        let last = records.len() == bad.len() * 2 - 1;
        let record = if last { NewRecord::new(value.clone()) } else { as_avro(value.clone()) };
        records.push(record);
    }
    records.push(event(&pipeline, 99, LONG_AGO_S));
    pipeline.kafka_writer().send(&topic, 0, records).await?;

    let mut sink = pipeline
        .start(Binary::Sink, pipeline.sink_environment().set("SCHEMA_REGISTRY_URL", registry.url()))?;
    sink.wait_until_ready().await?;
    let (evidence, violations) = judge(&pipeline, &mut [&mut sink]).await?;
    violations.none()?;
    let letters: Vec<_> = evidence.kafka.records(&pipeline.topics().dead_letters()).collect();
    ensure!(letters.len() == bad.len(), "{} letters for {} bad records", letters.len(), bad.len());
    for (number, (reason, value)) in bad.iter().enumerate() {
        let key = format!("{topic}/0/{}", number * 2 + 1);
        let letter = letters.iter().find(|letter| letter.key.as_deref() == Some(key.as_bytes()));
        let letter = letter.with_context(|| format!("no letter for {key}"))?;
        let found = letter.header("dlq-reason");
        ensure!(found == Some(reason), "{key} is {found:?}, not {reason}");
        ensure!(letter.value.as_ref() == Some(value), "{key}: the value is not byte for byte");
    }
    sink.assert_running()
}

/// Waited for, said, and then used: by both services at their start, and by a sink that meets its first record in Avro. Nothing
/// is put aside meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_down_is_waited_for() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("avrodown")?;
    // One of its own: where another test has registered the schema, the sink knows it at its start, and asks no more.
    let registry = Registry::start().await?;
    let mut gate = Gate::shut_before(registry.port())?;
    let url = gate.url(&registry.url());
    let mut sink =
        pipeline.start(Binary::Sink, pipeline.sink_environment().set("SCHEMA_REGISTRY_URL", &url))?;
    says_that_it_waits(&mut sink, 0).await?;
    gate.open().await?;
    sink.wait_until_ready().await?;

    gate.shut().await;
    let mut source = pipeline.start(Binary::Source, in_avro(pipeline.source_environment(), &url))?;
    says_that_it_waits(&mut source, 0).await?;
    gate.open().await?;
    source.wait_until_ready().await?;

    let said_before = sink.log_text()?.len();
    gate.shut().await;
    let collection =
        stage.mongod.client().await?.database(pipeline.database()).collection::<Document>("orders");
    collection.insert_many((0..50).map(|n| doc! { "_id": n })).await?;
    pipeline.wait_for_records(50, LIMIT).await?;
    says_that_it_waits(&mut sink, said_before).await?;
    gate.open().await?;
    pipeline.wait_for_lake(&mut [&mut source, &mut sink]).await?;
    let evidence = pipeline.evidence().await?;
    ensure!(evidence.dead_letters() == 0 && evidence.data_records() == 50, "{}", evidence.data_records());
    sink.wait_until_ready().await
}

/// In the log, behind what it had said before, and by its readiness.
async fn says_that_it_waits(service: &mut Service, said_before: usize) -> Result<()> {
    let waited = wait::until("it says what it waits for", LIMIT, || async {
        let log = service.log_text()?;
        let said =
            log.get(said_before..).is_some_and(|new| new.contains("the schema registry does not answer"));
        Ok((said && !service.is_ready()).then_some(()))
    });
    waited.await.with_context(|| format!("its log ends with\n{}", service.log_tail()))?;
    service.assert_running()
}

/// A schema in the source's subject that readers could not go on with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_does_not_fit_ends_the_source_with_78() -> Result<()> {
    let stage = Stage::shared().await?;
    let registry = Registry::start().await?;
    let pipeline = stage.pipeline("avroschema")?;
    registry.register(
        "atlas.lake.ChangeEvent",
        r#"{"type":"record","name":"ChangeEvent","namespace":"atlas.lake","fields":[{"name":"documentKey","type":"long"}]}"#,
    )?;
    // By our own check, since this registry lets anything follow; then by the registry's.
    for rule in ["NONE", "BACKWARD"] {
        registry.set_compatibility("atlas.lake.ChangeEvent", rule)?;
        let environment = in_avro(pipeline.source_environment(), &registry.url());
        let mut source = pipeline.start(Binary::Source, environment)?;
        let code = source.exit_code(LIMIT).await?;
        let log = source.log_tail();
        ensure!(code == 78, "{rule}: ended with {code}\n{log}");
        ensure!(log.contains("not compatible with ours"), "{rule}: the reason is not said\n{log}");
    }
    Ok(())
}

/// 77 for a wrong password, 78 for an address that is no registry, or a sink without one; the password is never said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_have_their_exit_codes() -> Result<()> {
    let stage = Stage::shared().await?;
    let registry = registry().await?;
    let proxy = PasswordProxy::start(registry.port(), USER, "another").await?;
    let pipeline = stage.pipeline("avromistakes")?;
    let login = |environment: Environment| {
        environment.set("SCHEMA_REGISTRY_USERNAME", USER).set("SCHEMA_REGISTRY_PASSWORD", PASSWORD)
    };
    let source = |url: &str| login(in_avro(pipeline.source_environment(), url));
    let sink = |url: &str| login(pipeline.sink_environment().set("SCHEMA_REGISTRY_URL", url));
    let no_registry = format!("http://127.0.0.1:{}", registry.port());
    for (binary, environment, expected, says) in [
        (Binary::Source, source(&proxy.url(&registry.url())), 77, "SCHEMA_REGISTRY_PASSWORD"),
        (Binary::Sink, sink(&proxy.url(&registry.url())), 77, "SCHEMA_REGISTRY_PASSWORD"),
        (Binary::Source, source(&no_registry), 78, "check SCHEMA_REGISTRY_URL"),
        (Binary::Sink, sink(&no_registry), 78, "check SCHEMA_REGISTRY_URL"),
        (
            Binary::Source,
            pipeline.source_environment().set("VALUE_FORMAT", "avro"),
            78,
            "SCHEMA_REGISTRY_URL",
        ),
    ] {
        let mut service = pipeline.start(binary, environment)?;
        let code = service.exit_code(Duration::from_secs(30)).await?;
        let log = service.log_tail();
        ensure!(code == expected && log.contains(says), "ended with {code}, not {expected}\n{log}");
        ensure!(!log.contains(PASSWORD), "the password is said\n{log}");
    }

    // Records of a source, and a sink that has no registry: it must not put them all aside.
    let source_environment = in_avro(pipeline.source_environment(), &registry.url());
    let mut source = pipeline.start(Binary::Source, source_environment)?;
    source.wait_until_ready().await?;
    let collection =
        stage.mongod.client().await?.database(pipeline.database()).collection::<Document>("orders");
    collection.insert_one(doc! { "_id": 1 }).await?;
    let mut sink = pipeline.start_sink()?;
    let code = sink.exit_code(LIMIT).await?;
    let log = sink.log_tail();
    if code != 78 || !log.contains("SCHEMA_REGISTRY_URL is not set") {
        bail!("ended with {code}\n{log}");
    }
    Ok(())
}

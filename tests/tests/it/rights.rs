//! The access lists of `kafka/`: enough for both services, and a source without any one of its rights stops and names it.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use mongodb::bson::doc;
use pipeline_tests::{
    kafka_writer::NewRecord,
    paths,
    pipeline::Pipeline,
    process::Process,
    servers::{Kafka, KafkaJava, KafkaOptions, Mongod, MongodOptions},
    service::{Binary, Environment, Service},
};

use crate::{check::Checked, stage::LIMIT};

const SOURCE: &str = "atlas-source";
const SINK: &str = "atlas-sink";
const OPERATOR: &str = "atlas-operator";

/// Servers on which the services have names, and a folder for Kafka's tool.
struct Guarded {
    mongod: Mongod,
    kafka: Kafka,
    pipeline: Pipeline,
    tool: PathBuf,
}

impl Guarded {
    async fn start(name: &str) -> Result<Self> {
        let users = [SOURCE, SINK, OPERATOR].map(|user| (user.to_owned(), password(user)));
        let broker = KafkaOptions { users: users.to_vec(), ..KafkaOptions::default() };
        let (mongod, kafka) =
            tokio::try_join!(Mongod::start(MongodOptions::default()), Kafka::start(broker))?;
        let pipeline = Pipeline::into_directory(name, mongod.uri(), kafka.bootstrap())?;
        let tool = acl_tool(&pipeline)?;
        Ok(Self { mongod, kafka, pipeline, tool })
    }

    /// Runs the shipped script.
    async fn grant(&self, who: &str, user: &str) -> Result<()> {
        let script = paths::repository().join("kafka/grant.sh").display().to_string();
        let prefix = self.pipeline.topics().prefix();
        let prefix = prefix.trim_end_matches('.');
        let environment = [
            ("KAFKA_BROKERS", self.kafka.bootstrap()),
            ("KAFKA_ACLS", self.tool.display().to_string()),
            ("PRINCIPAL", format!("User:{user}")),
            ("TOPIC_PREFIX", prefix.to_owned()),
            ("SOURCE_ID", self.pipeline.topics().source_id().to_owned()),
            // The narrower of the two: a source of one database.
            ("DATA", format!("{prefix}.{}.", self.pipeline.database())),
            ("SINK_GROUP", self.pipeline.sink_group()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value));
        self.run("grant.sh", "/bin/bash", &[script, who.to_owned()], &environment).await
    }

    /// One line of Kafka's own tool.
    async fn acls(&self, user: &str, action: &str, right: &[&str]) -> Result<()> {
        self.change_acls("--allow-principal", user, action, right).await
    }

    async fn change_acls(&self, rule: &str, user: &str, action: &str, right: &[&str]) -> Result<()> {
        let bootstrap = self.kafka.bootstrap();
        let fixed = ["--bootstrap-server", &bootstrap, action, "--force", rule];
        let principal = format!("User:{user}");
        let arguments: Vec<String> = fixed
            .into_iter()
            .chain([principal.as_str()])
            .chain(right.iter().copied())
            .map(str::to_owned)
            .collect();
        self.run("kafka-acls", &self.tool.display().to_string(), &arguments, &[]).await
    }

    async fn run(
        &self,
        name: &str,
        program: &str,
        arguments: &[String],
        environment: &[(String, String)],
    ) -> Result<()> {
        let folder = self.pipeline.folder();
        let log = folder.join(format!("{name}.txt"));
        let mut job =
            Process::start(name, std::path::Path::new(program), arguments, environment, folder, &log)?;
        let status = job.wait_for_end(Duration::from_secs(120)).await?;
        ensure!(status.success(), "{name}: {status}\n{}", job.log_tail());
        Ok(())
    }

    fn as_user(&self, environment: Environment, user: &str) -> Result<Environment> {
        let door = self.kafka.bootstrap_of_users().context("the broker knows users")?;
        Ok(environment
            .set("KAFKA_BROKERS", door)
            .set("KAFKA_SECURITY_PROTOCOL", "sasl_plaintext")
            .set("KAFKA_SASL_MECHANISM", "plain")
            .set("KAFKA_SASL_USERNAME", user)
            .set("KAFKA_SASL_PASSWORD", password(user)))
    }

    fn start_source(&self) -> Result<Service> {
        self.pipeline.start(Binary::Source, self.as_user(self.pipeline.source_environment(), SOURCE)?)
    }

    async fn insert(&self, collection: &str, ids: std::ops::Range<i32>) -> Result<()> {
        let client = self.mongod.client().await?;
        let collection = client.database(self.pipeline.database()).collection(collection);
        collection.insert_many(ids.map(|id| doc! { "_id": id })).await?;
        Ok(())
    }
}

fn password(user: &str) -> String {
    format!("{user}-secret")
}

/// `kafka-acls.sh` of the broker that the tests have fetched.
fn acl_tool(pipeline: &Pipeline) -> Result<PathBuf> {
    let path = pipeline.folder().join("kafka-acls.sh");
    KafkaJava::tool("org.apache.kafka.tools.AclCommand", &path)?;
    Ok(path)
}

/// Goal: what the files grant is enough. Method: both services, each under its own name, make their topics, publish, archive, write a
/// dead letter, stop and start again; an operator sends the letter back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_services_run_with_the_shipped_access_lists() -> Result<()> {
    let stage = Guarded::start("granted").await?;
    stage.grant("source", SOURCE).await?;
    stage.grant("sink", SINK).await?;
    let mut source = stage.start_source()?;
    source.wait_until_ready().await?;
    stage.insert("orders", 0..50).await?;
    stage.pipeline.wait_for_records(50, LIMIT).await?;
    let topic = stage.pipeline.data_topic("orders");
    let bad = NewRecord::new(&b"{\"a\":"[..]);
    stage.pipeline.kafka_writer().send(&topic, 0, vec![bad]).await?;

    let environment = stage.as_user(stage.pipeline.sink_environment(), SINK)?;
    let mut sink = stage.pipeline.start(Binary::Sink, environment)?;
    sink.wait_until_ready().await?;
    stage.pipeline.wait_for_lake(&mut [&mut source, &mut sink]).await?;
    let letters = stage.pipeline.evidence().await?.dead_letters();
    ensure!(letters == 1, "{letters} dead letters");

    source.kill9()?;
    let mut source = stage.start_source()?;
    source.wait_until_ready().await?;
    stage.insert("orders", 50..60).await?;
    stage.insert("parcels", 0..5).await?;
    stage.pipeline.wait_for_records(66, LIMIT).await?;
    stage.pipeline.wait_for_lake(&mut [&mut source, &mut sink]).await?;
    source.stop(LIMIT).await?;

    stage.grant("operator", OPERATOR).await?;
    let letters: Vec<_> =
        stage.pipeline.evidence().await?.letters().filter_map(|letter| letter.key.clone()).collect();
    let [letter] = &letters[..] else { bail!("{} letters", letters.len()) };
    let letter = std::str::from_utf8(letter)?;
    let repaired = stage.pipeline.folder().join("repaired.json");
    std::fs::write(&repaired, "{}")?;
    let repaired = repaired.display().to_string();
    let arguments = ["dlq", "retry", "--key", letter, "--with-value", &repaired, "--yes"];
    let environment = stage.as_user(stage.pipeline.sink_environment(), OPERATOR)?;
    let mut retry =
        Service::start_with(Binary::Sink, "retry", &arguments, environment, stage.pipeline.folder())?;
    let code = retry.exit_code(LIMIT).await?;
    let text = retry.log_text()?;
    ensure!(code == 0 && text.contains("1 sent back"), "retry: {code}\n{text}");
    stage.pipeline.wait_for_lake(&mut [&mut sink]).await?;
    sink.stop(LIMIT).await?;
    a_missing_right_is_named_by_check(&stage).await?;
    for service in [&source, &sink] {
        let log = service.log_text()?;
        ensure!(!log.contains("uthorization"), "{}: {log}", service.name());
    }
    Ok(())
}

/// What a sink may is asked of the broker, one right after the other.
async fn a_missing_right_is_named_by_check(stage: &Guarded) -> Result<()> {
    let check = async |name: &str| {
        let environment = stage.as_user(stage.pipeline.sink_environment(), SINK)?;
        Checked::with(&stage.pipeline, name, environment).await
    };
    let granted = check("granted").await?;
    granted.ends_with(0, &[])?;
    granted.says("right on the group", "ok", "READ")?;
    let prefix = stage.pipeline.topics().prefix();
    let (group, letters) = (stage.pipeline.sink_group(), format!("{prefix}dlq"));
    let under =
        |operation| vec!["--topic", &prefix, "--resource-pattern-type", "prefixed", "--operation", operation];
    for (name, right, missing, found) in [
        ("group", vec!["--group", &group, "--operation", "Read"], "right on the group", "consumer group"),
        ("configs", under("DescribeConfigs"), "rights on topics", "DESCRIBE_CONFIGS is not granted"),
        (
            "letters",
            vec!["--topic", &letters, "--operation", "Write"],
            "rights on topics",
            "WRITE is not granted",
        ),
    ] {
        stage.acls(SINK, "--remove", &right).await?;
        let checked = check(name).await?;
        ensure!(checked.code() == 77, "without {right:?}: {}", checked.code());
        checked.says(missing, "missing", found)?;
        stage.acls(SINK, "--add", &right).await?;
    }

    // The control topic alone: a right that was taken away is told as of any other topic, by the sink too.
    let control = format!("{prefix}control");
    let denied = ["--topic", &control, "--operation", "Read"];
    stage.change_acls("--deny-principal", SINK, "--add", &denied).await?;
    let checked = check("control").await?;
    ensure!(checked.code() == 77, "without {control}: {}", checked.code());
    checked.says("rights on topics", "missing", "READ is not granted")?;
    let environment = stage.as_user(stage.pipeline.sink_environment(), SINK)?;
    let mut sink = stage.pipeline.start(Binary::Sink, environment)?;
    let code = sink.exit_code(LIMIT).await?;
    let log = sink.log_text()?;
    ensure!(code == 77 && log.contains(&control), "without {control}: {code}\n{log}");
    stage.change_acls("--deny-principal", SINK, "--remove", &denied).await
}

/// Goal: nothing in the source's file could be left out, and what is missing is said. Method: one right after the other is taken away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_without_any_one_right_stops_and_names_it() -> Result<()> {
    let stage = Guarded::start("refused").await?;
    stage.grant("source", SOURCE).await?;
    let mut source = stage.start_source()?;
    source.wait_until_ready().await?;
    stage.insert("orders", 0..20).await?;
    stage.pipeline.wait_for_records(20, LIMIT).await?;
    source.kill9()?;

    let id = stage.pipeline.topics().source_id().to_owned();
    let prefix = stage.pipeline.topics().prefix();
    let data = format!("{prefix}{}.", stage.pipeline.database());
    let (tokens, transactions) = (format!("{prefix}resume-tokens-{id}"), format!("atlas-source-{id}"));
    let (group, control) = (format!("atlas-source-recovery-{id}"), format!("{prefix}control"));
    let orders = stage.pipeline.data_topic("orders");
    let on_data =
        |operation| vec!["--topic", &data, "--resource-pattern-type", "prefixed", "--operation", operation];
    let cases = [
        (on_data("Read"), "READ and DESCRIBE on the topic"),
        (on_data("Write"), "needs WRITE and DESCRIBE on its topics"),
        (on_data("DescribeConfigs"), orders.as_str()),
        (on_data("Create"), "create topic"),
        (vec!["--topic", &tokens, "--operation", "Write"], tokens.as_str()),
        (vec!["--topic", &tokens, "--operation", "Read"], tokens.as_str()),
        (vec!["--topic", &control, "--operation", "DescribeConfigs"], control.as_str()),
        (vec!["--transactional-id", &transactions, "--operation", "Write"], "transactional id"),
        (vec!["--group", &group, "--operation", "Describe"], "DESCRIBE on group"),
        (vec!["--cluster", "--operation", "DescribeConfigs"], "DESCRIBE_CONFIGS on the cluster"),
    ];
    for (number, (right, named)) in (0..).zip(cases) {
        stage.acls(SOURCE, "--remove", &right).await?;
        let mut source = stage.start_source()?;
        stage.insert("orders", 100 + number..101 + number).await?;
        stage.insert(&format!("new{number}"), 0..1).await?;
        let code = source.exit_code(LIMIT).await.with_context(|| format!("without {right:?}"))?;
        let log = source.log_text()?;
        if code != 77 || !log.contains(named) {
            bail!("without {right:?} the source ended with {code}, and does not name {named:?}:\n{log}");
        }
        stage.acls(SOURCE, "--add", &right).await?;
    }
    // Nothing else was missing, and nothing was lost on the way.
    let mut source = stage.start_source()?;
    source.wait_until_ready().await?;
    stage.pipeline.wait_for_records(20 + 2 * 10, LIMIT).await?;
    source.stop(LIMIT).await
}

//! One source under test, between servers that are the test's alone while it runs.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use mongodb::{
    Client,
    bson::{Document, doc},
};
use pipeline_tests::{
    kafka_reader::{KafkaReader, KafkaRecord},
    process::{Process, Signal},
    servers::{KafkaOptions, MongodOptions},
    service::{Binary, Environment, Service},
    wait,
};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use tempfile::TempDir;

use crate::servers::{Lent, Servers};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A command of the source that is no service: its answer and its complaints lie in files of their own.
pub(crate) struct OneShot {
    process: Process,
    folder: TempDir,
}

impl OneShot {
    pub(crate) fn start(environment: Environment, arguments: &[&str]) -> Result<Self> {
        Self::start_in_shell(environment, "exec \"$0\" \"$@\"", arguments)
    }

    /// `script` has the program as `$0`.
    fn start_in_shell(environment: Environment, script: &str, arguments: &[&str]) -> Result<Self> {
        let folder = TempDir::new()?;
        let program = Binary::Source.path()?.to_string_lossy().into_owned();
        let script = format!("exec >stdout 2>stderr; {script}");
        let mut line = vec!["-c".to_owned(), script, program];
        line.extend(arguments.iter().map(ToString::to_string));
        let log = folder.path().join("shell.log");
        let shell = std::path::Path::new("/bin/bash");
        let process =
            Process::start("one-shot", shell, &line, &environment.into_pairs(), folder.path(), &log)?;
        Ok(Self { process, folder })
    }

    pub(crate) fn stdout(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stdout")).unwrap_or_default()
    }

    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    pub(crate) fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Waits for its end: code, standard output, standard error.
    pub(crate) async fn end(mut self) -> Result<(i32, String, String)> {
        let status = self.process.wait_for_end(LIMIT).await?;
        Ok((status.code().context("it was ended by a signal")?, self.stdout(), self.stderr()))
    }
}

impl Stage {
    /// Runs a line of bash, in which the source is `$0`, with the broker in its environment.
    pub(crate) async fn shell(&self, line: &str) -> Result<(i32, String, String)> {
        let environment = Environment::new().set("KAFKA_BROKERS", self.kafka.bootstrap());
        OneShot::start_in_shell(environment, line, &[])?.end().await
    }
}

/// Runs it to its end.
pub(crate) async fn one_shot(environment: Environment, arguments: &[&str]) -> Result<(i32, String, String)> {
    OneShot::start(environment, arguments)?.end().await
}

pub(crate) struct Stage {
    servers: Lent,
    pub(crate) client: Client,
    pub(crate) reader: KafkaReader,
    folder: TempDir,
}

impl Stage {
    /// On empty servers, whose oplog holds what earlier tests did.
    pub(crate) async fn new() -> Result<Self> {
        Self::on(Lent::empty().await?).await
    }

    /// On new servers.
    pub(crate) async fn own() -> Result<Self> {
        Self::with_mongod(MongodOptions::default()).await
    }

    pub(crate) async fn with_mongod(mongod: MongodOptions) -> Result<Self> {
        Self::on(Lent::own(mongod, KafkaOptions::default()).await?).await
    }

    pub(crate) async fn with_broker(broker: KafkaOptions) -> Result<Self> {
        Self::on(Lent::own(MongodOptions::default(), broker).await?).await
    }

    async fn on(servers: Lent) -> Result<Self> {
        let client = servers.mongod.client().await?;
        let reader = KafkaReader::new(servers.kafka.bootstrap());
        Ok(Self { servers, client, reader, folder: TempDir::new()? })
    }

    pub(crate) fn environment(&self) -> Environment {
        // `appName` lets fail points aim at the source alone.
        Environment::new()
            .set("MONGO_URI", format!("{}&appName=source-under-test", self.mongod.uri()))
            .set("KAFKA_BROKERS", self.kafka.bootstrap())
            .set("TOKEN_INTERVAL", "200ms")
            .set("TRANSACTION_TIMEOUT", "5s")
    }

    pub(crate) fn start(&self, environment: Environment) -> Result<Service> {
        Service::start(Binary::Source, "source", environment, self.folder.path())
    }

    /// With further arguments of `run`.
    pub(crate) fn start_with(&self, environment: Environment, arguments: &[&str]) -> Result<Service> {
        let arguments = [&["run"], arguments].concat();
        Service::start_with(Binary::Source, "source", &arguments, environment, self.folder.path())
    }

    /// A file of the test's.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path)
    }

    pub(crate) async fn started(&self, environment: Environment) -> Result<Service> {
        let mut source = self.start(environment)?;
        source.wait_until_ready().await?;
        Ok(source)
    }

    pub(crate) async fn insert(&self, collection: &str, ids: std::ops::Range<i32>) -> Result<()> {
        let (db, coll) = collection.split_once('.').unwrap();
        let documents = ids.map(|id| doc! { "_id": id, "v": 0 });
        self.client.database(db).collection::<Document>(coll).insert_many(documents).await?;
        Ok(())
    }

    /// Waits until the topic has so many records, and returns all of them.
    pub(crate) async fn records(&self, topic: &str, count: usize) -> Result<Vec<KafkaRecord>> {
        wait::until(&format!("{count} records in {topic}"), LIMIT, || async {
            if !self.reader.topics(topic).await?.contains(topic) {
                return Ok(None);
            }
            let content = self.reader.read([topic.to_owned()]).await?;
            let records: Vec<KafkaRecord> = content.records(topic).cloned().collect();
            Ok((records.len() >= count).then_some(records))
        })
        .await
    }

    pub(crate) async fn last_token(&self) -> Result<Vec<u8>> {
        let topic = "atlas.resume-tokens-default";
        let content = self.reader.read([topic.to_owned()]).await?;
        let last = content.records(topic).filter(|record| record.key.as_deref() == Some(b"default")).last();
        Ok(last.unwrap().value.clone().unwrap())
    }

    /// Somebody else's write, outside of any transaction.
    pub(crate) fn produce(&self, topic: &str, key: &str, value: Option<&[u8]>) -> Result<()> {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", self.kafka.bootstrap()).create()?;
        let mut record = BaseRecord::<str, [u8]>::to(topic).partition(0).key(key);
        if let Some(value) = value {
            record = record.payload(value);
        }
        producer.send(record).map_err(|(error, _)| error)?;
        producer.flush(LIMIT)?;
        Ok(())
    }

    /// Every next command of this name by the source fails so, `times` times.
    pub(crate) async fn fail(&self, command: &str, code: i32, times: i32) -> Result<()> {
        let data = doc! { "failCommands": [command], "errorCode": code, "appName": "source-under-test" };
        let point = doc! { "configureFailPoint": "failCommand", "mode": { "times": times }, "data": data };
        self.mongod.admin_command(point).await?;
        Ok(())
    }
}

impl std::ops::Deref for Stage {
    type Target = Servers;

    fn deref(&self) -> &Servers {
        &self.servers
    }
}

impl std::ops::DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut Servers {
        &mut self.servers
    }
}

/// How often each event id comes.
pub(crate) fn repeated(records: &[KafkaRecord]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        *counts.entry(record.header("event-id").unwrap().to_owned()).or_insert(0) += 1;
    }
    counts.retain(|_, count| *count > 1);
    counts
}

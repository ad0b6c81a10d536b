//! A whole pipeline under test: a database, topics and a lake of its own on servers that others use too.
//!
//! Names keep pipelines apart: each has its own database, topic prefix, source id, consumer group and lake, so that tests
//! share one mongod and one Kafka and still see only their own changes.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{
    folders,
    kafka_reader::KafkaReader,
    kafka_writer::KafkaWriter,
    lake_reader::LakeReader,
    ledger::{Evidence, Expected, Topics},
    servers::Azurite,
    service::{Binary, Environment, Service},
    wait,
};

/// One pipeline's names and places. It owns no server and no service.
#[derive(Debug)]
pub struct Pipeline {
    name: String,
    mongo_uri: String,
    brokers: String,
    reader: KafkaReader,
    topics: Topics,
    lake: LakeReader,
    lake_settings: Vec<(String, String)>,
    /// A collection's folder, with `{db}` and `{coll}`.
    place: String,
    folder: TempDir,
    started: AtomicU32,
}

/// How long no progress may last while a pipeline drains. After a kill, a source waits for the transaction of the one
/// before it, and a sink for the session of the one before it.
const STALL_LIMIT: Duration = Duration::from_secs(60);

impl Pipeline {
    /// A pipeline into a local directory. `name` is used as the database and in all other names; letters and digits.
    ///
    /// # Errors
    /// If no folder can be made.
    pub fn into_directory(name: &str, mongo_uri: String, brokers: String) -> Result<Self> {
        let folder = folders::new(&format!("{name}-"))?;
        let root = folder.path().join("lake");
        let lake_settings = vec![("LAKE_URL".to_owned(), format!("file://{}", root.display()))];
        Ok(Self::new(name, mongo_uri, brokers, LakeReader::Directory(root), lake_settings, folder))
    }

    /// The same into a container of its own in Azurite.
    ///
    /// # Errors
    /// If no folder can be made.
    pub fn into_azurite(name: &str, mongo_uri: String, brokers: String, azurite: &Azurite) -> Result<Self> {
        let folder = folders::new(&format!("{name}-"))?;
        let container = name.to_ascii_lowercase();
        let settings = azurite.sink_settings(&container);
        let lake = LakeReader::Azurite { port: azurite.port(), container };
        Ok(Self::new(name, mongo_uri, brokers, lake, settings, folder))
    }

    fn new(
        name: &str,
        mongo_uri: String,
        brokers: String,
        lake: LakeReader,
        lake_settings: Vec<(String, String)>,
        folder: TempDir,
    ) -> Self {
        let topics = Topics::new(name, name.to_ascii_lowercase());
        let started = AtomicU32::new(0);
        let reader = KafkaReader::new(&brokers);
        Self {
            name: name.to_owned(),
            mongo_uri,
            brokers,
            reader,
            topics,
            lake,
            lake_settings,
            place: "{db}/{coll}".to_owned(),
            folder,
            started,
        }
    }

    /// The same with another `LAYOUT`: that of a collection, and that of an hour below it as `strftime` has it. Sinks are not told.
    #[must_use]
    pub fn laid_out(self, place: &str, hours: &str) -> Self {
        Self { topics: self.topics.with_hours(hours), place: place.to_owned(), ..self }
    }

    /// Where a collection lies whose name needs no escape.
    pub fn place(&self, collection: &str) -> String {
        self.place.replace("{db}", &self.name).replace("{coll}", collection)
    }

    /// The database whose changes are read.
    pub fn database(&self) -> &str {
        &self.name
    }

    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    /// The topic of a collection whose name needs no escape.
    pub fn data_topic(&self, collection: &str) -> String {
        format!("{}{}.{collection}", self.topics.prefix(), self.name)
    }

    pub fn lake(&self) -> &LakeReader {
        &self.lake
    }

    /// The lake's root; `None` in Azurite.
    pub fn lake_folder(&self) -> Option<&Path> {
        if let LakeReader::Directory(root) = &self.lake { Some(root) } else { None }
    }

    /// Logs of the services.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn kafka(&self) -> KafkaReader {
        self.reader.clone()
    }

    /// The consumer group of this pipeline's sinks.
    pub fn sink_group(&self) -> String {
        format!("{}-sink", self.name)
    }

    pub fn kafka_writer(&self) -> KafkaWriter {
        KafkaWriter::new(&self.brokers)
    }

    /// What a source of this pipeline is started with. Waiting times are short, so that a test that waits for one is too.
    pub fn source_environment(&self) -> Environment {
        self.common_environment()
            .set("MONGO_URI", &self.mongo_uri)
            .set("MONGO_DATABASES", &self.name)
            .set("SOURCE_ID", self.topics.source_id())
            .set("TOPIC_PARTITIONS", 3)
            .set("TOPIC_REPLICATION", 1)
            .set("TOPIC_MIN_ISR", 1)
            .set("TRANSACTION_TIMEOUT", "8s")
            .set("TOKEN_INTERVAL", "1s")
    }

    /// What a sink of this pipeline is started with.
    pub fn sink_environment(&self) -> Environment {
        self.common_environment()
            .set("SINK_GROUP", self.sink_group())
            .set("FLUSH_INTERVAL", "1s")
            // Files end often, so that seals and heads are in the way of every trouble.
            .set("ROLL_BYTES", "128KiB")
            .set(
                "KAFKA_OPTIONS",
                "session.timeout.ms=6000,heartbeat.interval.ms=1000,topic.metadata.refresh.interval.ms=2000",
            )
            .with(self.lake_settings.iter().cloned())
    }

    fn common_environment(&self) -> Environment {
        Environment::new()
            .set("KAFKA_BROKERS", &self.brokers)
            .set("TOPIC_PREFIX", &self.name)
            .set("LOG_FORMAT", "json")
            .set("SHUTDOWN_TIMEOUT", "30s")
    }

    /// Starts a source; it may not be ready yet. Each start has a log of its own, `source-<n>.log`.
    ///
    /// # Errors
    /// If it is not built.
    pub fn start_source(&self) -> Result<Service> {
        self.start(Binary::Source, self.source_environment())
    }

    /// Starts a sink; it may not be ready yet.
    ///
    /// # Errors
    /// If it is not built.
    pub fn start_sink(&self) -> Result<Service> {
        self.start(Binary::Sink, self.sink_environment())
    }

    /// Starts a service with another environment than the usual one.
    ///
    /// # Errors
    /// If it is not built.
    pub fn start(&self, binary: Binary, environment: Environment) -> Result<Service> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let kind = match binary {
            Binary::Source | Binary::SourceWithSeededBugs => "source",
            Binary::Sink | Binary::SinkWithSeededBugs => "sink",
        };
        Service::start(binary, &format!("{kind}-{number}"), environment, self.folder.path())
    }

    /// Starts a source and waits until it is ready: from then on no change is missed.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn ready_source(&self) -> Result<Service> {
        let mut source = self.start_source()?;
        source.wait_until_ready().await?;
        Ok(source)
    }

    /// Starts a sink and waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn ready_sink(&self) -> Result<Service> {
        let mut sink = self.start_sink()?;
        sink.wait_until_ready().await?;
        Ok(sink)
    }

    /// Waits until every event is in Kafka, by its last one: the marker.
    ///
    /// # Errors
    /// If it does not come, or one of `services` ends meanwhile; with that one's log.
    pub async fn wait_for_kafka(&self, expected: &Expected, services: &mut [&mut Service]) -> Result<()> {
        let last = expected.events.last().context("nothing happened")?;
        let collection = last.coll.as_deref().context("the last event is the marker")?;
        let topic = format!("{}{}.{}", self.topics.prefix(), last.db, collection);
        let reader = self.kafka();
        let started = Instant::now();
        let (mut is_there, mut seen) = (false, None);
        loop {
            assert_running(services)?;
            // Of all topics, which is much on a broker that tests share: only until it is there.
            is_there = is_there || reader.topics(&topic).await?.contains(&topic);
            if is_there {
                let ends = Some(reader.log_ends([topic.clone()]).await?);
                if ends != seen {
                    let content = reader.read([topic.clone()]).await?;
                    if content.records(&topic).any(|record| record.header("event-id") == Some(&last.id)) {
                        return Ok(());
                    }
                    seen = ends;
                }
            }
            if started.elapsed() > STALL_LIMIT {
                bail!("the marker did not come to {topic} within {STALL_LIMIT:?}\n{}", tails(services));
            }
            wait::before_next_look(started).await;
        }
    }

    /// Waits until every record of the data topics and of the control topic is durable in the lake: each chain has reached the last record.
    ///
    /// # Errors
    /// If nothing moves for a minute, or one of `services` ends meanwhile; with the logs.
    pub async fn wait_for_lake(&self, services: &mut [&mut Service]) -> Result<()> {
        let content = self.kafka().read_prefix(&self.topics.prefix()).await?;
        let mut wanted = Vec::new();
        for (topic, partitions) in content.topics.iter().filter(|(topic, _)| self.topics.is_archived(topic)) {
            for (&partition, part) in partitions {
                wanted.extend(part.records.last().map(|last| ((topic.clone(), partition), last.offset + 1)));
            }
        }
        let started = Instant::now();
        let mut moved_at = started;
        let mut before = 0;
        loop {
            assert_running(services)?;
            let positions = self.lake.positions().await?;
            let position = |key: &(String, i32)| positions.get(key).copied().unwrap_or(0);
            let behind: Vec<_> = wanted.iter().filter(|(key, end)| position(key) < *end).collect();
            if behind.is_empty() {
                return Ok(());
            }
            let sum: i64 = positions.values().sum();
            if sum != before {
                (before, moved_at) = (sum, Instant::now());
            }
            if moved_at.elapsed() > STALL_LIMIT {
                let (key, end) = behind[0];
                bail!(
                    "{} of {} partitions do not reach their end for {STALL_LIMIT:?}; {key:?} is at {} of {end}\n{}",
                    behind.len(),
                    wanted.len(),
                    position(key),
                    tails(services),
                );
            }
            wait::before_next_look(started).await;
        }
    }

    /// Waits until everything is through and judges it: no violation, and no dead letter.
    ///
    /// # Errors
    /// If it does not drain, or what the ledger found.
    pub async fn drain_and_judge(&self, expected: &Expected, services: &mut [&mut Service]) -> Result<()> {
        self.wait_for_kafka(expected, services).await?;
        self.wait_for_lake(services).await?;
        let evidence = self.evidence().await?;
        expected.judge(&evidence).none()?;
        let letters = evidence.dead_letters();
        if letters > 0 {
            bail!("{letters} dead letters although nothing was wrong with any event");
        }
        Ok(())
    }

    /// Everything that is in Kafka and in the lake now.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn evidence(&self) -> Result<Evidence> {
        Evidence::of_kafka_and_lake(&self.topics, &self.kafka(), &self.sink_group(), &self.lake).await
    }

    /// The same without the lake, where no sink ran.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn evidence_of_kafka(&self) -> Result<Evidence> {
        Evidence::of_kafka(&self.topics, &self.kafka()).await
    }

    /// Waits until the data topics hold at least this many records.
    ///
    /// # Errors
    /// If they do not within `limit`.
    pub async fn wait_for_records(&self, count: i64, limit: Duration) -> Result<()> {
        let reader = self.kafka();
        let prefix = self.topics.prefix();
        wait::until(&format!("{count} records are in Kafka"), limit, || async {
            let topics = reader.topics(&prefix).await?;
            let data = topics.into_iter().filter(|topic| self.topics.is_data(topic));
            let ends: i64 = reader.high_watermarks(data).await?.values().sum();
            Ok((ends >= count).then_some(()))
        })
        .await
    }

    /// The paths of the service logs so far.
    pub fn logs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path()).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "log"))
            .collect()
    }
}

fn assert_running(services: &mut [&mut Service]) -> Result<()> {
    services.iter_mut().try_for_each(|service| service.assert_running())
}

fn tails(services: &[&mut Service]) -> String {
    services.iter().map(|service| format!("--- {}\n{}\n", service.name(), service.log_tail())).collect()
}

//! The servers and the two services of one demo, on free loopback ports.

use std::{fs, time::Duration};

use anyhow::{Context, Result, bail};
use pipeline_tests::{
    lake_reader::LakeReader,
    servers::{Azurite, AzuriteStorage, Kafka, KafkaOptions, Mongod, MongodOptions},
    service::{Binary, Environment, Service},
};
use serde_json::Value;

use crate::{replay::DATABASE, run_folder::RunFolder, settings::LakeKind};

/// The product's own default.
pub(crate) const TOPIC_PREFIX: &str = "atlas";
/// The sink waits this long for more rows; the product's default of 5 s saves requests in the cloud.
pub(crate) const FLUSH_INTERVAL: &str = "1s";
/// An orderly end of a service; its own limit is below.
const STOP_LIMIT: Duration = Duration::from_secs(40);
/// Reading Kafka and the lake again, as a whole.
const VERIFY_LIMIT: Duration = Duration::from_secs(180);

/// Everything that runs. Dropping it kills all of it, services first.
#[derive(Debug)]
pub(crate) struct Stage {
    source: Service,
    sink: Service,
    sink_environment: Environment,
    pub(crate) lake: LakeReader,
    pub(crate) kafka: Kafka,
    pub(crate) mongod: Mongod,
    _azurite: Option<Azurite>,
}

impl Stage {
    /// Starts everything and waits until changes would be seen.
    ///
    /// # Errors
    /// What did not start, with its log's tail.
    pub(crate) async fn start(kind: LakeKind, folder: &RunFolder) -> Result<Self> {
        let (mongod, kafka, azurite) = tokio::try_join!(
            Mongod::start(MongodOptions { oplog_size_mb: 4096, cache_gb: 1.0, ..MongodOptions::default() }),
            Kafka::start(KafkaOptions { heap_mb: 256, ..KafkaOptions::default() }),
            start_azurite(kind),
        )?;
        let (lake, settings) = match &azurite {
            None => {
                let settings = vec![("LAKE_URL".to_owned(), format!("file://{}", folder.lake().display()))];
                (LakeReader::Directory(folder.lake()), settings)
            }
            Some(azurite) => {
                let container = format!("demo-{}", folder.name());
                let settings = azurite.sink_settings(&container);
                (LakeReader::Azurite { port: azurite.port(), container }, settings)
            }
        };
        let common = Environment::new()
            .set("KAFKA_BROKERS", kafka.bootstrap())
            .set("TOPIC_PREFIX", TOPIC_PREFIX)
            .set("LOG_FORMAT", "human")
            .set("SHUTDOWN_TIMEOUT", "30s");
        let source_environment = common
            .clone()
            .set("MONGO_URI", mongod.uri())
            .set("MONGO_DATABASES", DATABASE)
            .set("SOURCE_ID", "demo");
        let sink_environment =
            common.set("SINK_GROUP", "demo").set("FLUSH_INTERVAL", FLUSH_INTERVAL).with(settings);
        let mut source = Service::start(Binary::Source, "source", source_environment, &folder.logs())?;
        let mut sink = Service::start(Binary::Sink, "sink", sink_environment.clone(), &folder.logs())?;
        tokio::try_join!(source.wait_until_ready(), sink.wait_until_ready())?;
        Ok(Self { source, sink, sink_environment, lake, kafka, mongod, _azurite: azurite })
    }

    /// Fails if a service has ended.
    ///
    /// # Errors
    /// Its exit code and the log's tail.
    pub(crate) fn assert_running(&mut self) -> Result<()> {
        self.source.assert_running()?;
        self.sink.assert_running()
    }

    /// Ends the services in order, the source first; the servers still run.
    ///
    /// # Errors
    /// If one does not end as it should.
    pub(crate) async fn stop_services(&mut self) -> Result<()> {
        self.source.stop(STOP_LIMIT).await?;
        self.sink.stop(STOP_LIMIT).await
    }

    /// `sink-service verify --all --drained`: its report.
    ///
    /// # Errors
    /// If it found a difference or could not look; with its output.
    pub(crate) async fn verify(&self, folder: &RunFolder) -> Result<Value> {
        let arguments = ["verify", "--all", "--drained", "--json"];
        let environment = self.sink_environment.clone();
        let mut verify =
            Service::start_with(Binary::Sink, "verify", &arguments, environment, &folder.logs())?;
        let code = verify.exit_code(VERIFY_LIMIT).await?;
        let output = verify.log_text()?;
        if code != 0 {
            bail!("sink-service verify ended with {code}:\n{}", verify.log_tail());
        }
        let mut reports = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        reports.next_back().context("sink-service verify printed no report")
    }

    /// Puts the servers' logs beside those of the services.
    ///
    /// # Errors
    /// If they cannot be copied.
    pub(crate) fn keep_logs(&self, folder: &RunFolder) -> Result<()> {
        for log in [self.mongod.log(), self.kafka.log()] {
            let name = log.file_name().context("a log without a name")?;
            fs::copy(log, folder.logs().join(name)).with_context(|| format!("copy {}", log.display()))?;
        }
        Ok(())
    }
}

async fn start_azurite(kind: LakeKind) -> Result<Option<Azurite>> {
    match kind {
        LakeKind::File => Ok(None),
        LakeKind::Azurite => Azurite::start(AzuriteStorage::Memory).await.map(Some),
    }
}

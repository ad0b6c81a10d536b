//! What tests share: one mongod and one Kafka for all tests that do not restart them, an Azurite for those that begin within
//! some minutes, and the usual course of a run.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mongodb::Client;
use pipeline_tests::{
    ledger::{Expected, Ledger, Scope},
    pipeline::Pipeline,
    servers::{Azurite, AzuriteStorage, Kafka, KafkaOptions, Mongod, MongodOptions},
    service::Service,
    workload::{Pace, Workload, WorkloadOptions},
};
use tokio::sync::{Mutex, OnceCell};

/// For anything that takes seconds when all is well.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A database and a broker.
pub(crate) struct Stage {
    pub(crate) mongod: Mongod,
    pub(crate) kafka: Kafka,
}

impl Stage {
    /// Servers of this test's own, to be killed and restarted.
    pub(crate) async fn own() -> Result<Self> {
        let (mongod, kafka) =
            tokio::try_join!(Mongod::start(MongodOptions::default()), Kafka::start(KafkaOptions::default()))?;
        Ok(Self { mongod, kafka })
    }

    /// The servers that tests share; they end with the process.
    pub(crate) async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<Stage> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::own).await
    }

    pub(crate) fn pipeline(&self, name: &str) -> Result<Pipeline> {
        Pipeline::into_directory(name, self.mongod.uri(), self.kafka.bootstrap())
    }

    /// A pipeline into an Azurite that tests share.
    ///
    /// Ten minutes after its start an Azurite looks through all that it holds for what nobody refers to, in the one thread
    /// that answers: after a minute of these tests that took 3.8 s, seen with a shorter interval. So no
    /// test begins on one that is old.
    pub(crate) async fn pipeline_into_azurite(&self, name: &str) -> Result<Pipeline> {
        const SHARED_FOR: Duration = Duration::from_secs(240);
        // The older ones are kept: tests are still at work on them.
        static AZURITES: Mutex<Vec<(Instant, Azurite)>> = Mutex::const_new(Vec::new());
        let mut azurites = AZURITES.lock().await;
        if azurites.last().is_none_or(|(since, _)| since.elapsed() > SHARED_FOR) {
            azurites.push((Instant::now(), Azurite::start(AzuriteStorage::Memory).await?));
        }
        let (_, azurite) = azurites.last().expect("one was just started, if there was none");
        Pipeline::into_azurite(name, self.mongod.uri(), self.kafka.bootstrap(), azurite)
    }
}

/// A pipeline with its source, its ledger and its workload. The test adds sinks and trouble.
pub(crate) struct Run {
    pub(crate) source: Service,
    pub(crate) workload: Workload,
    ledger: Ledger,
}

impl Run {
    /// Starts the ledger, then a source, and the workload when that one is ready: it begins at its start, so nothing that
    /// the ledger sees can lie before it.
    pub(crate) async fn start(pipeline: &Pipeline, client: &Client, pace: Pace) -> Result<Self> {
        let source = pipeline.ready_source().await?;
        Self::start_with(pipeline, client, pace, source).await
    }

    /// The same with a source that the test has started; it must be ready.
    pub(crate) async fn start_with(
        pipeline: &Pipeline,
        client: &Client,
        pace: Pace,
        source: Service,
    ) -> Result<Self> {
        let database = pipeline.database();
        let ledger = Ledger::open(client, Scope::Database(database.to_owned()), database).await?;
        let workload = Workload::start(client, &WorkloadOptions::new(database).pace(pace)).await?;
        Ok(Self { source, workload, ledger })
    }

    /// Ends the workload: what it did, and the source, which goes on.
    pub(crate) async fn finish(self) -> Result<(Expected, Service)> {
        let counts = self.workload.stop().await.context("end the workload")?;
        let expected = self.ledger.close(LIMIT).await?;
        eprintln!("{counts:?}, {} events", expected.events.len());
        Ok((expected, self.source))
    }
}

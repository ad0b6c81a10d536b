//! The product under measure: each service runs as its binary, and is watched from outside.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mongodb::Client;
use pipeline_tests::{
    lake_reader::LakeReader,
    service::{Binary, Environment, Service},
};
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::{load::DATABASE, raw, usage};

const STOP_LIMIT: Duration = Duration::from_secs(40);
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// Nothing more comes if nothing came for this long.
const QUIET: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// One service's run over the whole load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Between the first and the last growth that was seen: without the process's start.
    pub(crate) per_second: f64,
    /// Of the whole process, start included.
    pub(crate) cpu: Duration,
    pub(crate) peak_memory_bytes: u64,
}

/// One repetition: a source, its topics and a sink of its own.
#[derive(Debug)]
pub(crate) struct Lane<'a> {
    pub(crate) number: usize,
    pub(crate) mongo_uri: &'a str,
    pub(crate) brokers: &'a str,
    pub(crate) folder: &'a Path,
}

impl Lane<'_> {
    pub(crate) fn topic(&self) -> String {
        format!("bench{}.{DATABASE}.orders", self.number)
    }

    /// Starts the source until its position is committed.
    ///
    /// # Errors
    /// If it does not become ready.
    pub(crate) async fn ready_source(&self) -> Result<Service> {
        let environment = self
            .common()
            .set("MONGO_URI", self.mongo_uri)
            .set("MONGO_DATABASES", DATABASE)
            .set("SOURCE_ID", format!("bench-{}", self.number));
        let name = format!("source-{}", self.number);
        let mut source = Service::start(Binary::Source, &name, environment, self.folder)?;
        source.wait_until_ready().await?;
        Ok(source)
    }

    /// Times the source over `count` events that wait for it in the oplog.
    ///
    /// # Errors
    /// If it ends, or they do not come.
    pub(crate) async fn run_source(&self, count: u64) -> Result<Run> {
        let (consumer, topic) = (raw::consumer(self.brokers)?, self.topic());
        let before = stable_end(&consumer, &topic)?;
        let source = self.ready_source().await?;
        let grown = |consumer: &BaseConsumer| Ok(stable_end(consumer, &topic)?.saturating_sub(before));
        self.watch(source, count, async || grown(&consumer)).await
    }

    /// Times the sink over a topic of `count` records, into a directory.
    ///
    /// # Errors
    /// If it ends, or the rows do not come.
    pub(crate) async fn run_sink(&self, count: u64) -> Result<Run> {
        let root = self.folder.join(format!("lake-{}", self.number));
        let environment = self
            .common()
            .set("SINK_GROUP", format!("bench-{}", self.number))
            // What is left at the end is less than a flush and waits for the timer: that wait is no throughput.
            .set("FLUSH_INTERVAL", "500ms")
            // Beside it is the topic of definitions, whose rows are no part of the load.
            .set("SINK_EXCLUDE", format!("bench{}.control", self.number))
            .set("LAKE_URL", format!("file://{}", root.display()));
        let name = format!("sink-{}", self.number);
        let sink = Service::start(Binary::Sink, &name, environment, self.folder)?;
        let lake = LakeReader::Directory(root);
        let run = self.watch(sink, count, async || rows(&lake).await).await?;
        let rows = rows(&lake).await?;
        anyhow::ensure!(rows == count, "{rows} rows in the lake, not {count}");
        Ok(run)
    }

    /// Looks how the count grows until all is there, and what the process spent.
    async fn watch(
        &self,
        mut service: Service,
        count: u64,
        mut look: impl AsyncFnMut() -> Result<u64>,
    ) -> Result<Run> {
        let (mut first, mut last) = (None, (Instant::now(), 0));
        loop {
            service.assert_running()?;
            let seen = look().await?;
            if seen > last.1 {
                last = (Instant::now(), seen);
                first.get_or_insert(last);
            }
            if last.1 >= count && last.0.elapsed() > QUIET {
                break;
            }
            if last.0.elapsed() > STALL_LIMIT {
                bail!("{}: {} of {count}, and nothing moves\n{}", service.name(), last.1, service.log_tail());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let process = service.process_id();
        let (cpu, peak_memory_bytes) = (usage::cpu_time(process)?, usage::peak_memory(process)?);
        service.stop(STOP_LIMIT).await?;
        let first = first.context("nothing was seen to grow")?;
        let span = last.0.duration_since(first.0).as_secs_f64();
        anyhow::ensure!(span > 0.0, "all came at once; measure more events");
        Ok(Run { per_second: f64::from(u32::try_from(last.1 - first.1)?) / span, cpu, peak_memory_bytes })
    }

    /// Starts the source, has one event made and waits for it: the topic is there, the position committed.
    ///
    /// # Errors
    /// If it does not come.
    pub(crate) async fn wait_for_first_event(&self) -> Result<()> {
        let (brokers, topic) = (self.brokers.to_owned(), self.topic());
        let consumer = raw::consumer(&brokers)?;
        pipeline_tests::wait::until("the first event is in Kafka", STALL_LIMIT, || async {
            Ok(stable_end(&consumer, &topic).is_ok_and(|end| end > 0).then_some(()))
        })
        .await
    }

    fn common(&self) -> Environment {
        Environment::new()
            .set("KAFKA_BROKERS", self.brokers)
            .set("TOPIC_PREFIX", format!("bench{}", self.number))
            .set("LOG_FORMAT", "json")
    }
}

pub(crate) async fn stop(source: &mut Service) -> Result<()> {
    source.stop(STOP_LIMIT).await
}

/// Offsets below the end that a read_committed reader sees, markers of transactions included.
fn stable_end(consumer: &BaseConsumer, topic: &str) -> Result<u64> {
    let mut sum = 0;
    for partition in raw::partitions(consumer, topic)? {
        let (_, end) = consumer.fetch_watermarks(topic, partition, STALL_LIMIT).context("ask for an end")?;
        sum += u64::try_from(end).context("an end below 0")?;
    }
    Ok(sum)
}

async fn rows(lake: &LakeReader) -> Result<u64> {
    let files = lake.files().await?;
    files.iter().map(|file| u64::try_from(file.number("rows")?).context("rows")).sum()
}

/// For making a client once per program.
pub(crate) async fn client(uri: &str) -> Result<Client> {
    Client::with_uri_str(uri).await.context("make a MongoDB client")
}

//! The demo's own reader of Kafka: what a user's consumer with `isolation.level=read_committed` sees, and when.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use pipeline_tests::latency::{self, Journey};
use rdkafka::{
    ClientConfig, Message,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Headers},
    types::RDKafkaErrorCode,
};

use crate::{gauges::Gauges, replay::DATABASE, tally::Tally};

/// How soon a stop is noticed.
const POLL: Duration = Duration::from_millis(100);

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    pub(crate) tally: Tally,
    /// Of every event: write to readable.
    pub(crate) journeys: Vec<Journey>,
}

/// A thread that reads until it is told to stop.
#[derive(Debug)]
pub(crate) struct KafkaCounter {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Counted>>>,
}

impl KafkaCounter {
    /// Reads all data topics under `prefix`, from their beginning.
    ///
    /// # Errors
    /// If the client cannot be made.
    pub(crate) fn start(bootstrap: &str, prefix: &str, gauges: Arc<Gauges>) -> Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "demo-counter")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            // New topics are added; what is being read is not begun anew.
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("topic.metadata.refresh.interval.ms", "500")
            .set("fetch.wait.max.ms", "10")
            .set("fetch.queue.backoff.ms", "50")
            .set("log_level", "2")
            .create()
            .context("make a Kafka consumer")?;
        let pattern = format!("^{}\\.{DATABASE}\\..*", prefix.replace('.', "\\."));
        consumer.subscribe(&[&pattern]).with_context(|| format!("subscribe to {pattern}"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new()
            .name("kafka-counter".to_owned())
            .spawn(move || read(&consumer, &stopped, &gauges))
            .context("start the thread that counts in Kafka")?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Fails if it does not read any more.
    ///
    /// # Errors
    /// Why it ended.
    pub(crate) fn assert_running(&mut self) -> Result<()> {
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            self.join()?;
            bail!("counting in Kafka ended by itself");
        }
        Ok(())
    }

    /// Stops and says what was read.
    ///
    /// # Errors
    /// Why it ended before.
    pub(crate) fn finish(mut self) -> Result<Counted> {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    fn join(&mut self) -> Result<Counted> {
        let thread = self.thread.take().context("joined before")?;
        thread.join().map_err(|_panic| anyhow!("the thread that counts in Kafka panicked"))?
    }
}

impl Drop for KafkaCounter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn read(consumer: &BaseConsumer, stop: &AtomicBool, gauges: &Gauges) -> Result<Counted> {
    let mut counted = Counted::default();
    // A rebalance may make the client go back. That is its doing, so an offset counts once; the same change at another
    // offset would still count twice.
    let mut next: BTreeMap<String, BTreeMap<i32, i64>> = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        match consumer.poll(POLL) {
            None => {}
            Some(Ok(message)) => {
                if !next.contains_key(message.topic()) {
                    next.insert(message.topic().to_owned(), BTreeMap::new());
                }
                let next = next.get_mut(message.topic()).and_then(|topic| {
                    Some(topic.entry(message.partition()).or_insert(0))
                        .filter(|next| **next <= message.offset())
                });
                let Some(next) = next else { continue };
                *next = message.offset() + 1;
                count(&message, &mut counted)?;
                gauges.in_kafka.add(1);
            }
            // A topic that is being made has no leader yet, and a pattern may match nothing so far.
            Some(Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::LeaderNotAvailable,
            ))) => {}
            Some(Err(error)) => return Err(error).context("read from Kafka"),
        }
    }
    Ok(counted)
}

fn count(message: &BorrowedMessage<'_>, counted: &mut Counted) -> Result<()> {
    let headers = message.headers().context("a record without headers")?;
    let header = |name: &str| {
        let found = headers.iter().find(|header| header.key == name).and_then(|header| header.value);
        std::str::from_utf8(found.with_context(|| format!("a record without header {name}"))?)
            .with_context(|| format!("header {name}"))
    };
    counted.tally.add(header("collection")?, header("operation-type")?, 1);
    let wall_ms = message.payload().and_then(latency::wall_time_ms).context("an event without wall time")?;
    counted.journeys.push(Journey::new(wall_ms, latency::now_ms()));
    Ok(())
}

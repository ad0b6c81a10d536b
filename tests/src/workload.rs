//! A seeded writer: everything that MongoDB lets a user do, in an order that the seed decides.
//!
//! Inserts, updates (`$set`, `$unset`, arrays, pipelines), replacements, deletes and multi-document transactions over
//! collections with awkward names, documents with awkward values, and every type of `_id`. Several writers work at once,
//! each on documents of its own, so that none of them waits for another and the order per document is known.
//!
//! A server that restarts under it is an ordinary case: an operation without an answer counts as *unknown*, the writer
//! waits until the server is back and goes on. Whether it happened is the ledger's to say, which sees what MongoDB did.

mod operations;
mod values;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use bson::{Document, doc};
use mongodb::{Client, options::WriteConcern};
use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::wait;
use operations::{Outcome, Writer};

/// The collections that are written to: dots, blanks, slashes, letters that Kafka or a path cannot hold, and names that
/// differ in case only.
pub const COLLECTIONS: [&str; 8] = ["orders", "Orders", "orders.eu", "a b", "ünï", "_x", "a/b", "a-x20b"];

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Operations per second over all writers; at least 1.
    PerSecond(u32),
    /// As fast as the server answers.
    Unlimited,
}

#[derive(Clone, Debug)]
pub struct WorkloadOptions {
    /// The same seed gives the same operations per writer, as long as the server's answers are the same.
    pub seed: u64,
    pub database: String,
    pub pace: Pace,
    pub writers: u32,
}

impl WorkloadOptions {
    /// 300 operations per second by four writers, with a seed that is printed: a failed run can be repeated with it by
    /// setting `ATLAS_TEST_SEED`.
    pub fn new(database: impl Into<String>) -> Self {
        let seed = std::env::var("ATLAS_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(rand::random);
        let database = database.into();
        eprintln!("workload on {database}: ATLAS_TEST_SEED={seed}");
        Self { seed, database, pace: Pace::PerSecond(300), writers: 4 }
    }

    #[must_use]
    pub fn pace(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }
}

/// What became of the operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The server said yes; a transaction counts once.
    pub acknowledged: u64,
    /// No answer: it may have happened.
    pub unknown: u64,
    /// An `_id` that was there already; nothing happened.
    pub duplicates: u64,
    /// The server said no. A workload is written so that this stays 0.
    pub refused: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Run,
    Pause,
    Stop,
}

/// A running workload. Dropping it stops it.
#[derive(Debug)]
pub struct Workload {
    orders: watch::Sender<Order>,
    counters: Arc<Counters>,
    writers: JoinSet<Result<()>>,
}

#[derive(Debug, Default)]
struct Counters {
    acknowledged: AtomicU64,
    unknown: AtomicU64,
    duplicates: AtomicU64,
    refused: AtomicU64,
}

impl Workload {
    /// Makes the collections and starts the writers. `orders` keeps pre-images.
    ///
    /// # Errors
    /// If a collection cannot be made.
    pub async fn start(client: &Client, options: &WorkloadOptions) -> Result<Self> {
        let database = client.database(&options.database);
        let there = database.list_collection_names().await.context("list collections")?;
        for name in COLLECTIONS.iter().filter(|&&name| there.iter().all(|other| other != name)) {
            let images = (*name == "orders").then_some(doc! { "enabled": true });
            let mut command = doc! { "create": *name };
            command.extend(images.map(|images| ("changeStreamPreAndPostImages".to_owned(), images.into())));
            database.run_command(command).await.with_context(|| format!("make the collection {name}"))?;
        }

        let (orders, listen) = watch::channel(Order::Run);
        let counters = Arc::new(Counters::default());
        let mut writers = JoinSet::new();
        let interval = match options.pace {
            // Each writer has its share of the pace.
            Pace::PerSecond(rate) => Duration::from_secs(1) * options.writers / rate.max(1),
            Pace::Unlimited => Duration::ZERO,
        };
        for number in 0..options.writers {
            let random = StdRng::seed_from_u64(options.seed.wrapping_add(u64::from(number)));
            let writer = Writer::new(client.clone(), options.database.clone(), number, random);
            writers.spawn(write(writer, interval, listen.clone(), counters.clone()));
        }
        Ok(Self { orders, counters, writers })
    }

    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            acknowledged: read(&self.counters.acknowledged),
            unknown: read(&self.counters.unknown),
            duplicates: read(&self.counters.duplicates),
            refused: read(&self.counters.refused),
        }
    }

    /// Stops writing until [`Workload::resume`]; operations under way are finished.
    pub fn pause(&self) {
        self.orders.send_replace(Order::Pause);
    }

    pub fn resume(&self) {
        self.orders.send_replace(Order::Run);
    }

    /// Waits until `more` further operations were acknowledged.
    ///
    /// # Errors
    /// If they are not within `limit`.
    pub async fn wait_for(&self, more: u64, limit: Duration) -> Result<()> {
        let goal = self.counts().acknowledged + more;
        let what = format!("{more} more operations are acknowledged");
        wait::until(&what, limit, || async { Ok((self.counts().acknowledged >= goal).then_some(())) }).await
    }

    /// Ends the workload and returns what became of it.
    ///
    /// # Errors
    /// If a writer failed, or an operation was refused: then the workload itself is wrong.
    pub async fn stop(mut self) -> Result<Counts> {
        self.orders.send_replace(Order::Stop);
        while let Some(ended) = self.writers.join_next().await {
            ended.context("a writer's task")??;
        }
        Ok(self.counts())
    }
}

async fn write(
    mut writer: Writer,
    interval: Duration,
    mut orders: watch::Receiver<Order>,
    counters: Arc<Counters>,
) -> Result<()> {
    let mut due = Instant::now();
    loop {
        let order = *orders.borrow_and_update();
        match order {
            Order::Run => {}
            Order::Stop => return Ok(()),
            Order::Pause => {
                if orders.changed().await.is_err() {
                    return Ok(());
                }
                due = Instant::now();
                continue;
            }
        }
        sleep_until(due).await;
        // A writer that fell behind, say while the server was down, does not try to catch up all at once.
        due = (due + interval).max(Instant::now() - Duration::from_millis(100));
        let counter = match writer.step().await {
            Outcome::Acknowledged => &counters.acknowledged,
            Outcome::Unknown => &counters.unknown,
            Outcome::Duplicate => &counters.duplicates,
            Outcome::Refused(error) => {
                counters.refused.fetch_add(1, Ordering::Relaxed);
                return Err(error).context("the server refused an operation of the workload");
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Majority: what is acknowledged survives `kill -9` of a server.
fn durable() -> WriteConcern {
    WriteConcern::majority()
}

/// A document for tests that need one and do not care which.
pub fn plain_document(number: i64) -> Document {
    doc! { "_id": number, "name": format!("document {number}"), "at": bson::DateTime::now() }
}

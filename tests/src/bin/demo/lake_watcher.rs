//! Looks at the lake from outside: how many rows its files claim, and when a row can be read for the first time.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use pipeline_tests::{
    lake_reader::LakeReader,
    latency::{self, Journey},
};
use tokio::task::JoinHandle;

use crate::gauges::Gauges;

/// Between two looks; bounds the precision of the latency.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is in the lake.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lake {
    pub(crate) files: u64,
    /// Of changes.
    pub(crate) rows: u64,
    /// Rows of the control topic: collections that were made.
    pub(crate) definitions: u64,
    pub(crate) bytes: u64,
    /// Of one of the largest files, below the lake's root.
    pub(crate) largest: String,
    /// Of the rows that became readable while it measured.
    pub(crate) journeys: Vec<Journey>,
}

#[derive(Debug, Default)]
struct Orders {
    stop: AtomicBool,
    measure: AtomicBool,
}

/// A task that looks until it is told to stop.
#[derive(Debug)]
pub(crate) struct LakeWatcher {
    orders: Arc<Orders>,
    task: JoinHandle<Result<Lake>>,
}

impl LakeWatcher {
    pub(crate) fn start(reader: LakeReader, gauges: Arc<Gauges>) -> Self {
        let orders = Arc::new(Orders::default());
        let task = tokio::spawn(watch(reader, orders.clone(), gauges));
        Self { orders, task }
    }

    /// Whether new rows are read for their latency. What became readable before is never looked at.
    pub(crate) fn measure(&self, on: bool) {
        self.orders.measure.store(on, Ordering::Relaxed);
    }

    /// Fails if it does not look any more.
    ///
    /// # Errors
    /// Why it ended.
    pub(crate) async fn assert_running(&mut self) -> Result<()> {
        if self.task.is_finished() {
            (&mut self.task).await.context("the task that watches the lake")??;
            bail!("watching the lake ended by itself");
        }
        Ok(())
    }

    /// Stops after a last look.
    ///
    /// # Errors
    /// Why it ended before.
    pub(crate) async fn finish(mut self) -> Result<Lake> {
        self.orders.stop.store(true, Ordering::Relaxed);
        (&mut self.task).await.context("the task that watches the lake")?
    }
}

impl Drop for LakeWatcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(reader: LakeReader, orders: Arc<Orders>, gauges: Arc<Gauges>) -> Result<Lake> {
    let mut sizes: HashMap<String, u64> = HashMap::new();
    let mut journeys = Vec::new();
    loop {
        // Asked first, so that the look after a stop is a whole one.
        let (stop, measure) = (orders.stop.load(Ordering::Relaxed), orders.measure.load(Ordering::Relaxed));
        let files = reader.files().await?;
        let seen_ms = latency::now_ms();
        let mut lake = Lake { files: u64::try_from(files.len())?, ..Lake::default() };
        let mut largest = 0;
        for file in files {
            let count =
                |name| u64::try_from(file.number(name)?).with_context(|| format!("{}: {name}", file.path));
            let stored = count("storedsize")?;
            let of_its_kind =
                if file.path.starts_with("_control/") { &mut lake.definitions } else { &mut lake.rows };
            *of_its_kind += count("rows")?;
            lake.bytes += stored;
            if stored > largest {
                (largest, lake.largest) = (stored, file.path.clone());
            }
            let before = sizes.insert(file.path.clone(), stored).unwrap_or(0);
            if measure && stored > before {
                let lines = reader.bytes(&file.path, before..stored).await?;
                let lines = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
                journeys
                    .extend(lines.filter_map(latency::wall_time_ms).map(|wall| Journey::new(wall, seen_ms)));
            }
        }
        gauges.in_lake.set(lake.rows);
        if stop {
            return Ok(Lake { journeys, ..lake });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

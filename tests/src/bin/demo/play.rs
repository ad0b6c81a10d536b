//! The demo from the first insert to the proof.
//!
//! ```text
//!   seed ─▶ settle ─▶ steady rate ─▶ settle ─▶ full speed ─▶ settle ─▶ stop services ─▶ verify ─▶ compare
//! ```
//!
//! To settle is to wait until everything that was written is in Kafka and in the lake, each by the demo's own count.
//! So latency is measured on a pipeline that is not behind, and throughput from the first write to the last row.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use pipeline_tests::{
    lake_reader::LakeReader,
    latency::{self, Percentiles},
};
use serde_json::Value;

use crate::{
    gauges::Gauges,
    kafka_counter::KafkaCounter,
    lake_watcher::{Lake, LakeWatcher},
    pace::Pace,
    progress::Progress,
    replay::{Part, Replay},
    run_folder::RunFolder,
    settings::Settings,
    stage::{Stage, TOPIC_PREFIX},
    tally::Tally,
};

/// Without any progress for this long, something is stuck.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// Flights that run through all their life before anything is measured, so that all topics are there.
const WARM_UP_FLIGHTS: usize = 500;
const FAR_AWAY: Duration = Duration::from_secs(3600);

/// A part of the replay, measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) events: u64,
    /// From the first write to the last acknowledgement.
    pub(crate) written_in: Duration,
    /// From the first write to the last event in Kafka.
    pub(crate) in_kafka_in: Duration,
    /// From the first write to the last row in the lake.
    pub(crate) in_lake_in: Duration,
}

/// What the summary tells.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    pub(crate) flights: usize,
    pub(crate) flights_in_all: usize,
    pub(crate) full_speed: Measured,
    pub(crate) to_kafka: Option<Percentiles>,
    pub(crate) to_lake: Option<Percentiles>,
    pub(crate) lake: Lake,
    pub(crate) verified: Value,
}

/// # Errors
/// Anything that is not as promised.
pub(crate) async fn play(
    replay: &Arc<Replay>,
    stage: &mut Stage,
    settings: Settings,
    folder: &RunFolder,
    gauges: &Arc<Gauges>,
) -> Result<Outcome> {
    let counter = KafkaCounter::start(&stage.kafka.bootstrap(), TOPIC_PREFIX, gauges.clone())?;
    let watcher = LakeWatcher::start(stage.lake.clone(), gauges.clone());
    let mut play = Play { replay, stage, gauges, counter, watcher };

    let mut tally = play.seed().await?;
    let from_ms = latency::now_ms();
    play.watcher.measure(true);
    let (steady, _) = play.part(&format!("{} changes/s", settings.rate), steady(settings)).await?;
    let to_ms = latency::now_ms();
    play.watcher.measure(false);
    tally.merge(&steady);
    let (fast, full_speed) = play.part("full speed", full_speed(settings)).await?;
    tally.merge(&fast);

    let Play { counter, watcher, .. } = play;
    let _line = Progress::show("verifying", gauges.clone());
    stage.stop_services().await?;
    let (counted, lake) = (counter.finish()?, watcher.finish().await?);
    let verified = stage.verify(folder).await?;
    let differences = tally.differences(&counted.tally);
    if !differences.is_empty() {
        bail!("acknowledged by MongoDB against counted in Kafka:\n  {}", differences.join("\n  "));
    }
    let (changes, Lake { rows, definitions, .. }) = (tally.total(), &lake);
    if verified["rows"].as_u64() != Some(changes + definitions) || *rows != changes {
        bail!(
            "{changes} changes, but verified {} rows and counted {rows}, and {definitions} definitions",
            verified["rows"]
        );
    }
    copy_lake(&stage.lake, folder).await?;
    Ok(Outcome {
        flights: replay.flights_taken(),
        flights_in_all: replay.flights_in_all(),
        full_speed,
        to_kafka: Percentiles::of(&counted.journeys, from_ms, to_ms),
        to_lake: Percentiles::of(&lake.journeys, from_ms, to_ms),
        tally,
        lake,
        verified,
    })
}

fn steady(settings: Settings) -> Part {
    Part {
        writers: 16,
        group: 1,
        groups_between: 10,
        until: tokio::time::Instant::now() + settings.steady,
        end: usize::MAX,
        pace: Some(Pace::new(settings.rate)),
    }
}

fn full_speed(settings: Settings) -> Part {
    let until = tokio::time::Instant::now() + settings.full_speed;
    Part { writers: 4, group: 500, groups_between: 1, until, end: usize::MAX, pace: None }
}

struct Play<'a> {
    replay: &'a Arc<Replay>,
    stage: &'a mut Stage,
    gauges: &'a Arc<Gauges>,
    counter: KafkaCounter,
    watcher: LakeWatcher,
}

impl Play<'_> {
    async fn seed(&mut self) -> Result<Tally> {
        let _line = Progress::show("airlines, airports, planes, weather", self.gauges.clone());
        let mut tally = self.replay.seed().await?;
        let until = tokio::time::Instant::now() + FAR_AWAY;
        let warm_up =
            Part { writers: 2, group: 50, groups_between: 0, until, end: WARM_UP_FLIGHTS, pace: None };
        tally.merge(&self.replay.play(warm_up).await?);
        self.settle(Instant::now()).await?;
        Ok(tally)
    }

    async fn part(&mut self, name: &str, part: Part) -> Result<(Tally, Measured)> {
        let _line = Progress::show(name, self.gauges.clone());
        let start = Instant::now();
        let tally = tokio::select! {
            tally = self.replay.play(part) => tally?,
            broken = failure(self.stage) => return Err(broken),
        };
        let written_in = start.elapsed();
        let (in_kafka_in, in_lake_in) = self.settle(start).await?;
        let events = tally.total();
        Ok((tally, Measured { events, written_in, in_kafka_in, in_lake_in }))
    }

    /// Waits until everything is in Kafka and in the lake; how long after `start` that was.
    async fn settle(&mut self, start: Instant) -> Result<(Duration, Duration)> {
        let written = self.gauges.written.get();
        let (mut in_kafka_in, mut before, mut moved) = (None, (0, 0), Instant::now());
        loop {
            self.stage.assert_running()?;
            self.counter.assert_running()?;
            self.watcher.assert_running().await?;
            let now = (self.gauges.in_kafka.get(), self.gauges.in_lake.get());
            if now.0 >= written {
                in_kafka_in.get_or_insert_with(|| start.elapsed());
            }
            // More than was written is a mistake that the comparison at the end names.
            if let (Some(in_kafka_in), true) = (in_kafka_in, now.1 >= written) {
                return Ok((in_kafka_in, start.elapsed()));
            }
            if now != before {
                (before, moved) = (now, Instant::now());
            }
            if moved.elapsed() > STALL_LIMIT {
                bail!(
                    "nothing moves for {STALL_LIMIT:?}: written {written}, in Kafka {}, in the lake {}",
                    now.0,
                    now.1
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Returns when a service has ended, which none should.
async fn failure(stage: &mut Stage) -> anyhow::Error {
    loop {
        if let Err(error) = stage.assert_running() {
            return error;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Azurite's blobs end with it; what was in them is kept as files.
async fn copy_lake(lake: &LakeReader, folder: &RunFolder) -> Result<()> {
    if matches!(lake, LakeReader::Directory(_)) {
        return Ok(());
    }
    for file in lake.files().await? {
        let stored = u64::try_from(file.number("storedsize")?).context("storedsize")?;
        let bytes = lake.bytes(&file.path, 0..stored).await?;
        let path = folder.lake().join(&file.path);
        let parent = path.parent().context("a file without a folder")?;
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

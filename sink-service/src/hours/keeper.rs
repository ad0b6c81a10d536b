//! The task that looks after the ends of hours: tells the writer up to where its partitions are complete, and closes what is complete.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use shared::kafka_position::TopicPartition;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};

use super::{
    HourEnd,
    broker_clock::BrokerClock,
    closer::{Barriers, CloseError, Closer, Closing},
    ended_by_clock,
    token_follower::Known,
    watermarks::Watermarks,
};
use crate::{event_hour::EventHour, topic_content::TopicContent};

const TURN: Duration = Duration::from_secs(1);

/// A partition with an open file of an hour that is over, because a row came late, is looked at again this often: so long may more of them
/// share a file.
const LATE_INTERVAL: Duration = Duration::from_secs(10);

/// Topics that are closed at a time; the others wait their turn.
const CLOSING_MAX: usize = 4;

/// An attempt that came to nothing is made again after this.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Of a partition of ours, as the writer sees it.
#[derive(Clone, Debug)]
pub struct Standing {
    pub partition: TopicPartition,
    /// `None` until the first record of a topic whose name was cut.
    pub content: Option<TopicContent>,
    /// The hour of the open file.
    pub open: Option<EventHour>,
}

/// What the writer is told.
pub type HourEnds = mpsc::Sender<(TopicPartition, HourEnd)>;

/// See the module. Owned by its task.
pub struct HourKeeper {
    pub closer: Closer,
    pub known: Known,
    pub clock: BrokerClock,
    /// How long after its end an hour of a collection without a source closes.
    pub grace: Duration,
    pub standings: watch::Receiver<Vec<Standing>>,
    pub ends: HourEnds,
}

/// What came of an attempt to close the hours of a topic up to one.
struct Attempt {
    topic: Arc<str>,
    hour: EventHour,
    /// `None` if Kafka did not say.
    barriers: Option<Barriers>,
    outcome: Result<Closing, CloseError>,
}

/// What was told of a partition.
struct Told {
    hour: EventHour,
    at: Instant,
}

#[derive(Default)]
struct Progress {
    told: HashMap<TopicPartition, Told>,
    closed: HashMap<Arc<str>, EventHour>,
    closing: HashSet<Arc<str>>,
    /// The oldest hour that waits for its chains, and for how far. Later ones wait behind it, or a chain that lags by more than an hour would never be
    /// waited for long enough.
    waiting: HashMap<Arc<str>, (EventHour, Barriers)>,
    /// Not before this.
    retry_at: HashMap<Arc<str>, Instant>,
    clock_failing: bool,
}

impl HourKeeper {
    /// Runs until the writer is gone.
    pub async fn run(mut self) {
        let mut progress = Progress::default();
        let mut attempts = JoinSet::new();
        let mut ticks = tokio::time::interval(TURN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.ends.is_closed() {
            tokio::select! {
                _ = ticks.tick() => self.turn(&mut progress, &mut attempts).await,
                Some(ended) = attempts.join_next(), if !attempts.is_empty() => match ended {
                    Ok(attempt) => progress.attempted(attempt),
                    Err(defect) => tracing::error!(%defect, "closing hours"),
                },
            }
        }
    }

    async fn turn(&mut self, progress: &mut Progress, attempts: &mut JoinSet<Attempt>) {
        let Some(watermarks) = self.known.borrow_and_update().clone() else { return };
        let standings = self.standings.borrow_and_update().clone();
        progress.keep(&standings);
        for standing in standings {
            let Some(content) = &standing.content else { continue };
            let Some(ended) = self.ended(content, &watermarks, &mut progress.clock_failing).await else {
                continue;
            };
            if progress.is_due(&standing, ended) {
                self.tell(&standing.partition, ended, progress).await;
            }
            let TopicPartition { topic, partition: 0 } = &standing.partition else { continue };
            if attempts.len() < CLOSING_MAX && progress.may_close(topic, ended) {
                progress.closing.insert(Arc::clone(topic));
                let (closer, topic, content) = (self.closer.clone(), Arc::clone(topic), content.clone());
                let waiting = progress.waiting.remove(&topic);
                attempts.spawn(async move {
                    let (hour, barriers) = match waiting {
                        Some((hour, barriers)) => (hour, Ok(barriers)),
                        None => (ended, closer.barriers(&topic).await),
                    };
                    match barriers {
                        Ok(barriers) => {
                            let outcome = closer.close(&topic, &content, hour, &barriers).await;
                            Attempt { topic, hour, barriers: Some(barriers), outcome }
                        }
                        Err(error) => Attempt { topic, hour, barriers: None, outcome: Err(error) },
                    }
                });
            }
        }
    }

    /// The last hour that is over for what the topic holds.
    async fn ended(
        &mut self,
        content: &TopicContent,
        watermarks: &Watermarks,
        clock_failing: &mut bool,
    ) -> Option<EventHour> {
        if let Some(watermark) = watermarks.of(content) {
            return EventHour::ended_at(watermark.seconds.into());
        }
        match self.clock.now().await {
            Ok(seconds) => {
                *clock_failing = false;
                ended_by_clock(seconds, self.grace)
            }
            Err(error) => {
                if !std::mem::replace(clock_failing, true) {
                    tracing::warn!(
                        %error,
                        "no broker's clock: the hours of collections without a source stay open"
                    );
                }
                None
            }
        }
    }

    /// The end of the log is asked for after the hour was seen to be over.
    async fn tell(&self, partition: &TopicPartition, hour: EventHour, progress: &mut Progress) {
        match self.closer.log.end(partition).await {
            Ok(barrier) => {
                // Full: the writer is busy, and is told in the next turn.
                if self.ends.try_send((partition.clone(), HourEnd { hour, barrier })).is_ok() {
                    progress.told.insert(partition.clone(), Told { hour, at: Instant::now() });
                }
            }
            Err(error) => tracing::debug!(%partition, %error, "the end of the log is not known"),
        }
    }
}

impl Progress {
    /// Forgets what is not ours any more: whoever has it meanwhile may come elsewhere.
    fn keep(&mut self, standings: &[Standing]) {
        let ours: HashSet<&TopicPartition> = standings.iter().map(|standing| &standing.partition).collect();
        self.told.retain(|partition, _| ours.contains(partition));
        let topics: HashSet<&Arc<str>> = ours.iter().map(|partition| &partition.topic).collect();
        self.closed.retain(|topic, _| topics.contains(topic));
        self.retry_at.retain(|topic, _| topics.contains(topic));
        self.waiting.retain(|topic, _| topics.contains(topic));
    }

    fn is_due(&self, standing: &Standing, ended: EventHour) -> bool {
        let Some(told) = self.told.get(&standing.partition) else { return true };
        let late = standing.open.is_some_and(|hour| hour <= ended);
        told.hour < ended || (late && told.at.elapsed() >= LATE_INTERVAL)
    }

    fn may_close(&self, topic: &Arc<str>, ended: EventHour) -> bool {
        self.closed.get(topic).is_none_or(|closed| *closed < ended)
            && !self.closing.contains(topic)
            && self.retry_at.get(topic).is_none_or(|at| Instant::now() >= *at)
    }

    fn attempted(&mut self, attempt: Attempt) {
        let Attempt { topic, hour, barriers, outcome } = attempt;
        self.closing.remove(&topic);
        match outcome {
            Ok(Closing::Closed(closed)) => {
                self.retry_at.remove(&topic);
                self.closed.insert(topic, closed);
                return;
            }
            Ok(Closing::Pending(missing)) => tracing::debug!(%topic, missing, "hour not closed yet"),
            Err(error) => tracing::warn!(%topic, %error, "hours cannot be closed now"),
        }
        if let Some(barriers) = barriers {
            self.waiting.insert(Arc::clone(&topic), (hour, barriers));
        }
        self.retry_at.insert(topic, Instant::now() + RETRY_INTERVAL);
    }
}

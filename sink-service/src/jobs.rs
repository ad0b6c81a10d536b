//! The tasks that do the writer's I/O and report back.
//!
//! Topic ids are asked once per round for all its topics, after the round's batches were frozen and before anything of
//! them is published (DESIGN §5 rule 8). A topic that is missing at that moment, because it was deleted and is perhaps
//! being made again, holds its own jobs only.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use shared::{
    avro::SchemaId,
    backoff::Backoff,
    kafka_position::{KafkaOffset, TopicPartition},
    schema_registry::IdMeans,
    seeded_bug::{self, SeededBug},
};
use tokio::sync::{OnceCell, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{
    buffer::Batch,
    chain::{Chain, LogBounds},
    hours::HourEnd,
    kafka_log::LogError,
    partition::AssignmentEpoch,
    publish::{Dependency, Halt, Identity, Job, LostRecords, Published, Publisher, Wait, Waiting},
    topic_content::TopicContent,
    topic_identity::TopicIdentity,
};

/// What a task reports. `epoch` says for which assignment it was started.
#[derive(Debug)]
pub struct Report {
    pub partition: TopicPartition,
    pub epoch: AssignmentEpoch,
    pub outcome: Outcome,
}

#[derive(Debug)]
pub enum Outcome {
    Opened {
        topic: TopicIdentity,
        chain: Box<Chain>,
        /// As it was when the chain was read.
        log: LogBounds,
        schema: Option<(SchemaId, IdMeans)>,
    },
    Published {
        chain: Box<Chain>,
        batch: Box<Batch>,
    },
    /// The partition has to be read again from where the chain ends.
    Behind {
        chain: Box<Chain>,
    },
    Halted(Halt),
}

/// A chain to be read.
pub struct Opening {
    pub identity: Identity,
    pub epoch: AssignmentEpoch,
    /// The highest `next` that this process saw confirmed.
    pub confirmed: KafkaOffset,
    pub lost: LostRecords,
    /// What the registry is asked before, because the partition holds a record of it.
    pub wanted_schema: Option<SchemaId>,
    /// Ends the job when the assignment is given up.
    pub given_up: CancellationToken,
}

/// A batch to be made durable.
pub struct Publishing {
    pub identity: Identity,
    pub epoch: AssignmentEpoch,
    pub chain: Chain,
    pub batch: Batch,
    pub content: TopicContent,
    pub publish_position: bool,
    pub hour_end: Option<HourEnd>,
    /// Nothing stays staged after it.
    pub drain: bool,
    /// Ends the job when the assignment is given up. Every step of it is conditional, so it may end anywhere.
    pub given_up: CancellationToken,
}

/// Starts tasks on the runtime; cheap to clone.
#[derive(Clone)]
pub struct Jobs {
    publisher: Arc<Publisher>,
    reports: mpsc::Sender<Report>,
    runtime: tokio::runtime::Handle,
}

impl Jobs {
    pub fn new(publisher: Publisher, reports: mpsc::Sender<Report>, runtime: tokio::runtime::Handle) -> Self {
        Self { publisher: Arc::new(publisher), reports, runtime }
    }

    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Reads the chains of a round; each reports for itself.
    pub fn open(&self, round: Vec<Opening>) {
        let jobs = self.clone();
        self.runtime.spawn(async move {
            let topics: BTreeSet<Arc<str>> =
                round.iter().map(|opening| Arc::clone(&opening.identity.partition.topic)).collect();
            let checks: TopicChecks =
                Arc::new(topics.iter().map(|topic| (Arc::clone(topic), OnceCell::new())).collect());
            let ids = jobs.identities(topics).await;
            for opening in round {
                jobs.runtime.spawn(jobs.clone().open_one(opening, ids.clone(), Arc::clone(&checks)));
            }
        });
    }

    /// Makes the batches of a round durable; each reports for itself.
    pub fn publish(&self, round: Vec<Publishing>) {
        let jobs = self.clone();
        self.runtime.spawn(async move {
            let topics =
                round.iter().map(|publishing| Arc::clone(&publishing.identity.partition.topic)).collect();
            let ids = jobs.identities(topics).await;
            for publishing in round {
                jobs.runtime.spawn(jobs.clone().publish_one(publishing, ids.clone()));
            }
        });
    }

    async fn open_one(self, opening: Opening, ids: Ids, checks: TopicChecks) {
        let Opening { mut identity, epoch, confirmed, lost, wanted_schema, given_up } = opening;
        let partition = identity.partition.clone();
        let jobs = self.clone();
        let work = async move {
            identity.topic = jobs.identity(&identity.partition, ids).await?;
            let schema = match wanted_schema {
                Some(id) => Some((id, jobs.publisher.meaning_of(&identity, id).await?)),
                None => None,
            };
            let check = &checks[&identity.partition.topic];
            check.get_or_try_init(|| jobs.publisher.check_topic(&identity)).await?;
            let (chain, log) = jobs.publisher.open(&identity, confirmed, lost).await?;
            let (topic, chain) = (identity.topic, Box::new(chain));
            Ok(Outcome::Opened { topic, chain, log, schema })
        };
        self.run(partition, epoch, given_up, work).await;
    }

    async fn publish_one(self, publishing: Publishing, ids: Ids) {
        let Publishing { mut identity, epoch, chain, batch, content, .. } = publishing;
        let Publishing { publish_position, hour_end, drain, given_up, .. } = publishing;
        let partition = identity.partition.clone();
        let jobs = self.clone();
        let work = async move {
            identity.topic = jobs.identity(&identity.partition, ids).await?;
            let job = Job { identity, content, chain, batch, publish_position, hour_end, drain };
            Ok(match jobs.publisher.publish(job).await? {
                Published::Whole { chain, batch } => {
                    Outcome::Published { chain: Box::new(chain), batch: Box::new(batch) }
                }
                Published::Behind(chain) => Outcome::Behind { chain: Box::new(chain) },
            })
        };
        self.run(partition, epoch, given_up, work).await;
    }

    /// Does a job's work and reports, whatever comes of it; only a job whose assignment was given up ends in silence.
    async fn run(
        &self,
        partition: TopicPartition,
        epoch: AssignmentEpoch,
        given_up: CancellationToken,
        work: impl Future<Output = Result<Outcome, Halt>> + Send + 'static,
    ) {
        let mut task = self.runtime.spawn(work);
        let outcome = tokio::select! {
            ended = &mut task => match ended {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(halt)) => Outcome::Halted(halt),
                Err(defect) => Outcome::Halted(Halt::Defect(defect.to_string())),
            },
            // With the planted bug late work must land, as a request does that is on its way already.
            () = given_up.cancelled(), if !seeded_bug::planted(SeededBug::UnconditionalPut) => {
                task.abort();
                return;
            }
        };
        self.report(partition, epoch, outcome).await;
    }

    async fn report(&self, partition: TopicPartition, epoch: AssignmentEpoch, outcome: Outcome) {
        if self.reports.send(Report { partition, epoch, outcome }).await.is_err() {
            tracing::debug!("a job ended after the writer");
        }
    }

    /// The round's answer, or the topic's own questions until it is there.
    async fn identity(&self, partition: &TopicPartition, ids: Ids) -> Result<TopicIdentity, Halt> {
        let mut ids = ids;
        let mut backoff = Backoff::default();
        loop {
            let cause = match &*ids {
                Ok(ids) => match ids.get(&partition.topic) {
                    Some(identity) => {
                        if backoff.attempts() > 0 {
                            self.tell(partition, None);
                        }
                        return Ok(identity.clone());
                    }
                    None => LogError::NoTopic(partition.topic.to_string()),
                },
                Err(error @ LogError::Denied(_)) => return Err(Halt::Kafka(error.clone())),
                Err(error) => error.clone(),
            };
            let delay = backoff.next_delay();
            if backoff.attempts() == 1 {
                tracing::warn!(%partition, %cause, "waiting for the topic's id");
            }
            let next = Instant::now().checked_add(delay);
            self.tell(partition, Some(Wait { on: Dependency::Kafka, cause: cause.to_string(), next }));
            tokio::time::sleep(delay).await;
            ids = self.identities(BTreeSet::from([Arc::clone(&partition.topic)])).await;
        }
    }

    fn tell(&self, partition: &TopicPartition, wait: Option<Wait>) {
        if self.publisher.waits.try_send(Waiting { partition: partition.clone(), wait }).is_err() {
            tracing::debug!(%partition, "wait not told");
        }
    }

    async fn identities(&self, topics: BTreeSet<Arc<str>>) -> Ids {
        Arc::new(self.publisher.log.identities(topics.into_iter().collect()).await)
    }
}

/// Each topic is looked at once for all its partitions of a round.
type TopicChecks = Arc<HashMap<Arc<str>, OnceCell<()>>>;

type Ids = Arc<Result<HashMap<Arc<str>, TopicIdentity>, LogError>>;

//! Drives a chain's steps against the lake until a batch is durable.
//!
//! ```text
//!   open ──▶ start of the log, head (made if it is missing), file, end of the log ──▶ Chain::adopt
//!   publish ──▶ dead letters ──▶ { Chain::next_step ──▶ perform ──▶ Chain::…_written }* ──▶ Whole
//!                                        ▲                 │ conflict, lost reply
//!                                        └──── open ◀──────┘
//! ```
//!
//! Retrying has its one place here: a conflict or a lost reply is read back at once, a store that is down is asked again
//! after 1 s doubling to 30 s, for as long as it takes. Only what cannot be healed by waiting stops the service
//! ([`Halt`]). A job that is dropped in mid-request harms nothing: every step is conditional.

mod accepted_gap;
mod first_look;
mod halt;
mod patience;
#[cfg(test)]
pub(crate) mod tests;

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use shared::{
    avro::SchemaId,
    exit::ExitCode,
    kafka_position::{KafkaOffset, TopicPartition},
    schema_registry::{IdMeans, RegistryError, SchemaRegistry},
};

use self::{first_look::Seen, patience::Patience};
pub use self::{
    first_look::{ChainLook, Outlook},
    halt::{Halt, judge_topic},
    patience::{Dependency, Wait, Waiting, Waits},
};
use crate::{
    buffer::Batch,
    chain::{Chain, ChainHalt, FilePolicy, FileStep, LogBounds, Reading, Step, StepContext, Writer},
    compression::Compression,
    dead_letter_breaker::DeadLetterBreaker,
    dead_letters::DeadLetterQueue,
    file_metadata::OffsetRuns,
    head::Head,
    hours::{HourEnd, accounts::HourFolder},
    kafka_log::{KafkaLog, LogError},
    lake::{FileState, Lake, LakeError, StagedFile},
    lake_layout::OpenLake,
    lake_path::LakePath,
    metrics::SinkMetrics,
    record::LAYOUT,
    topic_content::TopicContent,
    topic_identity::TopicIdentity,
    uploads::{TopicUploads, Uploads},
};

/// Where a chain begins when there is no head yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    Earliest,
    /// The first record at or after it, else the end.
    Time(DateTime<Utc>),
}

/// What to do about records that Kafka no longer has and the lake has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostRecords {
    Stop,
    /// As an operator has said: only when a partition is read for the first time, so that nothing that this process holds is given up.
    GiveUp,
}

/// One partition's identity, fixed at its assignment.
#[derive(Clone, Debug)]
pub struct Identity {
    pub partition: TopicPartition,
    /// From the topic's name; `None` if that was cut.
    pub content: Option<TopicContent>,
    /// As Kafka said last.
    pub topic: TopicIdentity,
    pub uploads: TopicUploads,
}

/// What one job has to make durable.
pub struct Job {
    pub identity: Identity,
    /// The folder that the chain gets with its first record.
    pub content: TopicContent,
    pub chain: Chain,
    pub batch: Batch,
    /// Publish the batch's end although no record stands before it.
    pub publish_position: bool,
    /// Up to where hours are over.
    pub hour_end: Option<HourEnd>,
    /// Nothing stays staged after it.
    pub drain: bool,
}

/// What became of a job.
#[derive(Debug)]
pub enum Published {
    /// All of the batch is durable, or staged where files are sealed.
    Whole { chain: Chain, batch: Batch },
    /// What was staged before the batch is gone: the partition has to be read again from where the chain ends. Nothing was published.
    Behind(Chain),
}

/// Everything that publishing needs; shared by all jobs.
pub struct Publisher {
    pub lake: Arc<OpenLake>,
    pub log: KafkaLog,
    pub dead_letters: DeadLetterQueue,
    pub breaker: DeadLetterBreaker,
    /// `None`: records in Avro cannot be read.
    pub registry: Option<SchemaRegistry>,
    pub policy: FilePolicy,
    pub compression: Compression,
    pub start_at: StartAt,
    pub writer: Writer,
    pub metrics: Arc<SinkMetrics>,
    pub waits: Waits,
    /// Bounds how many partitions talk to the lake at once.
    pub uploads: Uploads,
}

impl Publisher {
    /// The chain of a newly assigned partition, or of one whose state is in doubt, and the log as it was then. Waits for dependencies.
    ///
    /// # Errors
    /// If the chain cannot be continued.
    pub async fn open(
        &self,
        identity: &Identity,
        confirmed: KafkaOffset,
        lost: LostRecords,
    ) -> Result<(Chain, LogBounds), Halt> {
        let mut patience = Patience::new(self, identity);
        loop {
            patience.upload().await;
            match self.read(identity).await {
                Ok(reading) => {
                    patience.over();
                    let partition = identity.partition.clone();
                    let writer = self.writer.clone();
                    let now = Instant::now();
                    let (before, log) = (reading.clone(), reading.log);
                    let adopted = Chain::adopt(partition, writer, reading, &identity.topic, confirmed, now);
                    let mut chain = match adopted {
                        Err(ChainHalt::Gap { partition, position, log_start })
                            if lost == LostRecords::GiveUp =>
                        {
                            let passed = self.pass_gap(&partition, before, position, log_start).await;
                            if let Err(trouble) = passed {
                                self.endure(trouble, &mut patience).await?;
                            }
                            continue;
                        }
                        adopted => adopted?,
                    };
                    self.account(&mut chain, &mut patience).await?;
                    return Ok((chain, log));
                }
                Err(trouble) => self.endure(trouble, &mut patience).await?,
            }
        }
    }

    /// Whether the topic keeps every record until it has been read, and no record is larger than can be read.
    ///
    /// # Errors
    /// If not, or if we may not ask.
    pub async fn check_topic(&self, identity: &Identity) -> Result<(), Halt> {
        let topic = &identity.partition.topic;
        let mut patience = Patience::new(self, identity);
        loop {
            match self.log.topic_configs(topic).await {
                Ok(configs) => {
                    patience.over();
                    return judge_topic(topic, &configs);
                }
                Err(error) => self.endure(Trouble::Log(error), &mut patience).await?,
            }
        }
    }

    /// What a record's schema id stands for. Waits for the registry.
    ///
    /// # Errors
    /// If the registry does not let us, or is not the one that the source uses.
    pub async fn meaning_of(&self, identity: &Identity, id: SchemaId) -> Result<IdMeans, Halt> {
        let Some(registry) = &self.registry else { return Ok(IdMeans::Nothing) };
        let mut patience = Patience::new(self, identity);
        loop {
            match registry.meaning(id).await {
                Ok(means) => {
                    patience.over();
                    tracing::info!(partition = %identity.partition, schema = %id, ?means, "schema looked up");
                    return Ok(means);
                }
                Err(RegistryError::Unavailable(cause)) => {
                    self.metrics.retry(Dependency::Registry);
                    let cause = format!("the schema registry does not answer: {cause}");
                    patience.wait(Dependency::Registry, cause, None).await;
                }
                Err(error) => return Err(Halt::Registry(registry.stop(&error))),
            }
        }
    }

    /// Makes a whole batch durable, or stages it; its dead letters first. Waits for dependencies.
    ///
    /// # Errors
    /// If going on would lose or double records; nothing of the batch beyond the returned chain is published.
    pub async fn publish(&self, job: Job) -> Result<Published, Halt> {
        let Job { identity, content, mut chain, mut batch, publish_position, hour_end, drain } = job;
        chain.check_topic(&identity.topic)?;
        let from = chain.reached();
        batch.go_on_from(from);
        self.ask_breaker(&batch, from)?;
        let mut patience = Patience::new(self, &identity);
        self.deliver_dead_letters(&identity.partition, &batch, from, &mut patience).await?;
        loop {
            self.account(&mut chain, &mut patience).await?;
            // Before the next step packs what it sends: that takes memory.
            patience.upload().await;
            let context = StepContext {
                policy: self.policy,
                compression: self.compression,
                content: &content,
                publish_position,
                hour_end,
                drain,
                now: Instant::now(),
                wall_clock: Utc::now(),
            };
            let step = chain.next_step(&mut batch, &context)?;
            if matches!(step, Step::Done) {
                patience.over();
                return Ok(Published::Whole { chain, batch });
            }
            let done = match self.check_first_folder(&identity, &chain, &step).await {
                Ok(()) => {
                    let bytes = step.bytes();
                    let done = perform(&self.lake, &mut chain, step, &self.metrics);
                    patience.attend(bytes, done).await.map_err(Trouble::Lake)
                }
                Err(trouble) => Err(trouble),
            };
            match done {
                Ok(()) => patience.over(),
                Err(Trouble::Lake(error @ (LakeError::Conflict | LakeError::Unknown { .. }))) => {
                    self.metrics.publish_conflict(&error);
                    tracing::info!(partition = %identity.partition, cause = %error, "chain read back");
                    let before = chain;
                    patience.give_way();
                    (chain, _) = self.open(&identity, before.next(), LostRecords::Stop).await?;
                    if chain.version() == before.version() {
                        // Nobody was first and nothing happened: the store is in trouble, or the reply is still to come.
                        if matches!(error, LakeError::Unknown { .. }) {
                            chain.go_on_staging(before);
                        }
                        self.metrics.retry(Dependency::Lake);
                        patience.wait(Dependency::Lake, error.to_string(), None).await;
                    }
                    if batch.start() > chain.reached() {
                        patience.over();
                        return Ok(Published::Behind(chain));
                    }
                }
                Err(trouble) => self.endure(trouble, &mut patience).await?,
            }
        }
    }

    /// Before the head moves off a sealed file, and after a partition was taken over: the manifest of its hour names it, if there is one.
    async fn account(&self, chain: &mut Chain, patience: &mut Patience<'_>) -> Result<(), Halt> {
        while let (Some(hour), Some(content)) = (chain.unaccounted(), chain.head().content()) {
            let (lake, metrics) = (&self.lake, &self.metrics);
            let topic = chain.head().topic.as_str();
            let folder = HourFolder { lake, metrics, topic, content: &content, hour };
            patience.upload().await;
            match folder.account_for_sealed().await {
                Ok(()) => {
                    patience.over();
                    chain.accounted_for();
                }
                Err(error) => self.endure(Trouble::Lake(error), patience).await?,
            }
        }
        Ok(())
    }

    /// Before anything of the batch is written.
    fn ask_breaker(&self, batch: &Batch, from: KafkaOffset) -> Result<(), Halt> {
        let letters = batch.dead_letters().iter().filter(|letter| letter.offset >= from).count();
        let records = batch.pending().len();
        let ratio = self.breaker.look_at(records as u64, letters as u64, Instant::now())?;
        self.metrics.dead_letter_ratio(ratio);
        Ok(())
    }

    /// Waits for brokers that are away; the same key is the same letter, so delivering again does no harm.
    async fn deliver_dead_letters(
        &self,
        partition: &TopicPartition,
        batch: &Batch,
        from: KafkaOffset,
        patience: &mut Patience<'_>,
    ) -> Result<(), Halt> {
        let letters = batch.dead_letters();
        while let Err(error) = self.dead_letters.deliver(partition, letters, from).await {
            if error.exit_code() != ExitCode::Temporary {
                return Err(Halt::DeadLetters(error));
            }
            self.metrics.retry(Dependency::Kafka);
            patience.wait(Dependency::Kafka, error.to_string(), None).await;
        }
        for letter in letters.iter().filter(|letter| letter.offset >= from) {
            self.metrics.dead_letter(letter.reason);
        }
        Ok(())
    }

    async fn read(&self, identity: &Identity) -> Result<Reading, Trouble> {
        let partition = &identity.partition;
        match self.look().read(partition).await? {
            Seen::Chain(reading) => Ok(*reading),
            Seen::NotBegun { log_start } => self.begin(identity, log_start).await,
        }
    }

    fn look(&self) -> ChainLook<'_> {
        ChainLook { lake: &self.lake, log: &self.log }
    }

    /// Begins a chain: the head, in one create, fixes where it starts for all groups. The caller then reads it, whoever
    /// made it.
    async fn begin(&self, identity: &Identity, log_start: KafkaOffset) -> Result<Reading, Trouble> {
        let partition = &identity.partition;
        let path = LakePath::head(partition);
        // Of a cut name the folder is known with the first record only: see `check_first_folder`.
        if let Some(content) = &identity.content {
            self.look().check_folder(content, partition).await?;
        }
        let start = match self.start_at {
            StartAt::Earliest => log_start,
            StartAt::Time(at) => {
                // Before the search: a record that comes between the two questions must not be skipped.
                let end = self.log.end(partition).await?;
                self.log.first_at(partition, at).await?.unwrap_or(end)
            }
        };
        let head = Head {
            topic: partition.topic.to_string(),
            partition: partition.partition,
            topicid: identity.topic.topic.clone(),
            clusterid: identity.topic.cluster.clone(),
            db: None,
            coll: None,
            start,
            layout: LAYOUT,
            path: None,
            first: None,
            created: false,
            lastevent: None,
            deadletters: Some(OffsetRuns::default()),
            scanned: start,
        };
        let created = self.lake.create_document(&path, head.to_bytes()).await;
        self.metrics.storage_request("head", created.as_ref().err());
        match created {
            Ok(_) => tracing::info!(%partition, %start, "chain begun"),
            Err(LakeError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
        Err(Trouble::Changed)
    }

    async fn endure(&self, trouble: Trouble, patience: &mut Patience<'_>) -> Result<(), Halt> {
        let (on, cause, retry_after) = match trouble {
            Trouble::Changed | Trouble::Lake(LakeError::Conflict) => return Ok(()),
            Trouble::Lake(LakeError::Unavailable { cause, retry_after }) => {
                (Dependency::Lake, cause, retry_after)
            }
            Trouble::Lake(LakeError::Unknown { cause }) => (Dependency::Lake, cause, None),
            Trouble::Log(error @ (LogError::Unavailable(_) | LogError::NoTopic(_))) => {
                (Dependency::Kafka, error.to_string(), None)
            }
            Trouble::Log(error @ LogError::Denied(_)) => return Err(Halt::Kafka(error)),
            Trouble::Lake(error) => return Err(Halt::Lake(error)),
            Trouble::Chain(halt) => return Err(Halt::Chain(halt)),
        };
        self.metrics.retry(on);
        patience.wait(on, cause, retry_after).await;
        Ok(())
    }
}

/// Anything that keeps a reading from being taken.
enum Trouble {
    Lake(LakeError),
    Log(LogError),
    Chain(ChainHalt),
    /// Somebody, perhaps we, just changed it: read again.
    Changed,
}

impl From<LakeError> for Trouble {
    fn from(error: LakeError) -> Self {
        Self::Lake(error)
    }
}

impl From<LogError> for Trouble {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

/// Does one step. The chain takes notice of it only if it certainly happened.
///
/// # Errors
/// As the lake says.
pub async fn perform(
    lake: &Lake,
    chain: &mut Chain,
    step: Step,
    metrics: &SinkMetrics,
) -> Result<(), LakeError> {
    let began = Instant::now();
    match step {
        Step::Done => {}
        Step::WriteHead(head) => {
            let path = LakePath::head(&TopicPartition::new(head.topic.as_str(), head.partition));
            let result = lake.replace_document(&path, head.to_bytes(), chain.head_etag()).await;
            metrics.storage_request("head", result.as_ref().err());
            chain.head_written(head, result?);
        }
        Step::Stage(FileStep { path, piece, lines, metadata, roll }) => {
            let staged = stage(lake, chain, &path, &piece, &metadata.topic_partition).await;
            // Without bytes it is this process alone that takes notice of a position.
            if !piece.is_empty() {
                metrics.storage_request("stage", staged.as_ref().err());
            }
            chain.rows_staged(staged?, metadata, Instant::now());
            if !piece.is_empty() {
                metrics.flushed(lines, piece.len(), roll, began.elapsed());
            }
        }
        Step::Create(step) => {
            let result = create(lake, chain, &step).await;
            metrics.storage_request("create", result.as_ref().err());
            chain.file_written(result?, Instant::now());
            metrics.file_created();
            metrics.flushed(step.lines, step.piece.len(), step.roll, began.elapsed());
        }
        Step::Append(step) => {
            let file = chain.file().expect("only a file that is there is appended to");
            let pieces = if step.piece.is_empty() { &[][..] } else { std::slice::from_ref(&step.piece) };
            let result = lake.append(&step.path, file, pieces, &step.metadata).await;
            metrics.storage_request("append", result.as_ref().err());
            chain.file_written(result?, Instant::now());
            metrics.flushed(step.lines, step.piece.len(), step.roll, began.elapsed());
        }
    }
    Ok(())
}

/// Sends a piece behind what is staged, if it is any.
async fn stage(
    lake: &Lake,
    chain: &Chain,
    path: &LakePath,
    piece: &Bytes,
    partition: &TopicPartition,
) -> Result<StagedFile, LakeError> {
    let mut staged = match chain.staged_file() {
        Some(staged) => staged.clone(),
        None => lake.stage_file(path, partition).await?,
    };
    if !piece.is_empty() {
        lake.stage_more(&mut staged, piece.clone()).await?;
    }
    Ok(staged)
}

async fn create(lake: &Lake, chain: &Chain, step: &FileStep) -> Result<FileState, LakeError> {
    let FileStep { path, piece, metadata, .. } = step;
    if chain.staged_file().is_none() {
        return lake.create_file(path, std::slice::from_ref(piece), metadata).await;
    }
    let staged = stage(lake, chain, path, piece, &metadata.topic_partition).await?;
    lake.publish_staged(staged, None, metadata).await
}

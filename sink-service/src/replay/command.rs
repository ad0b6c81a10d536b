//! The command: plan, claims, files with the partitions side by side, manifests.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rdkafka::{ClientConfig, error::KafkaError};
use shared::{
    exit::{ExitCode, Stop},
    kafka_client::{self, FIRST_CONTACT_LIMIT},
    kafka_position::TopicPartition,
    schema_registry::{RegistrySettings, SchemaRegistry},
};
use tokio::{runtime::Runtime, task::JoinSet};

use super::{
    PlannedFile, ReplayError, ReplayRequest,
    hour_claim::HourClaim,
    judge::Judge,
    plan::{Plan, Planner},
    rebuild::{Rebuilder, Rebuilt},
    report::{Outcome, print_plan, print_result},
};
use crate::{
    chain::Writer,
    dlq::KnownLetters,
    event_hour::EventHour,
    file_metadata::WriterId,
    hours::accounts::HourFolder,
    kafka_log::KafkaLog,
    lake_layout::{OpenLake, begin},
    lake_start::{open_existing_lake, open_other_lake},
    metrics::SinkMetrics,
    progress::Progress,
    record_reader::RecordReader,
    schema_check::SchemaChecks,
    settings::{LayoutSetting, SinkSettings},
    topic_reader::TopicReader,
};

/// So many partitions are read and written at a time.
const PARTITIONS_MAX: usize = 4;

const TICK: Duration = Duration::from_millis(200);

/// Makes again what was asked for, and prints plan and result.
///
/// # Errors
/// If it cannot be done; what was made again until then stays.
pub fn replay(
    runtime: &Runtime,
    settings: &SinkSettings,
    request: &ReplayRequest,
    version: &'static str,
) -> Result<(), Stop> {
    kafka_client::connect_check(&settings.kafka, FIRST_CONTACT_LIMIT)?;
    let lake = open_existing_lake(runtime, settings)?;
    let otherwise = "leave it out, and the files are made again in their places";
    let open_into = |url| {
        let into = open_other_lake(settings, url, otherwise)?;
        Ok::<_, Stop>(Arc::new(OpenLake::new(into, lake.layout().clone())))
    };
    let into = request.into.as_deref().map(open_into).transpose()?;
    let kafka = settings.kafka.client_config("atlas-sink-replay");
    let job = Replay {
        settings,
        lake: Arc::new(lake),
        into,
        log: KafkaLog::new(&kafka, &settings.group).map_err(refused)?,
        kafka,
        metrics: SinkMetrics::register(),
        writer: Writer { id: WriterId::random(), version },
    };
    runtime.block_on(job.run(request)).map_err(Stop::from)
}

fn refused(error: KafkaError) -> Stop {
    Stop::new(ExitCode::Configuration, format!("the Kafka client refuses: {error}"))
}

fn unprintable(error: std::io::Error) -> Stop {
    Stop::new(ExitCode::Defect, format!("the result cannot be printed: {error}"))
}

struct Replay<'a> {
    settings: &'a SinkSettings,
    lake: Arc<OpenLake>,
    /// With the layout of the lake.
    into: Option<Arc<OpenLake>>,
    log: KafkaLog,
    kafka: ClientConfig,
    /// Of nobody's interest here: the parts that the live sink has too count into them.
    metrics: SinkMetrics,
    writer: Writer,
}

/// Generations by topic and hour.
type Generations = BTreeMap<(String, EventHour), u64>;

impl Replay<'_> {
    async fn run(&self, request: &ReplayRequest) -> Result<(), ReplayError> {
        let mut records = self.records()?;
        let reader = TopicReader::new(&self.kafka, &self.settings.group).map_err(refused)?;
        let letters = KnownLetters::read(&self.settings.dead_letters, &self.log, &reader).await?;
        let letters = Arc::new(letters);
        let planner = Planner {
            lake: &self.lake,
            log: &self.log,
            reader: &reader,
            names: &self.settings.names,
            compression: self.settings.compression,
            format: self.settings.files.line_format,
            schemas: &self.settings.schema_checks,
            letters: &letters,
        };
        let mut plans = Vec::new();
        for topic in &request.topics {
            plans.push(planner.plan(topic, &request.span, &mut records).await?);
        }
        print_plan(&plans, request.output, &mut std::io::stdout().lock()).map_err(unprintable)?;
        if request.dry_run {
            return Ok(());
        }
        if let (Some(into), Some(url)) = (&self.into, &request.into) {
            into.prepare().await?;
            let ours = LayoutSetting { layout: into.layout().clone(), given: false };
            let theirs = begin(into, &ours).await?;
            if theirs != ours.layout {
                let what = format!(
                    "the lake at {url} was begun with LAYOUT={theirs}, and a copy has the layout of its lake, {}. Nothing was changed there; name another place with --into",
                    ours.layout
                );
                return Err(Stop::new(ExitCode::LakeDiffers, what).into());
            }
        }
        let generations = self.claim(&plans).await?;
        let outcomes = self.rebuild(&plans, &generations, &letters).await?;
        self.finish(&plans, &generations).await?;
        print_result(&outcomes, request.output, &mut std::io::stdout().lock()).map_err(unprintable)?;
        Ok(())
    }

    fn records(&self) -> Result<RecordReader, Stop> {
        let registry: Option<&RegistrySettings> = self.settings.registry.as_ref();
        Ok(RecordReader::new(registry.map(SchemaRegistry::new).transpose()?))
    }

    fn hours(plan: &Plan) -> BTreeSet<EventHour> {
        plan.files.iter().map(|file| file.hour).collect()
    }

    fn claim_of<'b>(&'b self, plan: &'b Plan, hour: EventHour) -> HourClaim<'b> {
        let Plan { topic, content, .. } = plan;
        HourClaim { lake: &self.lake, metrics: &self.metrics, topic, content, hour }
    }

    /// Files of another lake are a copy: nothing is claimed, and they are of no generation of their own.
    async fn claim(&self, plans: &[Plan]) -> Result<Generations, ReplayError> {
        let mut generations = Generations::new();
        for plan in plans {
            for hour in Self::hours(plan) {
                let generation = match self.into {
                    Some(_) => 0,
                    None => self.claim_of(plan, hour).take().await?,
                };
                generations.insert((plan.topic.clone(), hour), generation);
            }
        }
        Ok(generations)
    }

    async fn finish(&self, plans: &[Plan], generations: &Generations) -> Result<(), ReplayError> {
        for plan in plans {
            for hour in Self::hours(plan) {
                match &self.into {
                    None => {
                        let generation = generations[&(plan.topic.clone(), hour)];
                        self.claim_of(plan, hour).finish(generation).await?;
                    }
                    Some(into) => {
                        let Plan { topic, content, .. } = plan;
                        let folder = HourFolder { lake: into, metrics: &self.metrics, topic, content, hour };
                        folder.write_manifest(&BTreeMap::new()).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Each partition is one job: its files in the order of the log, with a consumer of its own.
    async fn rebuild(
        &self,
        plans: &[Plan],
        generations: &Generations,
        letters: &Arc<KnownLetters>,
    ) -> Result<Vec<Outcome>, ReplayError> {
        let mut waiting: Vec<(&Plan, Vec<PlannedFile>)> = Vec::new();
        for plan in plans {
            let mut partitions: BTreeMap<&TopicPartition, Vec<PlannedFile>> = BTreeMap::new();
            for file in &plan.files {
                partitions.entry(&file.partition).or_default().push(file.clone());
            }
            waiting.extend(partitions.into_values().map(|files| (plan, files)));
        }
        waiting.reverse();
        let total = plans.iter().flat_map(|plan| &plan.files).map(PlannedFile::offsets).sum();
        let done = Arc::new(AtomicU64::new(0));
        let failed = Arc::new(AtomicBool::new(false));
        let mut progress = Progress::over("replay", "offsets", total, Arc::clone(&done));
        let mut jobs: JoinSet<Result<Vec<Outcome>, ReplayError>> = JoinSet::new();
        let mut outcomes = Vec::new();
        let mut first_error = None;
        let mut ticks = tokio::time::interval(TICK);
        loop {
            while jobs.len() < PARTITIONS_MAX
                && first_error.is_none()
                && let Some((plan, files)) = waiting.pop()
            {
                let files = files.into_iter().map(|file| {
                    let generation = generations[&(plan.topic.clone(), file.hour)];
                    (file, generation)
                });
                let job = PartitionJob {
                    lake: Arc::clone(self.into.as_ref().unwrap_or(&self.lake)),
                    plan: plan.clone(),
                    files: files.collect(),
                    reader: TopicReader::new(&self.kafka, &self.settings.group).map_err(refused)?,
                    records: self.records()?,
                    writer: self.writer.clone(),
                    schemas: self.settings.schema_checks.clone(),
                    letters: Arc::clone(letters),
                    done: Arc::clone(&done),
                    failed: Arc::clone(&failed),
                };
                // Kafka's client blocks.
                let runtime = tokio::runtime::Handle::current();
                jobs.spawn_blocking(move || runtime.block_on(job.run()));
            }
            tokio::select! {
                ended = jobs.join_next() => match ended {
                    None => break,
                    Some(Ok(Ok(of_partition))) => outcomes.extend(of_partition),
                    Some(Ok(Err(error))) => {
                        failed.store(true, Ordering::Relaxed);
                        first_error.get_or_insert(error);
                    }
                    Some(Err(defect)) => std::panic::resume_unwind(defect.into_panic()),
                },
                _ = ticks.tick() => progress.tick(),
            }
        }
        progress.over_and_out();
        match first_error {
            Some(error) => Err(error),
            None => {
                outcomes.sort_by(|a, b| a.file.path.cmp(&b.file.path));
                Ok(outcomes)
            }
        }
    }
}

struct PartitionJob {
    lake: Arc<OpenLake>,
    plan: Plan,
    files: Vec<(PlannedFile, u64)>,
    reader: TopicReader,
    records: RecordReader,
    writer: Writer,
    schemas: SchemaChecks,
    letters: Arc<KnownLetters>,
    done: Arc<AtomicU64>,
    /// Another partition cannot go on: then this one need not either.
    failed: Arc<AtomicBool>,
}

impl PartitionJob {
    async fn run(self) -> Result<Vec<Outcome>, ReplayError> {
        let mut rebuilder = Rebuilder {
            lake: &self.lake,
            content: &self.plan.content,
            reader: self.reader,
            records: self.records,
            writer: self.writer,
            judge: Judge { content: &self.plan.content, schemas: &self.schemas, letters: &self.letters },
            done: &self.done,
            last: None,
        };
        let mut outcomes = Vec::with_capacity(self.files.len());
        for (file, generation) in self.files {
            if self.failed.load(Ordering::Relaxed) {
                break;
            }
            let rebuilt: Rebuilt = rebuilder.rebuild(&file, generation).await?;
            outcomes.push(Outcome { topic: self.plan.topic.clone(), file, generation, rebuilt });
        }
        Ok(outcomes)
    }
}

//! The command: plan, claims, files with the partitions side by side, manifests.

use std::{
    collections::BTreeMap,
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
use tokio::{runtime::Runtime, sync::OnceCell, task::JoinSet};

use super::{
    PlannedFile, ReplayError, ReplayRequest,
    hour_claim::{Claim, HourClaim, Manner},
    judge::Judge,
    plan::{Plan, Planner},
    rebuild::Rebuilder,
    report::{Outcome, print_plan, print_result},
    reprint::{Run, runs},
};
use crate::{
    chain::{FilePolicy, Publishing, Writer},
    dlq::KnownLetters,
    event_hour::EventHour,
    file_metadata::{OffsetRuns, WriterId},
    hours::{
        accounts::HourFolder,
        manifest::{ManifestFile, manifest_file},
        reprint::{FileRange, Form},
    },
    kafka_log::KafkaLog,
    known_partitions::{known_partitions, refuse_unknown},
    lake_layout::{OpenLake, begin},
    lake_start::{open_existing_lake, open_other_lake},
    metrics::SinkMetrics,
    progress::Progress,
    record_reader::RecordReader,
    schema_check::SchemaChecks,
    settings::{LayoutSetting, SinkSettings},
    topic_content::TopicContent,
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

/// By topic and hour.
type Claims = BTreeMap<(String, EventHour), Claim>;

impl Replay<'_> {
    async fn run(&self, request: &ReplayRequest) -> Result<(), ReplayError> {
        let mut records = self.records()?;
        let reader = TopicReader::new(&self.kafka, &self.settings.group).map_err(refused)?;
        let planner = Planner {
            lake: &self.lake,
            log: &self.log,
            reader: &reader,
            names: &self.settings.names,
            kafka: &self.kafka,
            group: &self.settings.group,
            into: self.into.as_deref(),
            compression: self.settings.compression,
            policy: self.settings.files,
            grace: self.settings.hour_grace,
            schemas: &self.settings.schema_checks,
            letters: OnceCell::new(),
            dead_letters: &self.settings.dead_letters,
        };
        let there = known_partitions(&self.lake, &reader, &self.settings.names, |_| true).await;
        refuse_unknown(&request.topics, &there.map_err(Stop::from)?)?;
        let mut plans = Vec::new();
        for topic in &request.topics {
            plans.push(planner.plan(topic, &request.span, &mut records).await?);
        }
        let manner = self.manner(request);
        print_plan(&plans, manner, request.output, &mut std::io::stdout().lock()).map_err(unprintable)?;
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
        let claims = self.claim(&plans, manner).await?;
        // Behind the claims: a `dlq retry` that did not see them has its markers there by now.
        let may_hold_letters = plans.iter().flat_map(|plan| &plan.files).any(PlannedFile::may_hold_letters);
        let letters = match may_hold_letters {
            true => KnownLetters::read(&self.settings.dead_letters, &self.log, &reader).await?,
            false => KnownLetters::default(),
        };
        let outcomes = match self.rebuild(&plans, &claims, manner, &Arc::new(letters)).await {
            Err(error @ ReplayError::Superseded { .. }) => {
                self.name_files_as_they_are(&plans).await?;
                return Err(error);
            }
            result => result?,
        };
        self.finish(&plans, &claims, &outcomes).await?;
        print_result(&outcomes, request.output, &mut std::io::stdout().lock()).map_err(unprintable)?;
        Ok(())
    }

    fn records(&self) -> Result<RecordReader, Stop> {
        let registry: Option<&RegistrySettings> = self.settings.registry.as_ref();
        Ok(RecordReader::new(registry.map(SchemaRegistry::new).transpose()?))
    }

    /// Files of another lake are a copy, whatever their readers rely on.
    fn manner(&self, request: &ReplayRequest) -> Manner {
        let FilePolicy { publishing, line_format, bytes, rows, .. } = self.settings.files;
        let compression = self.settings.compression;
        match publishing {
            _ if request.reformat => Manner::Reformat(Form {
                compression,
                lineformat: line_format,
                rollbytes: bytes,
                rollrows: rows,
            }),
            Publishing::Sealed if self.into.is_none() => Manner::Beside,
            Publishing::Sealed | Publishing::Rolling => Manner::InPlace,
        }
    }

    /// The ranges that each hour's files hold.
    fn hours(plan: &Plan) -> BTreeMap<EventHour, Vec<FileRange>> {
        let mut hours: BTreeMap<EventHour, Vec<FileRange>> = BTreeMap::new();
        for file in &plan.files {
            hours.entry(file.hour).or_default().push((file.partition.partition, file.first, file.next));
        }
        hours
    }

    fn claim_of<'b>(&'b self, plan: &'b Plan, hour: EventHour) -> HourClaim<'b> {
        let Plan { topic, content, .. } = plan;
        HourClaim { lake: &self.lake, metrics: &self.metrics, topic, content, hour }
    }

    /// In another lake nothing is claimed, and files are of no generation of their own.
    async fn claim(&self, plans: &[Plan], manner: Manner) -> Result<Claims, ReplayError> {
        let mut claims = Claims::new();
        for plan in plans {
            for (hour, ranges) in Self::hours(plan) {
                let claim = match self.into {
                    Some(_) => Claim { generation: 0, reprint: None },
                    None => self.claim_of(plan, hour).take(manner, &ranges).await?,
                };
                claims.insert((plan.topic.clone(), hour), claim);
            }
        }
        Ok(claims)
    }

    /// All hours whose files are done, also where another replay has taken one over.
    async fn finish(&self, plans: &[Plan], claims: &Claims, outcomes: &[Outcome]) -> Result<(), ReplayError> {
        let mut superseded = None;
        for plan in plans {
            for hour in Self::hours(plan).into_keys() {
                match self.finish_hour(plan, hour, claims, outcomes).await {
                    Err(error @ ReplayError::Superseded { .. }) => superseded = Some(error),
                    result => result?,
                }
            }
        }
        for plan in plans {
            let Plan { topic, content, empty, .. } = plan;
            for hour in empty {
                let lake = self.into.as_ref().unwrap_or(&self.lake);
                let folder = HourFolder { lake, metrics: &self.metrics, topic, content, hour: *hour };
                folder.write_manifest(&BTreeMap::new()).await?;
            }
        }
        let Some(error) = superseded else { return Ok(()) };
        self.name_files_as_they_are(plans).await?;
        Err(error)
    }

    async fn finish_hour(
        &self,
        plan: &Plan,
        hour: EventHour,
        claims: &Claims,
        outcomes: &[Outcome],
    ) -> Result<(), ReplayError> {
        if let Some(into) = &self.into {
            let Plan { topic, content, .. } = plan;
            let folder = HourFolder { lake: into, metrics: &self.metrics, topic, content, hour };
            return Ok(folder.write_manifest(&BTreeMap::new()).await?);
        }
        let of_hour = |outcome: &&Outcome| {
            (outcome.topic == plan.topic && outcome.file.hour == hour) && outcome.is_reprint()
        };
        let reprinted: Vec<ManifestFile> = outcomes
            .iter()
            .filter(of_hour)
            .map(|outcome| manifest_file(&outcome.file.path, &outcome.rebuilt.metadata))
            .collect();
        self.claim_of(plan, hour).finish(&claims[&(plan.topic.clone(), hour)], &reprinted).await
    }

    /// The replay that took over may have finished an hour before a last file of this one was there.
    async fn name_files_as_they_are(&self, plans: &[Plan]) -> Result<(), ReplayError> {
        for plan in plans {
            for hour in Self::hours(plan).into_keys() {
                self.claim_of(plan, hour).name_files_as_they_are().await?;
            }
        }
        Ok(())
    }

    /// Each partition is one job: its files in the order of the log, with a consumer of its own.
    async fn rebuild(
        &self,
        plans: &[Plan],
        claims: &Claims,
        manner: Manner,
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
        let claim_of = |plan: &Plan, file: &PlannedFile| claims[&(plan.topic.clone(), file.hour)].clone();
        let offsets = |plan: &Plan, file: &PlannedFile| {
            file.offsets() * if claim_of(plan, file).reprint.is_some() { 2 } else { 1 }
        };
        let of_plan = |plan: &Plan| plan.files.iter().map(|file| offsets(plan, file)).sum::<u64>();
        let total = plans.iter().map(of_plan).sum();
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
                let claims = files.iter().map(|file| (file.hour, claim_of(plan, file)));
                let job = PartitionJob {
                    lake: Arc::clone(self.into.as_ref().unwrap_or(&self.lake)),
                    topic: plan.topic.clone(),
                    content: plan.content.clone(),
                    claims: claims.collect(),
                    files,
                    manner,
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
    topic: String,
    content: TopicContent,
    /// In the order of the log.
    files: Vec<PlannedFile>,
    claims: BTreeMap<EventHour, Claim>,
    manner: Manner,
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
            content: &self.content,
            reader: self.reader,
            records: self.records,
            writer: self.writer,
            judge: Judge { content: &self.content, schemas: &self.schemas, letters: &self.letters },
            done: &self.done,
            last: None,
        };
        let mut outcomes = Vec::with_capacity(self.files.len());
        let claims = self.claims;
        let has_form = |file: &PlannedFile| {
            claims[&file.hour].reprint.as_ref().is_some_and(|reprint| reprint.form.is_some())
        };
        for files in runs(self.files, has_form) {
            let Some(first) = files.first() else { continue };
            let Claim { generation, reprint } = &claims[&first.hour];
            let generation = *generation;
            let outcome = |(file, rebuilt)| Outcome { topic: self.topic.clone(), file, generation, rebuilt };
            let before = if reprint.is_some() { rebuilder.event_before(first)? } else { None };
            let mut letters = OffsetRuns::default();
            for file in &files {
                if self.failed.load(Ordering::Relaxed) {
                    return Ok(outcomes);
                }
                let rebuilt = rebuilder.rebuild(file, generation, self.manner.keeps_whole_files()).await?;
                rebuilt.metadata.dead_letters.iter().for_each(|offset| letters.push(offset));
                outcomes.push(outcome((file.clone(), rebuilt)));
            }
            if let Some(reprint) = reprint {
                let run = Run { files: &files, letters, before, form: reprint.form, generation };
                outcomes.extend(rebuilder.reprint(&run).await?.into_iter().map(outcome));
            }
        }
        Ok(outcomes)
    }
}

//! The process: settings, log, admin port, signals; then the writer's loop, until it ends with a code.

use std::{
    io::IsTerminal as _,
    pin::pin,
    process::ExitCode as ProcessExit,
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rdkafka::error::KafkaError;
use shared::{
    admin::{self, AdminServer, BuildInfo, HealthReporter},
    backoff::Backoff,
    exit::{ExitCode, Stop},
    kafka_client, process, seeded_bug,
    settings::{Effective, Sources},
    shutdown, telemetry,
};
use sink_service::{
    chain::Writer,
    cli::{self, Request, VerifyRequest},
    consumer::{GroupConsumer, GroupSettings},
    dead_letter_topic::DeadLetterTopic,
    dead_letters::DeadLetterQueue,
    file_metadata::WriterId,
    jobs::Jobs,
    kafka_log::KafkaLog,
    lake::{Lake, LakeError, LakeTarget},
    metrics::SinkMetrics,
    publish::Publisher,
    settings::{self, SinkSettings, TABLE},
    verify::{self, EventIds, PartitionResult, TopicReader, Verification, VerifyError},
    writer::{FlushPolicy, SinkWriter, Totals},
};
use tokio::{
    runtime::Runtime,
    sync::{Semaphore, mpsc},
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long Kafka may take to answer for the first time.
const FIRST_CONTACT_LIMIT: Duration = Duration::from_secs(60);

/// How long the lake may take to answer for the first time.
const LAKE_PREPARE_LIMIT: Duration = Duration::from_secs(60);

/// How often a wait for the lake is spoken of; no pause between two attempts is longer, unless the store asks for it.
const LAKE_WAIT_TOLD_EVERY: Duration = Duration::from_secs(10);

/// Reports wait here while the writer is busy; jobs wait when it is full.
const REPORTS_MAX: usize = 1024;

const SERVICE: &str = "sink-service";

fn main() -> ProcessExit {
    match cli::parse(std::env::args_os()) {
        Ok(Request::Run(sources)) => run(sources),
        Ok(Request::Verify { sources, verify }) => run_verify(sources, &verify),
        Ok(Request::ConfigShow { sources, json }) => {
            let (effective, mistakes) = settings::effective(sources);
            process::show_config(SERVICE, &effective, mistakes, json)
        }
        Ok(Request::ConfigExample) => process::print(&shared::settings::env_example(TABLE)),
        Err(error) => process::print_usage(&error),
    }
}

fn run(sources: Sources) -> ProcessExit {
    let (settings, effective) = match SinkSettings::read(sources) {
        Ok(read) => read,
        Err(error) => return process::complain(SERVICE, &error.into()),
    };
    let writer = Writer { id: WriterId::random(), version: VERSION };
    let log = &settings.process;
    if let Err(stop) = telemetry::install(log.log_format, &log.log_level, &writer.id.to_string()) {
        return process::complain(SERVICE, &stop);
    }
    let begun = Instant::now();
    match serve(settings, &effective, writer) {
        Ok(totals) => {
            tracing::info!(
                records = totals.records,
                batches = totals.batches,
                drained = totals.drained,
                uptime = ?begun.elapsed(),
                code = ExitCode::Drained.number(),
                "stopped"
            );
            ProcessExit::SUCCESS
        }
        Err(stop) => process::stopped(&stop),
    }
}

fn serve(settings: SinkSettings, effective: &Effective, writer: Writer) -> Result<Totals, Stop> {
    seeded_bug::warn_if_planted();
    for warning in &effective.warnings {
        tracing::warn!(warning, "settings");
    }
    let recorder = admin::install_recorder()?;
    let metrics = Arc::new(SinkMetrics::register());
    let (health, shown) = HealthReporter::new();
    let build = BuildInfo { service: SERVICE, version: VERSION, commit: option_env!("ATLAS_COMMIT") };
    let drain_limit = settings.process.shutdown_timeout.mul_f64(0.8);
    let live_within = settings.process.shutdown_timeout + Duration::from_secs(60);
    let (shutdown, start) = shutdown::on_signals(settings.process.shutdown_timeout)?;
    // Held until the end: it says "draining" while the writer does.
    let _admin = AdminServer::start(settings.process.admin_addr, shown, live_within, recorder, build)?;
    tracing::info!(
        version = VERSION,
        group = settings.group,
        topics = settings.topics.patterns.join(","),
        kafka = settings.kafka.bootstrap(),
        kafka_protocol = settings.kafka.protocol(),
        lake = %settings.lake,
        "starting"
    );
    kafka_client::first_contact(&settings.kafka, FIRST_CONTACT_LIMIT, &mut |text| health.not_ready(text))?;
    health.not_ready("starting");

    let runtime = runtime()?;
    let lake = await_lake(&settings, &runtime, &|text| health.not_ready(text))?;
    health.not_ready("starting");
    let kafka = |name| settings.kafka.client_config(name);
    let refused =
        |error: KafkaError| Stop::new(ExitCode::Configuration, format!("the Kafka client refuses: {error}"));
    let (report, reports) = mpsc::channel(REPORTS_MAX);
    let (wait, waits) = mpsc::channel(REPORTS_MAX);
    let letters =
        DeadLetterTopic::new(&kafka("atlas-sink-admin"), settings.dead_letters, settings.names.clone());
    let publisher = Publisher {
        lake,
        log: KafkaLog::new(&kafka("atlas-sink-log")).map_err(refused)?,
        dead_letters: DeadLetterQueue::new(&kafka("atlas-sink-dlq"), letters.map_err(refused)?, VERSION),
        policy: settings.roll,
        start_at: settings.start_at,
        writer,
        metrics: Arc::clone(&metrics),
        waits: wait,
        uploads: Semaphore::new(settings.uploads),
    };
    // What the client has fetched and nobody has polled yet counts against the limit too.
    let queue_bytes = settings.flush.memory_limit / 8;
    let flush = FlushPolicy { memory_limit: settings.flush.memory_limit - queue_bytes, ..settings.flush };
    let group = GroupSettings {
        group: settings.group,
        instance_id: settings.instance_id,
        patterns: settings.topics.patterns,
        excludes: settings.topics.excludes,
        message_bytes_max: settings.flush.value_bytes_max,
        queue_bytes,
    };
    let writer = SinkWriter {
        consumer: GroupConsumer::join(&kafka("atlas-sink"), &group).map_err(refused)?,
        jobs: Jobs::new(publisher, report, runtime.handle().clone()),
        reports,
        waits,
        names: settings.names,
        flush,
        drain_limit,
        health,
        metrics,
        shutdown,
    };
    let totals = {
        let _entered = runtime.enter();
        start.over();
        writer.run()
    };
    // Nothing acts after the last line: what is still on its way is cut off, and every step of it is conditional.
    runtime.shutdown_timeout(Duration::from_secs(2));
    totals
}

fn runtime() -> Result<Runtime, Stop> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_name("lake")
        .build()
        .map_err(|error| Stop::new(ExitCode::Temporary, format!("the runtime cannot be started: {error}")))
}

/// Opens the lake and makes it usable. A lake that cannot be reached is tried again until [`LAKE_PREPARE_LIMIT`];
/// `on_wait` gets a sentence for people about each attempt that fails or takes long, and the log gets it too.
fn await_lake(settings: &SinkSettings, runtime: &Runtime, on_wait: &dyn Fn(String)) -> Result<Lake, Stop> {
    let lake = Lake::open(&settings.lake, settings.auth.as_ref())
        .map_err(|error| Stop::new(ExitCode::Configuration, error.to_string()))?;
    let begun = Instant::now();
    let tell = |cause: &str| {
        let waited = Duration::from_secs(begun.elapsed().as_secs());
        tracing::warn!(lake = %settings.lake, cause, ?waited, "the lake does not answer yet");
        on_wait(format!("the lake does not answer yet: {cause}"));
    };
    let prepared = runtime.block_on(prepare(&lake, begun + LAKE_PREPARE_LIMIT, tell));
    let code = match &prepared {
        Ok(()) => return Ok(lake),
        Err(LakeError::Denied { .. }) => ExitCode::NotAllowed,
        Err(LakeError::Refused { .. }) => ExitCode::Configuration,
        Err(LakeError::Damaged { .. }) => ExitCode::LakeDiffers,
        Err(LakeError::Unavailable { .. } | LakeError::Unknown { .. } | LakeError::Conflict) => {
            ExitCode::Unreachable
        }
    };
    prepared
        .map(|()| lake)
        .map_err(|error| Stop::new(code, format!("cannot use the lake at {}: {error}", settings.lake)))
}

/// Repeats what may succeed later, until `deadline`; the last attempt's error is the one returned.
async fn prepare(lake: &Lake, deadline: Instant, tell: impl Fn(&str)) -> Result<(), LakeError> {
    let mut backoff = Backoff::default();
    let left = || deadline.saturating_duration_since(Instant::now());
    loop {
        let mut attempt = pin!(lake.prepare());
        let error = loop {
            match tokio::time::timeout(LAKE_WAIT_TOLD_EVERY.min(left()), &mut attempt).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => break error,
                Err(_) if left().is_zero() => {
                    return Err(LakeError::Unavailable { cause: "no answer".into(), retry_after: None });
                }
                Err(_) => tell("no answer"),
            }
        };
        let asked = match &error {
            LakeError::Unavailable { retry_after, .. } => *retry_after,
            LakeError::Unknown { .. } => None,
            LakeError::Conflict
            | LakeError::Denied { .. }
            | LakeError::Refused { .. }
            | LakeError::Damaged { .. } => return Err(error),
        };
        let pause = backoff.next_delay().min(LAKE_WAIT_TOLD_EVERY).max(asked.unwrap_or_default());
        if pause >= left() {
            return Err(error);
        }
        tell(&error.to_string());
        tokio::time::sleep(pause).await;
    }
}

fn run_verify(sources: Sources, request: &VerifyRequest) -> ProcessExit {
    let settings = match SinkSettings::read(sources) {
        Ok((settings, _)) => settings,
        Err(error) => return process::complain(SERVICE, &error.into()),
    };
    let log = &settings.process;
    if let Err(stop) = telemetry::install(log.log_format, "warn", "verify") {
        return process::complain(SERVICE, &stop);
    }
    match compare(&settings, request) {
        Ok(true) => ProcessExit::SUCCESS,
        Ok(false) => ExitCode::LakeDiffers.into(),
        Err(stop) => process::complain(SERVICE, &stop),
    }
}

fn compare(settings: &SinkSettings, request: &VerifyRequest) -> Result<bool, Stop> {
    kafka_client::connect_check(&settings.kafka, FIRST_CONTACT_LIMIT)?;
    let runtime = runtime()?;
    let lake = open_existing_lake(settings)?;
    let refused =
        |error: KafkaError| Stop::new(ExitCode::Configuration, format!("the Kafka client refuses: {error}"));
    let kafka = settings.kafka.client_config("atlas-sink-verify");
    let verification = Verification {
        lake: &lake,
        log: &KafkaLog::new(&kafka).map_err(refused)?,
        reader: TopicReader::new(&kafka).map_err(refused)?,
        names: settings.names.clone(),
        drained: request.drained,
        value_bytes_max: settings.flush.value_bytes_max,
    };
    let wanted = |topic: &str| request.topics.is_empty() || request.topics.iter().any(|each| each == topic);
    let results = runtime.block_on(async {
        let partitions = verification.partitions(wanted).await?;
        let progress = progress_over(partitions.len());
        let mut events = EventIds::default();
        let mut results = Vec::with_capacity(partitions.len());
        for partition in &partitions {
            progress.set_message(partition.to_string());
            let tell = |records| progress.set_message(format!("{partition}: {records} records"));
            let result = match verification.partition(partition, &mut events, tell).await {
                // One damaged file is a finding; the others are compared all the same.
                Err(VerifyError::Lake(error @ LakeError::Damaged { .. })) => {
                    PartitionResult::unreadable(partition, error.to_string())
                }
                result => result?,
            };
            results.push(result);
            progress.inc(1);
        }
        progress.finish_and_clear();
        Ok::<_, VerifyError>(results)
    })?;
    if results.is_empty() && request.topics.is_empty() {
        let message = format!(
            "there is nothing to compare: no data topic under the prefix {} at {}, and no chain in the lake at {}. Check TOPIC_PREFIX, KAFKA_BROKERS and LAKE_URL",
            settings.names.prefix(),
            settings.kafka.bootstrap(),
            settings.lake
        );
        return Err(Stop::new(ExitCode::Configuration, message));
    }
    let missing = request.topics.iter().find(|topic| !results.iter().any(|result| result.topic == **topic));
    if let Some(topic) = missing {
        let message = format!("{topic} is neither a data topic in Kafka nor has it a chain in the lake");
        return Err(Stop::new(ExitCode::Usage, message));
    }
    verify::print(&results, request.output, &mut std::io::stdout().lock())
        .map_err(|error| Stop::new(ExitCode::Defect, format!("the result cannot be printed: {error}")))
}

/// A lake that is only read is not made.
fn open_existing_lake(settings: &SinkSettings) -> Result<Lake, Stop> {
    let cannot = |what: &str| {
        Stop::new(ExitCode::Configuration, format!("cannot read the lake at {}: {what}", settings.lake))
    };
    if let LakeTarget::Directory(root) = &settings.lake
        && !root.is_dir()
    {
        return Err(cannot("there is no such directory"));
    }
    Lake::open(&settings.lake, settings.auth.as_ref()).map_err(|error| cannot(&error.to_string()))
}

/// A bar with the time it still takes, on a terminal.
fn progress_over(partitions: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(partitions as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} partitions, {eta} left  {wide_msg}");
    bar.set_style(style.expect("the template is right"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

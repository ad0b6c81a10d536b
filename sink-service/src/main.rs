//! The process: settings, log, admin port, signals; then the writer's loop, until it ends with a code.

use std::{
    process::ExitCode as ProcessExit,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::error::KafkaError;
use shared::{
    admin::{self, AdminServer, BuildInfo, HealthReporter},
    command_line::ConfigRequest,
    exit::{ExitCode, Stop},
    kafka_client::{self, FIRST_CONTACT_LIMIT},
    process,
    schema_registry::{self, SchemaRegistry},
    seeded_bug,
    settings::{Effective, Sources},
    shutdown, telemetry,
};
use sink_service::{
    chain::Writer,
    check,
    cli::{self, Request, RunRequest},
    compare::{self, Agreement, CompareRequest},
    consumer::{GroupConsumer, GroupSettings},
    dead_letter_breaker::DeadLetterBreaker,
    dead_letter_topic::DeadLetterTopic,
    dead_letters::DeadLetterQueue,
    dlq, expire, export,
    file_metadata::WriterId,
    hours::{broker_clock::BrokerClock, closer::Closer, keeper::HourKeeper, token_follower::follow},
    jobs::Jobs,
    kafka_log::KafkaLog,
    lake_start::await_lake,
    metrics::SinkMetrics,
    open_files,
    publish::Publisher,
    replay,
    settings::{self, CATALOGUE, SinkSettings},
    topic_content::is_archived,
    uploads::Uploads,
    value_reader::ValueReader,
    verify,
    writer::{SinkWriter, Totals},
};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, watch},
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Reports wait here while the writer is busy; jobs wait when it is full.
const REPORTS_MAX: usize = 1024;

const SERVICE: &str = "sink-service";

fn main() -> ProcessExit {
    match cli::parse(std::env::args_os()) {
        Ok(Request::Run { sources, run: request }) => run(sources, request),
        Ok(Request::Check { sources, json }) => check::run(SERVICE, sources, json),
        Ok(Request::Verify { sources, verify, compare }) => {
            run_command(sources, "verify", |runtime, settings| {
                // What the second part lacks is said before the first one has run for an hour.
                if compare.is_some() {
                    compare::mongo_uri(settings)?;
                }
                let agrees = verify::verify(runtime, settings, &verify)?;
                let code =
                    compare.map(|request| compare_with_mongodb(runtime, settings, &request)).transpose()?;
                Ok(if agrees { code.unwrap_or(ProcessExit::SUCCESS) } else { ExitCode::LakeDiffers.into() })
            })
        }
        Ok(Request::Compare { sources, compare }) => run_command(sources, "compare", |runtime, settings| {
            compare_with_mongodb(runtime, settings, &compare)
        }),
        Ok(Request::Replay { sources, replay }) => run_command(sources, "replay", |runtime, settings| {
            replay::replay(runtime, settings, &replay, VERSION).map(|()| ProcessExit::SUCCESS)
        }),
        Ok(Request::Dlq { sources, dlq }) => run_command(sources, "dlq", |runtime, settings| {
            dlq::run(runtime, settings, &dlq).map(|()| ProcessExit::SUCCESS)
        }),
        Ok(Request::Export { sources, export }) => run_command(sources, "export", |runtime, settings| {
            export::export(runtime, settings, &export).map(|()| ProcessExit::SUCCESS)
        }),
        Ok(Request::Expire { sources, expire }) => run_command(sources, "expire", |runtime, settings| {
            expire::expire(runtime, settings, &expire).map(|()| ProcessExit::SUCCESS)
        }),
        Ok(Request::Config(ConfigRequest::Show { sources, json })) => {
            let (effective, mistakes) = settings::effective(sources);
            process::show_config(SERVICE, &effective, mistakes, json)
        }
        Ok(Request::Config(ConfigRequest::Example)) => {
            process::print(&shared::settings::env_example(CATALOGUE.table))
        }
        Err(error) => process::print_usage(&error),
    }
}

fn compare_with_mongodb(
    runtime: &Runtime,
    settings: &SinkSettings,
    request: &CompareRequest,
) -> Result<ProcessExit, Stop> {
    Ok(match compare::compare(runtime, settings, request)? {
        Agreement::Agrees => ProcessExit::SUCCESS,
        Agreement::Differs => ExitCode::LakeDiffers.into(),
        Agreement::Undecided => ExitCode::Temporary.into(),
    })
}

fn run(sources: Sources, request: RunRequest) -> ProcessExit {
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
    match serve(settings, &effective, request, writer) {
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

fn serve(
    settings: SinkSettings,
    effective: &Effective,
    request: RunRequest,
    writer: Writer,
) -> Result<Totals, Stop> {
    let RunRequest { accepted_gaps, until_end } = request;
    if let Some(strange) = accepted_gaps.iter().find(|topic| !is_archived(&settings.names, topic)) {
        let what = format!(
            "--accept-gap {strange}: expected a data topic under the prefix {}, or {}",
            settings.names.prefix(),
            settings.names.control()
        );
        return Err(Stop::new(ExitCode::Usage, what));
    }
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
    let schemas: Vec<String> = settings.schema_checks.collections().map(ToString::to_string).collect();
    tracing::info!(
        version = VERSION,
        group = settings.group,
        topics = settings.topics.patterns.join(","),
        kafka = settings.kafka.bootstrap(),
        kafka_protocol = settings.kafka.protocol(),
        lake = %settings.lake,
        schemas = schemas.join(","),
        "starting"
    );
    kafka_client::first_contact(&settings.kafka, FIRST_CONTACT_LIMIT, &mut |text| health.not_ready(text))?;
    health.not_ready("starting");
    open_files::raise_limit();

    let runtime = runtime()?;
    let (registry, values) = await_registry(&settings, &runtime, &mut |text| health.not_ready(text))?;
    let lake = await_lake(&settings, &runtime, &|text| health.not_ready(text))?;
    health.not_ready("starting");
    let kafka = |name| settings.kafka.client_config(name);
    let refused =
        |error: KafkaError| Stop::new(ExitCode::Configuration, format!("the Kafka client refuses: {error}"));
    let (report, reports) = mpsc::channel(REPORTS_MAX);
    let (wait, waits) = mpsc::channel(REPORTS_MAX);
    let (standings, ours) = watch::channel(Vec::new());
    let (hour_end, hour_ends) = mpsc::channel(REPORTS_MAX);
    let log = KafkaLog::new(&kafka("atlas-sink-log"), &settings.group).map_err(refused)?;
    let lake = Arc::new(lake);
    let following = shutdown.clone();
    let keeper = HourKeeper {
        closer: Closer { lake: Arc::clone(&lake), log: log.clone(), metrics: Arc::clone(&metrics) },
        known: follow(&kafka("atlas-sink-tokens"), &settings.group, &settings.names, following)
            .map_err(|error| Stop::new(ExitCode::Configuration, error.to_string()))?,
        clock: BrokerClock::new(&kafka("atlas-sink-clock"), &settings.names).map_err(refused)?,
        grace: settings.hour_grace,
        standings: ours,
        ends: hour_end,
    };
    let letters = DeadLetterTopic::new(
        &kafka("atlas-sink-admin"),
        settings.dead_letters,
        settings.names.clone(),
        settings.topic_message_bytes,
    );
    let publisher = Publisher {
        lake,
        log,
        dead_letters: DeadLetterQueue::new(&kafka("atlas-sink-dlq"), letters.map_err(refused)?, VERSION),
        breaker: DeadLetterBreaker::new(settings.dlq_max_ratio),
        registry,
        policy: settings.files,
        compression: settings.compression,
        start_at: settings.start_at,
        writer,
        metrics: Arc::clone(&metrics),
        waits: wait,
        uploads: Uploads::new(settings.uploads),
    };
    let group = GroupSettings {
        group: settings.group,
        instance_id: settings.instance_id,
        protocol: settings.group_protocol,
        patterns: settings.topics.patterns,
        excludes: settings.topics.excludes,
        queue_bytes: settings.flush.queue_bytes(),
    };
    let writer = SinkWriter {
        consumer: GroupConsumer::join(&kafka("atlas-sink"), &group).map_err(refused)?,
        jobs: Jobs::new(publisher, report, runtime.handle().clone()),
        reports,
        waits,
        standings,
        hour_ends,
        names: settings.names,
        accepted_gaps,
        until_end,
        values,
        schemas: settings.schema_checks,
        flush: settings.flush,
        drain_limit,
        health,
        metrics,
        shutdown,
    };
    let totals = {
        let _entered = runtime.enter();
        start.over();
        runtime.spawn(keeper.run());
        writer.run()
    };
    // Nothing acts after the last line: what is still on its way is cut off, and every step of it is conditional.
    runtime.shutdown_timeout(Duration::from_secs(2));
    totals
}

/// Asks the registry, if there is one, for what it has of our schema: so that a wrong address or password is found at the
/// start, and most records need no further question.
fn await_registry(
    settings: &SinkSettings,
    runtime: &Runtime,
    on_wait: &mut dyn FnMut(&str),
) -> Result<(Option<SchemaRegistry>, ValueReader), Stop> {
    let mut values = ValueReader::new(settings.registry.is_some());
    let Some(registry) = &settings.registry else { return Ok((None, values)) };
    let registry = SchemaRegistry::new(registry)?;
    let ask = async || registry.known().await;
    let known = runtime.block_on(schema_registry::first_contact(&registry, ask, on_wait))?;
    tracing::info!(registry = registry.url(), schema = ?known, "schema registry");
    if let Some((id, means)) = known {
        values.learn(id, means);
    }
    Ok((Some(registry), values))
}

fn runtime() -> Result<Runtime, Stop> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_name("lake")
        .build()
        .map_err(|error| Stop::new(ExitCode::Temporary, format!("the runtime cannot be started: {error}")))
}

/// A command that does its work and ends: only warnings are logged, what it says it prints.
fn run_command(
    sources: Sources,
    name: &str,
    command: impl FnOnce(&Runtime, &SinkSettings) -> Result<ProcessExit, Stop>,
) -> ProcessExit {
    let settings = match SinkSettings::read(sources) {
        Ok((settings, _)) => settings,
        Err(error) => return process::complain(SERVICE, &error.into()),
    };
    telemetry::install(settings.process.log_format, "warn", name)
        .and_then(|()| runtime())
        .and_then(|runtime| command(&runtime, &settings))
        .unwrap_or_else(|stop| process::complain(SERVICE, &stop))
}

//! The process: settings, log, admin port, signals; then the pump, until it ends with a code.

use std::{
    process::ExitCode as ProcessExit,
    time::{Duration, Instant},
};

use shared::{
    admin::{self, AdminServer, BuildInfo, HealthReporter},
    command_line::ConfigRequest,
    exit::{ExitCode, Stop},
    kafka_client::{self, FIRST_CONTACT_LIMIT},
    process, seeded_bug,
    settings::{Effective, Sources},
    shutdown, telemetry,
};
use source_service::{
    change_stream::ChangeStream,
    check,
    cli::{self, Request, SERVICE},
    field_policy::FieldPolicy,
    metrics::{self, StreamMetrics},
    monitor,
    pump::Pump,
    settings::{self, CATALOGUE, SourceSettings},
    snapshot_command,
    status::{Identity, Status, Totals},
    token, value_format,
};

/// The longest a turn of the pump may take: a transaction's timeout, and room for recovery's requests.
const TURN_EXTRA: Duration = Duration::from_secs(90);

fn main() -> ProcessExit {
    match cli::parse(std::env::args_os()) {
        Ok(Request::Run { sources, until_end }) => run(sources, until_end),
        Ok(Request::Check { sources, json }) => check::run(sources, json),
        Ok(Request::Monitor { sources, request }) => monitor::run(sources, &request),
        Ok(Request::Token { sources, request }) => token::run(sources, &request),
        Ok(Request::Snapshot { sources, request }) => snapshot_command::run(sources, &request),
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

fn run(sources: Sources, until_end: bool) -> ProcessExit {
    let (settings, effective) = match SourceSettings::read(sources) {
        Ok(read) => read,
        Err(error) => return process::complain(SERVICE, &error.into()),
    };
    let instance = uuid::Uuid::new_v4().simple().to_string();
    let log = &settings.process;
    if let Err(stop) = telemetry::install(log.log_format, &log.log_level, &instance) {
        return process::complain(SERVICE, &stop);
    }
    let begun = Instant::now();
    match serve(settings, &effective, instance, until_end) {
        Ok(totals) => {
            tracing::info!(
                events = totals.events,
                transactions = totals.transactions,
                skipped = totals.skipped,
                recoveries = totals.recoveries,
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
    settings: SourceSettings,
    effective: &Effective,
    instance: String,
    until_end: bool,
) -> Result<Totals, Stop> {
    seeded_bug::warn_if_planted();
    for warning in &effective.warnings {
        tracing::warn!(warning, "settings");
    }
    let recorder = admin::install_recorder()?;
    metrics::describe();
    let (health, shown) = HealthReporter::new();
    let build = BuildInfo {
        service: SERVICE,
        version: env!("CARGO_PKG_VERSION"),
        commit: option_env!("ATLAS_COMMIT"),
    };
    let live_within = settings.transaction_timeout * 2 + TURN_EXTRA;
    let (stop, start) = shutdown::on_signals(settings.process.shutdown_timeout)?;
    // Held until the end: it says "stopping" while the pump drains.
    let _admin = AdminServer::start(settings.process.admin_addr, shown, live_within, recorder, build)?;

    let identity = Identity {
        source_id: settings.source_id.clone(),
        instance,
        scope: settings.stream.scope.to_string(),
    };
    tracing::info!(
        version = build.version,
        source_id = identity.source_id,
        instance = identity.instance,
        scope = identity.scope,
        operations = %settings.stream.operations,
        field_rules = settings.field_policy.as_ref().map_or(0, FieldPolicy::rules),
        pipeline_stages = settings.stream.pipeline.as_ref().map_or(0, |pipeline| pipeline.stages().len()),
        kafka = settings.kafka.bootstrap(),
        kafka_protocol = settings.kafka.protocol(),
        prefix = settings.names.prefix(),
        "starting"
    );
    kafka_client::first_contact(&settings.kafka, FIRST_CONTACT_LIMIT, &mut |text| health.not_ready(text))?;
    let format = value_format::settle(&settings, &mut |text| health.not_ready(text))?;
    health.not_ready("mongodb: waiting for the first contact");
    let status = Status::default();
    let stream = ChangeStream::start(
        settings.mongo_uri.expose(),
        settings.stream.clone(),
        status.clone(),
        StreamMetrics::default(),
    )?;
    stream.prove_pipeline(&settings.stream)?;
    stream.require_images(&settings.stream)?;
    if let Some(policy) = &settings.field_policy {
        stream.check_field_policy(policy)?;
    }
    let pump = Pump::new(settings, format, identity, stream, status, health, stop)?;
    let mut pump = if until_end { pump.until_end()? } else { pump };
    start.over();
    let totals = pump.run()?;
    if until_end && !pump.is_at_end() {
        return Err(Stop::before_end());
    }
    Ok(totals)
}

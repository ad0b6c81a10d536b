//! The process: settings, log, admin port, signals; then the pump, until it ends with a code.

use std::{
    io::Write as _,
    process::ExitCode as ProcessExit,
    time::{Duration, Instant},
};

use shared::{
    admin::{self, AdminServer, BuildInfo, HealthReporter},
    exit::{ExitCode, Stop},
    kafka_client, seeded_bug,
    settings::{Effective, Sources},
    shutdown, telemetry,
};
use source_service::{
    change_stream::ChangeStream,
    cli::{self, Request},
    metrics::{self, StreamMetrics},
    pump::Pump,
    settings::{self, SourceSettings, TABLE},
    status::{Identity, Status, Totals},
};

/// How long Kafka may take to answer for the first time.
const FIRST_CONTACT_LIMIT: Duration = Duration::from_secs(60);
/// The longest a turn of the pump may take: a transaction's timeout, and room for recovery's requests.
const TURN_EXTRA: Duration = Duration::from_secs(90);

fn main() -> ProcessExit {
    match cli::parse(std::env::args_os()) {
        Ok(Request::Run { sources, until_end }) => run(sources, until_end),
        Ok(Request::ConfigShow { sources, json }) => config_show(sources, json),
        Ok(Request::ConfigExample) => print(&shared::settings::env_example(TABLE)),
        Err(error) => {
            let asked = matches!(
                error.kind(),
                clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion
            );
            match error.print() {
                Ok(()) if asked => ProcessExit::SUCCESS,
                _ => ExitCode::Usage.into(),
            }
        }
    }
}

fn print(text: &str) -> ProcessExit {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ProcessExit::SUCCESS,
        // Whoever reads has gone, as `head` does.
        Err(_) => ExitCode::Defect.into(),
    }
}

fn config_show(sources: Sources, json: bool) -> ProcessExit {
    let (effective, mistakes) = settings::effective(sources);
    let text = if json { format!("{:#}\n", effective.to_json()) } else { effective.to_string() };
    let printed = print(&text);
    match mistakes {
        Some(error) => complain(&error.into()),
        None => printed,
    }
}

/// For what is wrong before there is a log.
fn complain(stop: &Stop) -> ProcessExit {
    match writeln!(std::io::stderr().lock(), "source-service: {stop}") {
        Ok(()) | Err(_) => stop.exit_code(),
    }
}

fn run(sources: Sources, until_end: bool) -> ProcessExit {
    let (settings, effective) = match SourceSettings::read(sources) {
        Ok(read) => read,
        Err(error) => return complain(&error.into()),
    };
    let instance = uuid::Uuid::new_v4().simple().to_string();
    let process = &settings.process;
    if let Err(stop) = telemetry::install(process.log_format, &process.log_level, &instance) {
        return complain(&stop);
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
        Err(stop) => {
            tracing::error!(
                code = stop.code.number(),
                meaning = stop.code.meaning(),
                reason = stop.message,
                "stopped"
            );
            stop.exit_code()
        }
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
        service: "source-service",
        version: env!("CARGO_PKG_VERSION"),
        commit: option_env!("ATLAS_COMMIT"),
    };
    let live_within = settings.transaction_timeout * 2 + TURN_EXTRA;
    // Held until the end: it says "stopping" while the pump drains.
    let _admin = AdminServer::start(settings.process.admin_addr, shown, live_within, recorder, build)?;
    let stop = shutdown::on_signals(settings.process.shutdown_timeout)?;

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
        kafka = settings.kafka.bootstrap(),
        kafka_protocol = settings.kafka.protocol(),
        prefix = settings.names.prefix(),
        "starting"
    );
    kafka_client::connect_check(&settings.kafka, FIRST_CONTACT_LIMIT)?;
    let status = Status::default();
    let stream = ChangeStream::start(
        settings.mongo_uri.expose(),
        settings.stream.clone(),
        status.clone(),
        StreamMetrics::default(),
    )?;
    let pump = Pump::new(settings, identity, stream, status, health, stop)?;
    let mut pump = if until_end { pump.until_end()? } else { pump };
    pump.run()
}

//! `check`: everything that a start rests on, looked at from outside. It writes nothing: no topic, container or folder is made,
//! no group is joined, and the one change that is sent to a storage account is to a blob that is not there.
//!
//! ```text
//!  kafka: brokers ─▶ schema registry ─▶ lake: place ▸ rights ▸ account ▸ layout ─▶ kafka: group ▸ data topics ▸ chains ▸ dead letters
//! ```
//!
//! The exit code is the one that `run` would end with: of several reasons, that of the first which a start would meet ([`Step`]).

mod chains;
mod kafka;
mod lake;

use std::process::ExitCode as ProcessExit;

use clap::{ArgMatches, Command};
use shared::{
    check,
    command_line::{flag, sources, with_settings},
    exit::{ExitCode, Stop},
    process,
    schema_registry::{IdMeans, SchemaRegistry},
    settings::{Sources, Table},
    telemetry,
};
use tokio::runtime::Runtime;

use self::kafka::Kafka;
use crate::settings::SinkSettings;

const HELP: &str = "\
Give the settings that the sink runs with. Writes nothing anywhere, and may be run beside the sink.

ok        nothing to do
warning   a start would go on; look at it
unknown   it cannot be asked; what to look at yourself
missing   a start would end with the code that is named

Examples:
  sink-service check --config sink.toml
  sink-service check --config sink.toml --json | jq '.findings[] | select(.state != \"ok\")'

Exit codes: 0 a start would go on; else the one that `run` would end with: 69 unreachable, 21 Kafka has lost records that the lake has not, 23 a topic is not the one that the lake was written from, \
25 the lake is laid out otherwise, damaged, or has another prefix's definitions, 77 not allowed, 78 a setting, a server or the storage account has to be changed first.";

const JSON: &str = "json";

/// What findings about `SCHEMA_CHECK_DIR` are of.
const SCHEMA_CHECK: &str = "schema check";

/// In the order in which `run` would meet them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Kafka,
    Registry,
    Lake,
    Account,
    Layout,
    Group,
    DataTopics,
    Chains,
    DeadLetters,
}

type Report = check::Report<Step>;

/// The sub-command.
pub fn check_command(table: Table) -> Command {
    with_settings(
        Command::new("check").about("Whether everything is there that a start needs; writes nothing"),
        table,
    )
    .arg(flag(JSON, "One JSON object"))
    .after_help(HELP)
}

/// What was asked for: settings, and whether as JSON.
pub fn check_request(table: Table, matches: &ArgMatches) -> (Sources, bool) {
    (sources(table, matches), matches.get_flag(JSON))
}

/// Looks, prints, and says with which code the process ends.
pub fn run(service: &str, sources: Sources, json: bool) -> ProcessExit {
    let looked = SinkSettings::read(sources).map_err(Stop::from).and_then(|(settings, effective)| {
        telemetry::install(settings.process.log_format, "error", "check")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime =
            runtime.map_err(|error| Stop::new(ExitCode::Temporary, format!("no runtime: {error}")))?;
        let mut report = Report::default();
        for warning in &effective.warnings {
            report.warning("settings", warning.clone(), []);
        }
        look_at_schemas(&settings, &mut report);
        look(&runtime, &settings, &mut report);
        Ok((settings, report))
    });
    match looked {
        Ok((settings, report)) => {
            let text = if json { report.to_json(("group", &settings.group)) } else { report.to_string() };
            let printed = process::print(&text);
            match report.code() {
                ExitCode::Drained => printed,
                // The code is the answer, whether or not somebody reads the words.
                code => code.into(),
            }
        }
        Err(stop) => process::complain(service, &stop),
    }
}

fn look(runtime: &Runtime, settings: &SinkSettings, report: &mut Report) {
    let kafka = match Kafka::connect(settings, report) {
        Ok(kafka) => Some(kafka),
        Err(stop) => {
            report.stop(Step::Kafka, "Kafka", &stop);
            None
        }
    };
    runtime.block_on(async {
        look_at_registry(settings, report).await;
        let lake = lake::look(settings, report).await;
        if let Some(kafka) = kafka {
            kafka.look(settings, lake.as_ref(), report).await;
        }
    });
}

/// They were compiled with the settings: a mistake in them is one of those.
fn look_at_schemas(settings: &SinkSettings, report: &mut Report) {
    let collections: Vec<String> = settings.schema_checks.collections().map(ToString::to_string).collect();
    if !collections.is_empty() {
        let found = format!("documents of {} are held against their schema", collections.join(", "));
        report.ok(SCHEMA_CHECK, found);
    }
}

async fn look_at_registry(settings: &SinkSettings, report: &mut Report) {
    const WHAT: &str = "schema registry";
    let Some(registry) = &settings.registry else { return };
    let registry = match SchemaRegistry::new(registry) {
        Ok(registry) => registry,
        Err(stop) => return report.stop(Step::Registry, WHAT, &stop),
    };
    let url = registry.url();
    match registry.known().await {
        Ok(Some((id, IdMeans::ChangeEvent))) => {
            report.ok(WHAT, format!("{url} answers; it has our schema, under id {id}"));
        }
        Ok(Some((id, IdMeans::Foreign | IdMeans::Nothing))) => {
            let found = format!("{url} answers; the latest schema, id {id}, is not this version's");
            report.warning(
                WHAT,
                found,
                ["its records become dead letters unless an older id is ours".to_owned()],
            );
        }
        Ok(None) => report.ok(WHAT, format!("{url} answers; no source has registered a schema there yet")),
        Err(error) => report.stop(Step::Registry, WHAT, &registry.stop(&error)),
    }
}

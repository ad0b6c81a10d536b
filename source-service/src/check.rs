//! `check`: everything that a start rests on, looked at from outside. It changes nothing anywhere: no topic is made, no transaction is
//! begun, and the change stream is opened and closed again.
//!
//! ```text
//!  kafka: brokers ▸ own topics ▸ token record ──▶ mongodb: server ▸ rights ▸ position ▸ images ▸ snapshot ──▶ topics: of collections
//! ```
//!
//! The exit code is the one that `run` would end with: of several reasons, that of the first which a start would meet ([`Step`]).

mod data_topics;
mod kafka;
mod mongodb;

use std::process::ExitCode as ProcessExit;

use clap::{ArgMatches, Command};
use shared::{
    check,
    command_line::{flag, sources, with_settings},
    exit::{ExitCode, Stop},
    process,
    settings::Sources,
    telemetry,
};

use self::kafka::Kafka;
use crate::{
    cli::{SERVICE, TABLE},
    settings::SourceSettings,
};

const HELP: &str = "\
Give the settings that the source runs with. Changes nothing anywhere, and may be run beside the source.

ok        nothing to do
warning   a start would go on; look at it
unknown   it cannot be asked; what to look at yourself
missing   a start would end with the code that is named

Examples:
  source-service check --config source.toml
  source-service check --config source.toml --json | jq '.findings[] | select(.state != \"ok\")'

Exit codes: 0 a start would go on; else the one that `run` would end with: 20 the position is lost, 69 unreachable,
77 not allowed, 78 a setting or a server has to be changed first.";

const JSON: &str = "json";

/// In the order in which `run` would meet them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Kafka,
    MongoUri,
    Pipeline,
    Images,
    Brokers,
    OwnTopics,
    Token,
    Stream,
    Counts,
    Snapshot,
    DataTopics,
}

type Report = check::Report<Step>;

/// The sub-command.
pub fn command() -> Command {
    with_settings(
        Command::new("check").about("Whether everything is there that a start needs; changes nothing"),
        TABLE,
    )
    .arg(flag(JSON, "One JSON object"))
    .after_help(HELP)
}

/// What was asked for: settings, and whether as JSON.
pub fn request(matches: &ArgMatches) -> (Sources, bool) {
    (sources(TABLE, matches), matches.get_flag(JSON))
}

/// Looks, prints, and says with which code the process ends.
pub fn run(sources: Sources, json: bool) -> ProcessExit {
    let looked = SourceSettings::read(sources).map_err(Stop::from).and_then(|(settings, effective)| {
        telemetry::install(settings.process.log_format, "error", "check")?;
        let mut report = Report::default();
        for warning in &effective.warnings {
            report.warning("settings", warning.clone(), []);
        }
        look(&settings, &mut report);
        Ok((settings, report))
    });
    match looked {
        Ok((settings, report)) => {
            let text =
                if json { report.to_json(("sourceId", &settings.source_id)) } else { report.to_string() };
            let printed = process::print(&text);
            match report.code() {
                ExitCode::Drained => printed,
                // The code is the answer, whether or not somebody reads the words.
                code => code.into(),
            }
        }
        Err(stop) => process::complain(SERVICE, &stop),
    }
}

fn look(settings: &SourceSettings, report: &mut Report) {
    let kafka = match Kafka::connect(settings, report) {
        Ok(kafka) => Some(kafka),
        Err(stop) => {
            report.stop(Step::Kafka, "Kafka", &stop);
            None
        }
    };
    let remembered = kafka.as_ref().and_then(|kafka| kafka.look(settings, report));
    let committed = kafka.as_ref().map(|kafka| &kafka.tokens).zip(remembered.as_ref());
    let listed = mongodb::look(settings, committed, report);
    if let (Some(kafka), Some(remembered)) = (&kafka, &remembered) {
        data_topics::look(settings, kafka, remembered, listed.as_deref(), report);
    }
}

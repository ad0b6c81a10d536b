//! The command line of `snapshot`.

use std::collections::BTreeMap;

use bson::Document;
use clap::{Arg, ArgAction, ArgMatches, Command, error::ErrorKind};
use shared::{
    command_line::{flag, sources, with_settings},
    namespace::Namespace,
    settings::{Expected, Sources},
};

use crate::{cli::TABLE, settings::read_filters};

/// What was asked for.
#[derive(Debug)]
pub enum SnapshotCommand {
    Ask(AskRequest),
    Status { json: bool },
}

#[derive(Debug)]
pub struct AskRequest {
    /// In order, none twice.
    pub collections: Vec<Namespace>,
    /// By `db.coll`; of these collections only.
    pub filters: BTreeMap<String, Document>,
    /// Without it, it is only said what would be asked for.
    pub yes: bool,
}

const EXAMPLES: &str = "\
Give the source's own settings: SOURCE_ID, its scope and KAFKA_BROKERS. With MONGO_URI it is looked first whether there are
such collections; without it the source finds that out. Says what it would do, and does it with --yes.

The source need not be stopped: while it runs it begins within TOKEN_INTERVAL, and streams on. If it is stopped, it begins
at its next start. A collection may be copied again at any time once its former copy is done.

Examples:
  Copy one collection that came into scope later; first what would happen, then for good:
    source-service snapshot --source-id orders-cdc --mongo-databases shop --collection shop.returns
    source-service snapshot --source-id orders-cdc --mongo-databases shop --collection shop.returns --yes

  Only some documents of it (the file: {\"shop.orders\": {\"status\": \"open\"}}):
    source-service snapshot --config source.toml --collection shop.orders --filter-file open.json --yes

  How far is it?
    source-service snapshot status --source-id orders-cdc

Exit codes: 0 said or asked for, 69 Kafka or MongoDB cannot be reached, 75 a collection is being copied already, 78 a
collection is out of scope, does not exist, or has no change events.";

const STATUS_HELP: &str = "\
Reads Kafka only: what is committed. MONGO_URI is not needed. ETA and pace are in /status and the metrics of the source.

Examples:
  source-service snapshot status --source-id orders-cdc
  source-service snapshot status --json | jq '.collections[] | select(.state == \"copying\")'";

const COLLECTION: &str = "collection";
const FILTER_FILE: &str = "filter-file";
const YES: &str = "yes";
const DRY_RUN: &str = "dry-run";
const JSON: &str = "json";

/// The sub-command with its own one.
pub fn command() -> Command {
    let status = with_settings(Command::new("status").about("How far the copies of a source are"), TABLE)
        .arg(flag(JSON, "One JSON object"))
        .after_help(STATUS_HELP);
    with_settings(
        Command::new("snapshot")
            .about("Have a source copy collections, while it streams or at its next start"),
        TABLE,
    )
    .arg(
        Arg::new(COLLECTION)
            .long(COLLECTION)
            .required(true)
            .action(ArgAction::Append)
            .value_delimiter(',')
            .value_name("DB.COLL,…")
            .help("Collections to copy; no wildcards"),
    )
    .arg(Arg::new(FILTER_FILE).long(FILTER_FILE).value_name("FILE").help(
        "Which documents: {\"db.coll\": {a query in Extended JSON}, …}; in place of SNAPSHOT_FILTER_FILE",
    ))
    .arg(flag(YES, "Ask for it"))
    .arg(flag(DRY_RUN, "Only say what would be asked for; that is the default").conflicts_with(YES))
    .args_conflicts_with_subcommands(true)
    .subcommand_negates_reqs(true)
    .after_help(EXAMPLES)
    .subcommand(status)
}

/// What was asked, and the settings that were given with it.
///
/// # Errors
/// Names or a file that cannot be understood.
pub fn request(matches: &ArgMatches) -> Result<(SnapshotCommand, Sources), clap::Error> {
    if let Some(("status", matches)) = matches.subcommand() {
        return Ok((SnapshotCommand::Status { json: matches.get_flag(JSON) }, sources(TABLE, matches)));
    }
    let mut collections: Vec<Namespace> = Vec::new();
    for name in matches.get_many::<String>(COLLECTION).into_iter().flatten() {
        let namespace = collection(name.trim())?;
        if !collections.contains(&namespace) {
            collections.push(namespace);
        }
    }
    let filters = match matches.get_one::<String>(FILTER_FILE) {
        Some(path) => filters(path, &collections)?,
        None => BTreeMap::new(),
    };
    let ask = AskRequest { collections, filters, yes: matches.get_flag(YES) };
    Ok((SnapshotCommand::Ask(ask), sources(TABLE, matches)))
}

fn collection(name: &str) -> Result<Namespace, clap::Error> {
    match name.split_once('.') {
        Some((db, coll)) if !db.is_empty() && !coll.is_empty() && !name.contains(['*', '?']) => {
            Ok(Namespace::new(db, coll))
        }
        _ => Err(mistake(format!(
            "--collection {name:?}: expected a name as database.collection, without wildcards"
        ))),
    }
}

fn filters(path: &str, collections: &[Namespace]) -> Result<BTreeMap<String, Document>, clap::Error> {
    let filters = read_filters(path).map_err(|expected| {
        let expected = match expected {
            Expected::AsDeclared => "a file of queries".into(),
            Expected::Exactly(text) => text,
        };
        mistake(format!("--filter-file {path:?}: expected {expected}"))
    })?;
    let known = |name: &String| collections.iter().any(|collection| collection.to_string() == *name);
    match filters.keys().find(|name| !known(name)) {
        Some(name) => Err(mistake(format!("--filter-file {path:?}: {name} is not among --collection"))),
        None => Ok(filters),
    }
}

fn mistake(text: String) -> clap::Error {
    command().error(ErrorKind::InvalidValue, text)
}

//! The command line of `token`.

use clap::{Arg, ArgMatches, Command};
use shared::{
    command_line::{flag, sources, with_settings},
    settings::{Expected, Sources},
};

use crate::{cli::TABLE, start_from::StartFrom};

/// What was asked for.
#[derive(Debug)]
pub enum TokenRequest {
    Show { json: bool },
    Decode(DecodeRequest),
    Set(SetRequest),
    Check { json: bool },
}

#[derive(Debug)]
pub struct DecodeRequest {
    /// `-` for standard input.
    pub token: String,
    pub json: bool,
}

#[derive(Debug)]
pub struct SetRequest {
    pub to: StartFrom,
    /// Without it, it is only said what would be written.
    pub yes: bool,
}

const EXAMPLES: &str = "\
Examples:
  Where does source orders-cdc stand?
    source-service token show --source-id orders-cdc

  Keep its position in a file, and look into it later:
    source-service token show --source-id orders-cdc --json > position.json
    source-service token decode - < position.json

  Would a start from there still be accepted?
    source-service token check --source-id orders-cdc --mongo-databases shop

  Begin again at an instant; first what would happen, then for good:
    source-service token set --source-id orders-cdc --mongo-databases shop --to timestamp:2026-11-20T08:00:00Z
    source-service token set --source-id orders-cdc --mongo-databases shop --to timestamp:2026-11-20T08:00:00Z --yes";

const SHOW_HELP: &str = "\
Reads Kafka only: MONGO_URI is not needed. Give the source's own scope and options to see whether its token fits them.

Examples:
  source-service token show --source-id orders-cdc --mongo-databases shop
  source-service token show --source-id orders-cdc --json | jq -r .time";

const DECODE_HELP: &str = "\
Asks no server.

Examples:
  source-service token decode 8266C1F3A4000000032B0229296E04
  source-service token decode '{\"_data\":\"8266C1F3A4000000032B0229296E04\"}' --json
  source-service token show --json | source-service token decode -";

const CHECK_HELP: &str = "\
Opens the change stream that `run` with the same settings would open, at the committed position, and closes it again.
Changes nothing, and may be run beside the source.

Example:
  MONGO_URI_FILE=/run/secrets/mongo source-service token check --config source.toml

Exit codes: 0 a start would go on from there, 20 the position is lost, 77 not allowed, 78 a setting is in the way.";

const SET_HELP: &str = "\
Give the settings that the source runs with. Says what it would do, and does it with --yes: in one Kafka transaction, as
a new run of the source, so that what is read again can be told from what was read before.

Refuses (75) while a source with this id runs. One that ended in order is known not to; else the command waits for
TOKEN_INTERVAL and 25 seconds more, in which a running source would commit. One that is missed nevertheless, because it
is frozen, is fenced and ends with 22 as soon as it wakes up.

Examples:
  source-service token set --config source.toml --to now
  source-service token set --config source.toml --to timestamp:1755900000 --yes
  source-service token set --config source.toml --to \"token:$(cat position.json)\" --yes";

const JSON: &str = "json";
const TO: &str = "to";
const YES: &str = "yes";
const DRY_RUN: &str = "dry-run";
const TOKEN: &str = "token";

/// The sub-command with its own sub-commands.
pub fn command() -> Command {
    let json = || flag(JSON, "One JSON object");
    let show = with_settings(Command::new("show").about("The committed position of a source"), TABLE)
        .arg(json())
        .after_help(SHOW_HELP);
    let decode = Command::new("decode")
        .about("The time inside a resume token")
        .arg(Arg::new(TOKEN).required(true).value_name("TOKEN").help(
            "The JSON of the whole document, or the hexadecimal digits of its _data; - for standard input",
        ))
        .arg(json())
        .after_help(DECODE_HELP);
    let set =
        with_settings(Command::new("set").about("Move the position of a source that is stopped"), TABLE)
            .arg(
                Arg::new(TO)
                    .long(TO)
                    .required(true)
                    .value_name("POSITION")
                    .help("now, timestamp:<RFC 3339 or seconds> or token:<resume token>"),
            )
            .arg(flag(YES, "Write it"))
            .arg(flag(DRY_RUN, "Only say what would be written; that is the default").conflicts_with(YES))
            .after_help(SET_HELP);
    let check = with_settings(
        Command::new("check").about("Whether MongoDB would still take the committed position"),
        TABLE,
    )
    .arg(json())
    .after_help(CHECK_HELP);
    Command::new("token")
        .about("A source's position: look at it, try it, move it")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .after_help(EXAMPLES)
        .subcommands([show, decode, set, check])
}

/// What was asked, and the settings that were given with it.
///
/// # Errors
/// A position that cannot be understood.
pub fn request(matches: &ArgMatches) -> Result<(TokenRequest, Sources), clap::Error> {
    let Some((name, matches)) = matches.subcommand() else {
        return Err(command().error(clap::error::ErrorKind::MissingSubcommand, "a command is needed"));
    };
    let text = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
    let request = match name {
        "show" => TokenRequest::Show { json: matches.get_flag(JSON) },
        "check" => TokenRequest::Check { json: matches.get_flag(JSON) },
        "decode" => TokenRequest::Decode(DecodeRequest { token: text(TOKEN), json: matches.get_flag(JSON) }),
        _ => TokenRequest::Set(SetRequest { to: position(&text(TO))?, yes: matches.get_flag(YES) }),
    };
    // `decode` has no settings.
    let sources = if name == "decode" { Sources::default() } else { sources(TABLE, matches) };
    Ok((request, sources))
}

fn position(text: &str) -> Result<StartFrom, clap::Error> {
    let parsed = match StartFrom::parse(text.trim()) {
        // A snapshot belongs to a first start: here nothing would be copied.
        Ok(StartFrom::Snapshot) => Err(Expected::AsDeclared),
        parsed => parsed,
    };
    parsed.map_err(|expected| {
        let expected = match expected {
            Expected::AsDeclared => "now, timestamp:<RFC 3339 or seconds> or token:<resume token>".into(),
            Expected::Exactly(text) => text,
        };
        command().error(clap::error::ErrorKind::InvalidValue, format!("--to {text:?}: expected {expected}"))
    })
}

//! The command line. The flags come from the table of settings.

use std::ffi::OsString;

use clap::Command;
use shared::{
    command_line::{ConfigRequest, config_command, config_request, flag, sources, with_settings},
    settings::{Sources, Table},
};

use crate::{
    check,
    monitor::{self, MonitorRequest},
    settings::CATALOGUE,
    snapshot_command::{self, SnapshotCommand},
    token::{self, TokenRequest},
};

pub(crate) const TABLE: Table = CATALOGUE.table;

/// The program's name.
pub const SERVICE: &str = "source-service";

/// What was asked for.
#[derive(Debug)]
pub enum Request {
    Run { sources: Sources, until_end: bool },
    Check { sources: Sources, json: bool },
    Monitor { sources: Sources, request: MonitorRequest },
    Token { sources: Sources, request: TokenRequest },
    Snapshot { sources: Sources, request: SnapshotCommand },
    Config(ConfigRequest),
}

const UNTIL_END: &str = "until-end";

const EXAMPLES: &str = "\
Examples:
  Read one database into a local Kafka:
    MONGO_URI='mongodb://localhost:27017/?replicaSet=rs0' KAFKA_BROKERS=localhost:9092 \\
      source-service run --mongo-databases shop

  Settings from a file, secrets from files:
    MONGO_URI_FILE=/run/secrets/mongo source-service run --config source.toml

  Is everything there that a start needs?
    source-service check --config source.toml

  What holds, and where it came from:
    source-service config show

Exit codes: 0 drained, 20 position lost, 22 fenced by another instance, 64 usage, 69 dependency unreachable at start,
75 temporary, 77 not allowed, 78 configuration, 1 a defect of ours.";

/// The whole command line.
pub fn command() -> Command {
    Command::new(SERVICE)
        .version(env!("CARGO_PKG_VERSION"))
        .about("Reads MongoDB's change stream into Kafka, every change exactly once")
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            with_settings(
                Command::new("run").about("Read changes until a signal ends it").after_help(EXAMPLES),
                TABLE,
            )
            .arg(flag(
                UNTIL_END,
                "End by itself when everything is published that MongoDB has committed at the start",
            )),
        )
        .subcommand(check::command())
        .subcommand(monitor::command())
        .subcommand(token::command())
        .subcommand(snapshot_command::command())
        .subcommand(config_command(TABLE))
}

/// # Errors
/// What clap prints, help and version included.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    match matches.subcommand() {
        Some(("run", matches)) => {
            Ok(Request::Run { sources: sources(TABLE, matches), until_end: matches.get_flag(UNTIL_END) })
        }
        Some(("check", matches)) => {
            let (sources, json) = check::request(matches);
            Ok(Request::Check { sources, json })
        }
        Some(("monitor", matches)) => {
            let (request, sources) = monitor::request(matches)?;
            Ok(Request::Monitor { sources, request })
        }
        Some(("token", matches)) => {
            let (request, sources) = token::request(matches)?;
            Ok(Request::Token { sources, request })
        }
        Some(("snapshot", matches)) => {
            let (request, sources) = snapshot_command::request(matches)?;
            Ok(Request::Snapshot { sources, request })
        }
        Some(("config", matches)) => Ok(Request::Config(config_request(TABLE, matches))),
        _ => Err(command().error(clap::error::ErrorKind::MissingSubcommand, "a command is needed")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn flags_are_settings() {
        let line = ["source-service", "run", "--source-id", "orders"].map(OsString::from);
        let Request::Run { sources, until_end: false } = parse(line).unwrap() else { panic!("not run") };
        assert_eq!(sources.flags.get("SOURCE_ID").map(String::as_str), Some("orders"));
    }

    #[test]
    fn a_position_to_set_is_understood_before_anything_is_asked() {
        let parse = |line: &[&str]| parse(line.iter().map(OsString::from));
        let set = ["source-service", "token", "set", "--source-id", "orders", "--to", "timestamp:7"];
        let Request::Token { sources, request: TokenRequest::Set(set) } = parse(&set).unwrap() else {
            panic!("not set")
        };
        assert_eq!(sources.flags.get("SOURCE_ID").map(String::as_str), Some("orders"));
        assert!(!set.yes);
        let error = parse(&["source-service", "token", "set", "--to", "yesterday"]).unwrap_err();
        assert!(error.to_string().contains("expected now, timestamp:"), "{error}");
        assert!(parse(&["source-service", "token", "decode", "82"]).is_ok());
    }

    #[test]
    fn collections_to_copy_are_named_or_the_state_is_asked_for() {
        let parse = |line: &[&str]| {
            let line = ["source-service", "snapshot"].iter().chain(line).map(OsString::from);
            parse(line).map(|request| match request {
                Request::Snapshot { request, .. } => request,
                _ => panic!("not snapshot"),
            })
        };
        let Ok(SnapshotCommand::Ask(ask)) = parse(&["--collection", "shop.a,shop.b.c", "--yes"]) else {
            panic!("not ask")
        };
        assert_eq!(
            ask.collections.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["shop.a", "shop.b.c"]
        );
        assert!(ask.yes);
        assert!(matches!(parse(&["status", "--json"]), Ok(SnapshotCommand::Status { json: true })));
        for wrong in [&[][..], &["--collection", "shop"], &["--collection", "sh*p.a"], &["--collection", ""]]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn secrets_have_no_flag() {
        let line = ["source-service", "run", "--mongo-uri", "mongodb://a:b@c"].map(OsString::from);
        assert!(parse(line).is_err());
    }
}

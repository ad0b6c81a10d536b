//! The command line. The flags come from the table of settings.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Command};
use shared::{
    command_line::{ConfigRequest, config_command, config_request, flag, sources, with_settings},
    settings::{Sources, Table},
};

use crate::{settings::CATALOGUE, verify::Output};

const TABLE: Table = CATALOGUE.table;

/// What was asked for.
#[derive(Debug)]
pub enum Request {
    Run(Sources),
    Verify { sources: Sources, verify: VerifyRequest },
    Config(ConfigRequest),
}

/// What `verify` is to compare, and how to show it.
#[derive(Debug)]
pub struct VerifyRequest {
    /// Empty for all.
    pub topics: Vec<String>,
    pub drained: bool,
    /// `None`: a table on a terminal and in a pipe alike.
    pub output: Output,
}

const RUN_EXAMPLES: &str = "\
Examples:
  All topics under the prefix into a local directory:
    KAFKA_BROKERS=localhost:9092 LAKE_URL=file:///var/lake sink-service run

  Into Azure Data Lake Storage, the key from a file:
    LAKE_URL=abfss://lake@account.dfs.core.windows.net/raw LAKE_AUTH=shared-key \\
      ADLS_SHARED_KEY_FILE=/run/secrets/key sink-service run --config sink.toml

  Start as many as there are partitions: they share them.";

const VERIFY_EXAMPLES: &str = "\
Examples:
  Everything, as a table:
    sink-service verify --all

  One topic, for a script; every record of Kafka's must be in the lake by now:
    sink-service verify --topic atlas.shop.orders --drained --json

Reads Kafka and the lake, writes nothing, and leaves the live sinks' offsets alone.
Exit code 0 if everything agrees, 25 if it does not.";

const EXIT_CODES: &str = "\
Exit codes: 0 drained, 21 offset gap, 22 fenced, 23 topic is not the one we wrote, 25 lake differs, 64 usage,
69 dependency unreachable at start, 75 temporary, 77 not allowed, 78 configuration, 1 a defect of ours.";

/// The whole command line.
pub fn command() -> Command {
    let verify =
        with_settings(Command::new("verify").about("Compare the lake with Kafka, record by record"), TABLE)
            .arg(flag("all", "Every data topic under the prefix").conflicts_with("topic"))
            .arg(
                Arg::new("topic")
                    .long("topic")
                    .value_name("TOPIC")
                    .action(ArgAction::Append)
                    .required_unless_present("all")
                    .help("A topic to compare; may be given several times"),
            )
            .arg(flag("drained", "A record in Kafka that is not in the lake yet is a difference"))
            .arg(flag("json", "One JSON object instead of a table"))
            .after_help(VERIFY_EXAMPLES);
    Command::new("sink-service")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Writes Kafka topics as hourly files to a data lake, every record exactly once")
        .after_help(EXIT_CODES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            with_settings(Command::new("run").about("Write records until a signal ends it"), TABLE)
                .after_help(format!("{RUN_EXAMPLES}\n\n{EXIT_CODES}")),
        )
        .subcommand(verify)
        .subcommand(config_command(TABLE))
}

/// # Errors
/// What clap prints, help and version included.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    match matches.subcommand() {
        Some(("run", matches)) => Ok(Request::Run(sources(TABLE, matches))),
        Some(("verify", matches)) => {
            Ok(Request::Verify { sources: sources(TABLE, matches), verify: verify(matches) })
        }
        Some(("config", matches)) => Ok(Request::Config(config_request(TABLE, matches))),
        _ => Err(command().error(clap::error::ErrorKind::MissingSubcommand, "a command is needed")),
    }
}

fn verify(matches: &ArgMatches) -> VerifyRequest {
    VerifyRequest {
        topics: matches.get_many::<String>("topic").into_iter().flatten().cloned().collect(),
        drained: matches.get_flag("drained"),
        output: if matches.get_flag("json") { Output::Json } else { Output::Human },
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
    fn verify_needs_to_know_what() {
        let parse = |line: &[&str]| parse(line.iter().map(OsString::from));
        assert!(parse(&["sink-service", "verify"]).is_err());
        let Request::Verify { verify, .. } =
            parse(&["sink-service", "verify", "--topic", "a", "--topic", "b"]).unwrap()
        else {
            panic!("not verify")
        };
        assert_eq!(verify.topics, ["a", "b"]);
    }

    #[test]
    fn secrets_have_no_flag() {
        let line = ["sink-service", "run", "--adls-shared-key", "x"].map(OsString::from);
        assert!(parse(line).is_err());
    }
}

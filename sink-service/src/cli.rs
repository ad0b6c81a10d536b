//! The command line. The flags come from the table of settings.

use std::{collections::BTreeSet, ffi::OsString};

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};
use shared::{
    command_line::{ConfigRequest, config_command, config_request, flag, sources, with_settings},
    settings::{Sources, Table},
};

use crate::{
    check::{check_command, check_request},
    compare::{CompareRequest, compare_command, compare_request},
    dlq::{DlqRequest, dlq_command, dlq_request},
    expire::{ExpireRequest, expire_command, expire_request},
    export::{ExportRequest, export_command, export_request},
    replay::ReplayRequest,
    settings::CATALOGUE,
    span::{Span, span_of, topic_argument, topics_of, with_closed_hours, with_hours},
    verify::{Delivery, Output},
};

const TABLE: Table = CATALOGUE.table;

/// What was asked for.
#[derive(Debug)]
pub enum Request {
    Run {
        sources: Sources,
        run: RunRequest,
    },
    Check {
        sources: Sources,
        json: bool,
    },
    /// `compare`: after it, if `--source` is given.
    Verify {
        sources: Sources,
        verify: VerifyRequest,
        compare: Option<CompareRequest>,
    },
    Compare {
        sources: Sources,
        compare: CompareRequest,
    },
    Replay {
        sources: Sources,
        replay: ReplayRequest,
    },
    Dlq {
        sources: Sources,
        dlq: DlqRequest,
    },
    Export {
        sources: Sources,
        export: ExportRequest,
    },
    Expire {
        sources: Sources,
        expire: ExpireRequest,
    },
    Config(ConfigRequest),
}

/// What `run` is told beside the settings.
#[derive(Debug)]
pub struct RunRequest {
    /// Topics of which records that Kafka no longer has are given up.
    pub accepted_gaps: BTreeSet<String>,
    /// End when each partition has reached the end that it had at its assignment.
    pub until_end: bool,
}

/// What `verify` is to compare, and how to show it.
#[derive(Debug)]
pub struct VerifyRequest {
    /// Empty for all.
    pub topics: Vec<String>,
    pub span: Span,
    pub drained: bool,
    pub delivery: Delivery,
    /// Heads that are missing are made again first.
    pub restore_heads: bool,
    pub output: Output,
}

const UNTIL_END: &str = "until-end";

/// Paragraphs have no line breaks of their own: clap wraps them.
const RUN_EXAMPLES: &str = "\
Examples:
  All topics under the prefix into a local directory:
    KAFKA_BROKERS=localhost:9092 LAKE_URL=file:///var/lake sink-service run

  Into Azure Data Lake Storage, the key from a file:
    LAKE_URL=abfss://lake@account.dfs.core.windows.net/raw LAKE_AUTH=shared-key \\
      ADLS_SHARED_KEY_FILE=/run/secrets/key sink-service run --config sink.toml

  Start as many as there are partitions: they share them.

  Go on after exit code 21, without what is lost; it is written down in the lake, and `verify` names it:
    sink-service run --accept-gap atlas.shop.orders

  From a schedule, or once: what Kafka holds now, then 0; what comes later is for the next run:
    sink-service run --until-end

With --until-end each partition has its end taken once, when this sink is given it, transactions that are \
open there included: those are waited for. The sink ends when everything before all of its ends is in the \
lake; with PUBLISH=sealed that ends the files, too. What was read behind the ends by then is written as \
after SIGTERM. Several sinks share the work, and each ends when its own part is done: everything is in the \
lake when all of them have ended with 0. After a signal that comes before the end it is 75. A sink that is given no partition ends within SHUTDOWN_TIMEOUT; \
with KAFKA_GROUP_PROTOCOL=consumer it waits for one, or a signal. No run waits for hours to close: that is \
for a sink that goes on.";

const VERIFY_EXAMPLES: &str = "\
Examples:
  Everything, as a table:
    sink-service verify --all

  One topic, for a script; every record of Kafka's must be in the lake by now:
    sink-service verify --topic atlas.shop.orders --drained --json

  Yesterday, from a schedule; the chain is checked as a whole, records and lines of that day:
    sink-service verify --day 2026-11-20 --json

  `_chain/` lost a head, and the sink ends with 25:
    sink-service verify --topic atlas.shop.orders --restore-head

Reads Kafka and the lake, writes nothing but the heads that --restore-head asks for, and leaves the live sinks' offsets alone.
Exit code 0 if everything agrees, 25 if it does not.";

/// Paragraphs have no line breaks of their own: clap wraps them. Commands have, so that they can be pasted.
const REPLAY_EXAMPLES: &str = "\
Examples:
  What a day's files would be made of; nothing is written:
    sink-service replay --topic atlas.shop.orders --day 2026-11-20 --dry-run

  The day again, from Kafka:
    sink-service replay --topic atlas.shop.orders --day 2026-11-20

  Two hours of it; a longer time; the whole topic:
    sink-service replay --topic atlas.shop.orders --day 2026-11-20 --hour 7 --hour 8
    sink-service replay --topic atlas.shop.orders \\
      --from 2026-11-18T00:00:00Z --to 2026-11-21T00:00:00Z
    sink-service replay --topic atlas.shop.orders --all

  A copy elsewhere, the lake itself stays as it is:
    sink-service replay --topic atlas.shop.orders --day 2026-11-20 --into file:///tmp/copy

  The lake is lost and the topic is not: LAKE_URL is an empty place then:
    sink-service replay --topic atlas.shop.orders --day 2026-11-20 --into file:///tmp/copy

  Another form, for those who follow the manifests; the files that are there stay:
    sink-service replay --topic atlas.shop.orders --day 2026-11-20 --reformat \\
      --compression zstd --line-format flat --roll-bytes 1GiB

Only hours that have closed. Each file is made again in its place and in one step, so readers see every \
row once at every moment, and the live sink goes on. It may be stopped at any time and typed again.

Exit code 21: Kafka no longer has all of it, and nothing was changed.";

const EXIT_CODES: &str = "\
Exit codes: 0 drained, 21 offset gap, 22 fenced, 23 topic is not the one we wrote, 25 lake differs, \
26 dead-letter breaker open, 64 usage, 69 dependency unreachable at start, 75 temporary, \
77 not allowed, 78 configuration, 1 a defect of ours.";

/// The whole command line.
pub fn command() -> Command {
    let verify =
        with_settings(Command::new("verify").about("Compare the lake with Kafka, record by record"), TABLE)
            .arg(
                flag("all", "Every data topic under the prefix, and every hour")
                    .conflicts_with_all(["topic", "day", "from"]),
            )
            .arg(topic_argument());
    let verify = with_hours(verify)
        .group(ArgGroup::new("what").args(["all", "topic", "day", "from"]).multiple(true).required(true))
        .arg(flag("drained", "A record in Kafka that is not in the lake yet is a difference"))
        .arg(flag(
            "at-least-once",
            "The sources deliver at least once: rows of a snapshot may come twice, and are only counted",
        ))
        .arg(
            flag(
                "restore-head",
                "First make heads again that were lost, from the files (after exit code 25)",
            )
            .requires("topic"),
        )
        .arg(flag(
            "source",
            "Then compare the lake with MongoDB, as `compare` does: whole topics, whatever the hours",
        ))
        .arg(flag("json", "One JSON object instead of a table; with --source a second one"))
        .after_help(VERIFY_EXAMPLES);
    Command::new("sink-service")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Writes Kafka topics as hourly files to a data lake, every record exactly once")
        .after_help(EXIT_CODES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            with_settings(Command::new("run").about("Write records until a signal ends it"), TABLE)
                .arg(
                    Arg::new("accept-gap")
                        .long("accept-gap")
                        .value_name("TOPIC")
                        .action(ArgAction::Append)
                        .help("Give up records of this topic that Kafka no longer has; may be given several times"),
                )
                .arg(flag(
                    UNTIL_END,
                    "End by itself when everything is in the lake that each partition held when it was assigned",
                ))
                .after_help(format!("{RUN_EXAMPLES}\n\n{EXIT_CODES}")),
        )
        .subcommand(check_command(TABLE))
        .subcommand(without(verify, &OF_RUN_AND_REPLAY))
        .subcommand(without(compare_command(TABLE), &OF_RUN_AND_REPLAY))
        .subcommand(without(replay_command(), &[]))
        .subcommand(without(dlq_command(TABLE), &OF_RUN_AND_REPLAY))
        .subcommand(without(export_command(TABLE), &OF_RUN_AND_REPLAY))
        .subcommand(without(expire_command(TABLE), &OF_RUN_AND_REPLAY))
        .subcommand(config_command(TABLE))
}

/// # Errors
/// What clap prints, help and version included.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    match matches.subcommand() {
        Some(("run", matches)) => {
            let accepted = matches.get_many::<String>("accept-gap").into_iter().flatten().cloned();
            let run =
                RunRequest { accepted_gaps: accepted.collect(), until_end: matches.get_flag(UNTIL_END) };
            Ok(Request::Run { sources: sources(TABLE, matches), run })
        }
        Some(("check", matches)) => {
            let (sources, json) = check_request(TABLE, matches);
            Ok(Request::Check { sources, json })
        }
        Some(("verify", matches)) => {
            let sources = sources(TABLE, matches);
            Ok(Request::Verify { sources, verify: verify(matches), compare: comparison_after(matches) })
        }
        Some(("compare", matches)) => {
            Ok(Request::Compare { sources: sources(TABLE, matches), compare: compare_request(matches) })
        }
        Some(("replay", matches)) => {
            Ok(Request::Replay { sources: sources(TABLE, matches), replay: replay(matches) })
        }
        Some(("dlq", matches)) => {
            let (sources, dlq) = dlq_request(TABLE, matches);
            Ok(Request::Dlq { sources, dlq })
        }
        Some(("export", matches)) => {
            let (sources, export) = export_request(TABLE, matches);
            Ok(Request::Export { sources, export })
        }
        Some(("expire", matches)) => {
            let (sources, expire) = expire_request(TABLE, matches, chrono::Utc::now());
            Ok(Request::Expire { sources, expire })
        }
        Some(("config", matches)) => Ok(Request::Config(config_request(TABLE, matches))),
        _ => Err(command().error(clap::error::ErrorKind::MissingSubcommand, "a command is needed")),
    }
}

/// Only a sink that runs goes by these. The other commands take them, so that one file of settings serves all, and do not show them.
const OF_RUN_ALONE: [&str; 14] = [
    "ADMIN_ADDR",
    "ALLOW_VERSIONED",
    "DLQ_MAX_RATIO",
    "FLUSH_BYTES",
    "FLUSH_INTERVAL",
    "FLUSH_ROWS",
    "GROUP_INSTANCE_ID",
    "KAFKA_GROUP_PROTOCOL",
    "ROLL_AGE",
    "SHUTDOWN_TIMEOUT",
    "SINK_EXCLUDE",
    "SINK_TOPICS",
    "START_AT",
    "UPLOAD_CONCURRENCY",
];

/// `replay` writes files of the lake, too, and without a chain it asks which hours are over.
const OF_RUN_AND_REPLAY: [&str; 6] =
    ["COMPRESSION", "HOUR_GRACE", "LINE_FORMAT", "PUBLISH", "ROLL_BYTES", "ROLL_ROWS"];

/// The command, and its sub-commands, without settings in `--help` that say nothing to it.
fn without(command: Command, also: &[&str]) -> Command {
    let is_silent = |arg: &Arg| {
        let id = arg.get_id().as_str();
        OF_RUN_ALONE.contains(&id) || also.contains(&id)
    };
    command
        .mut_args(|arg| if is_silent(&arg) { arg.hide(true) } else { arg })
        .mut_subcommands(|command| without(command, also))
}

fn replay_command() -> Command {
    let command = Command::new("replay").about("Make closed hours of the lake again from Kafka");
    with_closed_hours(with_settings(command, TABLE))
        .arg(
            Arg::new("into")
                .long("into")
                .value_name("LAKE_URL")
                .help("Write the files into this lake instead"),
        )
        .arg(
            flag(
                "reformat",
                "Leave the files, and make new ones beside them as COMPRESSION, LINE_FORMAT and ROLL_* say",
            )
            .conflicts_with("into"),
        )
        .arg(flag("dry-run", "Show what would be done, and end"))
        .arg(flag("json", "JSON objects instead of tables: the plan, then the result"))
        .after_help(REPLAY_EXAMPLES)
}

fn replay(matches: &ArgMatches) -> ReplayRequest {
    ReplayRequest {
        topics: topics_of(matches),
        span: span_of(matches),
        into: matches.get_one::<String>("into").cloned(),
        reformat: matches.get_flag("reformat"),
        dry_run: matches.get_flag("dry-run"),
        output: Output::asked_for(matches),
    }
}

/// What `verify --source` compares: the topics that it verifies, whole.
fn comparison_after(matches: &ArgMatches) -> Option<CompareRequest> {
    matches.get_flag("source").then(|| CompareRequest::whole(topics_of(matches), Output::asked_for(matches)))
}

fn verify(matches: &ArgMatches) -> VerifyRequest {
    VerifyRequest {
        topics: topics_of(matches),
        span: span_of(matches),
        drained: matches.get_flag("drained"),
        delivery: if matches.get_flag("at-least-once") {
            Delivery::AtLeastOnce
        } else {
            Delivery::ExactlyOnce
        },
        restore_heads: matches.get_flag("restore-head"),
        output: Output::asked_for(matches),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::event_hour::EventHour;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn a_run_ends_by_itself_only_if_it_is_told_to() {
        let until_end = |line: &[&str]| match parse(line.iter().map(OsString::from)) {
            Ok(Request::Run { run, .. }) => run.until_end,
            other => panic!("{other:?}"),
        };
        assert!(!until_end(&["sink-service", "run"]));
        assert!(until_end(&["sink-service", "run", "--until-end"]));
    }

    #[test]
    fn help_shows_what_matters_to_the_command() {
        for id in OF_RUN_ALONE.iter().chain(&OF_RUN_AND_REPLAY) {
            assert!(TABLE.iter().any(|setting| setting.name == *id), "{id} is no setting");
        }
        let help = |path: &[&str]| {
            let mut command = command();
            for name in path {
                command = command.find_subcommand(name).unwrap().clone();
            }
            command.render_help().to_string()
        };
        for path in [&["verify"][..], &["compare"], &["dlq", "list"], &["export", "parquet"], &["expire"]] {
            let help = help(path);
            assert!(help.contains("--lake-url") && !help.contains("--flush-interval"), "{help}");
            assert!(!help.contains("--compression"), "{help}");
        }
        let replay = help(&["replay"]);
        assert!(replay.contains("--compression") && replay.contains("--hour-grace"), "{replay}");
        assert!(help(&["run"]).contains("--flush-interval") && help(&["check"]).contains("--flush-interval"));
        // One that is not shown is taken all the same.
        let line = ["sink-service", "verify", "--all", "--flush-interval", "5s"].map(OsString::from);
        assert!(parse(line).is_ok());
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
        assert_eq!(
            (verify.topics.as_slice(), verify.span),
            (&["a".to_owned(), "b".to_owned()][..], Span::All)
        );
        for (line, right) in [
            ("--day 2026-11-20", true),
            ("--topic a --day 2026-11-20 --hour 7", true),
            ("--from 2026-11-20T07:00:00Z --to 2026-11-20T08:00:00Z", true),
            ("--hour 7", false),
            ("--all --day 2026-11-20", false),
            ("--day 2026-11-20 --from 2026-11-20T07:00:00Z --to 2026-11-20T08:00:00Z", false),
        ] {
            let line: Vec<&str> = ["sink-service", "verify"].into_iter().chain(line.split(' ')).collect();
            assert_eq!(parse(&line).is_ok(), right, "{line:?}");
        }
    }

    #[test]
    fn replay_needs_one_span() {
        let parse = |line: &str| parse(format!("sink-service replay {line}").split(' ').map(OsString::from));
        for refused in [
            "--topic a",
            "--day 2026-11-20",
            "--topic a --day 2026-11-20 --all",
            "--topic a --hour 7",
            "--topic a --day 2026-11-20 --hour 24",
            "--topic a --day 20.11.2026",
            "--topic a --from 2026-11-20T07:00:00Z",
            "--topic a --all --reformat --into file:///tmp/copy",
            "--topic a --from 2026-11-20T07:00:00Z --to 2026-11-20T08:30:00Z",
        ] {
            assert!(parse(refused).is_err(), "{refused}");
        }
        let span = |line: &str| match parse(line) {
            Ok(Request::Replay { replay, .. }) => replay.span,
            other => panic!("{line}: {other:?}"),
        };
        let hour = |text: &str| EventHour::try_from(text.to_owned()).unwrap();
        let day = span("--topic a --day 2026-11-20 --hour 7 --hour 9");
        assert!(day.contains(hour("2026-11-20T07:00:00Z")) && !day.contains(hour("2026-11-20T08:00:00Z")));
        let between = span("--topic a --from 2026-11-20T07:00:00+01:00 --to 2026-11-20T08:00:00Z");
        assert!(
            between.contains(hour("2026-11-20T06:00:00Z")) && between.contains(hour("2026-11-20T07:00:00Z"))
        );
        assert!(!between.contains(hour("2026-11-20T08:00:00Z")));
        assert_eq!(span("--topic a --all"), Span::All);
    }

    #[test]
    fn an_export_needs_a_place() {
        let parse = |line: &str| parse(line.split(' ').map(OsString::from));
        assert!(parse("sink-service export parquet --topic a --day 2026-11-20").is_err());
        assert!(parse("sink-service export --topic a --day 2026-11-20 --into file:///x").is_err());
        assert!(parse("sink-service export parquet --topic a --into file:///x").is_err());
        match parse("sink-service export parquet --topic a --all --into file:///x --json").unwrap() {
            Request::Export { export, .. } => assert_eq!((export.span, export.dry_run), (Span::All, false)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn secrets_have_no_flag() {
        let line = ["sink-service", "run", "--adls-shared-key", "x"].map(OsString::from);
        assert!(parse(line).is_err());
    }
}

//! The command line of `dlq`.

use std::{io::IsTerminal as _, path::PathBuf};

use chrono::{DateTime, Utc};
use clap::{
    Arg, ArgAction, ArgGroup, ArgMatches, Command,
    builder::{PossibleValuesParser, TypedValueParser as _},
};
use shared::{
    command_line::{flag, sources, with_settings},
    dead_letter::DeadLetterReason,
    settings::{Sources, Table},
};

use super::{Action, DlqRequest, Filter, Output, filter::State};

/// Paragraphs have no line breaks of their own: clap wraps them.
const LIST_EXAMPLES: &str = "\
Examples:
  Everything that waits for a decision:
    sink-service dlq list --state open

  Of one topic, since this morning, for a script:
    sink-service dlq list --topic atlas.shop.orders --from 2026-11-26T06:00:00Z --json

A table on a terminal, columns between tabs in a pipe. States: open (in no file of the lake), not-settled (the sink has not moved past \
it), void (the lake holds it as a row), retried, dropped, unknown (no chain says it).";

const SHOW_EXAMPLES: &str = "\
Examples:
  One letter with its headers:
    sink-service dlq show --key atlas.shop.orders/0/17

  Its value, byte for byte, to be repaired:
    sink-service dlq show --key atlas.shop.orders/0/17 --value > letter.json";

const RETRY_EXAMPLES: &str = "\
Examples:
  What would be sent; nothing is written:
    sink-service dlq retry --topic atlas.shop.orders --reason unknown-schema

  Send it back to its topic:
    sink-service dlq retry --topic atlas.shop.orders --reason unknown-schema --yes

  One letter with a repaired value:
    sink-service dlq retry --key atlas.shop.orders/0/17 --with-value letter.json --yes

Key, value, headers and time are the original ones, so the row lands in its own hour. Record and marker are one transaction: it may be \
stopped at any time and typed again, and two at once do no harm (the first ends with 22). Only open letters are sent, and of those only what \
this version can write; the others are named with the reason. What is in an hour that a `replay` is making again is not sent (75).";

const DROP_EXAMPLES: &str = "\
Examples:
  What would be marked; nothing is written:
    sink-service dlq drop --reason not-an-object --because 'health checks of the old producer'

  Mark it:
    sink-service dlq drop --reason not-an-object --because 'health checks of the old producer' --yes

The letter stays until the topic's retention ends, as dropped.";

/// `dlq` and its own commands.
pub fn dlq_command(table: Table) -> Command {
    let command = |name: &'static str, about: &'static str, examples: &'static str| {
        with_filter(with_settings(Command::new(name).about(about), table))
            .arg(flag("json", "One JSON object a line"))
            .after_help(examples)
    };
    let changes = |command: Command| {
        command
            .arg(flag("all", "Every open letter"))
            .arg(flag("yes", "Do it; without this only the plan is shown"))
            .group(
                ArgGroup::new("which")
                    .args(["key", "reason", "topic", "from", "to", "all"])
                    .multiple(true)
                    .required(true),
            )
    };
    let retry = command("retry", "Send letters back to their topics", RETRY_EXAMPLES).arg(
        Arg::new("with-value")
            .long("with-value")
            .value_name("FILE")
            .requires("key")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Send the bytes of this file in place of the value; for one letter"),
    );
    let drop = command("drop", "Mark letters as not wanted", DROP_EXAMPLES).arg(
        Arg::new("because")
            .long("because")
            .value_name("TEXT")
            .required(true)
            .help("Why, for those who come after"),
    );
    Command::new("dlq")
        .about("Look at dead letters, send them back, or give them up")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(command("list", "Show letters, one a line", LIST_EXAMPLES).arg(state_filter()))
        .subcommand(
            command("show", "Show letters with their headers and values", SHOW_EXAMPLES)
                .arg(state_filter())
                .arg(flag("value", "Only the value, as it is").requires("key").conflicts_with("json"))
                .group(
                    ArgGroup::new("which")
                        .args(["key", "reason", "topic", "from", "to", "state"])
                        .multiple(true)
                        .required(true),
                ),
        )
        .subcommand(changes(retry))
        .subcommand(changes(drop))
}

fn with_filter(command: Command) -> Command {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).action(ArgAction::Append).help(help)
    };
    let time = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("TIME").value_parser(instant).help(help)
    };
    let reasons = DeadLetterReason::ALL.map(DeadLetterReason::as_str);
    command
        .arg(text("key", "KEY", "This letter; may be given several times"))
        .arg(
            text("reason", "REASON", "Of this reason; may be given several times")
                .value_parser(PossibleValuesParser::new(reasons)),
        )
        .arg(text("topic", "TOPIC", "Of a record of this topic; may be given several times"))
        .arg(time("from", "Failed at this time or later, RFC 3339"))
        .arg(time("to", "Failed before this time, RFC 3339"))
}

fn state_filter() -> Arg {
    let states = PossibleValuesParser::new(State::ALL.map(State::as_str));
    Arg::new("state")
        .long("state")
        .value_name("STATE")
        .action(ArgAction::Append)
        .value_parser(states.map(|text| {
            let state = State::ALL.into_iter().find(|state| state.as_str() == text);
            state.expect("the parser lets only states through")
        }))
        .help("In this state; may be given several times")
}

fn instant(text: &str) -> Result<DateTime<Utc>, &'static str> {
    let at = DateTime::parse_from_rfc3339(text);
    at.map(|at| at.to_utc()).map_err(|_| "expected a time in RFC 3339, such as 2026-11-20T07:30:00Z")
}

/// What `matches` of [`dlq_command`] ask for.
///
/// # Panics
/// If they are of another command.
pub fn dlq_request(table: Table, matches: &ArgMatches) -> (Sources, DlqRequest) {
    let (name, matches) = matches.subcommand().expect("clap demands one");
    let path = |name| matches.get_one::<PathBuf>(name).cloned();
    let action = match name {
        "list" => Action::List,
        "show" => Action::Show { value_only: matches.get_flag("value") },
        "retry" => Action::Retry { yes: matches.get_flag("yes"), with_value: path("with-value") },
        "drop" => Action::Drop {
            yes: matches.get_flag("yes"),
            because: matches.get_one::<String>("because").cloned().unwrap_or_default(),
        },
        other => unreachable!("clap knows no dlq {other}"),
    };
    let texts = |name| matches.get_many::<String>(name).into_iter().flatten().cloned().collect();
    let time = |name| matches.get_one::<DateTime<Utc>>(name).copied();
    let states = match action {
        Action::List | Action::Show { .. } => matches.get_many::<State>("state"),
        Action::Retry { .. } | Action::Drop { .. } => None,
    };
    let filter = Filter {
        keys: texts("key"),
        reasons: texts("reason"),
        topics: texts("topic"),
        from: time("from"),
        to: time("to"),
        states: states.into_iter().flatten().copied().collect(),
    };
    let output = match (matches.get_flag("json"), std::io::stdout().is_terminal()) {
        (true, _) => Output::Json,
        (false, true) => Output::Table,
        (false, false) => Output::Lines,
    };
    (sources(table, matches), DlqRequest { action, filter, output })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_writes_needs_to_know_what_and_why() {
        let parse =
            |line: &str| dlq_command(crate::settings::CATALOGUE.table).try_get_matches_from(line.split(' '));
        for refused in [
            "dlq",
            "dlq show",
            "dlq retry",
            "dlq retry --yes",
            "dlq retry --all --with-value x",
            "dlq drop --all",
            "dlq list --reason nothing",
            "dlq list --from yesterday",
            "dlq show --topic a --value",
        ] {
            assert!(parse(refused).is_err(), "{refused}");
        }
        let request = |line: &str| dlq_request(crate::settings::CATALOGUE.table, &parse(line).unwrap()).1;
        let retry = request("dlq retry --reason empty --reason oversize");
        assert_eq!(retry.action, Action::Retry { yes: false, with_value: None });
        assert_eq!(retry.filter.reasons, ["empty", "oversize"]);
        let drop = request("dlq drop --key a/0/1 --because test --yes");
        assert_eq!(drop.action, Action::Drop { yes: true, because: "test".to_owned() });
        assert_eq!(request("dlq list --state void").filter.states, [State::Void]);
    }
}

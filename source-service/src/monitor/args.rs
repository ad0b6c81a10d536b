//! The command line of `monitor`.

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, error::ErrorKind};
use shared::{
    command_line::{flag, sources, with_settings},
    settings::{Expected, FromSetting as _, Sources},
};

use super::{AuditOptions, Filter};
use crate::{
    cli::TABLE,
    start_from::{parse_time, parse_token},
    token_record::ResumeToken,
};
use shared::cluster_time::ClusterTime;

/// Where to begin.
#[derive(Clone, Debug, PartialEq)]
pub enum Begin {
    /// With what comes from now on.
    End,
    Earliest,
    /// With events at this time or later.
    Time(ClusterTime),
    /// Behind this token; of the change stream only.
    Token(ResumeToken),
}

/// What a line is.
#[derive(Clone, Debug)]
pub enum View {
    Events,
    Audit(AuditOptions),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Colour {
    Auto,
    Always,
    Never,
}

/// What was asked for.
#[derive(Clone, Debug)]
pub struct MonitorRequest {
    /// The change stream instead of topics.
    pub stream: bool,
    pub from: Begin,
    /// Patterns; empty for data and control under the prefix.
    pub topics: Vec<String>,
    pub filter: Filter,
    pub view: View,
    pub json: bool,
    pub until_end: bool,
    pub duration: Option<Duration>,
    pub colour: Colour,
    /// Long lines are left whole on a terminal.
    pub wrap: bool,
}

const HELP: &str = "\
Reads only: nothing is committed, no position moves, no running source or sink notices. Ends on Ctrl-C with a table of what
it has seen. On a terminal, a last line shows rates, the lag of the newest event and, where MONGO_URI is given, how far the
oplog reaches back before it. Colours are left out in a pipe, and where NO_COLOR is set.

Examples:
  What is being published:
    source-service monitor

  One collection, from yesterday on, only deletes:
    source-service monitor --ns shop.orders --op delete --from timestamp:2026-11-19T00:00:00Z

  The life of one document, as JSON:
    source-service monitor --from earliest --until-end --key 66c1a0b2c3d4e5f60718293a --json | jq .fullDocument

  Who changed what:
    source-service monitor --audit --by updatedBy --ns 'shop.*'

  MongoDB's change stream itself, without Kafka, for a minute:
    MONGO_URI='mongodb://localhost:27017/?replicaSet=rs0' source-service monitor --stream --duration 60s";

const STREAM: &str = "stream";
const FROM: &str = "from";
const TOPIC: &str = "topic";
const NS: &str = "ns";
const OP: &str = "op";
const KEY: &str = "key";
const AUDIT: &str = "audit";
const VALUES: &str = "values";
const BY: &str = "by";
const JSON: &str = "json";
const UNTIL_END: &str = "until-end";
const DURATION: &str = "duration";
const COLOUR: &str = "color";
const WRAP: &str = "wrap";

const FROM_EXPECTED: &str =
    "end, earliest, timestamp:<RFC 3339 or seconds>, or with --stream token:<resume token>";

/// The sub-command.
pub fn command() -> Command {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help).help_heading("What to show")
    };
    let many = |name, value, help| text(name, value, help).action(ArgAction::Append);
    let command = Command::new("monitor")
        .about("Watch changes in a terminal, or feed them to a pipe")
        .arg(flag(STREAM, "MongoDB's change stream itself; Kafka is not needed").help_heading("What to show"))
        .arg(
            text(
                FROM,
                "PLACE",
                "Where to begin: end (what comes from now on), earliest, timestamp:…, token:…",
            )
            .default_value("end"),
        )
        .arg(
            many(
                TOPIC,
                "TOPIC",
                "A topic to read, with * for any characters [default: data topics and control]",
            )
            .conflicts_with(STREAM),
        )
        .arg(many(NS, "DB.COLL", "A namespace, with * for any characters; several times for several"))
        .arg(
            many(OP, "OPERATION", "An operation, such as insert, update, replace, delete, drop")
                .value_delimiter(','),
        )
        .arg(many(KEY, "KEY", "A record's key, as it is or bare: 66c1… for {\"$oid\":\"66c1…\"}"))
        .arg(
            flag(AUDIT, "Who changed what: document key, operation, fields, transaction")
                .help_heading("What to show"),
        )
        .arg(flag(VALUES, "With --audit: values too").requires(AUDIT).help_heading("What to show"))
        .arg(
            text(BY, "PATH", "With --audit: the field of the document in which the application says who")
                .requires(AUDIT),
        )
        .arg(
            flag(JSON, "One JSON object per line: the envelope, and where it was in Kafka as _kafka")
                .help_heading("What to show"),
        )
        .arg(flag(UNTIL_END, "End by itself at what is the end now").help_heading("When to end"))
        .arg(text(DURATION, "TIME", "End by itself after this time, such as 60s").help_heading("When to end"))
        .arg(text(COLOUR, "WHEN", "Colours").value_parser(clap::value_parser!(Colour)).default_value("auto"))
        .arg(flag(WRAP, "Do not cut lines at the width of the terminal").help_heading("What to show"))
        .after_help(HELP);
    with_settings(command, TABLE)
}

/// What was asked, and the settings that were given with it.
///
/// # Errors
/// A place or a duration that cannot be understood.
pub fn request(matches: &ArgMatches) -> Result<(MonitorRequest, Sources), clap::Error> {
    let list = |name: &str| matches.get_many::<String>(name).into_iter().flatten().cloned().collect();
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let stream = matches.get_flag(STREAM);
    let from = begin(text(FROM).unwrap_or("end"), stream)?;
    let duration = text(DURATION).map(|text| {
        Duration::from_setting(text)
            .map_err(|expected| refused(DURATION, text, expected, "a duration such as 60s"))
    });
    let view = if matches.get_flag(AUDIT) {
        View::Audit(AuditOptions { values: matches.get_flag(VALUES), by: text(BY).map(ToOwned::to_owned) })
    } else {
        View::Events
    };
    let request = MonitorRequest {
        stream,
        from,
        topics: list(TOPIC),
        filter: Filter { namespaces: list(NS), operations: list(OP), keys: list(KEY) },
        view,
        json: matches.get_flag(JSON),
        until_end: matches.get_flag(UNTIL_END),
        duration: duration.transpose()?,
        colour: matches.get_one(COLOUR).copied().unwrap_or(Colour::Auto),
        wrap: matches.get_flag(WRAP),
    };
    Ok((request, sources(TABLE, matches)))
}

fn begin(text: &str, stream: bool) -> Result<Begin, clap::Error> {
    let text = text.trim();
    let begin = match text.split_once(':') {
        None if text == "end" => Ok(Begin::End),
        None if text == "earliest" => Ok(Begin::Earliest),
        Some(("timestamp", time)) => parse_time(time).map(Begin::Time),
        Some(("token", token)) if stream => parse_token(token).map(Begin::Token),
        _ => Err(Expected::AsDeclared),
    };
    begin.map_err(|expected| refused(FROM, text, expected, FROM_EXPECTED))
}

fn refused(name: &str, text: &str, expected: Expected, declared: &'static str) -> clap::Error {
    let expected = match expected {
        Expected::AsDeclared => declared.into(),
        Expected::Exactly(expected) => expected,
    };
    command().error(ErrorKind::InvalidValue, format!("--{name} {text:?}: expected {expected}"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn parse(line: &[&str]) -> Result<MonitorRequest, clap::Error> {
        let matches = command().try_get_matches_from([&["monitor"], line].concat())?;
        request(&matches).map(|(request, _)| request)
    }

    #[test]
    fn places_are_understood() {
        assert_eq!(parse(&[]).unwrap().from, Begin::End);
        assert_eq!(parse(&["--from", "earliest"]).unwrap().from, Begin::Earliest);
        let time = ClusterTime::new(1_724_511_140, 1);
        assert_eq!(parse(&["--from", "timestamp:2024-08-24T14:52:20Z"]).unwrap().from, Begin::Time(time));
        let token = ["--from", "token:8266C1F3A4000000032B0229296E04"];
        assert!(matches!(parse(&[&token[..], &["--stream"]].concat()).unwrap().from, Begin::Token(_)));
        for line in
            [&token[..], &["--from", "yesterday"], &["--duration", "60"], &["--topic", "t", "--stream"]]
        {
            assert!(parse(line).is_err(), "{line:?}");
        }
        let error = parse(&["--from", "now"]).unwrap_err().to_string();
        assert!(error.contains("expected end, earliest, timestamp:"), "{error}");
    }

    #[test]
    fn filters_may_come_several_times() {
        let request =
            parse(&["--ns", "shop.*", "--ns", "crm.people", "--op", "insert,delete", "--key", "1"]).unwrap();
        assert_eq!(request.filter.namespaces, ["shop.*", "crm.people"]);
        assert_eq!(request.filter.operations, ["insert", "delete"]);
        assert_eq!(request.filter.keys, ["1"]);
        assert!(parse(&["--values"]).is_err(), "values of what?");
        let View::Audit(options) = parse(&["--audit", "--by", "updatedBy"]).unwrap().view else {
            panic!("no audit")
        };
        assert_eq!((options.values, options.by.as_deref()), (false, Some("updatedBy")));
    }
}

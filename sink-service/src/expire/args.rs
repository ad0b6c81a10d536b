//! The command line of `expire`.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use clap::{Arg, ArgGroup, ArgMatches, Command};
use shared::{
    command_line::{flag, sources, with_settings},
    settings::{FromSetting as _, Sources, Table},
};

use super::ExpireRequest;
use crate::{
    event_hour::EventHour,
    span::{topic_argument, topics_of},
    verify::Output,
};

/// Paragraphs have no line breaks of their own: clap wraps them. Commands have, so that they can be pasted.
const EXAMPLES: &str = "\
Examples:
  What is older than 90 days; nothing is removed:
    sink-service expire --all --keep 90d --dry-run

  The same every night, from a schedule:
    sink-service expire --all --keep 90d --json

  One topic, up to a day:
    sink-service expire --topic atlas.shop.orders --before 2026-10-01

Removes hours that have closed, whole. An hour that a partition's chain still stands in, as that of an idle \
collection, stays until the collection has newer rows; the output names it. What was removed is written down in the lake, \
so that `verify` does not take it for damage. Needs the right to delete, which the live sink does not. \
May be stopped at any time and typed again.

Exit code 75: an hour was being changed by somebody else and stays; type it again.";

/// The command.
pub fn expire_command(table: Table) -> Command {
    let command = Command::new("expire").about("Remove old hours from the lake");
    with_settings(command, table)
        .arg(topic_argument())
        .arg(
            flag("all", "Every data topic that has a chain in the lake; the control topic goes by name only")
                .conflicts_with("topic"),
        )
        .group(ArgGroup::new("topics").args(["topic", "all"]).multiple(true).required(true))
        .arg(
            Arg::new("before")
                .long("before")
                .value_name("DAY|TIME")
                .value_parser(day_or_hour)
                .help("Hours before this day, UTC, or full hour, RFC 3339"),
        )
        .arg(
            Arg::new("keep")
                .long("keep")
                .value_name("DURATION")
                .value_parser(|text: &str| {
                    Duration::from_setting(text).map_err(|_| "expected a duration, such as 90d")
                })
                .help("Hours that ended longer ago than this, such as 90d"),
        )
        .group(ArgGroup::new("age").args(["before", "keep"]).required(true))
        .arg(flag(
            "abandon-replays",
            "Also hours that a replay was making again and has not finished; none may be running",
        ))
        .arg(flag("dry-run", "Show what would be removed, and end"))
        .arg(flag("json", "One JSON object instead of a table"))
        .after_help(EXAMPLES)
}

/// `now` is what `--keep` counts from.
///
/// # Panics
/// If the matches are not those of [`expire_command`].
pub fn expire_request(table: Table, matches: &ArgMatches, now: DateTime<Utc>) -> (Sources, ExpireRequest) {
    let before = match (matches.get_one::<EventHour>("before"), matches.get_one::<Duration>("keep")) {
        (Some(before), _) => *before,
        (None, Some(keep)) => kept_from(now, *keep),
        (None, None) => unreachable!("clap asks for one of them"),
    };
    let request = ExpireRequest {
        topics: topics_of(matches),
        before,
        abandon_replays: matches.get_flag("abandon-replays"),
        dry_run: matches.get_flag("dry-run"),
        output: Output::asked_for(matches),
    };
    (sources(table, matches), request)
}

/// The first hour that has not ended, or not ended long enough ago.
fn kept_from(now: DateTime<Utc>, keep: Duration) -> EventHour {
    let seconds = i64::try_from(keep.as_secs()).unwrap_or(i64::MAX);
    EventHour::from_millis(now.timestamp().saturating_sub(seconds).saturating_mul(1000))
        .unwrap_or(EventHour::EPOCH)
}

fn day_or_hour(text: &str) -> Result<EventHour, &'static str> {
    let day = text.parse::<NaiveDate>().ok().map(|day| day.and_time(NaiveTime::MIN).and_utc());
    match day {
        Some(day) => EventHour::from_millis(day.timestamp_millis()),
        None => EventHour::try_from(text.to_owned()).ok(),
    }
    .ok_or("expected a day, such as 2026-11-20, or a full hour, such as 2026-11-20T07:00:00Z")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn an_age_is_a_day_an_hour_or_a_duration() {
        let hour = |text: &str| EventHour::try_from(text.to_owned()).unwrap();
        assert_eq!(day_or_hour("2026-11-20").unwrap(), hour("2026-11-20T00:00:00Z"));
        assert_eq!(day_or_hour("2026-11-20T07:00:00Z").unwrap(), hour("2026-11-20T07:00:00Z"));
        for wrong in ["2026-11-20T07:30:00Z", "yesterday", "2026-13-01", "90d"] {
            assert!(day_or_hour(wrong).is_err(), "{wrong}");
        }
        let now = DateTime::parse_from_rfc3339("2026-11-20T07:30:00Z").unwrap().to_utc();
        // Of the hour of now minus a day, half is less old than a day.
        assert_eq!(kept_from(now, Duration::from_secs(86_400)), hour("2026-11-19T07:00:00Z"));
        assert_eq!(kept_from(now, Duration::MAX), EventHour::EPOCH);
    }
}

//! Which hours of which topics a command is about, and the arguments that say so.

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};
use shared::command_line::flag;

use crate::event_hour::EventHour;

/// Which hours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span {
    /// Some hours of a day, all of them if none is named.
    Day { day: NaiveDate, hours: Vec<u32> },
    /// From an hour's begin up to another's, exclusive.
    Between { from: DateTime<Utc>, to: DateTime<Utc> },
    /// All.
    All,
}

impl Span {
    pub fn contains(&self, hour: EventHour) -> bool {
        match self {
            Self::Day { day, hours } => {
                hour.day() == *day && (hours.is_empty() || hours.contains(&hour.of_day()))
            }
            Self::Between { from, to } => {
                (from.timestamp()..to.timestamp()).contains(&(hour.end_seconds() - 3600))
            }
            Self::All => true,
        }
    }

    /// The same for a file, which has an hour if its path says one: without, only all hours have it.
    pub fn covers(&self, hour: Option<EventHour>) -> bool {
        *self == Self::All || hour.is_some_and(|hour| self.contains(hour))
    }

    /// Whether one of its hours is `closed` or lies before it.
    pub fn reaches(&self, closed: EventHour) -> bool {
        match self {
            Self::All => true,
            Self::Between { from, .. } => from.timestamp() < closed.end_seconds(),
            Self::Day { day, hours } => {
                let first = hours.iter().min().copied().unwrap_or_default();
                (*day, first) <= (closed.day(), closed.of_day())
            }
        }
    }

    /// No hour of it lies before this one.
    pub fn first(&self) -> EventHour {
        let first = match self {
            Self::Day { day, hours } => {
                let of_day = hours.iter().min().copied().unwrap_or_default();
                EventHour::from_calendar(day.year(), day.month(), day.day(), of_day)
            }
            Self::Between { from, .. } => EventHour::from_millis(from.timestamp_millis()),
            Self::All => None,
        };
        first.unwrap_or(EventHour::EPOCH)
    }

    /// The hours of a day, in their order; nothing if it is none.
    pub fn hours_of_day(&self) -> impl Iterator<Item = EventHour> {
        let day = match self {
            Self::Day { day, .. } => Some(*day),
            Self::Between { .. } | Self::All => None,
        };
        let hour = |day: NaiveDate, hour| EventHour::from_calendar(day.year(), day.month(), day.day(), hour);
        let hours = (0..24).filter_map(move |of_day| hour(day?, of_day));
        hours.filter(|hour| self.contains(*hour))
    }

    /// The first of its hours that lies behind `closed`.
    pub fn first_open(&self, closed: EventHour) -> Option<EventHour> {
        let open = closed.next()?;
        match self {
            Self::All => None,
            Self::Between { to, .. } => (open.end_seconds() - 3600 < to.timestamp()).then_some(open),
            Self::Day { .. } => open.to(EventHour::LAST).take(24 * 366).find(|hour| self.contains(*hour)),
        }
    }
}

pub fn topic_argument() -> Arg {
    Arg::new("topic")
        .long("topic")
        .value_name("TOPIC")
        .action(ArgAction::Append)
        .help("A topic; may be given several times")
}

/// Adds topics and closed hours, of which some must be named.
pub fn with_closed_hours(command: Command) -> Command {
    with_hours(command.arg(topic_argument().required(true)))
        .arg(flag("all", "Every hour that has closed"))
        .group(ArgGroup::new("span").args(["day", "from", "all"]).required(true))
}

/// Adds a day, hours of it, or a longer time.
pub fn with_hours(command: Command) -> Command {
    let instant = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("TIME").value_parser(full_hour).help(help)
    };
    command
        .arg(
            Arg::new("day")
                .long("day")
                .value_name("YYYY-MM-DD")
                .value_parser(|text: &str| {
                    text.parse::<NaiveDate>().map_err(|_| "expected a day, such as 2026-11-20")
                })
                .help("A day, UTC"),
        )
        .arg(
            Arg::new("hour")
                .long("hour")
                .value_name("0-23")
                .action(ArgAction::Append)
                .value_parser(clap::value_parser!(u32).range(0..24))
                .requires("day")
                .help("Only this hour of the day; may be given several times"),
        )
        .arg(instant("from", "From this full hour on, RFC 3339").requires("to"))
        .arg(instant("to", "Up to this full hour, exclusive").requires("from").conflicts_with("day"))
}

/// The topics that were named.
pub fn topics_of(matches: &ArgMatches) -> Vec<String> {
    matches.get_many::<String>("topic").into_iter().flatten().cloned().collect()
}

/// The hours that were named; all if none were.
pub fn span_of(matches: &ArgMatches) -> Span {
    let instant = |name| matches.get_one::<DateTime<Utc>>(name).copied();
    match (matches.get_one::<NaiveDate>("day"), instant("from"), instant("to")) {
        (Some(day), _, _) => {
            let hours = matches.get_many::<u32>("hour").into_iter().flatten().copied();
            Span::Day { day: *day, hours: hours.collect() }
        }
        (None, Some(from), Some(to)) => Span::Between { from, to },
        _ => Span::All,
    }
}

fn full_hour(text: &str) -> Result<DateTime<Utc>, String> {
    let at = DateTime::parse_from_rfc3339(text).ok().filter(|at| at.timestamp_millis() % 3_600_000 == 0);
    let at = at.ok_or("expected a full hour in RFC 3339, such as 2026-11-20T07:00:00Z");
    Ok(at?.to_utc())
}

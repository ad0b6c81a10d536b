//! The lake's bucket: the UTC hour in which an event happened.

use std::fmt;

use chrono::{DateTime, Datelike, NaiveDate, SecondsFormat, Timelike};
use serde::{Deserialize, Serialize};
use shared::cluster_time::ClusterTime;

/// Hours since 1970-01-01 00:00 UTC, up to the last hour of the year 9999. In JSON it is its first instant, `2026-11-21T07:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventHour(u32);

impl EventHour {
    /// The hour of a record that nothing dates.
    pub const EPOCH: Self = Self(0);

    /// 9999-12-31 23:00.
    pub const LAST: Self = Self(70_389_527);

    /// `None` outside 1970–9999.
    pub fn from_millis(millis: i64) -> Option<Self> {
        u32::try_from(millis.div_euclid(3_600_000)).ok().filter(|hour| *hour <= Self::LAST.0).map(Self)
    }

    pub const fn from_cluster_time(time: ClusterTime) -> Self {
        Self(time.seconds / 3600)
    }

    /// The hour of a calendar date; `None` if there is no such hour within 1970–9999.
    pub fn from_calendar(year: i32, month: u32, day: u32, hour: u32) -> Option<Self> {
        let at = NaiveDate::from_ymd_opt(year, month, day)?.and_hms_opt(hour, 0, 0)?;
        Self::from_millis(at.and_utc().timestamp_millis())
    }

    /// The last hour that is over at this time, in seconds since 1970; `None` within the first.
    pub fn ended_at(seconds: i64) -> Option<Self> {
        Self::from_millis(seconds.checked_mul(1000)?).and_then(|current| current.0.checked_sub(1)).map(Self)
    }

    /// The hour after it; `None` behind the last of the year 9999.
    pub fn next(self) -> Option<Self> {
        (self < Self::LAST).then_some(Self(self.0 + 1))
    }

    /// From this hour to `last`, both included; nothing if that lies before it.
    pub fn to(self, last: Self) -> impl Iterator<Item = Self> {
        (self.0..=last.0).map(Self)
    }

    /// Its last second lies before this, in seconds since 1970.
    pub fn end_seconds(self) -> i64 {
        (i64::from(self.0) + 1) * 3600
    }

    /// The day that it belongs to.
    pub fn day(self) -> NaiveDate {
        self.start().date_naive()
    }

    /// 0 to 23.
    pub fn of_day(self) -> u32 {
        self.0 % 24
    }

    fn start(self) -> DateTime<chrono::Utc> {
        DateTime::from_timestamp(i64::from(self.0) * 3600, 0).expect("hours up to 9999 are dates")
    }

    /// Year, month, day and hour of the day.
    pub fn calendar(self) -> [u32; 4] {
        let at = self.start();
        [at.year().unsigned_abs(), at.month(), at.day(), at.hour()]
    }

    /// `YYYYMMDD-HH`
    pub fn compact(self) -> String {
        let at = self.start();
        format!("{:04}{:02}{:02}-{:02}", at.year(), at.month(), at.day(), at.hour())
    }
}

impl From<EventHour> for String {
    fn from(hour: EventHour) -> Self {
        hour.start().to_rfc3339_opts(SecondsFormat::Secs, true)
    }
}

impl TryFrom<String> for EventHour {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let at = DateTime::parse_from_rfc3339(&text).ok().map(|at| at.timestamp_millis());
        let hour = at.filter(|millis| millis % 3_600_000 == 0).and_then(Self::from_millis);
        hour.ok_or_else(|| format!("{text:?} is no full hour"))
    }
}

/// `YYYY-MM-DD HH`, for people.
impl fmt::Display for EventHour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.start();
        write!(f, "{:04}-{:02}-{:02} {:02}", at.year(), at.month(), at.day(), at.hour())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn boundaries_fall_into_the_right_hour() {
        let calendar = |text: &str| {
            EventHour::from_millis(DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis())
                .unwrap()
                .calendar()
        };
        assert_eq!(calendar("2025-12-31T23:59:59.999Z"), [2025, 12, 31, 23]);
        assert_eq!(calendar("2026-01-01T00:00:00Z"), [2026, 1, 1, 0]);
        assert_eq!(calendar("2024-02-29T12:00:00Z"), [2024, 2, 29, 12]);
        assert_eq!(calendar("2024-02-29T23:59:59Z"), [2024, 2, 29, 23]);
        assert_eq!(calendar("1970-01-01T00:00:00Z"), [1970, 1, 1, 0]);
        assert_eq!(calendar("9999-12-31T23:59:59.999Z"), [9999, 12, 31, 23]);
    }

    #[test]
    fn an_hour_is_over_when_the_next_one_begins() {
        let hour = |text: &str| EventHour::try_from(text.to_owned()).unwrap();
        assert_eq!(EventHour::ended_at(3599), None);
        assert_eq!(EventHour::ended_at(3600), Some(EventHour::EPOCH));
        assert_eq!(EventHour::ended_at(7199), Some(EventHour::EPOCH));
        assert_eq!(EventHour::EPOCH.end_seconds(), 3600);
        assert_eq!(EventHour::EPOCH.next(), Some(hour("1970-01-01T01:00:00Z")));
        assert_eq!(String::from(hour("2026-11-21T07:00:00Z")), "2026-11-21T07:00:00Z");
        assert_eq!(EventHour::EPOCH.to(hour("1970-01-01T02:00:00Z")).count(), 3);
        assert_eq!(hour("1970-01-01T02:00:00Z").to(EventHour::EPOCH).count(), 0);
        assert!(EventHour::try_from("2026-11-21T07:00:01Z".to_owned()).is_err());
    }

    #[test]
    fn nothing_outside_1970_to_9999() {
        assert_eq!(EventHour::from_millis(-1), None);
        assert_eq!(EventHour::from_millis(253_402_300_800_000), None);
        assert_eq!(EventHour::from_calendar(10_000, 1, 1, 0), None);
        assert_eq!(EventHour::from_calendar(2025, 2, 29, 0), None);
        assert_eq!(EventHour::from_calendar(1970, 1, 1, 0), Some(EventHour::EPOCH));
    }

    #[test]
    fn names_are_padded() {
        let hour = EventHour::from_calendar(2026, 3, 4, 5).unwrap();
        assert_eq!(hour.compact(), "20260304-05");
        assert_eq!(hour.to_string(), "2026-03-04 05");
    }
}

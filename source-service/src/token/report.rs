//! How the answers look: names and values in two columns for people, one JSON object for pipes.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use shared::cluster_time::ClusterTime;

use crate::status::rfc3339;

/// Lines of `name  value`, the values in one column. They are never cut or wrapped: tokens are there to be copied.
#[derive(Default)]
pub(crate) struct Facts(Vec<(&'static str, String)>);

impl Facts {
    pub(crate) fn add(&mut self, name: &'static str, value: impl Into<String>) {
        self.0.push((name, value.into()));
    }
}

impl std::fmt::Display for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut shown = "";
        for (name, value) in &self.0 {
            // A name is written once over the values that belong to it.
            let name = if std::mem::replace(&mut shown, name) == *name { "" } else { name };
            writeln!(f, "{name:width$}  {value}")?;
        }
        Ok(())
    }
}

/// Seconds between a cluster time and this machine's clock; negative if MongoDB's is ahead.
pub(crate) fn age_seconds(time: ClusterTime) -> i64 {
    Utc::now().timestamp() - i64::from(time.seconds)
}

/// `2026-11-20T08:00:00Z (1795161600.3), 2m 4s ago`.
pub(crate) fn moment(time: ClusterTime) -> String {
    let age = match age_seconds(time) {
        age @ ..0 => format!("{} ahead of this machine's clock", span(-age)),
        age => format!("{} ago", span(age)),
    };
    format!("{} ({time}), {age}", rfc3339(time))
}

/// `2h 3m 4s`; of days and more without what is small beside them.
pub(crate) fn span(seconds: i64) -> String {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    let kept = if seconds >= 86_400 { seconds - seconds % 3600 } else { seconds };
    humantime::format_duration(Duration::from_secs(kept)).to_string()
}

pub(crate) fn instant(at_ms: i64) -> Option<String> {
    Some(DateTime::from_timestamp_millis(at_ms)?.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// JSON for one line of standard output.
pub(crate) fn line(json: &serde_json::Value) -> String {
    format!("{json}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_one_column_and_names_once() {
        let mut facts = Facts::default();
        facts.add("source", "default");
        facts.add("fingerprint", "same");
        facts.add("topics", "a");
        facts.add("topics", "b");
        let expected = "source       default\nfingerprint  same\ntopics       a\n             b\n";
        assert_eq!(facts.to_string(), expected);
    }

    #[test]
    fn spans_are_short() {
        assert_eq!(
            (span(0), span(125), span(2 * 86_400 + 3_725)),
            ("0s".into(), "2m 5s".into(), "2days 1h".into())
        );
        assert!(moment(ClusterTime::new(7, 2)).starts_with("1970-01-01T00:00:07Z (7.2), "));
    }
}

//! `snapshot status`: what is committed of each copy.

use chrono::{DateTime, SecondsFormat, Utc};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;
use shared::exit::Stop;

use crate::{
    recovery::Remembered,
    settings::SnapshotCommandSettings,
    snapshot::plan::CollectionCopy,
    token::{report::line, stored::TokenTopic},
};

pub(super) fn run(settings: &SnapshotCommandSettings, json: bool) -> Result<String, Stop> {
    let topic = TokenTopic::open(&settings.kafka, &settings.names, &settings.source_id)?;
    let lines = lines(&topic.read()?);
    Ok(if json {
        let collections = lines.iter().map(Line::as_json).collect::<Vec<_>>();
        line(&json!({ "sourceId": settings.source_id, "topic": topic.name, "collections": collections }))
    } else if lines.is_empty() {
        format!("source {} has copied nothing, and was not asked to\n", settings.source_id)
    } else {
        format!("{}\nAs committed in {}; MongoDB was not asked.\n", table(&lines), topic.name)
    })
}

/// One collection.
struct Line {
    namespace: String,
    state: &'static str,
    why: Option<&'static str>,
    rows: u64,
    /// `None` before it is known where to cut.
    estimate: Option<u64>,
    asked: DateTime<Utc>,
    finished: Option<DateTime<Utc>>,
}

fn lines(remembered: &Remembered) -> Vec<Line> {
    let plan = &remembered.snapshot;
    let open = remembered.requests.iter().filter(|request| request.is_open(plan)).map(|request| Line {
        namespace: request.namespace.to_string(),
        state: "asked for",
        why: None,
        rows: 0,
        estimate: None,
        asked: request.requested_at,
        finished: None,
    });
    let mut lines: Vec<Line> = plan.collections.iter().map(Line::of).chain(open).collect();
    lines.sort_by(|one, other| one.namespace.cmp(&other.namespace));
    lines
}

impl Line {
    fn of(copy: &CollectionCopy) -> Self {
        Self {
            namespace: copy.namespace.to_string(),
            state: match (copy.ended, copy.finished_at, &copy.ranges) {
                (Some(_), ..) => "ended",
                (None, Some(_), _) => "copied",
                (None, None, Some(_)) => "copying",
                (None, None, None) => "waiting",
            },
            why: copy.ended.map(crate::snapshot::plan::Ended::why),
            rows: copy.rows,
            estimate: copy.ranges.as_ref().map(|_| copy.estimate),
            asked: copy.requested_at,
            finished: copy.finished_at,
        }
    }

    /// Of the estimate; a copy that is over has all there was.
    fn percent(&self) -> Option<u64> {
        match (self.state, self.estimate) {
            ("copied", _) => Some(100),
            (_, Some(estimate)) => Some((self.rows * 100 / estimate.max(1)).min(99)),
            _ => None,
        }
    }

    fn as_json(&self) -> serde_json::Value {
        json!({
            "collection": self.namespace,
            "state": self.state,
            "why": self.why,
            "rows": self.rows,
            "estimate": self.estimate,
            "percent": self.percent(),
            "askedAt": instant(self.asked),
            "finishedAt": self.finished.map(instant),
        })
    }
}

/// UTC, to the second.
pub(super) fn instant(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn table(lines: &[Line]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["collection", "state", "rows", "about", "%", "asked at", "finished at"]);
    let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    for line in lines {
        table.add_row([
            line.namespace.clone(),
            line.why.map_or_else(|| line.state.to_owned(), |why| format!("{}: {why}", line.state)),
            line.rows.to_string(),
            number(line.estimate),
            number(line.percent()),
            instant(line.asked),
            line.finished.map(instant).unwrap_or_default(),
        ]);
    }
    for column in table.column_iter_mut().skip(2).take(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use shared::namespace::Namespace;

    use super::*;
    use crate::snapshot::{plan::Ended, request::SnapshotRequest};

    #[test]
    fn each_collection_says_where_it_is() {
        let now = DateTime::from_timestamp(1_795_161_600, 0).unwrap();
        let copy = |name: &str| CollectionCopy::new(Namespace::new("shop", name), now);
        let mut remembered = Remembered::default();
        let mut copying = copy("a");
        copying.cut(200, Vec::new());
        copying.rows = 50;
        let mut copied = copying.clone();
        (copied.namespace, copied.rows, copied.finished_at) = (Namespace::new("shop", "b"), 190, Some(now));
        remembered.snapshot.put(copying);
        remembered.snapshot.put(copied);
        remembered.snapshot.put(copy("c"));
        remembered.snapshot.put(copy("d").ended(Ended::OutOfScope, now));
        remembered.requests.push(SnapshotRequest::new(Namespace::new("shop", "e"), None));

        let lines = lines(&remembered);
        let states: Vec<_> = lines.iter().map(|line| (line.state, line.percent())).collect();
        let expected = [
            ("copying", Some(25)),
            ("copied", Some(100)),
            ("waiting", None),
            ("ended", None),
            ("asked for", None),
        ];
        assert_eq!(states, expected);
        assert_eq!(lines[1].as_json()["finishedAt"], "2026-11-20T08:00:00Z");
        assert!(table(&lines).contains("ended: it is not in the source's scope"));
    }
}

//! Which hours are exported: those of the span that have closed; and which of them have not.

use std::{collections::BTreeSet, fmt, sync::Arc};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use shared::{
    exit::{ExitCode, Stop},
    topic_name::TopicNames,
};

use super::{
    ExportError,
    hour::{HourExport, Look},
};
use crate::{
    event_hour::EventHour,
    head::Head,
    hours::{accounts::closed_hours, expired::expired},
    known_partitions::named,
    lake::{Lake, LakeError},
    lake_layout::OpenLake,
    lake_path::{MANIFEST, TopicFolder},
    span::Span,
    topic_content::TopicContent,
};

/// So many hours are looked at at a time.
const LOOKS_AT_ONCE: usize = 8;

/// Everything of one topic.
pub(super) struct Plan {
    pub topic: String,
    /// In their order.
    pub hours: Vec<PlannedHour>,
    /// Hours of the span that have not closed.
    pub open: Vec<OpenHours>,
}

pub(super) struct PlannedHour {
    pub export: HourExport,
    pub look: Look,
}

/// From one hour to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct OpenHours {
    pub first: EventHour,
    pub last: EventHour,
}

impl fmt::Display for OpenHours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last { write!(f, "{first}") } else { write!(f, "{first} to {last}") }
    }
}

/// Who is asked.
pub(super) struct Planner<'a> {
    pub lake: &'a Arc<OpenLake>,
    pub into: &'a Arc<Lake>,
    pub names: &'a TopicNames,
    pub done: &'a Arc<std::sync::atomic::AtomicU64>,
}

impl Planner<'_> {
    pub(super) async fn plan(&self, topic: &str, span: &Span) -> Result<Plan, ExportError> {
        let folder = self.lake.folder(&self.content(topic).await?);
        // Before the folder is looked at: what has closed by now has its manifest.
        let record = closed_hours(self.lake, topic).await?.map(|(record, _)| record);
        let candidates: BTreeSet<EventHour> = match span {
            Span::Day { .. } => span.hours_of_day().collect(),
            Span::Between { .. } | Span::All => self.with_manifest(&folder, span).await?,
        };
        let looks = stream::iter(&candidates).map(|hour| async {
            let export = HourExport {
                lake: Arc::clone(self.lake),
                into: Arc::clone(self.into),
                topic: topic.to_owned(),
                folder: folder.clone(),
                hour: *hour,
                done: Arc::clone(self.done),
            };
            let look = export.look().await?;
            Ok::<_, ExportError>(look.map(|look| PlannedHour { export, look }))
        });
        let looks: Vec<Option<PlannedHour>> = looks.buffered(LOOKS_AT_ONCE).try_collect().await?;
        let hours: Vec<PlannedHour> = looks.into_iter().flatten().collect();
        let closed: BTreeSet<EventHour> = hours.iter().map(|planned| planned.export.hour).collect();
        let kept_from =
            expired(self.lake, topic).await?.map_or(EventHour::EPOCH, |(record, _)| record.before);
        let removed: Vec<EventHour> =
            span.hours_of_day().filter(|hour| *hour < kept_from && !closed.contains(hour)).collect();
        if !removed.is_empty() {
            let what = format!(
                "hours of {topic} before {kept_from} were removed from the lake by `expire`: they cannot be exported. Name others with --hour, or --from and --to"
            );
            return Err(Stop::new(ExitCode::Usage, what).into());
        }
        let last_closed = record.as_ref().and_then(|record| record.closed);
        if let (Some(record), Some(last)) = (&record, last_closed)
            && let Some(hour) = record
                .begin
                .max(kept_from)
                .to(last)
                .find(|hour| span.contains(*hour) && !closed.contains(hour))
        {
            let what =
                "the hour has closed, but its manifest or its mark is missing: `replay` makes them again";
            return Err(LakeError::Damaged { path: folder.manifest(hour), what: what.to_owned() }.into());
        }
        let open = match span {
            Span::All => Vec::new(),
            Span::Day { .. } => {
                let is_open =
                    |hour: &EventHour| !closed.contains(hour) && last_closed.is_none_or(|last| *hour > last);
                runs(span.hours_of_day().filter(is_open))
            }
            Span::Between { from, to } => {
                let hour = |seconds: i64| EventHour::from_millis(seconds.saturating_mul(1000));
                let behind = last_closed.max(closed.last().copied()).and_then(EventHour::next);
                let first = hour(from.timestamp()).max(behind);
                let last = hour(to.timestamp() - 1);
                let open = first.zip(last).filter(|(first, last)| first <= last);
                open.map(|(first, last)| OpenHours { first, last }).into_iter().collect()
            }
        };
        Ok(Plan { topic: topic.to_owned(), hours, open })
    }

    async fn with_manifest(
        &self,
        folder: &TopicFolder,
        span: &Span,
    ) -> Result<BTreeSet<EventHour>, LakeError> {
        let names = self.lake.list_names(folder.path()).await?.into_iter();
        let manifests = names.filter(|path| path.file_name() == MANIFEST);
        Ok(manifests.filter_map(|path| folder.hour_of(&path)).filter(|hour| span.contains(*hour)).collect())
    }

    /// Where the topic's files lie.
    async fn content(&self, topic: &str) -> Result<TopicContent, ExportError> {
        let mut has_chain = false;
        let mut there = BTreeSet::new();
        for path in self.lake.list_heads().await? {
            let Some(partition) = path.as_head() else { continue };
            if &*partition.topic != topic {
                there.insert(partition.topic);
                continue;
            }
            has_chain = true;
            let Some(document) = self.lake.read_document(&path).await? else { continue };
            let head = Head::parse(&document.bytes).map_err(|what| LakeError::Damaged { path, what })?;
            if let Some(content) = head.content() {
                return Ok(content);
            }
        }
        match TopicContent::by_name(self.names, topic) {
            Some(content) if has_chain => Ok(content),
            _ => {
                let what = format!(
                    "{topic} has no files in this lake: check LAKE_URL, TOPIC_PREFIX and the topic's name. Topics that are there: {}",
                    named(&there)
                );
                Err(Stop::new(ExitCode::Usage, what).into())
            }
        }
    }
}

/// Hours in their order, as few runs as there are.
fn runs(hours: impl Iterator<Item = EventHour>) -> Vec<OpenHours> {
    let mut runs: Vec<OpenHours> = Vec::new();
    for hour in hours {
        match runs.last_mut() {
            Some(run) if run.last.next() == Some(hour) => run.last = hour,
            _ => runs.push(OpenHours { first: hour, last: hour }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_named_together() {
        let hour = |of_day| EventHour::from_calendar(2026, 11, 20, of_day).expect("an hour");
        let shown: Vec<String> =
            runs([1, 2, 3, 5, 7, 8].map(hour).into_iter()).iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["2026-11-20 01 to 2026-11-20 03", "2026-11-20 05", "2026-11-20 07 to 2026-11-20 08"]
        );
    }
}

//! One partition's chain as far as it can be seen: its head, its files and its manifests, and the holes between them.

use std::collections::{BTreeMap, BTreeSet};

use shared::kafka_position::{KafkaOffset, TopicPartition};

use super::{EventBefore, Known, PlannedFile};
use crate::{
    compression::Compression,
    event_hour::EventHour,
    file_metadata::LastEvents,
    head::Head,
    hours::{expired::Expired, manifest::Manifest},
    lake::ListedFile,
    lake_path::{LakePath, TopicFolder},
    line_format::LineFormat,
};

/// One partition's chain as far as it can be seen.
pub(super) struct SeenChain {
    pub partition: TopicPartition,
    pub head: Head,
    pub log_start: KafkaOffset,
    pub log_end: KafkaOffset,
    /// What is missing on purpose.
    pub expired: Option<Expired>,
    /// By first offset.
    pub files: Vec<PlannedFile>,
}

/// A range that no file holds.
#[derive(Clone, Debug)]
pub(super) struct Hole {
    pub from: KafkaOffset,
    pub to: KafkaOffset,
    /// Between the files around it; all hours where there is none.
    pub hours: HourSpan,
}

/// From one hour to another, both included.
#[derive(Clone, Copy, Debug)]
pub(super) struct HourSpan {
    pub start: EventHour,
    pub end: EventHour,
}

impl HourSpan {
    pub(super) fn any(self, wanted: impl Fn(EventHour) -> bool) -> bool {
        self.start.to(self.end).any(wanted)
    }
}

impl SeenChain {
    pub(super) fn add_listed(&mut self, folder: &TopicFolder, listed: &[ListedFile]) {
        for file in listed.iter().filter(|file| file.metadata.topic_partition == self.partition) {
            let Some(hour) = folder.hour_of(&file.path) else { continue };
            self.files.push(PlannedFile {
                path: file.path.clone(),
                partition: self.partition.clone(),
                hour,
                first: file.metadata.first,
                next: file.metadata.next,
                format: file.metadata.line_format,
                known: Known::Whole(Box::new(file.metadata.clone())),
                after: EventBefore::Unknown,
            });
        }
    }

    /// What a manifest names and the folder does not have.
    pub(super) fn add_from_manifests(
        &mut self,
        folder: &TopicFolder,
        manifests: &[Manifest],
        damaged: &BTreeMap<&LakePath, &str>,
    ) {
        let seen: BTreeSet<KafkaOffset> = self.files.iter().map(|file| file.first).collect();
        for manifest in manifests.iter().filter(|manifest| manifest.topic == *self.partition.topic) {
            let missing = manifest
                .chain_files()
                .iter()
                .filter(|file| file.partition == self.partition.partition && !seen.contains(&file.first));
            for file in missing {
                let compression = Compression::of_name(&file.name).unwrap_or_default();
                let path = folder.data_file(manifest.hour, file.partition, file.first, compression);
                let trouble = damaged.get(&path).map_or("missing", |what| what).to_owned();
                self.files.push(PlannedFile {
                    path,
                    partition: self.partition.clone(),
                    hour: manifest.hour,
                    first: file.first,
                    next: file.next,
                    format: file.lineformat,
                    known: Known::Listed {
                        trouble,
                        rows: file.rows,
                        dead_letters: file.deadletters,
                        bytes: file.originalsize,
                    },
                    after: EventBefore::Unknown,
                });
            }
        }
        self.files.sort_by_key(|file| file.first);
    }

    pub(super) fn leave_expired(&mut self) {
        if let Some(expired) = &self.expired {
            let partition = self.partition.partition;
            self.files.retain(|file| !expired.holds(partition, file.first, file.next));
        }
    }

    /// That of the file before; else of the one after.
    pub(super) fn format_at(&self, offset: KafkaOffset) -> Option<LineFormat> {
        let before = self.files.iter().filter(|file| file.first < offset).max_by_key(|file| file.first);
        let after = || self.files.iter().min_by_key(|file| file.first);
        before.or_else(after).map(|file| file.format)
    }

    /// Tells each file of the last events before it.
    pub(super) fn carry_last_events(&mut self) {
        let mut before = EventBefore::Is(None);
        let mut end = self.head.start;
        for file in &mut self.files {
            file.after = if file.first == end {
                before
            } else {
                match &self.expired {
                    Some(expired) if expired.holds(self.partition.partition, end, file.first) => {
                        expired.event_before(self.partition.partition, file.first).into()
                    }
                    _ => EventBefore::Unknown,
                }
            };
            before = match &file.known {
                Known::Whole(metadata) => EventBefore::Is(metadata.last_event.clone()),
                Known::Listed { .. } | Known::Untraced { .. } | Known::Counted { .. } => EventBefore::Unknown,
            };
            end = file.next;
        }
    }

    /// The last events before an offset where a file ends, as far as they are known.
    pub(super) fn event_before(&self, offset: KafkaOffset) -> Option<LastEvents> {
        if self.head.first == Some(offset) {
            return self.head.lastevent.clone();
        }
        match &self.files.iter().find(|file| file.next == offset)?.known {
            Known::Whole(metadata) => metadata.last_event.clone(),
            Known::Listed { .. } | Known::Untraced { .. } | Known::Counted { .. } => None,
        }
    }

    /// Ranges that no file holds, up to the file that the head names, and that were not removed on purpose.
    pub(super) fn holes(&self, folder: &TopicFolder) -> Vec<Hole> {
        let mut holes = Vec::new();
        let mut expected = self.head.start;
        let mut before = None;
        let current = self.head.first.into_iter().map(|first| (first, first, None));
        let files = self.files.iter().map(|file| (file.first, file.next, Some(file.hour)));
        for (first, next, hour) in files.chain(current) {
            if first > expected {
                let hour = hour.or_else(|| folder.hour_of(self.head.path.as_ref()?));
                let (a, b) = (before.unwrap_or(EventHour::EPOCH), hour.unwrap_or(EventHour::LAST));
                let hours = HourSpan { start: a.min(b), end: a.max(b) };
                let left = match &self.expired {
                    Some(expired) => expired.left_of(self.partition.partition, expected, first),
                    None => vec![(expected, first)],
                };
                holes.extend(left.into_iter().map(|(from, to)| Hole { from, to, hours }));
            }
            expected = expected.max(next);
            before = hour.or(before);
        }
        holes
    }

    /// Files that are missing in other hours than those that were asked for.
    pub(super) fn note_elsewhere(&self, wanted: impl Fn(EventHour) -> bool, notes: &mut Vec<String>) {
        for file in self.files.iter().filter(|file| !wanted(file.hour)) {
            if let Some(trouble) = file.trouble() {
                notes.push(format!(
                    "{}, of {}, is {trouble} too: replay that hour as well",
                    file.path, file.hour
                ));
            }
        }
    }
}

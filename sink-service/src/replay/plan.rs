//! What is to be made again: files and ranges, from the chain and the manifests; nothing is written here.
//!
//! A file is known by its own metadata, else by its hour's manifest, else by the hole that it left in the chain. Of a hole the records
//! themselves say which hours it held, by the rule that the live sink has: a file ends where a row or tombstone of another hour comes.

use std::collections::{BTreeMap, BTreeSet};

use shared::{
    exit::{ExitCode, Stop},
    kafka_position::{KafkaOffset, TopicPartition},
    namespace::Namespace,
    topic_name::TopicNames,
};
use tokio::sync::OnceCell;

use super::{EventBefore, Known, PlannedFile, ReplayError, judge::Judge};
use crate::{
    compression::Compression,
    dlq::KnownLetters,
    event_hour::EventHour,
    file_metadata::LastEvent,
    head::Head,
    hours::{
        accounts::closed_hours,
        expired::{Expired, expired},
        manifest::Manifest,
    },
    kafka_log::KafkaLog,
    lake::LakeError,
    lake_layout::OpenLake,
    lake_path::{LakePath, MANIFEST, TopicFolder},
    line_format::LineFormat,
    partition::view_of,
    record::Verdict,
    record_reader::RecordReader,
    repeats::RepeatFilter,
    schema_check::SchemaChecks,
    span::Span,
    topic_content::TopicContent,
    topic_reader::TopicReader,
};

/// Everything of one topic that is to be made again.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub topic: String,
    pub content: TopicContent,
    /// By partition and first offset.
    pub files: Vec<PlannedFile>,
    /// Things that the operator should know of.
    pub notes: Vec<String>,
}

/// Who is asked.
pub(super) struct Planner<'a> {
    pub lake: &'a OpenLake,
    pub log: &'a KafkaLog,
    pub reader: &'a TopicReader,
    pub names: &'a TopicNames,
    /// Of new files.
    pub compression: Compression,
    pub format: LineFormat,
    pub schemas: &'a SchemaChecks,
    /// Read where a hole of a chain may have held some.
    pub letters: OnceCell<KnownLetters>,
    pub dead_letters: &'a str,
}

/// One partition's chain as far as it can be seen.
struct SeenChain {
    partition: TopicPartition,
    head: Head,
    log_start: KafkaOffset,
    log_end: KafkaOffset,
    /// What is missing on purpose.
    expired: Option<Expired>,
    /// By first offset.
    files: Vec<PlannedFile>,
}

/// A range that no file holds.
#[derive(Clone, Debug)]
struct Hole {
    from: KafkaOffset,
    to: KafkaOffset,
    /// Between the files around it; all hours where there is none.
    hours: HourSpan,
}

/// From one hour to another, both included.
#[derive(Clone, Copy, Debug)]
struct HourSpan {
    start: EventHour,
    end: EventHour,
}

impl HourSpan {
    fn any(self, wanted: impl Fn(EventHour) -> bool) -> bool {
        self.start.to(self.end).any(wanted)
    }
}

impl Planner<'_> {
    pub(super) async fn plan(
        &self,
        topic: &str,
        span: &Span,
        records: &mut RecordReader,
    ) -> Result<Plan, ReplayError> {
        let heads = self.heads(topic).await?;
        let content = self.content(topic, &heads)?;
        let folder = self.lake.folder(&content);
        let closed = closed_hours(self.lake, topic).await?.and_then(|(record, _)| record.closed);
        let closed = closed.ok_or_else(|| {
            let what = format!(
                "no hour of {topic} has closed yet, so there is nothing to make again: the live sink is still writing"
            );
            Stop::new(ExitCode::Usage, what)
        })?;
        let expired = expired(self.lake, topic).await?.map(|(record, _)| record);
        let kept_from = expired.as_ref().map_or(EventHour::EPOCH, |expired| expired.before);
        let wanted = |hour: EventHour| span.contains(hour) && hour <= closed;
        if !span.reaches(closed) {
            let what = format!(
                "none of these hours of {topic} has closed: the last one that has is {closed}. Nothing was changed"
            );
            return Err(Stop::new(ExitCode::Usage, what).into());
        }
        let mut notes = Vec::new();
        if EventHour::ended_at(kept_from.end_seconds() - 3600).is_some_and(|last| span.reaches(last)) {
            notes.push(format!("hours before {kept_from} were removed by `expire`: they are left alone"));
        }
        if let Some(open) = span.first_open(closed) {
            let what = format!("{open} and what follows has not closed: it is left to the live sink");
            notes.push(what);
        }
        let listing = self.lake.list(folder.path()).await?;
        let damaged: BTreeMap<&LakePath, &str> =
            listing.damaged.iter().map(|(path, what)| (path, what.as_str())).collect();
        let mut chains: Vec<SeenChain> = heads
            .into_iter()
            .map(|(partition, head, log_start, log_end)| {
                let expired = expired.clone();
                let mut chain = SeenChain { partition, head, log_start, log_end, expired, files: Vec::new() };
                chain.add_listed(&folder, &listing.files);
                chain
            })
            .collect();
        // Where the chains are whole, the manifests of the hours that were asked for say nothing new.
        let whole = chains.iter().all(|chain| chain.holes(&folder).is_empty());
        let manifests = if whole { Vec::new() } else { self.manifests(&folder).await? };
        for chain in &mut chains {
            chain.add_from_manifests(&folder, &manifests, &damaged);
            for hole in chain.holes(&folder) {
                if !hole.hours.any(wanted) {
                    notes.push(format!(
                        "{}: nothing holds offsets {} to {}, of about {}: replay those hours too",
                        chain.partition, hole.from, hole.to, hole.hours.start
                    ));
                    continue;
                }
                let pieces = self.pieces_of(chain, &folder, &hole, &damaged, records).await?;
                chain.files.extend(pieces);
            }
            chain.files.sort_by_key(|file| file.first);
            // What `expire` was removing when it was stopped.
            chain.leave_expired();
            chain.carry_last_events();
            chain.note_elsewhere(wanted, &mut notes);
            chain.files.retain(|file| wanted(file.hour) && file.is_sealed());
            if let Some(file) = chain.files.iter().find(|file| file.next > chain.log_end) {
                let log_end = chain.log_end;
                let what = format!(
                    "{} ends at {log_end} in Kafka, but {} holds offsets up to {}: this is not the topic that was written to the lake. Nothing was changed",
                    chain.partition, file.path, file.next
                );
                return Err(Stop::new(ExitCode::TopicChanged, what).into());
            }
        }
        refuse_what_is_gone(&chains)?;
        let mut files: Vec<PlannedFile> = chains.into_iter().flat_map(|chain| chain.files).collect();
        for file in &mut files {
            self.look_at(file).await?;
        }
        Ok(Plan { topic: topic.to_owned(), content, files, notes })
    }

    /// Each partition's head and the bounds of its log.
    async fn heads(
        &self,
        topic: &str,
    ) -> Result<Vec<(TopicPartition, Head, KafkaOffset, KafkaOffset)>, ReplayError> {
        let ids = self.log.topic_ids(vec![topic.into()]).await?;
        let Some(id) = ids.get(topic) else {
            let what = format!(
                "the topic {topic} is not in Kafka, so nothing can be read from it. Nothing was changed"
            );
            return Err(Stop::new(ExitCode::TopicChanged, what).into());
        };
        let id = id.map(|id| id.to_string());
        let mut heads = Vec::new();
        for number in 0..self.log.partition_count(topic).await? {
            let partition = TopicPartition::new(topic, number);
            let path = LakePath::head(&partition);
            // A partition that no sink has had yet has no files either.
            let Some(document) = self.lake.read_document(&path).await? else { continue };
            let head = Head::parse(&document.bytes).map_err(|what| LakeError::Damaged { path, what })?;
            if let (Some(expected), Some(found)) = (&head.topicid, &id)
                && expected != found
            {
                let what = format!(
                    "{topic} was deleted and made again: the lake was written from the topic with id {expected}, Kafka has {found}. What the old one held cannot be read again. Nothing was changed"
                );
                return Err(Stop::new(ExitCode::TopicChanged, what).into());
            }
            let start = self.log.start(&partition).await?;
            let end = self.log.end(&partition).await?;
            heads.push((partition, head, start, end));
        }
        if heads.is_empty() {
            let what = format!("{topic} has no chain in this lake: check LAKE_URL and the topic's name");
            return Err(Stop::new(ExitCode::Usage, what).into());
        }
        Ok(heads)
    }

    fn content(
        &self,
        topic: &str,
        heads: &[(TopicPartition, Head, KafkaOffset, KafkaOffset)],
    ) -> Result<TopicContent, Stop> {
        let known = heads.iter().find_map(|(_, head, _, _)| head.content());
        known.or_else(|| TopicContent::by_name(self.names, topic)).ok_or_else(|| {
            Stop::new(ExitCode::Usage, format!("{topic} has no records in this lake: nothing to make again"))
        })
    }

    async fn manifests(&self, folder: &TopicFolder) -> Result<Vec<Manifest>, ReplayError> {
        let mut manifests = Vec::new();
        for path in self.lake.list_names(folder.path()).await? {
            if path.file_name() != MANIFEST || folder.hour_of(&path).is_none() {
                continue;
            }
            let Some(document) = self.lake.read_document(&path).await? else { continue };
            manifests.push(Manifest::parse(&document.bytes).map_err(|what| LakeError::Damaged {
                path,
                what: format!("{what}; delete it and type the command again: it is made anew from the files"),
            })?);
        }
        Ok(manifests)
    }

    /// The files that a hole of the chain must have held.
    async fn pieces_of(
        &self,
        chain: &SeenChain,
        folder: &TopicFolder,
        hole: &Hole,
        damaged: &BTreeMap<&LakePath, &str>,
        records: &mut RecordReader,
    ) -> Result<Vec<PlannedFile>, ReplayError> {
        let Hole { from, to, .. } = *hole;
        if chain.log_start > from {
            let what = format!(
                "nothing in the lake holds offsets {from} to {to} of {}, and Kafka has only what lies behind {}: they cannot be made again. Nothing was changed",
                chain.partition, chain.log_start
            );
            return Err(Stop::new(ExitCode::OffsetGap, what).into());
        }
        let content = chain.head.content().unwrap_or_else(|| TopicContent::Data(Namespace::new("", "")));
        let letters = self
            .letters
            .get_or_try_init(|| KnownLetters::read(self.dead_letters, self.log, self.reader))
            .await?;
        let judge = Judge { content: &content, schemas: self.schemas, letters };
        let mut pieces: Vec<(EventHour, KafkaOffset)> = Vec::new();
        let before = chain.event_before(from).or_else(|| {
            let expired = chain.expired.as_ref()?;
            expired.event_before(chain.partition.partition, from)?
        });
        let mut repeats = RepeatFilter::after(before.as_ref());
        let mut messages = self.reader.read(&chain.partition, from, to)?;
        while let Some(message) = messages.next_record()? {
            use rdkafka::Message;
            let Some(offset) = KafkaOffset::from_kafka(message.offset()) else { continue };
            let inspected = records.inspect(&view_of(&message), message.topic(), &content).await?;
            let place = (chain.partition.clone(), offset);
            let inspected = judge.judge(&place, None, None, inspected);
            if repeats.passes_over(&inspected) {
                continue;
            }
            let letter = matches!(inspected.verdict, Verdict::DeadLetter { .. });
            match pieces.last() {
                None => pieces.push((inspected.hour, from)),
                Some((hour, _)) if letter || *hour == inspected.hour => {}
                Some(_) => pieces.push((inspected.hour, offset)),
            }
        }
        let format = chain.format_at(from).unwrap_or(self.format);
        let ends = pieces.iter().skip(1).map(|(_, first)| *first).chain([to]);
        let files = pieces.iter().zip(ends).map(|((hour, first), next)| {
            let path = self.path_of(folder, *hour, chain.partition.partition, *first, damaged);
            let trouble = damaged.get(&path).map_or("missing", |what| what).to_owned();
            PlannedFile {
                path,
                partition: chain.partition.clone(),
                hour: *hour,
                first: *first,
                next,
                format,
                known: Known::Untraced { trouble },
                after: EventBefore::Unknown,
            }
        });
        Ok(files.collect())
    }

    /// Where a file of a hole was: what stands there damaged says how it was packed; else new files' packing is as good as any.
    fn path_of(
        &self,
        folder: &TopicFolder,
        hour: EventHour,
        partition: i32,
        first: KafkaOffset,
        damaged: &BTreeMap<&LakePath, &str>,
    ) -> LakePath {
        let with = |compression| folder.data_file(hour, partition, first, compression);
        let there = Compression::ALL.into_iter().map(with).find(|path| damaged.contains_key(path));
        there.unwrap_or_else(|| with(self.compression))
    }

    /// Whether the bytes that the metadata promises are there at all.
    async fn look_at(&self, file: &mut PlannedFile) -> Result<(), ReplayError> {
        let Known::Whole(metadata) = &file.known else { return Ok(()) };
        let trouble = match self.lake.look(&file.path).await? {
            Some(sight) => sight.file.err(),
            None => Some("missing".to_owned()),
        };
        if let Some(trouble) = trouble {
            file.known = Known::Listed {
                trouble,
                rows: metadata.rows,
                dead_letters: metadata.dead_letters.count(),
                bytes: metadata.original_size,
            };
        }
        Ok(())
    }
}

impl SeenChain {
    fn add_listed(&mut self, folder: &TopicFolder, listed: &[crate::lake::ListedFile]) {
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
    fn add_from_manifests(
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

    fn leave_expired(&mut self) {
        if let Some(expired) = &self.expired {
            let partition = self.partition.partition;
            self.files.retain(|file| !expired.holds(partition, file.first, file.next));
        }
    }

    /// That of the file before; else of the one after.
    fn format_at(&self, offset: KafkaOffset) -> Option<LineFormat> {
        let before = self.files.iter().filter(|file| file.first < offset).max_by_key(|file| file.first);
        let after = || self.files.iter().min_by_key(|file| file.first);
        before.or_else(after).map(|file| file.format)
    }

    /// Tells each file of the last event before it.
    fn carry_last_events(&mut self) {
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
                Known::Listed { .. } | Known::Untraced { .. } => EventBefore::Unknown,
            };
            end = file.next;
        }
    }

    /// The last event before an offset where a file ends, as far as it is known.
    fn event_before(&self, offset: KafkaOffset) -> Option<LastEvent> {
        if self.head.first == Some(offset) {
            return self.head.lastevent.clone();
        }
        match &self.files.iter().find(|file| file.next == offset)?.known {
            Known::Whole(metadata) => metadata.last_event.clone(),
            Known::Listed { .. } | Known::Untraced { .. } => None,
        }
    }

    /// Ranges that no file holds, up to the file that the head names, and that were not removed on purpose.
    fn holes(&self, folder: &TopicFolder) -> Vec<Hole> {
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
    fn note_elsewhere(&self, wanted: impl Fn(EventHour) -> bool, notes: &mut Vec<String>) {
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

impl PlannedFile {
    /// An open file belongs to the live sink.
    fn is_sealed(&self) -> bool {
        match &self.known {
            Known::Whole(metadata) => metadata.sealed,
            Known::Listed { .. } | Known::Untraced { .. } => true,
        }
    }
}

/// Records that Kafka has expired stop the whole request: every range that is not there any more is named.
fn refuse_what_is_gone(chains: &[SeenChain]) -> Result<(), Stop> {
    let mut gone = Vec::new();
    for chain in chains {
        for file in chain.files.iter().filter(|file| file.first < chain.log_start) {
            let lost = file.next.min(chain.log_start);
            gone.push(format!(
                "  {}, hour {}: offsets {} to {lost} of {} ({})",
                chain.partition,
                file.hour,
                file.first,
                file.next,
                file.trouble().map_or("the file is there", |trouble| trouble)
            ));
        }
    }
    if gone.is_empty() {
        return Ok(());
    }
    let what = format!(
        "Kafka no longer has all records of what was asked for:\n{}\nThese files cannot be made again. Nothing was changed. Name other hours with --hour, or --from and --to",
        gone.join("\n")
    );
    Err(Stop::new(ExitCode::OffsetGap, what))
}

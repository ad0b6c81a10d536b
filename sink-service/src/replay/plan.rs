//! What is to be made again: files and ranges, from the chain and the manifests; nothing is written here.
//!
//! A topic without a chain is planned in [`super::by_time`].
//!
//! A file is known by its own metadata, else by its hour's manifest, else by the hole that it left in the chain. Of a hole the records
//! themselves say which hours it held, by the rule that the live sink has: a file ends where a row or tombstone of another hour comes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rdkafka::ClientConfig;
use shared::{
    exit::{ExitCode, Stop},
    kafka_position::{KafkaOffset, TopicPartition},
    namespace::Namespace,
    topic_name::TopicNames,
};
use tokio::sync::OnceCell;

use super::{
    EventBefore, Known, PlannedFile, ReplayError,
    by_time::ReadRange,
    judge::Judge,
    seen_chain::{Hole, SeenChain},
};
use crate::{
    chain::{ChainHalt, FilePolicy},
    compression::Compression,
    dlq::KnownLetters,
    event_hour::EventHour,
    head::Head,
    hours::{accounts::closed_hours, expired::expired, manifest::Manifest},
    kafka_log::KafkaLog,
    lake::LakeError,
    lake_layout::OpenLake,
    lake_path::{LakePath, MANIFEST, SUCCESS, TopicFolder, is_data_file_of},
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
    /// Closed hours without a file in the plan that lack manifest or mark; for a copy, all that have none.
    pub empty: Vec<EventHour>,
    /// Things that the operator should know of.
    pub notes: Vec<String>,
    /// Where the lake has no chain: what was read to find the files.
    pub read_by_time: Vec<ReadRange>,
}

/// Who is asked.
pub(super) struct Planner<'a> {
    pub lake: &'a OpenLake,
    pub log: &'a KafkaLog,
    pub reader: &'a TopicReader,
    pub names: &'a TopicNames,
    pub kafka: &'a ClientConfig,
    pub group: &'a str,
    /// The files go into another lake.
    pub into: Option<&'a OpenLake>,
    /// Of new files.
    pub compression: Compression,
    pub policy: FilePolicy,
    /// Of collections without a source.
    pub grace: Duration,
    pub schemas: &'a SchemaChecks,
    /// Read where a hole of a chain may have held some.
    pub letters: OnceCell<KnownLetters>,
    pub dead_letters: &'a str,
}

/// A partition with its head, and where its log begins and ends.
type SeenHead = (TopicPartition, Head, KafkaOffset, KafkaOffset);

impl Planner<'_> {
    pub(super) async fn plan(
        &self,
        topic: &str,
        span: &Span,
        records: &mut RecordReader,
    ) -> Result<Plan, ReplayError> {
        let (heads, headless) = self.heads(topic).await?;
        let content = match self.content(topic, &heads) {
            Some(content) => content,
            None => self.content_by_records(topic).await?,
        };
        let folder = self.lake.folder(&content);
        let names = self.lake.list_names(folder.path()).await?;
        self.refuse_lost_heads(&headless, &folder, &names).await?;
        if heads.is_empty() {
            return self.plan_by_time(topic, content, span, records).await;
        }
        let record = closed_hours(self.lake, topic).await?.map(|(record, _)| record);
        let begin = record.as_ref().map_or(EventHour::EPOCH, |record| record.begin);
        let closed = record.and_then(|record| record.closed).ok_or_else(|| {
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
        let manifests = if whole { Vec::new() } else { self.manifests(&folder, &names).await? };
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
                // Another topic was refused by its id, where it has one.
                let now = self.log.identities(vec![topic.into()]).await?;
                let is_same = now.get(topic).is_some_and(|now| chain.head.topic_identity().is_certainly(now));
                let halt =
                    ChainHalt::log_too_short(chain.partition.clone(), file.next, chain.log_end, is_same);
                let what = format!("{halt}. {} cannot be made again. Nothing was changed", file.path);
                return Err(Stop::new(ExitCode::TopicChanged, what).into());
            }
        }
        refuse_what_is_gone(&chains)?;
        let mut files: Vec<PlannedFile> = chains.into_iter().flat_map(|chain| chain.files).collect();
        for file in &mut files {
            self.look_at(file).await?;
        }
        let hours_with = |name: &str| -> BTreeSet<EventHour> {
            let named = names.iter().filter(|path| path.file_name() == name);
            named.filter_map(|path| folder.hour_of(path)).collect()
        };
        let (manifests, marks) = (hours_with(MANIFEST), hours_with(SUCCESS));
        let with_files: BTreeSet<EventHour> = files.iter().map(|file| file.hour).collect();
        let is_whole = |hour| self.into.is_none() && manifests.contains(&hour) && marks.contains(&hour);
        let empty = begin.max(kept_from).to(closed).filter(|hour| span.contains(*hour));
        let empty: Vec<EventHour> =
            empty.filter(|hour| !with_files.contains(hour) && !is_whole(*hour)).collect();
        if let (Some(first), false) = (empty.first(), self.into.is_some()) {
            notes.push(format!(
                "{} hours without rows lack manifest or mark, the first is {first}: these are made again",
                empty.len()
            ));
        }
        Ok(Plan { topic: topic.to_owned(), content, files, empty, notes, read_by_time: Vec::new() })
    }

    /// A partition without a head has no files, or its head was lost: then nobody knows where its chain begins and ends.
    async fn refuse_lost_heads(
        &self,
        headless: &[TopicPartition],
        folder: &TopicFolder,
        names: &[LakePath],
    ) -> Result<(), ReplayError> {
        if headless.is_empty() {
            return Ok(());
        }
        let manifests = self.manifests(folder, names).await?;
        for partition in headless {
            let number = partition.partition;
            let is_named = |manifest: &Manifest| {
                manifest.topic == *partition.topic
                    && manifest.chain_files().iter().any(|file| file.partition == number)
            };
            if names.iter().any(|path| is_data_file_of(path, number)) || manifests.iter().any(is_named) {
                let what = format!(
                    "{} is missing, and {partition} has files in the lake: the head was lost. `sink-service verify --topic {} --restore-head` makes it again; then type this again. Nothing was changed",
                    LakePath::head(partition),
                    partition.topic
                );
                return Err(Stop::new(ExitCode::LakeDiffers, what).into());
            }
        }
        Ok(())
    }

    /// Each partition's head and the bounds of its log; and the partitions without a head.
    async fn heads(&self, topic: &str) -> Result<(Vec<SeenHead>, Vec<TopicPartition>), ReplayError> {
        let identities = self.log.identities(vec![topic.into()]).await?;
        let Some(now) = identities.get(topic) else {
            let what = format!(
                "the topic {topic} is not in Kafka, so nothing can be read from it. Nothing was changed"
            );
            return Err(Stop::new(ExitCode::TopicChanged, what).into());
        };
        let (mut heads, mut headless) = (Vec::new(), Vec::new());
        for number in 0..self.log.partition_count(topic).await? {
            let partition = TopicPartition::new(topic, number);
            let path = LakePath::head(&partition);
            let Some(document) = self.lake.read_document(&path).await? else {
                headless.push(partition);
                continue;
            };
            let head = Head::parse(&document.bytes).map_err(|what| LakeError::Damaged { path, what })?;
            head.topic_identity().check(now).map_err(|another| {
                let what = format!(
                    "{topic}: {another}. What the first one held cannot be read from this one. Nothing was changed"
                );
                Stop::new(ExitCode::TopicChanged, what)
            })?;
            let start = self.log.start(&partition).await?;
            let end = self.log.end(&partition).await?;
            heads.push((partition, head, start, end));
        }
        Ok((heads, headless))
    }

    /// `None` if only records say it, and the lake has none.
    fn content(&self, topic: &str, heads: &[SeenHead]) -> Option<TopicContent> {
        let known = heads.iter().find_map(|(_, head, _, _)| head.content());
        known.or_else(|| TopicContent::by_name(self.names, topic))
    }

    pub(super) async fn known_letters(&self) -> Result<&KnownLetters, ReplayError> {
        let read = || KnownLetters::read(self.dead_letters, self.log, self.reader);
        Ok(self.letters.get_or_try_init(read).await?)
    }

    async fn manifests(
        &self,
        folder: &TopicFolder,
        names: &[LakePath],
    ) -> Result<Vec<Manifest>, ReplayError> {
        let mut manifests = Vec::new();
        for path in names {
            if path.file_name() != MANIFEST || folder.hour_of(path).is_none() {
                continue;
            }
            let path = path.clone();
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
        let letters = self.known_letters().await?;
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
        let format = chain.format_at(from).unwrap_or(self.policy.line_format);
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
    pub(super) fn path_of(
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

impl PlannedFile {
    /// An open file belongs to the live sink.
    fn is_sealed(&self) -> bool {
        match &self.known {
            Known::Whole(metadata) => metadata.sealed,
            Known::Listed { .. } | Known::Untraced { .. } | Known::Counted { .. } => true,
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

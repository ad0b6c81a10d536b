//! `verify`: counts Kafka again and holds it against the lake, record by record.
//!
//! For each partition it walks the chain from the head's `start` to its end, and beside it the topic, read committed:
//!
//! ```text
//!   head ─▶ file [first, next) ─▶ file [first, next) ─▶ …     no gap, no overlap, sealed before its successor
//!             │ each line                │
//!   Kafka ────┴── each record ───────────┴──▶                 the value and its coordinates, byte for byte, once
//! ```
//!
//! A line must be what the sink would write for the record at its offset, in the hour of that record; a record without a
//! line must be a tombstone or a dead letter that the file's metadata names. Metadata must agree with the content (rows,
//! sizes, checksum), and the manifests and marks of closed hours with both. Event ids of one topic must differ. Records that Kafka no longer has are checked by the file alone,
//! and counted apart; hours that `expire` has removed are passed over. Nothing is written, and the live group is not touched.
//!
//! Of some hours only ([`Span`]): the chain's links and the metadata are checked as a whole, since they cost no more than the listing; records, lines
//! and manifests are those of the files of these hours.

mod closed_hours;
mod command;
mod comparison;
mod expected_flat;
mod expected_line;
mod report;
mod reprints;
mod restore;
mod walk;

use std::collections::{BTreeMap, BTreeSet};

use shared::{
    kafka_position::{KafkaOffset, TopicPartition},
    namespace::Namespace,
    topic_name::TopicNames,
};

#[cfg(test)]
pub(crate) use self::expected_flat::flat as expected_flat;
pub use self::{
    command::verify,
    report::Output,
    walk::{Delivery, PartitionResult},
};
use self::{
    comparison::Comparison,
    walk::{EventIds, Walk},
};
use crate::{
    chain::ChainHalt,
    file_metadata::{FileMetadata, LastEvents},
    gaps::{Gaps, gaps},
    head::Head,
    hours::expired::{Expired, expired, may_be_missing},
    kafka_log::{KafkaLog, LogError},
    lake::{LakeError, ListedFile, Listing},
    lake_layout::OpenLake,
    lake_path::{LakePath, TopicFolder, is_data_file_of},
    look_again::look_again,
    look_error::LookError,
    record_reader::RecordReader,
    span::Span,
    topic_content::TopicContent,
    topic_identity::TopicIdentity,
    topic_reader::TopicReader,
};

/// What is compared.
pub struct Verification<'a> {
    pub lake: &'a OpenLake,
    pub log: &'a KafkaLog,
    pub reader: TopicReader,
    pub names: TopicNames,
    /// Files of these hours are compared.
    pub span: Span,
    /// Whether a record in Kafka that is not yet durable counts as a difference.
    pub drained: bool,
    pub delivery: Delivery,
}

/// What one topic's partitions are compared with.
#[derive(Default)]
struct Look {
    partitions: Vec<Seen>,
    /// All partitions of a topic lie in one folder, as a rule.
    folders: BTreeMap<LakePath, Folder>,
    expired: Option<Expired>,
    gaps: Option<Gaps>,
    /// As Kafka has the topic now; nothing is known of one that is not there.
    topic: TopicIdentity,
}

/// One partition, before the folder was listed.
struct Seen {
    partition: TopicPartition,
    /// Where its log begins and ends; `None` if the topic is not in Kafka.
    log: Option<(KafkaOffset, KafkaOffset)>,
    /// The text says why it cannot be read.
    head: Option<Result<Head, String>>,
}

struct Folder {
    files: Listing,
    /// Of reprints that manifests name.
    reprinted: Vec<ListedFile>,
    /// Ours or not.
    names: Vec<LakePath>,
}

impl Verification<'_> {
    /// Reads what one topic's partitions are compared with: first the log and the heads of all of them, then, once, the folder.
    ///
    /// # Errors
    /// If it could not be read.
    async fn look(&self, partitions: &[TopicPartition]) -> Result<Look, LookError> {
        let mut look = Look::default();
        for partition in partitions {
            let log = match (self.log.start(partition).await, self.log.end(partition).await) {
                (Ok(start), Ok(end)) => Some((start, end)),
                (Err(LogError::NoTopic(_)), _) | (_, Err(LogError::NoTopic(_))) => None,
                (Err(error), _) | (_, Err(error)) => return Err(error.into()),
            };
            let path = LakePath::head(partition);
            let head = look_again(async || self.lake.read_document(&path).await).await?.map(|document| {
                Head::parse(&document.bytes).map_err(|what| LakeError::Damaged { path, what }.to_string())
            });
            look.partitions.push(Seen { partition: partition.clone(), log, head });
        }
        for seen in &look.partitions {
            if let Some(content) = self.content(seen)
                && let folder = self.lake.folder(&content)
                && !look.folders.contains_key(folder.path())
            {
                let listed = look_again(async || self.lake.list_with_reprints(folder.path()).await).await?;
                let (files, reprinted) = listed;
                let names = look_again(async || self.lake.list_names(folder.path()).await).await?;
                let reprinted = reprints::named(self.lake, &folder, reprinted.files, &self.span).await?;
                look.folders.insert(folder.path().clone(), Folder { files, reprinted, names });
            }
        }
        // After the listing: what is not there because of `expire` is written down by now.
        if let Some(partition) = partitions.first() {
            let expired = look_again(async || expired(self.lake, &partition.topic).await).await?;
            look.expired = expired.map(|(record, _)| record);
            let gaps = look_again(async || gaps(self.lake, &partition.topic).await).await?;
            look.gaps = gaps.map(|(record, _)| record);
            let mut identities = self.log.identities(vec![partition.topic.clone()]).await?;
            look.topic = identities.remove(&partition.topic).unwrap_or_default();
        }
        Ok(look)
    }

    /// Where a partition's files lie; `None` if its topic's name was cut and it has no rows yet.
    fn content(&self, seen: &Seen) -> Option<TopicContent> {
        let of_head = seen.head.as_ref().and_then(|head| head.as_ref().ok()).and_then(Head::content);
        of_head.or_else(|| TopicContent::by_name(&self.names, &seen.partition.topic))
    }

    /// Compares one partition; tells `progress` how many records have been compared.
    ///
    /// # Errors
    /// If it could not be compared. Differences are no error.
    async fn compare(
        &self,
        seen: &Seen,
        look: &Look,
        events: &mut EventIds,
        records: &mut RecordReader,
        mut progress: impl FnMut(u64),
    ) -> Result<PartitionResult, LookError> {
        let Seen { partition, log, head } = seen;
        let log = *log;
        let mut walk = Walk::new(partition, self.delivery);
        walk.result.lost = look.gaps.as_ref().map_or(0, |gaps| gaps.lost_of(partition.partition));
        if log.is_none() {
            walk.differs("the topic is no longer in Kafka: only the files were checked".to_owned());
        }
        let content = self.content(seen);
        let place = content.as_ref().map(|content| self.lake.folder(content));
        let place = place.as_ref().and_then(|folder| Some((folder, look.folders.get(folder.path())?)));
        let head = match head {
            Some(Ok(head)) => match head.topic_identity().check(&look.topic) {
                Err(another) => {
                    let what = format!("{another}. Its records say nothing of the lake's");
                    return Ok(PartitionResult::unreadable(partition, what));
                }
                Ok(()) => head,
            },
            Some(Err(what)) => return Ok(PartitionResult::unreadable(partition, what.clone())),
            None => {
                if let Some((_, listed)) = place {
                    if listed.files.files.iter().any(|file| file.metadata.topic_partition == *partition) {
                        walk.differs(format!(
                            "{} is missing, though there are files: the head was lost; --restore-head makes it again",
                            LakePath::head(partition)
                        ));
                    }
                    self.check_strays(listed, look, partition, &[], &mut walk).await?;
                }
                if let Some((start, end)) = log.filter(|(start, end)| start < end) {
                    walk.pending(end.get() - start.get(), self.drained, "there is no chain yet");
                }
                return Ok(walk.result);
            }
        };
        let mut files = Vec::new();
        if let Some((folder, listed)) = place {
            if let Some((path, what)) = listed.files.damaged.first() {
                let error = LakeError::Damaged { path: path.clone(), what: what.clone() };
                return Ok(PartitionResult::unreadable(partition, error.to_string()));
            }
            files = self.files(folder, listed, look, partition, &mut walk).await?;
        }
        let expired = look.expired.as_ref();
        files.retain(|file| {
            let FileMetadata { first, next, .. } = file.metadata;
            !may_be_missing(expired, partition, first, next)
        });
        let content = content.unwrap_or_else(|| TopicContent::Data(Namespace::new("", "")));
        walk.result.start = Some(head.start.get());
        let end = walk.check_chain(head, &files, expired);
        walk.result.end = Some(end.get());
        // As a start compares them.
        let position = end.max(head.scanned);
        if log.is_some_and(|(_, seen)| seen < position) {
            // A live sink may have gone on since it was seen.
            let log_end = self.log.end(partition).await?;
            if log_end < position {
                let is_same = head.topic_identity().is_certainly(&look.topic);
                let halt = ChainHalt::log_too_short(partition.clone(), position, log_end, is_same);
                return Ok(PartitionResult::unreadable(partition, halt.to_string()));
            }
        }
        if partition.partition == 0 {
            closed_hours::check(self.lake, &partition.topic, &content, &self.span, expired, &mut walk)
                .await?;
        }
        let ends = files.iter().map(|file| (file.metadata.next, file.metadata.last_event.clone())).collect();
        let chain = KnownChain { partition, content: &content, log, head, expired, ends };
        let files: Vec<ListedFile> =
            files.into_iter().filter(|file| self.span.covers(self.lake.hour_of(&file.path))).collect();
        walk.count(&files);
        self.compare_runs(&chain, files, &mut walk, (&mut *events, &mut *records), &mut progress).await?;
        let of_partition = |file: &&ListedFile| file.metadata.topic_partition == *partition;
        let reprinted: Vec<ListedFile> = place
            .map(|(_, listed)| listed.reprinted.iter().filter(of_partition).cloned().collect())
            .unwrap_or_default();
        if !reprinted.is_empty() {
            walk.result.reprinted = reprinted.len();
            // The chain's rows once more: on their own each event comes once.
            let (mut again, mut events) = (Walk::new(partition, self.delivery), EventIds::default());
            self.compare_runs(&chain, reprinted, &mut again, (&mut events, &mut *records), &mut progress)
                .await?;
            walk.absorb(again);
        }
        if let Some((log_start, log_end)) = log {
            let mut position = end.max(head.scanned);
            // A live sink may have gone on since the head was seen, and retention behind it.
            if log_start > position && self.is_gap(partition, log_start).await? {
                walk.differs(format!(
                    "the records from offset {position} to {log_start} are no longer in Kafka and not in the lake: a sink stops there with 21, \
                     and `run --accept-gap {}` goes on behind them",
                    partition.topic
                ));
            }
            position = position.max(log_start);
            let pending = self.reader.count(partition, position, log_end)?;
            if pending > 0 {
                walk.pending(pending, self.drained, "records are not in the lake yet");
            }
        }
        Ok(walk.result)
    }

    /// Whether the chain, as it is now, ends before the log begins.
    async fn is_gap(&self, partition: &TopicPartition, log_start: KafkaOffset) -> Result<bool, LookError> {
        let path = LakePath::head(partition);
        let Some(document) = look_again(async || self.lake.read_document(&path).await).await? else {
            return Ok(true);
        };
        let head = Head::parse(&document.bytes).map_err(|what| LakeError::Damaged { path, what })?;
        let mut position = head.first.unwrap_or(head.start).max(head.scanned);
        if let Some(path) = &head.path
            && let Some(file) = look_again(async || self.lake.file(path).await).await?
        {
            position = position.max(file.metadata.next);
        }
        Ok(position < log_start)
    }

    /// Records and lines of some files, in the order of the chain.
    async fn compare_runs(
        &self,
        chain: &KnownChain<'_>,
        files: Vec<ListedFile>,
        walk: &mut Walk,
        (events, records): (&mut EventIds, &mut RecordReader),
        progress: &mut impl FnMut(u64),
    ) -> Result<(), LookError> {
        let KnownChain { partition, content, log, head, .. } = chain;
        let mut compared = 0;
        for run in runs_of(files) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let (run_start, run_end) = (first.metadata.first, last.metadata.next);
            let compared_from = log.map_or(run_end, |(start, _)| start.max(run_start).min(run_end));
            let before = chain.event_before(run_start);
            let whole = run_start == head.start;
            let mut comparison =
                Comparison::new(self.lake, content, run, before.as_ref(), whole, &mut *walk, &mut *events);
            // Files that Kafka can no longer confirm, whole or in part, are read up to where the log begins.
            comparison.read_alone_until(compared_from).await?;
            let mut messages = self.reader.read(partition, compared_from, run_end)?;
            while let Some(message) = messages.next_record()? {
                comparison.take(&message, records).await?;
                compared += 1;
                if compared % 1_000 == 0 {
                    progress(compared);
                }
            }
            progress(compared);
            comparison.finish().await?;
        }
        Ok(())
    }

    async fn files(
        &self,
        folder: &TopicFolder,
        listed: &Folder,
        look: &Look,
        partition: &TopicPartition,
        walk: &mut Walk,
    ) -> Result<Vec<ListedFile>, LookError> {
        let of_partition = |file: &&ListedFile| file.metadata.topic_partition == *partition;
        let mut files: Vec<ListedFile> = listed.files.files.iter().filter(of_partition).cloned().collect();
        files.sort_by_key(|file| (file.metadata.first, file.metadata.next));
        self.check_strays(listed, look, partition, &files, walk).await?;
        for file in &files {
            let FileMetadata { first, compressed, .. } = file.metadata;
            let is_right = folder.is_at(&file.path, partition.partition, first)
                && file.path.compression() == Some(compressed);
            if !is_right {
                walk.differs(format!("{} is not where its metadata puts it", file.path));
            }
            let (path, end) = (&file.path, file.metadata.stored_size);
            // An open one may have what a dead writer left; whoever writes next cuts it off.
            if file.metadata.sealed
                && let Some(length) = look_again(async || self.lake.stored_length(path).await).await?
                && length > end
            {
                walk.differs(format!(
                    "{path} has {} bytes behind its end, which no sink wrote: readers of the folder see them. Cut it to {end} bytes",
                    length - end
                ));
            }
        }
        Ok(files)
    }

    /// Whoever reads the folder reads every data file in it, also those that no chain knows.
    async fn check_strays(
        &self,
        listed: &Folder,
        look: &Look,
        partition: &TopicPartition,
        known: &[ListedFile],
        walk: &mut Walk,
    ) -> Result<(), LookError> {
        let known: BTreeSet<&LakePath> = known.iter().map(|file| &file.path).collect();
        let numbers: BTreeSet<i32> = look.partitions.iter().map(|seen| seen.partition.partition).collect();
        for path in &listed.names {
            let Some(number) = path.partition().filter(|number| is_data_file_of(path, *number)) else {
                continue;
            };
            // What names a partition that there is not is looked at once.
            let is_ours =
                number == partition.partition || partition.partition == 0 && !numbers.contains(&number);
            if !is_ours || known.contains(path) {
                continue;
            }
            let owner = look_again(async || self.lake.file(path).await)
                .await?
                .map(|file| file.metadata.topic_partition);
            if owner.is_none_or(|owner| owner.topic == partition.topic) {
                walk.differs(format!("{path} belongs to no chain: readers of the folder see its rows"));
            }
        }
        Ok(())
    }
}

/// What is known of a partition when its files are compared.
struct KnownChain<'a> {
    partition: &'a TopicPartition,
    content: &'a TopicContent,
    log: Option<(KafkaOffset, KafkaOffset)>,
    head: &'a Head,
    expired: Option<&'a Expired>,
    /// By where a file ends, the last events up to there.
    ends: BTreeMap<KafkaOffset, Option<LastEvents>>,
}

impl KnownChain<'_> {
    /// Of a file that was removed on purpose its record says it, of one that is being made the head.
    fn event_before(&self, offset: KafkaOffset) -> Option<LastEvents> {
        let removed = || {
            self.expired.and_then(|record| record.event_before(self.partition.partition, offset)).flatten()
        };
        let of_head = || self.head.lastevent.clone().filter(|_| self.head.first == Some(offset));
        self.ends.get(&offset).cloned().unwrap_or_else(|| removed().or_else(of_head))
    }
}

/// Files that follow each other in the chain without a file between them that was left out.
fn runs_of(files: Vec<ListedFile>) -> Vec<Vec<ListedFile>> {
    let mut runs: Vec<Vec<ListedFile>> = Vec::new();
    for file in files {
        match runs.last_mut() {
            Some(run) if run.last().is_some_and(|last| last.metadata.next >= file.metadata.first) => {
                run.push(file)
            }
            _ => runs.push(vec![file]),
        }
    }
    runs
}

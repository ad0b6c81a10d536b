//! One file made again: its range read from Kafka, its bytes written where nobody sees them, then one conditional commit.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use bytes::Bytes;
use chrono::Utc;
use rdkafka::Message;
use shared::{
    backoff::Backoff,
    exit::{ExitCode, Stop},
    kafka_position::KafkaOffset,
};

use super::{EventBefore, Known, PlannedFile, ReplayError, hour_claim::superseded, judge::Judge};
use crate::{
    buffer::{Buffer, DeadLetter},
    chain::{self, FilePolicy, Writer},
    file_metadata::{FileMetadata, LastEvents, LineCrc, LineCrcBuilder, OffsetRuns},
    hours::accounts::manifest,
    lake::{ETag, FileState, LakeError, Rewrite},
    lake_layout::OpenLake,
    lake_path::LakePath,
    partition::view_of,
    record::{LAYOUT, Verdict},
    record_reader::RecordReader,
    repeats::RepeatFilter,
    topic_content::TopicContent,
    topic_reader::TopicReader,
};

/// Lines are handed on in pieces of about this size.
const PIECE_BYTES: usize = 8 * 1024 * 1024;

/// And with so many dead letters at most: a file ends before its metadata is full of them.
const PIECE_LETTERS: usize = 100;

/// A lake that does not answer is asked this often, with growing pauses: about three minutes in all.
const ATTEMPTS_MAX: u32 = 12;

/// Files of one topic, one after the other, with a consumer of their own.
pub(super) struct Rebuilder<'a> {
    pub lake: &'a OpenLake,
    pub content: &'a TopicContent,
    pub reader: TopicReader,
    pub records: RecordReader,
    pub writer: Writer,
    pub judge: Judge<'a>,
    /// Counts the offsets that are done.
    pub done: &'a AtomicU64,
    /// Where the file before ended that was made again, and with which events.
    pub last: Option<(KafkaOffset, Option<LastEvents>)>,
}

/// What came of one file.
#[derive(Clone, Debug)]
pub(super) struct Rebuilt {
    pub metadata: FileMetadata,
    /// It carried the generation already, and its content is what it says: an earlier run did it.
    pub was_done: bool,
    /// It was whole, and stays as it was.
    pub kept: bool,
    /// Dead letters of before that are rows now.
    pub taken_in: u64,
    /// It has other lines than before, for no such reason.
    pub changed: bool,
}

/// What was found at the file's path, and is to be replaced.
struct Before {
    expected: Option<ETag>,
    readable: Option<FileState>,
}

/// How the records of a range become a file.
pub(super) struct Rules<'a> {
    /// Offsets that were dead letters; `None` if nobody knows.
    pub letters: Option<&'a OffsetRuns>,
    /// Those that can be read now become rows.
    pub takes_in: bool,
    /// When the file ends before its range does; `None` = never.
    pub policy: Option<FilePolicy>,
}

/// Looks again where the lake does not answer, or somebody else was first.
///
/// # Errors
/// Those of the last attempt.
pub(super) async fn again<T>(
    path: &LakePath,
    mut attempt: impl AsyncFnMut() -> Result<T, ReplayError>,
) -> Result<T, ReplayError> {
    let mut backoff = Backoff::default();
    loop {
        match attempt().await {
            Err(ReplayError::Lake(
                error @ (LakeError::Conflict | LakeError::Unknown { .. } | LakeError::Unavailable { .. }),
            )) if backoff.attempts() < ATTEMPTS_MAX => {
                let asked = match &error {
                    LakeError::Unavailable { retry_after, .. } => *retry_after,
                    _ => None,
                };
                let delay = backoff.next_delay_at_least(asked);
                tracing::warn!(%path, cause = %error, ?delay, "looked at again");
                tokio::time::sleep(delay).await;
            }
            result => return result,
        }
    }
}

impl<'a> Rebuilder<'a> {
    /// A file of the chain, in its place. With `keeps_whole` only if it is not whole, or if a dead letter of it can be read now.
    ///
    /// # Errors
    /// If it cannot be done, or if a later replay took over.
    pub(super) async fn rebuild(
        &mut self,
        file: &PlannedFile,
        generation: u64,
        keeps_whole: bool,
    ) -> Result<Rebuilt, ReplayError> {
        again(&file.path, async || self.attempt(file, generation, keeps_whole).await).await
    }

    async fn attempt(
        &mut self,
        file: &PlannedFile,
        generation: u64,
        keeps_whole: bool,
    ) -> Result<Rebuilt, ReplayError> {
        let before = self.look(file, generation).await?;
        let mut whole = None;
        if let Some(state) = &before.readable
            && (keeps_whole || state.metadata.generation == generation)
            && self.holds_what_it_says(&file.path, state).await?
        {
            if state.metadata.dead_letters.is_empty() {
                self.done.fetch_add(file.offsets(), Ordering::Relaxed);
                return Ok(self.left_alone(&state.metadata, generation));
            }
            // A letter of it may be readable since.
            whole = Some(&state.metadata);
        }
        let old = before.readable.as_ref().map(|state| &state.metadata);
        let said = match (old, &file.known) {
            (Some(old), _) => Some(old),
            (None, Known::Whole(metadata)) => Some(&**metadata),
            (None, Known::Listed { .. } | Known::Untraced { .. } | Known::Counted { .. }) => None,
        };
        let letters = said.map(|said| &said.dead_letters);
        let rules = Rules { letters, takes_in: true, policy: None };
        let (rewrite, metadata, taken_in) = self.write(file, generation, &rules).await?;
        if let Some(whole) = whole.filter(|whole| whole.dead_letters == metadata.dead_letters) {
            return Ok(self.left_alone(whole, generation));
        }
        if let (None, Known::Listed { dead_letters, .. }) = (old, &file.known)
            && metadata.dead_letters.count() > *dead_letters
        {
            let what = format!(
                "{}: {dead_letters} of its records were dead letters, and now it would be {}. Nothing of this file was changed",
                file.path,
                metadata.dead_letters.count()
            );
            return Err(Stop::new(ExitCode::LakeDiffers, what).into());
        }
        self.ask_claim(file, generation).await?;
        self.commit(rewrite, &file.path, before.expected.as_ref(), &metadata).await?;
        let changed = match (old, &file.known) {
            (Some(old), _) => (old.crc, old.rows) != (metadata.crc, metadata.rows),
            (None, Known::Whole(_) | Known::Untraced { .. } | Known::Counted { .. }) => false,
            (None, Known::Listed { rows, bytes, .. }) => {
                (*rows, *bytes) != (metadata.rows, metadata.original_size)
            }
        };
        let changed = changed && taken_in == 0;
        Ok(Rebuilt { metadata, was_done: false, kept: false, taken_in, changed })
    }

    /// What there is to say of a file that needs not be written.
    pub(super) fn left_alone(&mut self, metadata: &FileMetadata, generation: u64) -> Rebuilt {
        self.last = Some((metadata.next, metadata.last_event.clone()));
        let was_done = metadata.generation == generation;
        Rebuilt { metadata: metadata.clone(), was_done, kept: !was_done, taken_in: 0, changed: false }
    }

    /// A replay that leaves whole files alone is not seen at them. In another lake nothing is claimed.
    ///
    /// # Errors
    /// If a later replay of the hour has begun.
    async fn ask_claim(&self, file: &PlannedFile, generation: u64) -> Result<(), ReplayError> {
        let folder = self.lake.folder(self.content);
        match manifest(self.lake, &folder, file.hour).await? {
            Some((manifest, _))
                if generation > 0
                    && manifest.rebuilding.max(Some(manifest.generation)) > Some(generation) =>
            {
                Err(superseded(&file.partition.topic, file.hour))
            }
            _ => Ok(()),
        }
    }

    /// Puts what was written in the place of what was looked at, and reads it back.
    ///
    /// # Errors
    /// As the lake says, and if it reads otherwise than it was written.
    pub(super) async fn commit(
        &mut self,
        rewrite: Rewrite<'_>,
        path: &LakePath,
        expected: Option<&ETag>,
        metadata: &FileMetadata,
    ) -> Result<(), LakeError> {
        let state = rewrite.commit(expected, metadata).await?;
        self.last = Some((metadata.next, metadata.last_event.clone()));
        if self.holds_what_it_says(path, &state).await? {
            return Ok(());
        }
        let what = "it does not hold what was written to it just now".to_owned();
        Err(LakeError::Damaged { path: path.clone(), what })
    }

    /// The last events before a file.
    ///
    /// # Errors
    /// If nobody can say it.
    pub(super) fn event_before(&self, file: &PlannedFile) -> Result<Option<LastEvents>, Stop> {
        match (&self.last, &file.after) {
            (Some((end, last)), _) if *end == file.first => Ok(last.clone()),
            (_, EventBefore::Is(last)) => Ok(last.clone()),
            (_, EventBefore::Unknown) => {
                let what = format!(
                    "{}: the file before it is damaged, and nobody can say which of its records repeat what was there: name that file's hour too, or --all. Nothing of this file was changed",
                    file.path
                );
                Err(Stop::new(ExitCode::Usage, what))
            }
        }
    }

    /// # Errors
    /// If a later replay has been here, or another partition's file stands there.
    async fn look(&self, file: &PlannedFile, generation: u64) -> Result<Before, ReplayError> {
        let Some(sight) = self.lake.look(&file.path).await? else {
            return Ok(Before { expected: None, readable: None });
        };
        let state = sight.file.ok();
        if let Some(FileState { metadata, .. }) = &state {
            if metadata.generation > generation {
                return Err(superseded(&file.partition.topic, file.hour));
            }
            let same = metadata.topic_partition == file.partition
                && (metadata.first, metadata.next) == (file.first, file.next);
            if !same {
                let what = format!(
                    "{} holds {} from {} to {}, and was planned as {} from {} to {}: the lake changed meanwhile; type the command again",
                    file.path,
                    metadata.topic_partition,
                    metadata.first,
                    metadata.next,
                    file.partition,
                    file.first,
                    file.next
                );
                return Err(Stop::new(ExitCode::LakeDiffers, what).into());
            }
        }
        Ok(Before { expected: Some(sight.etag), readable: state })
    }

    /// Reads the range and writes the lines; nothing of it can be seen yet. Also says how many dead letters have become rows.
    pub(super) async fn write(
        &mut self,
        file: &PlannedFile,
        generation: u64,
        rules: &Rules<'_>,
    ) -> Result<(Rewrite<'a>, FileMetadata, u64), ReplayError> {
        let before = self.event_before(file)?;
        let mut repeats = RepeatFilter::after(before.as_ref());
        let mut metadata = FileMetadata { last_event: before, ..self.empty(file, generation) };
        let mut rewrite = self.lake.rewrite(&file.path, &file.partition).await?;
        let mut buffer = Buffer::new(&file.partition, file.format);
        let (mut taken_in, mut letters) = (0, 0);
        let mut told = file.first;
        let mut messages = self.reader.read(&file.partition, file.first, file.next)?;
        loop {
            let message = messages.next_record()?;
            // Ended by the next record, so that none begins where only markers follow.
            if message.is_some() && buffer.is_empty() && roll_due(&metadata, rules.policy.as_ref()) {
                break;
            }
            let position = message.as_ref().and_then(|message| KafkaOffset::from_kafka(message.offset()));
            if let (Some(message), Some(offset)) = (&message, position) {
                let record = view_of(message);
                let inspected = self.records.inspect(&record, message.topic(), self.content).await?;
                let was_letter = rules.letters.map(|letters| letters.contains(offset));
                let place = (file.partition.clone(), offset);
                let inspected = self.judge.judge(&place, was_letter, Some(file.hour), inspected);
                let is_repeat = repeats.passes_over(&inspected);
                match inspected.verdict {
                    Verdict::DeadLetter { .. } if is_repeat && was_letter.is_none() => {}
                    Verdict::DeadLetter { reason, ref error } => {
                        if was_letter == Some(false) {
                            let what = format!(
                                "{}: offset {offset} is a row in the lake, and now it would be a dead letter ({}: {error}). Nothing of this file was changed",
                                file.path,
                                reason.as_str()
                            );
                            return Err(Stop::new(ExitCode::LakeDiffers, what).into());
                        }
                        letters += 1;
                        // It is in the dead-letter topic since the file was written first; here only its offset counts.
                        let letter = DeadLetter::noted(offset, reason);
                        buffer.push_dead_letter(letter, inspected.hour, inspected.event, Instant::now());
                    }
                    Verdict::Line { .. } | Verdict::Tombstone if is_repeat => {}
                    Verdict::Line { .. } | Verdict::Tombstone
                        if was_letter == Some(true) && !rules.takes_in =>
                    {
                        let what = format!(
                            "{}: the dead letter at offset {offset} can be read since a moment: type the same command again. Nothing of this file was changed",
                            file.path
                        );
                        return Err(Stop::new(ExitCode::Temporary, what).into());
                    }
                    Verdict::Line { .. } | Verdict::Tombstone => {
                        taken_in += u64::from(was_letter == Some(true));
                        buffer.push(offset, &record, &inspected, Instant::now());
                    }
                }
            }
            if is_full(&buffer, letters, &metadata, rules.policy.as_ref()) || message.is_none() {
                letters = 0;
                let end = position.map_or(file.next, KafkaOffset::after);
                let batch = buffer.freeze(told, end);
                let piece = batch.piece(batch.pending().len(), metadata.last_event.as_ref());
                piece.count_into(&mut metadata);
                self.done.fetch_add(end.get().saturating_sub(told.get()), Ordering::Relaxed);
                told = end;
                add(&mut rewrite, &mut metadata, piece.bytes).await?;
            }
            if message.is_none() {
                break;
            }
        }
        if metadata.original_size == 0 {
            let nothing = metadata.compressed.pack_nothing();
            metadata.stored_size += nothing.len() as u64;
            rewrite.add(nothing).await?;
        }
        Ok((rewrite, FileMetadata { next: told, ..metadata }, taken_in))
    }

    fn empty(&self, file: &PlannedFile, generation: u64) -> FileMetadata {
        FileMetadata {
            topic_partition: file.partition.clone(),
            first: file.first,
            next: file.next,
            rows: 0,
            dead_letters: OffsetRuns::default(),
            tombstones: 0,
            sealed: true,
            writer: self.writer.id,
            seq: 0,
            generation,
            last_event: None,
            min_cluster_time: None,
            max_cluster_time: None,
            operations: std::collections::BTreeMap::new(),
            crc: LineCrc::EMPTY,
            original_size: 0,
            stored_size: 0,
            compressed: file.path.compression().unwrap_or_default(),
            line_format: file.format,
            processed_at: Utc::now(),
            layout: LAYOUT,
            version: self.writer.version.to_owned(),
        }
    }

    /// Reads it back: as many lines, and the checksum, as its metadata says.
    pub(super) async fn holds_what_it_says(
        &self,
        path: &LakePath,
        state: &FileState,
    ) -> Result<bool, LakeError> {
        let mut reader = self.lake.read_file(path, state).await?;
        let (mut crc, mut rows, mut size) = (LineCrcBuilder::new(), 0_u64, 0_u64);
        let mut unpacker = state.metadata.compressed.unpacker();
        loop {
            let chunk = reader.next_chunk().await?;
            let at_end = chunk.is_none();
            let lines = match chunk {
                Some(chunk) => unpacker.unpack(chunk),
                None => unpacker.finish(),
            };
            let Ok(lines) = lines else { return Ok(false) };
            crc.update(&lines);
            rows += memchr::memchr_iter(b'\n', &lines).count() as u64;
            size += lines.len() as u64;
            if at_end {
                break;
            }
        }
        let FileMetadata { crc: expected, rows: expected_rows, original_size, .. } = state.metadata;
        Ok((crc.finish(), rows, size) == (expected, expected_rows, original_size))
    }
}

/// Packs lines, and adds them.
async fn add(rewrite: &mut Rewrite<'_>, metadata: &mut FileMetadata, lines: Bytes) -> Result<(), LakeError> {
    let packed = metadata.compressed.pack(&lines);
    metadata.stored_size += packed.len() as u64;
    rewrite.add(packed).await
}

/// Whether what has gathered is to be handed on.
fn is_full(buffer: &Buffer, letters: usize, metadata: &FileMetadata, policy: Option<&FilePolicy>) -> bool {
    let limit =
        policy.and_then(|policy| policy.bytes).map(|bytes| bytes.saturating_sub(metadata.original_size));
    let piece =
        limit.and_then(|left| usize::try_from(left).ok()).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
    let rows = metadata.rows + buffer.records() as u64;
    let has_rows = policy.and_then(|policy| policy.rows).is_some_and(|limit| rows >= limit);
    !buffer.is_empty() && (buffer.size() >= piece || letters >= PIECE_LETTERS || has_rows)
}

/// Whether a file ends here, as one of the live sink would.
pub(super) fn roll_due(metadata: &FileMetadata, policy: Option<&FilePolicy>) -> bool {
    let now = Instant::now();
    policy.is_some_and(|policy| chain::roll_due(metadata, 0, now, policy, now).is_some())
}

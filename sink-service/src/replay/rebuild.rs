//! One file made again: its range read from Kafka, its bytes written where nobody sees them, then one conditional commit.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

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
    chain::Writer,
    file_metadata::{FileMetadata, LastEvent, LineCrc, LineCrcBuilder, OffsetRuns},
    lake::{ETag, FileState, Lake, LakeError, Rewrite},
    partition::view_of,
    record::{LAYOUT, Verdict},
    record_reader::RecordReader,
    repeats::RepeatFilter,
    topic_content::TopicContent,
    topic_reader::TopicReader,
};

/// Lines are handed on in pieces of about this size.
const PIECE_BYTES: usize = 8 * 1024 * 1024;

/// A lake that does not answer is asked this often, with growing pauses: about three minutes in all.
const ATTEMPTS_MAX: u32 = 12;

/// Files of one topic, one after the other, with a consumer of their own.
pub(super) struct Rebuilder<'a> {
    pub lake: &'a Lake,
    pub content: &'a TopicContent,
    pub reader: TopicReader,
    pub records: RecordReader,
    pub writer: Writer,
    pub judge: Judge<'a>,
    /// Counts the offsets that are done.
    pub done: &'a AtomicU64,
    /// Where the file before ended that was made again, and with which event.
    pub last: Option<(KafkaOffset, Option<LastEvent>)>,
}

/// What came of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rebuilt {
    pub rows: u64,
    pub bytes: u64,
    pub dead_letters: u64,
    pub crc: LineCrc,
    /// It carried the generation already, and its content is what it says: an earlier run did it.
    pub was_done: bool,
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

impl<'a> Rebuilder<'a> {
    /// # Errors
    /// If it cannot be done, or if a later replay took over.
    pub(super) async fn rebuild(
        &mut self,
        file: &PlannedFile,
        generation: u64,
    ) -> Result<Rebuilt, ReplayError> {
        let mut backoff = Backoff::default();
        loop {
            match self.attempt(file, generation).await {
                Ok(rebuilt) => return Ok(rebuilt),
                Err(ReplayError::Lake(
                    error @ (LakeError::Conflict | LakeError::Unknown { .. } | LakeError::Unavailable { .. }),
                )) if backoff.attempts() < ATTEMPTS_MAX => {
                    let asked = match &error {
                        LakeError::Unavailable { retry_after, .. } => *retry_after,
                        _ => None,
                    };
                    let delay = backoff.next_delay_at_least(asked);
                    tracing::warn!(path = %file.path, cause = %error, ?delay, "looked at again");
                    tokio::time::sleep(delay).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn attempt(&mut self, file: &PlannedFile, generation: u64) -> Result<Rebuilt, ReplayError> {
        let before = self.look(file, generation).await?;
        if let Some(state) = &before.readable
            && state.metadata.generation == generation
            && self.holds_what_it_says(file, state).await?
        {
            self.done.fetch_add(file.offsets(), Ordering::Relaxed);
            self.last = Some((file.next, state.metadata.last_event.clone()));
            return Ok(Rebuilt { was_done: true, ..rebuilt(&state.metadata) });
        }
        let old = before.readable.as_ref().map(|state| &state.metadata);
        let (rewrite, metadata, taken_in) = self.write(file, generation, old).await?;
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
        let state = rewrite.commit(before.expected.as_ref(), &metadata).await?;
        self.last = Some((file.next, metadata.last_event.clone()));
        if !self.holds_what_it_says(file, &state).await? {
            let what = "it does not hold what was written to it just now".to_owned();
            return Err(LakeError::Damaged { path: file.path.clone(), what }.into());
        }
        let changed = match (old, &file.known) {
            (Some(old), _) => (old.crc, old.rows) != (metadata.crc, metadata.rows),
            (None, Known::Whole(_) | Known::Untraced { .. }) => false,
            (None, Known::Listed { rows, bytes, .. }) => {
                (*rows, *bytes) != (metadata.rows, metadata.original_size)
            }
        };
        Ok(Rebuilt { taken_in, changed: changed && taken_in == 0, ..rebuilt(&metadata) })
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
                return Err(superseded(&file.partition.topic, file.hour).into());
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

    /// Reads the range and writes the lines; nothing of it can be seen yet.
    async fn write(
        &mut self,
        file: &PlannedFile,
        generation: u64,
        old: Option<&FileMetadata>,
    ) -> Result<(Rewrite<'a>, FileMetadata, u64), ReplayError> {
        let before = match (&self.last, &file.after) {
            (Some((end, last)), _) if *end == file.first => last.clone(),
            (_, EventBefore::Is(last)) => last.clone(),
            (_, EventBefore::Unknown) => {
                let what = format!(
                    "{}: the file before it is damaged, and nobody can say which of its records repeat what was there: name that file's hour too, or --all. Nothing of this file was changed",
                    file.path
                );
                return Err(Stop::new(ExitCode::Usage, what).into());
            }
        };
        let said = match (old, &file.known) {
            (Some(old), _) => Some(old),
            (None, Known::Whole(metadata)) => Some(&**metadata),
            (None, Known::Listed { .. } | Known::Untraced { .. }) => None,
        };
        let mut repeats = RepeatFilter::after(before.as_ref());
        let mut metadata = FileMetadata { last_event: before, ..self.empty(file, generation) };
        let mut rewrite = self.lake.rewrite(&file.path, &file.partition).await?;
        let mut buffer = Buffer::new(&file.partition, file.format);
        let mut taken_in = 0;
        let mut told = file.first;
        let mut messages = self.reader.read(&file.partition, file.first, file.next)?;
        loop {
            let message = messages.next_record()?;
            let position = message.as_ref().and_then(|message| KafkaOffset::from_kafka(message.offset()));
            if let (Some(message), Some(offset)) = (&message, position) {
                let record = view_of(message);
                let inspected = self.records.inspect(&record, message.topic(), self.content).await?;
                let was_letter = said.map(|metadata| metadata.dead_letters.contains(offset));
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
                        // It is in the dead-letter topic since the file was written first; here only its offset counts.
                        let letter = DeadLetter::noted(offset, reason);
                        buffer.push_dead_letter(letter, inspected.hour, inspected.event, Instant::now());
                    }
                    Verdict::Line { .. } | Verdict::Tombstone if is_repeat => {}
                    Verdict::Line { .. } | Verdict::Tombstone => {
                        taken_in += u64::from(was_letter == Some(true));
                        buffer.push(offset, &record, &inspected, Instant::now());
                    }
                }
            }
            if buffer.size() >= PIECE_BYTES || message.is_none() {
                let end = position.map_or(file.next, KafkaOffset::after);
                let batch = buffer.freeze(told, end);
                let piece = batch.piece(batch.pending().len());
                piece.count_into(&mut metadata);
                let mut packed = metadata.compressed.pack(&piece.bytes);
                if message.is_none() && metadata.original_size == 0 {
                    packed = metadata.compressed.pack_nothing();
                }
                metadata.stored_size += packed.len() as u64;
                if !packed.is_empty() {
                    rewrite.add(packed).await?;
                }
                self.done.fetch_add(end.get().saturating_sub(told.get()), Ordering::Relaxed);
                told = end;
            }
            if message.is_none() {
                return Ok((rewrite, metadata, taken_in));
            }
        }
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
    async fn holds_what_it_says(&self, file: &PlannedFile, state: &FileState) -> Result<bool, LakeError> {
        let mut reader = self.lake.read_file(&file.path, state).await?;
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

fn rebuilt(metadata: &FileMetadata) -> Rebuilt {
    Rebuilt {
        rows: metadata.rows,
        bytes: metadata.original_size,
        dead_letters: metadata.dead_letters.count(),
        crc: metadata.crc,
        was_done: false,
        taken_in: 0,
        changed: false,
    }
}

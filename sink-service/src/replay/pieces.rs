//! Where the files of a copy begin and end: runs of rows of one hour, as the live sink would have written them.
//!
//! A piece reaches from its first record to its last one: not to what happens to follow, or a second run would find other ranges when more has
//! come. What stands in the copy already keeps its own range.

use std::collections::BTreeMap;

use shared::{
    exit::{ExitCode, Stop},
    kafka_position::{KafkaOffset, TopicPartition},
};

use super::{EventBefore, Known, PlannedFile};
use crate::{
    chain::FilePolicy,
    event_hour::EventHour,
    file_metadata::{LastEvents, OffsetRuns},
    lake::ListedFile,
    lake_path::LakePath,
    line_format::LineFormat,
};

/// A piece ends with so many dead letters, before its file's metadata is full of them.
const LETTERS_MAX: u64 = 100;

/// A record, as far as it matters here.
pub(super) struct Seen {
    pub offset: KafkaOffset,
    pub hour: EventHour,
    pub is_wanted: bool,
    pub is_letter: bool,
    pub is_row: bool,
    /// Of its value.
    pub bytes: u64,
}

/// A file that the copy has already.
pub(super) struct Standing {
    pub hour: EventHour,
    path: LakePath,
    first: KafkaOffset,
    next: KafkaOffset,
    rows: u64,
    letters: OffsetRuns,
    format: LineFormat,
    is_met: bool,
}

impl Standing {
    /// `None` if it has an empty range, as no file has.
    pub(super) fn of(file: &ListedFile, hour: EventHour) -> Option<Self> {
        let ListedFile { path, metadata } = file;
        (metadata.first < metadata.next).then(|| Self {
            hour,
            path: path.clone(),
            first: metadata.first,
            next: metadata.next,
            rows: metadata.rows,
            letters: metadata.dead_letters.clone(),
            format: metadata.line_format,
            is_met: false,
        })
    }
}

struct Piece {
    hour: EventHour,
    first: KafkaOffset,
    /// Behind its last record, or of the file that stands there.
    next: KafkaOffset,
    is_fixed: bool,
    /// `None`: to be named.
    path: Option<LakePath>,
    format: LineFormat,
    rows: u64,
    letters: u64,
    bytes: u64,
    before: Option<LastEvents>,
}

/// Of one partition, in the order of its log.
pub(super) struct Pieces<'a, P> {
    partition: &'a TopicPartition,
    policy: FilePolicy,
    /// By first offset.
    standing: BTreeMap<KafkaOffset, Standing>,
    path_of: P,
    open: Option<Piece>,
    files: Vec<PlannedFile>,
}

impl<'a, P: Fn(EventHour, KafkaOffset) -> LakePath> Pieces<'a, P> {
    pub(super) fn new(
        partition: &'a TopicPartition,
        policy: FilePolicy,
        standing: impl Iterator<Item = Standing>,
        path_of: P,
    ) -> Self {
        let standing = standing.map(|file| (file.first, file)).collect();
        Self { partition, policy, standing, path_of, open: None, files: Vec::new() }
    }

    /// What the copy says of a record that it holds: whether it is a dead letter, and its file's hour.
    pub(super) fn known_of(&self, offset: KafkaOffset) -> Option<(bool, EventHour)> {
        self.standing_at(offset).map(|file| (file.letters.contains(offset), file.hour))
    }

    /// Whether a piece begins with the record.
    pub(super) fn begins(&self, seen: &Seen) -> bool {
        !self.joins(seen) && (seen.is_wanted || self.standing_at(seen.offset).is_some())
    }

    /// The next record. `before` is the last event before it, if it begins a piece.
    ///
    /// # Errors
    /// If the copy holds a row there of another hour than Kafka.
    pub(super) fn take(&mut self, seen: &Seen, before: Option<LastEvents>) -> Result<(), Stop> {
        let (joins, begins) = (self.joins(seen), self.begins(seen));
        if begins {
            self.end();
            self.open = Some(self.piece_at(seen, before));
        } else if !joins && !seen.is_letter {
            self.end();
        }
        let Some(piece) = &mut self.open else { return Ok(()) };
        if !seen.is_letter && seen.hour != piece.hour {
            let path = piece.path.as_ref().map(ToString::to_string).unwrap_or_default();
            let what = format!(
                "{path} holds offset {} of {}, which is of hour {} in Kafka: it was not made from this topic. Nothing was changed; name another place with --into",
                seen.offset, self.partition, seen.hour
            );
            return Err(Stop::new(ExitCode::LakeDiffers, what));
        }
        piece.letters += u64::from(seen.is_letter);
        if joins || begins {
            piece.rows += u64::from(seen.is_row);
            piece.bytes += seen.bytes;
            if !piece.is_fixed {
                piece.next = seen.offset.after();
            }
        }
        Ok(())
    }

    /// # Errors
    /// If the copy has rows of these hours that Kafka does not have there.
    pub(super) fn into_files(mut self) -> Result<Vec<PlannedFile>, Stop> {
        self.end();
        match self.standing.values().find(|file| !file.is_met && file.rows > 0) {
            None => Ok(self.files),
            Some(Standing { path, first, next, .. }) => {
                let what = format!(
                    "{path} holds offsets {first} to {next} of {}, and Kafka has no rows of its hour there: it was not made from this topic. Nothing was changed; name another place with --into",
                    self.partition
                );
                Err(Stop::new(ExitCode::LakeDiffers, what))
            }
        }
    }

    fn standing_at(&self, offset: KafkaOffset) -> Option<&Standing> {
        let (_, file) = self.standing.range(..=offset).next_back()?;
        (offset < file.next).then_some(file)
    }

    /// Whether the record belongs to the open piece. Letters do whatever their hour, but only one of a wanted hour makes it longer.
    fn joins(&self, seen: &Seen) -> bool {
        let Some(piece) = &self.open else { return false };
        if piece.is_fixed {
            return seen.offset < piece.next;
        }
        let is_full = piece.letters >= LETTERS_MAX
            || self.policy.bytes.is_some_and(|limit| piece.bytes >= limit)
            || self.policy.rows.is_some_and(|limit| piece.rows >= limit);
        let fits = if seen.is_letter { seen.is_wanted } else { seen.hour == piece.hour };
        fits && !is_full && self.standing_at(seen.offset).is_none()
    }

    fn piece_at(&mut self, seen: &Seen, before: Option<LastEvents>) -> Piece {
        let standing = self.standing.range_mut(..=seen.offset).next_back().map(|(_, file)| file);
        let (rows, letters, bytes) = (0, 0, 0);
        match standing.filter(|file| seen.offset < file.next) {
            Some(file) => {
                file.is_met = true;
                let &mut Standing { hour, first, next, format, .. } = file;
                let path = Some(file.path.clone());
                Piece { hour, first, next, is_fixed: true, path, format, rows, letters, bytes, before }
            }
            None => {
                let (hour, first, format) = (seen.hour, seen.offset, self.policy.line_format);
                let (next, path) = (first.after(), None);
                Piece { hour, first, next, is_fixed: false, path, format, rows, letters, bytes, before }
            }
        }
    }

    fn end(&mut self) {
        let Some(piece) = self.open.take() else { return };
        let Piece { hour, first, next, format, rows, letters, .. } = piece;
        self.files.push(PlannedFile {
            path: piece.path.unwrap_or_else(|| (self.path_of)(hour, first)),
            partition: self.partition.clone(),
            hour,
            first,
            next,
            format,
            known: Known::Counted { rows, dead_letters: letters },
            after: EventBefore::Is(piece.before),
        });
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn hour(number: i64) -> EventHour {
        EventHour::from_millis(number * 3_600_000).unwrap()
    }

    /// Ranges by hour of a log in which hours 7 and 8 are wanted; `-h` is a letter of hour `h`.
    fn pieces(policy: FilePolicy, log: &[(u64, i64)]) -> Vec<(EventHour, u64, u64)> {
        let partition = TopicPartition::new("atlas.shop.orders", 0);
        let path = |hour: EventHour, first: KafkaOffset| {
            LakePath::new(format!("{}/{first}.jsonl", hour.compact())).unwrap()
        };
        let mut pieces = Pieces::new(&partition, policy, std::iter::empty(), path);
        for (offset, of) in log {
            let seen = Seen {
                offset: KafkaOffset::new(*offset),
                hour: hour(of.abs()),
                is_wanted: [7, 8].contains(&of.abs()),
                is_letter: *of < 0,
                is_row: *of > 0,
                bytes: 10,
            };
            pieces.take(&seen, None).unwrap();
        }
        let files = pieces.into_files().unwrap();
        files.iter().map(|file| (file.hour, file.first.get(), file.next.get())).collect()
    }

    #[test]
    fn a_piece_reaches_from_its_first_record_to_its_last() {
        let off = FilePolicy { bytes: None, rows: None, ..FilePolicy::default() };
        for (log, expected) in [
            (&[(0, 6), (1, 7), (2, 7), (4, 9), (6, 7)][..], vec![(7, 1, 3), (7, 6, 7)]),
            // A letter of another hour ends nothing, and makes nothing longer.
            (&[(1, 7), (2, -9), (3, 7), (4, -9), (5, 8)], vec![(7, 1, 4), (8, 5, 6)]),
            // One of a wanted hour is always named by a file.
            (&[(1, 6), (2, -8), (3, 6), (4, 7), (5, -8)], vec![(8, 2, 3), (7, 4, 6)]),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|(of, a, b)| (hour(of), a, b)).collect();
            assert_eq!(pieces(off, log), expected, "{log:?}");
        }
        let rows = FilePolicy { rows: Some(2), ..off };
        let expected = vec![(hour(7), 1, 3), (hour(7), 3, 4)];
        assert_eq!(pieces(rows, &[(1, 7), (2, 7), (3, 7)]), expected);
    }
}

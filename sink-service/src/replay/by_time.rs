//! The plan where the lake has no chain of a topic: what a copy consists of is found in Kafka, by time.
//!
//! ```text
//!   the sources' positions, else a broker's clock ──▶ the last hour that is over
//!     └─ then, per partition: where the log begins and ends ── is what lay before its begin perhaps of these hours? ──▶ stop (21)
//!          └─ search by time: the lower bound ── read from there to the end ──▶ pieces: runs of rows of one wanted hour
//! ```
//!
//! Invariants:
//! - The search gives a lower bound and nothing else: every record behind it is read, up to the high watermark, and its own hour decides.
//! - It holds as long as Kafka's time of a record is not before its event's hour. A record that is seen to break that voids it: then the log is read
//!   from its begin.
//! - Repeats need nothing from before the bound: an event of a wanted hour lies behind it, the first time too.
//! - The high watermark is taken after the hours were seen to be over, so the marks of the copy are as true as the live sink's.
//! - What the copy holds already keeps its ranges and paths, so a second run checks the same files, whatever came to the topic or was set otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::DateTime;
use rdkafka::Message;
use shared::{
    exit::{ExitCode, Stop},
    kafka_position::{KafkaOffset, TopicPartition},
    kafka_topics::AdminError,
};
use tokio_util::sync::CancellationToken;

use super::{
    PlannedFile, ReplayError,
    judge::Judge,
    pieces::{Pieces, Seen, Standing},
    plan::{Plan, Planner},
};
use crate::{
    event_hour::EventHour,
    hours::{
        broker_clock::{BrokerClock, ClockError},
        ended_by_clock,
        token_follower::follow,
    },
    lake::{Listing, Presence},
    lake_layout::OpenLake,
    lake_path::{LakePath, TopicFolder},
    partition::{content_of_first, view_of},
    progress::Progress,
    record::{RecordView, Verdict},
    record_reader::RecordReader,
    repeats::RepeatFilter,
    span::Span,
    topic_content::TopicContent,
};

/// The sources' positions are there by then, or Kafka is taken for unavailable.
const POSITIONS_LIMIT: Duration = Duration::from_secs(60);

/// What was read of a partition to find its files.
#[derive(Clone, Debug)]
pub(super) struct ReadRange {
    pub partition: i32,
    /// The first offset that Kafka still has.
    pub log_start: KafkaOffset,
    /// The lower bound.
    pub from: KafkaOffset,
    /// The high watermark, after the hours were over.
    pub to: KafkaOffset,
}

/// One partition's log.
struct Log {
    partition: TopicPartition,
    start: KafkaOffset,
    end: KafkaOffset,
    /// Of the first record, where there is one.
    first: Option<First>,
}

struct First {
    hour: EventHour,
    /// By Kafka's time.
    written: Option<EventHour>,
    is_early: bool,
}

/// What is done to all partitions.
struct Search<'a> {
    content: &'a TopicContent,
    folder: &'a TopicFolder,
    wanted: &'a dyn Fn(EventHour) -> bool,
    /// Of the copy.
    there: &'a Listing,
}

/// What came of a look through a range.
enum Scan {
    Files {
        files: Vec<PlannedFile>,
        /// Of the dead letters among them, those that the dead-letter topic does not have.
        unknown_letters: Vec<KafkaOffset>,
        /// Rows of the copy that were dead letters and were sent back, or dropped, since.
        sent_again: Vec<KafkaOffset>,
    },
    /// Kafka's time of this record is before its event's.
    Early(KafkaOffset),
}

impl Planner<'_> {
    /// Of a topic whose name was cut: what its first record says.
    ///
    /// # Errors
    /// If it has none, or as Kafka says.
    pub(super) async fn content_by_records(&self, topic: &str) -> Result<TopicContent, ReplayError> {
        for number in 0..self.log.partition_count(topic).await? {
            let partition = TopicPartition::new(topic, number);
            let (start, end) = (self.log.start(&partition).await?, self.log.end(&partition).await?);
            if let Some(message) = self.reader.read(&partition, start, end)?.next_record()? {
                return Ok(content_of_first(&view_of(&message), &partition));
            }
        }
        let what = format!("{topic} has no records: nothing to make again");
        Err(Stop::new(ExitCode::Usage, what).into())
    }

    /// Without a chain.
    ///
    /// # Errors
    /// If these hours cannot be made, or not elsewhere.
    pub(super) async fn plan_by_time(
        &self,
        topic: &str,
        content: TopicContent,
        span: &Span,
        records: &mut RecordReader,
    ) -> Result<Plan, ReplayError> {
        let Some(into) = self.into else {
            let what = format!(
                "{topic} has no chain in this lake: check LAKE_URL and the topic's name. If they are right, its rows can be found by time, but only for another place: name one with --into. Here a sink may begin a chain at any time, and rows would be there twice. Nothing was changed"
            );
            return Err(Stop::new(ExitCode::Usage, what).into());
        };
        let over = self.last_over(&content).await?;
        let Some(over) = over.filter(|over| span.reaches(*over)) else {
            let last = over.map_or("none is".to_owned(), |over| format!("the last one that is: {over}"));
            let what = format!("none of these hours of {topic} is over ({last}). Nothing was changed");
            return Err(Stop::new(ExitCode::Usage, what).into());
        };
        let wanted = |hour: EventHour| span.contains(hour) && hour <= over;
        let folder = self.lake.folder(&content);
        let logs = self.logs(topic, &content, records).await?;
        let first_wanted = span.first();
        refuse_what_may_be_gone(&logs, first_wanted)?;
        let there = self.copy(into, &logs, &folder).await?;
        let mut notes = Vec::new();
        if let Some(open) = span.first_open(over) {
            notes.push(format!("{open} and what follows is not over: it is left out"));
        }
        let search = Search { content: &content, folder: &folder, wanted: &wanted, there: &there };
        let (mut files, mut read) = (Vec::new(), Vec::new());
        for log in &logs {
            let (range, of_partition) = self.search(log, first_wanted, &search, records, &mut notes).await?;
            read.push(range);
            files.extend(of_partition);
        }
        // As in the live lake: what is older than the topic has a manifest only where it has rows.
        let begin = logs.iter().filter_map(|log| log.first.as_ref()?.written).min();
        let hours = begin.into_iter().flat_map(|begin| begin.to(over)).filter(|hour| span.contains(*hour));
        let with_files: BTreeSet<EventHour> = files.iter().map(|file| file.hour).collect();
        let empty = hours.filter(|hour| !with_files.contains(hour)).collect();
        Ok(Plan { topic: topic.to_owned(), content, files, empty, notes, read_by_time: read })
    }

    /// The last hour that is over, as the live sink sees it.
    async fn last_over(&self, content: &TopicContent) -> Result<Option<EventHour>, ReplayError> {
        let stop = CancellationToken::new();
        let _stopped = stop.clone().drop_guard();
        let mut known = follow(self.kafka, self.group, self.names, stop)
            .map_err(|error| Stop::new(ExitCode::Configuration, error.to_string()))?;
        let positions = tokio::time::timeout(POSITIONS_LIMIT, known.wait_for(Option::is_some)).await;
        let Ok(Ok(positions)) = positions else {
            let what = "the sources' positions cannot be read, so nobody knows which hours are over. Nothing was changed";
            return Err(Stop::new(ExitCode::Temporary, what.to_owned()).into());
        };
        if let Some(position) = positions.as_ref().and_then(|positions| positions.of(content)) {
            return Ok(EventHour::ended_at(position.seconds.into()));
        }
        drop(positions);
        let clock = BrokerClock::new(self.kafka, self.names);
        let mut clock = clock.map_err(|error| Stop::new(ExitCode::Configuration, error.to_string()))?;
        let now = clock.now().await.map_err(|error| {
            let code = match &error {
                ClockError::Topic { error: AdminError::NotAllowed { .. }, .. } => ExitCode::NotAllowed,
                _ => ExitCode::Temporary,
            };
            let what =
                "no source reads this collection, and a broker's clock says which of its hours are over";
            Stop::new(code, format!("{what}: {error}. Nothing was changed"))
        })?;
        Ok(ended_by_clock(now, self.grace))
    }

    /// To be called after the hours were seen to be over.
    async fn logs(
        &self,
        topic: &str,
        content: &TopicContent,
        records: &mut RecordReader,
    ) -> Result<Vec<Log>, ReplayError> {
        let mut logs = Vec::new();
        for number in 0..self.log.partition_count(topic).await? {
            let partition = TopicPartition::new(topic, number);
            let (start, end) = (self.log.start(&partition).await?, self.log.end(&partition).await?);
            let first = match self.reader.read(&partition, start, end)?.next_record()? {
                Some(message) => {
                    let record = view_of(&message);
                    let hour = records.inspect(&record, topic, content).await?.hour;
                    let written = record.timestamp.and_then(EventHour::from_millis);
                    Some(First { hour, written, is_early: is_early(&record, hour) })
                }
                None => None,
            };
            logs.push(Log { partition, start, end, first });
        }
        Ok(logs)
    }

    /// What is in the place that gets the files. A live sink's lake is none.
    async fn copy(
        &self,
        into: &OpenLake,
        logs: &[Log],
        folder: &TopicFolder,
    ) -> Result<Listing, ReplayError> {
        if into.probe().await? == Presence::Missing {
            return Ok(Listing::default());
        }
        for Log { partition, .. } in logs {
            if into.read_document(&LakePath::head(partition)).await?.is_some() {
                let what = format!(
                    "the place that --into names has a chain of {}: a sink writes it there. Name another place, or make its hours again with LAKE_URL set to it, without --into. Nothing was changed",
                    partition.topic
                );
                return Err(Stop::new(ExitCode::Usage, what).into());
            }
        }
        Ok(into.list(folder.path()).await?)
    }

    async fn search(
        &self,
        log: &Log,
        first_wanted: EventHour,
        search: &Search<'_>,
        records: &mut RecordReader,
        notes: &mut Vec<String>,
    ) -> Result<(ReadRange, Vec<PlannedFile>), ReplayError> {
        let partition = &log.partition;
        let mut from = match &log.first {
            None => log.end,
            Some(first) if first.is_early => log.start,
            Some(_) => {
                let at = DateTime::from_timestamp(start_seconds(first_wanted), 0).unwrap_or_default();
                let found = self.log.first_at(partition, at).await?;
                let found = found.unwrap_or(log.end).clamp(log.start, log.end);
                // A row that came late: what lay before it may have been of its time.
                if found == log.start && log.start > KafkaOffset::ZERO {
                    return Err(gone(&[row_of_gone(log, None)], "").into());
                }
                found
            }
        };
        if log.start > KafkaOffset::ZERO {
            notes.push(format!(
                "{partition}: what Kafka has removed, the offsets before {}, is taken to be older than these hours, as what is left begins with older rows. That is so of one source; rows of a second one or of a producer that is late may be missing",
                log.start
            ));
        }
        let (files, unknown_letters, sent_again) = loop {
            match self.scan(log, from, search, records).await? {
                Scan::Files { files, unknown_letters, sent_again } => {
                    break (files, unknown_letters, sent_again);
                }
                Scan::Early(offset) => {
                    notes.push(format!(
                        "{partition}: Kafka's time of the record at offset {offset} is before its event's, so nothing can be searched by time: read from the begin of the log"
                    ));
                    from = log.start;
                }
            }
        };
        if let Some(first) = unknown_letters.first() {
            notes.push(format!(
                "{partition}: {} records of these hours cannot be rows, and {} does not have them as dead letters; the first is at offset {first}",
                unknown_letters.len(),
                self.dead_letters
            ));
        }
        if let Some(first) = sent_again.first() {
            notes.push(format!(
                "{partition}: {} rows of the copy were sent back as dead letters since, or dropped, so that the copy may have them twice; the first is at offset {first}. Make the copy once more in another place",
                sent_again.len()
            ));
        }
        let range = ReadRange { partition: partition.partition, log_start: log.start, from, to: log.end };
        Ok((range, files))
    }

    /// Reads a range once, and keeps nothing but where its files begin and end.
    async fn scan(
        &self,
        log: &Log,
        from: KafkaOffset,
        search: &Search<'_>,
        records: &mut RecordReader,
    ) -> Result<Scan, ReplayError> {
        let Search { content, folder, wanted, there } = search;
        let Log { partition, end, .. } = log;
        let letters = self.known_letters().await?;
        let judge = Judge { content, schemas: self.schemas, letters };
        let damaged: BTreeMap<&LakePath, &str> =
            there.damaged.iter().map(|(path, what)| (path, what.as_str())).collect();
        let standing = there
            .files
            .iter()
            .filter(|file| file.metadata.topic_partition == *partition)
            .filter_map(|file| Standing::of(file, folder.hour_of(&file.path)?))
            .filter(|file| wanted(file.hour));
        let mut pieces = Pieces::new(partition, self.policy, standing, |hour, first| {
            self.path_of(folder, hour, partition.partition, first, &damaged)
        });
        let mut repeats = RepeatFilter::default();
        let (mut unknown_letters, mut sent_again) = (Vec::new(), Vec::new());
        let done = Arc::new(AtomicU64::new(0));
        let total = end.get().saturating_sub(from.get());
        let mut progress = Progress::over("replay: looking", "offsets", total, Arc::clone(&done));
        let mut messages = self.reader.read(partition, from, *end)?;
        while let Some(message) = messages.next_record()? {
            let Some(offset) = KafkaOffset::from_kafka(message.offset()) else { continue };
            done.store(offset.get().saturating_sub(from.get()), Ordering::Relaxed);
            progress.tick();
            let record = view_of(&message);
            let inspected = records.inspect(&record, message.topic(), content).await?;
            if from > log.start && is_early(&record, inspected.hour) {
                return Ok(Scan::Early(offset));
            }
            let place = (partition.clone(), offset);
            let (was_letter, hour) = pieces.known_of(offset).unzip();
            if was_letter == Some(false) && letters.get(&place).is_some_and(|letter| letter.is_settled) {
                sent_again.push(offset);
            }
            let inspected = judge.judge(&place, was_letter, hour, inspected);
            let seen = Seen {
                offset,
                hour: inspected.hour,
                is_wanted: wanted(inspected.hour),
                is_letter: matches!(inspected.verdict, Verdict::DeadLetter { .. }),
                is_row: matches!(inspected.verdict, Verdict::Line { .. }),
                bytes: record.value.map_or(0, <[u8]>::len) as u64,
            };
            let before = if pieces.begins(&seen) { repeats.last().cloned() } else { None };
            if repeats.passes_over(&inspected) {
                continue;
            }
            if seen.is_letter && seen.is_wanted && letters.get(&place).is_none() {
                unknown_letters.push(offset);
            }
            pieces.take(&seen, before)?;
        }
        progress.over_and_out();
        Ok(Scan::Files { files: pieces.into_files()?, unknown_letters, sent_again })
    }
}

fn start_seconds(hour: EventHour) -> i64 {
    hour.end_seconds() - 3600
}

/// Whether a search by time could miss it.
fn is_early(record: &RecordView<'_>, hour: EventHour) -> bool {
    record.timestamp.is_none_or(|millis| millis < start_seconds(hour) * 1000)
}

/// What lay before the begin of a log may have been of these hours, unless the first record that is there is of an earlier one.
fn refuse_what_may_be_gone(logs: &[Log], first_wanted: EventHour) -> Result<(), Stop> {
    let (mut rows, mut whole_from) = (Vec::new(), Some(EventHour::EPOCH));
    for log in logs.iter().filter(|log| log.start > KafkaOffset::ZERO) {
        match &log.first {
            None => {
                let (partition, start) = (&log.partition, log.start);
                rows.push(format!(
                    "  {partition}: nothing of its {start} offsets is left, of whatever hours"
                ));
                whole_from = None;
            }
            Some(First { hour, .. }) if *hour >= first_wanted => {
                rows.push(row_of_gone(log, Some(*hour)));
                whole_from = whole_from.and_then(|from| Some(from.max(hour.next()?)));
            }
            Some(_) => {}
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    let other = whole_from.map(|hour| {
        format!(". What begins with {hour} can be made: name such hours with --hour, or --from and --to")
    });
    Err(gone(&rows, &other.unwrap_or_default()))
}

/// `up_to`: unless rows come late.
fn row_of_gone(log: &Log, up_to: Option<EventHour>) -> String {
    let hours = up_to.map_or("these hours".to_owned(), |hour| format!("hours up to {hour}"));
    let (partition, start) = (&log.partition, log.start);
    format!(
        "  {partition}: Kafka no longer has what lay before offset {start}: rows of {hours} may be missing"
    )
}

fn gone(rows: &[String], other: &str) -> Stop {
    let what = format!(
        "Kafka no longer has all records that these hours may consist of:\n{}\nNothing was changed{other}",
        rows.join("\n")
    );
    Stop::new(ExitCode::OffsetGap, what)
}

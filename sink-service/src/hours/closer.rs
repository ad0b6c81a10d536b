//! Closes the hours of one topic, as far as they have ended. Anybody may, at any time, also two at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use shared::kafka_position::{KafkaOffset, TopicPartition};

use super::{
    accounts::{HourFolder, closed_hours},
    closed_hours::ClosedHours,
};
use crate::{
    event_hour::EventHour,
    kafka_log::{KafkaLog, LogError},
    lake::{ETag, Lake, LakeError, ListedFile},
    lake_path::{LakePath, TopicFolder},
    metrics::SinkMetrics,
    standing::{Standing, standing},
    topic_content::TopicContent,
};

/// Hours between two writes of what has closed: all of them are done again after a crash, which changes nothing.
const HOURS_PER_RECORD: usize = 24;

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closing {
    /// Every hour up to this one has closed.
    Closed(EventHour),
    /// Not yet: this is missing.
    Pending(String),
}

/// Where the partitions of a topic ended, once the hour was seen to be over: its hours have closed when the chains have come so far.
///
/// Taken once for an hour, however many attempts it takes: of a topic that is written to all the time no chain ever stands at the end.
pub type Barriers = BTreeMap<i32, KafkaOffset>;

/// Why an attempt failed. It is made again.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error(transparent)]
    Log(#[from] LogError),
}

/// See the module.
#[derive(Clone)]
pub struct Closer {
    pub lake: Arc<Lake>,
    pub log: KafkaLog,
    pub metrics: Arc<SinkMetrics>,
}

impl Closer {
    /// The ends of a topic's partitions now. To be asked for only after the hour was seen to be over (rule 2).
    ///
    /// # Errors
    /// As Kafka says.
    pub async fn barriers(&self, topic: &str) -> Result<Barriers, CloseError> {
        let mut barriers = Barriers::new();
        for partition in 0..self.log.partition_count(topic).await? {
            barriers.insert(partition, self.log.end(&TopicPartition::new(topic, partition)).await?);
        }
        Ok(barriers)
    }

    /// Closes every hour up to `ended`, of which the caller has seen that it is over, and the barriers after that.
    ///
    /// # Errors
    /// As lake and Kafka say.
    pub async fn close(
        &self,
        topic: &str,
        content: &TopicContent,
        ended: EventHour,
        barriers: &Barriers,
    ) -> Result<Closing, CloseError> {
        let (mut record, mut etag) = self.record(topic, ended).await?;
        if record.has_closed(ended) {
            return Ok(Closing::Closed(record.closed.unwrap_or(ended)));
        }
        // Rule 3: each chain has to have come so far.
        let mut positions = BTreeMap::new();
        for (partition, barrier) in barriers {
            let partition = TopicPartition::new(topic, *partition);
            match self.reached(&partition, *barrier, ended).await? {
                Ok(position) => positions.insert(partition.partition, position),
                Err(missing) => return Ok(Closing::Pending(missing)),
            };
        }
        let first_time = record.closed.is_none();
        let mut due: BTreeSet<EventHour> = record
            .closed
            .and_then(EventHour::next)
            .map_or_else(|| record.begin.to(ended).collect(), |next| next.to(ended).collect());
        if first_time {
            due.extend(self.hours_with_files(topic, content, ended).await?);
        }
        let due: Vec<EventHour> = due.into_iter().collect();
        for hours in due.chunks(HOURS_PER_RECORD) {
            for hour in hours {
                if let Some(missing) = self.close_one(topic, content, *hour, &positions).await? {
                    return Ok(Closing::Pending(missing));
                }
            }
            // Before `begin` there may be hours without files in between: nothing is said of them until all of it is done.
            if let Some(last) = hours.last().filter(|last| **last >= record.begin) {
                record.closed = Some(*last);
                etag = match self.write_record(&record, &etag).await? {
                    Some(etag) => etag,
                    None => return Ok(Closing::Pending("another sink closes hours too".to_owned())),
                };
            }
        }
        if first_time {
            // What was sealed in an old hour while the others were closing: its writer looked for a record that was not there yet.
            for hour in self.hours_with_files(topic, content, ended).await? {
                self.folder(topic, content, hour).write_manifest(&positions).await?;
            }
        }
        Ok(Closing::Closed(ended))
    }

    /// Makes sure that the topic's record is there, so that hours are counted from the first sight of the topic on.
    ///
    /// # Errors
    /// As the lake says.
    pub async fn record(&self, topic: &str, ended: EventHour) -> Result<(ClosedHours, ETag), CloseError> {
        loop {
            if let Some(found) = closed_hours(&self.lake, topic).await? {
                return Ok(found);
            }
            // At the first sight the last ended hour is closed with the others that have files.
            let record = ClosedHours { topic: topic.to_owned(), begin: ended, closed: None };
            let made = self.lake.create_document(&LakePath::closed_hours(topic), record.to_bytes()).await;
            self.metrics.storage_request("hours", made.as_ref().err());
            match made {
                Ok(_) | Err(LakeError::Conflict | LakeError::Unknown { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// `None` if somebody else was first.
    async fn write_record(&self, record: &ClosedHours, etag: &ETag) -> Result<Option<ETag>, CloseError> {
        let path = LakePath::closed_hours(&record.topic);
        let written = self.lake.replace_document(&path, record.to_bytes(), etag).await;
        self.metrics.storage_request("hours", written.as_ref().err());
        match written {
            Ok(etag) => Ok(Some(etag)),
            Err(LakeError::Conflict | LakeError::Unknown { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Where the chain stands, if it has come to `end` and no file of an ended hour is open; else what is missing.
    async fn reached(
        &self,
        partition: &TopicPartition,
        end: KafkaOffset,
        ended: EventHour,
    ) -> Result<Result<KafkaOffset, String>, CloseError> {
        let Some(Standing { head, file, position }) = standing(&self.lake, partition).await? else {
            return Ok(Err(format!("{partition} has no chain yet")));
        };
        if position < end {
            return Ok(Err(format!("{partition} stands at {position} of {end}")));
        }
        let hour = head.path.as_ref().and_then(LakePath::hour);
        if file.is_some_and(|file| !file.metadata.sealed) && hour.is_some_and(|hour| hour <= ended) {
            return Ok(Err(format!("{partition} has an open file of an hour that is over")));
        }
        Ok(Ok(position))
    }

    /// Rule 4, then the manifest and the mark. What is missing, if something is.
    async fn close_one(
        &self,
        topic: &str,
        content: &TopicContent,
        hour: EventHour,
        positions: &BTreeMap<i32, KafkaOffset>,
    ) -> Result<Option<String>, CloseError> {
        let files = self.lake.list_files(&TopicFolder::of(content).hour(hour)).await?;
        if let Some(open) = files.iter().find(|file| is_of(topic, file) && !file.metadata.sealed) {
            return Ok(Some(format!("{} is not sealed", open.path)));
        }
        self.folder(topic, content, hour).write_manifest(positions).await?;
        self.metrics.hour_closed(topic, hour.end_seconds());
        tracing::info!(topic, %hour, files = files.len(), "hour closed");
        Ok(None)
    }

    fn folder<'a>(&'a self, topic: &'a str, content: &'a TopicContent, hour: EventHour) -> HourFolder<'a> {
        HourFolder { lake: &self.lake, metrics: &self.metrics, topic, content, hour }
    }

    async fn hours_with_files(
        &self,
        topic: &str,
        content: &TopicContent,
        ended: EventHour,
    ) -> Result<BTreeSet<EventHour>, CloseError> {
        let files = self.lake.list_files(TopicFolder::of(content).path()).await?;
        let hours = files.iter().filter(|file| is_of(topic, file)).filter_map(|file| file.path.hour());
        Ok(hours.filter(|hour| *hour <= ended).collect())
    }
}

fn is_of(topic: &str, file: &ListedFile) -> bool {
    &*file.metadata.topic_partition.topic == topic
}

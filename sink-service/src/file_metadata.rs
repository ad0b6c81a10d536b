//! What a data file says about itself: the facts that make the chain, written in the same request as the bytes.
//!
//! On Azure they are the blob's metadata, on a local directory the sidecar; both carry the same map of strings, so that
//! [`FileMetadata::to_map`] and [`FileMetadata::from_map`] are the only places that know how a fact is spelled.
//!
//! ```text
//!   topic partition     whose records these are
//!   first next          the range [first, next) of Kafka offsets that the file answers for
//!   sealed              `next` is final
//!   storedsize crc …    what the bytes must be
//!   writer seq          who wrote last, for logs only: nothing is decided by them
//! ```
//!
//! Invariants:
//! - Keys are lower case and values printable ASCII without blanks: HTTP headers carry nothing else safely. Anything else
//!   is percent-encoded, reversibly.
//! - An absent fact has no key: Azure and HTTP stacks do not agree on empty header values.
//! - Unknown keys are ignored when read, so that a later version may add some.
//! - All metadata of one blob may take 8 KB ([`METADATA_LIMIT_BYTES`]). Azure refuses more; Azurite does not, hence
//!   [`FileMetadata::encoded_len`] counts here, header prefix included, which is the strictest reading of
//!   <https://learn.microsoft.com/rest/api/storageservices/setting-and-retrieving-properties-and-metadata-for-blob-resources>.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use chrono::{DateTime, SecondsFormat, Utc};
use shared::{
    cluster_time::ClusterTime,
    kafka_position::{KafkaOffset, TopicPartition},
};
use thiserror::Error;
use uuid::Uuid;

use crate::{compression::Compression, line_format::LineFormat};

mod last_events;
mod line_crc;
mod offset_runs;
mod percent;

pub use last_events::{LastEvent, LastEvents, OTHERS_BYTES_MAX, SOURCES_MAX};
pub use line_crc::{LineCrc, LineCrcBuilder};
pub use offset_runs::OffsetRuns;
pub(crate) use percent::decode as percent_decode;

/// What Azure accepts for all metadata of one blob, names included, in bytes.
pub const METADATA_LIMIT_BYTES: usize = 8 * 1024;

/// The prefix that every metadata name gets as an HTTP header; counted against the limit.
const HEADER_PREFIX: &str = "x-ms-meta-";

/// One writing process: random, new per process start, never configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WriterId(Uuid);

impl WriterId {
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

/// Everything a data file says about itself. See the module's picture.
#[derive(Clone, Debug, PartialEq)]
pub struct FileMetadata {
    pub topic_partition: TopicPartition,
    /// The `next` of the file before this one; not the first row's offset.
    pub first: KafkaOffset,
    /// The consumer's position after the last record that this file answers for; exclusive.
    pub next: KafkaOffset,
    pub rows: u64,
    /// Offsets within [first, next) that went to the dead-letter topic instead of becoming a row.
    pub dead_letters: OffsetRuns,
    /// Records without a value: counted, no row.
    pub tombstones: u64,
    pub sealed: bool,
    /// For logs only.
    pub writer: WriterId,
    /// The writer's count of commits; for logs only.
    pub seq: u64,
    /// 0 for what the live sink wrote; each rebuild adds one.
    pub generation: u64,
    /// Of each source that was seen lately, up to here; those of the files before it included.
    pub last_event: Option<LastEvents>,
    pub min_cluster_time: Option<ClusterTime>,
    pub max_cluster_time: Option<ClusterTime>,
    /// Rows by operation type.
    pub operations: BTreeMap<String, u64>,
    /// Of the uncompressed lines.
    pub crc: LineCrc,
    /// Bytes of the uncompressed lines.
    pub original_size: u64,
    /// Bytes of the file; on a local directory, bytes past it are not part of the file.
    pub stored_size: u64,
    pub compressed: Compression,
    /// Of all lines.
    pub line_format: LineFormat,
    /// When the last commit was made, by the sink's clock; kept to the millisecond.
    pub processed_at: DateTime<Utc>,
    /// The number of the rules by which records find their hour and path.
    pub layout: u32,
    /// Of the service that wrote last.
    pub version: String,
}

/// A fact that is missing or cannot be read; not ours, or damaged.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MetadataError {
    #[error("`{key}` is missing")]
    Missing { key: &'static str },
    #[error("`{key}` is {value:?}, expected {expected}")]
    Malformed { key: &'static str, value: String, expected: &'static str },
}

/// Present in every data file of ours and unlikely in anybody else's.
pub(crate) const MARKER_KEY: &str = "layout";

impl FileMetadata {
    /// The facts as they are stored, in the order of their keys.
    pub fn to_map(&self) -> BTreeMap<&'static str, String> {
        let mut map = BTreeMap::from([
            ("topic", percent::encode(&self.topic_partition.topic, "")),
            ("partition", self.topic_partition.partition.to_string()),
            ("first", self.first.to_string()),
            ("next", self.next.to_string()),
            ("rows", self.rows.to_string()),
            ("tombstones", self.tombstones.to_string()),
            ("sealed", self.sealed.to_string()),
            ("writer", self.writer.to_string()),
            ("seq", self.seq.to_string()),
            ("generation", self.generation.to_string()),
            ("crc", self.crc.to_string()),
            ("originalsize", self.original_size.to_string()),
            ("storedsize", self.stored_size.to_string()),
            ("compressed", self.compressed.as_str().to_owned()),
            ("processedat", self.processed_at.to_rfc3339_opts(SecondsFormat::Millis, true)),
            (MARKER_KEY, self.layout.to_string()),
            ("version", percent::encode(&self.version, "")),
        ]);
        if !self.line_format.is_envelope() {
            map.insert("lineformat", self.line_format.as_str().to_owned());
        }
        if !self.dead_letters.is_empty() {
            map.insert("deadletters", self.dead_letters.to_string());
        }
        if let Some(events) = &self.last_event {
            let (latest, others) = events.encode();
            map.insert("lastevent", latest);
            others.and_then(|others| map.insert("otherevents", others));
        }
        if let Some(time) = self.min_cluster_time {
            map.insert("minclustertime", time.to_string());
        }
        if let Some(time) = self.max_cluster_time {
            map.insert("maxclustertime", time.to_string());
        }
        if !self.operations.is_empty() {
            let counts =
                self.operations.iter().map(|(name, n)| format!("{}:{n}", percent::encode(name, ",:")));
            map.insert("operations", counts.collect::<Vec<_>>().join(","));
        }
        map
    }

    /// # Errors
    /// If a fact that every file has is missing, or one cannot be read.
    pub fn from_map(map: &HashMap<String, String>) -> Result<Self, MetadataError> {
        let facts = Facts(map);
        let topic = facts.decoded("topic")?;
        Ok(Self {
            topic_partition: TopicPartition::new(topic, facts.number("partition")?),
            first: KafkaOffset::new(facts.number("first")?),
            next: KafkaOffset::new(facts.number("next")?),
            rows: facts.number("rows")?,
            dead_letters: facts
                .optional("deadletters", "runs of offsets", OffsetRuns::parse)?
                .unwrap_or_default(),
            tombstones: facts.number("tombstones")?,
            sealed: facts.required("sealed", "true or false", |text| text.parse().ok())?,
            writer: facts.required("writer", "32 hexadecimal digits", |text| {
                Uuid::try_parse(text).ok().map(WriterId)
            })?,
            seq: facts.number("seq")?,
            generation: facts.number("generation")?,
            last_event: facts.last_event()?,
            min_cluster_time: facts.optional("minclustertime", "seconds.increment", ClusterTime::parse)?,
            max_cluster_time: facts.optional("maxclustertime", "seconds.increment", ClusterTime::parse)?,
            operations: facts
                .optional("operations", "a list of name:count", parse_operations)?
                .unwrap_or_default(),
            crc: facts.required("crc", "16 hexadecimal digits", LineCrc::parse)?,
            original_size: facts.number("originalsize")?,
            stored_size: facts.number("storedsize")?,
            compressed: facts.required("compressed", "none, gzip or zstd", Compression::parse)?,
            line_format: facts
                .optional("lineformat", "envelope or flat", LineFormat::parse)?
                .unwrap_or_default(),
            processed_at: facts.required("processedat", "an RFC 3339 time", |text| {
                DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
            })?,
            layout: facts.number(MARKER_KEY)?,
            version: facts.decoded("version")?,
        })
    }

    /// Bytes that these facts take in the store, header prefix included. The lake refuses more than
    /// [`METADATA_LIMIT_BYTES`]; the caller ends the file before that.
    pub fn encoded_len(&self) -> usize {
        self.to_map().iter().map(|(key, value)| HEADER_PREFIX.len() + key.len() + value.len()).sum()
    }
}

fn parse_operations(text: &str) -> Option<BTreeMap<String, u64>> {
    let counts = text.split(',').map(|item| {
        let (name, count) = item.split_once(':')?;
        Some((percent::decode(name)?, count.parse().ok()?))
    });
    counts.collect()
}

/// A stored map, read fact by fact.
struct Facts<'a>(&'a HashMap<String, String>);

impl Facts<'_> {
    fn optional<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, MetadataError> {
        let Some(text) = self.0.get(key) else { return Ok(None) };
        match parse(text) {
            Some(value) => Ok(Some(value)),
            None => Err(MetadataError::Malformed { key, value: text.clone(), expected }),
        }
    }

    fn required<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, MetadataError> {
        self.optional(key, expected, parse)?.ok_or(MetadataError::Missing { key })
    }

    fn number<T: std::str::FromStr>(&self, key: &'static str) -> Result<T, MetadataError> {
        self.required(key, "a number that fits", |text| text.parse().ok())
    }

    fn last_event(&self) -> Result<Option<LastEvents>, MetadataError> {
        let latest = self.optional("lastevent", "an event id and a source", LastEvents::decode)?;
        let others =
            self.optional("otherevents", "event ids, each with its source", LastEvents::decode_others)?;
        Ok(match (latest, others) {
            (Some(latest), Some(others)) => Some(latest.with_others(others)),
            (latest, _) => latest,
        })
    }

    fn decoded(&self, key: &'static str) -> Result<String, MetadataError> {
        self.required(key, "percent-encoded text", percent::decode)
    }
}

#[cfg(test)]
mod tests;

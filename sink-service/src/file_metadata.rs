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
use serde::{Deserialize, Serialize};
use shared::{
    cluster_time::ClusterTime,
    kafka_position::{KafkaOffset, TopicPartition},
};
use thiserror::Error;
use uuid::Uuid;

use crate::{compression::Compression, line_format::LineFormat};

mod line_crc;
mod offset_runs;
mod percent;

pub use line_crc::{LineCrc, LineCrcBuilder};
pub use offset_runs::OffsetRuns;
pub(crate) use percent::decode as percent_decode;

/// What Azure accepts for all metadata of one blob, names included, in bytes.
pub const METADATA_LIMIT_BYTES: usize = 8 * 1024;

/// The prefix that every metadata name gets as an HTTP header; counted against the limit.
const HEADER_PREFIX: &str = "x-ms-meta-";

/// Event ids longer than this are cut and closed with a hash.
const EVENT_ID_CHARS_MAX: usize = 1024;

/// Likewise for the `source` header, which a foreign producer may fill with anything.
const SOURCE_CHARS_MAX: usize = 128;

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

/// The last event of a chain up to some place, for people and for finding repeats ([`crate::repeats`]). Both parts are bounded in length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastEvent {
    #[serde(rename = "eventid")]
    event_id: String,
    source: String,
}

impl LastEvent {
    /// Cuts what is too long. The first 1,024 characters of an event id still sort as the whole id does.
    pub fn new(event_id: &str, source: &str) -> Self {
        Self { event_id: cut(event_id, EVENT_ID_CHARS_MAX), source: cut(source, SOURCE_CHARS_MAX) }
    }

    pub fn event_id(&self) -> &str {
        &self.event_id
    }

    /// `<source id>/<run>`, as the record's header has it; may be empty for a foreign producer.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether both are kept as they are.
    pub fn is_short(event_id: &str, source: &str) -> bool {
        let short = |text: &str, chars_max| text.is_ascii() && text.len() <= chars_max;
        short(event_id, EVENT_ID_CHARS_MAX) && short(source, SOURCE_CHARS_MAX)
    }

    /// Whether it is the same event as the other one, or one of the same source before it. `false` where the cut leaves it open.
    pub fn is_known_before(&self, event_id: &str, source: &str) -> bool {
        Self::is_short(event_id, source) && self.source == source && self.is_known_not_to_follow(event_id)
    }

    /// Whether this event has the same id as the other one, or a lower one. `false` where the cut leaves it open.
    pub fn is_known_not_to_follow(&self, other_event_id: &str) -> bool {
        let kept = |id: &str| id.len().checked_sub(CUT_SUFFIX_LEN).filter(|_| id.len() > EVENT_ID_CHARS_MAX);
        match (kept(&self.event_id), kept(other_event_id)) {
            (Some(a), Some(b)) if self.event_id.as_bytes()[..a] == other_event_id.as_bytes()[..b] => {
                self.event_id == other_event_id
            }
            _ => self.event_id.as_str() <= other_event_id,
        }
    }
}

/// `~` and 16 hexadecimal digits.
const CUT_SUFFIX_LEN: usize = 17;

/// Cuts at `chars_max` characters and closes the rest with `~` and its hash, so that two long texts stay apart.
///
/// A character counts as ASCII does, with up to three bytes when it is encoded; where others take more, the cut comes
/// earlier, or a foreign text alone could fill the metadata.
fn cut(text: &str, chars_max: usize) -> String {
    let mut room = 3 * chars_max;
    let end = text.char_indices().enumerate().find_map(|(count, (index, character))| {
        let encoded = percent::encoded_len_max(character);
        if count == chars_max || encoded > room {
            return Some(index);
        }
        room -= encoded;
        None
    });
    match end {
        None => text.to_owned(),
        Some(end) => {
            let (kept, rest) = text.split_at(end);
            format!("{kept}~{}", LineCrc::of(rest.as_bytes()))
        }
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
    /// Of the rows up to here; of the files before it, as long as it has none.
    pub last_event: Option<LastEvent>,
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
        if let Some(LastEvent { event_id, source }) = &self.last_event {
            let text = format!("{},{}", percent::encode(event_id, ","), percent::encode(source, ","));
            map.insert("lastevent", text);
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
            last_event: facts.optional("lastevent", "an event id and a source", parse_last_event)?,
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

fn parse_last_event(text: &str) -> Option<LastEvent> {
    let (event_id, source) = text.split_once(',')?;
    Some(LastEvent { event_id: percent::decode(event_id)?, source: percent::decode(source)? })
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

    fn decoded(&self, key: &'static str) -> Result<String, MetadataError> {
        self.required(key, "percent-encoded text", percent::decode)
    }
}

#[cfg(test)]
mod tests;

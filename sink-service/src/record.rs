//! One Kafka record, looked at once: is it a line, and of which hour?
//!
//! The record's value becomes the line as it is; nothing is re-encoded. All that happens to its bytes is that blanks
//! at its end are cut, raw line breaks between tokens become spaces (inside strings JSON does not allow them), and
//! `_kafka` is put in as the last member. So the value must be known to be one valid JSON object, and that takes one
//! pass over it.
//!
//! The hour is a total function of the record, layout 1 of the lake: the first of these that is present, well formed
//! and within 1970–9999: header `cluster-time`; `_meta.clusterTime`; `_meta.wallTime`; the ObjectId in
//! `documentKey._id`, then in `fullDocument._id`; Kafka's timestamp; else 1970-01-01 00. A value that is no JSON object
//! has only the header and Kafka's timestamp. It is never the clock: every writer must take the same decision, or the
//! chain forks.

use std::fmt;

use chrono::DateTime;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use shared::{
    cluster_time::ClusterTime,
    dead_letter::{self, DeadLetterReason},
    wire::{header, member},
};

use crate::{event_hour::EventHour, topic_content::TopicContent};

/// The function from a record to its hour that this version implements; kept in heads and file metadata.
pub const LAYOUT: u32 = 1;

/// The largest value that becomes a line, in bytes: as large as an event of the source may be before compression. What a
/// topic takes (`max.message.bytes`) is measured after it, so a record may arrive far larger than its topic's limit.
pub const VALUE_BYTES_MAX: usize = 128 * 1024 * 1024;

/// The parts of a Kafka record that decide what becomes of it. Header values that are no UTF-8 count as absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordView<'a> {
    pub value: Option<&'a [u8]>,
    /// Milliseconds since the epoch; `None` if Kafka has none.
    pub timestamp: Option<i64>,
    pub cluster_time: Option<&'a str>,
    pub database: Option<&'a str>,
    pub collection: Option<&'a str>,
    pub operation: Option<&'a str>,
    pub event_id: Option<&'a str>,
    pub source: Option<&'a str>,
    pub content_type: Option<&'a str>,
    /// A row of a snapshot.
    pub snapshot: bool,
    /// Sent back from the dead-letter topic.
    pub retried: bool,
}

impl<'a> RecordView<'a> {
    /// Id and source, if the headers are those of a change of a source of ours. Whether its value can become a line is not asked:
    /// [`Inspected::event`] is for that.
    pub fn change(&self) -> Option<(&'a str, &'a str)> {
        self.event(self.cluster_time.and_then(ClusterTime::parse))
    }

    /// Id and source of a change, if the record is of one that a source of ours publishes in the order of the ids: the source is named with its run,
    /// and the id is a resume token of the record's own time. Others may use the same names for other things.
    fn event(&self, header_time: Option<ClusterTime>) -> Option<(&'a str, &'a str)> {
        let (id, source) = (self.event_id?, self.source?);
        if self.snapshot || self.retried {
            return None;
        }
        let (_, run) = source.rsplit_once('/')?;
        let has_run = !run.is_empty() && run.bytes().all(|byte| byte.is_ascii_digit());
        let time = ClusterTime::from_token_data(id)?;
        (has_run && header_time == Some(time)).then_some((id, source))
    }

    /// Takes notice of one header. A header that comes twice counts by its last value, as Kafka's clients do.
    pub fn set_header(&mut self, name: &str, value: &'a [u8]) {
        let slot = match name {
            header::CLUSTER_TIME => &mut self.cluster_time,
            header::DATABASE => &mut self.database,
            header::COLLECTION => &mut self.collection,
            header::OPERATION_TYPE => &mut self.operation,
            header::EVENT_ID => &mut self.event_id,
            header::SOURCE => &mut self.source,
            header::CONTENT_TYPE => &mut self.content_type,
            header::SNAPSHOT => return self.snapshot = true,
            dead_letter::header::RETRY => return self.retried = true,
            _ => return,
        };
        *slot = std::str::from_utf8(value).ok();
    }
}

/// What becomes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// A JSON object, without what stands around it.
    Line {
        object: &'a str,
        empty_object: bool,
        has_line_breaks: bool,
    },
    /// No value: counted, not written.
    Tombstone,
    DeadLetter {
        reason: DeadLetterReason,
        error: String,
    },
}

/// A record's verdict and its place in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected<'a> {
    pub verdict: Verdict<'a>,
    pub hour: EventHour,
    /// From the header or `_meta.clusterTime`.
    pub cluster_time: Option<ClusterTime>,
    /// Id and source of the change, if it is one that a source of ours publishes in the order of the ids. None of a dead letter, but for one that
    /// [`crate::schema_check`] has made of a line.
    pub event: Option<(&'a str, &'a str)>,
}

/// A record that cannot be read as what it says it is: a dead letter, of the hour that its header or Kafka names.
pub fn refused(record: &RecordView<'_>, reason: DeadLetterReason, error: String) -> Inspected<'static> {
    let cluster_time = record.cluster_time.and_then(ClusterTime::parse);
    Inspected {
        verdict: Verdict::DeadLetter { reason, error },
        hour: hour_by_kafka(cluster_time, record.timestamp),
        cluster_time,
        event: None,
    }
}

/// Looks at one record of a topic that holds `content`. Its value is JSON here: Avro was made JSON before
/// ([`crate::value_reader`]).
pub fn inspect<'a>(record: &RecordView<'a>, content: &TopicContent, value_bytes_max: usize) -> Inspected<'a> {
    let header_time = record.cluster_time.and_then(ClusterTime::parse);
    let Some(value) = record.value else {
        return Inspected {
            verdict: Verdict::Tombstone,
            hour: hour_by_kafka(header_time, record.timestamp),
            cluster_time: header_time,
            event: record.event(header_time),
        };
    };
    if value.is_empty() {
        return refused(record, DeadLetterReason::Empty, "the value has no bytes".to_owned());
    }
    let object = match Object::validate(value) {
        Ok(object) => object,
        Err((reason, error)) => return refused(record, reason, error),
    };

    // Records of our source say all in their headers; only foreign ones are parsed a second time. A definition need not say what it is of.
    let is_named =
        *content == TopicContent::Control || record.database.is_some() && record.collection.is_some();
    let probe = if header_time.is_some() && is_named { Probe::default() } else { Probe::of(value) };
    let cluster_time = header_time.or(probe.cluster_time);
    let dated = cluster_time
        .map(EventHour::from_cluster_time)
        .or(probe.other_hour)
        .or_else(|| record.timestamp.and_then(EventHour::from_millis));
    let hour = dated.unwrap_or(EventHour::EPOCH);
    let event = record.event(header_time);
    let verdict = |verdict| Inspected { verdict, hour, cluster_time, event };
    let dead_letter =
        |reason, error: String| Inspected { event: None, ..verdict(Verdict::DeadLetter { reason, error }) };

    let db = record.database.or(probe.database.as_deref());
    let coll = record.collection.or(probe.collection.as_deref());
    if value.len() > value_bytes_max {
        let error = format!("the value has {} bytes, a line may have {value_bytes_max}", value.len());
        dead_letter(DeadLetterReason::TooLarge, error)
    } else if object.has_kafka_member {
        dead_letter(
            DeadLetterReason::KafkaMemberPresent,
            format!("the value has a member `{}` already", member::KAFKA),
        )
    } else if content.contradicts(db, coll) {
        let error = format!(
            "the record is of `{}.{}`, its topic holds `{content}`",
            db.unwrap_or("?"),
            coll.unwrap_or("?")
        );
        dead_letter(DeadLetterReason::NamespaceMismatch, error)
    } else if dated.is_none() {
        dead_letter(DeadLetterReason::NoTime, "neither the record nor Kafka says when it happened".to_owned())
    } else {
        verdict(Verdict::Line {
            object: object.text,
            empty_object: object.is_empty,
            has_line_breaks: memchr::memchr2(b'\n', b'\r', value).is_some(),
        })
    }
}

fn hour_by_kafka(header_time: Option<ClusterTime>, timestamp: Option<i64>) -> EventHour {
    header_time
        .map(EventHour::from_cluster_time)
        .or_else(|| timestamp.and_then(EventHour::from_millis))
        .unwrap_or(EventHour::EPOCH)
}

/// A value that was found to be one JSON object.
struct Object<'a> {
    text: &'a str,
    is_empty: bool,
    has_kafka_member: bool,
}

impl<'a> Object<'a> {
    fn validate(value: &'a [u8]) -> Result<Self, (DeadLetterReason, String)> {
        let text = simdutf8::compat::from_utf8(value)
            .map_err(|error| (DeadLetterReason::InvalidUtf8, error.to_string()))?;
        let invalid = |error: serde_json::Error| (DeadLetterReason::InvalidJson, position_of(&error));
        let mut json = serde_json::Deserializer::from_str(text);
        let is_object = text.trim_ascii_start().starts_with('{');
        let members = if is_object {
            json.deserialize_map(TopLevelMembers).map_err(invalid)?
        } else {
            json.deserialize_any(IgnoredAny).map_err(invalid)?;
            Members::default()
        };
        json.end().map_err(invalid)?;
        if !is_object {
            return Err((DeadLetterReason::NotAnObject, "the value is JSON, but no object".to_owned()));
        }
        Ok(Self {
            text: text.trim_ascii_end(),
            is_empty: members.is_empty,
            has_kafka_member: members.has_kafka,
        })
    }
}

/// Where the text stops being JSON. The parser's own message may quote the content, which must not leave the record.
fn position_of(error: &serde_json::Error) -> String {
    format!("not valid JSON at line {} column {}", error.line(), error.column())
}

struct Members {
    is_empty: bool,
    has_kafka: bool,
}

impl Default for Members {
    fn default() -> Self {
        Self { is_empty: true, has_kafka: false }
    }
}

/// Walks the members of the top level without keeping any of them.
struct TopLevelMembers;

impl<'de> Visitor<'de> for TopLevelMembers {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = Members::default();
        while let Some(IsKafka(is_kafka)) = map.next_key()? {
            members.is_empty = false;
            members.has_kafka |= is_kafka;
            map.next_value::<IgnoredAny>()?;
        }
        Ok(members)
    }
}

/// A member's name, of which only one thing is asked. Read as bytes, because a name may hold a lone surrogate escape,
/// which is valid JSON although no text.
struct IsKafka(bool);

impl<'de> serde::Deserialize<'de> for IsKafka {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;

        impl Visitor<'_> for Name {
            type Value = IsKafka;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member name")
            }

            fn visit_bytes<E>(self, name: &[u8]) -> Result<IsKafka, E> {
                Ok(IsKafka(name == member::KAFKA.as_bytes()))
            }

            fn visit_str<E>(self, name: &str) -> Result<IsKafka, E> {
                Ok(IsKafka(name == member::KAFKA))
            }
        }

        deserializer.deserialize_bytes(Name)
    }
}

/// What a value says of itself, for records whose headers do not.
#[derive(Default)]
struct Probe {
    database: Option<String>,
    collection: Option<String>,
    cluster_time: Option<ClusterTime>,
    other_hour: Option<EventHour>,
}

impl Probe {
    /// Nothing is found in a value that nests deeper than the parser allows; then Kafka's timestamp decides.
    fn of(value: &[u8]) -> Self {
        let Ok(value) = serde_json::from_slice::<Value>(value) else { return Self::default() };
        let text = |pointer| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let hour =
            |pointer: &str, read: fn(&Value) -> Option<EventHour>| value.pointer(pointer).and_then(read);
        Self {
            database: text("/_meta/ns/db"),
            collection: text("/_meta/ns/coll"),
            cluster_time: value.pointer("/_meta/clusterTime").and_then(timestamp),
            other_hour: hour("/_meta/wallTime", date)
                .or_else(|| hour("/documentKey/_id", object_id))
                .or_else(|| hour("/fullDocument/_id", object_id)),
        }
    }
}

/// `{"$timestamp":{"t":…,"i":…}}`, the same in every dialect.
fn timestamp(value: &Value) -> Option<ClusterTime> {
    let timestamp = value.get("$timestamp")?;
    let part = |name| timestamp.get(name)?.as_u64().and_then(|part| u32::try_from(part).ok());
    Some(ClusterTime::new(part("t")?, part("i")?))
}

/// `{"$date":"…"}` (relaxed), `{"$date":{"$numberLong":"…"}}` (canonical) or the ISO text alone (plain).
fn date(value: &Value) -> Option<EventHour> {
    let inner = value.get("$date").unwrap_or(value);
    let millis = match inner {
        Value::String(text) => DateTime::parse_from_rfc3339(text).ok()?.timestamp_millis(),
        other => other.get("$numberLong")?.as_str()?.parse().ok()?,
    };
    EventHour::from_millis(millis)
}

/// `{"$oid":"…"}`, or 24 hexadecimal digits alone (plain). Its first four bytes are seconds.
fn object_id(value: &Value) -> Option<EventHour> {
    let text = value.get("$oid").unwrap_or(value).as_str()?;
    if text.len() != 24 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let seconds = u32::from_str_radix(text.get(..8)?, 16).ok()?;
    Some(EventHour::from_cluster_time(ClusterTime::new(seconds, 0)))
}

#[cfg(test)]
mod tests;

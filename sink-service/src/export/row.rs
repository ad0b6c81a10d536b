//! A line, split into the columns of a row.
//!
//! A member goes into its column only if the column can hold all of it; otherwise it stays in `rest`, as it stands in the line. So a row says
//! everything that its line says, whatever wrote the record: JSON texts are cut out of the line, never parsed and written again. Only this
//! is not told apart: a member that is `null` and one that is not there; how an instant with the same milliseconds was spelled; blanks
//! between members.

use std::fmt;

use bytes::Bytes;
use chrono::DateTime;
use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::columns::{COLUMN_COUNT, Column};

/// One value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    Text(Bytes),
    Long(i64),
    Int(i32),
    Flag(bool),
}

/// One line's values, by the numbers of their columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row(pub [Option<Cell>; COLUMN_COUNT]);

/// Where a row was in Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub partition: i32,
    pub offset: i64,
}

/// Why a line is no row.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum NoRow {
    #[error("it is not UTF-8")]
    NotUtf8,
    /// The parser's own text might quote the line.
    #[error("it is no JSON object")]
    NotAnObject,
    #[error("it has no `_kafka` member that says where it was")]
    NoPlace,
}

impl Row {
    /// # Errors
    /// If it is no line of the lake.
    pub(super) fn of(line: &Bytes) -> Result<(Self, Place), NoRow> {
        let text = simdutf8::basic::from_utf8(line).map_err(|_| NoRow::NotUtf8)?;
        let mut splitter = Splitter { line, row: Self::default() };
        let mut rest = Members::default();
        let mut place = None;
        let mut has_meta = false;
        for (name, value) in members(text).ok_or(NoRow::NotAnObject)? {
            let taken = match name {
                r#""_kafka""# => {
                    place = Some(splitter.kafka(value).ok_or(NoRow::NoPlace)?);
                    true
                }
                r#""_meta""# if !has_meta => {
                    has_meta = true;
                    match splitter.meta(value) {
                        Some(of_meta) if of_meta.is_empty() => {}
                        Some(of_meta) => rest.push(name, &of_meta.finish()),
                        None => rest.push(name, value),
                    }
                    true
                }
                r#""documentKey""# => splitter.json(Column::DocumentKey, value),
                r#""fullDocument""# => splitter.json(Column::FullDocument, value),
                r#""updateDescription""# => splitter.json(Column::UpdateDescription, value),
                r#""fullDocumentBeforeChange""# => splitter.json(Column::FullDocumentBeforeChange, value),
                _ => false,
            };
            if !taken {
                rest.push(name, value);
            }
        }
        if !rest.is_empty() {
            splitter.row.0[Column::Rest as usize] = Some(Cell::Text(rest.finish().into()));
        }
        Ok((splitter.row, place.ok_or(NoRow::NoPlace)?))
    }
}

/// Fills a row's columns; each answer says whether the member was taken.
struct Splitter<'a> {
    line: &'a Bytes,
    row: Row,
}

impl Splitter<'_> {
    /// A column takes one value: a member that comes twice is not taken the second time.
    fn put(&mut self, column: Column, cell: Option<Cell>) -> bool {
        let slot = &mut self.row.0[column as usize];
        if slot.is_some() {
            return false;
        }
        let taken = cell.is_some();
        *slot = cell;
        taken
    }

    /// Part of the line, without copying it.
    fn part(&self, text: &str) -> Cell {
        Cell::Text(self.line.slice_ref(text.as_bytes()))
    }

    fn json(&mut self, column: Column, value: &str) -> bool {
        value == NULL && self.row.0[column as usize].is_none() || self.put(column, Some(self.part(value)))
    }

    fn text(&mut self, column: Column, value: &str) -> bool {
        let cell = self.string(value);
        self.put(column, cell)
    }

    /// What a JSON string says; `None` for anything else, and for one that is no text.
    fn string(&self, value: &str) -> Option<Cell> {
        let inner = value.strip_prefix('"')?.strip_suffix('"')?;
        if inner.contains('\\') {
            let text: String = serde_json::from_str(value).ok()?;
            Some(Cell::Text(text.into()))
        } else {
            Some(self.part(inner))
        }
    }

    /// What is left of `_meta`; `None` if nothing of it can be taken.
    fn meta(&mut self, value: &str) -> Option<Members> {
        let members = members(value)?;
        // An empty one is kept as it is.
        if members.is_empty() {
            return None;
        }
        let mut rest = Members::default();
        for (name, value) in members {
            let taken = match name {
                r#""eventId""# => self.text(Column::EventId, value),
                r#""operationType""# => self.text(Column::Operation, value),
                r#""ns""# => self.namespace(value),
                r#""clusterTime""# => self.cluster_time(value),
                r#""wallTime""# => self.put(Column::WallTime, instant(value)),
                r#""processedAt""# => self.put(Column::ProcessedAt, instant(value)),
                r#""source""# => self.text(Column::Source, value),
                r#""snapshot""# => self.put(Column::Snapshot, flag(value)),
                r#""lsid""# => self.json(Column::Lsid, value),
                r#""txnNumber""# => self.json(Column::TxnNumber, value),
                _ => false,
            };
            let says_nothing = value == NULL && NAMED_IN_META.contains(&name);
            if !taken && !says_nothing {
                rest.push(name, value);
            }
        }
        Some(rest)
    }

    /// Exactly `{"db":…,"coll":…}`.
    fn namespace(&mut self, value: &str) -> bool {
        let free = [Column::Db, Column::Coll].iter().all(|column| self.row.0[*column as usize].is_none());
        let parts = members(value);
        let Some([(r#""db""#, db), (r#""coll""#, coll)]) = parts.as_deref() else { return false };
        match (self.string(db), self.string(coll)) {
            (Some(db), Some(coll)) if free => {
                self.put(Column::Db, Some(db)) && self.put(Column::Coll, Some(coll))
            }
            _ => false,
        }
    }

    /// Exactly `{"$timestamp":{"t":…,"i":…}}`, the same in every dialect.
    fn cluster_time(&mut self, value: &str) -> bool {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Outer {
            #[serde(rename = "$timestamp")]
            timestamp: Inner,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Inner {
            t: u32,
            i: i32,
        }
        let Ok(Outer { timestamp: Inner { t, i } }) = serde_json::from_str(value) else { return false };
        self.put(Column::ClusterTime, Some(Cell::Long(i64::from(t) * 1000)))
            && self.put(Column::ClusterTimeIncrement, Some(Cell::Int(i)))
    }

    /// What the sink itself has put in.
    fn kafka(&mut self, value: &str) -> Option<Place> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Kafka<'a> {
            topic: &'a str,
            partition: i32,
            offset: i64,
            timestamp: Option<i64>,
        }
        let Kafka { topic, partition, offset, timestamp } = serde_json::from_str(value).ok()?;
        let topic = self.part(topic);
        // The second one is no line of ours.
        if !self.put(Column::KafkaTopic, Some(topic)) {
            return None;
        }
        self.put(Column::KafkaPartition, Some(Cell::Int(partition)));
        self.put(Column::KafkaOffset, Some(Cell::Long(offset)));
        self.put(Column::KafkaTimestamp, timestamp.map(Cell::Long));
        Some(Place { partition, offset })
    }
}

const NULL: &str = "null";

/// Where `null` says what an empty column says.
const NAMED_IN_META: [&str; 10] = [
    r#""eventId""#,
    r#""operationType""#,
    r#""ns""#,
    r#""clusterTime""#,
    r#""wallTime""#,
    r#""processedAt""#,
    r#""source""#,
    r#""snapshot""#,
    r#""lsid""#,
    r#""txnNumber""#,
];

fn flag(value: &str) -> Option<Cell> {
    value.parse().ok().map(Cell::Flag)
}

/// `{"$date":"…Z"}` (relaxed), `{"$date":{"$numberLong":"…"}}` (canonical and what has no ISO form) or the text alone (plain), if it is a
/// whole number of milliseconds.
fn instant(value: &str) -> Option<Cell> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Date<'a> {
        #[serde(rename = "$date", borrow)]
        date: &'a RawValue,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Long<'a> {
        #[serde(rename = "$numberLong")]
        long: &'a str,
    }
    let date = match serde_json::from_str::<Date<'_>>(value) {
        Ok(Date { date }) => date.get(),
        Err(_) => value,
    };
    if let Ok(Long { long }) = serde_json::from_str(date) {
        return long.parse().ok().map(Cell::Long);
    }
    let text: &str = serde_json::from_str(date).ok()?;
    let at = DateTime::parse_from_rfc3339(text).ok().filter(|_| text.ends_with('Z'))?;
    (at.timestamp_subsec_nanos() % 1_000_000 == 0).then(|| Cell::Long(at.timestamp_millis()))
}

/// The members of an object, names with their quotes, in their order and as they stand; `None` if it is none.
fn members(text: &str) -> Option<Vec<(&str, &str)>> {
    struct Raw;

    impl<'de> Visitor<'de> for Raw {
        type Value = Vec<(&'de str, &'de str)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                members.push((name.get(), value.get()));
            }
            Ok(members)
        }
    }

    let mut json = serde_json::Deserializer::from_str(text);
    let members = json.deserialize_map(Raw).ok()?;
    json.end().ok()?;
    Some(members)
}

/// An object made of members as they stand.
#[derive(Default)]
struct Members(String);

impl Members {
    fn push(&mut self, name: &str, value: &str) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        self.0.push_str(name);
        self.0.push(':');
        self.0.push_str(value);
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn finish(mut self) -> String {
        if self.0.is_empty() {
            self.0.push('{');
        }
        self.0.push('}');
        self.0
    }
}

#[cfg(test)]
mod tests;

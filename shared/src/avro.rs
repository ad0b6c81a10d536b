//! The envelope in Avro: one fixed schema, written and read by hand.
//!
//! ```text
//!  00 │ schema id, 4 bytes, big-endian │ Avro binary of a `ChangeEvent`          Confluent's wire format
//! ```
//!
//! `_meta` has typed fields; documents are the texts that the JSON envelope has, verbatim. So a value in Avro and one in
//! JSON are two forms of the same bytes: [`ChangeEvent::write_json`] puts texts together and parses none of them. Where
//! the typed fields of `_meta` would not give back its JSON to the byte, `_meta.text` has it ([`Meta::says`]).
//!
//! Nothing here builds a tree or allocates per event; the library `apache-avro` reads the schema's text
//! ([`is_change_event`]), and is the independent reader in tests.
//!
//! Sources: Apache Avro 1.12 specification, "Binary Encoding"; Confluent Platform, "Formats, Serializers and
//! Deserializers: Wire Format".

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use std::{fmt, sync::LazyLock};

use apache_avro::Schema;

pub use self::decode::{Entries, MalformedAvro, write_json};
use crate::{cluster_time::ClusterTime, iso_instant::IsoInstant, wire::member};

/// The schema, as it is registered.
pub const SCHEMA: &str = include_str!("avro/change_event.avsc");

/// The schema's full name, and the subject under which it is registered: one for all topics, since all hold the same
/// record (Confluent's `RecordNameStrategy`).
pub const SUBJECT: &str = "atlas.lake.ChangeEvent";

/// The first byte of Confluent's wire format. No JSON text begins with it.
pub const MAGIC: u8 = 0;

/// Under which number a registry knows a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SchemaId(u32);

impl SchemaId {
    #[must_use]
    pub const fn new(id: u32) -> Self {
        Self(id)
    }

    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for SchemaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The schema's id and the Avro binary behind it; `None` if the bytes are not in Confluent's wire format.
#[must_use]
pub fn split(value: &[u8]) -> Option<(SchemaId, &[u8])> {
    let (&[magic, a, b, c, d], datum) = value.split_first_chunk()?;
    (magic == MAGIC).then_some((SchemaId(u32::from_be_bytes([a, b, c, d])), datum))
}

/// [`SCHEMA`], parsed.
#[must_use]
pub fn schema() -> &'static Schema {
    static PARSED: LazyLock<Schema> =
        LazyLock::new(|| Schema::parse_str(SCHEMA).expect("our own schema is valid"));
    &PARSED
}

/// Whether a schema's text is ours but for what does not change the bytes: documentation, defaults, blanks, logical types
/// (Avro specification, "Parsing Canonical Form").
#[must_use]
pub fn is_change_event(text: &str) -> bool {
    static OURS: LazyLock<Option<String>> = LazyLock::new(|| canonical(SCHEMA));
    canonical(text).is_some_and(|other| Some(&other) == OURS.as_ref())
}

/// Taken twice: the library leaves a frame around a type whose logical type it has stripped (`{"type":"long"}`, seen in
/// 0.22), which a second parsing takes off.
fn canonical(text: &str) -> Option<String> {
    let once = Schema::parse_str(text).ok()?.canonical_form();
    Some(Schema::parse_str(&once).ok()?.canonical_form())
}

/// `_meta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta<'a> {
    pub event_id: &'a str,
    pub operation: &'a str,
    /// Database, and collection if there is one.
    pub namespace: Option<(&'a str, Option<&'a str>)>,
    pub cluster_time: ClusterTime,
    /// Milliseconds since 1970.
    pub wall_time_ms: Option<i64>,
    /// Extended JSON.
    pub lsid: Option<&'a str>,
    pub txn_number: Option<i64>,
    pub source: &'a str,
    pub snapshot: bool,
    /// Milliseconds since 1970.
    pub processed_at_ms: Option<i64>,
}

impl Meta<'_> {
    /// Appends `_meta` as JSON in the relaxed dialect.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"eventId\":");
        text(self.event_id, out);
        out.extend_from_slice(b",\"operationType\":");
        text(self.operation, out);
        out.extend_from_slice(b",\"ns\":");
        match self.namespace {
            Some((db, coll)) => {
                out.extend_from_slice(b"{\"db\":");
                text(db, out);
                if let Some(coll) = coll {
                    out.extend_from_slice(b",\"coll\":");
                    text(coll, out);
                }
                out.push(b'}');
            }
            None => out.extend_from_slice(NULL),
        }
        let ClusterTime { seconds, increment } = self.cluster_time;
        out.extend_from_slice(b",\"clusterTime\":{\"$timestamp\":{\"t\":");
        number(seconds.into(), out);
        out.extend_from_slice(b",\"i\":");
        number(increment.into(), out);
        out.extend_from_slice(b"}},\"wallTime\":");
        match self.wall_time_ms.map(|ms| (ms, IsoInstant::from_millis(ms))) {
            Some((_, Some(instant))) => {
                out.extend_from_slice(b"{\"$date\":\"");
                out.extend_from_slice(instant.as_bytes());
                out.extend_from_slice(b"\"}");
            }
            Some((ms, None)) => {
                out.extend_from_slice(b"{\"$date\":{\"$numberLong\":\"");
                number(ms, out);
                out.extend_from_slice(b"\"}}");
            }
            None => out.extend_from_slice(NULL),
        }
        out.extend_from_slice(b",\"lsid\":");
        out.extend_from_slice(self.lsid.map_or(NULL, str::as_bytes));
        out.extend_from_slice(b",\"txnNumber\":");
        match self.txn_number {
            Some(txn) => number(txn, out),
            None => out.extend_from_slice(NULL),
        }
        out.extend_from_slice(b",\"source\":");
        text(self.source, out);
        out.extend_from_slice(if self.snapshot { b",\"snapshot\":true" } else { b",\"snapshot\":false" });
        out.extend_from_slice(b",\"processedAt\":");
        match self.processed_at_ms.and_then(IsoInstant::from_millis) {
            Some(instant) => {
                out.push(b'"');
                out.extend_from_slice(instant.as_bytes());
                out.push(b'"');
            }
            None => out.extend_from_slice(NULL),
        }
        out.push(b'}');
    }

    /// Whether these fields give `json` to the byte: then `_meta.text` is not needed. `scratch` is for the attempt.
    #[must_use]
    pub fn says(&self, json: &str, scratch: &mut Vec<u8>) -> bool {
        scratch.clear();
        self.write_json(scratch);
        scratch == json.as_bytes()
    }
}

/// A whole envelope. Texts are Extended JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeEvent<'a, F> {
    pub meta: Meta<'a>,
    /// `_meta` as JSON, where its fields do not say it.
    pub meta_text: Option<&'a str>,
    pub document_key: Option<&'a str>,
    pub full_document: Option<&'a str>,
    pub update_description: Option<&'a str>,
    pub full_document_before_change: Option<&'a str>,
    /// Names, as they stand between the quotes in JSON, and their values.
    pub further: F,
}

impl<'a, F: Iterator<Item = (&'a str, &'a str)>> ChangeEvent<'a, F> {
    /// Appends the envelope as JSON: the same bytes as with `VALUE_FORMAT=json`.
    pub fn write_json(self, out: &mut Vec<u8>) {
        let name = |name: &str, open: &[u8], out: &mut Vec<u8>| {
            out.extend_from_slice(open);
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
        };
        name(member::META, b"{\"", out);
        match self.meta_text {
            Some(text) => out.extend_from_slice(text.as_bytes()),
            None => self.meta.write_json(out),
        }
        for (member, json) in [
            (member::DOCUMENT_KEY, self.document_key),
            (member::FULL_DOCUMENT, self.full_document),
            (member::UPDATE_DESCRIPTION, self.update_description),
            (member::FULL_DOCUMENT_BEFORE_CHANGE, self.full_document_before_change),
        ] {
            name(member, b",\"", out);
            out.extend_from_slice(json.map_or(NULL, str::as_bytes));
        }
        for (member, json) in self.further {
            name(member, b",\"", out);
            out.extend_from_slice(json.as_bytes());
        }
        out.push(b'}');
    }
}

const NULL: &[u8] = b"null";

fn number(value: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// A JSON string. The source puts a `_meta` whose names need an escape into `_meta.text`, so that only another producer's
/// record takes the slow way.
fn text(text: &str, out: &mut Vec<u8>) {
    let plain = |byte: &u8| matches!(byte, 0x20..0x7F) && !matches!(byte, b'"' | b'\\');
    if text.as_bytes().iter().all(plain) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(&mut *out, text).expect("a text is JSON, and a vector takes it");
    }
}

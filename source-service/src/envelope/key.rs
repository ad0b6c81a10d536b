//! The key of a record: the document's `_id` as text.

use super::members::Value;
use crate::transcode::{Dialect, ElementKind, IsoInstant, MalformedBson, Reader, Relaxed, Writer};

/// How the document's `_id` is written as the record's key. It decides the partition of a document, so it
/// must not change while positions of the old form are in doubt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyFormat {
    /// Relaxed Extended JSON v2: `{"$oid":"66c1…"}`, `42`, `"sku-9"`, whatever the dialect of the value. Values
    /// that MongoDB tells apart have different keys; of numbers it takes for equal, 32 and 64 bits share `42`,
    /// while a double is `42.0`.
    #[default]
    ExtendedJson,
    /// Bare text: `66c1…`, `42`, `sku-9`, ISO dates, the digits of decimals. The string `42` and the number
    /// share a key. What has no such form (documents, binary and rarer types) is written as Extended JSON.
    Plain,
    /// `{"id":"…"}` with the `_id` in Extended JSON as a text: `EVENT_PROFILE=debezium`.
    Debezium,
    /// The whole `documentKey` in Extended JSON v1: `EVENT_PROFILE=mongo-kafka`.
    MongoKafka,
}

pub(super) fn write(id: Value<'_>, format: KeyFormat, key: &mut Vec<u8>) -> Result<(), MalformedBson> {
    if format == KeyFormat::Plain && write_plain(id, key)? {
        return Ok(());
    }
    Writer::<Relaxed>::new(key).value(id.kind, id.bytes)
}

/// Returns whether the value has a bare form.
fn write_plain(id: Value<'_>, key: &mut Vec<u8>) -> Result<bool, MalformedBson> {
    let mut reader = Reader::new(id.bytes);
    let start = key.len();
    match id.kind {
        ElementKind::String => {
            for chunk in reader.string()?.utf8_chunks() {
                key.extend_from_slice(chunk.valid().as_bytes());
                if !chunk.invalid().is_empty() {
                    key.extend_from_slice("\u{FFFD}".as_bytes());
                }
            }
        }
        ElementKind::ObjectId => {
            Relaxed::object_id(reader.array()?, key);
            unwrap_text(key, start, b"{\"$oid\":\"");
        }
        ElementKind::Decimal128 => {
            Relaxed::decimal(reader.array()?, key);
            unwrap_text(key, start, b"{\"$numberDecimal\":\"");
        }
        ElementKind::DateTime => match IsoInstant::from_millis(reader.i64()?) {
            Some(instant) => key.extend_from_slice(instant.as_bytes()),
            None => return Ok(false),
        },
        // The others are bare already, or have no bare form.
        _ => return Ok(false),
    }
    Ok(true)
}

/// Keeps only the text of a typed value that was written at `start`.
fn unwrap_text(key: &mut Vec<u8>, start: usize, opening: &[u8]) {
    key.drain(start..start + opening.len());
    key.truncate(key.len() - b"\"}".len());
}

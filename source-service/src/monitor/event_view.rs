//! What a person wants to know of one event: taken from its envelope, values left where they are.
//!
//! An event comes from a topic or from the change stream; both have the envelope as JSON. It is read into a tree, because a monitor may
//! take microseconds where the source may not. Text of documents is made harmless before it reaches a terminal.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, SecondsFormat};
use serde_json::Value;
use shared::cluster_time::ClusterTime;

use crate::status::rfc3339;

/// The operation that a record without a value has.
pub(super) const TOMBSTONE: &str = "tombstone";

/// Where a record is in Kafka.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) timestamp_ms: Option<i64>,
}

/// One event as it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observed<'a> {
    /// `db.coll` or `db`; the topic, of a record that says neither; empty if there is nothing to say.
    pub(super) namespace: &'a str,
    pub(super) operation: &'a str,
    pub(super) key: &'a [u8],
    pub(super) cluster_time: Option<ClusterTime>,
    /// `None` is a tombstone.
    pub(super) value: Option<&'a [u8]>,
    /// `None` if it comes from the change stream itself.
    pub(super) place: Option<Place<'a>>,
}

/// Whose transaction an event belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transaction {
    /// A UUID.
    pub(super) session: String,
    pub(super) number: String,
    /// SHA-256 of `<user>@<database>`, by which MongoDB names the session's owner; `None` without access control.
    pub(super) user: Option<String>,
}

/// The names of what changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) updated: Vec<String>,
    pub(super) removed: Vec<String>,
    /// With the size that is left.
    pub(super) truncated: Vec<(String, u64)>,
}

/// The parsed envelope of an event.
pub(super) struct EventView<'a> {
    pub(super) observed: Observed<'a>,
    /// `None` of a tombstone, and of a value that is no JSON object.
    envelope: Option<Value>,
}

impl<'a> EventView<'a> {
    pub(super) fn new(observed: Observed<'a>) -> Self {
        let envelope = observed.value.and_then(|value| serde_json::from_slice(value).ok());
        Self { observed, envelope: envelope.filter(Value::is_object) }
    }

    /// MongoDB's wall clock, else the second of the cluster time, else the record's; UTC.
    pub(super) fn time(&self) -> String {
        let wall = self.meta("wallTime").and_then(date_text);
        wall.or_else(|| self.observed.cluster_time.map(rfc3339))
            .or_else(|| millis_text(self.observed.place?.timestamp_ms?))
            .unwrap_or_else(|| "-".to_owned())
    }

    /// The key without the frame that its type needs: `66c1…` for `{"$oid":"66c1…"}`.
    pub(super) fn bare_key(&self) -> String {
        bare(&String::from_utf8_lossy(self.observed.key))
    }

    /// Whether the key names a document; other events have their namespace there.
    pub(super) fn is_about_a_document(&self) -> bool {
        self.observed.key != self.observed.namespace.as_bytes()
    }

    /// `documentKey` as JSON, the shard key included; the record's key, of a value that has none.
    pub(super) fn document_key(&self) -> Option<Value> {
        let key = || Value::String(String::from_utf8_lossy(self.observed.key).into_owned());
        self.member("documentKey").cloned().or_else(|| self.is_about_a_document().then(key))
    }

    /// Of an update.
    pub(super) fn changed(&self) -> Option<Changed> {
        let description = self.member("updateDescription")?;
        let texts = |name: &str| {
            let list = description.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            list.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
        };
        let truncated = description.get("truncatedArrays").and_then(Value::as_array);
        let truncated = truncated.map(Vec::as_slice).unwrap_or_default().iter().filter_map(|array| {
            Some((array.get("field")?.as_str()?.to_owned(), number_of(array.get("newSize")?)?))
        });
        Some(Changed {
            updated: names(description.get("updatedFields")),
            removed: texts("removedFields"),
            truncated: truncated.collect(),
        })
    }

    /// The values that an update set, by path.
    pub(super) fn updated_values(&self) -> Option<&serde_json::Map<String, Value>> {
        self.member("updateDescription")?.get("updatedFields")?.as_object()
    }

    /// The document that the event carries; of a delete the one before it.
    pub(super) fn document(&self) -> Option<&Value> {
        self.member("fullDocument").or_else(|| self.member("fullDocumentBeforeChange"))
    }

    /// The names of the document's own fields.
    pub(super) fn document_fields(&self) -> Vec<String> {
        names(self.document())
    }

    /// A value inside the document, by its dotted path: the one that this update set, else the one that the document has. That may be
    /// newer than the event, if the source looks documents up.
    pub(super) fn value_at(&self, path: &str) -> Option<&Value> {
        if let Some(set) = self.updated_values().and_then(|values| values.get(path)) {
            return Some(set);
        }
        path.split('.').try_fold(self.document()?, |value, step| match value {
            Value::Array(items) => items.get(step.parse::<usize>().ok()?),
            other => other.get(step),
        })
    }

    pub(super) fn transaction(&self) -> Option<Transaction> {
        /// SHA-256 of nothing: nobody is logged in.
        const NOBODY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let number = self.meta("txnNumber").and_then(number_of)?.to_string();
        let session = self.meta("lsid")?;
        let id = hex(&binary(session.get("id")?)?);
        let user = session.get("uid").and_then(binary).map(|digest| hex(&digest));
        Some(Transaction { session: uuid(&id), number, user: user.filter(|user| user != NOBODY) })
    }

    pub(super) fn is_snapshot(&self) -> bool {
        self.meta("snapshot").and_then(Value::as_bool).unwrap_or(false)
    }

    /// Whether there is a value, and it is not an envelope.
    pub(super) fn is_opaque(&self) -> bool {
        self.observed.value.is_some() && self.envelope.is_none()
    }

    /// A member of the envelope; `None` if it is absent or `null`.
    pub(super) fn member(&self, name: &str) -> Option<&Value> {
        self.envelope.as_ref()?.get(name).filter(|value| !value.is_null())
    }

    fn meta(&self, name: &str) -> Option<&Value> {
        self.member("_meta")?.get(name).filter(|value| !value.is_null())
    }
}

/// Control characters, which a terminal would obey, become visible.
pub(super) fn harmless(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect())
}

/// The text inside `"…"`, `{"$oid":"…"}` and other one-member wrappers of text; everything else as it stands.
pub(super) fn bare(key: &str) -> String {
    let text = match serde_json::from_str::<Value>(key) {
        Ok(Value::String(text)) => Some(text),
        Ok(Value::Object(members)) if members.len() == 1 => {
            members.into_iter().find(|(name, _)| name.starts_with('$')).and_then(|(_, value)| match value {
                Value::String(text) => Some(text),
                _ => None,
            })
        }
        _ => None,
    };
    text.unwrap_or_else(|| key.to_owned())
}

fn names(value: Option<&Value>) -> Vec<String> {
    value.and_then(Value::as_object).map(|object| object.keys().cloned().collect()).unwrap_or_default()
}

/// In each of the dialects.
fn number_of(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Object(members) => {
            ["$numberLong", "$numberInt"].iter().find_map(|name| members.get(*name)?.as_str()?.parse().ok())
        }
        other => other.as_u64(),
    }
}

/// In each of the dialects.
fn date_text(value: &Value) -> Option<String> {
    match value.get("$date").unwrap_or(value) {
        Value::String(text) => Some(text.clone()),
        millis => millis_text(i64::try_from(number_of(millis)?).ok()?),
    }
}

fn millis_text(ms: i64) -> Option<String> {
    Some(DateTime::from_timestamp_millis(ms)?.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// In each of the dialects: `{"$binary":{"base64":…}}`, or the base64 alone.
fn binary(value: &Value) -> Option<Vec<u8>> {
    let text = match value {
        Value::String(text) => text,
        other => other.get("$binary")?.get("base64")?.as_str()?,
    };
    STANDARD.decode(text).ok()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

fn uuid(hex: &str) -> String {
    match (hex.len(), hex.get(..8), hex.get(8..12), hex.get(12..16), hex.get(16..20), hex.get(20..)) {
        (32, Some(a), Some(b), Some(c), Some(d), Some(e)) => format!("{a}-{b}-{c}-{d}-{e}"),
        _ => hex.to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    pub(in crate::monitor) const UPDATE: &[u8] = include_bytes!("../../tests/golden/update.json");
    pub(in crate::monitor) const TRANSACTION: &[u8] = include_bytes!("../../tests/golden/transaction.json");
    pub(in crate::monitor) const DELETE: &[u8] = include_bytes!("../../tests/golden/delete.json");
    pub(in crate::monitor) const CANONICAL: &[u8] =
        include_bytes!("../../tests/golden/insert_canonical.json");

    pub(in crate::monitor) fn observed<'a>(
        operation: &'a str,
        key: &'a str,
        value: &'a [u8],
    ) -> Observed<'a> {
        Observed {
            namespace: "shop.orders",
            operation,
            key: key.as_bytes(),
            cluster_time: Some(ClusterTime::new(1_755_900_000, 3)),
            value: Some(value),
            place: None,
        }
    }

    #[test]
    fn an_update_says_which_fields() {
        let view = EventView::new(observed("update", r#"{"$oid":"66c1a0b2c3d4e5f60718293a"}"#, UPDATE));
        let changed = view.changed().unwrap();
        assert_eq!(changed.updated, ["lines.0.n", "payment.status"]);
        assert_eq!(changed.removed, ["note"]);
        assert_eq!(changed.truncated, [("lines".to_owned(), 1)]);
        assert_eq!(view.bare_key(), "66c1a0b2c3d4e5f60718293a");
        assert_eq!(view.document_key().unwrap()["region"], "eu");
        assert_eq!(EventView::new(observed("drop", "shop.orders", b"{}")).document_key(), None);
        assert_eq!(view.time(), "2025-08-22T22:00:00.123Z");
        assert_eq!((view.transaction(), view.is_snapshot(), view.is_opaque()), (None, false, false));
        // The document before the change stands in for the one after it.
        assert_eq!(view.value_at("status").unwrap(), "open");
        assert_eq!(view.value_at("status.more"), None);
        assert_eq!(view.value_at("payment.status").unwrap(), "paid", "set by the update itself");
    }

    #[test]
    fn a_transaction_has_a_session_and_an_owner() {
        let view = EventView::new(observed("insert", "1", TRANSACTION));
        let expected = Transaction {
            session: "07070707-0707-0707-0707-070707070707".to_owned(),
            number: "5".to_owned(),
            user: Some("010203".to_owned()),
        };
        assert_eq!(view.transaction(), Some(expected));
    }

    #[test]
    fn every_dialect_has_a_time() {
        let view = EventView::new(observed("insert", "1", CANONICAL));
        assert_eq!(view.time(), "2025-08-22T22:00:00.123Z");
        let plain = br#"{"_meta":{"wallTime":"2025-08-22T22:00:00.123Z","txnNumber":"9","lsid":{"id":"BwcHBwcHBwcHBwcHBwcHBw=="}}}"#;
        let view = EventView::new(observed("insert", "1", plain));
        assert_eq!(view.time(), "2025-08-22T22:00:00.123Z");
        assert_eq!(view.transaction().unwrap().number, "9");
        let none = EventView::new(observed("insert", "1", b"{}"));
        assert_eq!(none.time(), "2025-08-22T22:00:00Z");
    }

    #[test]
    fn keys_lose_their_frame_only_where_they_have_one() {
        for (key, expected) in [
            (r#""sku-9""#, "sku-9"),
            (r#"{"$oid":"66c1"}"#, "66c1"),
            ("42", "42"),
            (r#"{"a":"b"}"#, r#"{"a":"b"}"#),
            (
                r#"{"$binary":{"base64":"AA==","subType":"00"}}"#,
                r#"{"$binary":{"base64":"AA==","subType":"00"}}"#,
            ),
            ("plain text", "plain text"),
        ] {
            assert_eq!(bare(key), expected);
        }
    }

    #[test]
    fn what_is_no_envelope_is_shown_all_the_same() {
        for value in [b"\0\0\0\0\x01avro".as_slice(), b"[1]", b"not json"] {
            let view = EventView::new(observed("insert", "1", value));
            assert!(view.is_opaque() && view.changed().is_none() && view.document_fields().is_empty());
        }
        let tombstone = EventView::new(Observed { value: None, ..observed(TOMBSTONE, "1", b"") });
        assert!(!tombstone.is_opaque());
    }

    #[test]
    fn a_terminal_is_not_given_orders() {
        assert_eq!(harmless("red\u{1b}[31m\n"), "red\u{FFFD}[31m\u{FFFD}");
        assert_eq!(harmless("äöü"), "äöü");
    }
}

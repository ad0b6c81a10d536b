//! A flat line as the envelope that it was made of.

use bytes::Bytes;

use super::flat::{each_member, from_to};

/// `None` if it is no flat line: a value that was no event and had nothing to hide.
pub(super) fn of_flat(line: &Bytes) -> Option<Bytes> {
    let text = simdutf8::basic::from_utf8(line).ok()?;
    let mut parts = Parts::default();
    each_member(text, |name, value| {
        parts.take(name, value);
        Some(())
    })?;
    parts.envelope(text, line.len()).map(Bytes::from)
}

#[derive(Default)]
struct Parts<'a> {
    /// The members of `_meta`, each with a comma before it.
    meta: String,
    /// `_meta_db`, until `_meta_coll` has come.
    db: Option<&'a str>,
    key: Option<&'a str>,
    /// There is no document: it is `null`.
    null: bool,
    /// A document that stays whole.
    whole: Option<&'a str>,
    /// The first name and the last value of what is at the top level.
    top: Option<(&'a str, &'a str)>,
    update: Option<&'a str>,
    before: Option<&'a str>,
    others: String,
    kafka: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn take(&mut self, name: &'a str, value: &'a str) {
        match name {
            r#""_meta_db""# => self.db = Some(value),
            r#""_meta_coll""# => {
                let db = self.db.take().unwrap_or("null");
                self.meta.push_str(",\"ns\":{\"db\":");
                self.meta.push_str(db);
                add(&mut self.meta, ",\"coll", "\"", value);
                self.meta.push('}');
            }
            r#""_documentKey""# => self.key = Some(value),
            r#""_fullDocument""# => self.null = true,
            r#""_document""# => self.whole = Some(value),
            r#""_updateDescription""# => self.update = Some(value),
            r#""_fullDocumentBeforeChange""# => self.before = Some(value),
            r#""_kafka""# => self.kafka = Some(value),
            _ => {
                if let Some(rest) = name.strip_prefix("\"_meta_") {
                    add(&mut self.meta, ",\"", rest, value);
                } else if let Some(rest) = name.strip_prefix("\"_event_") {
                    add(&mut self.others, ",\"", rest, value);
                } else {
                    let first = self.top.map_or(name, |(first, _)| first);
                    self.top = Some((first, value));
                }
            }
        }
    }

    fn envelope(&self, line: &str, capacity: usize) -> Option<String> {
        let kafka = self.kafka?;
        let mut envelope = String::with_capacity(capacity);
        if self.meta.is_empty() {
            // No event: its value was kept whole, or stands as it is.
            let value = self.whole?.trim_end().strip_suffix('}')?;
            envelope.push_str(value);
            let is_empty = value.trim_ascii() == "{";
            add(&mut envelope, if is_empty { "\"" } else { ",\"" }, "_kafka\"", kafka);
            envelope.push_str("}\n");
            return Some(envelope);
        }
        envelope.push_str("{\"_meta\":{");
        envelope.push_str(&self.meta[1..]);
        envelope.push('}');
        if let Some(key) = self.key {
            add(&mut envelope, ",\"", "documentKey\"", key);
        }
        envelope.push_str(",\"fullDocument\":");
        match (self.null, self.whole, self.top) {
            (true, _, _) => envelope.push_str("null"),
            (false, Some(whole), _) => envelope.push_str(whole),
            (false, None, top) => {
                envelope.push('{');
                envelope.push_str(top.map_or("", |(first, last)| from_to(line, first, last)));
                envelope.push('}');
            }
        }
        if let Some(update) = self.update {
            add(&mut envelope, ",\"", "updateDescription\"", update);
        }
        if let Some(before) = self.before {
            add(&mut envelope, ",\"", "fullDocumentBeforeChange\"", before);
        }
        envelope.push_str(&self.others);
        add(&mut envelope, ",\"", "_kafka\"", kafka);
        envelope.push_str("}\n");
        Some(envelope)
    }
}

/// A member; `begin` is what stands before the name, `name` ends with its quote.
fn add(to: &mut String, begin: &str, name: &str, value: &str) {
    to.push_str(begin);
    to.push_str(name);
    to.push(':');
    to.push_str(value);
}

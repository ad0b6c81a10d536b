//! Values and keys as Debezium's MongoDB connector makes them (3.6.1, `JsonConverter` with `schemas.enable=false`).
//!
//! Documents are texts within the JSON: those of `before`, `after` and `lsid` in Extended JSON v1 without blanks, `updatedFields` in relaxed v2.
//! The connector's own data classes, and the code that fills them, are `io.debezium.connector.mongodb`.

use super::super::{
    EventContext, EventError, Operation,
    members::{Members, Value},
};
use crate::{
    field_policy::Veil,
    transcode::{
        Dialect, Element, ElementKind, JavaRelaxed, JavaStrict, MalformedBson, Reader, Relaxed, Writer,
        write_text,
    },
};

/// The version that `source.version` names: that of the connector whose records these are like.
const VERSION: &str = "3.6.1.Final";

/// The room that is kept for the next document, in bytes.
const KEPT_BYTES: usize = 1024 * 1024;

/// Without blanks behind commas.
type Compact = JavaStrict<false>;
/// Of keys.
type CompactRelaxed = JavaRelaxed<false>;
/// `toJson()` without settings.
type Spaced = JavaRelaxed<true>;

/// Makes values; owns the buffer that documents are written to before they become texts.
#[derive(Debug)]
pub(in crate::envelope) struct DebeziumEnvelope {
    /// `,"source":{…"name":"<topic prefix>","ts_ms":`
    source: Vec<u8>,
    text: Vec<u8>,
}

impl DebeziumEnvelope {
    /// `name` is the topics' prefix: what Debezium calls the connector's logical name.
    pub(in crate::envelope) fn new(name: &str) -> Self {
        let mut source = Vec::new();
        source.extend_from_slice(b",\"source\":{\"version\":");
        write_text(VERSION.as_bytes(), &mut source);
        source.extend_from_slice(b",\"connector\":\"mongodb\",\"name\":");
        write_text(name.as_bytes(), &mut source);
        source.extend_from_slice(b",\"ts_ms\":");
        Self { source, text: Vec::new() }
    }

    /// Appends the value. Returns how many texts were repaired.
    pub(in crate::envelope) fn write(
        &mut self,
        members: &Members<'_>,
        context: &EventContext<'_>,
        mut veil: Option<&mut Veil<'_>>,
        out: &mut Vec<u8>,
    ) -> Result<u32, EventError> {
        let mut repaired = 0;
        out.extend_from_slice(b"{\"before\":");
        repaired += self.document(members.full_document_before_change, veil.as_deref_mut(), out)?;
        out.extend_from_slice(b",\"after\":");
        repaired += self.document(members.full_document, veil.as_deref_mut(), out)?;
        out.extend_from_slice(b",\"updateDescription\":");
        match members.update_description.filter(|value| value.kind == ElementKind::Document) {
            Some(value) => repaired += self.update_description(value.bytes, veil, out)?,
            None => out.extend_from_slice(b"null"),
        }
        repaired += self.source(members, context, out)?;
        out.extend_from_slice(b",\"op\":\"");
        out.push(match members.operation {
            _ if context.snapshot => b'r',
            Operation::Insert => b'c',
            Operation::Delete => b'd',
            _ => b'u',
        });
        out.extend_from_slice(b"\",\"ts_ms\":");
        number(context.processed_at_ms, out);
        out.extend_from_slice(b",\"transaction\":null}");
        Ok(repaired)
    }

    fn source(
        &mut self,
        members: &Members<'_>,
        context: &EventContext<'_>,
        out: &mut Vec<u8>,
    ) -> Result<u32, EventError> {
        let time = members.wall_time_ms().unwrap_or_else(|| members.cluster_time.to_millis());
        out.extend_from_slice(&self.source);
        number(time, out);
        out.extend_from_slice(if context.snapshot {
            b",\"snapshot\":\"true\",\"db\":"
        } else {
            b",\"snapshot\":\"false\",\"db\":"
        });
        let namespace = members.namespace.as_ref().ok_or(EventError::Incomplete { member: "ns" })?;
        write_text(namespace.db.as_bytes(), out);
        out.extend_from_slice(b",\"sequence\":null,\"ts_us\":");
        number(time.saturating_mul(1_000), out);
        out.extend_from_slice(b",\"ts_ns\":");
        number(time.saturating_mul(1_000_000), out);
        out.extend_from_slice(b",\"collection\":");
        write_text(namespace.coll.unwrap_or_default().as_bytes(), out);
        out.extend_from_slice(b",\"ord\":");
        number(members.cluster_time.increment.into(), out);
        out.extend_from_slice(b",\"lsid\":");
        let repaired = self.embed(members.lsid, out, |value, writer: &mut Writer<'_, Compact>| {
            writer.value(value.kind, value.bytes)
        })?;
        out.extend_from_slice(b",\"txnNumber\":");
        match members.txn_number {
            Some(value) => Writer::<Relaxed>::new(out).value(value.kind, value.bytes)?,
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"wallTime\":");
        match members.wall_time_ms() {
            Some(time) => number(time, out),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b'}');
        Ok(repaired)
    }

    fn document(
        &mut self,
        document: Option<Value<'_>>,
        veil: Option<&mut Veil<'_>>,
        out: &mut Vec<u8>,
    ) -> Result<u32, MalformedBson> {
        self.embed(document, out, |value, writer: &mut Writer<'_, Compact>| match veil {
            Some(veil) => veil.document(value.kind, value.bytes, writer),
            None => writer.value(value.kind, value.bytes),
        })
    }

    /// A value as a text: written to the buffer, then quoted.
    fn embed<D: Dialect>(
        &mut self,
        value: Option<Value<'_>>,
        out: &mut Vec<u8>,
        write: impl FnOnce(Value<'_>, &mut Writer<'_, D>) -> Result<(), MalformedBson>,
    ) -> Result<u32, MalformedBson> {
        let Some(value) = value else {
            out.extend_from_slice(b"null");
            return Ok(0);
        };
        self.text.clear();
        self.text.shrink_to(KEPT_BYTES);
        let mut writer = Writer::<D>::new(&mut self.text);
        write(value, &mut writer)?;
        let repaired = writer.repaired_texts();
        write_text(&self.text, out);
        Ok(repaired)
    }

    fn update_description(
        &mut self,
        description: &[u8],
        mut veil: Option<&mut Veil<'_>>,
        out: &mut Vec<u8>,
    ) -> Result<u32, MalformedBson> {
        let (mut updated, mut removed, mut truncated) = (None, None, None);
        let mut reader = Reader::of_document(description)?;
        while let Some(Element { kind, name, value: bytes }) = reader.element()? {
            let place = match (name, kind) {
                (b"updatedFields", ElementKind::Document) => &mut updated,
                (b"removedFields", ElementKind::Array) => &mut removed,
                (b"truncatedArrays", ElementKind::Array) => &mut truncated,
                _ => continue,
            };
            *place = Some(Value { kind, bytes });
        }
        let mut repaired = 0;
        out.extend_from_slice(b"{\"removedFields\":");
        repaired += list(out, |writer| match (removed, veil.as_deref_mut()) {
            (Some(removed), Some(veil)) => veil.removed_fields(removed.bytes, writer),
            (Some(removed), None) => writer.value(removed.kind, removed.bytes),
            (None, _) => Ok(()),
        })?;
        out.extend_from_slice(b",\"updatedFields\":");
        let hiding = veil.as_deref_mut();
        repaired += self.embed(updated, out, |value, writer: &mut Writer<'_, Spaced>| match hiding {
            Some(veil) => veil.updated_fields(value.bytes, writer),
            None => writer.value(value.kind, value.bytes),
        })?;
        out.extend_from_slice(b",\"truncatedArrays\":");
        repaired += list(out, |writer| match truncated {
            Some(truncated) => truncated_arrays(truncated.bytes, veil, writer),
            None => Ok(()),
        })?;
        out.push(b'}');
        Ok(repaired)
    }
}

/// A list of which there is none where it would be empty.
fn list(
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Writer<'_, Relaxed>) -> Result<(), MalformedBson>,
) -> Result<u32, MalformedBson> {
    let start = out.len();
    let mut writer = Writer::<Relaxed>::new(out);
    write(&mut writer)?;
    let repaired = writer.repaired_texts();
    if matches!(&out[start..], b"" | b"[]") {
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
    Ok(repaired)
}

/// `{field, newSize}` becomes `{field, size}`.
fn truncated_arrays(
    arrays: &[u8],
    mut veil: Option<&mut Veil<'_>>,
    writer: &mut Writer<'_, Relaxed>,
) -> Result<(), MalformedBson> {
    writer.raw(b"[");
    let mut first = true;
    let mut reader = Reader::of_document(arrays)?;
    while let Some(Element { kind, value, .. }) = reader.element()? {
        if kind != ElementKind::Document {
            continue;
        }
        let (mut field, mut size) = (None, None);
        let mut members = Reader::of_document(value)?;
        while let Some(Element { kind, name, value: bytes }) = members.element()? {
            match (name, kind) {
                (b"field", ElementKind::String) => field = Some(Reader::new(bytes).string()?),
                (b"newSize", _) => size = Some(Value { kind, bytes }),
                _ => {}
            }
        }
        let (Some(field), Some(size)) = (field, size) else { continue };
        if veil.as_deref_mut().is_some_and(|veil| veil.hides_array(field)) {
            continue;
        }
        writer.raw(if std::mem::take(&mut first) { b"{\"field\":" } else { b",{\"field\":" });
        writer.text(field);
        writer.raw(b",\"size\":");
        writer.value(size.kind, size.bytes)?;
        writer.raw(b"}");
    }
    writer.raw(b"]");
    Ok(())
}

fn number(value: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// `{"id":"<the _id as relaxed Extended JSON>"}`. The buffer holds the text before it is quoted.
pub(in crate::envelope) fn write_key(
    id: Value<'_>,
    text: &mut Vec<u8>,
    key: &mut Vec<u8>,
) -> Result<(), MalformedBson> {
    text.clear();
    text.shrink_to(KEPT_BYTES);
    Writer::<CompactRelaxed>::new(text).value(id.kind, id.bytes)?;
    key.extend_from_slice(b"{\"id\":");
    write_text(text, key);
    key.push(b'}');
    Ok(())
}

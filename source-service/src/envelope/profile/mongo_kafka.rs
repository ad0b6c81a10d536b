//! Values and keys as MongoDB's Kafka connector makes them (2.0.1, `StringConverter`): the change event as the server sends it, in Extended
//! JSON v1.
//!
//! The source asks the server for expanded events, which the connector does not; what only those have is left out.

use super::super::{
    EventContext, EventError, FoundDocument,
    members::{Members, Value},
};
use crate::{
    field_policy::Veil,
    transcode::{Element, ElementKind, JavaStrict, MalformedBson, Reader, Writer},
};

type Java = JavaStrict<true>;

/// Members that a change event has only because `showExpandedEvents` was asked for.
const EXPANDED: [&[u8]; 1] = [b"collectionUUID"];

/// Appends the value. Returns how many texts were repaired.
pub(in crate::envelope) fn write(
    event: &[u8],
    members: &Members<'_>,
    context: &EventContext<'_>,
    mut veil: Option<&mut Veil<'_>>,
    out: &mut Vec<u8>,
) -> Result<u32, EventError> {
    let mut writer = Writer::<Java>::new(out);
    if context.snapshot {
        copied(members, veil, &mut writer)?;
        return Ok(writer.repaired_texts());
    }
    writer.raw(b"{");
    let mut first = true;
    let mut has_document = false;
    let mut reader = Reader::of_document(event)?;
    while let Some(Element { kind, name, value }) = reader.element()? {
        if EXPANDED.contains(&name) {
            continue;
        }
        has_document |= name == b"fullDocument";
        // Where the source has looked the document up, it stands where the server would have put it.
        if name == b"ns" && !has_document && context.looked_up.is_some() {
            member(b"fullDocument", &mut first, &mut writer);
            match context.looked_up {
                Some(FoundDocument::Found(bytes)) => {
                    let found = Value { kind: ElementKind::Document, bytes };
                    document(found, veil.as_deref_mut(), &mut writer)?;
                }
                Some(FoundDocument::Gone) | None => writer.raw(b"null"),
            }
        }
        member(name, &mut first, &mut writer);
        let value = Value { kind, bytes: value };
        match name {
            b"fullDocument" | b"fullDocumentBeforeChange" if kind != ElementKind::Null => {
                document(value, veil.as_deref_mut(), &mut writer)?;
            }
            b"updateDescription" if kind == ElementKind::Document => {
                update_description(value.bytes, veil.as_deref_mut(), &mut writer)?;
            }
            _ => writer.value(kind, value.bytes)?,
        }
    }
    writer.raw(b"}");
    Ok(writer.repaired_texts())
}

/// A document that was there before, as the connector's `copy_existing` has it.
fn copied(
    members: &Members<'_>,
    veil: Option<&mut Veil<'_>>,
    writer: &mut Writer<'_, Java>,
) -> Result<(), EventError> {
    const DOCUMENT: EventError = EventError::Incomplete { member: "fullDocument" };
    let id = members.document_id()?.ok_or(EventError::Incomplete { member: "documentKey" })?;
    let namespace = members.namespace.as_ref().ok_or(EventError::Incomplete { member: "ns" })?;
    writer.open(b"_id");
    writer.open(b"_id");
    writer.value(id.kind, id.bytes)?;
    writer.next(b"copyingData");
    writer.raw(b"true}");
    writer.next(b"operationType");
    writer.raw(b"\"insert\"");
    writer.next(b"ns");
    writer.document(namespace.raw)?;
    writer.next(b"documentKey");
    writer.open(b"_id");
    writer.value(id.kind, id.bytes)?;
    writer.raw(b"}");
    writer.next(b"fullDocument");
    document(members.full_document.ok_or(DOCUMENT)?, veil, writer)?;
    writer.raw(b"}");
    Ok(())
}

fn member(name: &[u8], first: &mut bool, writer: &mut Writer<'_, Java>) {
    if !std::mem::take(first) {
        writer.next_member();
    }
    writer.text(name);
    writer.colon();
}

fn document(
    value: Value<'_>,
    veil: Option<&mut Veil<'_>>,
    writer: &mut Writer<'_, Java>,
) -> Result<(), MalformedBson> {
    match veil {
        Some(veil) => veil.document(value.kind, value.bytes, writer),
        None => writer.value(value.kind, value.bytes),
    }
}

fn update_description(
    description: &[u8],
    mut veil: Option<&mut Veil<'_>>,
    writer: &mut Writer<'_, Java>,
) -> Result<(), MalformedBson> {
    writer.raw(b"{");
    let mut first = true;
    let mut reader = Reader::of_document(description)?;
    while let Some(Element { kind, name, value }) = reader.element()? {
        // Of expanded events only. The connector's own sink refuses a member that it does not know here.
        if name == b"disambiguatedPaths" {
            continue;
        }
        member(name, &mut first, writer);
        match (name, kind, veil.as_deref_mut()) {
            (b"updatedFields", ElementKind::Document, Some(veil)) => veil.updated_fields(value, writer)?,
            (b"removedFields", ElementKind::Array, Some(veil)) => veil.removed_fields(value, writer)?,
            (b"truncatedArrays", ElementKind::Array, Some(veil)) => veil.truncated_arrays(value, writer)?,
            _ => writer.value(kind, value)?,
        }
    }
    writer.raw(b"}");
    Ok(())
}

/// `documentKey` as it is.
pub(in crate::envelope) fn write_key(
    document_key: Value<'_>,
    key: &mut Vec<u8>,
) -> Result<(), MalformedBson> {
    Writer::<Java>::new(key).value(document_key.kind, document_key.bytes)
}

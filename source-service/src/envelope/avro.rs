//! The envelope in Avro, put together from the pieces of its JSON line.
//!
//! The line is written first, whatever the format: documents are its very bytes, so what a dialect or a field policy does to
//! them holds in both formats, and the sink gets the line back by putting it together again ([`shared::avro`]). What that
//! costs is one copy, and room for it. If the typed fields of `_meta` do not give back its JSON (another dialect, a name
//! with an escape, a member that a pipeline changed), the JSON goes along.

use std::ops::Range;

use shared::{
    avro::{ChangeEvent, Meta, SchemaId},
    iso_instant::IsoInstant,
    wire::{CONTENT_TYPE_AVRO, CONTENT_TYPE_JSON},
};

use super::{EventContext, KEPT_BYTES, members::Members};
use crate::transcode::ElementKind;

/// How values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ValueFormat {
    /// One line of JSON.
    #[default]
    Json,
    /// Avro in Confluent's wire format, with the id that a registry gave the schema.
    Avro(SchemaId),
}

impl ValueFormat {
    /// The `content-type` header.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => CONTENT_TYPE_JSON,
            Self::Avro(_) => CONTENT_TYPE_AVRO,
        }
    }
}

/// Where the parts of a value lie in its JSON. A start is that of the value behind the name.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) lsid: Range<usize>,
    pub(super) document_key: usize,
    pub(super) full_document: usize,
    pub(super) update_description: usize,
    pub(super) before_change: usize,
    /// Behind the last of the fixed members.
    pub(super) end: usize,
    /// Name with its quotes, value, end.
    pub(super) further: Vec<(usize, usize, usize)>,
}

impl Places {
    fn meta(&self) -> Range<usize> {
        "{\"_meta\":".len()..self.document_key - ",\"documentKey\":".len()
    }

    fn document_key(&self) -> Range<usize> {
        self.document_key..self.full_document - ",\"fullDocument\":".len()
    }

    fn full_document(&self) -> Range<usize> {
        self.full_document..self.update_description - ",\"updateDescription\":".len()
    }

    fn update_description(&self) -> Range<usize> {
        self.update_description..self.before_change - ",\"fullDocumentBeforeChange\":".len()
    }

    fn before_change(&self) -> Range<usize> {
        self.before_change..self.end
    }
}

/// Writes values in Avro; owns the buffer that they lie in.
#[derive(Debug)]
pub(super) struct AvroEnvelope {
    id: SchemaId,
    source_id: String,
    value: Vec<u8>,
    /// For the attempt to say `_meta` in typed fields.
    meta: Vec<u8>,
}

impl AvroEnvelope {
    pub(super) fn new(id: SchemaId, source_id: &str) -> Self {
        Self { id, source_id: source_id.to_owned(), value: Vec::new(), meta: Vec::new() }
    }

    /// The value, until the next call. `json` is the same event's JSON, and `places` where its parts lie.
    pub(super) fn write(
        &mut self,
        json: &[u8],
        places: &Places,
        members: &Members<'_>,
        context: &EventContext<'_>,
    ) -> &[u8] {
        let json = simdutf8::basic::from_utf8(json).expect("what the transcoder writes is UTF-8");
        let document = |place: Range<usize>| Some(&json[place]).filter(|text| *text != "null");
        let meta = Meta {
            event_id: members.event_id,
            operation: members.operation.name(),
            namespace: members.namespace.as_ref().map(|namespace| (namespace.db, namespace.coll)),
            cluster_time: members.cluster_time,
            wall_time_ms: members.wall_time_ms(),
            lsid: document(places.lsid.clone()),
            txn_number: members.txn_number.and_then(|value| match value.kind {
                ElementKind::Int64 => value.bytes.try_into().ok().map(i64::from_le_bytes),
                _ => None,
            }),
            source: &self.source_id,
            snapshot: context.snapshot,
            // A clock outside 1970 to 9999 says nothing about when this was.
            processed_at_ms: Some(context.processed_at_ms)
                .filter(|ms| IsoInstant::from_millis(*ms).is_some()),
        };
        let covered = places.further.last().map_or(places.end, |&(_, _, end)| end);
        debug_assert_eq!(covered + "}".len(), json.len(), "every member has its place");
        let meta_json = &json[places.meta()];
        self.value.clear();
        self.value.shrink_to(KEPT_BYTES);
        let event = ChangeEvent {
            meta,
            meta_text: if meta.says(meta_json, &mut self.meta) { None } else { Some(meta_json) },
            document_key: document(places.document_key()),
            full_document: document(places.full_document()),
            update_description: document(places.update_description()),
            full_document_before_change: document(places.before_change()),
            further: places
                .further
                .iter()
                .map(|&(name, value, end)| (&json[name + 1..value - "\":".len()], &json[value..end])),
        };
        event.write(self.id, &mut self.value);
        &self.value
    }
}

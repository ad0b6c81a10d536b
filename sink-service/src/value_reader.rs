//! The value of a record as JSON, whichever format it came in.
//!
//! ```text
//!   JSON ─────────────────────────────────────────────────────────────▶ as it is
//!   Avro ──▶ its schema's id ──▶ ours ──────────────▶ put together ───▶ the line that the JSON value would be
//!                             ├─▶ not ours, malformed ────────────────▶ dead letter
//!                             └─▶ not met before ──▶ the registry is asked, by a job; the partition waits
//! ```
//!
//! The first byte decides: Confluent's wire format begins with a zero, which no JSON text does. The `content-type` header
//! only helps to tell a record of a source of ours from somebody's bytes.

use std::collections::HashMap;

use shared::{
    avro::{self, SchemaId},
    dead_letter::DeadLetterReason,
    exit::{ExitCode, Stop},
    schema_registry::IdMeans,
    wire::CONTENT_TYPE_AVRO,
};

use crate::record::RecordView;

/// The room that is kept for the next value, in bytes: one large record must not hold its memory for good.
const KEPT_BYTES: usize = 1024 * 1024;

/// Ids that are remembered. There are as many as the envelope has versions; more come from bytes that are no records of
/// ours, and are asked for again.
const IDS_MAX: usize = 1024;

/// What is to be done with a record's value.
#[derive(Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// JSON, or nothing; not validated.
    Json(Option<&'a [u8]>),
    /// A dead letter.
    Refused { reason: DeadLetterReason, error: String },
    /// The registry has to be asked first.
    AskFor(SchemaId),
    /// A record of a source of ours, and no registry to ask.
    NoRegistry,
}

/// Reads values; knows which ids stand for our schema. Owned by whoever reads records.
#[derive(Debug)]
pub struct ValueReader {
    has_registry: bool,
    ids: HashMap<SchemaId, IdMeans>,
    json: Vec<u8>,
}

impl ValueReader {
    pub fn new(has_registry: bool) -> Self {
        Self { has_registry, ids: HashMap::new(), json: Vec::new() }
    }

    /// Remembers the registry's answer.
    pub fn learn(&mut self, id: SchemaId, means: IdMeans) {
        if self.ids.len() >= IDS_MAX {
            self.ids.retain(|_, means| *means == IdMeans::ChangeEvent);
        }
        self.ids.insert(id, means);
    }

    /// The record's value. JSON made from Avro lies here until the next call.
    pub fn read<'a>(&'a mut self, record: &RecordView<'a>) -> Value<'a> {
        let Some(value) = record.value else { return Value::Json(None) };
        let says_avro = record.content_type == Some(CONTENT_TYPE_AVRO);
        if !says_avro && value.first() != Some(&avro::MAGIC) {
            return Value::Json(Some(value));
        }
        let refused = |reason, error: String| Value::Refused { reason, error };
        let Some((id, datum)) = avro::split(value) else {
            let error =
                "the value is not in Confluent's wire format: a zero byte, four of the schema's id, Avro";
            return refused(DeadLetterReason::InvalidAvro, error.to_owned());
        };
        if !self.has_registry {
            return match says_avro && record.source.is_some() {
                true => Value::NoRegistry,
                false => refused(
                    DeadLetterReason::UnknownSchema,
                    format!(
                        "the value is not JSON; if it is Avro of schema {id}: SCHEMA_REGISTRY_URL is not set"
                    ),
                ),
            };
        }
        match self.ids.get(&id) {
            None => Value::AskFor(id),
            Some(IdMeans::Foreign) => refused(
                DeadLetterReason::UnknownSchema,
                format!("schema {id} is not the envelope's, {}", avro::SUBJECT),
            ),
            Some(IdMeans::Nothing) => refused(
                DeadLetterReason::UnknownSchema,
                format!("the schema registry does not know schema {id}"),
            ),
            Some(IdMeans::ChangeEvent) => {
                self.json.clear();
                self.json.shrink_to(KEPT_BYTES);
                match avro::write_json(datum, &mut self.json) {
                    Ok(()) => Value::Json(Some(&self.json)),
                    Err(error) => refused(
                        DeadLetterReason::InvalidAvro,
                        format!("the value is no record of schema {id}: {error}"),
                    ),
                }
            }
        }
    }
}

/// The end of a sink that would put every record of a source aside, for want of a setting.
pub fn no_registry(topic: &str) -> Stop {
    Stop::new(
        ExitCode::Configuration,
        format!(
            "records of {topic} are in Avro, and SCHEMA_REGISTRY_URL is not set: set it as the source has it, with SCHEMA_REGISTRY_USERNAME and SCHEMA_REGISTRY_PASSWORD if the registry wants them. \
             Nothing was skipped"
        ),
    )
}

#[cfg(test)]
mod tests {

    use shared::{
        avro::{ChangeEvent, Meta},
        cluster_time::ClusterTime,
    };

    use super::*;

    const OURS: SchemaId = SchemaId::new(7);

    fn event() -> Vec<u8> {
        let mut value = Vec::new();
        let meta = Meta {
            event_id: "82",
            operation: "insert",
            namespace: Some(("shop", Some("orders"))),
            cluster_time: ClusterTime::new(1, 2),
            wall_time_ms: None,
            lsid: None,
            txn_number: None,
            source: "s",
            snapshot: false,
            processed_at_ms: Some(0),
        };
        let event = ChangeEvent {
            meta,
            meta_text: None,
            document_key: Some("{\"_id\":1}"),
            full_document: None,
            update_description: None,
            full_document_before_change: None,
            further: [("severity", "3")].into_iter(),
        };
        event.write(OURS, &mut value);
        value
    }

    fn reader() -> ValueReader {
        let mut reader = ValueReader::new(true);
        reader.learn(OURS, IdMeans::ChangeEvent);
        reader
    }

    fn record(value: &[u8]) -> RecordView<'_> {
        RecordView { value: Some(value), ..RecordView::default() }
    }

    #[test]
    fn both_formats_are_read_side_by_side() {
        let mut reader = reader();
        assert_eq!(reader.read(&RecordView::default()), Value::Json(None));
        assert_eq!(reader.read(&record(b"{}")), Value::Json(Some(b"{}")));
        let value = event();
        let line = br#"{"_meta":{"eventId":"82","operationType":"insert","ns":{"db":"shop","coll":"orders"},"clusterTime":{"$timestamp":{"t":1,"i":2}},"wallTime":null,"lsid":null,"txnNumber":null,"source":"s","snapshot":false,"processedAt":"1970-01-01T00:00:00.000Z"},"documentKey":{"_id":1},"fullDocument":null,"updateDescription":null,"fullDocumentBeforeChange":null,"severity":3}"#;
        assert_eq!(reader.read(&record(&value)), Value::Json(Some(line)));
    }

    #[test]
    fn what_claims_avro_and_is_not_is_refused_with_its_reason() {
        let mut reader = reader();
        reader.learn(SchemaId::new(8), IdMeans::Foreign);
        reader.learn(SchemaId::new(9), IdMeans::Nothing);
        let cut = event();
        let claims = RecordView { content_type: Some(CONTENT_TYPE_AVRO), ..record(b"{\"a\":1}") };
        for (record, expected) in [
            (record(&cut[..cut.len() - 1]), DeadLetterReason::InvalidAvro),
            (record(b"\0\0\0"), DeadLetterReason::InvalidAvro),
            (claims, DeadLetterReason::InvalidAvro),
            (record(b"\0\0\0\0\x08..."), DeadLetterReason::UnknownSchema),
            (record(b"\0\0\0\0\x09..."), DeadLetterReason::UnknownSchema),
        ] {
            let Value::Refused { reason, error } = reader.read(&record) else { panic!("{record:?}") };
            assert_eq!(reason, expected, "{error}");
        }
        assert_eq!(reader.read(&record(b"\0\0\0\0\x0a...")), Value::AskFor(SchemaId::new(10)));
    }

    /// Anybody's bytes must not stop a sink; a source's records must not be put aside for want of a setting.
    #[test]
    fn without_a_registry_only_a_source_is_believed() {
        let mut reader = ValueReader::new(false);
        let value = event();
        assert!(matches!(reader.read(&record(&value)), Value::Refused { .. }));
        let ours =
            RecordView { content_type: Some(CONTENT_TYPE_AVRO), source: Some("s/1"), ..record(&value) };
        assert_eq!(reader.read(&ours), Value::NoRegistry);
        assert_eq!(no_registry("atlas.shop.orders").code, ExitCode::Configuration);
    }

    #[test]
    fn strange_ids_are_forgotten_in_time_and_ours_is_not() {
        let mut reader = reader();
        for id in 100..3000 {
            reader.learn(SchemaId::new(id), IdMeans::Nothing);
        }
        assert!(reader.ids.len() <= IDS_MAX);
        let value = event();
        assert!(matches!(reader.read(&record(&value)), Value::Json(Some(_))));
    }
}

#![expect(clippy::unwrap_used, reason = "tests")]

use apache_avro::{reader::datum::GenericDatumReader, types::Value};
use proptest::prelude::*;

use super::*;

/// What an event is made of, owned.
#[derive(Clone, Debug)]
struct Parts {
    texts: [String; 3],
    namespace: Option<(String, Option<String>)>,
    time: (u32, u32),
    wall: Option<i64>,
    lsid: Option<String>,
    txn: Option<i64>,
    snapshot: bool,
    processed: Option<i64>,
    meta_text: Option<String>,
    documents: [Option<String>; 4],
    further: Vec<(String, String)>,
}

impl Parts {
    fn event(&self) -> ChangeEvent<'_, impl ExactSizeIterator<Item = (&str, &str)>> {
        let [event_id, operation, source] = &self.texts;
        let [document_key, full_document, update_description, before] =
            self.documents.each_ref().map(Option::as_deref);
        ChangeEvent {
            meta: Meta {
                event_id,
                operation,
                namespace: self.namespace.as_ref().map(|(db, coll)| (db.as_str(), coll.as_deref())),
                cluster_time: ClusterTime::new(self.time.0, self.time.1),
                wall_time_ms: self.wall,
                lsid: self.lsid.as_deref(),
                txn_number: self.txn,
                source,
                snapshot: self.snapshot,
                processed_at_ms: self.processed,
            },
            meta_text: self.meta_text.as_deref(),
            document_key,
            full_document,
            update_description,
            full_document_before_change: before,
            further: self.further.iter().map(|(name, value)| (name.as_str(), value.as_str())),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.event().write(SchemaId::new(0x0102_0304), &mut out);
        out
    }
}

fn parts() -> impl Strategy<Value = Parts> {
    let text = || "\\PC{0,90}";
    let optional = || proptest::option::of("\\PC{0,90}");
    (
        [text(), text(), text()],
        proptest::option::of((text(), optional())),
        any::<(u32, u32)>(),
        proptest::option::of(any::<i64>()),
        (optional(), proptest::option::of(any::<i64>()), any::<bool>()),
        proptest::option::of(any::<i64>()),
        optional(),
        [optional(), proptest::option::of("\\PC{9000}"), optional(), optional()],
        proptest::collection::vec((text(), text()), 0..4),
    )
        .prop_map(
            |(
                texts,
                namespace,
                time,
                wall,
                (lsid, txn, snapshot),
                processed,
                meta_text,
                documents,
                further,
            )| {
                Parts {
                    texts,
                    namespace,
                    time,
                    wall,
                    lsid,
                    txn,
                    snapshot,
                    processed,
                    meta_text,
                    documents,
                    further,
                }
            },
        )
}

fn field<'v>(record: &'v Value, name: &str) -> &'v Value {
    let Value::Record(fields) = record else { panic!("{record:?} is no record") };
    &fields.iter().find(|(own, _)| own == name).unwrap().1
}

fn optional(value: &Value) -> Option<&Value> {
    match value {
        Value::Union(0, inner) if **inner == Value::Null => None,
        Value::Union(1, inner) => Some(inner),
        other => panic!("{other:?} is no optional value"),
    }
}

fn string(value: &Value) -> &str {
    let Value::String(text) = value else { panic!("{value:?} is no string") };
    text
}

fn millis(value: &Value) -> i64 {
    let Value::TimestampMillis(ms) = value else { panic!("{value:?} is no instant") };
    *ms
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Apache's own library is the independent reader.
    #[test]
    fn apache_avro_reads_what_is_written(parts in parts()) {
        let bytes = parts.bytes();
        prop_assert_eq!(&bytes[..5], &[0, 1, 2, 3, 4]);
        let mut rest = &bytes[5..];
        let reader = GenericDatumReader::builder(schema()).build().unwrap();
        let event = reader.read_value(&mut rest).unwrap();
        prop_assert!(rest.is_empty());

        let meta = field(&event, "_meta");
        prop_assert_eq!(string(field(meta, "eventId")), &parts.texts[0]);
        prop_assert_eq!(string(field(meta, "operationType")), &parts.texts[1]);
        prop_assert_eq!(string(field(meta, "source")), &parts.texts[2]);
        let namespace = optional(field(meta, "ns")).map(|ns| {
            (string(field(ns, "db")).to_owned(), optional(field(ns, "coll")).map(|coll| string(coll).to_owned()))
        });
        prop_assert_eq!(&namespace, &parts.namespace);
        let time = field(meta, "clusterTime");
        prop_assert_eq!(field(time, "t"), &Value::Long(parts.time.0.into()));
        prop_assert_eq!(field(time, "i"), &Value::Long(parts.time.1.into()));
        prop_assert_eq!(optional(field(meta, "wallTime")).map(millis), parts.wall);
        prop_assert_eq!(optional(field(meta, "processedAt")).map(millis), parts.processed);
        prop_assert_eq!(optional(field(meta, "txnNumber")).cloned(), parts.txn.map(Value::Long));
        prop_assert_eq!(field(meta, "snapshot"), &Value::Boolean(parts.snapshot));
        for (name, expected) in [("lsid", &parts.lsid), ("text", &parts.meta_text)] {
            prop_assert_eq!(optional(field(meta, name)).map(string), expected.as_deref());
        }
        let names = ["documentKey", "fullDocument", "updateDescription", "fullDocumentBeforeChange"];
        for (name, expected) in names.into_iter().zip(&parts.documents) {
            prop_assert_eq!(optional(field(&event, name)).map(string), expected.as_deref());
        }
        let Value::Map(further) = field(&event, "further") else { panic!("no map") };
        for (name, value) in further {
            prop_assert!(parts.further.iter().any(|(own, text)| own == name && text == string(value)));
        }
    }

    #[test]
    fn what_is_written_is_read_back(parts in parts()) {
        let bytes = parts.bytes();
        let (id, datum) = split(&bytes).unwrap();
        prop_assert_eq!(id, SchemaId::new(0x0102_0304));
        let read = ChangeEvent::read(datum).unwrap();
        let written = parts.event();
        prop_assert_eq!(read.meta, written.meta);
        prop_assert_eq!(read.meta_text, written.meta_text);
        prop_assert_eq!(read.full_document, written.full_document);
        let (mut one, mut other) = (Vec::new(), Vec::new());
        read.write_json(&mut one);
        written.write_json(&mut other);
        prop_assert_eq!(one, other);
    }

    /// Whatever arrives: an error or an event, and no panic; a datum that is cut anywhere is an error.
    #[test]
    fn damaged_bytes_are_told(parts in parts(), cut in any::<prop::sample::Index>(), noise in any::<Vec<u8>>()) {
        let bytes = parts.bytes();
        let datum = &bytes[5..];
        prop_assert!(ChangeEvent::read(&datum[..cut.index(datum.len())]).is_err());
        let longer = [datum, b"\0"].concat();
        prop_assert_eq!(ChangeEvent::read(&longer).err(), Some(MalformedAvro::TrailingBytes(1)));
        let mut out = b"before".to_vec();
        if write_json(&noise, &mut out).is_err() {
            prop_assert_eq!(out, b"before");
        }
        let mut spoilt = datum.to_vec();
        for (place, byte) in noise.iter().enumerate().take(3) {
            let at = cut.index(datum.len());
            spoilt[(at + place) % datum.len()] = *byte;
        }
        let _either_way = ChangeEvent::read(&spoilt);
    }
}

#[test]
fn a_relaxed_meta_needs_no_text() {
    let meta = Meta {
        event_id: "8266C1",
        operation: "update",
        namespace: Some(("shop", Some("orders"))),
        cluster_time: ClusterTime::new(1_755_900_000, 3),
        wall_time_ms: Some(1_755_900_000_123),
        lsid: None,
        txn_number: Some(5),
        source: "orders-cdc",
        snapshot: false,
        processed_at_ms: Some(1_755_900_000_151),
    };
    let json = r#"{"eventId":"8266C1","operationType":"update","ns":{"db":"shop","coll":"orders"},"clusterTime":{"$timestamp":{"t":1755900000,"i":3}},"wallTime":{"$date":"2025-08-22T22:00:00.123Z"},"lsid":null,"txnNumber":5,"source":"orders-cdc","snapshot":false,"processedAt":"2025-08-22T22:00:00.151Z"}"#;
    let mut scratch = Vec::new();
    assert!(meta.says(json, &mut scratch), "{}", String::from_utf8_lossy(&scratch));
    assert!(
        !meta.says(&json.replace("\"txnNumber\":5", "\"txnNumber\":{\"$numberLong\":\"5\"}"), &mut scratch)
    );
    let strange = Meta { operation: "a\"\n\u{1}ä", ..meta };
    scratch.clear();
    strange.write_json(&mut scratch);
    let read: serde_json::Value = serde_json::from_slice(&scratch).unwrap();
    assert_eq!(read["operationType"], "a\"\n\u{1}ä");
}

#[test]
fn other_writers_may_block_maps_as_they_like() {
    // An event of nothing but empty texts, and a map in two blocks, the second with its size.
    let mut datum = vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    datum.extend([2, 2, b'a', 2, b'1', 1, 8, 2, b'b', 2, b'2', 0]);
    let mut out = Vec::new();
    write_json(&datum, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.ends_with(r#""fullDocumentBeforeChange":null,"a":1,"b":2}"#), "{text}");
}

#[test]
fn impossible_lengths_are_told_and_cost_nothing() {
    for (datum, error) in [
        (&[1_u8][..], MalformedAvro::Length(-1)),
        (&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1], MalformedAvro::Length(i64::MIN)),
        (&[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1], MalformedAvro::Truncated),
        (&[0xFF; 11], MalformedAvro::Number),
        (&[2, 0xFF], MalformedAvro::Text),
        (&[0, 0, 4], MalformedAvro::Branch(2)),
        (&[0, 0, 0, 1], MalformedAvro::Timestamp(-1)),
        (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 2], MalformedAvro::Boolean(2)),
    ] {
        assert_eq!(ChangeEvent::read(datum).err(), Some(error), "{datum:?}");
    }
    assert_eq!(split(b"\0\0\0\x01"), None);
    assert_eq!(split(b"{\"a\":1}"), None);
}

#[test]
fn documentation_makes_no_other_schema() {
    assert!(is_change_event(SCHEMA));
    let once = schema().canonical_form();
    assert!(is_change_event(&once), "{once}");
    assert!(!is_change_event(&SCHEMA.replacen("wallTime", "wall_time", 1)));
    assert!(!is_change_event("{"));
    assert_eq!(SUBJECT, schema().name().unwrap().fullname(None).to_string());
}

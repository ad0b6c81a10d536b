#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;
use crate::verify::expected_flat;

const KAFKA: &str = r#""_kafka":{"topic":"t","partition":0,"offset":7,"timestamp":null}"#;

fn with_kafka(body: &[u8], has_members: bool) -> String {
    let comma = if has_members { "," } else { "" };
    format!("{}{comma}{KAFKA}}}\n", std::str::from_utf8(body).unwrap())
}

fn flat(object: &str) -> String {
    let mut line = b"before".to_vec();
    let has_members = write_flat(object, &mut line);
    with_kafka(&line[6..], has_members)
}

/// As `verify` would have it.
fn expected(object: &str) -> String {
    let (body, has_members) = expected_flat(object.as_bytes());
    with_kafka(&body, has_members)
}

/// The envelope line, from the flat one.
fn back(flat: &str) -> String {
    let line = LineFormat::Flat.envelope_of(&Bytes::copy_from_slice(flat.as_bytes()));
    String::from_utf8(line.to_vec()).unwrap()
}

fn envelope_line(object: &str) -> String {
    with_kafka(&object.as_bytes()[..object.len() - 1], object.trim_ascii_end().len() > 2)
}

fn becomes(object: &str, line: &str) {
    assert_eq!(flat(object), format!("{line}\n").replace("KAFKA", KAFKA));
    assert_eq!(flat(object), expected(object), "and verify knows it");
}

const META: &str = r#""_meta":{"eventId":"82","operationType":"update","ns":{"db":"shop","coll":"orders"},"clusterTime":{"$timestamp":{"t":1,"i":2}},"lsid":null}"#;
const LIFTED: &str = r#""_meta_eventId":"82","_meta_operationType":"update","_meta_db":"shop","_meta_coll":"orders","_meta_clusterTime":{"$timestamp":{"t":1,"i":2}},"_meta_lsid":null"#;

fn event(key: &str, document: &str, others: &str) -> String {
    format!(
        r#"{{{META},"documentKey":{key},"fullDocument":{document},"updateDescription":{{"removedFields":["a"]}},"fullDocumentBeforeChange":null{others}}}"#
    )
}

fn there_and_back(object: &str) {
    assert_eq!(back(&flat(object)), envelope_line(object));
    assert_eq!(flat(object), expected(object));
    let names = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&flat(object));
    assert!(names.is_ok(), "{}", flat(object));
}

#[test]
fn the_document_is_at_the_top_and_the_event_beside_it() {
    let update = r#""_updateDescription":{"removedFields":["a"]},"_fullDocumentBeforeChange":null"#;
    becomes(
        &event(r#"{"_id":7}"#, r#"{"_id":7, "a" : 1.10 , "a":[{"_meta_x":1}] }"#, ""),
        &format!(
            r#"{{"_id":7, "a" : 1.10 , "a":[{{"_meta_x":1}}],{LIFTED},"_documentKey":{{"_id":7}},{update},KAFKA}}"#
        ),
    );
    becomes(
        &event(r#"{"_id":7,"region":"eu"}"#, "null", ""),
        &format!(
            r#"{{"_id":7,"region":"eu",{LIFTED},"_documentKey":{{"_id":7,"region":"eu"}},"_fullDocument":null,{update},KAFKA}}"#
        ),
    );
    // A definition has neither; what a pipeline computed is told from the document.
    becomes(
        &event("null", "null", r#","severity":3,"_meta_x":"\n""#),
        &format!(
            r#"{{{LIFTED},"_documentKey":null,"_fullDocument":null,{update},"_event_severity":3,"_event__meta_x":"\n",KAFKA}}"#
        ),
    );
    let many: String = (0..20).map(|n| format!(",\"n{n}\":{n}")).collect();
    let object = event(r#"{"_id":7}"#, "{}", &many);
    assert!(flat(&object).contains(&many.replace(",\"n", ",\"_event_n")));
    there_and_back(&object);
    becomes(
        &event(r#"{"_id":7}"#, "{}", ""),
        &format!(r#"{{{LIFTED},"_documentKey":{{"_id":7}},{update},KAFKA}}"#),
    );
}

#[test]
fn a_document_with_a_kept_name_stays_whole() {
    for name in ["_meta_", "_Meta_db", "_kafka", "_documentkey", "_document", "_event_a", r"a\u0062", r#"\""#]
    {
        let document = format!(r#"{{"_id":7,"{name}":1}}"#);
        let object = event(r#"{"_id":7}"#, &document, "");
        let line = flat(&object);
        assert!(line.starts_with(&format!(r#"{{"_document":{document},"_meta_eventId""#)), "{line}");
        there_and_back(&object);
        let key = event(&document, "null", "");
        assert!(flat(&key).starts_with(r#"{"_document":{"_id":7,"#));
        there_and_back(&key);
        // And so does what is no event.
        if name != "_kafka" {
            assert_eq!(flat(&document), format!("{{\"_document\":{document},{KAFKA}}}\n"));
            there_and_back(&document);
        }
    }
    for name in ["_meta", "_metadata", "meta_x", "$set", "", "_", "a.b", "ä"] {
        let document = format!(r#"{{"{name}":1}}"#);
        let object = event(r#"{"_id":7}"#, &document, "");
        assert!(flat(&object).starts_with(&document[..document.len() - 1]), "{name}");
        there_and_back(&object);
    }
}

#[test]
fn what_is_no_event_stays_as_it_is() {
    for object in [
        "{}",
        "{ }",
        r#"{"op":"c","after":"{}"}"#,
        r#"{"_meta":{},"documentKey":null,"fullDocument":null}"#,
        r#"{"_meta":{"a":1},"documentKey":null}"#,
        r#"{"_meta":{"a":1},"fullDocument":[]}"#,
        r#"{"_meta":{"a":1},"fullDocument":"\ud800"}"#,
        r#"{"_meta":null,"fullDocument":{}}"#,
        r#"{"_meta":{"a":1},"fullDocument":null,"fullDocument":null}"#,
        r#"{"_meta":{"a":1},"_meta":{"a":1},"fullDocument":null}"#,
        r#"{"_meta":{"ns":{"db":1,"coll":2},"db":3},"fullDocument":null}"#,
        r#"{"_meta":{"\u0064b":3},"fullDocument":null}"#,
        r#"{"fullDocument":{"_meta_x":1},"n":1}"#,
    ] {
        let empty = object.trim_matches(['{', '}', ' ']).is_empty();
        assert_eq!(flat(object), with_kafka(&object.as_bytes()[..object.len() - 1], !empty), "{object}");
        assert_eq!((flat(object), back(&flat(object))), (expected(object), flat(object)));
    }
}

#[test]
fn a_namespace_is_lifted_only_if_it_is_one() {
    for namespace in
        ["null", r#"{"db":"a"}"#, r#"{"coll":"a","db":"b"}"#, r#"{"db":1,"coll":2,"db":3}"#, "[]"]
    {
        let object = format!(r#"{{"_meta":{{"ns":{namespace},"a":1}},"fullDocument":{{"b":1}}}}"#);
        assert!(flat(&object).contains(&format!(r#""_meta_ns":{namespace},"_meta_a":1"#)));
        there_and_back(&object);
    }
}

/// Names that make trouble, and others.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "_id",
            "a",
            "",
            "$set",
            "_meta",
            "_meta_db",
            "_META_x",
            "_document",
            "_documentKey",
            "_fullDocument",
            "_event_a",
            "fullDocument",
            "documentKey",
            "db",
            "coll",
            "ns",
            "\\u005fmeta_db",
            "\\ud800",
            "\\\"",
            "_kafka",
        ])
        .prop_map(str::to_owned),
        "[a-z_$.ä]{0,4}",
    ]
}

fn value() -> impl Strategy<Value = String> {
    let scalar = prop::sample::select(vec![
        "1.10",
        "null",
        "true",
        "-0.0e5",
        r#""\ud800}{\"""#,
        "\"ä,:\"",
        "{}",
        "[]",
        "{ }",
    ]);
    scalar.prop_map(str::to_owned).prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            object_of(inner.clone()),
            prop::collection::vec(inner, 0..3).prop_map(|values| format!("[{}]", values.join(" , "))),
        ]
    })
}

fn object_of(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::collection::vec((name(), value), 0..4).prop_map(|members| {
        let members: Vec<String> =
            members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    })
}

fn document() -> impl Strategy<Value = String> {
    prop_oneof![4 => object_of(value()), 1 => Just("null".to_owned())]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Every member of an event comes back as the bytes that it was, whatever its names and values.
    #[test]
    fn events_come_back_byte_for_byte(
        meta in object_of(value()), key in document(), document in document(), update in document(), before in document(), other in object_of(value())
    ) {
        let other = ["_kafka", "fullDocument", "documentKey", "_meta"]
            .iter()
            .fold(other, |other, name| other.replace(&format!("\"{name}\""), "\"x\""));
        let others = other.trim_matches(['{', '}']).is_empty();
        let others = if others { String::new() } else { format!(",{}", &other[1..other.len() - 1]) };
        // A value with `_kafka` is no line, and a part that comes twice no event.
        let meta = if meta.len() > 2 { format!("{},\"z\":1}}", &meta[..meta.len() - 1]) } else { "{\"eventId\":\"1\"}".to_owned() };
        let object = format!(
            r#"{{"_meta":{meta},"documentKey":{key},"fullDocument":{document},"updateDescription":{update},"fullDocumentBeforeChange":{before}{others}}}"#
        );
        prop_assert_eq!(flat(&object), expected(&object));
        prop_assert_eq!(back(&flat(&object)), envelope_line(&object));
    }

    /// Whatever object comes: what is written is what `verify` expects, and it says what the object said.
    #[test]
    fn no_object_is_lost(object in object_of(value())) {
        let object = object.replace("\"_kafka\"", "\"_x\"");
        prop_assert_eq!(flat(&object), expected(&object));
        if !object.contains("fullDocument") {
            prop_assert_eq!(back(&flat(&object)), envelope_line(&object));
        }
    }
}

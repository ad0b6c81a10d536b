#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::record::{RecordView, inspect};

fn schema(text: &Value) -> DocumentSchema {
    DocumentSchema::compile(text).unwrap()
}

fn orders() -> DocumentSchema {
    schema(&json!({
        "type": "object",
        "required": ["_id", "total"],
        "properties": {
            "_id": {"type": "object", "required": ["$oid"]},
            "total": {"type": "number", "minimum": 0},
            "state": {"enum": ["new", "paid"]},
            "note": {"pattern": "^[a-z]+$"},
        },
        "additionalProperties": false,
    }))
}

/// As the sink judges a value.
fn judged(schema: &DocumentSchema, value: &str) -> Option<String> {
    let record = RecordView {
        value: Some(value.as_bytes()),
        cluster_time: Some("1755900000.3"),
        database: Some("shop"),
        collection: Some("orders"),
        ..RecordView::default()
    };
    let content = TopicContent::Data(Namespace::new("shop", "orders"));
    let before = inspect(&record, &content, 1 << 20);
    let after = schema.judge(before.clone());
    assert_eq!(
        (after.hour, after.cluster_time, after.event),
        (before.hour, before.cluster_time, before.event)
    );
    match after.verdict {
        Verdict::DeadLetter { reason: DeadLetterReason::SchemaViolation, error } => Some(error),
        verdict => {
            assert_eq!(verdict, before.verdict);
            None
        }
    }
}

fn event(document: &str) -> String {
    format!(r#"{{"_meta":{{"operationType":"insert"}},"fullDocument":{document},"updateDescription":null}}"#)
}

const GOOD: &str = r#"{"_id":{"$oid":"66c1"},"total":3.5,"state":"new"}"#;

#[test]
fn documents_that_hold_and_records_without_one_are_lines() {
    let orders = orders();
    for value in [
        event(GOOD),
        event("null"),
        r#"{"_meta":{},"documentKey":{"_id":1}}"#.to_owned(),
        "{}".to_owned(),
        // Twice: as most readers do, the last one.
        format!(r#"{{"fullDocument":1,"fullDocument":{GOOD}}}"#),
    ] {
        assert_eq!(judged(&orders, &value), None, "{value}");
    }
}

#[test]
fn what_breaks_the_schema_says_where_and_which_rule_and_no_value() {
    let orders = orders();
    for (document, says) in [
        (r#"{"_id":{"$oid":"a"},"total":-4711}"#, "/total breaks the schema's /properties/total/minimum"),
        (r#"{"_id":{"$oid":"a"}}"#, "the document breaks the schema's /required (total)"),
        (
            r#"{"_id":{"$oid":"a"},"total":1,"odd":"4711"}"#,
            "the document breaks the schema's /additionalProperties (odd)",
        ),
        (
            r#"{"_id":{"$oid":"a"},"total":1,"state":"4711"}"#,
            "/state breaks the schema's /properties/state/enum",
        ),
        (r#"{"_id":"4711","total":1}"#, "/_id breaks the schema's /properties/_id/type"),
        ("\"4711\"", "the document breaks the schema's /type"),
    ] {
        assert_eq!(judged(&orders, &event(document)).as_deref(), Some(says));
    }
}

#[test]
fn a_schema_that_is_false_takes_nothing() {
    let nothing = schema(&json!(false));
    assert_eq!(judged(&nothing, &event("{}")).as_deref(), Some("the document breaks the schema"));
    assert_eq!(judged(&nothing, &event("null")), None);
}

#[test]
fn what_is_said_is_bounded() {
    let properties: Vec<String> =
        (0..2000).map(|number| format!("\"{}{number}\":1", "ä".repeat(200))).collect();
    let document = format!("{{\"_id\":1,{}}}", properties.join(","));
    let text = judged(&orders(), &event(&document)).unwrap();
    assert!(text.len() < 1024 && text.contains('…'), "{} bytes: {text}", text.len());
    let all = schema(&json!({"type": "array", "items": {"type": "string"}}));
    let text = judged(&all, &event(&format!("{:?}", vec![1; 5000]))).unwrap();
    assert!(text.len() < 1024 && text.ends_with("; and more"), "{text}");
}

/// Any JSON object is a line; one that the parser of values does not take cannot be said to hold.
#[test]
fn a_document_that_cannot_be_read_breaks_any_schema() {
    let any = schema(&json!(true));
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    for document in [deep.as_str(), "1e999", "\"\\ud800\"", "{\"a\":1e999}"] {
        let text = judged(&any, &event(document)).unwrap();
        assert!(text.starts_with("the document cannot be held against its schema"), "{text}");
    }
    assert_eq!(judged(&any, &event("{\"n\":18446744073709551616,\"d\":0.1}")), None);
}

#[test]
fn a_schema_that_turns_in_a_circle_ends() {
    let circle = schema(&json!({"$ref": "#"}));
    assert_eq!(judged(&circle, &event(GOOD)), None);
    let tree = schema(&json!({
        "type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}},
    }));
    assert_eq!(judged(&tree, &event(r#"{"children":[{"children":[{}]}]}"#)), None);
    let text = judged(&tree, &event(r#"{"children":[{"children":[1]}]}"#)).unwrap();
    assert!(text.contains("/children/0/children/0 breaks the schema's /type"), "{text}");
    let mutual = schema(&json!({
        "$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
    }));
    assert_eq!(judged(&mutual, &event(GOOD)), None);
}

#[test]
fn schemas_that_cannot_be_used_are_refused_in_words() {
    for (text, says) in [
        (
            json!({"$ref": "https://example.com/order.json"}),
            "https://example.com/order.json is not in this file",
        ),
        (json!({"properties": {"a": {"$ref": "other.json#/a"}}}), "other.json#/a is not in this file"),
        (json!({"$ref": "file:///etc/passwd"}), "nothing is fetched"),
        (json!({"$ref": "#/$defs/order"}), "/$defs/order"),
        (json!({"type": "text"}), "at /type"),
        (json!({"properties": {"a": {"minimum": "0"}}}), "at /properties/a/minimum"),
        (json!({"pattern": "^(?=a)"}), "valid, without looking around"),
        (json!({"pattern": "("}), "valid, without looking around"),
        (json!([]), ""),
        (json!({"$schema": "https://example.com/draft"}), "https://example.com/draft"),
    ] {
        let refused = DocumentSchema::compile(&text).unwrap_err();
        assert!(refused.contains(says), "{text}: {refused}");
    }
    // Drafts that are known need nothing else.
    for draft in ["http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2019-09/schema"] {
        DocumentSchema::compile(&json!({"$schema": draft, "type": "object"})).unwrap();
    }
}

#[test]
fn files_are_named_as_topics_are() {
    let folder = tempfile::tempdir().unwrap();
    let names = TopicNames::new("atlas").unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    for name in
        ["shop.orders.json", "shop.a-x2eb.json", "shop.c.d.json", "shop.e.json.json", "x.-xc3-xa4.json"]
    {
        write(name, "true");
    }
    write(".hidden", "no");
    // Its topic's name is cut, and this one is not.
    let long = "c".repeat(240);
    write(&format!("y.{long}.json"), "true");
    let checks = SchemaChecks::read(folder.path(), &names).unwrap();
    let found: Vec<String> = checks.collections().map(ToString::to_string).collect();
    assert_eq!(found, ["shop.a.b", "shop.c.d", "shop.e.json", "shop.orders", "x.ä", &format!("y.{long}")]);
    assert!(checks.of(&TopicContent::Data(Namespace::new("shop", "orders"))).is_some());
    assert!(checks.of(&TopicContent::Data(Namespace::new("shop", "Orders"))).is_none());
}

#[test]
fn all_mistakes_come_with_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let names = TopicNames::new("atlas").unwrap();
    let path = folder.path();
    assert!(SchemaChecks::read(&path.join("none"), &names).unwrap_err()[0].contains("can be read"));
    assert!(SchemaChecks::read(path, &names).unwrap_err()[0].contains("with a schema in it"));
    let write = |name: &str, text: &str| fs::write(path.join(name), text).unwrap();
    write("shop.orders.json", "{}");
    write("shop.bad.json", "{\"type\":\"text\"}");
    write("shop.half.json", "{");
    write("orders.json", "{}");
    write("README.md", "# What these are");
    write(".hidden", "");
    write("shop.orders.avsc", "no JSON");
    write("shop_eu.a.json", "{}");
    write("shop-x5feu.a.json", "{}");
    fs::create_dir(path.join("shop.folder.json")).unwrap();
    let mut large = fs::File::create(path.join("shop.large.json")).unwrap();
    std::io::Write::write_all(&mut large, &vec![b' '; (1 << 20) + 1]).unwrap();
    let mistakes = SchemaChecks::read(path, &names).unwrap_err();
    let expected = [
        ("in orders.json", "a name as"),
        ("in shop.bad.json", "a JSON Schema: at /type"),
        ("in shop.folder.json", "a file"),
        ("in shop.half.json", "JSON: "),
        ("in shop.large.json", "at most 1 MiB"),
        ("in shop.orders.avsc", "a name that ends with .json"),
        ("in shop_eu.a.json", "both are shop_eu.a"),
    ];
    assert_eq!(mistakes.len(), expected.len(), "{mistakes:#?}");
    for (mistake, (begins, says)) in mistakes.iter().zip(expected) {
        assert!(mistake.starts_with(begins) && mistake.contains(says), "{mistake}");
    }
}

proptest! {
    #[test]
    fn any_object_is_judged_and_none_is_quoted(
        name in "\\PC{0,8}", secret in "[0-9]{12}", number in any::<f64>(),
    ) {
        let value = json!({"fullDocument": {name.clone(): secret, "total": number}});
        if let Some(text) = judged(&orders(), &value.to_string()) {
            prop_assert!(!text.contains(&secret), "{}", text);
        }
    }
}

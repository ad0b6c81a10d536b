#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::export::columns::{COLUMNS, Kind};

const KAFKA: &str =
    r#""_kafka":{"topic":"atlas.shop.orders","partition":2,"offset":42,"timestamp":1755900000000}"#;

fn row(body: &str) -> Row {
    let line = Bytes::from(format!("{{{body}{}{KAFKA}}}\n", if body.is_empty() { "" } else { "," }));
    let (row, place) = Row::of(&line).unwrap();
    assert_eq!(place, Place { partition: 2, offset: 42 });
    row
}

fn text(row: &Row, column: Column) -> Option<&str> {
    match row.0[column as usize].as_ref()? {
        Cell::Text(text) => Some(std::str::from_utf8(text).unwrap()),
        other => panic!("{column:?} is {other:?}"),
    }
}

fn cell(row: &Row, column: Column) -> Option<Cell> {
    row.0[column as usize].clone()
}

/// The columns that are filled, but for those that every row has.
fn filled(row: &Row) -> Vec<&'static str> {
    let own = COLUMNS.iter().zip(&row.0).filter(|(_, cell)| cell.is_some());
    own.map(|(spec, _)| spec.name).filter(|name| !name.starts_with("kafka_")).collect()
}

#[test]
fn an_event_of_our_source_fills_its_columns_and_leaves_nothing() {
    let row = row(
        r#""_meta":{"eventId":"8266C1","operationType":"update","ns":{"db":"shop","coll":"orders.\u00e4"},"clusterTime":{"$timestamp":{"t":1755900000,"i":3}},"wallTime":{"$date":"2025-08-22T22:00:00.123Z"},"lsid":{"id":1},"txnNumber":7,"source":"orders-cdc","snapshot":false,"processedAt":"2025-08-22T22:00:00.151Z"},"documentKey":{"_id":{"$oid":"66c1"}},"fullDocument":{ "n" : 1.10, "m":12345678901234567890, "n":"x\u0000" },"updateDescription":{"removedFields":[]},"fullDocumentBeforeChange":null"#,
    );
    assert_eq!(text(&row, Column::EventId), Some("8266C1"));
    assert_eq!(text(&row, Column::Operation), Some("update"));
    assert_eq!(
        (text(&row, Column::Db), text(&row, Column::Coll)),
        (Some("shop"), Some("orders.ä")),
        "strings are read"
    );
    assert_eq!(cell(&row, Column::ClusterTime), Some(Cell::Long(1_755_900_000_000)));
    assert_eq!(cell(&row, Column::ClusterTimeIncrement), Some(Cell::Int(3)));
    assert_eq!(cell(&row, Column::WallTime), Some(Cell::Long(1_755_900_000_123)));
    assert_eq!(cell(&row, Column::ProcessedAt), Some(Cell::Long(1_755_900_000_151)));
    assert_eq!(text(&row, Column::Source), Some("orders-cdc"));
    assert_eq!(cell(&row, Column::Snapshot), Some(Cell::Flag(false)));
    assert_eq!((text(&row, Column::Lsid), text(&row, Column::TxnNumber)), (Some(r#"{"id":1}"#), Some("7")));
    assert_eq!(text(&row, Column::DocumentKey), Some(r#"{"_id":{"$oid":"66c1"}}"#));
    assert_eq!(
        text(&row, Column::FullDocument),
        Some(r#"{ "n" : 1.10, "m":12345678901234567890, "n":"x\u0000" }"#),
        "documents are cut out as they stand"
    );
    assert_eq!(text(&row, Column::UpdateDescription), Some(r#"{"removedFields":[]}"#));
    assert_eq!(text(&row, Column::FullDocumentBeforeChange), None);
    assert_eq!(text(&row, Column::Rest), None);
    assert_eq!(text(&row, Column::KafkaTopic), Some("atlas.shop.orders"));
    assert_eq!(cell(&row, Column::KafkaTimestamp), Some(Cell::Long(1_755_900_000_000)));
}

#[test]
fn every_dialect_gives_the_same_instant() {
    for date in [
        r#"{"$date":"2025-08-22T22:00:00.123Z"}"#,
        r#"{"$date":{"$numberLong":"1755900000123"}}"#,
        r#""2025-08-22T22:00:00.123Z""#,
    ] {
        let row = row(&format!(r#""_meta":{{"wallTime":{date}}}"#));
        assert_eq!(cell(&row, Column::WallTime), Some(Cell::Long(1_755_900_000_123)), "{date}");
        assert_eq!(filled(&row), ["wall_time"]);
    }
}

#[test]
fn what_a_column_cannot_hold_whole_stays_as_it_stands() {
    for meta in [
        r#"{"wallTime":{"$date":"2025-08-22T22:00:00.1234Z"}}"#,
        r#"{"wallTime":"2025-08-22T22:00:00+02:00"}"#,
        r#"{"wallTime":1755900000123}"#,
        r#"{"clusterTime":{"$timestamp":{"t":1,"i":2147483648}}}"#,
        r#"{"clusterTime":{"$timestamp":{"t":1,"i":1,"x":0}}}"#,
        r#"{"clusterTime":"1.1"}"#,
        r#"{"ns":{"db":"shop"}}"#,
        r#"{"ns":{"db":"shop","coll":"orders","x":1}}"#,
        r#"{"ns":{"db":"shop","coll":null}}"#,
        r#"{"eventId":"\ud800"}"#,
        r#"{"eventId":5,"operationType":["insert"],"source":{},"snapshot":"true"}"#,
        r#"{"transaction":{"index":0}}"#,
        r#"{}"#,
        "null",
        r#""text""#,
    ] {
        let row = row(&format!(r#""_meta":{meta}"#));
        assert_eq!(text(&row, Column::Rest), Some(format!(r#"{{"_meta":{meta}}}"#).as_str()));
        assert_eq!(filled(&row), ["rest"], "{meta}");
    }
    let row = row(
        r#""computed":1e400,"documentKey":{"_id":1},"documentKey":{"_id":2},"_meta":{"source":"a","source":"b"},"_meta":{}"#,
    );
    assert_eq!(text(&row, Column::DocumentKey), Some(r#"{"_id":1}"#));
    assert_eq!(
        text(&row, Column::Rest),
        Some(r#"{"computed":1e400,"documentKey":{"_id":2},"_meta":{"source":"b"},"_meta":{}}"#)
    );
}

#[test]
fn lines_of_other_profiles_go_to_the_rest() {
    let debezium = r#""before":null,"after":"{\"_id\": 1}","source":{"ts_ms":1},"op":"c","ts_ms":5"#;
    let row = row(debezium);
    assert_eq!(filled(&row), ["rest"]);
    assert_eq!(text(&row, Column::Rest), Some(format!("{{{debezium}}}").as_str()));
}

#[test]
fn mongo_kafkas_documents_have_the_names_of_ours() {
    let row = row(
        r#""_id":{"_data":"82"},"operationType":"insert","clusterTime":{"$timestamp":{"t":1,"i":1}},"fullDocument":{"_id":1},"ns":{"db":"a","coll":"b"},"documentKey":{"_id":1}"#,
    );
    assert_eq!(filled(&row), ["document_key", "full_document", "rest"]);
    assert_eq!(
        text(&row, Column::Rest),
        Some(
            r#"{"_id":{"_data":"82"},"operationType":"insert","clusterTime":{"$timestamp":{"t":1,"i":1}},"ns":{"db":"a","coll":"b"}}"#
        )
    );
}

#[test]
fn what_is_no_line_is_told() {
    let of = |line: &[u8]| Row::of(&Bytes::copy_from_slice(line)).unwrap_err();
    assert_eq!(of(b"{\"a\":\"\xff\"}\n"), NoRow::NotUtf8);
    assert_eq!(of(b"[]\n"), NoRow::NotAnObject);
    assert_eq!(of(b"{\"a\":1\n"), NoRow::NotAnObject);
    assert_eq!(of(b"{\"a\":1}\n"), NoRow::NoPlace);
    assert_eq!(of(br#"{"_kafka":{"topic":"t"}}"#), NoRow::NoPlace);
    let twice = format!("{{{KAFKA},{KAFKA}}}");
    assert_eq!(of(twice.as_bytes()), NoRow::NoPlace);
}

/// What a row says, put together again.
fn line_of(row: &Row) -> Value {
    let mut line = match text(row, Column::Rest) {
        Some(rest) => serde_json::from_str::<Value>(rest).unwrap(),
        None => json!({}),
    };
    let members = line.as_object_mut().unwrap();
    let json = |column| text(row, column).map(|text| serde_json::from_str::<Value>(text).unwrap());
    let string = |column| text(row, column).map(Value::from);
    let number = |column| match cell(row, column) {
        Some(Cell::Long(value)) => Some(value),
        Some(Cell::Int(value)) => Some(i64::from(value)),
        _ => None,
    };
    let date =
        |column| number(column).map(|millis| json!({ "$date": { "$numberLong": millis.to_string() } }));
    for (name, column) in [
        ("documentKey", Column::DocumentKey),
        ("fullDocument", Column::FullDocument),
        ("updateDescription", Column::UpdateDescription),
        ("fullDocumentBeforeChange", Column::FullDocumentBeforeChange),
    ] {
        members.extend(json(column).map(|value| (name.to_owned(), value)));
    }
    let mut meta = Map::new();
    let mut put = |name: &str, value: Option<Value>| meta.extend(value.map(|value| (name.to_owned(), value)));
    put("eventId", string(Column::EventId));
    put("operationType", string(Column::Operation));
    put("source", string(Column::Source));
    put("ns", string(Column::Db).map(|db| json!({ "db": db, "coll": string(Column::Coll) })));
    put(
        "clusterTime",
        number(Column::ClusterTime)
            .map(|t| json!({ "$timestamp": { "t": t / 1000, "i": number(Column::ClusterTimeIncrement) } })),
    );
    put("wallTime", date(Column::WallTime));
    put("processedAt", date(Column::ProcessedAt));
    put("lsid", json(Column::Lsid));
    put("txnNumber", json(Column::TxnNumber));
    put(
        "snapshot",
        match cell(row, Column::Snapshot) {
            Some(Cell::Flag(value)) => Some(value.into()),
            _ => None,
        },
    );
    if !meta.is_empty() {
        let kept = members.remove("_meta");
        meta.extend(kept.into_iter().flat_map(|kept| kept.as_object().cloned().unwrap_or_default()));
        members.insert("_meta".to_owned(), meta.into());
    }
    line
}

/// JSON that is often, but not always, what a column of ours takes.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Fractions that serde_json reads without rounding.
        any::<i32>().prop_map(|quarters| (f64::from(quarters) / 4.0).into()),
        "\\PC{0,8}".prop_map(Value::from),
        any::<i32>().prop_map(|i| json!({ "$timestamp": { "t": i.unsigned_abs(), "i": i } })),
        any::<i32>().prop_map(|millis| json!({ "$date": { "$numberLong": millis.to_string() } })),
        ("[a-z]{0,3}", "\\PC{0,4}").prop_map(|(db, coll)| json!({ "db": db, "coll": coll })),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("\\PC{0,6}", inner, 0..4)
                .prop_map(|members| members.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

fn named(names: &'static [&'static str]) -> impl Strategy<Value = Map<String, Value>> {
    let name = prop_oneof![
        4 => prop::sample::select(names).prop_map(str::to_owned),
        1 => "\\PC{0,6}",
    ];
    prop::collection::btree_map(name, values(), 0..10).prop_map(|members| {
        members.into_iter().filter(|(name, _)| name != "_kafka" && name != "_meta").collect()
    })
}

/// `null` and absent are the same to a column.
fn without_nulls(mut line: Value) -> Value {
    fn clean(value: &mut Value) {
        if let Value::Object(members) = value {
            members.retain(|_, value| !value.is_null());
        }
    }
    if let Some(meta) = line.get_mut("_meta") {
        clean(meta);
        if meta.as_object().is_some_and(Map::is_empty) {
            *meta = Value::Null;
        }
    }
    clean(&mut line);
    line
}

proptest! {
    #[test]
    fn a_row_says_what_its_line_says(
        members in named(&["documentKey", "fullDocument", "updateDescription", "fullDocumentBeforeChange", "op"]),
        meta in named(&[
            "eventId", "operationType", "ns", "clusterTime", "wallTime", "processedAt", "source", "snapshot", "lsid",
            "txnNumber", "other",
        ]),
    ) {
        let mut members = members;
        if !meta.is_empty() {
            members.insert("_meta".to_owned(), meta.into());
        }
        let expected = Value::from(members);
        let body = expected.to_string();
        let row = row(&body[1..body.len() - 1]);
        prop_assert_eq!(without_nulls(line_of(&row)), without_nulls(expected));
        for (spec, cell) in COLUMNS.iter().zip(&row.0) {
            if let (Kind::Json, Some(Cell::Text(text))) = (spec.kind, cell) {
                let text = std::str::from_utf8(text).unwrap();
                prop_assert!(spec.name == "rest" || body.contains(text), "{} is no part of the line", spec.name);
            }
        }
    }
}

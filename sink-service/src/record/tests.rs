#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use shared::namespace::Namespace;

use super::*;

const LIMIT: usize = 1024;

fn orders() -> TopicContent {
    TopicContent::Data(Namespace::new("shop", "orders"))
}

/// A record as our source writes it: everything is in the headers.
fn ours(value: &[u8]) -> RecordView<'_> {
    RecordView {
        value: Some(value),
        timestamp: Some(1_755_900_000_000),
        cluster_time: Some("1755900000.3"),
        database: Some("shop"),
        collection: Some("orders"),
        operation: Some("insert"),
        event_id: Some("8268"),
        source: Some("default/1"),
        ..RecordView::default()
    }
}

/// A record without headers and, unless the caller says so, without a timestamp.
fn foreign(value: &[u8]) -> RecordView<'_> {
    RecordView { value: Some(value), ..RecordView::default() }
}

fn reason(record: &RecordView<'_>) -> Option<DeadLetterReason> {
    match inspect(record, &orders(), LIMIT).verdict {
        Verdict::DeadLetter { reason, .. } => Some(reason),
        _ => None,
    }
}

fn hour(record: &RecordView<'_>) -> String {
    inspect(record, &orders(), LIMIT).hour.to_string()
}

#[test]
fn an_object_is_a_line_without_what_follows_it() {
    let inspected = inspect(&ours(b"{\"a\":1} \n"), &orders(), LIMIT);
    assert_eq!(
        inspected.verdict,
        Verdict::Line { object: "{\"a\":1}", empty_object: false, has_line_breaks: true }
    );
    assert_eq!(inspected.hour.to_string(), "2025-08-22 22");
    assert_eq!(inspected.cluster_time, Some(ClusterTime::new(1_755_900_000, 3)));
    let empty = inspect(&ours(b" { \t } "), &orders(), LIMIT);
    assert_eq!(
        empty.verdict,
        Verdict::Line { object: " { \t }", empty_object: true, has_line_breaks: false }
    );
}

#[test]
fn every_json_object_is_accepted() {
    let deep = format!("{}{}", "{\"a\":".repeat(150), "1") + &"}".repeat(150);
    let values = [
        "{\"a\":{\"_kafka\":1}}",
        "{\"a\":1,\"a\":2}",
        "{\"a\":1e999,\"b\":\"\\ud800\"}",
        "{\"\\ud800\":1}",
        "{\"\u{2028}\":\"\u{2028}\"}",
        "{\"_id\":null,\"n\":-0.0}",
        deep.as_str(),
    ];
    for value in values {
        assert_eq!(reason(&ours(value.as_bytes())), None, "{value}");
    }
}

#[test]
fn everything_else_is_a_dead_letter_with_its_own_reason() {
    use DeadLetterReason::*;
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(LIMIT));
    let cases: [(&[u8], DeadLetterReason); 15] = [
        (b"", Empty),
        (b"  ", InvalidJson),
        (b"plain text", InvalidJson),
        (b"{\"a\":1", InvalidJson),
        (b"{\"a\":1}{}", InvalidJson),
        (b"{\"a\":\"\n\"}", InvalidJson),
        (b"{\"a\":01}", InvalidJson),
        (b"\xef\xbb\xbf{}", InvalidJson),
        (b"{\"a\":\"\xff\"}", InvalidUtf8),
        (b"[1]", NotAnObject),
        (b"42", NotAnObject),
        (b"null", NotAnObject),
        (b"{\"_kafka\":1}", KafkaMemberPresent),
        (b"{\"_\\u006bafka\":1}", KafkaMemberPresent),
        (large.as_bytes(), TooLarge),
    ];
    for (value, expected) in cases {
        assert_eq!(reason(&ours(value)), Some(expected), "{}", String::from_utf8_lossy(value));
    }
}

#[test]
fn error_texts_hold_no_content() {
    let Verdict::DeadLetter { error, .. } =
        inspect(&ours(b"{\"secret-4711\":oops}"), &orders(), LIMIT).verdict
    else {
        panic!("not a dead letter")
    };
    assert_eq!(error, "not valid JSON at line 1 column 16");
}

#[test]
fn a_namespace_against_the_topics_is_a_dead_letter() {
    let mut record = ours(b"{}");
    record.collection = Some("customers");
    assert_eq!(reason(&record), Some(DeadLetterReason::NamespaceMismatch));
    let meta = b"{\"_meta\":{\"ns\":{\"db\":\"shop\",\"coll\":\"customers\"},\"wallTime\":\"2025-08-22T22:00:00Z\"}}";
    assert_eq!(reason(&foreign(meta)), Some(DeadLetterReason::NamespaceMismatch));
    let none = b"{\"_meta\":{\"wallTime\":\"2025-08-22T22:00:00Z\"}}";
    assert_eq!(reason(&foreign(none)), None);
}

#[test]
fn the_hour_is_the_first_time_that_is_there() {
    let all = |cluster: &str, wall: &str, key: &str, full: &str| {
        format!(
            "{{\"_meta\":{{\"clusterTime\":{cluster},\"wallTime\":{wall}}},\"documentKey\":{{\"_id\":{key}}},\
             \"fullDocument\":{{\"_id\":{full}}}}}"
        )
    };
    let cluster = "{\"$timestamp\":{\"t\":1755900000,\"i\":1}}"; // 2025-08-22 22
    let wall = "{\"$date\":\"2025-08-22T21:00:00.5Z\"}";
    let key = "{\"$oid\":\"68a8c80000000000000000aa\"}"; // 2025-08-22 19
    let full = "\"68a8b9f000000000000000aa\""; // 2025-08-22 18
    let mut with_timestamp = foreign(b"{}");
    with_timestamp.timestamp = Some(1_755_882_000_000); // 2025-08-22 17

    let everything = all(cluster, wall, key, full);
    let mut first = foreign(everything.as_bytes());
    first.cluster_time = Some("1755903600.1");
    assert_eq!(hour(&first), "2025-08-22 23");
    first.cluster_time = Some("soon");
    assert_eq!(hour(&first), "2025-08-22 22");
    assert_eq!(hour(&foreign(all("\"x\"", wall, key, full).as_bytes())), "2025-08-22 21");
    let canonical = "{\"$date\":{\"$numberLong\":\"1755892800000\"}}";
    assert_eq!(hour(&foreign(all("1", canonical, key, full).as_bytes())), "2025-08-22 20");
    assert_eq!(hour(&foreign(all("null", "null", key, full).as_bytes())), "2025-08-22 19");
    assert_eq!(hour(&foreign(all("null", "null", "5", full).as_bytes())), "2025-08-22 18");
    assert_eq!(hour(&with_timestamp), "2025-08-22 17");
}

#[test]
fn a_value_that_is_no_object_has_only_header_and_timestamp() {
    let mut record = foreign(b"[{\"_meta\":{\"wallTime\":\"2025-08-22T21:00:00Z\"}}]");
    assert_eq!(inspect(&record, &orders(), LIMIT).hour, EventHour::EPOCH);
    record.timestamp = Some(1_755_882_000_000);
    assert_eq!(hour(&record), "2025-08-22 17");
    record.cluster_time = Some("1755900000.1");
    assert_eq!(hour(&record), "2025-08-22 22");
}

#[test]
fn nothing_that_dates_it_is_a_dead_letter_of_1970() {
    let inspected = inspect(&foreign(b"{}"), &orders(), LIMIT);
    assert_eq!(inspected.hour, EventHour::EPOCH);
    assert_eq!(reason(&foreign(b"{}")), Some(DeadLetterReason::NoTime));
    let mut negative = foreign(b"{}");
    negative.timestamp = Some(-5);
    assert_eq!(reason(&negative), Some(DeadLetterReason::NoTime));
}

#[test]
fn a_tombstone_is_neither_line_nor_dead_letter() {
    let mut record = ours(b"");
    record.value = None;
    assert_eq!(inspect(&record, &orders(), LIMIT).verdict, Verdict::Tombstone);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(value in proptest::collection::vec(any::<u8>(), 0..200)) {
        inspect(&foreign(&value), &orders(), LIMIT);
        inspect(&ours(&value), &orders(), LIMIT);
    }

    #[test]
    fn lines_parse_again(members in proptest::collection::btree_map("\\PC{0,5}", any::<i64>(), 0..5)) {
        let value = serde_json::to_vec(&members).unwrap();
        let has_kafka = members.contains_key("_kafka");
        match inspect(&ours(&value), &orders(), LIMIT).verdict {
            Verdict::Line { object, empty_object, .. } => {
                let comma = if empty_object { "" } else { "," };
                let line = format!("{}{comma}\"_kafka\":{{}}}}", &object[..object.len() - 1]);
                let again: serde_json::Map<String, Value> = serde_json::from_str(&line).unwrap();
                prop_assert_eq!(again.len(), members.len() + 1);
            }
            other => prop_assert!(has_kafka, "{:?}", other),
        }
    }
}

#[test]
fn a_definition_is_a_row_whatever_it_is_of() {
    let is_line = |record: &RecordView<'_>| {
        matches!(inspect(record, &TopicContent::Control, 1024).verdict, Verdict::Line { .. })
    };
    let of = |database, collection| RecordView {
        value: Some(br#"{"_meta":{"ns":{"db":"crm"}}}"#),
        cluster_time: Some("1755900000.3"),
        database,
        collection,
        ..RecordView::default()
    };
    // A drop, a dropDatabase, a gap marker.
    for record in [of(Some("shop"), Some("orders")), of(Some("shop"), None), of(None, None)] {
        assert!(is_line(&record), "{record:?}");
    }
    assert!(!is_line(&RecordView { value: Some(b"no JSON"), ..of(None, None) }));
    // One that does not say when it was is dated by its value, as any other.
    let value = Some(&br#"{"_meta":{"clusterTime":{"$timestamp":{"t":1755900000,"i":3}}}}"#[..]);
    let dated = inspect(&RecordView { value, ..RecordView::default() }, &TopicContent::Control, 1024);
    assert_eq!(dated.cluster_time, Some(ClusterTime::new(1_755_900_000, 3)));
}

use std::collections::BTreeMap;

use shared::namespace::Namespace;

use super::*;
use crate::{
    file_metadata::{LastEvent, LastEvents},
    record::inspect,
    topic_content::TopicContent,
};

fn record<'a>(value: &'a str, event_id: &'a str) -> RecordView<'a> {
    RecordView {
        value: Some(value.as_bytes()),
        timestamp: Some(1_755_900_000_000),
        cluster_time: Some("1755900000.3"),
        database: Some("shop"),
        collection: Some("orders"),
        operation: Some("insert"),
        event_id: Some(event_id),
        source: Some("default/1"),
        ..RecordView::default()
    }
}

fn buffer_of(values: &[&str]) -> Buffer {
    let mut buffer = Buffer::new(&TopicPartition::new("atlas.shop.orders", 1), LineFormat::Envelope);
    for (index, value) in values.iter().enumerate() {
        let offset = KafkaOffset::new(10 + index as u64);
        let id = event_id(index);
        let record = record(value, &id);
        let inspected = inspect(&record, &TopicContent::Data(Namespace::new("shop", "orders")), 1024);
        buffer.push(offset, &record, &inspected, Instant::now());
    }
    buffer
}

#[test]
fn the_line_is_the_value_with_kafka_as_its_last_member() {
    let batch = buffer_of(&["{\"a\":1,\r\n\"b\":2} ", "{}", "{ }"])
        .freeze(KafkaOffset::new(10), KafkaOffset::new(13));
    let kafka = |offset| {
        format!(
            "\"_kafka\":{{\"topic\":\"atlas.shop.orders\",\"partition\":1,\"offset\":{offset},\"timestamp\":1755900000000}}}}\n"
        )
    };
    let expected = format!("{{\"a\":1,  \"b\":2,{}{{{}{{ {}", kafka(10), kafka(11), kafka(12));
    assert_eq!(batch.piece(3, None).bytes, expected.as_bytes());
}

#[test]
fn a_record_without_timestamp_has_null() {
    let mut buffer = Buffer::new(&TopicPartition::new("t", 0), LineFormat::Envelope);
    let mut record = record("{}", "");
    record.timestamp = None;
    let inspected = inspect(&record, &TopicContent::Data(Namespace::new("shop", "orders")), 1024);
    buffer.push(KafkaOffset::ZERO, &record, &inspected, Instant::now());
    let piece = buffer.freeze(KafkaOffset::new(10), KafkaOffset::new(1)).piece(1, None);
    assert_eq!(
        piece.bytes,
        &b"{\"_kafka\":{\"topic\":\"t\",\"partition\":0,\"offset\":0,\"timestamp\":null}}\n"[..]
    );
    assert_eq!(piece.last_event, None);
}

#[test]
fn pieces_join_to_the_whole() {
    let values = ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"];
    let whole = buffer_of(&values).freeze(KafkaOffset::new(10), KafkaOffset::new(13)).piece(3, None);
    for count in 0..=3 {
        let mut batch = buffer_of(&values).freeze(KafkaOffset::new(10), KafkaOffset::new(13));
        let head = batch.piece(count, None);
        batch.go_on_from(KafkaOffset::new(10 + count as u64));
        assert_eq!(batch.pending().len(), 3 - count);
        let tail = batch.piece(3 - count, head.last_event.as_ref());
        assert_eq!([&head.bytes[..], &tail.bytes[..]].concat(), whole.bytes);
        assert_eq!(head.crc.followed_by(tail.crc, tail.bytes.len() as u64), whole.crc);
        assert_eq!(head.rows + tail.rows, 3);
        assert_eq!(tail.last_event, whole.last_event);
    }
    assert_eq!(whole.last_event, last(&event_id(2), "default/1"));
    assert_eq!(whole.operations, BTreeMap::from([(Operation::Insert, 3)]));
}

#[test]
fn a_piece_reaches_its_size_and_stops() {
    let batch = buffer_of(&["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"])
        .freeze(KafkaOffset::new(10), KafkaOffset::new(13));
    let line = batch.piece(1, None).bytes.len();
    assert_eq!(batch.count_up_to(1), 1);
    assert_eq!(batch.count_up_to(line), 1);
    assert_eq!(batch.count_up_to(line + 1), 2);
    assert_eq!(batch.count_up_to(usize::MAX), 3);
}

#[test]
fn a_batch_gives_its_memory_back_empty() {
    let batch = buffer_of(&["{\"a\":1}"]).freeze(KafkaOffset::new(10), KafkaOffset::new(11));
    let piece = batch.piece(1, None);
    assert!(batch.into_spare(usize::MAX).is_none(), "the piece still uses it");
    drop(piece);
    let batch = buffer_of(&["{\"a\":1}"]).freeze(KafkaOffset::new(10), KafkaOffset::new(11));
    let spare = batch.into_spare(usize::MAX).expect("nobody else has it");
    let mut buffer = buffer_of(&[]);
    buffer.reuse(spare);
    assert!(buffer.is_empty() && buffer.size() == 0 && buffer.memory() > 0);
    let batch = buffer_of(&["{\"a\":1}"]).freeze(KafkaOffset::new(10), KafkaOffset::new(11));
    assert!(batch.into_spare(1).is_none(), "too large to be kept");
}

#[test]
fn freezing_empties_the_buffer() {
    let mut buffer = buffer_of(&["{}"]);
    assert!(buffer.size() > 0 && buffer.oldest().is_some());
    let batch = buffer.freeze(KafkaOffset::new(10), KafkaOffset::new(11));
    assert!(batch.memory() > 0 && batch.oldest().is_some());
    assert!(buffer.is_empty() && buffer.size() == 0 && buffer.oldest().is_none());
}

fn last(event_id: &str, source: &str) -> Option<LastEvents> {
    Some(LastEvent::new(event_id, source).into())
}

/// As a resume token of the records' time begins.
fn event_id(index: usize) -> String {
    format!("82{:08X}00000003{index:02X}04", 1_755_900_000)
}

#[test]
fn a_letter_with_an_event_is_the_last_event_and_one_without_is_not() {
    let ids = [event_id(0), event_id(1)];
    let letter = |offset| DeadLetter::noted(KafkaOffset::new(offset), DeadLetterReason::SchemaViolation);
    let mut buffer = buffer_of(&["{}"]);
    let (hour, now) = (EventHour::EPOCH, Instant::now());
    buffer.push_dead_letter(letter(11), hour, Some((&ids[1], "default/1")), now);
    buffer.push_dead_letter(letter(12), hour, None, now);
    let batch = buffer.freeze(KafkaOffset::new(10), KafkaOffset::new(13));
    assert_eq!(batch.piece(1, None).last_event, last(&ids[0], "default/1"));
    let whole = batch.piece(3, None);
    assert_eq!(whole.last_event, last(&ids[1], "default/1"));
    assert_eq!((whole.rows, whole.dead_letters.iter().count()), (1, 2));
}

//! One JSON object per line, for pipes: the envelope byte for byte, and where it was in Kafka as its last member. It is the line that the sink
//! writes.

use serde::de::IgnoredAny;
use serde_json::{Value, json};
use shared::wire::member;

use super::event_view::{Observed, Place};

/// The line with its line break. `None` of a tombstone, and of a value that is no JSON object.
pub(super) fn json_line(event: &Observed<'_>) -> Option<Vec<u8>> {
    let value = event.value?.trim_ascii();
    if value.first() != Some(&b'{') || serde_json::from_slice::<IgnoredAny>(value).is_err() {
        return None;
    }
    let mut line = Vec::with_capacity(value.len() + 96);
    match &event.place {
        Some(place) => {
            let (open, _brace) = value.split_at(value.len() - 1);
            line.extend_from_slice(open);
            if !open.trim_ascii_end().ends_with(b"{") {
                line.push(b',');
            }
            line.extend_from_slice(kafka_text(place).as_bytes());
        }
        None => line.extend_from_slice(value),
    }
    // In valid JSON they stand between tokens only.
    line.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    line.push(b'\n');
    Some(line)
}

fn kafka_text(place: &Place<'_>) -> String {
    let timestamp = place.timestamp_ms.map_or_else(|| "null".to_owned(), |ms| ms.to_string());
    format!(
        "\"{}\":{{\"topic\":{},\"partition\":{},\"offset\":{},\"timestamp\":{timestamp}}}}}",
        member::KAFKA,
        Value::from(place.topic),
        place.partition,
        place.offset
    )
}

/// The same as a value.
pub(super) fn kafka_member(place: &Place<'_>) -> Value {
    json!({
        "topic": place.topic,
        "partition": place.partition,
        "offset": place.offset,
        "timestamp": place.timestamp_ms,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::monitor::event_view::tests::{UPDATE, observed};

    #[test]
    fn the_envelope_stays_byte_for_byte() {
        let mut event = observed("update", "1", UPDATE);
        let text = UPDATE.trim_ascii();
        assert_eq!(json_line(&event).unwrap(), [text, b"\n"].concat());
        event.place =
            Some(Place { topic: "atlas.shop.orders", partition: 1, offset: 5, timestamp_ms: Some(7) });
        let line = json_line(&event).unwrap();
        let member = br#","_kafka":{"topic":"atlas.shop.orders","partition":1,"offset":5,"timestamp":7}}"#;
        assert_eq!(line, [&text[..text.len() - 1], member, b"\n"].concat());
        let json: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(
            json["_kafka"],
            json!({"topic": "atlas.shop.orders", "partition": 1, "offset": 5, "timestamp": 7})
        );
    }

    #[test]
    fn what_would_break_a_pipe_is_left_out() {
        let place = Place { topic: "t", partition: 0, offset: 0, timestamp_ms: None };
        for value in [b"[1]".as_slice(), b"\0avro", b"", b"{a}", b"{", b"{}{}"] {
            assert_eq!(json_line(&observed("insert", "1", value)), None);
        }
        let empty = Observed { place: Some(place), ..observed("insert", "1", b"{\r\n}") };
        let line = json_line(&empty).unwrap();
        assert_eq!(line.iter().filter(|byte| byte.is_ascii_control()).count(), 1);
        assert!(serde_json::from_slice::<Value>(&line).unwrap()["_kafka"]["timestamp"].is_null());
        let tombstone = Observed { value: None, ..empty };
        assert_eq!(json_line(&tombstone), None);
    }
}

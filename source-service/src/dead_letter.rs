//! Events that no record can be made of: kept as raw BSON in the dead-letter topic.
//!
//! They are written inside the transaction whose token passes them, so the stream goes on and nothing is skipped: either
//! both are committed or neither. The key is the event's id, so a letter is known by what it is. Where a field policy may hide
//! something in the event, only its id and its size are kept: the event itself is still in MongoDB's oplog.

use bson::rawdoc;
use rdkafka::message::OwnedHeaders;
use shared::{
    cluster_time::ClusterTime,
    dead_letter::{DeadLetterReason, ERROR_TEXT_BYTES_MAX, header},
    wire,
};

use crate::{
    envelope::{self, EventError, EventRecord},
    publisher::with_header,
};

/// A change event on its way to the dead-letter topic.
#[derive(Debug)]
pub struct DeadLetter {
    pub reason: DeadLetterReason,
    pub event_id: String,
    pub cluster_time: Option<ClusterTime>,
    stage: &'static str,
    error: String,
}

impl DeadLetter {
    /// The letter for an event that the transcoder refused. `None` if the event is one that must stop the source: a
    /// pipeline that has to be changed, or an event that cannot even be named.
    pub fn of(event: &[u8], error: &EventError) -> Option<Self> {
        let reason = match error {
            EventError::Unreadable(_) => DeadLetterReason::UnreadableEvent,
            EventError::Incomplete { .. } => DeadLetterReason::IncompleteEvent,
            EventError::NameClash { .. } | EventError::HiddenKey { .. } => return None,
        };
        let (_, event_id) = envelope::resume_token(event).ok()?;
        let mut text = error.to_string();
        text.truncate(text.floor_char_boundary(ERROR_TEXT_BYTES_MAX));
        Some(Self {
            reason,
            event_id: event_id.to_owned(),
            cluster_time: ClusterTime::from_token_data(event_id),
            stage: "transcode",
            error: text,
        })
    }

    /// The letters for a value that is too large for its topic: parts of it, in order.
    pub fn oversize(record: &EventRecord<'_>, topic: &str) -> Self {
        Self {
            reason: DeadLetterReason::Oversize,
            event_id: record.event_id.to_owned(),
            cluster_time: Some(record.cluster_time),
            stage: "publish",
            error: format!(
                "{topic} does not take the value of {} bytes, even compressed: a stub is there",
                record.value.len()
            ),
        }
    }

    /// What is kept of an event that may hold hidden fields: `{"_id": {"_data": …}, "withheldBytes": …}`. `None` if not even its id can be
    /// trusted to be one.
    pub fn without_content(&self, event_bytes: usize) -> Option<Vec<u8>> {
        let is_id = self.event_id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'~');
        let bytes = i64::try_from(event_bytes).unwrap_or(i64::MAX);
        is_id.then(|| {
            rawdoc! { "_id": { "_data": self.event_id.as_str() }, "withheldBytes": bytes }.into_bytes()
        })
    }

    /// `common` are the headers that all records of this run have; recovery finds own records by them.
    pub fn headers(&self, common: &OwnedHeaders, failed_at: &str) -> OwnedHeaders {
        let mut headers = common.clone();
        let mut add = |name: &str, value: &str| {
            headers = with_header(
                std::mem::replace(&mut headers, OwnedHeaders::new_with_capacity(0)),
                name,
                value.as_bytes(),
            );
        };
        add(wire::header::EVENT_ID, &self.event_id);
        add(header::REASON, self.reason.as_str());
        add(header::ERROR, &self.error);
        add(header::STAGE, self.stage);
        add(header::ATTEMPTS, "1");
        add(header::EVENT_ID, &self.event_id);
        add(header::FAILED_AT, failed_at);
        add(header::SERVICE_VERSION, env!("CARGO_PKG_VERSION"));
        headers
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use rdkafka::message::Headers as _;

    use super::*;
    use crate::envelope::{EventContext, EventTranscoder, JsonDialect, KeyFormat};

    fn refusal(event: &[u8]) -> EventError {
        let mut transcoder = EventTranscoder::new("orders", JsonDialect::Relaxed, KeyFormat::ExtendedJson);
        transcoder
            .transcode(
                event,
                &EventContext {
                    processed_at_ms: 0,
                    snapshot: false,
                    transaction_count: None,
                    looked_up: None,
                },
            )
            .unwrap_err()
    }

    #[test]
    fn an_event_without_its_operation_is_a_letter_under_its_id() {
        let event = rawdoc! { "_id": { "_data": "8266C1F3A4000000032B0229296E04" }, "ns": { "db": "shop", "coll": "orders" } };
        let letter = DeadLetter::of(event.as_bytes(), &refusal(event.as_bytes())).unwrap();
        assert_eq!(letter.reason, DeadLetterReason::IncompleteEvent);
        assert_eq!(letter.event_id, "8266C1F3A4000000032B0229296E04");
        assert_eq!(letter.cluster_time, Some(ClusterTime::new(0x66C1_F3A4, 3)));
        let headers = letter.headers(&OwnedHeaders::new(), "2026-11-21T12:00:00.000Z");
        let value = |name: &str| {
            headers.iter().find(|each| each.key == name).and_then(|each| each.value).map(<[u8]>::to_vec)
        };
        assert_eq!(value("dlq-reason").as_deref(), Some(&b"incomplete-event"[..]));
        assert_eq!(value("event-id").as_deref(), Some(&b"8266C1F3A4000000032B0229296E04"[..]));
    }

    #[test]
    fn what_may_be_hidden_is_withheld() {
        let event = rawdoc! { "_id": { "_data": "82AB" }, "fullDocument": { "email": "planted" } };
        let letter = DeadLetter::of(event.as_bytes(), &refusal(event.as_bytes())).unwrap();
        let kept = rawdoc! { "_id": { "_data": "82AB" }, "withheldBytes": 7_i64 };
        assert_eq!(letter.without_content(7).as_deref(), Some(kept.as_bytes()));
        // A damaged length can make anything of the id.
        let event = rawdoc! { "_id": { "_data": "82AB planted" } };
        let letter = DeadLetter::of(event.as_bytes(), &refusal(event.as_bytes())).unwrap();
        assert_eq!(letter.without_content(7), None);
    }

    #[test]
    fn an_event_that_cannot_be_named_is_no_letter() {
        let event = rawdoc! { "operationType": "insert" };
        assert!(DeadLetter::of(event.as_bytes(), &refusal(event.as_bytes())).is_none());
    }
}

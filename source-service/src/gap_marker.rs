//! A gap in the data that somebody decided on: it is said in the control topic, in the transaction that makes it.
//!
//! The marker is a record like any other there: the envelope with the operation `gap`, and a member `gap` that says from where to where,
//! why, and for which part of MongoDB. Its cluster time is the end of the gap; its event id sorts before every event behind the gap.

use chrono::DateTime;
use rdkafka::message::OwnedHeaders;
use shared::{
    avro::{ChangeEvent, Meta},
    cluster_time::ClusterTime,
    source_watermark::ScopeRecord,
    wire::header,
};

use crate::{
    batch::common_headers,
    envelope::ValueFormat,
    partitioner::partition_for_key,
    publisher::{Outgoing, PublishError, Publisher, with_header},
    token_record::Position,
    topics::Topics,
};

/// As operations of MongoDB's are named, in the envelope and in the header.
pub const OPERATION: &str = "gap";

/// After the `_data` of a position: no event has an id of this form.
const EVENT_ID_SUFFIX: &str = "~gap";
/// What follows the time in a token that stands before every event of that time (seen on 6.0.5).
const BEFORE_EVENTS: &str = "2B0229296E04";

/// What is not in the data.
#[derive(Clone, Debug)]
pub struct GapMarker<'a> {
    pub source_id: &'a str,
    /// Everything before it is there. `None` if that is not known any more.
    pub from: Option<ClusterTime>,
    /// Everything from here on is there.
    pub to: &'a Position,
    /// Of a bounded set.
    pub reason: GapReason,
    pub scope: &'a ScopeRecord,
    /// Our clock, RFC 3339.
    pub processed_at: &'a str,
}

/// Why there is a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// `token set` moved the position forward.
    PositionSet,
    /// MongoDB's oplog no longer had the position, and `ON_POSITION_LOST` said to go on.
    PositionLost,
}

impl GapReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PositionSet => "position-set",
            Self::PositionLost => "position-lost",
        }
    }
}

impl GapMarker<'_> {
    fn event_id(&self) -> String {
        let data = match self.to {
            Position::After(token) => token.as_raw().get_str("_data").unwrap_or_default().to_owned(),
            Position::Time(ClusterTime { seconds, increment }) => {
                format!("82{seconds:08X}{increment:08X}{BEFORE_EVENTS}")
            }
        };
        format!("{data}{EVENT_ID_SUFFIX}")
    }

    /// The envelope, in the format of the other records.
    fn value(&self, format: ValueFormat) -> Vec<u8> {
        let gap = self.gap();
        let event_id = self.event_id();
        let event = ChangeEvent {
            meta: Meta {
                event_id: &event_id,
                operation: OPERATION,
                namespace: None,
                cluster_time: self.to.cluster_time(),
                wall_time_ms: None,
                lsid: None,
                txn_number: None,
                source: self.source_id,
                snapshot: false,
                processed_at_ms: DateTime::parse_from_rfc3339(self.processed_at)
                    .ok()
                    .map(|time| time.timestamp_millis()),
            },
            meta_text: None,
            document_key: None,
            full_document: None,
            update_description: None,
            full_document_before_change: None,
            further: [(OPERATION, gap.as_str())].into_iter(),
        };
        let mut value = Vec::new();
        match format {
            ValueFormat::Json => event.write_json(&mut value),
            ValueFormat::Avro(id) => event.write(id, &mut value),
        }
        value
    }

    /// The member `gap`.
    fn gap(&self) -> String {
        let to = timestamp(self.to.cluster_time());
        let from = self.from.map_or_else(|| "null".to_owned(), timestamp);
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let list = |names: &[String]| serde_json::Value::from(names).to_string();
        format!(
            "{{\"from\":{from},\"to\":{to},\"reason\":{reason},\"databases\":{databases},\"collections\":{collections},\
             \"excludes\":{excludes}}}",
            reason = text(self.reason.as_str()),
            databases = list(&self.scope.databases),
            collections = list(&self.scope.collections),
            excludes = list(&self.scope.excludes),
        )
    }

    /// Puts the marker into the open transaction, as a record of this run.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn send(
        &self,
        run: u32,
        format: ValueFormat,
        topics: &mut Topics,
        publisher: &mut Publisher,
    ) -> Result<(), PublishError> {
        let control = topics.control();
        let control = topics.get(control);
        publisher.send(Outgoing {
            topic: &control.name,
            partition: partition_for_key(b"", control.partitions),
            key: b"",
            value: Some(&self.value(format)),
            timestamp_ms: self.to.cluster_time().to_millis(),
            headers: self.headers(common_headers(&format!("{}/{run}", self.source_id), format)),
        })
    }

    /// On top of those that every record of this run has.
    fn headers(&self, common: OwnedHeaders) -> OwnedHeaders {
        let headers = with_header(common, header::OPERATION_TYPE, OPERATION.as_bytes());
        let time = self.to.cluster_time().to_string();
        let headers = with_header(headers, header::CLUSTER_TIME, time.as_bytes());
        with_header(headers, header::EVENT_ID, self.event_id().as_bytes())
    }
}

fn timestamp(time: ClusterTime) -> String {
    format!("{{\"$timestamp\":{{\"t\":{},\"i\":{}}}}}", time.seconds, time.increment)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use bson::rawdoc;
    use serde_json::{Value, json};
    use shared::avro::{self, SchemaId};

    use super::*;
    use crate::token_record::ResumeToken;

    #[test]
    fn a_marker_is_an_envelope_with_a_gap() {
        let to = Position::Time(ClusterTime::new(0x66C1_F3A4, 3));
        let scope = ScopeRecord { databases: vec!["shop".to_owned()], ..ScopeRecord::default() };
        let marker = GapMarker {
            source_id: "orders",
            from: Some(ClusterTime::new(7, 2)),
            to: &to,
            reason: GapReason::PositionSet,
            scope: &scope,
            processed_at: "2026-11-20T08:00:00.000Z",
        };
        let text = String::from_utf8(marker.value(ValueFormat::Json)).unwrap();
        assert!(text.starts_with(
            r#"{"_meta":{"eventId":"8266C1F3A4000000032B0229296E04~gap","operationType":"gap","ns":null,"#
        ));
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["gap"]["from"], json!({ "$timestamp": { "t": 7, "i": 2 } }));
        assert_eq!(json["gap"]["to"], json["_meta"]["clusterTime"]);
        assert_eq!(json["gap"]["databases"], json!(["shop"]));
        assert_eq!(json["documentKey"], Value::Null);
        assert_eq!(json["_meta"]["processedAt"], "2026-11-20T08:00:00.000Z");

        let avro = marker.value(ValueFormat::Avro(SchemaId::new(7)));
        let (_, datum) = avro::split(&avro).unwrap();
        let mut rendered = Vec::new();
        avro::write_json(datum, &mut rendered).unwrap();
        assert_eq!(rendered, text.as_bytes());
    }

    /// The events behind the gap must not be taken for committed already, in whichever way the stream goes on.
    #[test]
    fn a_marker_sorts_before_every_event_behind_it() {
        const AT: &str = "8266C1F3A400000003";
        let scope = ScopeRecord::default();
        let token = ResumeToken::new(&rawdoc! { "_data": format!("{AT}2B022C0100296E5A10AA") }).unwrap();
        for to in [Position::After(token), Position::Time(ClusterTime::new(0x66C1_F3A4, 3))] {
            let marker = GapMarker {
                source_id: "orders",
                from: None,
                to: &to,
                reason: GapReason::PositionSet,
                scope: &scope,
                processed_at: "",
            };
            assert!(marker.event_id() < format!("{AT}2B022C0100296E5A10AB"));
            assert!(marker.event_id() < format!("{AT}2B042C0100296E5A10AB"));
        }
    }
}

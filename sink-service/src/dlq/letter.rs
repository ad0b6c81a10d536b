//! One record of the dead-letter topic: a letter, a part of one, or a marker.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rdkafka::{Message, message::Headers};
use shared::{
    dead_letter::header,
    kafka_position::{KafkaOffset, TopicPartition},
};

/// Where a record is in the dead-letter topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub partition: i32,
    pub offset: KafkaOffset,
}

/// The record that a letter of the sink stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin {
    pub partition: TopicPartition,
    pub offset: KafkaOffset,
}

impl Origin {
    /// `<topic>/<partition>/<offset>`, as the sink keys its letters; `None` for every other key.
    pub(super) fn of_key(key: &str) -> Option<Self> {
        let mut parts = key.split('/');
        let (topic, partition, offset) =
            (parts.next()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let is_all = parts.next().is_none();
        is_all.then(|| Self {
            partition: TopicPartition::new(topic, partition),
            offset: KafkaOffset::new(offset),
        })
    }
}

/// The bytes of a letter, or of a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Of the newest copy: it stays longest.
    pub place: Place,
    pub bytes: u64,
}

/// All copies and parts of one key. No content: that is read when it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Letter {
    pub key: String,
    /// `None`: a letter of the source, whose key is its event's id.
    pub origin: Option<Origin>,
    pub reason: String,
    pub error: String,
    pub stage: String,
    pub event_id: Option<String>,
    pub collection: Option<String>,
    pub failed_at: Option<DateTime<Utc>>,
    /// Milliseconds since 1970.
    pub original_timestamp: Option<i64>,
    /// By their number, from 1.
    pub pieces: BTreeMap<u32, Piece>,
    /// How many there should be.
    pub parts: u32,
}

impl Letter {
    pub(super) fn bytes(&self) -> u64 {
        self.pieces.values().map(|piece| piece.bytes).sum()
    }

    /// Where its newest piece is; the marker goes into the same partition.
    pub(super) fn place(&self) -> Place {
        let last = self.pieces.values().map(|piece| piece.place).max();
        last.expect("a letter is made of at least one record")
    }

    pub(super) fn topic(&self) -> Option<&str> {
        Some(&self.origin.as_ref()?.partition.topic)
    }

    /// Takes notice of another copy or part.
    pub(super) fn join(&mut self, other: Self) {
        for (number, piece) in other.pieces {
            let known = self.pieces.entry(number).or_insert(piece);
            if piece.place.offset > known.place.offset || piece.place.partition != known.place.partition {
                *known = piece;
            }
        }
    }
}

/// What was done with a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub what: Marked,
    /// As the marker has it.
    pub at: String,
    /// Orders markers: when Kafka got it, then where.
    pub order: (i64, Place),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Marked {
    Retried,
    Dropped { because: String },
}

/// What one record of the topic is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Letter(Box<Letter>),
    Marker {
        key: String,
        mark: Mark,
    },
    /// Nothing that we have written.
    Foreign,
}

impl Entry {
    pub(super) fn of(message: &impl Message) -> Self {
        let (Some(offset), Some(key)) = (KafkaOffset::from_kafka(message.offset()), message.key()) else {
            return Self::Foreign;
        };
        let Ok(key) = std::str::from_utf8(key).map(str::to_owned) else { return Self::Foreign };
        let place = Place { partition: message.partition(), offset };
        // Ours stand behind those of the original record, which may have any name.
        let text = |name: &str| {
            let headers = message.headers()?;
            let last = headers.iter().filter(|header| header.key == name).last()?;
            std::str::from_utf8(last.value?).ok().map(str::to_owned)
        };
        let Some(reason) = text(header::REASON) else {
            let at = text(header::MARKED_AT).unwrap_or_default();
            let order = (message.timestamp().to_millis().unwrap_or_default(), place);
            let what = match text(header::MARKER).as_deref() {
                Some(RETRIED) => Marked::Retried,
                Some(DROPPED) => Marked::Dropped { because: text(header::MARKER_REASON).unwrap_or_default() },
                _ => return Self::Foreign,
            };
            return Self::Marker { key, mark: Mark { what, at, order } };
        };
        let number = |name: &str| text(name)?.parse::<u64>().ok();
        let origin = text(header::ORIGINAL_TOPIC).and_then(|topic| {
            let partition = text(header::ORIGINAL_PARTITION)?.parse().ok()?;
            let offset = KafkaOffset::new(number(header::ORIGINAL_OFFSET)?);
            Some(Origin { partition: TopicPartition::new(topic, partition), offset })
        });
        let (part, parts) = text(header::PART)
            .and_then(|part| {
                let (number, of) = part.split_once('/')?;
                Some((number.parse().ok()?, of.parse().ok()?))
            })
            .unwrap_or((1, 1));
        let bytes = message.payload().map_or(0, <[u8]>::len) as u64;
        let failed_at = text(header::FAILED_AT);
        Self::Letter(Box::new(Letter {
            key,
            origin,
            reason,
            error: text(header::ERROR).unwrap_or_default(),
            stage: text(header::STAGE).unwrap_or_default(),
            event_id: text(header::EVENT_ID),
            collection: text(header::COLLECTION),
            failed_at: failed_at.and_then(|at| Some(DateTime::parse_from_rfc3339(&at).ok()?.to_utc())),
            original_timestamp: text(header::ORIGINAL_TIMESTAMP).and_then(|at| at.parse().ok()),
            pieces: BTreeMap::from([(part, Piece { place, bytes })]),
            parts,
        }))
    }
}

/// Values of the header that makes a record a marker.
pub(super) const RETRIED: &str = "retried";
pub(super) const DROPPED: &str = "dropped";

/// A header by name and value.
pub(super) type HeaderOfRecord = (String, Option<Vec<u8>>);

/// A letter's content: the original record, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// Of the original record.
    pub headers: Vec<HeaderOfRecord>,
    /// Those that the letter has besides.
    pub ours: Vec<HeaderOfRecord>,
}

impl Content {
    pub(super) fn of(message: &impl Message) -> Self {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        let mut headers: Vec<HeaderOfRecord> =
            headers.map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect();
        // The reason is the first header of ours; a record that failed before may have one of that name among its own.
        let first_of_ours = headers.iter().rposition(|(name, _)| name == header::REASON);
        let ours = headers.split_off(first_of_ours.unwrap_or(headers.len()));
        let key = ours.iter().rev().find(|(name, _)| name == header::ORIGINAL_KEY);
        Self {
            key: key.and_then(|(_, key)| key.clone()),
            value: message.payload().map(<[u8]>::to_vec),
            headers,
            ours,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use rdkafka::{
        Timestamp,
        message::{Header, OwnedHeaders, OwnedMessage},
    };

    use super::*;

    pub(crate) fn message(
        place: (i32, i64),
        key: &str,
        value: Option<&[u8]>,
        headers: &[(&str, &str)],
    ) -> OwnedMessage {
        let mut own = OwnedHeaders::new();
        for (name, value) in headers {
            own = own.insert(Header { key: name, value: Some(*value) });
        }
        OwnedMessage::new(
            value.map(<[u8]>::to_vec),
            Some(key.as_bytes().to_vec()),
            "atlas.dlq".to_owned(),
            Timestamp::CreateTime(1_000 + place.1),
            place.0,
            place.1,
            Some(own),
        )
    }

    pub(crate) const SINK: [(&str, &str); 8] = [
        ("event-id", "82AB"),
        ("dlq-reason", "invalid-json"),
        ("dlq-error", "at 1:5"),
        ("dlq-stage", "validate"),
        ("dlq-original-topic", "atlas.shop.orders"),
        ("dlq-original-partition", "2"),
        ("dlq-original-offset", "17"),
        ("dlq-failed-at", "2026-11-26T10:00:00.000Z"),
    ];

    #[test]
    fn a_letter_of_the_sink_knows_its_record() {
        let Entry::Letter(letter) =
            Entry::of(&message((0, 5), "atlas.shop.orders/2/17", Some(b"{\"a\":"), &SINK))
        else {
            panic!("no letter")
        };
        let origin = letter.origin.as_ref().unwrap();
        assert_eq!((origin.partition.to_string().as_str(), origin.offset.get()), ("atlas.shop.orders/2", 17));
        assert_eq!((letter.bytes(), letter.parts, letter.reason.as_str()), (5, 1, "invalid-json"));
        assert_eq!(letter.failed_at.unwrap().timestamp(), 1_795_687_200);
    }

    #[test]
    fn the_original_headers_come_back_and_nothing_else() {
        let mut headers = vec![("dlq-reason", "theirs"), ("dlq-retry", "atlas.shop.orders/2/3")];
        headers.extend(SINK);
        headers.push(("dlq-original-key", "42"));
        let content = Content::of(&message((0, 5), "k", Some(b"x"), &headers));
        let names: Vec<&str> = content.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["dlq-reason", "dlq-retry", "event-id"]);
        assert_eq!(content.key.as_deref(), Some(&b"42"[..]));
    }

    #[test]
    fn parts_and_copies_are_one_letter() {
        let of = |offset, part| {
            let headers = [("dlq-reason", "oversize"), ("dlq-part", part)];
            match Entry::of(&message((1, offset), "82AB", Some(b"abc"), &headers)) {
                Entry::Letter(letter) => *letter,
                other => panic!("{other:?}"),
            }
        };
        let mut letter = of(7, "1/2");
        letter.join(of(8, "2/2"));
        letter.join(of(9, "1/2"));
        assert_eq!((letter.bytes(), letter.pieces.len(), letter.parts), (6, 2, 2));
        assert_eq!(letter.pieces[&1].place.offset.get(), 9);
        assert!(letter.origin.is_none());
    }

    #[test]
    fn what_is_neither_letter_nor_marker_is_foreign() {
        for headers in [&[][..], &[("dlq-marker", "eaten")], &[("dlq-error", "x")]] {
            assert_eq!(Entry::of(&message((0, 0), "k", Some(b"x"), headers)), Entry::Foreign);
        }
        let dropped = [("dlq-marker", "dropped"), ("dlq-marker-reason", "a test")];
        let Entry::Marker { mark, .. } = Entry::of(&message((0, 1), "k", None, &dropped)) else {
            panic!("no marker")
        };
        assert_eq!(mark.what, Marked::Dropped { because: "a test".to_owned() });
    }
}

//! What a record becomes in a file that is made again, where the live sink may have seen it otherwise.
//!
//! | the file said | the record could be a row, and | it becomes |
//! |---|---|---|
//! | a row | its document breaks a schema that came later | a row |
//! | a letter | it was sent back or dropped since | a letter: the row is elsewhere, or nobody wants one |
//! | a letter | the dead-letter topic has nothing of it any more, not even whether somebody has sent it back | a letter |
//! | a letter | its document breaks the schema | a letter |
//! | a letter | it is of another hour than the file, in which only rows of its hour may stand | a letter, for `dlq retry` |
//! | a letter | nothing of that | a row |
//! | nothing, for it is lost | the dead-letter topic holds it, and one of the reasons above | a letter |
//!
//! So a replay never makes a letter of the schema check that nobody has written, and never unmakes a row.

use shared::{
    dead_letter::DeadLetterReason,
    kafka_position::{KafkaOffset, TopicPartition},
};

use crate::{
    dlq::KnownLetters,
    event_hour::EventHour,
    record::{Inspected, Verdict},
    schema_check::SchemaChecks,
    topic_content::TopicContent,
};

/// Of one topic.
#[derive(Clone, Copy)]
pub(super) struct Judge<'a> {
    pub content: &'a TopicContent,
    pub schemas: &'a SchemaChecks,
    pub letters: &'a KnownLetters,
}

impl Judge<'_> {
    /// `was_letter` is what the file said of it, if anybody knows; `hour` the file's, if that is settled.
    pub(super) fn judge<'a>(
        &self,
        place: &(TopicPartition, KafkaOffset),
        was_letter: Option<bool>,
        hour: Option<EventHour>,
        inspected: Inspected<'a>,
    ) -> Inspected<'a> {
        if matches!(inspected.verdict, Verdict::DeadLetter { .. }) || was_letter == Some(false) {
            return inspected;
        }
        let known = self.letters.get(place);
        if was_letter.is_none() && known.is_none() {
            return inspected;
        }
        let may_be_elsewhere = known.is_none_or(|letter| letter.is_settled);
        let is_of_another_hour = hour.is_some_and(|hour| hour != inspected.hour);
        if may_be_elsewhere || is_of_another_hour {
            // Where retention has taken the letter, any reason will do: the file names offsets alone.
            let reason = known.and_then(|letter| letter.reason).unwrap_or(DeadLetterReason::SchemaViolation);
            let event = inspected.event.filter(|_| reason == DeadLetterReason::SchemaViolation);
            let verdict = Verdict::DeadLetter { reason, error: String::new() };
            return Inspected { verdict, event, ..inspected };
        }
        self.schemas.judge(self.content, inspected)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use shared::topic_name::TopicNames;

    use shared::namespace::Namespace;

    use super::*;
    use crate::{
        dlq::KnownLetter,
        record::{RecordView, inspect},
    };

    /// Hour 8 of 1970, as the records are.
    const TIME: &str = "30000.1";

    fn hour(number: i64) -> Option<EventHour> {
        Some(EventHour::from_millis(number * 3_600_000).unwrap())
    }

    /// What becomes of a line, and whether it counts as its event; its schema forbids documents with `a`.
    fn becomes(
        value: &str,
        was: Option<bool>,
        of: Option<EventHour>,
        known: Option<KnownLetter>,
    ) -> (bool, bool) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("shop.orders.json"), r#"{"not":{"required":["a"]}}"#).unwrap();
        let schemas = SchemaChecks::read(folder.path(), &TopicNames::new("atlas").unwrap()).unwrap();
        let content = TopicContent::Data(Namespace::new("shop", "orders"));
        let place = (TopicPartition::new("atlas.shop.orders", 0), KafkaOffset::new(7));
        let letters = KnownLetters::of(known.map(|letter| (place.clone(), letter)));
        let record = RecordView {
            value: Some(value.as_bytes()),
            cluster_time: Some(TIME),
            event_id: Some("820000753000000001"),
            source: Some("s/1"),
            ..RecordView::default()
        };
        let judge = Judge { content: &content, schemas: &schemas, letters: &letters };
        let judged = judge.judge(&place, was, of, inspect(&record, &content, 1024));
        (matches!(judged.verdict, Verdict::DeadLetter { .. }), judged.event.is_some())
    }

    #[test]
    fn rows_stay_rows_and_letters_become_rows_only_where_they_may() {
        const ROW: (bool, bool) = (false, true);
        const LETTER: (bool, bool) = (true, true);
        const LETTER_WITHOUT_EVENT: (bool, bool) = (true, false);
        let (bad, good) = (r#"{"fullDocument":{"a":1}}"#, r#"{"fullDocument":{}}"#);
        let (schema, avro) = (DeadLetterReason::SchemaViolation, DeadLetterReason::UnknownSchema);
        let open = |reason| Some(KnownLetter { reason: Some(reason), is_settled: false });
        let settled = |reason| Some(KnownLetter { reason: Some(reason), is_settled: true });
        let only_its_marker = Some(KnownLetter { reason: None, is_settled: true });
        for (value, was, of, known, expected) in [
            (bad, Some(false), hour(8), None, ROW),
            // Somebody else's letter, void.
            (bad, Some(false), hour(8), open(schema), ROW),
            (good, Some(false), hour(8), settled(schema), ROW),
            (bad, Some(true), hour(8), open(schema), LETTER),
            (bad, Some(true), hour(8), None, LETTER),
            (good, Some(true), hour(8), open(schema), ROW),
            // Retention has taken it: it may have been sent back.
            (good, Some(true), hour(8), None, LETTER),
            (good, Some(true), hour(8), only_its_marker, LETTER),
            (good, None, hour(8), only_its_marker, LETTER),
            (good, Some(true), hour(8), settled(schema), LETTER),
            (good, Some(true), hour(8), open(avro), ROW),
            (good, Some(true), hour(8), settled(avro), LETTER_WITHOUT_EVENT),
            (good, Some(true), hour(7), open(schema), LETTER),
            (good, Some(true), hour(7), open(avro), LETTER_WITHOUT_EVENT),
            (good, Some(true), hour(7), None, LETTER),
            // The file is lost with what it said.
            (bad, None, None, None, ROW),
            (bad, None, hour(8), open(schema), LETTER),
            (good, None, hour(8), open(schema), ROW),
            (good, None, None, settled(schema), LETTER),
            (good, None, hour(7), None, ROW),
        ] {
            assert_eq!(becomes(value, was, of, known), expected, "{value}, {was:?}, {of:?}, {known:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_row_is_no_question() {
        for was in [None, Some(false), Some(true)] {
            assert!(becomes("[1]", was, hour(8), None).0);
        }
    }
}

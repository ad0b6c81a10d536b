//! Repeats: records of events that the same partition has already.
//!
//! A source that delivers at least once publishes again what it had published when it died, and so may a foreign producer. Event ids of one source
//! rise within a partition, so a record is a repeat if the last event before it there is of the same source and has its id or a higher
//! one. A repeat becomes no line; it is counted, and passed over like a transaction's marker.
//!
//! The rule is a function of the partition's records alone, or `verify` and `replay` could not say which of them are lines. What it needs of the
//! records before a file stands in the lake: each file's metadata, and the head, carry the last event on.
//!
//! Never repeats: rows of a snapshot, records that were sent back from the dead-letter topic, and records that are no event of a source of ours
//! ([`Inspected::event`]). They do not count as the last event either. A tombstone is an event of its own, just behind its deletion.
//!
//! A letter of the schema check is its event all the same: else what is sent again would be a second letter, or a row beside the letter where the schema
//! was corrected in between. So whether a record is a repeat is asked before its document is looked at. What became of the event does not matter.

use crate::{file_metadata::LastEvent, record::Inspected};

/// The last event of a partition's chain, and what follows from it for the next record. Allocates nothing per record.
#[derive(Clone, Debug, Default)]
pub struct RepeatFilter {
    /// As file metadata has it; empty if there is none yet.
    event_id: String,
    source: String,
}

impl RepeatFilter {
    /// Goes on behind this event.
    pub fn after(last: Option<&LastEvent>) -> Self {
        match last {
            Some(last) => Self { event_id: last.event_id().to_owned(), source: last.source().to_owned() },
            None => Self::default(),
        }
    }

    /// Whether the record is a repeat. One that is none is the last event from here on.
    pub fn passes_over(&mut self, inspected: &Inspected<'_>) -> bool {
        let Some((event_id, source)) = inspected.event else { return false };
        if LastEvent::is_short(event_id, source) {
            let same = self.source == source;
            if same && event_id <= self.event_id.as_str() {
                return true;
            }
            self.event_id.clear();
            self.event_id.push_str(event_id);
            if !same {
                self.source.clear();
                self.source.push_str(source);
            }
            return false;
        }
        let event = LastEvent::new(event_id, source);
        if event.source() == self.source && event.is_known_not_to_follow(&self.event_id) {
            return true;
        }
        *self = Self::after(Some(&event));
        false
    }

    /// `None` before the first event.
    pub fn last(&self) -> Option<LastEvent> {
        (!self.event_id.is_empty()).then(|| LastEvent::new(&self.event_id, &self.source))
    }
}

#[cfg(test)]
mod tests {
    use shared::{dead_letter::DeadLetterReason, namespace::Namespace};

    use super::*;
    use crate::{
        record::{RecordView, Verdict, inspect},
        topic_content::TopicContent,
    };

    /// Of one cluster time.
    fn id(tail: &str) -> String {
        format!("820000000500000001{tail}")
    }

    const LINE: Option<&[u8]> = Some(b"{}");

    fn takes(filter: &mut RepeatFilter, record: &RecordView<'_>, value: Option<&[u8]>) -> bool {
        let (value, timestamp) = (value, Some(5_000));
        let record = RecordView { value, timestamp, ..*record };
        !filter.passes_over(&inspect(&record, &TopicContent::Data(Namespace::new("shop", "orders")), 1024))
    }

    fn event<'a>(id: &'a str, source: &'a str) -> RecordView<'a> {
        let cluster_time = Some("5.1");
        RecordView { event_id: Some(id), source: Some(source), cluster_time, ..RecordView::default() }
    }

    #[test]
    fn what_a_source_sends_again_is_passed_over() {
        let mut filter = RepeatFilter::default();
        let mut lines = Vec::new();
        for tail in ["03", "05", "03", "05", "06", "05", "06", "0600", "07"] {
            if takes(&mut filter, &event(&id(tail), "a/1"), LINE) {
                lines.push(tail);
            }
        }
        assert_eq!(lines, ["03", "05", "06", "0600", "07"]);
        assert_eq!(filter.last(), Some(LastEvent::new(&id("07"), "a/1")));
        // Another run, or another source, begins anew.
        assert!(takes(&mut filter, &event(&id("05"), "a/2"), LINE));
        assert!(!takes(&mut filter, &event(&id("04"), "a/2"), LINE));
    }

    #[test]
    fn a_tombstone_goes_with_its_deletion() {
        let mut filter = RepeatFilter::default();
        let mut taken = Vec::new();
        for (tail, value) in [("03", LINE), ("03~", None), ("03", LINE), ("03~", None), ("04", LINE)] {
            if takes(&mut filter, &event(&id(tail), "a/1"), value) {
                taken.push(tail);
            }
        }
        // Resume tokens end with a mark of their own, so none begins with another one: nothing lies between a deletion and its tombstone.
        assert_eq!(taken, ["03", "03~", "04"]);
    }

    #[test]
    fn rows_of_snapshots_retries_and_strangers_are_never_repeats() {
        let nine = LastEvent::new(&id("09"), "a/1");
        let mut filter = RepeatFilter::after(Some(&nine));
        let three = id("03");
        let ours = event(&three, "a/1");
        for record in [
            RecordView { snapshot: true, ..ours },
            RecordView { retried: true, ..ours },
            RecordView { source: None, ..ours },
            RecordView { source: Some("billing"), ..ours },
            RecordView { source: Some("billing/eu"), ..ours },
            RecordView { cluster_time: Some("5.2"), ..ours },
            RecordView { event_id: Some("0b54"), ..ours },
            RecordView::default(),
        ] {
            assert!(takes(&mut filter, &record, LINE), "{record:?}");
        }
        assert_eq!(filter.last(), Some(nine));
        assert!(!takes(&mut filter, &ours, LINE));
    }

    #[test]
    fn a_letter_of_the_schema_check_is_its_event_and_no_other_letter_is() {
        let mut filter = RepeatFilter::default();
        assert!(takes(&mut filter, &event(&id("03"), "a/1"), Some(b"{\"_kafka\":1}")));
        assert_eq!(filter.last(), None);
        let (four, content) = (id("04"), TopicContent::Data(Namespace::new("shop", "orders")));
        let mut letter = inspect(&RecordView { value: LINE, ..event(&four, "a/1") }, &content, 1024);
        letter.verdict =
            Verdict::DeadLetter { reason: DeadLetterReason::SchemaViolation, error: String::new() };
        assert!(!filter.passes_over(&letter));
        assert!(filter.passes_over(&letter), "the letter again");
        assert!(!takes(&mut filter, &event(&four, "a/1"), LINE), "a row beside the letter");
    }

    #[test]
    fn ids_that_had_to_be_cut_are_compared_as_far_as_they_are_known() {
        let long = |tail: &str| format!("{}{tail}", id(&"8".repeat(1024 - 18)));
        let (a, b) = (long("a"), long("b"));
        let mut filter = RepeatFilter::default();
        assert!(takes(&mut filter, &event(&b, "a/1"), LINE));
        assert!(!takes(&mut filter, &event(&b, "a/1"), LINE), "the same one");
        assert!(takes(&mut filter, &event(&a, "a/1"), LINE), "nobody knows which of them is higher");
        assert!(!takes(&mut filter, &event(&id("7"), "a/1"), LINE));
        assert!(takes(&mut filter, &event(&id("9"), "a/1"), LINE));
        assert!(!takes(&mut filter, &event(&a, "a/1"), LINE));
        // What was read back from a file's metadata says the same.
        let mut filter = RepeatFilter::after(Some(&LastEvent::new(&b, "a/1")));
        assert!(!takes(&mut filter, &event(&b, "a/1"), LINE));
        assert!(takes(&mut filter, &event(&a, "a/1"), LINE));
    }
}

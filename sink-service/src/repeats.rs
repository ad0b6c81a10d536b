//! Repeats: records of events that the same partition has already.
//!
//! A source that delivers at least once publishes again what it had published when it died, and so may a foreign producer. Event ids of one source
//! rise within a partition, so a record is a repeat if the last event of the same source before it there has its id or a higher one. A repeat becomes no
//! line; it is counted, and passed over like a transaction's marker.
//!
//! Sources may take turns in a partition, as all of them do in the control topic, so the last event of each of the sources that were seen last is known. A
//! source is `<source id>/<run>`: a run that a later one has taken the place of is known as long as the others are, since a process of it may be there
//! still, and is the first to be forgotten.
//!
//! The rule is a function of the partition's records alone, or `verify` and `replay` could not say which of them are lines. What it needs of the
//! records before a file stands in the lake: each file's metadata, and the head, carry the last events on. A repeat does not change them: it leaves
//! nothing in the lake that could.
//!
//! Never repeats: rows of a snapshot, records that were sent back from the dead-letter topic, and records that are no event of a source of ours
//! ([`Inspected::event`]). They do not count as last events either. A tombstone is an event of its own, just behind its deletion.
//!
//! A letter of the schema check is its event all the same: else what is sent again would be a second letter, or a row beside the letter where the schema
//! was corrected in between. So whether a record is a repeat is asked before its document is looked at. What became of the event does not matter.

use crate::{file_metadata::LastEvents, record::Inspected};

/// The last events of a partition's chain, and what follows from them for the next record. Allocates nothing per record.
#[derive(Clone, Debug, Default)]
pub struct RepeatFilter {
    last: Option<LastEvents>,
}

impl RepeatFilter {
    /// Goes on behind these events.
    pub fn after(last: Option<&LastEvents>) -> Self {
        Self { last: last.cloned() }
    }

    /// Whether the record is a repeat. One that is none is the last event of its source from here on.
    pub fn passes_over(&mut self, inspected: &Inspected<'_>) -> bool {
        inspected.event.is_some_and(|(event_id, source)| !LastEvents::take(&mut self.last, event_id, source))
    }

    /// `None` before the first event.
    pub fn last(&self) -> Option<&LastEvents> {
        self.last.as_ref()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use shared::{dead_letter::DeadLetterReason, namespace::Namespace};

    use super::*;
    use crate::{
        file_metadata::{LastEvent, OTHERS_BYTES_MAX, SOURCES_MAX},
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

    fn last(event_id: &str, source: &str) -> LastEvents {
        LastEvent::new(event_id, source).into()
    }

    /// Of each source, its name before the slash, the last number that it has, the latest first.
    fn known(filter: &RepeatFilter) -> String {
        let of = |event: &LastEvent| format!("{}{}", &event.source()[..1], &event.event_id()[18..]);
        filter.last().map(|last| last.iter().map(of).collect::<Vec<_>>().join(" ")).unwrap_or_default()
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
        assert_eq!(filter.last(), Some(&last(&id("07"), "a/1")));
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
        let nine = last(&id("09"), "a/1");
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
        assert_eq!(filter.last(), Some(&nine));
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
        let mut filter = RepeatFilter::after(Some(&last(&b, "a/1")));
        assert!(!takes(&mut filter, &event(&b, "a/1"), LINE));
        assert!(takes(&mut filter, &event(&a, "a/1"), LINE));
    }

    /// Which of these are taken: each is a source of one letter, and its number.
    fn taken(filter: &mut RepeatFilter, events: &str) -> String {
        let takes = |event: &&str| {
            let (source, number) = event.split_at(1);
            takes(filter, &self::event(&id(number), &format!("{source}/1")), LINE)
        };
        events.split(' ').filter(takes).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn sources_that_take_turns_are_told_apart() {
        let mut filter = RepeatFilter::default();
        assert_eq!(taken(&mut filter, "a3 b1 a3 b1 a4 b2 b2 a3 a4 b1"), "a3 b1 a4 b2");
        // A repeat does not make its source the latest.
        assert_eq!(known(&filter), "b2 a4");
        assert_eq!(taken(&mut filter, "c9 a4 a5 b2 c8 b3"), "c9 a5 b3");
        assert_eq!(known(&filter), "b3 a5 c9");
    }

    #[test]
    fn a_run_that_was_superseded_is_another_source() {
        let mut filter = RepeatFilter::default();
        assert!(takes(&mut filter, &event(&id("05"), "a/1"), LINE));
        assert!(takes(&mut filter, &event(&id("03"), "a/2"), LINE));
        assert!(
            !takes(&mut filter, &event(&id("05"), "a/1"), LINE),
            "a process that was stopped for a while"
        );
    }

    #[test]
    fn the_source_not_seen_for_longest_is_forgotten() {
        let mut filter = RepeatFilter::default();
        let letters: Vec<String> = ('a'..).take(SOURCES_MAX).map(|source| format!("{source}5")).collect();
        taken(&mut filter, &letters.join(" "));
        assert_eq!(taken(&mut filter, "a5 a6 b5"), "a6");
        // Of those that were there b is the one now.
        assert_eq!(taken(&mut filter, "z1 c5 a6 d5"), "z1");
        assert_eq!(taken(&mut filter, "b5 c5"), "b5 c5", "c made room for b");
        assert_eq!(known(&filter).split(' ').count(), SOURCES_MAX);
    }

    #[test]
    fn long_ids_of_others_are_forgotten_as_far_as_they_do_not_fit() {
        let long = id(&"8".repeat(OTHERS_BYTES_MAX / 2));
        let mut filter = RepeatFilter::default();
        for source in ["a/1", "b/1", "c/1"] {
            assert!(takes(&mut filter, &event(&long, source), LINE));
        }
        assert_eq!(taken(&mut filter, "d1"), "d1");
        let others = |filter: &RepeatFilter| -> Vec<String> {
            let last = filter.last().into_iter().flat_map(LastEvents::iter);
            last.skip(1).map(|event| event.source().to_owned()).collect()
        };
        assert_eq!(others(&filter), ["c/1"], "two do not fit");
        // The latest one is kept however long it is, and takes no room from the others.
        let longer = id(&"9".repeat(1024 - 18));
        assert!(takes(&mut filter, &event(&longer, "e/1"), LINE));
        assert!(!takes(&mut filter, &event(&longer, "e/1"), LINE));
        assert_eq!(others(&filter), ["d/1", "c/1"]);
        assert_eq!(taken(&mut filter, "d2"), "d2");
        assert_eq!(others(&filter), ["c/1"], "there is no room for such a long one");
    }

    proptest! {
        /// Whoever goes on in the middle, from what is stored, decides as one that has seen everything.
        #[test]
        fn a_stored_state_goes_on_as_it_would_have(
            events in proptest::collection::vec((0_usize..12, 0_u32..9, 0_usize..3), 0..80),
            cut in 0_usize..80,
        ) {
            let (mut whole, mut parts) = (RepeatFilter::default(), RepeatFilter::default());
            for (index, (source, number, length)) in events.iter().enumerate() {
                if index == cut {
                    let stored = serde_json::to_string(&parts.last()).unwrap();
                    let read: Option<LastEvents> = serde_json::from_str(&stored).unwrap();
                    parts = RepeatFilter::after(read.as_ref());
                }
                let id = id(&format!("{number}{}", "8".repeat(length * 400)));
                let source = format!("s{source}/1");
                let record = event(&id, &source);
                prop_assert_eq!(takes(&mut whole, &record, LINE), takes(&mut parts, &record, LINE));
            }
            prop_assert_eq!(whole.last(), parts.last());
        }
    }
}

use proptest::prelude::*;
use shared::namespace::Namespace;

use super::*;
use crate::{
    file_metadata::LastEvent,
    record::{Verdict, inspect},
    repeats::RepeatFilter,
    topic_content::TopicContent,
};

/// Of one cluster time.
fn id(number: u32) -> String {
    format!("820000000500000001{number:08}")
}

/// Of a chain that ends at offset 20, with change 7 of the one source and change 3 of the other before it.
fn look_back() -> LookBack {
    let mut known = Some(LastEvents::from(LastEvent::new(&id(3), "b/1")));
    assert!(LastEvents::take(&mut known, &id(7), "a/1"));
    LookBack {
        from: KafkaOffset::new(4),
        until: KafkaOffset::new(20),
        dead_letters: [KafkaOffset::new(12)].into_iter().collect(),
        known: known.expect("one was taken"),
        last: Vec::new(),
        passed: false,
    }
}

/// What is found in a log of these records: offset, number of the change, source.
fn found(records: &[(u64, u32, &str)]) -> Option<u64> {
    let mut look_back = look_back();
    for (offset, number, source) in records {
        let (event_id, cluster_time) = (id(*number), Some("5.1"));
        let (event_id, source) = (Some(event_id.as_str()), Some(*source));
        let record = RecordView { event_id, source, cluster_time, ..RecordView::default() };
        look_back.see(KafkaOffset::new(*offset), &record);
    }
    look_back.contradiction().map(KafkaOffset::get)
}

#[test]
fn the_log_that_the_lake_was_written_from_is_known() {
    assert_eq!(found(&[]), None, "only markers, or strangers' records");
    assert_eq!(found(&[(4, 6, "a/1"), (18, 7, "a/1")]), None);
    assert_eq!(found(&[(10, 7, "a/1"), (18, 3, "b/1")]), None, "sources take turns");
    assert_eq!(found(&[(10, 7, "a/1"), (11, 6, "a/1")]), None, "sent again");
    assert_eq!(found(&[(10, 2, "forgotten/1"), (11, 7, "a/1")]), None);
    assert_eq!(found(&[(11, 7, "a/1"), (12, 8, "a/1")]), None, "a dead letter is no last event");
    assert_eq!(found(&[(11, 2, "forgotten/1"), (12, 7, "a/1")]), None, "one of the schema check is");
}

#[test]
fn other_records_in_its_place_are_noticed() {
    assert_eq!(found(&[(10, 7, "a/1"), (11, 8, "a/1")]), Some(11));
    assert_eq!(found(&[(11, 7, "a/2")]), Some(11), "another run");
    assert_eq!(
        found(&[(10, 4, "b/1"), (11, 7, "a/1")]),
        Some(10),
        "the one sent again what was lost, the other one did not"
    );
    assert_eq!(found(&[(10, 4, "c/1"), (11, 7, "a/1")]), None, "one that may have been forgotten");
    assert_eq!(found(&[(10, 7, "a/1"), (11, 8, "a/1"), (10, 7, "a/1")]), Some(11));
}

#[test]
fn it_ends_when_the_consumer_has_passed_it() {
    let mut look_back = look_back();
    look_back.consumer_is_at(KafkaOffset::new(19));
    assert!(!look_back.passed && look_back.has_before_end(KafkaOffset::new(19)));
    look_back.consumer_is_at(KafkaOffset::new(20));
    assert!(look_back.passed && !look_back.has_before_end(KafkaOffset::new(20)));
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Row,
    /// The value cannot be a line: no event.
    Poison,
    /// A line that breaks its schema: an event all the same.
    SchemaLetter,
    Stranger,
    Marker,
}

#[derive(Clone, Debug)]
struct Record {
    kind: Kind,
    event_id: String,
    source: String,
}

impl Record {
    fn view(&self) -> RecordView<'_> {
        let value: &[u8] = if matches!(self.kind, Kind::Poison) { b"{\"_kafka\":1}" } else { b"{}" };
        let event_id = (!matches!(self.kind, Kind::Stranger)).then_some(self.event_id.as_str());
        RecordView {
            value: Some(value),
            event_id,
            source: Some(&self.source),
            cluster_time: Some("5.1"),
            ..RecordView::default()
        }
    }
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    // More sources than a chain remembers, and ids so long that it forgets others for them.
    let kind = prop_oneof![
        6 => Just(Kind::Row),
        1 => Just(Kind::Poison),
        1 => Just(Kind::SchemaLetter),
        1 => Just(Kind::Stranger),
        2 => Just(Kind::Marker),
    ];
    let record = (kind, 0_u32..12, 0_u32..30, 0_usize..3).prop_map(|(kind, source, number, length)| {
        let event_id = format!("{}{}", id(number), "8".repeat(length * 400));
        Record { kind, event_id, source: format!("s{source}/1") }
    });
    proptest::collection::vec(record, 1..60)
}

/// What a sink has of this log, as it looks back from its end.
fn after(log: &[Record]) -> Option<LookBack> {
    let content = TopicContent::Data(Namespace::new("shop", "orders"));
    let (mut filter, mut dead_letters) = (RepeatFilter::default(), OffsetRuns::default());
    for (offset, record) in (0_u64..).zip(log) {
        if matches!(record.kind, Kind::Marker) {
            continue;
        }
        let (view, offset) = (record.view(), KafkaOffset::new(offset));
        let inspected = inspect(&view, &content, 1024);
        let is_letter = matches!(inspected.verdict, Verdict::DeadLetter { .. });
        if !filter.passes_over(&inspected) && (is_letter || matches!(record.kind, Kind::SchemaLetter)) {
            dead_letters.push(offset);
        }
    }
    let until = KafkaOffset::new(log.len() as u64);
    let from = KafkaOffset::new(until.get().saturating_sub(crate::head::LOOK_BACK_OFFSETS));
    let known = filter.last()?.clone();
    Some(LookBack { from, until, dead_letters, known, last: Vec::new(), passed: false })
}

fn look(mut look_back: LookBack, log: &[Record]) -> Option<KafkaOffset> {
    for (offset, record) in (0_u64..).zip(log) {
        let seen = offset >= look_back.from.get() && !matches!(record.kind, Kind::Marker);
        if seen {
            look_back.see(KafkaOffset::new(offset), &record.view());
        }
    }
    look_back.contradiction()
}

proptest! {
    #[test]
    fn whoever_looks_at_his_own_log_goes_on(log in records()) {
        if let Some(look_back) = after(&log) {
            prop_assert_eq!(look(look_back, &log), None);
        }
    }

    /// The end of the log was lost, and others took its place.
    #[test]
    fn whoever_looks_at_another_log_stops(log in records(), lost in 1_usize..16) {
        let Some(look_back) = after(&log) else { return Ok(()) };
        let mut grown = log.clone();
        let kept = log.len().saturating_sub(lost);
        for (number, record) in (100_u32..).zip(&mut grown[kept..]) {
            *record = Record { kind: Kind::Row, event_id: id(number), source: "s0/1".to_owned() };
        }
        let last_is_letter = look_back.dead_letters.contains(KafkaOffset::new(log.len() as u64 - 1));
        if !last_is_letter {
            prop_assert_eq!(look(look_back, &grown), Some(KafkaOffset::new(log.len() as u64 - 1)));
        }
    }
}

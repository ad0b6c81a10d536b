#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::{collection, option, prelude::*};

use super::*;

fn owned(map: BTreeMap<&'static str, String>) -> HashMap<String, String> {
    map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn sample() -> FileMetadata {
    FileMetadata {
        topic_partition: TopicPartition::new("atlas.shop.orders", 2),
        first: KafkaOffset::new(100),
        next: KafkaOffset::new(120),
        rows: 17,
        dead_letters: [KafkaOffset::new(105), KafkaOffset::new(106)].into_iter().collect(),
        tombstones: 1,
        sealed: false,
        writer: WriterId(Uuid::from_u128(7)),
        seq: 3,
        generation: 0,
        last_event: Some(LastEvent::new("8266C1", "orders-cdc/1").into()),
        min_cluster_time: Some(ClusterTime::new(1_755_900_000, 1)),
        max_cluster_time: Some(ClusterTime::new(1_755_900_007, 2)),
        operations: BTreeMap::from([("insert".to_owned(), 10), ("update".to_owned(), 7)]),
        crc: LineCrc::of(b"{}\n"),
        original_size: 3,
        stored_size: 3,
        compressed: Compression::None,
        line_format: LineFormat::Envelope,
        processed_at: DateTime::from_timestamp_millis(1_755_900_008_123).unwrap(),
        layout: 1,
        version: "0.1.0".to_owned(),
    }
}

fn last_of<'a>(events: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<LastEvents> {
    let mut last = None;
    for (event_id, source) in events {
        LastEvents::take(&mut last, event_id, source);
    }
    last
}

prop_compose! {
    fn any_metadata()(
        topic in ".{1,30}",
        numbers in any::<[u64; 8]>(),
        partition in any::<i32>(),
        sealed in any::<bool>(),
        writer in any::<u128>(),
        events in collection::vec((".{0,1100}", ".{0,150}"), 0..4),
        times in option::of(any::<[u32; 4]>()),
        letters in collection::btree_set(0..u64::MAX - 1, 0..20),
        operations in collection::btree_map(".{0,12}", any::<u64>(), 0..6),
        compressed in prop_oneof![Just(Compression::None), Just(Compression::Gzip), Just(Compression::Zstd)],
        flat in any::<bool>(),
        processed_millis in 0_i64..253_402_300_799_999,
        crc in any::<[u8; 9]>(),
        layout in any::<u32>(),
        version in ".{0,20}",
    ) -> FileMetadata {
        let [first, next, rows, tombstones, seq, generation, original_size, stored_size] = numbers;
        FileMetadata {
            topic_partition: TopicPartition::new(topic, partition),
            first: KafkaOffset::new(first),
            next: KafkaOffset::new(next),
            rows,
            dead_letters: letters.into_iter().map(KafkaOffset::new).collect(),
            tombstones,
            sealed,
            writer: WriterId(Uuid::from_u128(writer)),
            seq,
            generation,
            last_event: last_of(events.iter().map(|(id, source)| (id.as_str(), source.as_str()))),
            min_cluster_time: times.map(|[seconds, increment, ..]| ClusterTime::new(seconds, increment)),
            max_cluster_time: times.map(|[.., seconds, increment]| ClusterTime::new(seconds, increment)),
            operations,
            crc: LineCrc::of(&crc),
            original_size,
            stored_size,
            compressed,
            line_format: if flat { LineFormat::Flat } else { LineFormat::Envelope },
            processed_at: DateTime::from_timestamp_millis(processed_millis).unwrap(),
            layout,
            version,
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_and_safe_in_headers(metadata in any_metadata()) {
        let map = owned(metadata.to_map());
        for (key, value) in &map {
            prop_assert!(key.bytes().all(|byte| byte.is_ascii_lowercase()), "{key}");
            prop_assert!(!value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic()), "{key}={value:?}");
        }
        let len: usize = map.iter().map(|(key, value)| "x-ms-meta-".len() + key.len() + value.len()).sum();
        prop_assert_eq!(metadata.encoded_len(), len);
        prop_assert_eq!(FileMetadata::from_map(&map).unwrap(), metadata);
    }
}

#[test]
fn the_stored_form_is_the_documented_one() {
    let map = sample().to_map();
    let expected = [
        ("compressed", "none"),
        ("deadletters", "105*2"),
        ("first", "100"),
        ("generation", "0"),
        ("lastevent", "8266C1,orders-cdc/1"),
        ("layout", "1"),
        ("maxclustertime", "1755900007.2"),
        ("minclustertime", "1755900000.1"),
        ("next", "120"),
        ("operations", "insert:10,update:7"),
        ("originalsize", "3"),
        ("partition", "2"),
        ("processedat", "2025-08-22T22:00:08.123Z"),
        ("rows", "17"),
        ("sealed", "false"),
        ("seq", "3"),
        ("storedsize", "3"),
        ("tombstones", "1"),
        ("topic", "atlas.shop.orders"),
        ("version", "0.1.0"),
        ("writer", "00000000000000000000000000000007"),
    ];
    for (key, value) in expected {
        assert_eq!(map.get(key).map(String::as_str), Some(value), "{key}");
    }
    assert_eq!(map.len(), expected.len() + 1, "and the crc");
}

#[test]
fn a_missing_or_broken_fact_is_named() {
    let whole = owned(sample().to_map());
    let mut without = whole.clone();
    without.remove("next");
    assert_eq!(FileMetadata::from_map(&without), Err(MetadataError::Missing { key: "next" }));
    for (key, value) in [
        ("next", "-1"),
        ("sealed", "yes"),
        ("writer", "pod-0"),
        ("crc", "12"),
        ("processedat", "yesterday"),
        ("deadletters", "1,,2"),
        ("operations", "insert"),
        ("lineformat", "round"),
        ("lastevent", "8266C1"),
        ("otherevents", "8266C1,a/1,82"),
        ("topic", "%ZZ"),
    ] {
        let mut broken = whole.clone();
        broken.insert(key.to_owned(), value.to_owned());
        let error = FileMetadata::from_map(&broken).unwrap_err();
        assert!(error.to_string().starts_with(&format!("`{key}` is \"{value}\", expected ")), "{error}");
    }
}

#[test]
fn facts_of_a_later_version_are_ignored() {
    let mut map = owned(sample().to_map());
    map.insert("novelty".to_owned(), "1".to_owned());
    assert_eq!(FileMetadata::from_map(&map), Ok(sample()));
}

#[test]
fn long_event_ids_are_cut_but_stay_apart_and_in_order() {
    let (a, b) = (format!("{}a", "F".repeat(1024)), format!("{}b", "F".repeat(1024)));
    let (short, cut_a, cut_b) = (LastEvent::new("82", ""), LastEvent::new(&a, ""), LastEvent::new(&b, ""));
    assert_eq!(short.event_id(), "82");
    assert_eq!(cut_a.event_id().len(), 1024 + 1 + 16);
    assert_ne!(cut_a, cut_b);
    assert!(cut_a.event_id() > short.event_id());
}

#[test]
fn the_events_of_other_sources_have_a_key_of_their_own() {
    let events = [("8201", "a/1"), ("8202", "b,c/1"), ("8203", "d/2"), ("8204", "a/1")];
    let metadata = FileMetadata { last_event: last_of(events), ..sample() };
    let map = owned(metadata.to_map());
    assert_eq!(map["lastevent"], "8204,a/1");
    assert_eq!(map["otherevents"], "8203,d/2,8202,b%2Cc/1");
    assert_eq!(FileMetadata::from_map(&map), Ok(metadata));
    // What an older version writes, and what it reads.
    let mut older = map;
    older.remove("otherevents");
    assert_eq!(FileMetadata::from_map(&older).unwrap().last_event, last_of([("8204", "a/1")]));
}

proptest! {
    /// A regression: 1,024 characters of a foreign id may take 12 KB when they are encoded.
    #[test]
    fn no_event_ids_fill_the_metadata(events in collection::vec(("\\PC{0,1500}", "\\PC{0,200}"), 1..12)) {
        let metadata = FileMetadata {
            last_event: last_of(events.iter().map(|(id, source)| (id.as_str(), source.as_str()))),
            ..sample()
        };
        prop_assert!(metadata.encoded_len() < METADATA_LIMIT_BYTES * 3 / 4, "{}", metadata.encoded_len());
    }
}

#[test]
fn an_event_id_of_ascii_is_cut_by_characters_alone() {
    for text in ["F", " ", "%,"] {
        let id = text.repeat(1024 / text.len());
        assert_eq!(LastEvent::new(&id, "").event_id(), id);
        assert!(LastEvent::new(&format!("{id}x"), "").event_id().starts_with(&format!("{id}~")));
    }
    let id = "\u{1F600}".repeat(1024);
    assert_eq!(LastEvent::new(&id, "").event_id().chars().count(), 256 + 1 + 16);
}

#[test]
fn the_usual_metadata_leaves_room_for_a_thousand_dead_letters() {
    let mut metadata = sample();
    metadata.dead_letters = (0..1_000).map(|i| KafkaOffset::new(9_000_000_000 + i * 977)).collect();
    assert!(metadata.encoded_len() < METADATA_LIMIT_BYTES, "{}", metadata.encoded_len());
}

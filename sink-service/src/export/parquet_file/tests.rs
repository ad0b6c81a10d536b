#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeMap,
    io::{Read, Seek, Write},
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use shared::namespace::Namespace;

use super::*;
use crate::{event_hour::EventHour, hours::manifest::Manifest, topic_content::TopicContent};

fn edition(writtenat: DateTime<Utc>) -> Edition {
    let hour = EventHour::from_calendar(2026, 11, 21, 7).unwrap();
    let content = TopicContent::Data(Namespace::new("shop", "orders"));
    let manifest = Manifest::new("atlas.shop.orders", &content, hour, BTreeMap::new(), Vec::new(), writtenat);
    Edition::of(&manifest)
}

fn line(number: u64, document: &str) -> Bytes {
    Bytes::from(format!(
        r#"{{"_meta":{{"eventId":"{number:08}","operationType":"insert","ns":{{"db":"shop","coll":"orders"}}}},"documentKey":{{"_id":{number}}},"fullDocument":{document},"_kafka":{{"topic":"atlas.shop.orders","partition":0,"offset":{number},"timestamp":null}}}}"#
    ))
}

fn written(lines: impl Iterator<Item = Bytes>) -> (File, Content) {
    let file = tempfile::tempfile().unwrap();
    let mut events = EventFile::begin(file.try_clone().unwrap(), &edition(Utc::now())).unwrap();
    for line in lines {
        let (row, _) = Row::of(&line).unwrap();
        events.push(row, line.len() as u64).unwrap();
    }
    (file, events.finish().unwrap())
}

fn bytes_of(mut file: File) -> Vec<u8> {
    file.rewind().unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn what_was_written_is_what_is_read_and_the_same_each_time() {
    let lines =
        || (0..5000).map(|number| line(number, if number % 3 == 0 { "null" } else { r#"{"text":"ä"}"# }));
    let (file, content) = written(lines());
    assert_eq!((content.rows, content.row_groups), (5000, 1));
    let (read, found) = read_back(file.try_clone().unwrap()).unwrap();
    assert_eq!(read, content);
    assert_eq!(found, Some(edition(DateTime::UNIX_EPOCH)), "when a manifest was written is no part of it");
    let (again, _) = written(lines());
    assert_eq!(bytes_of(file), bytes_of(again));
}

#[test]
fn an_hour_without_rows_is_a_file_without_row_groups() {
    let (file, content) = written(std::iter::empty());
    assert_eq!((content.rows, content.row_groups), (0, 0));
    assert_eq!(read_back(file).unwrap().0, content);
}

#[test]
fn row_groups_are_bounded_by_rows_and_by_bytes() {
    let (file, content) = written((0..GROUP_ROWS_MAX + 1).map(|number| line(number, "1")));
    assert_eq!((content.rows, content.row_groups), (GROUP_ROWS_MAX + 1, 2));
    let metadata = SerializedFileReader::new(file).unwrap().metadata().clone();
    let rows: Vec<i64> = metadata.row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(rows, [128 * 1024, 1]);

    let document = format!("\"{}\"", "x".repeat(15 * 1024 * 1024));
    let (file, content) = written((0..5).map(|number| line(number, &document)));
    assert_eq!((content.rows, content.row_groups), (5, 2), "four of them are less than 64 MiB");
    assert_eq!(read_back(file).unwrap().0, content);
}

#[test]
fn other_values_are_another_content() {
    let content = |documents: [&str; 3]| {
        written((0..).zip(documents).map(|(number, document)| line(number, document))).1
    };
    let one = content(["1", "null", "\"\""]);
    assert_eq!(one, content(["1", "null", "\"\""]));
    for other in [["1", "\"\"", "null"], ["1", "null", "null"], ["null", "1", "\"\""], ["2", "null", "\"\""]]
    {
        assert_ne!(one, content(other), "{other:?}");
    }
}

#[test]
fn a_file_that_was_cut_is_told() {
    let (file, _) = written((0..100).map(|number| line(number, "1")));
    let length = file.metadata().unwrap().len();
    for cut in [0, 4, length / 2, length - 1] {
        let mut other = tempfile::tempfile().unwrap();
        other.write_all(&bytes_of(file.try_clone().unwrap())[..usize::try_from(cut).unwrap()]).unwrap();
        assert!(read_back(other).is_err(), "cut at {cut} of {length}");
    }
}

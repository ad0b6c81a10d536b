//! Kafka against the lake: every record of a data topic, and of the control topic, is one line, a counted tombstone or a dead letter; every line is
//! its record.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    Evidence, ViolationKind, Violations,
    chain_rules::{Chain, Link},
    event_hour, flat_line,
    kafka_rules::place,
};
use crate::{
    json::Json,
    kafka_reader::{KafkaRecord, PartitionContent},
    lake_reader::LakeFile,
};

pub(super) fn judge(evidence: &Evidence, chains: &[Chain<'_>], violations: &mut Violations) {
    // The sink's letters have the place of the record as their key.
    let letters: BTreeSet<&[u8]> = evidence.letters().filter_map(|record| record.key.as_deref()).collect();
    judge_retries(evidence, violations);
    let by_partition: BTreeMap<(&str, i32), &Chain<'_>> =
        chains.iter().map(|chain| ((chain.topic.as_str(), chain.partition), chain)).collect();

    let empty = PartitionContent::default();
    for chain in chains {
        let content = evidence.kafka.topics.get(&chain.topic).and_then(|parts| parts.get(&chain.partition));
        judge_chain(chain, content.unwrap_or(&empty), violations);
        let is_control = chain.topic == evidence.topics.control();
        for link in &chain.links {
            // Of data topics the collection says the folder; definitions are of none.
            if link.file.path.starts_with("_control/year=") != is_control {
                let detail = format!("{}: a file of {}", link.file.path, chain.topic);
                violations.add(ViolationKind::WrongTopic, detail);
            }
        }
    }

    for (topic, partitions) in
        evidence.kafka.topics.iter().filter(|(topic, _)| evidence.topics.is_archived(topic))
    {
        for (&partition, content) in partitions {
            let chain = by_partition.get(&(topic.as_str(), partition));
            let rows = chain.map(|chain| offsets(chain)).unwrap_or_default();
            for record in &content.records {
                let is_before = chain.is_some_and(|chain| record.offset < chain.start);
                let letter = format!("{topic}/{partition}/{}", record.offset);
                let is_letter = letters.contains(letter.as_bytes());
                let is_passed = chain.is_some_and(|chain| record.offset < chain.end);
                // A tombstone is counted in its file's metadata and has no line.
                let is_accounted = rows.contains(&record.offset) || is_letter || record.value.is_none();
                let is_in_lake = is_passed && is_accounted;
                if !is_before && !is_in_lake {
                    let reached =
                        chain.map_or_else(|| "no chain".to_owned(), |chain| format!("{}", chain.end));
                    let detail =
                        format!("{}: no line, no letter; the chain reached {reached}", place(record));
                    violations.add(ViolationKind::LostInLake, detail);
                }
            }
        }
    }
}

/// A letter that was sent back has one record, and one whose marker says so was sent back.
fn judge_retries(evidence: &Evidence, violations: &mut Violations) {
    let retried = |record: &&KafkaRecord| record.header("dlq-marker") == Some("retried");
    let markers = evidence.kafka.records(&evidence.topics.dead_letters()).filter(retried);
    let mut missing: BTreeSet<&[u8]> = markers.filter_map(|record| record.key.as_deref()).collect();
    let mut seen: HashMap<&str, &KafkaRecord> = HashMap::new();
    let archived = evidence.kafka.topics.iter().filter(|(topic, _)| evidence.topics.is_archived(topic));
    for record in archived.flat_map(|(_, parts)| parts.values()).flat_map(|part| &part.records) {
        let Some(letter) = record.header("dlq-retry") else { continue };
        if let Some(first) = seen.insert(letter, record) {
            let detail = format!("letter {letter}: {} and {}", place(first), place(record));
            violations.add(ViolationKind::TwiceInKafka, detail);
        } else if !missing.remove(letter.as_bytes()) {
            let detail = format!("{}: letter {letter} has no marker that says retried", place(record));
            violations.add(ViolationKind::InventedInKafka, detail);
        }
    }
    for letter in missing {
        let detail =
            format!("letter {} is marked retried, and no record says so", String::from_utf8_lossy(letter));
        violations.add(ViolationKind::LostInKafka, detail);
    }
}

/// The offsets of a chain's lines, as far as they can be read.
fn offsets(chain: &Chain<'_>) -> BTreeSet<i64> {
    let lines = chain.links.iter().filter_map(|link| link.file.lines().ok()).flatten();
    lines.filter_map(|line| coordinates(line).map(|kafka| kafka.offset)).collect()
}

/// The files of one chain against the records of its partition.
fn judge_chain(chain: &Chain<'_>, content: &PartitionContent, violations: &mut Violations) {
    let records: HashMap<i64, &KafkaRecord> =
        content.records.iter().map(|record| (record.offset, record)).collect();
    let mut seen: HashMap<i64, &str> = HashMap::new();
    for link in &chain.links {
        let path = link.file.path.as_str();
        let lines = match link.file.lines() {
            Ok(lines) => lines,
            Err(error) => {
                violations.add(ViolationKind::WrongContent, format!("{error:#}"));
                continue;
            }
        };
        judge_metadata(link, &lines, violations);
        let mut last = None;
        for (index, line) in lines.iter().enumerate() {
            let place = format!("{path}:{}", index + 1);
            let Some(kafka) = coordinates(line) else {
                violations
                    .add(ViolationKind::WrongContent, format!("{place}: no `_kafka` as the last member"));
                continue;
            };
            if (kafka.topic.as_str(), kafka.partition) != (chain.topic.as_str(), chain.partition) {
                let detail = format!("{place}: a line of {}/{}", kafka.topic, kafka.partition);
                violations.add(ViolationKind::WrongContent, detail);
                continue;
            }
            if !(link.first..link.next).contains(&kafka.offset) {
                let detail =
                    format!("{place}: offset {} is outside [{}, {})", kafka.offset, link.first, link.next);
                violations.add(ViolationKind::WrongMetadata, detail);
            }
            if last.is_some_and(|last| kafka.offset <= last) {
                violations.add(
                    ViolationKind::WrongOrder,
                    format!("{place}: offset {} does not rise", kafka.offset),
                );
            }
            last = Some(kafka.offset);
            if let Some(first) = seen.insert(kafka.offset, path) {
                violations.add(
                    ViolationKind::TwiceInLake,
                    format!("{place}: offset {} is also in {first}", kafka.offset),
                );
            }
            match records.get(&kafka.offset) {
                Some(record) => judge_line(&place, link.file, line, record, violations),
                // What retention has removed can no longer be compared.
                None if kafka.offset < content.low => {}
                None => violations
                    .add(ViolationKind::InventedInLake, format!("{place}: no record at {}", kafka.offset)),
            }
        }
    }
}

fn judge_line(place: &str, file: &LakeFile, line: &[u8], record: &KafkaRecord, violations: &mut Violations) {
    let Some(value) = record.value.as_deref() else {
        violations.add(ViolationKind::InventedInLake, format!("{place}: the record is a tombstone"));
        return;
    };
    let is_flat = file.metadata.get("lineformat").is_some_and(|format| format == "flat");
    let wanted = wanted_line(value, record);
    let is_right = if is_flat { is_flat_line(line, &wanted) } else { line == wanted };
    if !is_right {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
        let detail = format!(
            "{place}: is {:?}, the value of {} gives {:?}",
            shown(line),
            self::place(record),
            shown(&wanted)
        );
        violations.add(ViolationKind::WrongContent, detail);
    }
    let folder = event_hour::folder(record, Json::parse(value).ok().as_ref());
    if !file.path.contains(&format!("/{folder}/")) {
        violations.add(ViolationKind::WrongHour, format!("{place}: belongs to {folder}"));
    }
}

/// Whether it says flat what the other line says.
fn is_flat_line(line: &[u8], envelope: &[u8]) -> bool {
    let (Ok(Json::Object(found)), Ok(Json::Object(mut value))) = (Json::parse(line), Json::parse(envelope))
    else {
        return false;
    };
    let Some(kafka) = value.pop() else { return false };
    let Some(mut wanted) = flat_line::members(&Json::Object(value)) else { return false };
    wanted.push(kafka);
    found == wanted
}

/// The value as it is, `_kafka` added: DESIGN "The lake". Raw line breaks stand between tokens only, in JSON.
fn wanted_line(value: &[u8], record: &KafkaRecord) -> Vec<u8> {
    let mut line: Vec<u8> = value.trim_ascii_end().to_vec();
    for byte in &mut line {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    line.pop();
    let is_empty = line.trim_ascii() == b"{";
    let comma = if is_empty { "" } else { "," };
    let timestamp = record.timestamp_ms.map_or_else(|| "null".to_owned(), |millis| millis.to_string());
    let (topic, partition, offset) = (&record.topic, record.partition, record.offset);
    let tail = format!(
        r#"{comma}"_kafka":{{"topic":"{topic}","partition":{partition},"offset":{offset},"timestamp":{timestamp}}}}}"#
    );
    line.extend_from_slice(tail.as_bytes());
    line
}

/// What the metadata counts and sums, counted and summed again.
fn judge_metadata(link: &Link<'_>, lines: &[&[u8]], violations: &mut Violations) {
    let file = link.file;
    let rows = i64::try_from(lines.len()).unwrap_or(i64::MAX);
    let size = |bytes: &[u8]| i64::try_from(bytes.len()).unwrap_or(i64::MAX);
    let plain = file.plain().unwrap_or_default();
    let mut wrong =
        |detail: String| violations.add(ViolationKind::WrongMetadata, format!("{}: {detail}", file.path));
    for (name, found) in [("rows", rows), ("originalsize", size(plain)), ("storedsize", size(&file.bytes))] {
        match file.number(name) {
            Ok(told) if told == found => {}
            Ok(told) => wrong(format!("{name} says {told}, there are {found}")),
            Err(error) => wrong(format!("{error:#}")),
        }
    }
    let crc = format!("{:016x}", crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, plain));
    match file.text("crc") {
        Ok(told) if told.eq_ignore_ascii_case(&crc) => {}
        Ok(told) => wrong(format!("crc says {told}, the lines have {crc}")),
        Err(error) => wrong(format!("{error:#}")),
    }
}

/// `_kafka` of a line.
struct Coordinates {
    topic: String,
    partition: i32,
    offset: i64,
}

/// Read from the line's last member; `None` if that is something else.
fn coordinates(line: &[u8]) -> Option<Coordinates> {
    let json = Json::parse(line).ok()?;
    let Json::Object(members) = &json else { return None };
    let (name, kafka) = members.last()?;
    if name != "_kafka" {
        return None;
    }
    Some(Coordinates {
        topic: kafka.get("topic")?.as_text()?.to_owned(),
        partition: i32::try_from(kafka.get("partition")?.as_i64()?).ok()?,
        offset: kafka.get("offset")?.as_i64()?,
    })
}

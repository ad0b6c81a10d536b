//! MongoDB against Kafka: every change exactly once, where it belongs, saying what it should.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bson::Bson;

use super::{
    Evidence, Expected, Topics, ViolationKind, Violations,
    event::{EventKind, ExpectedEvent},
    extended_json::{difference, document_difference, is_timestamp},
};
use crate::{json::Json, kafka_reader::KafkaRecord};

pub(super) fn judge(expected: &Expected, evidence: &Evidence, violations: &mut Violations) {
    let by_id: HashMap<&str, (usize, &ExpectedEvent)> = expected
        .events
        .iter()
        .enumerate()
        .map(|(index, event)| (event.id.as_str(), (index, event)))
        .collect();
    let mut seen: HashMap<&str, &KafkaRecord> = HashMap::new();
    let mut order = Order::default();
    let mut definitions = Definitions::default();
    let mut topics_of: BTreeMap<(&str, Option<&str>), BTreeSet<&str>> = BTreeMap::new();

    let control = evidence.topics.control();
    for (topic, partitions) in &evidence.kafka.topics {
        let is_control = *topic == control;
        if !is_control && !evidence.topics.is_data(topic) {
            continue;
        }
        for record in partitions.values().flat_map(|part| &part.records) {
            // A dead letter that was sent back: its event has its place in the order already. The rules of lines look after it.
            if record.header("dlq-retry").is_some() {
                continue;
            }
            let place = place(record);
            let Some(id) = record.header("event-id") else {
                violations.add(ViolationKind::WrongHeader, format!("{place}: no event-id"));
                continue;
            };
            if is_control {
                definitions.look(id, record, violations);
            }
            let Some(&(index, event)) = by_id.get(id) else {
                // The control topic also has what a plain stream does not show (create, gap markers).
                if !is_control {
                    violations.add(ViolationKind::InventedInKafka, format!("{place}: event {id} is unknown"));
                }
                continue;
            };
            if let Some(first) = seen.insert(&event.id, record) {
                violations.add(
                    ViolationKind::TwiceInKafka,
                    format!("event {id}: {} and {place}", self::place(first)),
                );
                continue;
            }
            topics_of.entry((&event.db, event.coll.as_deref())).or_default().insert(topic);
            if is_control != (event.kind() == EventKind::Definition) {
                violations.add(
                    ViolationKind::WrongTopic,
                    format!("{place}: {} of {}", event.operation, event.namespace()),
                );
            }
            if event.kind() == EventKind::Document {
                order.look(index, event, record, violations);
            }
            judge_record(event, record, &evidence.topics, violations);
        }
    }
    judge_topics(&topics_of, &evidence.topics, violations);

    let letters: BTreeSet<&[u8]> = evidence.letters().filter_map(|record| record.key.as_deref()).collect();
    for event in &expected.events {
        // A dead letter of the source has the event id as its key: accounted for, though not delivered.
        if !seen.contains_key(event.id.as_str()) && !letters.contains(event.id.as_bytes()) {
            let (operation, namespace, id) = (&event.operation, event.namespace(), &event.id);
            violations.add(ViolationKind::LostInKafka, format!("{operation} of {namespace}, event {id}"));
        }
    }
    judge_token(expected, &seen, evidence, violations);
}

/// Database, collection and `_id` as text.
type DocumentName<'a> = (&'a str, Option<&'a str>, String);

/// Changes of one document come in the stream's order, in one partition.
#[derive(Default)]
struct Order<'a> {
    /// By collection and `_id`: where the document's records are, and the last one's place in the stream.
    last: HashMap<DocumentName<'a>, (i32, usize)>,
}

impl<'a> Order<'a> {
    fn look(
        &mut self,
        index: usize,
        event: &'a ExpectedEvent,
        record: &KafkaRecord,
        violations: &mut Violations,
    ) {
        let id = event.document_id().to_string();
        let document = (event.db.as_str(), event.coll.as_deref(), id);
        // Records come here in the order of offsets within a partition.
        if let Some((partition, before)) = self.last.insert(document, (record.partition, index)) {
            if partition != record.partition {
                let id = event.document_id();
                let detail = format!("{}: {id} is also in partition {partition}", place(record));
                violations.add(ViolationKind::WrongOrder, detail);
            } else if before > index {
                let detail = format!("{}: event {} comes after a later one", place(record), event.id);
                violations.add(ViolationKind::WrongOrder, detail);
            }
        }
    }
}

/// Definitions come once, in the stream's order: their ids rise, those of each source and run, which is all that there is to say of what a plain
/// stream does not show.
#[derive(Default)]
struct Definitions<'a> {
    last: HashMap<&'a str, &'a str>,
}

impl<'a> Definitions<'a> {
    fn look(&mut self, id: &'a str, record: &'a KafkaRecord, violations: &mut Violations) {
        let source = record.header("source").unwrap_or_default();
        if let Some(before) = self.last.insert(source, id).filter(|before| *before >= id) {
            let kind = if before == id { ViolationKind::TwiceInKafka } else { ViolationKind::WrongOrder };
            violations.add(kind, format!("{}: event {id} comes after {before}", place(record)));
        }
    }
}

fn judge_topics(
    topics_of: &BTreeMap<(&str, Option<&str>), BTreeSet<&str>>,
    topics: &Topics,
    violations: &mut Violations,
) {
    let mut owner: BTreeMap<&str, (&str, Option<&str>)> = BTreeMap::new();
    let control = topics.control();
    for (&(db, coll), names) in topics_of {
        let names: Vec<&str> = names.iter().copied().filter(|&name| name != control).collect();
        if names.len() > 1 {
            violations
                .add(ViolationKind::WrongTopic, format!("{db}.{coll:?} is in several topics: {names:?}"));
        }
        for name in names {
            if let Some(other) = owner.insert(name, (db, coll)) {
                violations
                    .add(ViolationKind::WrongTopic, format!("{name} holds {other:?} and {:?}", (db, coll)));
            }
            // Names that need no escape stand in the topic's name as they are.
            let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let coll = coll.unwrap_or_default();
            let usual = format!("{}{db}.{coll}", topics.prefix());
            if plain(db) && plain(coll) && name != usual {
                violations
                    .add(ViolationKind::WrongTopic, format!("{db}.{coll} is in {name}, not in {usual}"));
            }
        }
    }
}

/// One record against its event.
fn judge_record(event: &ExpectedEvent, record: &KafkaRecord, topics: &Topics, violations: &mut Violations) {
    let place = place(record);
    let seconds = i64::from(event.cluster_time.time);
    if record.timestamp_ms != Some(seconds * 1000) {
        let detail = format!("{place}: {:?}, not {}", record.timestamp_ms, seconds * 1000);
        violations.add(ViolationKind::WrongTimestamp, detail);
    }

    let cluster_time = format!("{seconds}.{}", event.cluster_time.increment);
    let headers = [
        ("operation-type", Some(event.operation.as_str())),
        ("cluster-time", Some(cluster_time.as_str())),
        ("database", Some(event.db.as_str()).filter(|db| !db.is_empty())),
        ("collection", event.coll.as_deref()),
        ("content-type", Some("application/json")),
        ("schema-version", Some("1")),
        ("snapshot", None),
    ];
    for (name, wanted) in headers {
        let found = record.header(name);
        // An absent namespace may be an empty header as well.
        let same = found == wanted || wanted.is_none() && found == Some("");
        if !same {
            violations
                .add(ViolationKind::WrongHeader, format!("{place}: {name} is {found:?}, not {wanted:?}"));
        }
    }
    let run =
        record.header("source").and_then(|source| source.strip_prefix(topics.source_id())?.strip_prefix('/'));
    if run.is_none_or(|run| run.parse::<u64>().is_err()) {
        let detail =
            format!("{place}: source is {:?}, not {}/<run>", record.header("source"), topics.source_id());
        violations.add(ViolationKind::WrongHeader, detail);
    }

    let key = record.key.as_deref().unwrap_or_default();
    match event.kind() {
        EventKind::Document => {
            let wrong = match Json::parse(key) {
                Ok(json) => difference(&json, event.document_id()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(wrong) = wrong {
                violations.add(ViolationKind::WrongKey, format!("{place}: {wrong}"));
            }
        }
        EventKind::Definition => {
            if key != event.namespace().as_bytes() {
                let found = String::from_utf8_lossy(key);
                violations
                    .add(ViolationKind::WrongKey, format!("{place}: {found}, not {}", event.namespace()));
            }
        }
    }

    let value = match Json::parse(record.value.as_deref().unwrap_or_default()) {
        Ok(value) => value,
        Err(error) => return violations.add(ViolationKind::WrongContent, format!("{place}: {error}")),
    };
    for wrong in judge_value(event, &value, topics) {
        violations.add(ViolationKind::WrongContent, format!("{place}: event {}: {wrong}", event.id));
    }
}

/// The members of the envelope, in their order.
const MEMBERS: [&str; 5] =
    ["_meta", "documentKey", "fullDocument", "updateDescription", "fullDocumentBeforeChange"];
const META_MEMBERS: [&str; 10] = [
    "eventId",
    "operationType",
    "ns",
    "clusterTime",
    "wallTime",
    "lsid",
    "txnNumber",
    "source",
    "snapshot",
    "processedAt",
];

/// What of the envelope is not as the event says.
fn judge_value(event: &ExpectedEvent, value: &Json, topics: &Topics) -> Vec<String> {
    let mut wrong = Vec::new();
    let names = |json: &Json| match json {
        Json::Object(members) => members.iter().map(|(name, _)| name.clone()).collect(),
        _ => Vec::new(),
    };
    let found = names(value);
    if found.len() < MEMBERS.len() || found[..MEMBERS.len()] != MEMBERS {
        wrong.push(format!("members are {found:?}"));
        return wrong;
    }
    let meta = value.get("_meta").unwrap_or(&Json::Null);
    if names(meta) != META_MEMBERS {
        wrong.push(format!("_meta has {:?}", names(meta)));
        return wrong;
    }
    let null = Json::Null;
    let member = |name: &str| value.get(name).unwrap_or(&null);
    let meta_member = |name: &str| meta.get(name).unwrap_or(&null);
    let mut check = |name: &str, problem: Option<String>| {
        wrong.extend(problem.map(|problem| format!("{name}{problem}")));
    };
    let text = |json: &Json, wanted: &str| {
        (json.as_text() != Some(wanted)).then(|| format!(": expected {wanted:?}, found {json:?}"))
    };
    // An absent part is null.
    let part = |json: &Json, name: &str| difference(json, event.event.get(name).unwrap_or(&Bson::Null));

    check("_meta/eventId", text(meta_member("eventId"), &event.id));
    check("_meta/operationType", text(meta_member("operationType"), &event.operation));
    check("_meta/ns", part(meta_member("ns"), "ns"));
    let time =
        (!is_timestamp(meta_member("clusterTime"), event.cluster_time)).then(|| ": differs".to_owned());
    check("_meta/clusterTime", time);
    check("_meta/wallTime", part(meta_member("wallTime"), "wallTime"));
    check("_meta/lsid", part(meta_member("lsid"), "lsid"));
    check("_meta/txnNumber", part(meta_member("txnNumber"), "txnNumber"));
    check("_meta/source", text(meta_member("source"), topics.source_id()));
    check(
        "_meta/snapshot",
        (*meta_member("snapshot") != Json::Bool(false)).then(|| ": is not false".to_owned()),
    );
    let processed = meta_member("processedAt").as_text().map(chrono::DateTime::parse_from_rfc3339);
    check("_meta/processedAt", (!matches!(processed, Some(Ok(_)))).then(|| ": is no instant".to_owned()));
    check("documentKey", part(member("documentKey"), "documentKey"));
    check("updateDescription", update_description(event, member("updateDescription")));
    check("fullDocumentBeforeChange", part(member("fullDocumentBeforeChange"), "fullDocumentBeforeChange"));
    check("fullDocument", full_document(event, member("fullDocument")));
    let in_transaction = event.event.contains_key("lsid") && event.event.contains_key("txnNumber");
    let is_placed = matches!(value.get("transaction"), Some(place) if names(place) == ["index", "count"]);
    check(
        "transaction",
        (in_transaction != is_placed).then(|| ": does not say whether it is of one".to_owned()),
    );
    wrong
}

/// An update's document was looked up at another moment than ours: any version with the right `_id` will do, and none at
/// all if it has been deleted since.
fn full_document(event: &ExpectedEvent, json: &Json) -> Option<String> {
    if event.operation == "update" {
        return match json {
            Json::Null => None,
            _ => difference(json.get("_id").unwrap_or(&Json::Null), event.document_id()),
        };
    }
    difference(json, event.event.get("fullDocument").unwrap_or(&Bson::Null))
}

/// `disambiguatedPaths` depends on `showExpandedEvents`, which the ledger's stream and the product's may set differently.
fn update_description(event: &ExpectedEvent, json: &Json) -> Option<String> {
    let Ok(description) = event.event.get_document("updateDescription") else {
        return difference(json, &Bson::Null);
    };
    let mut description = description.clone();
    description.remove("disambiguatedPaths");
    let json = match json {
        Json::Object(members) => {
            let kept = members.iter().filter(|(name, _)| name != "disambiguatedPaths");
            Json::Object(kept.cloned().collect())
        }
        other => other.clone(),
    };
    document_difference(&json, &description)
}

/// The last committed token covers the last committed event. A source that has drained has committed its own marker, so
/// the token is at or behind it.
fn judge_token(
    expected: &Expected,
    seen: &HashMap<&str, &KafkaRecord>,
    evidence: &Evidence,
    violations: &mut Violations,
) {
    let Some(last) = expected.events.iter().rev().find(|event| seen.contains_key(event.id.as_str())) else {
        return;
    };
    let topic = evidence.topics.tokens();
    let records = evidence.kafka.records(&topic);
    let own = records.filter(|record| record.key.as_deref() == Some(evidence.topics.source_id().as_bytes()));
    let Some(token) = own.max_by_key(|record| record.offset) else {
        violations
            .add(ViolationKind::TornToken, format!("{topic} has no token although events are committed"));
        return;
    };
    let value = Json::parse(token.value.as_deref().unwrap_or_default());
    let data = value.as_ref().ok().and_then(|value| value.get("token")?.get("_data")?.as_text());
    match data {
        // The bytes of `_data` sort as the stream does.
        Some(data) if data >= last.id.as_str() => {}
        Some(data) => violations.add(
            ViolationKind::TornToken,
            format!("{}: token {data} lies before the committed event {}", place(token), last.id),
        ),
        None => violations.add(ViolationKind::TornToken, format!("{}: no token can be read", place(token))),
    }
}

pub(super) fn place(record: &KafkaRecord) -> String {
    format!("{}/{}@{}", record.topic, record.partition, record.offset)
}

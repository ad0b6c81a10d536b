//! When collections were dropped or got another name: no row of their own says so, only the control topic does.
//!
//! ```text
//!   the lake's _control/   |-------- archived --------|
//!   Kafka's control topic            (expired)   |-----------------|  read on in every round
//! ```
//!
//! What the lake has is read once, however long ago Kafka has expired it; then Kafka is read from where that ended. So all definitions are
//! known up to the end of the topic, whoever asks, and how long Kafka keeps them does not matter.

use std::collections::{BTreeMap, HashMap};

use rdkafka::message::BorrowedMessage;
use serde::Deserialize;
use shared::{
    cluster_time::{ClusterTime, TimestampJson},
    kafka_position::{KafkaOffset, TopicPartition},
    namespace::Namespace,
};

use super::topic_lines::TopicLines;
use crate::{
    gaps::gaps,
    head::Head,
    hours::expired::expired,
    kafka_log::{KafkaLog, LogError},
    lake_layout::OpenLake,
    look_again::look_again,
    look_error::LookError,
    partition::view_of,
    standing::standing,
    topic_content::TopicContent,
    topic_identity::AnotherTopic,
    topic_reader::TopicReader,
};

/// The control topic's only one.
const PARTITION: i32 = 0;

/// See the module.
pub(super) struct Drops<'a> {
    lake: &'a OpenLake,
    log: &'a KafkaLog,
    reader: &'a TopicReader,
    control: TopicPartition,
    /// Up to where Kafka was read; `None` until the lake was.
    read_to: Option<KafkaOffset>,
    /// The last one of each collection that is compared.
    last: HashMap<Namespace, Option<ClusterTime>>,
    /// Why earlier ones may not be known, for people.
    unknown: Vec<String>,
}

impl<'a> Drops<'a> {
    pub(super) fn new(
        lake: &'a OpenLake,
        log: &'a KafkaLog,
        reader: &'a TopicReader,
        control: &str,
        collections: impl Iterator<Item = Namespace>,
    ) -> Self {
        let control = TopicPartition::new(control, PARTITION);
        let last = collections.map(|namespace| (namespace, None)).collect();
        Self { lake, log, reader, control, read_to: None, last, unknown: Vec::new() }
    }

    /// The last time at which a collection ended, as far as was read.
    pub(super) fn last_of(&self, content: &TopicContent) -> Option<ClusterTime> {
        self.last.get(content.namespace()?).copied().flatten()
    }

    /// What could not be read, and would have to be known to be sure of collections that were dropped.
    pub(super) fn unknown(&self) -> &[String] {
        &self.unknown
    }

    /// Reads what has come since, up to the topic's end of now.
    ///
    /// # Errors
    /// If Kafka or the lake does not say.
    pub(super) async fn read_on(&mut self) -> Result<(), LookError> {
        // Before the lake is read: what Kafka expires meanwhile is there by then.
        let log = match (self.log.start(&self.control).await, self.log.end(&self.control).await) {
            (Ok(start), Ok(end)) => Some((start, end)),
            (Err(LogError::NoTopic(_)), _) | (_, Err(LogError::NoTopic(_))) => None,
            (Err(error), _) | (_, Err(error)) => return Err(error.into()),
        };
        let from = match self.read_to {
            Some(read_to) => read_to,
            None => self.read_lake(log.map(|(start, _)| start)).await?,
        };
        self.read_to = Some(from);
        let Some((start, end)) = log else { return Ok(()) };
        let mut records = self.reader.read(&self.control, from.max(start), end)?;
        while let Some(record) = records.next_record()? {
            if let Some((namespace, time)) = ending_of_record(&record) {
                note(&mut self.last, &namespace, time);
            }
        }
        self.read_to = Some(from.max(end));
        Ok(())
    }

    /// Everything that is archived; where Kafka goes on.
    async fn read_lake(&mut self, log_start: Option<KafkaOffset>) -> Result<KafkaOffset, LookError> {
        let topic = &self.control.topic;
        // Before the files are listed: they hold whatever lies before it.
        let standing = look_again(async || standing(self.lake, &self.control).await).await?;
        let Some(standing) = standing else {
            let start = log_start.unwrap_or_default();
            if start > KafkaOffset::ZERO {
                self.unknown.push(format!(
                    "the lake has nothing of {topic}, and Kafka no longer has what lies before offset {start}"
                ));
            }
            return Ok(start);
        };
        let last = &mut self.last;
        let mut lines = TopicLines::new(self.lake, topic, &TopicContent::Control);
        lines
            .read_on(|line| {
                if let Some((namespace, time)) = ending_of_line(line) {
                    note(last, &namespace, time);
                }
                Ok(())
            })
            .await?;
        let reached = standing.position.max(lines.read_to(PARTITION));
        self.ask_what_is_missing(&standing.head).await?;
        let Some(log_start) = log_start else { return Ok(reached) };
        let another = self.another_topic(&standing.head).await?;
        let (from, missing) = behind_the_archive(&self.control.topic, reached, log_start, another);
        self.unknown.extend(missing);
        Ok(from)
    }

    async fn ask_what_is_missing(&mut self, head: &Head) -> Result<(), LookError> {
        let topic = &self.control.topic;
        if head.start > KafkaOffset::ZERO {
            self.unknown.push(format!("the archive of {topic} begins at offset {}", head.start));
        }
        if let Some((expired, _)) = look_again(async || expired(self.lake, topic).await).await? {
            self.unknown.push(format!("hours of {topic} before {} were removed by `expire`", expired.before));
        }
        let gaps = look_again(async || gaps(self.lake, topic).await).await?;
        let lost = gaps.map_or(0, |(gaps, _)| gaps.lost_of(PARTITION));
        if lost > 0 {
            self.unknown.push(format!("{lost} offsets of {topic} were given up as lost"));
        }
        Ok(())
    }

    /// Kafka's topic is another one: its offsets say nothing of those of the archive.
    async fn another_topic(&self, head: &Head) -> Result<Option<AnotherTopic>, LookError> {
        let identities = self.log.identities(vec![self.control.topic.clone()]).await?;
        let now = identities.get(&self.control.topic);
        Ok(now.and_then(|now| head.topic_identity().check(now).err()))
    }
}

/// Where Kafka is read on, and what is missing between it and the archive.
fn behind_the_archive(
    topic: &str,
    reached: KafkaOffset,
    log_start: KafkaOffset,
    another: Option<AnotherTopic>,
) -> (KafkaOffset, Option<String>) {
    if let Some(another) = another {
        let missing = format!(
            "{topic}: {another}; the lake has the first one up to offset {reached}, and Kafka this one from {log_start} on"
        );
        return (log_start, Some(missing));
    }
    let missing = (log_start > reached)
        .then(|| format!("{topic} is archived up to offset {reached}, and Kafka has it from {log_start} on"));
    (reached, missing)
}

/// Of collections that are compared only: how many others were ever dropped takes no memory.
fn note(last: &mut HashMap<Namespace, Option<ClusterTime>>, namespace: &Namespace, time: ClusterTime) {
    if let Some(known) = last.get_mut(namespace) {
        *known = (*known).max(Some(time));
    }
}

/// Operations after which none of the collection's documents is there under its name.
fn is_ending(operation: &str) -> bool {
    matches!(operation, "drop" | "rename")
}

/// By the headers alone, which do not depend on the format of values.
fn ending_of_record(message: &BorrowedMessage<'_>) -> Option<(Namespace, ClusterTime)> {
    let record = view_of(message);
    if !is_ending(record.operation?) {
        return None;
    }
    let time = ClusterTime::parse(record.cluster_time?)?;
    Some((Namespace::new(record.database?, record.collection?), time))
}

/// Of an archived definition, which is an envelope. Lines of another form say nothing.
fn ending_of_line(line: &[u8]) -> Option<(Namespace, ClusterTime)> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(rename = "_meta")]
        meta: Meta,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Meta {
        operation_type: String,
        ns: Option<BTreeMap<String, String>>,
        cluster_time: TimestampJson,
    }
    let Line { meta } = serde_json::from_slice(line).ok()?;
    let mut ns = meta.ns.filter(|_| is_ending(&meta.operation_type))?;
    Some((Namespace::new(ns.remove("db")?, ns.remove("coll")?), meta.cluster_time.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archived_definition_says_which_collection_ended_and_when() {
        let line = |operation: &str, ns: &str| {
            let line = format!(
                r#"{{"_meta":{{"eventId":"82","operationType":"{operation}","ns":{ns},"clusterTime":{{"$timestamp":{{"t":9,"i":2}}}},"wallTime":null}},"documentKey":null,"fullDocument":null,"to":{{"db":"a","coll":"c"}},"_kafka":{{}}}}"#
            );
            ending_of_line(line.as_bytes())
        };
        let orders = r#"{"db":"shop","coll":"orders"}"#;
        let ended = Some((Namespace::new("shop", "orders"), ClusterTime::new(9, 2)));
        assert_eq!(line("drop", orders), ended);
        assert_eq!(line("rename", orders), ended);
        assert_eq!(line("create", orders), None);
        // `drop` of each collection comes before it.
        assert_eq!(line("dropDatabase", r#"{"db":"shop"}"#), None);
        assert_eq!(line("gap", "null"), None);
        assert_eq!(ending_of_line(b"{\"a\":1}"), None);
    }

    #[test]
    fn what_is_missing_behind_the_archive_is_said() {
        let at = KafkaOffset::new;
        let of = |log_start, another| behind_the_archive("atlas.control", at(9), at(log_start), another);
        assert_eq!(of(0, None), (at(9), None));
        assert_eq!(of(9, None), (at(9), None));
        let (from, expired) = of(12, None);
        assert_eq!(from, at(9));
        assert!(expired.is_some_and(|what| what.contains("up to offset 9, and Kafka has it from 12 on")));
        // A regression: nothing was said.
        let another = AnotherTopic::MadeAgain { expected: "a".to_owned(), found: "b".to_owned() };
        let (from, gone) = of(0, Some(another));
        assert_eq!(from, at(0));
        assert!(
            gone.is_some_and(|what| what.contains("atlas.control: the topic was deleted and made again"))
        );
    }

    #[test]
    fn only_collections_that_are_compared_are_remembered() {
        let orders = Namespace::new("shop", "orders");
        let mut last = HashMap::from([(orders.clone(), None)]);
        for (namespace, seconds) in [(&orders, 5), (&orders, 9), (&orders, 7), (&Namespace::new("a", "b"), 9)]
        {
            note(&mut last, namespace, ClusterTime::new(seconds, 1));
        }
        assert_eq!(last, HashMap::from([(orders, Some(ClusterTime::new(9, 1)))]));
    }
}

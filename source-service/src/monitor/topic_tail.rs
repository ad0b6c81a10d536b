//! Follows topics, committed records only, without a group: nothing is committed, and nobody's position moves.
//!
//! The topics are those under the prefix, or the ones named. They are looked for again while it runs, so that a new collection is seen.
//! With an end, reading stops at the high watermarks taken at the start; what of that is still in an open transaction is waited for.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers as _},
};
use shared::{
    avro,
    cluster_time::ClusterTime,
    exit::{ExitCode, Stop},
    kafka_client::{self, FIRST_CONTACT_LIMIT},
    topic_name::{DataTopic, TopicNames},
    wire::header,
};

use super::{
    Begin, Turn,
    event_view::{Observed, Place, TOMBSTONE},
    filter::{Filter, matches},
};
use crate::{
    kafka_log::{KafkaLog, LogContext, LogError, Partition},
    settings::TopicMonitorSettings,
};

/// How often new topics and partitions are looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// So many records make a turn, so that the screen is drawn and a signal is seen.
const TURN_RECORDS_MAX: usize = 500;
/// Of a record that neither its headers nor its value tell anything about.
const RECORD: &str = "record";
/// The header by which a dead letter says why it is one.
const DEAD_LETTER_REASON: &str = "dlq-reason";

pub(super) struct TopicTail {
    consumer: BaseConsumer<LogContext>,
    log: KafkaLog,
    choice: Choice,
    known: BTreeSet<(String, i32)>,
    /// With an end: what is not reached yet.
    open: Option<BTreeMap<(String, i32), i64>>,
    looked: Instant,
    text: Texts,
}

/// Texts that are put together for a record.
#[derive(Default)]
struct Texts {
    namespace: String,
    /// The JSON of a value in Avro.
    json: Vec<u8>,
}

/// Which topics are read.
struct Choice {
    names: TopicNames,
    /// Patterns; empty for data and control under the prefix.
    topics: Vec<String>,
    filter: Filter,
}

impl Choice {
    fn takes(&self, topic: &str) -> bool {
        if !self.topics.is_empty() {
            return self.topics.iter().any(|pattern| matches(pattern, topic));
        }
        match self.names.decode(topic) {
            Some(DataTopic::Named(namespace)) => self.filter.lets_namespace(&namespace.to_string()),
            // The records say which collection it is.
            Some(DataTopic::Cut) => true,
            None => topic == self.names.control(),
        }
    }
}

impl TopicTail {
    pub(super) fn start(
        settings: &TopicMonitorSettings,
        topics: &[String],
        filter: &Filter,
        from: &Begin,
        until_end: bool,
    ) -> Result<Self, Stop> {
        kafka_client::connect_check(&settings.kafka, FIRST_CONTACT_LIMIT)?;
        let refused = |error: KafkaError| {
            let text = format!("the Kafka client refuses its configuration: {error}; see KAFKA_OPTIONS");
            Stop::new(ExitCode::Configuration, text)
        };
        let mut config = settings.kafka.client_config("atlas-monitor");
        let log = KafkaLog::new(&config, "monitor").map_err(refused)?;
        config
            // `assign` needs a name; no group is joined and no offset is committed.
            .set("group.id", "atlas-monitor")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .set("allow.auto.create.topics", "false")
            .set("fetch.queue.backoff.ms", "100")
            .set("queued.max.messages.kbytes", "16384");
        let consumer = config.create_with_context(LogContext).map_err(refused)?;
        let choice =
            Choice { names: settings.names.clone(), topics: topics.to_vec(), filter: filter.clone() };
        let mut tail = Self {
            consumer,
            log,
            choice,
            known: BTreeSet::new(),
            open: None,
            looked: Instant::now(),
            text: Texts::default(),
        };
        let partitions = tail.partitions()?;
        tail.refuse_unknown(topics, &partitions)?;
        tail.assign_first(partitions, from, until_end)?;
        Ok(tail)
    }

    /// For people: what is read.
    pub(super) fn describe(&self) -> String {
        let topics: BTreeSet<&str> = self.known.iter().map(|(topic, _)| topic.as_str()).collect();
        format!("{} topics, {} partitions", topics.len(), self.known.len())
    }

    /// Hands over what is there, after waiting for it at most `limit`.
    ///
    /// # Errors
    /// What no waiting heals.
    pub(super) fn turn(
        &mut self,
        limit: Duration,
        take: &mut impl FnMut(&Observed<'_>),
    ) -> Result<Turn, Stop> {
        if self.open.as_ref().is_some_and(BTreeMap::is_empty) {
            return Ok(Turn::End);
        }
        if self.open.is_none() && self.looked.elapsed() >= LOOK_AGAIN {
            self.assign_new()?;
        }
        let mut wait = limit;
        for _ in 0..TURN_RECORDS_MAX {
            let Some(message) = self.consumer.poll(wait) else {
                self.pass_markers()?;
                return Ok(Turn::Idle);
            };
            wait = Duration::ZERO;
            match message {
                Ok(message) => {
                    let wanted = match self.open.as_mut() {
                        Some(open) => reached(open, message.topic(), message.partition(), message.offset()),
                        None => true,
                    };
                    if wanted {
                        take(&observed(&self.choice, &message, &mut self.text));
                    }
                }
                Err(error) => judge(&error)?,
            }
        }
        Ok(Turn::More)
    }

    fn partitions(&self) -> Result<Vec<Partition>, Stop> {
        self.log.partitions(|topic| self.choice.takes(topic)).map_err(|error| log_stop(&error))
    }

    fn refuse_unknown(&self, topics: &[String], partitions: &[Partition]) -> Result<(), Stop> {
        let has = |pattern: &&String| partitions.iter().any(|found| matches(pattern, &found.topic));
        match topics.iter().find(|pattern| !has(pattern)) {
            Some(pattern) => {
                let text = format!("there is no topic {pattern} in Kafka (or this user may not see it)");
                Err(Stop::new(ExitCode::Configuration, text))
            }
            None => Ok(()),
        }
    }

    fn assign_first(
        &mut self,
        partitions: Vec<Partition>,
        from: &Begin,
        until_end: bool,
    ) -> Result<(), Stop> {
        let failed = |error: LogError| log_stop(&error);
        let at_time: BTreeMap<(String, i32), i64> = match from {
            Begin::Time(time) => {
                let found = self.log.offsets_at(&partitions, time.to_millis()).map_err(failed)?;
                found.into_iter().map(|(place, offset)| ((place.topic, place.partition), offset)).collect()
            }
            Begin::End | Begin::Earliest | Begin::Token(_) => BTreeMap::new(),
        };
        let mut assignment = TopicPartitionList::with_capacity(partitions.len());
        let mut open = BTreeMap::new();
        for Partition { topic, partition } in partitions {
            let (low, high) = self.log.ends(&topic, partition).map_err(failed)?;
            let begin = match from {
                Begin::Earliest => low,
                // What is in an open transaction now will be news.
                Begin::End if !until_end => self.log.stable_end(&topic, partition).map_err(failed)?,
                Begin::End => high,
                Begin::Time(_) => at_time.get(&(topic.clone(), partition)).copied().unwrap_or(high).max(low),
                Begin::Token(_) => {
                    let text = "--from token:… is a place in the change stream: it needs --stream";
                    return Err(Stop::new(ExitCode::Usage, text));
                }
            };
            add(&mut assignment, &topic, partition, begin)?;
            if begin < high {
                open.insert((topic.clone(), partition), high);
            }
            self.known.insert((topic, partition));
        }
        self.consumer.assign(&assignment).map_err(|error| kafka_stop(&error))?;
        self.open = until_end.then_some(open);
        Ok(())
    }

    /// Topics and partitions that came after the start are read from their beginning: all of it is news.
    fn assign_new(&mut self) -> Result<(), Stop> {
        self.looked = Instant::now();
        let Ok(partitions) = self.log.partitions(|topic| self.choice.takes(topic)) else { return Ok(()) };
        let mut new = TopicPartitionList::new();
        for Partition { topic, partition } in partitions {
            if self.known.insert((topic.clone(), partition)) {
                add(&mut new, &topic, partition, 0)?;
            }
        }
        if new.count() > 0 {
            self.consumer.incremental_assign(&new).map_err(|error| kafka_stop(&error))?;
        }
        Ok(())
    }

    /// Behind the last record before an end there may be transaction markers only: the position passes them.
    fn pass_markers(&mut self) -> Result<(), Stop> {
        let Some(open) = self.open.as_mut() else { return Ok(()) };
        let positions = self.consumer.position().map_err(|error| kafka_stop(&error))?;
        for element in positions.elements() {
            if let Offset::Offset(next) = element.offset() {
                reached(open, element.topic(), element.partition(), next - 1);
            }
        }
        Ok(())
    }
}

/// Everything up to this offset was read. Returns whether the offset lies before the partition's end.
fn reached(open: &mut BTreeMap<(String, i32), i64>, topic: &str, partition: i32, offset: i64) -> bool {
    let place = (topic.to_owned(), partition);
    let Some(end) = open.get(&place).copied() else { return false };
    if offset + 1 >= end {
        open.remove(&place);
    }
    offset < end
}

fn observed<'m>(
    choice: &Choice,
    message: &'m BorrowedMessage<'_>,
    Texts { namespace, json }: &'m mut Texts,
) -> Observed<'m> {
    let text = |name: &str| {
        let headers = message.headers()?;
        std::str::from_utf8(headers.iter().find(|header| header.key == name)?.value?).ok()
    };
    *namespace = match (text(header::DATABASE), text(header::COLLECTION)) {
        (Some(db), Some(coll)) => format!("{db}.{coll}"),
        (Some(db), None) => db.to_owned(),
        // An event of ours that is about nothing in particular, such as a gap marker.
        (None, _) if text(header::EVENT_ID).is_some() => String::new(),
        (None, _) => match choice.names.decode(message.topic()) {
            Some(DataTopic::Named(namespace)) => namespace.to_string(),
            Some(DataTopic::Cut) | None => message.topic().to_owned(),
        },
    };
    let operation = match text(header::OPERATION_TYPE) {
        Some(operation) => operation,
        None if message.payload().is_none() => TOMBSTONE,
        None => text(DEAD_LETTER_REASON).unwrap_or(RECORD),
    };
    Observed {
        namespace,
        operation,
        key: message.key().unwrap_or_default(),
        cluster_time: text(header::CLUSTER_TIME).and_then(ClusterTime::parse),
        value: message.payload().map(|value| as_json(value, json)),
        place: Some(Place {
            topic: message.topic(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
        }),
    }
}

/// A value in Avro as JSON, without asking a registry: what does not have the form of our schema stays as it is.
fn as_json<'m>(value: &'m [u8], json: &'m mut Vec<u8>) -> &'m [u8] {
    json.clear();
    match avro::split(value).map(|(_, datum)| avro::write_json(datum, json)) {
        Some(Ok(())) => json,
        Some(Err(_)) | None => value,
    }
}

fn add(list: &mut TopicPartitionList, topic: &str, partition: i32, offset: i64) -> Result<(), Stop> {
    list.add_partition_offset(topic, partition, Offset::Offset(offset)).map_err(|error| kafka_stop(&error))
}

/// The client heals lost connections by itself, and a topic that was deleted is no reason to leave the others.
fn judge(error: &KafkaError) -> Result<(), Stop> {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        // That a group may not be asked for is no matter: none is used.
        Some(Code::TopicAuthorizationFailed | Code::SaslAuthenticationFailed | Code::Fatal) => {
            Err(kafka_stop(error))
        }
        _ => {
            tracing::debug!(%error, "while reading");
            Ok(())
        }
    }
}

fn kafka_stop(error: &KafkaError) -> Stop {
    let denied = matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed)
    );
    let code = if denied { ExitCode::NotAllowed } else { ExitCode::Unreachable };
    Stop::new(code, format!("Kafka: {error}"))
}

fn log_stop(error: &LogError) -> Stop {
    match error {
        LogError::NotAllowed { .. } => Stop::new(ExitCode::NotAllowed, error.to_string()),
        LogError::Kafka { doing, cause } => {
            let stop = kafka_stop(cause);
            Stop::new(stop.code, format!("{doing}: {}", stop.message))
        }
        LogError::Silent(_) | LogError::Unlisted(_) | LogError::Interrupted => {
            Stop::new(ExitCode::Unreachable, error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn choice(topics: &[&str], namespaces: &[&str]) -> Choice {
        let list = |items: &[&str]| items.iter().map(ToString::to_string).collect();
        Choice {
            names: TopicNames::new("atlas").unwrap(),
            topics: list(topics),
            filter: Filter { namespaces: list(namespaces), ..Filter::default() },
        }
    }

    #[test]
    fn without_a_choice_all_that_happened_is_read() {
        let takes = |topic: &str| choice(&[], &[]).takes(topic);
        assert!(takes("atlas.shop.orders") && takes("atlas.control"));
        assert!(!takes("atlas.dlq") && !takes("atlas.resume-tokens-default") && !takes("other.shop.orders"));
    }

    #[test]
    fn what_cannot_hold_a_wanted_namespace_is_not_read() {
        let choice = choice(&[], &["shop.*"]);
        assert!(choice.takes("atlas.shop.orders") && choice.takes("atlas.shop.a-x2eb"));
        assert!(choice.takes("atlas.control") && !choice.takes("atlas.crm.people"));
    }

    #[test]
    fn a_topic_that_is_named_is_read_whatever_it_is() {
        let choice = choice(&["atlas.dlq", "other.*"], &[]);
        assert!(choice.takes("atlas.dlq") && choice.takes("other.shop.orders"));
        assert!(!choice.takes("atlas.shop.orders"));
    }

    #[test]
    fn an_end_is_reached_by_its_last_record_or_by_what_lies_behind_it() {
        let mut open = BTreeMap::from([(("t".to_owned(), 0), 10), (("t".to_owned(), 1), 5)]);
        assert!(reached(&mut open, "t", 0, 3) && open.len() == 2);
        assert!(reached(&mut open, "t", 0, 9) && open.len() == 1);
        assert!(!reached(&mut open, "t", 0, 10), "behind the end");
        assert!(!reached(&mut open, "t", 1, 5) && open.is_empty());
    }
}

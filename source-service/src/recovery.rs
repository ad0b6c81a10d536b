//! What is really in Kafka: read after every start and after every doubt. This is what makes the promise exact.
//!
//! ```text
//!  init_transactions        ends and fences what an earlier producer of this id left open
//!    └▶ token topic          read_committed, up to the HIGH watermark taken after it
//!         └▶ tails           the last committed own record of every partition under the prefix
//! ```
//!
//! A commit that returned OK can have been torn by a late EndTxn: events committed, their token not. The token alone would then read
//! these events again. Hence the tails: events at or before a partition's tail are not sent again to it. Event ids of one source
//! and run rise within a partition, so one id per partition says it all.
//!
//! Reading stays cheap, because it does not depend on how much the topics hold: a search by the token's time rules out every
//! partition without newer records, and the others are read backwards in windows that double.

use std::collections::{BTreeMap, HashMap};

use rdkafka::message::{Headers as _, Message};
use shared::{
    exit::{ExitCode, Stop},
    topic_name::TopicNames,
    wire::header,
};

use crate::{
    kafka_log::{KafkaLog, LogError, Partition, Range},
    token_record::{TOPIC_KEY_PREFIX, TokenRecord, TopicRecord},
};

/// Offsets in the first window; each further one is twice as large.
const FIRST_WINDOW: i64 = 16;
/// Without a token everything is read, so the first window may be large.
const FIRST_WINDOW_WITHOUT_TOKEN: i64 = 4096;

/// What the token topic holds.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// `None` at the very first start.
    pub token: Option<TokenRecord>,
    /// The newest record of the position, a tombstone too.
    pub written: Option<Written>,
    pub topics: BTreeMap<String, TopicRecord>,
}

/// Where and when a record was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub offset: i64,
    /// By the writer's clock, in milliseconds since 1970.
    pub at_ms: Option<i64>,
}

/// Reads the token topic whole.
///
/// # Errors
/// [`ReadError::Stop`] if a record cannot be used.
pub fn read_tokens(
    log: &KafkaLog,
    topic: &str,
    source_id: &str,
    waiting: impl FnMut() -> bool,
) -> Result<Remembered, ReadError> {
    let (start, end) = log.ends(topic, 0)?;
    log.wait_until_decided(topic, 0, end, waiting)?;
    let mut remembered = Remembered::default();
    let mut unusable = None;
    log.read(topic, &[Range { partition: 0, from: start, to: end }], |message| {
        let (Some(key), offset) = (message.key(), message.offset()) else { return };
        if let Err(error) = remember(&mut remembered, source_id, key, message.payload()) {
            unusable = Some(format!("record {offset} of topic {topic} cannot be used: {error}"));
        }
        if key == source_id.as_bytes() {
            remembered.written = Some(Written { offset, at_ms: message.timestamp().to_millis() });
        }
    })?;
    match unusable {
        Some(text) => Err(ReadError::Stop(Stop::new(
            ExitCode::Configuration,
            format!("{text}. It was written by another program or a newer version"),
        ))),
        None => Ok(remembered),
    }
}

fn remember(
    remembered: &mut Remembered,
    source_id: &str,
    key: &[u8],
    value: Option<&[u8]>,
) -> Result<(), crate::token_record::UnusableRecord> {
    if key == source_id.as_bytes() {
        remembered.token = value.map(TokenRecord::from_json).transpose()?;
    } else if let Some(topic) =
        std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(TOPIC_KEY_PREFIX))
    {
        match value {
            Some(value) => remembered.topics.insert(topic.to_owned(), TopicRecord::from_json(value)?),
            None => remembered.topics.remove(topic),
        };
    }
    // Other keys are a newer version's business.
    Ok(())
}

/// Why the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Stop(Stop),
}

/// The event id of the last committed own record of each partition that may hold some newer than the token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tails {
    by_partition: HashMap<String, HashMap<i32, String>>,
    highest: String,
}

impl Tails {
    fn insert(&mut self, topic: &str, partition: i32, event_id: String) {
        if event_id > self.highest {
            self.highest.clone_from(&event_id);
        }
        self.by_partition.entry(topic.to_owned()).or_default().insert(partition, event_id);
    }

    /// Whether an event may still be committed already. Once it is not, none after it is.
    pub fn may_hold(&self, event_id: &str) -> bool {
        event_id.as_bytes() <= self.highest.as_bytes()
    }

    /// Whether this event is committed in this partition already.
    pub fn holds(&self, topic: &str, partition: i32, event_id: &str) -> bool {
        let tail = self.by_partition.get(topic).and_then(|partitions| partitions.get(&partition));
        tail.is_some_and(|tail| event_id.as_bytes() <= tail.as_bytes())
    }

    pub fn is_empty(&self) -> bool {
        self.by_partition.is_empty()
    }

    pub fn len(&self) -> usize {
        self.by_partition.values().map(HashMap::len).sum()
    }
}

/// Which topics may hold own records.
#[derive(Clone, Debug)]
pub struct OwnTopics<'a> {
    pub names: &'a TopicNames,
    pub dead_letters: &'a str,
}

impl OwnTopics<'_> {
    fn holds(&self, topic: &str) -> bool {
        self.names.decode(topic).is_some() || topic == self.names.control() || topic == self.dead_letters
    }
}

/// The tails of all partitions under the prefix, those of topics that this process does not know included.
///
/// `own` is the `source` header of this source and run. `waiting` is told which partition is held back by an open
/// transaction, and says whether to go on.
///
/// # Errors
/// See [`LogError`].
pub fn read_tails(
    log: &KafkaLog,
    topics: &OwnTopics<'_>,
    own: &str,
    token_time_ms: i64,
    mut waiting: impl FnMut(&Partition) -> bool,
) -> Result<Tails, LogError> {
    let partitions = log.partitions(|topic| topics.holds(topic))?;
    let found = log.offsets_at(&partitions, token_time_ms)?;
    let mut tails = Tails::default();
    for (topic, partitions) in by_topic(found) {
        let mut backwards = Vec::with_capacity(partitions.len());
        for (partition, floor) in partitions {
            let (start, end) = log.ends(&topic, partition)?;
            let place = Partition { topic: topic.clone(), partition };
            log.wait_until_decided(&topic, partition, end, || waiting(&place))?;
            backwards.push(Backwards { partition, floor: floor.max(start), end, window: FIRST_WINDOW });
        }
        last_own(log, &topic, own, backwards, &mut tails)?;
    }
    Ok(tails)
}

/// Whether there are records of this source, of any run, although it has no token.
///
/// Reads every partition under the prefix from its end to its start, until it finds one: without a token nothing tells how
/// far back own records may lie. It happens once in a source's life, and only beside topics that others have filled.
/// `waiting` is told which partition is being read or is held back, and says whether to go on.
///
/// # Errors
/// See [`LogError`].
pub fn own_record_without_token(
    log: &KafkaLog,
    topics: &OwnTopics<'_>,
    source_id: &str,
    mut waiting: impl FnMut(&Partition) -> bool,
) -> Result<Option<Partition>, LogError> {
    for place in log.partitions(|topic| topics.holds(topic))? {
        if last_own_run(log, &place, source_id, &mut waiting)?.is_some() {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// The highest run of this source that has records under the prefix; for a source without a token. As
/// [`own_record_without_token`], but no partition is left out.
///
/// # Errors
/// See [`LogError`].
pub fn highest_own_run(
    log: &KafkaLog,
    topics: &OwnTopics<'_>,
    source_id: &str,
    mut waiting: impl FnMut(&Partition) -> bool,
) -> Result<Option<u32>, LogError> {
    let mut highest = None;
    for place in log.partitions(|topic| topics.holds(topic))? {
        highest = highest.max(last_own_run(log, &place, source_id, &mut waiting)?);
    }
    Ok(highest)
}

/// The run of the last own record of a partition, read backwards.
fn last_own_run(
    log: &KafkaLog,
    place: &Partition,
    source_id: &str,
    waiting: &mut impl FnMut(&Partition) -> bool,
) -> Result<Option<u32>, LogError> {
    let Partition { topic, partition } = place;
    let (start, end) = log.ends(topic, *partition)?;
    log.wait_until_decided(topic, *partition, end, || waiting(place))?;
    let first = Backwards { partition: *partition, floor: start, end, window: FIRST_WINDOW_WITHOUT_TOKEN };
    let mut search = (start < end).then_some(first);
    while let Some(step) = search {
        let mut found = None;
        log.read(topic, &[step.range()], |message| {
            // In order of offsets, so the last one stays.
            found = header_of(message, header::SOURCE).and_then(|source| run_of(source, source_id)).or(found);
        })?;
        if found.is_some() {
            return Ok(found);
        }
        if !waiting(place) {
            return Err(LogError::Interrupted);
        }
        search = step.step();
    }
    Ok(None)
}

/// Of a `source` header, if it is this source's.
fn run_of(header: &[u8], source_id: &str) -> Option<u32> {
    let run = header.strip_prefix(source_id.as_bytes())?.strip_prefix(b"/")?;
    // One that cannot be read is ours all the same.
    Some(std::str::from_utf8(run).ok().and_then(|run| run.parse().ok()).unwrap_or(0))
}

/// The search in one partition: `end` moves down to `floor`, window by window.
struct Backwards {
    partition: i32,
    floor: i64,
    end: i64,
    window: i64,
}

impl Backwards {
    fn range(&self) -> Range {
        Range { partition: self.partition, from: self.floor.max(self.end - self.window), to: self.end }
    }

    /// `None` when there is nothing below.
    fn step(self) -> Option<Self> {
        let end = self.range().from;
        (end > self.floor).then_some(Self { end, window: self.window * 2, ..self })
    }
}

fn last_own(
    log: &KafkaLog,
    topic: &str,
    own: &str,
    mut backwards: Vec<Backwards>,
    tails: &mut Tails,
) -> Result<(), LogError> {
    backwards.retain(|search| search.floor < search.end);
    while !backwards.is_empty() {
        let ranges: Vec<Range> = backwards.iter().map(Backwards::range).collect();
        let mut found: HashMap<i32, String> = HashMap::new();
        log.read(topic, &ranges, |message| {
            if header_of(message, header::SOURCE) != Some(own.as_bytes()) {
                return;
            }
            if let Some(id) = header_of(message, header::EVENT_ID).and_then(|id| std::str::from_utf8(id).ok())
            {
                // In order of offsets, so the last one stays.
                found.insert(message.partition(), id.to_owned());
            }
        })?;
        backwards.retain(|search| !found.contains_key(&search.partition));
        for (partition, event_id) in found {
            tails.insert(topic, partition, event_id);
        }
        backwards = backwards.into_iter().filter_map(Backwards::step).collect();
    }
    Ok(())
}

fn by_topic(found: Vec<(Partition, i64)>) -> BTreeMap<String, Vec<(i32, i64)>> {
    let mut topics: BTreeMap<String, Vec<(i32, i64)>> = BTreeMap::new();
    for (Partition { topic, partition }, offset) in found {
        topics.entry(topic).or_default().push((partition, offset));
    }
    topics
}

fn header_of<'m>(message: &'m impl Message, name: &str) -> Option<&'m [u8]> {
    message.headers()?.iter().find(|header| header.key == name)?.value
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_run_is_read_from_its_own_header_only() {
        assert_eq!(run_of(b"orders/12", "orders"), Some(12));
        assert_eq!(run_of(b"orders/x", "orders"), Some(0));
        assert_eq!((run_of(b"orders-eu/1", "orders"), run_of(b"orders", "orders")), (None, None));
    }

    #[test]
    fn windows_double_and_end_at_the_floor() {
        let mut search = Some(Backwards { partition: 0, floor: 10, end: 100, window: FIRST_WINDOW });
        let mut ranges = Vec::new();
        while let Some(step) = search {
            let range = step.range();
            ranges.push((range.from, range.to));
            search = step.step();
        }
        assert_eq!(ranges, [(84, 100), (52, 84), (10, 52)]);
    }

    #[test]
    fn a_tail_holds_what_is_at_or_before_it() {
        let mut tails = Tails::default();
        assert!(!tails.may_hold("8266"));
        tails.insert("t", 0, "8266B".to_owned());
        tails.insert("t", 1, "8266D".to_owned());
        assert!(tails.holds("t", 0, "8266B") && tails.holds("t", 0, "8266A"));
        assert!(
            !tails.holds("t", 0, "8266C") && tails.holds("t", 1, "8266C") && !tails.holds("t", 2, "8266A")
        );
        assert!(tails.may_hold("8266D") && !tails.may_hold("8266E"));
        assert_eq!(tails.len(), 2);
    }

    #[test]
    fn the_last_record_of_a_key_holds() {
        let record = |coll: &str| TopicRecord {
            namespace: shared::namespace::Namespace::new("shop", coll),
            form: shared::topic_name::Form::Usual,
            partitions: 3,
        };
        let mut remembered = Remembered::default();
        remember(&mut remembered, "orders", b"topic/atlas.shop.a", Some(&record("a").to_json())).unwrap();
        remember(&mut remembered, "orders", b"topic/atlas.shop.b", Some(&record("b").to_json())).unwrap();
        remember(&mut remembered, "orders", b"topic/atlas.shop.a", None).unwrap();
        remember(&mut remembered, "orders", b"something/new", Some(b"{}")).unwrap();
        assert_eq!(remembered.topics.keys().collect::<Vec<_>>(), ["atlas.shop.b"]);
        assert!(remembered.token.is_none());
        assert!(remember(&mut remembered, "orders", b"orders", Some(b"{}")).is_err());
    }
}

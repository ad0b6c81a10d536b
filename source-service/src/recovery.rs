//! What is really in Kafka: read after every start and after every doubt. This is what makes the promise exact.
//!
//! ```text
//!  init_transactions        ends and fences what an earlier producer of this id left open
//!    └▶ token topic          read_committed, up to the HIGH watermark taken after it
//!         └▶ tails           the last committed own record of every partition that may have one
//! ```
//!
//! A commit that returned OK can have been torn by a late EndTxn: events committed, their token not. The token alone would then read
//! these events again. Hence the tails: events at or before a partition's tail are not sent again to it. Event ids of one source
//! and run rise within a partition, so one id per partition says it all.
//!
//! Reading stays cheap, because it does not depend on how much the topics hold: a search by the token's time rules out every
//! partition without newer records, and the others are read backwards in windows that double up to a bound. While it reads, it is asked
//! every second whether to go on: other sources may have written any amount.

mod rows_ahead;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    time::{Duration, Instant},
};

use rdkafka::message::{BorrowedMessage, Headers as _, Message};
use shared::{
    dead_letter,
    exit::{ExitCode, Stop},
    topic_name::TopicNames,
    wire::header,
};

pub use self::rows_ahead::read_rows_ahead;
use crate::{
    kafka_log::{KafkaLog, LogError, Partition, Range},
    snapshot::{
        plan::{CollectionCopy, SnapshotPlan},
        record::COPY_KEY_PREFIX,
        request::{REQUEST_KEY_PREFIX, SnapshotRequest},
    },
    token_record::{TOPIC_KEY_PREFIX, TokenRecord, TopicRecord},
};

/// Offsets in the first window; each further one is twice as large, up to [`WINDOW_MAX`].
const FIRST_WINDOW: i64 = 16;
/// A window is read forwards and whole, so an own record near its end costs all of it: at most about a second.
const WINDOW_MAX: i64 = 1 << 18;
/// Without a token everything is read, so the first window may be large.
const FIRST_WINDOW_WITHOUT_TOKEN: i64 = 4096;

/// A broker that serves knows of a topic within moments. A start beside a deleted topic takes so much longer.
const HEARD_OF_WITHIN: Duration = Duration::from_millis(500);

/// What the token topic holds.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// `None` at the very first start.
    pub token: Option<TokenRecord>,
    /// The newest record of the position, a tombstone too.
    pub written: Option<Written>,
    pub topics: BTreeMap<String, TopicRecord>,
    pub snapshot: SnapshotPlan,
    /// What operators have asked to be copied, done or not.
    pub requests: Vec<SnapshotRequest>,
    /// Everything below this offset was read.
    pub end: i64,
}

/// Where and when a record was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub offset: i64,
    /// By the writer's clock, in milliseconds since 1970.
    pub at_ms: Option<i64>,
}

/// What recovery is at, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy<'a> {
    /// Another producer's open transaction has to end first.
    HeldBack { topic: &'a str, partition: i32 },
    /// So many offsets of the topic are left, at most.
    Reading { topic: &'a str, left: i64 },
}

impl fmt::Display for Busy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeldBack { topic, partition } => {
                write!(f, "waiting for another producer's open transaction in {topic}/{partition}")
            }
            Self::Reading { topic, left } => write!(f, "reading {topic}, at most {left} offsets left"),
        }
    }
}

/// Reads the token topic whole. `going_on` is told what it is at, and says whether to go on.
///
/// # Errors
/// [`ReadError::Stop`] if a record cannot be used.
pub fn read_tokens(
    log: &KafkaLog,
    topic: &str,
    source_id: &str,
    mut going_on: impl FnMut(Busy<'_>) -> bool,
) -> Result<Remembered, ReadError> {
    let (start, end) = log.ends(topic, 0)?;
    log.wait_until_decided(topic, 0, end, || going_on(Busy::HeldBack { topic, partition: 0 }))?;
    let mut remembered = Remembered { end, ..Remembered::default() };
    let mut unusable = None;
    let whole = Range { partition: 0, from: start, to: end };
    let take = |message: &BorrowedMessage<'_>| {
        let (Some(key), offset) = (message.key(), message.offset()) else { return };
        if let Err(error) = remember(&mut remembered, source_id, key, message.payload()) {
            unusable = Some(format!("record {offset} of topic {topic} cannot be used: {error}"));
        }
        if key == source_id.as_bytes() {
            remembered.written = Some(Written { offset, at_ms: message.timestamp().to_millis() });
        }
    };
    log.read(topic, &[whole], take, |left| going_on(Busy::Reading { topic, left }))?;
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
    } else if let Some(value) = value.filter(|_| key.starts_with(COPY_KEY_PREFIX.as_bytes())) {
        remembered.snapshot.put(CollectionCopy::from_json(value)?);
    } else if let Some(request) = request_of(key, value) {
        remembered.requests.retain(|known| known.namespace != request.namespace);
        remembered.requests.push(request);
    }
    // Other keys are a newer version's business.
    Ok(())
}

/// The request in a record of the token topic, if it is one. What is written there by hand stops no source.
pub fn request_of(key: &[u8], value: Option<&[u8]>) -> Option<SnapshotRequest> {
    let value = value.filter(|_| key.starts_with(REQUEST_KEY_PREFIX.as_bytes()))?;
    match SnapshotRequest::from_json(value) {
        Ok(request) => Some(request),
        Err(error) => {
            tracing::warn!(%error, "a record of the token topic looks like a request for a snapshot and is none");
            None
        }
    }
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

    /// Whether something behind this event, or this position, is committed already.
    pub fn reach_beyond(&self, event_id: &str) -> bool {
        self.highest.as_bytes() > event_id.as_bytes()
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

    /// The tails of a topic's partitions.
    pub fn of(&self, topic: &str) -> impl Iterator<Item = (i32, &str)> {
        let partitions = self.by_partition.get(topic).into_iter().flatten();
        partitions.map(|(partition, id)| (*partition, id.as_str()))
    }

    /// Whether the position with this event id lies behind all of them: then rows read there sort behind them. Chunks at one position
    /// are told apart by their numbers.
    pub fn are_before(&self, position: &str) -> bool {
        self.highest.split('~').next().is_none_or(|base| base.as_bytes() <= position.as_bytes())
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
        self.names.decode(topic).is_some() || self.is_common(topic)
    }

    /// A token without any recorded topic is that of a source that has written nothing yet, or one that somebody put back by hand: then
    /// nothing is known, and all topics are looked at.
    fn may_have_tail(&self, topic: &str, recorded: &BTreeMap<String, TopicRecord>) -> bool {
        if recorded.is_empty() {
            self.holds(topic)
        } else {
            recorded.contains_key(topic) || self.is_common(topic)
        }
    }

    /// Every source writes there, without recording it.
    fn is_common(&self, topic: &str) -> bool {
        topic == self.names.control() || topic == self.dead_letters
    }
}

/// The tails of all partitions under the prefix that may have one, those of topics that this process does not know included.
///
/// `recorded` are the topics in the token topic: their records are committed before their first event, so no other data topic has an own
/// record (`docs/decisions/0008-tails-of-recorded-topics.md`). `own` is the `source` header of this source and run. `going_on` is told
/// what it is at, and says whether to go on.
///
/// # Errors
/// See [`LogError`].
pub fn read_tails(
    log: &KafkaLog,
    topics: &OwnTopics<'_>,
    recorded: &BTreeMap<String, TopicRecord>,
    own: &str,
    token_time_ms: i64,
    mut going_on: impl FnMut(Busy<'_>) -> bool,
) -> Result<Tails, LogError> {
    let partitions = partitions_with_tails(log, topics, recorded)?;
    let found = log.offsets_at(&partitions, token_time_ms)?;
    let mut tails = Tails::default();
    for (topic, partitions) in by_topic(found) {
        let mut backwards = Vec::with_capacity(partitions.len());
        for (partition, floor) in partitions {
            let (start, end) = log.ends(&topic, partition)?;
            let held_back = Busy::HeldBack { topic: &topic, partition };
            log.wait_until_decided(&topic, partition, end, || going_on(held_back))?;
            backwards.push(Backwards { partition, floor: floor.max(start), end, window: FIRST_WINDOW });
        }
        last_own(log, &topic, own, backwards, &mut tails, &mut going_on)?;
    }
    Ok(tails)
}

/// A recorded topic was there once. If the broker does not list it now, it was deleted, or this broker has not heard of it yet, or may not tell
/// of it: only the first is a topic without a tail.
fn partitions_with_tails(
    log: &KafkaLog,
    topics: &OwnTopics<'_>,
    recorded: &BTreeMap<String, TopicRecord>,
) -> Result<Vec<Partition>, LogError> {
    let begun = Instant::now();
    loop {
        let partitions = log.partitions(|topic| topics.may_have_tail(topic, recorded))?;
        let listed: HashSet<&str> = partitions.iter().map(|place| place.topic.as_str()).collect();
        let missing: Vec<&str> =
            recorded.keys().map(String::as_str).filter(|topic| !listed.contains(topic)).collect();
        if missing.is_empty() {
            return Ok(partitions);
        }
        if begun.elapsed() >= HEARD_OF_WITHIN {
            for topic in missing {
                if log.exists(topic)? {
                    return Err(LogError::Unlisted(topic.to_owned()));
                }
                tracing::info!(
                    topic,
                    "was deleted since it was recorded: it has no records that matter any more"
                );
            }
            return Ok(partitions);
        }
        // Polling a condition of another machine; there is nothing to be woken by.
        std::thread::sleep(HEARD_OF_WITHIN / 5);
    }
}

/// Whether there are records of this source, of any run, although it has no token.
///
/// Reads every partition under the prefix from its end to its start, until it finds one: without a token nothing tells how
/// far back own records may lie, nor in which topics. It happens once in a source's life, and only beside topics that others have filled.
/// `going_on` is told what it is at, and says whether to go on.
///
/// # Errors
/// See [`LogError`].
pub fn own_record_without_token(
    log: &KafkaLog,
    topics: &OwnTopics<'_>,
    source_id: &str,
    mut going_on: impl FnMut(Busy<'_>) -> bool,
) -> Result<Option<Partition>, LogError> {
    for place in log.partitions(|topic| topics.holds(topic))? {
        if last_own_run(log, &place, source_id, &mut going_on)?.is_some() {
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
    mut going_on: impl FnMut(Busy<'_>) -> bool,
) -> Result<Option<u32>, LogError> {
    let mut highest = None;
    for place in log.partitions(|topic| topics.holds(topic))? {
        highest = highest.max(last_own_run(log, &place, source_id, &mut going_on)?);
    }
    Ok(highest)
}

/// The run of the last own record of a partition, read backwards.
fn last_own_run(
    log: &KafkaLog,
    place: &Partition,
    source_id: &str,
    going_on: &mut impl FnMut(Busy<'_>) -> bool,
) -> Result<Option<u32>, LogError> {
    let Partition { topic, partition } = place;
    let (start, end) = log.ends(topic, *partition)?;
    let held_back = Busy::HeldBack { topic, partition: *partition };
    log.wait_until_decided(topic, *partition, end, || going_on(held_back))?;
    let first = Backwards { partition: *partition, floor: start, end, window: FIRST_WINDOW_WITHOUT_TOKEN };
    let mut search = (start < end).then_some(first);
    while let Some(step) = search {
        if !going_on(Busy::Reading { topic, left: step.end - step.floor }) {
            return Err(LogError::Interrupted);
        }
        let mut found = None;
        let take = |message: &BorrowedMessage<'_>| {
            // In order of offsets, so the last one stays.
            found = source_of(message).and_then(|source| run_of(source, source_id)).or(found);
        };
        let below = step.below();
        log.read(topic, &[step.range()], take, |left| going_on(Busy::Reading { topic, left: below + left }))?;
        if found.is_some() {
            return Ok(found);
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
        (end > self.floor).then_some(Self { end, window: WINDOW_MAX.min(self.window * 2), ..self })
    }

    /// Offsets that further windows may have to look at.
    fn below(&self) -> i64 {
        self.range().from - self.floor
    }
}

fn last_own(
    log: &KafkaLog,
    topic: &str,
    own: &str,
    mut backwards: Vec<Backwards>,
    tails: &mut Tails,
    going_on: &mut impl FnMut(Busy<'_>) -> bool,
) -> Result<(), LogError> {
    backwards.retain(|search| search.floor < search.end);
    while !backwards.is_empty() {
        let left = backwards.iter().map(|search| search.end - search.floor).sum();
        if !going_on(Busy::Reading { topic, left }) {
            return Err(LogError::Interrupted);
        }
        let ranges: Vec<Range> = backwards.iter().map(Backwards::range).collect();
        let below: i64 = backwards.iter().map(Backwards::below).sum();
        let mut found: HashMap<i32, String> = HashMap::new();
        let take = |message: &BorrowedMessage<'_>| {
            if source_of(message) != Some(own.as_bytes()) {
                return;
            }
            if let Some(id) = header_of(message, header::EVENT_ID).and_then(|id| std::str::from_utf8(id).ok())
            {
                // In order of offsets, so the last one stays.
                found.insert(message.partition(), id.to_owned());
            }
        };
        log.read(topic, &ranges, take, |left| going_on(Busy::Reading { topic, left: below + left }))?;
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

/// Which source and run wrote the record. A dead letter of a sink carries the headers of the record that it keeps, `source` and `event-id`
/// among them, but was written by the sink, in an order of its own: it is nobody's last record. Nor is one that was sent back to its topic.
fn source_of(message: &impl Message) -> Option<&[u8]> {
    let elsewhere = [dead_letter::header::ORIGINAL_TOPIC, dead_letter::header::RETRY];
    if elsewhere.into_iter().any(|name| header_of(message, name).is_some()) {
        return None;
    }
    header_of(message, header::SOURCE)
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
    fn windows_have_a_bound() {
        let mut search = Some(Backwards { partition: 0, floor: 0, end: 50_000_000, window: FIRST_WINDOW });
        let mut read = 0;
        while let Some(step) = search {
            let range = step.range();
            assert!(range.to - range.from <= WINDOW_MAX);
            assert_eq!(step.below(), range.from);
            read += range.to - range.from;
            search = step.step();
        }
        assert_eq!(read, 50_000_000);
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
        let position = "8266C1F3A5000000012B0229296E04";
        assert!(tails.are_before("8266D") && !tails.are_before("8266B") && !tails.are_before("00"));
        tails.insert("atlas.shop.b", 0, format!("{position}~66C1F3A500000001~00000007~00000001"));
        assert!(Tails::default().are_before("00"));
        assert_eq!(tails.of("atlas.shop.b").count(), 1);
        let mut rows = Tails::default();
        rows.insert("atlas.shop.b", 0, format!("{position}~66C1F3A500000001~00000007~00000001"));
        assert!(rows.are_before(position) && !rows.are_before("8266C1F3A4000000012B0229296E04"));
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

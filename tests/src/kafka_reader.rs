//! What is really in Kafka: whole topics, read committed, up to the high watermark.
//!
//! The end is the high watermark of a read_uncommitted client, never the last stable offset: a transaction that is
//! still open has to end before a judgement, so the reader waits for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers},
};

/// One request to the broker.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);
/// Without any progress for this long, something holds the end back (an open transaction that nobody ends).
const STALL_LIMIT: Duration = Duration::from_secs(45);

/// A record with everything that the product promises about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaRecord {
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl KafkaRecord {
    /// The first header of this name, as text. `None` also if it is no UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(own, _)| own == name)?;
        std::str::from_utf8(value).ok()
    }
}

/// What one partition holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionContent {
    /// The oldest offset that is still there.
    pub low: i64,
    /// One past the newest, markers of transactions included.
    pub high: i64,
    /// Rising by offset; committed ones only.
    pub records: Vec<KafkaRecord>,
}

/// Topics, partitions, records.
#[derive(Clone, Debug, Default)]
pub struct KafkaContent {
    pub topics: BTreeMap<String, BTreeMap<i32, PartitionContent>>,
}

impl KafkaContent {
    /// All records of a topic, partition by partition.
    pub fn records<'a>(&'a self, topic: &str) -> impl Iterator<Item = &'a KafkaRecord> + use<'a> {
        self.topics
            .get(topic)
            .into_iter()
            .flat_map(|partitions| partitions.values())
            .flat_map(|part| &part.records)
    }
}

/// A topic that was made a moment ago may not have a leader yet.
fn ends(consumer: &BaseConsumer, topic: &str, partition: i32) -> KafkaResult<(i64, i64)> {
    let deadline = Instant::now() + REQUEST_LIMIT;
    loop {
        match consumer.fetch_watermarks(topic, partition, REQUEST_LIMIT) {
            Err(KafkaError::MetadataFetch(
                RDKafkaErrorCode::NotLeaderForPartition | RDKafkaErrorCode::LeaderNotAvailable,
            )) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            answer => return answer,
        }
    }
}

/// Reads one broker.
#[derive(Clone)]
pub struct KafkaReader {
    bootstrap: String,
    /// Asks for topics and ends. Kept, because a wait asks many times, and each new client learns the whole cluster anew.
    asking: Arc<OnceLock<BaseConsumer>>,
}

impl fmt::Debug for KafkaReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaReader").field("bootstrap", &self.bootstrap).finish_non_exhaustive()
    }
}

impl KafkaReader {
    pub fn new(bootstrap: impl Into<String>) -> Self {
        Self { bootstrap: bootstrap.into(), asking: Arc::default() }
    }

    fn asking(&self) -> Result<&BaseConsumer> {
        match self.asking.get() {
            Some(client) => Ok(client),
            // Of two at once one is dropped again.
            None => {
                let client = self.consumer("read_uncommitted")?;
                Ok(self.asking.get_or_init(|| client))
            }
        }
    }

    /// The names of all topics that begin with `prefix`.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub async fn topics(&self, prefix: &str) -> Result<BTreeSet<String>> {
        let (reader, prefix) = (self.clone(), prefix.to_owned());
        blocking(move || {
            let metadata = reader.asking()?.fetch_metadata(None, REQUEST_LIMIT);
            let metadata = metadata.context("list topics")?;
            let names = metadata.topics().iter().map(|topic| topic.name().to_owned());
            Ok(names.filter(|name| name.starts_with(&prefix)).collect())
        })
        .await
    }

    /// Reads these topics whole. A topic that does not exist is an error.
    ///
    /// # Errors
    /// If the broker does not answer, or the end of a partition is not reached although the reader waits.
    pub async fn read(&self, topics: impl IntoIterator<Item = String>) -> Result<KafkaContent> {
        let (reader, topics) = (self.clone(), topics.into_iter().collect::<Vec<_>>());
        blocking(move || reader.read_blocking(&topics)).await
    }

    /// Reads all topics under a prefix.
    ///
    /// # Errors
    /// As [`KafkaReader::read`].
    pub async fn read_prefix(&self, prefix: &str) -> Result<KafkaContent> {
        let topics = self.topics(prefix).await?;
        self.read(topics).await
    }

    /// High watermarks of these topics: what a sink has to reach.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub async fn high_watermarks(
        &self,
        topics: impl IntoIterator<Item = String>,
    ) -> Result<BTreeMap<(String, i32), i64>> {
        let ends = self.log_ends(topics).await?;
        Ok(ends.into_iter().map(|(place, (_, high))| (place, high)).collect())
    }

    /// Start and high watermark of each partition of these topics. Reads no record, so it may be asked while retention is
    /// at work.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub async fn log_ends(
        &self,
        topics: impl IntoIterator<Item = String>,
    ) -> Result<BTreeMap<(String, i32), (i64, i64)>> {
        let (reader, topics) = (self.clone(), topics.into_iter().collect::<Vec<_>>());
        blocking(move || {
            let content = reader.watermarks(&topics)?;
            let parts = content.topics.into_iter().flat_map(|(topic, parts)| {
                parts
                    .into_iter()
                    .map(move |(partition, part)| ((topic.clone(), partition), (part.low, part.high)))
            });
            Ok(parts.collect())
        })
        .await
    }

    /// What a consumer group has committed; partitions without a commit are left out.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub async fn committed(
        &self,
        group: &str,
        topics: impl IntoIterator<Item = String>,
    ) -> Result<BTreeMap<(String, i32), i64>> {
        let (reader, group, topics) =
            (self.clone(), group.to_owned(), topics.into_iter().collect::<Vec<_>>());
        blocking(move || {
            let mut asked = TopicPartitionList::new();
            for (topic, parts) in reader.watermarks(&topics)?.topics {
                for &partition in parts.keys() {
                    asked.add_partition(&topic, partition);
                }
            }
            let consumer = reader.consumer_in(&group, "read_committed")?;
            let committed =
                consumer.committed_offsets(asked, REQUEST_LIMIT).context("ask for a group's offsets")?;
            let elements = committed.elements();
            let offsets = elements.iter().filter_map(|element| match element.offset() {
                Offset::Offset(offset) => Some(((element.topic().to_owned(), element.partition()), offset)),
                _ => None,
            });
            Ok(offsets.collect())
        })
        .await
    }

    /// The ids of a consumer group's members; whoever leaves and comes back has another one.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub async fn group_members(&self, group: &str) -> Result<Vec<String>> {
        let (reader, group) = (self.clone(), group.to_owned());
        blocking(move || {
            let groups =
                reader.asking()?.fetch_group_list(Some(&group), REQUEST_LIMIT).context("ask for a group")?;
            let members = groups.groups().iter().flat_map(|group| group.members());
            let mut ids: Vec<String> = members.map(|member| member.id().to_owned()).collect();
            ids.sort_unstable();
            Ok(ids)
        })
        .await
    }

    fn consumer(&self, isolation: &str) -> Result<BaseConsumer> {
        self.consumer_in("atlas-tests-reader", isolation)
    }

    fn consumer_in(&self, group: &str, isolation: &str) -> Result<BaseConsumer> {
        ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", isolation)
            .set("fetch.wait.max.ms", "50")
            .set("fetch.message.max.bytes", "16777216")
            .set("receive.message.max.bytes", "452984832")
            .set("reconnect.backoff.max.ms", "500")
            .set("log_level", "2")
            .create()
            .context("make a Kafka consumer")
    }

    fn watermarks(&self, topics: &[String]) -> Result<KafkaContent> {
        let consumer = self.asking()?;
        let mut content = KafkaContent::default();
        for topic in topics {
            let metadata = consumer.fetch_metadata(Some(topic), REQUEST_LIMIT);
            let metadata = metadata.with_context(|| format!("describe topic {topic}"))?;
            let described = metadata.topics().first().context("no topic in the answer")?;
            if let Some(error) = described.error() {
                bail!("topic {topic}: {error:?}");
            }
            let parts = content.topics.entry(topic.clone()).or_default();
            for partition in described.partitions() {
                let (low, high) = ends(consumer, topic, partition.id())
                    .with_context(|| format!("ask for the ends of {topic}/{}", partition.id()))?;
                parts.insert(partition.id(), PartitionContent { low, high, records: Vec::new() });
            }
        }
        Ok(content)
    }

    fn read_blocking(&self, topics: &[String]) -> Result<KafkaContent> {
        let mut content = self.watermarks(topics)?;
        let mut open = TopicPartitionList::new();
        for (topic, parts) in &content.topics {
            for (&partition, part) in parts.iter().filter(|(_, part)| part.low < part.high) {
                open.add_partition_offset(topic, partition, Offset::Offset(part.low))
                    .context("name a partition")?;
            }
        }
        if open.count() == 0 {
            return Ok(content);
        }
        let names: BTreeMap<String, Arc<str>> =
            topics.iter().map(|topic| (topic.clone(), Arc::from(topic.as_str()))).collect();
        let consumer = self.consumer("read_committed")?;
        consumer.assign(&open).context("assign partitions")?;
        let mut progress_at = Instant::now();
        let mut last_sum = 0_i64;
        loop {
            match consumer.poll(Duration::from_millis(50)) {
                Some(message) => {
                    let record = record(&message.context("read a record")?, &names)?;
                    let part = content
                        .topics
                        .get_mut(&*record.topic)
                        .and_then(|parts| parts.get_mut(&record.partition));
                    // What came after the watermark was taken belongs to a later look.
                    if let Some(part) = part.filter(|part| record.offset < part.high) {
                        part.records.push(record);
                    }
                    progress_at = Instant::now();
                }
                // Positions pass transaction markers only as polling goes on.
                None => {
                    let positions = consumer.position().context("ask for positions")?;
                    let mut behind = Vec::new();
                    let mut sum = 0;
                    for element in open.elements() {
                        let (topic, partition) = (element.topic(), element.partition());
                        let high = content.topics[topic][&partition].high;
                        let position = positions.find_partition(topic, partition).map(|found| found.offset());
                        let position = match position {
                            Some(Offset::Offset(position)) => position,
                            _ => -1,
                        };
                        sum += position;
                        if position < high {
                            behind.push(format!("{topic}/{partition} at {position} of {high}"));
                        }
                    }
                    if behind.is_empty() {
                        return Ok(content);
                    }
                    if sum != last_sum {
                        (last_sum, progress_at) = (sum, Instant::now());
                    }
                    if progress_at.elapsed() > STALL_LIMIT {
                        bail!("the end was not reached for {STALL_LIMIT:?}: {}", behind.join(", "));
                    }
                }
            }
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("a Kafka reader's thread")?
}

fn record(message: &BorrowedMessage<'_>, names: &BTreeMap<String, Arc<str>>) -> Result<KafkaRecord> {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    let headers = headers.map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()));
    Ok(KafkaRecord {
        topic: names.get(message.topic()).context("a record of a topic that was not asked for")?.clone(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.collect(),
    })
}

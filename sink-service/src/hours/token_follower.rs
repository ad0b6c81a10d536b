//! Reads what the sources commit about their positions, and goes on reading it.
//!
//! A thread of its own with a consumer of its own, without a group: every sink needs all positions. Positions only matter when they are
//! *committed*, so it reads committed records; and a source that is not known yet must not be taken for one that does not exist, so nothing is
//! told before every token topic was read to the end that it had when it was found.

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::BorrowedMessage,
};
use shared::{
    cluster_time::ClusterTime,
    kafka_client::ForwardLogs,
    kafka_position::KafkaOffset,
    source_watermark::{ScopeRecord, SourceWatermark},
    topic_name::TopicNames,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::watermarks::Watermarks;

/// How often new token topics are looked for. A source that is new holds back no hour that ended longer ago than this.
const LOOK_INTERVAL: Duration = Duration::from_secs(20);

const POLL_WAIT: Duration = Duration::from_millis(200);

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Latest positions; `None` until all were read once.
pub type Known = watch::Receiver<Option<Arc<Watermarks>>>;

/// Begins to follow.
///
/// # Errors
/// If librdkafka refuses the configuration, or there is no thread.
pub fn follow(
    base: &ClientConfig,
    group: &str,
    names: &TopicNames,
    stop: CancellationToken,
) -> Result<Known, FollowError> {
    let mut config = base.clone();
    config
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        // No group is joined; the client asks for the coordinator all the same, so it is one that this user may know of.
        .set("group.id", group);
    let consumer: BaseConsumer<ForwardLogs> = config.create_with_context(ForwardLogs)?;
    let (tell, known) = watch::channel(None);
    let mut follower = Follower {
        consumer,
        prefix: names.resume_tokens(""),
        unread: BTreeMap::new(),
        followed: BTreeMap::new(),
        watermarks: Watermarks::default(),
        changed: true,
        next_look: Instant::now(),
        failing: false,
    };
    thread::Builder::new().name("tokens".to_owned()).spawn(move || {
        while !stop.is_cancelled() && !tell.is_closed() {
            follower.turn(&tell);
        }
    })?;
    Ok(known)
}

#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error("the Kafka client refuses: {0}")]
    Client(#[from] KafkaError),
    #[error("no thread: {0}")]
    Thread(#[from] io::Error),
}

struct Follower {
    consumer: BaseConsumer<ForwardLogs>,
    /// Before a source's id in the name of its topic.
    prefix: String,
    /// Topics that were not read to the end yet, and that end.
    unread: BTreeMap<String, KafkaOffset>,
    /// All topics that are read, and whose they are.
    followed: BTreeMap<String, String>,
    watermarks: Watermarks,
    changed: bool,
    next_look: Instant,
    failing: bool,
}

impl Follower {
    fn turn(&mut self, tell: &watch::Sender<Option<Arc<Watermarks>>>) {
        if Instant::now() >= self.next_look {
            self.next_look = Instant::now() + LOOK_INTERVAL;
            let looked = self.look();
            if let Err(error) = &looked
                && !self.failing
            {
                tracing::warn!(%error, "the sources' positions cannot be read: no hour ends meanwhile");
            }
            self.failing = looked.is_err();
            if self.failing {
                self.next_look = Instant::now() + Duration::from_secs(2);
            }
        }
        let consumer = &self.consumer;
        match consumer.poll(POLL_WAIT) {
            Some(Ok(message)) => {
                let (watermarks, followed) = (&mut self.watermarks, &self.followed);
                take(watermarks, followed, &message);
                self.changed = true;
            }
            Some(Err(error)) => tracing::debug!(%error, "reading positions"),
            None => self.forget_read(),
        }
        if self.changed && self.unread.is_empty() && !self.failing {
            self.changed = false;
            tell.send_replace(Some(Arc::new(self.watermarks.clone())));
        }
    }

    /// Follows token topics that are new, and no longer those that are gone.
    fn look(&mut self) -> Result<(), KafkaError> {
        let metadata = self.consumer.fetch_metadata(None, REQUEST_TIMEOUT)?;
        let there: BTreeMap<String, String> = metadata
            .topics()
            .iter()
            .filter(|topic| topic.error().is_none())
            .filter_map(|topic| {
                let source = topic.name().strip_prefix(&self.prefix)?;
                Some((topic.name().to_owned(), source.to_owned()))
            })
            .collect();
        for (topic, source) in &there {
            if self.followed.contains_key(topic) {
                continue;
            }
            // Of a consumer that reads committed records this is the last stable offset: it will get there.
            let (start, end) = self.consumer.fetch_watermarks(topic, 0, REQUEST_TIMEOUT)?;
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, 0, Offset::Beginning)?;
            self.consumer.incremental_assign(&list)?;
            self.followed.insert(topic.clone(), source.clone());
            if let (Some(end), true) = (KafkaOffset::from_kafka(end), end > start) {
                self.unread.insert(topic.clone(), end);
            }
            tracing::info!(source, topic, "the source's position is followed");
        }
        let gone: Vec<String> =
            self.followed.keys().filter(|topic| !there.contains_key(*topic)).cloned().collect();
        for topic in gone {
            let mut list = TopicPartitionList::new();
            list.add_partition(&topic, 0);
            self.consumer.incremental_unassign(&list)?;
            self.unread.remove(&topic);
            if let Some(source) = self.followed.remove(&topic) {
                tracing::warn!(source, topic, "the source's topic is gone: no hour waits for it");
                self.watermarks.retire(&source);
                self.changed = true;
            }
        }
        Ok(())
    }

    /// The consumer passes transaction markers as polling goes on.
    fn forget_read(&mut self) {
        if self.unread.is_empty() {
            return;
        }
        let Ok(positions) = self.consumer.position() else { return };
        for element in positions.elements() {
            if let Offset::Offset(at) = element.offset()
                && let Some(at) = KafkaOffset::from_kafka(at)
                && self.unread.get(element.topic()).is_some_and(|end| *end <= at)
            {
                self.unread.remove(element.topic());
            }
        }
    }
}

/// Other keys than the source's id are not about its position.
fn take(watermarks: &mut Watermarks, followed: &BTreeMap<String, String>, message: &BorrowedMessage<'_>) {
    let Some(source) = followed.get(message.topic()) else { return };
    if message.key() != Some(source.as_bytes()) {
        return;
    }
    match message.payload().map(SourceWatermark::parse) {
        Some(Ok(watermark)) => watermarks.set(source, watermark),
        Some(Err(error)) => {
            tracing::warn!(source, error, "a position cannot be read: until it can, no hour ends");
            let unknown =
                SourceWatermark { cluster_time: ClusterTime::default(), scope: ScopeRecord::default() };
            watermarks.set(source, unknown);
        }
        None => {
            tracing::info!(source, "the source is retired: no hour waits for it");
            watermarks.retire(source);
        }
    }
}

//! A sink as far as one partition is concerned: the product's own publishing loop, over a lake and a real broker.
//!
//! The records are made here; the broker holds as many, so that the ends of its log are what the chain's rules expect.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use pipeline_tests::{
    kafka_writer::{KafkaWriter, NewRecord},
    servers::{Kafka, KafkaOptions},
};
use rdkafka::ClientConfig;
use shared::{
    cluster_time::ClusterTime,
    kafka_position::{KafkaOffset, TopicPartition},
    namespace::Namespace,
    topic_name::TopicNames,
};
use sink_service::{
    buffer::{Batch, Buffer},
    chain::{Chain, FilePolicy, Step, StepContext, Writer},
    compression::Compression,
    dead_letter_breaker::DeadLetterBreaker,
    dead_letter_topic::DeadLetterTopic,
    dead_letters::DeadLetterQueue,
    event_hour::EventHour,
    file_metadata::WriterId,
    kafka_log::KafkaLog,
    lake::{Lake, LakeError},
    lake_layout::OpenLake,
    lake_path::LakePath,
    layout::Layout,
    line_format::LineFormat,
    metrics::SinkMetrics,
    publish::{Identity, Job, LostRecords, Published, Publisher, StartAt, perform},
    record::{RecordView, inspect},
    topic_content::TopicContent,
    topic_identity::TopicIdentity,
    uploads::Uploads,
};
use tokio::sync::{OnceCell, mpsc};

use crate::facts::{TOPIC, content};

const VERSION: &str = "conformance";

/// The hour of each record, by offset: files that grow by appends and files that end, some with the append that is known
/// to be their last and some afterwards.
const HOURS: [u32; 11] =
    [400_000, 400_000, 400_000, 400_000, 400_001, 400_001, 400_001, 400_002, 400_003, 400_000, 400_000];

/// Records that a sink reads before it publishes.
pub(crate) const BATCH: u64 = 2;

/// The log's end, as far as records go.
pub(crate) const END: KafkaOffset = KafkaOffset::new(HOURS.len() as u64);

fn partition() -> TopicPartition {
    TopicPartition::new(TOPIC, 0)
}

fn orders() -> TopicContent {
    TopicContent::Data(Namespace::new("shop", "orders"))
}

/// What a consumer that goes on from `start` has read next.
pub(crate) fn batch_from(start: KafkaOffset) -> Batch {
    let end = KafkaOffset::new((start.get() + BATCH).min(END.get()));
    let mut buffer = Buffer::new(&partition(), LineFormat::Envelope);
    for offset in start.get()..end.get() {
        let time = ClusterTime::new(HOURS[usize::try_from(offset).unwrap()] * 3600, 1).to_string();
        let value = format!("{{\"n\":{offset}}}");
        let record =
            RecordView { value: Some(value.as_bytes()), cluster_time: Some(&time), ..RecordView::default() };
        let inspected = inspect(&record, &orders(), 1024);
        buffer.push(KafkaOffset::new(offset), &record, &inspected, Instant::now());
    }
    buffer.freeze(start, end)
}

/// One broker for all tests, with one topic that holds as many records as there are hours, and one client that asks for
/// the ends of its log: a new client for each of some hundred sinks would take most of the time.
struct Broker {
    kafka: Kafka,
    log: KafkaLog,
}

impl Broker {
    async fn shared() -> &'static Self {
        static BROKER: OnceCell<Broker> = OnceCell::const_new();
        let start = || async {
            let kafka = Kafka::start(KafkaOptions::default()).await.unwrap();
            let writer = KafkaWriter::new(kafka.bootstrap());
            writer.create_topic(TOPIC, 1, &[]).await.unwrap();
            writer.send(TOPIC, 0, HOURS.iter().map(|_| NewRecord::new("{}")).collect()).await.unwrap();
            let log = KafkaLog::new(&config_of(&kafka), "test").unwrap();
            Self { kafka, log }
        };
        BROKER.get_or_init(start).await
    }
}

/// The shared broker's address.
pub(crate) async fn brokers() -> String {
    Broker::shared().await.kafka.bootstrap()
}

fn config_of(kafka: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.bootstrap());
    config
}

/// One process, with its own view of the lake.
pub(crate) struct Sink {
    publisher: Publisher,
    _waits: mpsc::Receiver<sink_service::publish::Waiting>,
}

impl Sink {
    pub(crate) async fn over(lake: Lake) -> Self {
        let broker = Broker::shared().await;
        let config = config_of(&broker.kafka);
        let names = TopicNames::new("atlas").unwrap();
        let letters = DeadLetterTopic::new(&config, names.dead_letters(), names, 1024 * 1024).unwrap();
        let (waits, waits_end) = mpsc::channel(16);
        let publisher = Publisher {
            lake: Arc::new(OpenLake::new(lake, Layout::hive())),
            log: broker.log.clone(),
            dead_letters: DeadLetterQueue::new(&config, letters, VERSION),
            breaker: DeadLetterBreaker::new(None),
            registry: None,
            policy: FilePolicy::default(),
            compression: Compression::None,
            start_at: StartAt::Earliest,
            writer: Writer { id: WriterId::random(), version: VERSION },
            metrics: Arc::new(SinkMetrics::register()),
            waits,
            uploads: Uploads::new(1),
        };
        Self { publisher, _waits: waits_end }
    }

    /// The same with files of so many blocks at most.
    pub(crate) fn with_blocks(mut self, blocks: usize) -> Self {
        self.publisher.policy.blocks = blocks;
        self
    }

    fn identity() -> Identity {
        Identity {
            partition: partition(),
            content: Some(orders()),
            topic: TopicIdentity::default(),
            uploads: Uploads::new(1).of_topic(),
        }
    }

    /// Reads the chain, which is begun if there is none.
    pub(crate) async fn open(&self) -> Chain {
        let opened = self.publisher.open(&Self::identity(), KafkaOffset::ZERO, LostRecords::Stop).await;
        opened.unwrap().0
    }

    /// Makes a batch durable, whatever comes in between.
    pub(crate) async fn publish(&self, chain: Chain, batch: Batch) -> Chain {
        let (identity, content) = (Self::identity(), orders());
        let job =
            Job { identity, content, chain, batch, publish_position: false, hour_end: None, drain: false };
        match self.publisher.publish(job).await.unwrap() {
            Published::Whole { chain, .. } | Published::Behind(chain) => chain,
        }
    }

    /// Goes on from what this chain says until everything is durable.
    pub(crate) async fn finish(&self, mut chain: Chain) -> Chain {
        while chain.position() < END {
            let batch = batch_from(chain.position());
            chain = self.publish(chain, batch).await;
        }
        chain
    }

    /// The next step of the product's loop; `None` if the batch is durable.
    pub(crate) fn next_step(&self, chain: &Chain, batch: &mut Batch) -> Option<Step> {
        let content = orders();
        let context = StepContext {
            policy: self.publisher.policy,
            compression: self.publisher.compression,
            content: &content,
            publish_position: false,
            hour_end: None,
            drain: false,
            now: Instant::now(),
            wall_clock: Utc::now(),
        };
        match chain.next_step(batch, &context).unwrap() {
            Step::Done => None,
            step => Some(step),
        }
    }

    /// Does a step as the product's loop does it.
    pub(crate) async fn perform(&self, chain: &mut Chain, step: Step) -> Result<(), LakeError> {
        perform(&self.publisher.lake, chain, step, &self.publisher.metrics).await
    }
}

/// What a step is called here.
pub(crate) fn name_of(step: &Step) -> &'static str {
    match step {
        Step::Done => "done",
        Step::WriteHead(head) if head.created => "mark",
        Step::WriteHead(_) => "move",
        Step::Stage(_) => "stage",
        Step::Create(step) if step.roll.is_some() => "create and seal",
        Step::Create(_) => "create",
        Step::Append(step) if step.piece.is_empty() => "seal",
        Step::Append(step) if step.roll.is_some() => "append and seal",
        Step::Append(_) => "append",
    }
}

/// One chain with every record in it once, in order and in its hour. Returns who has written last to each file.
pub(crate) async fn check(lake: &Lake, what: &str) -> BTreeSet<String> {
    let heads = lake.list_heads().await.unwrap();
    assert_eq!(heads, [LakePath::head(&partition())], "{what}");
    let mut files = lake.list_files(Layout::hive().folder(&orders()).path()).await.unwrap();
    files.sort_by_key(|file| file.metadata.first);
    let (mut expected, mut offset) = (KafkaOffset::ZERO, 0);
    for (index, file) in files.iter().enumerate() {
        let metadata = &file.metadata;
        assert_eq!(metadata.first, expected, "{what}: files tile the log: {files:#?}");
        assert!(metadata.next > metadata.first, "{what}: no file has an empty range");
        assert!(metadata.sealed || index + 1 == files.len(), "{what}: sealed before its successor");
        expected = metadata.next;
        for line in content(lake, &file.path).await.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["n"].as_u64(), Some(offset), "{what}: every row once, in order");
            assert_eq!(line["_kafka"]["offset"].as_u64(), Some(offset), "{what}");
            let hour = HOURS[usize::try_from(offset).unwrap()];
            let hour = EventHour::from_cluster_time(ClusterTime::new(hour * 3600, 1));
            assert_eq!(Layout::hive().hour_of(&file.path), Some(hour), "{what}: row {offset}");
            offset += 1;
        }
    }
    assert_eq!((expected, offset), (END, END.get()), "{what}: the whole log");
    files.iter().map(|file| file.metadata.writer.to_string()).collect()
}

/// For whatever takes milliseconds when all is well.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

//! Publishing to the real local directory, with Kafka clients that never reach a broker.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, path::Path};

use rdkafka::ClientConfig;
use shared::{kafka_topics::Configs, namespace::Namespace, topic_name::TopicNames};
use tokio::sync::mpsc;

use super::*;
use crate::{
    buffer::Buffer,
    chain::LogBounds,
    compression::Compression,
    consumer::BATCH_BYTES_MAX,
    dead_letter_topic::DeadLetterTopic,
    event_hour::EventHour,
    file_metadata::WriterId,
    lake::{ETag, LakeTarget},
    layout::Layout,
    line_format::LineFormat,
    record::{RecordView, inspect},
    topic_content::TopicContent,
    topic_identity::TopicIdentity,
};

/// A publisher on a folder, and what it says of its waits.
pub(crate) fn offline_publisher(kafka: &ClientConfig, folder: &Path) -> (Publisher, mpsc::Receiver<Waiting>) {
    let names = TopicNames::new("atlas").unwrap();
    let letters = DeadLetterTopic::new(kafka, names.dead_letters(), names, 1024 * 1024).unwrap();
    let (waits, told) = mpsc::channel(8);
    let lake = Lake::open(&LakeTarget::Directory(folder.to_owned()), None).unwrap();
    let publisher = Publisher {
        lake: Arc::new(OpenLake::new(lake, Layout::hive())),
        log: KafkaLog::new(kafka, "test").unwrap(),
        dead_letters: DeadLetterQueue::new(kafka, letters, "test"),
        breaker: DeadLetterBreaker::new(None),
        registry: None,
        policy: FilePolicy::default(),
        compression: Compression::None,
        start_at: StartAt::Earliest,
        writer: Writer { id: WriterId::random(), version: "test" },
        metrics: Arc::new(SinkMetrics::register()),
        waits,
        uploads: Uploads::new(1),
    };
    (publisher, told)
}

/// The head of a chain that has just begun.
pub(crate) fn first_head(partition: &TopicPartition) -> Head {
    Head {
        topic: partition.topic.to_string(),
        partition: partition.partition,
        topicid: None,
        clusterid: None,
        db: None,
        coll: None,
        start: KafkaOffset::ZERO,
        layout: LAYOUT,
        path: None,
        first: None,
        created: false,
        lastevent: None,
        deadletters: None,
        scanned: KafkaOffset::ZERO,
    }
}

/// The head of a chain that begins at an offset.
fn head_from(partition: &TopicPartition, start: KafkaOffset) -> Head {
    Head { start, scanned: start, ..first_head(partition) }
}

/// One record of a topic whose name does not say what it holds, for a chain that has just begun there.
fn first_job(partition: &TopicPartition, start: KafkaOffset, head_etag: ETag) -> Job {
    let content = TopicContent::Data(Namespace::new("shop", "orders"));
    let log = LogBounds { start, end: start.after() };
    let reading =
        Reading { layout: Layout::hive(), head: head_from(partition, start), head_etag, file: None, log };
    let writer = Writer { id: WriterId::random(), version: "test" };
    let chain = Chain::adopt(
        partition.clone(),
        writer,
        reading,
        &TopicIdentity::default(),
        KafkaOffset::ZERO,
        Instant::now(),
    )
    .unwrap();
    let mut buffer = Buffer::new(partition, LineFormat::Envelope);
    let record =
        RecordView { value: Some(b"{}"), timestamp: Some(1_755_900_000_000), ..RecordView::default() };
    let inspected = inspect(&record, &content, 1024);
    buffer.push(start, &record, &inspected, Instant::now());
    Job {
        identity: Identity {
            partition: partition.clone(),
            content: None,
            topic: TopicIdentity::default(),
            uploads: Uploads::new(1).of_topic(),
        },
        content,
        chain,
        batch: buffer.freeze(start, start.after()),
        publish_position: false,
        hour_end: None,
        drain: false,
    }
}

/// A regression: only the folder of a name that was not cut was looked at.
#[tokio::test]
async fn a_lost_head_is_noticed_although_the_topics_name_was_cut() {
    let folder = tempfile::tempdir().unwrap();
    let mut kafka = ClientConfig::new();
    kafka.set("bootstrap.servers", "127.0.0.1:1");
    let (publisher, _waits) = offline_publisher(&kafka, folder.path());
    publisher.lake.prepare().await.unwrap();
    let partition = TopicPartition::new("atlas.cut", 0);
    let head = LakePath::head(&partition);
    let etag = publisher.lake.create_document(&head, first_head(&partition).to_bytes()).await.unwrap();
    let published = publisher.publish(first_job(&partition, KafkaOffset::ZERO, etag)).await.unwrap();
    let Published::Whole { chain, .. } = published else { panic!("{published:?}") };
    assert_eq!(chain.next(), KafkaOffset::new(1));

    // As if `_chain/` had been lost and somebody had begun anew, where the log begins by now.
    let start = KafkaOffset::new(1);
    let known = publisher.lake.read_document(&head).await.unwrap().unwrap().etag;
    let again = head_from(&partition, start).to_bytes();
    let etag = publisher.lake.replace_document(&head, again, &known).await.unwrap();
    let halt = publisher.publish(first_job(&partition, start, etag)).await.unwrap_err();
    assert!(matches!(halt, Halt::Chain(ChainHalt::HeadLost { .. })), "{halt}");
}

/// The same of the control topic, whose name says it.
fn definition_job(partition: &TopicPartition, head_etag: ETag) -> Job {
    let job = first_job(partition, KafkaOffset::ZERO, head_etag);
    let identity = Identity { content: Some(TopicContent::Control), ..job.identity };
    Job { identity, content: TopicContent::Control, ..job }
}

/// A regression: each of two prefixes took the other's files out of the manifests of `_control/`.
#[tokio::test]
async fn definitions_of_two_prefixes_never_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let mut kafka = ClientConfig::new();
    kafka.set("bootstrap.servers", "127.0.0.1:1");
    let (publisher, _waits) = offline_publisher(&kafka, folder.path());
    let (lake, metrics, content) = (&publisher.lake, &publisher.metrics, &TopicContent::Control);
    lake.prepare().await.unwrap();
    let (ours, other) = (TopicPartition::new("atlas.control", 0), TopicPartition::new("other.control", 0));
    let look = async |of: &TopicPartition| match publisher.look().check_folder(content, of).await {
        Ok(()) => Ok(()),
        Err(Trouble::Lake(error)) => Err(error),
        Err(_) => panic!("another trouble"),
    };
    assert!(look(&ours).await.is_ok() && look(&other).await.is_ok());
    // Both have begun while nothing was there.
    let mut etags = Vec::new();
    for partition in [&ours, &other] {
        let head = first_head(partition).to_bytes();
        etags.push(lake.create_document(&LakePath::head(partition), head).await.unwrap());
    }

    // An hour without definitions closes.
    let hour = EventHour::from_calendar(2026, 11, 21, 7).unwrap();
    let hour_of = |topic| HourFolder { lake, metrics, topic, content, hour };
    let positions = BTreeMap::from([(0, KafkaOffset::ZERO)]);
    hour_of("atlas.control").write_manifest(&positions).await.unwrap();
    let path = lake.folder(content).manifest(hour);
    let manifest = async || lake.read_document(&path).await.unwrap().unwrap().bytes;
    let before = manifest().await;
    for refused in [
        hour_of("other.control").write_manifest(&positions).await,
        hour_of("other.control").account_for_sealed().await,
        look(&other).await,
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, LakeError::Foreign { .. }), "{error}");
        let stop = Halt::Lake(error).to_stop();
        assert_eq!(stop.code, ExitCode::LakeDiffers);
        for part in [path.as_str(), "atlas.control", "other.control", "LAKE_URL", "SINK_EXCLUDE="] {
            assert!(stop.to_string().contains(part), "{part} in {stop}");
        }
    }
    hour_of("atlas.control").write_manifest(&positions).await.unwrap();
    assert_eq!(manifest().await, before);

    // Then one has a definition, and the other one too.
    let manifest = lake.read_document(&path).await.unwrap().unwrap();
    lake.remove_document(&path, &manifest.etag).await.unwrap();
    let [own, others] = <[ETag; 2]>::try_from(etags).unwrap();
    publisher.publish(definition_job(&ours, own)).await.unwrap();
    let halt = publisher.publish(definition_job(&other, others)).await.unwrap_err();
    assert!(matches!(halt, Halt::Lake(LakeError::Foreign { .. })), "{halt}");
    assert_eq!(lake.list_files(lake.folder(content).path()).await.unwrap().len(), 1);
    assert!(matches!(look(&other).await, Err(LakeError::Foreign { .. })));
    assert!(look(&ours).await.is_ok(), "its head names the file");
}

#[test]
fn a_topic_that_cannot_be_read_whole_is_refused_naming_both_values() {
    let configs = |name: &str, value: String| Configs::from([(name.to_owned(), value)]);
    let large = (BATCH_BYTES_MAX + 1).to_string();
    let text =
        judge_topic("t", &configs("max.message.bytes", large.clone())).unwrap_err().to_stop().to_string();
    for part in ["topic t has max.message.bytes", &large, &BATCH_BYTES_MAX.to_string(), "SINK_EXCLUDE"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(judge_topic("t", &configs("max.message.bytes", BATCH_BYTES_MAX.to_string())).is_ok());
    assert!(judge_topic("t", &configs("cleanup.policy", "delete".to_owned())).is_ok());
    let compacted = judge_topic("t", &configs("cleanup.policy", "compact,delete".to_owned()));
    assert!(matches!(compacted, Err(Halt::Compacted { .. })));
}

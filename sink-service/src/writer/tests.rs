//! The loop's own decisions, with clients that never reach a broker.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use rdkafka::{ClientConfig, Timestamp, message::OwnedMessage};
use shared::kafka_position::KafkaOffset;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::{
    chain::{Chain, LogBounds, Reading, Writer},
    consumer::{GroupProtocol, GroupSettings},
    file_metadata::WriterId,
    lake::ETag,
    layout::Layout,
    line_format::LineFormat,
    partition::AssignmentEpoch,
    publish::tests::{first_head, offline_publisher},
    schema_check::SchemaChecks,
    topic_identity::TopicIdentity,
    uploads::Uploads,
};

/// A loop, and what has to live as long.
struct Bench {
    state: Loop,
    runtime: Runtime,
    _folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut kafka = ClientConfig::new();
        kafka.set("bootstrap.servers", "127.0.0.1:1");
        let names = TopicNames::new("atlas").unwrap();
        let (publisher, waits) = offline_publisher(&kafka, folder.path());
        let metrics = Arc::clone(&publisher.metrics);
        let (report, reports) = mpsc::channel(8);
        let group = GroupSettings {
            group: "group".to_owned(),
            instance_id: None,
            protocol: GroupProtocol::Classic,
            patterns: vec![names.data_pattern()],
            excludes: Vec::new(),
            queue_bytes: 1024 * 1024,
        };
        let io = SinkWriter {
            accepted_gaps: std::collections::BTreeSet::new(),
            until_end: false,
            consumer: GroupConsumer::join(&kafka, &group).unwrap(),
            jobs: Jobs::new(publisher, report, runtime.handle().clone()),
            reports,
            waits,
            standings: watch::channel(Vec::new()).0,
            hour_ends: mpsc::channel(1).1,
            names,
            values: ValueReader::new(true),
            schemas: SchemaChecks::default(),
            flush: FlushPolicy {
                interval: Duration::from_secs(5),
                bytes: 1024 * 1024,
                rows: None,
                memory_limit: 16 * 1024 * 1024,
            },
            drain_limit: Duration::from_secs(1),
            health: HealthReporter::new().0,
            metrics,
            shutdown: CancellationToken::new(),
        };
        Self { state: Loop::new(io), runtime, _folder: folder }
    }

    /// Nothing that waits for Kafka is waited for.
    fn close(self) {
        self.runtime.shutdown_background();
    }
}

fn partition(number: i32) -> TopicPartition {
    TopicPartition::new("atlas.shop.orders", number)
}

/// A chain without a file.
fn chain(partition: &TopicPartition) -> Chain {
    let log = LogBounds { start: KafkaOffset::ZERO, end: KafkaOffset::ZERO };
    let reading = Reading {
        layout: Layout::hive(),
        head: first_head(partition),
        head_etag: ETag::new("1"),
        file: None,
        log,
    };
    let writer = Writer { id: WriterId::random(), version: "test" };
    Chain::adopt(
        partition.clone(),
        writer,
        reading,
        &TopicIdentity::default(),
        KafkaOffset::ZERO,
        Instant::now(),
    )
    .unwrap()
}

/// A line of so many bytes of padding comes from Kafka.
fn take(state: &mut Loop, partition: &TopicPartition, offset: i64, bytes: usize) {
    let value = format!("{{\"padding\":\"{}\"}}", "x".repeat(bytes)).into_bytes();
    let time = Timestamp::CreateTime(1_755_900_000_000);
    let topic = partition.topic.to_string();
    let message = OwnedMessage::new(Some(value), None, topic, time, partition.partition, offset, None);
    let (values, spares) = (&mut state.io.values, &mut state.spares);
    let of_partition = state.assignment.get_mut(partition).unwrap();
    of_partition.take(&message, Instant::now(), values, spares).unwrap();
}

fn own(state: &mut Loop, partitions: &[TopicPartition]) {
    for partition in partitions {
        state.assignment.insert(
            partition.clone(),
            None,
            &Uploads::new(8),
            LineFormat::Envelope,
            SchemaChecks::default(),
        );
        state.assignment.get_mut(partition).unwrap().opened(TopicIdentity::default(), chain(partition));
    }
}

/// Those whose batch is on its way.
fn on_their_way(state: &Loop) -> Vec<i32> {
    let publishing = state.assignment.iter().filter(|state| state.is_publishing());
    publishing.map(|state| state.partition().partition).collect()
}

/// A regression: until the first batch had landed, each turn sent what had gathered meanwhile, down to the smallest buffer.
#[test]
fn near_the_limit_the_largest_are_sent_and_no_more_than_needed() {
    let mut bench = Bench::new();
    let state = &mut bench.state;
    let limit = state.io.flush.buffer_bytes();
    let all: Vec<TopicPartition> = (0..4).map(partition).collect();
    own(state, &all);
    // A buffer doubles its room when it grows, and the limit counts the room.
    for (partition, parts) in all.iter().zip([1, 3, 2, 3]) {
        take(state, partition, 0, limit / 20 * parts);
    }
    let now = Instant::now();
    let used = state.memory();
    assert!((limit / 10 * 9..limit).contains(&used), "{used} of {limit}");
    state.apply_memory_limit(now);
    // Of two that are alike the older one.
    assert_eq!(on_their_way(state), [1]);
    state.apply_memory_limit(now);
    assert_eq!(on_their_way(state), [1], "what is on its way is as good as freed");
    assert!(!state.memory_paused);
    take(state, &all[0], 1, limit / 20);
    state.apply_memory_limit(now);
    assert!(state.memory_paused && state.assignment.iter().all(PartitionState::paused));
    assert!(on_their_way(state).len() > 1, "nothing is sent although no upload is at work");
    bench.close();
}

#[test]
fn one_topic_of_several_takes_half_of_the_memory() {
    let mut bench = Bench::new();
    let state = &mut bench.state;
    let half = state.io.flush.buffer_bytes() / 2;
    let (slow, other) = (partition(0), TopicPartition::new("atlas.shop.customers", 0));
    own(state, &[slow.clone(), other.clone()]);
    take(state, &slow, 0, half / 2);
    state.apply_memory_limit(Instant::now());
    assert!(!state.memory_paused);
    let is_paused = |state: &Loop, partition| state.assignment.get(partition).unwrap().paused();
    assert!(is_paused(state, &slow) && !is_paused(state, &other));
    assert!(state.assignment.get(&slow).unwrap().is_publishing());
    // Alone it has all of it.
    state.assignment.remove(&other);
    state.apply_memory_limit(Instant::now());
    assert!(!is_paused(state, &slow));
    // The control topic beside it takes nothing away.
    let control = TopicPartition::new("atlas.control", 0);
    own(state, std::slice::from_ref(&control));
    state.apply_memory_limit(Instant::now());
    assert!(!is_paused(state, &slow) && !is_paused(state, &control));
    bench.close();
}

/// A regression: each late one sent all the others back to their chains, those with a batch on its way late again.
#[test]
fn a_partition_that_is_read_again_late_leaves_the_others_alone() {
    let mut bench = Bench::new();
    let state = &mut bench.state;
    let (late, other) = (partition(0), partition(1));
    for partition in [&late, &other] {
        state.assignment.insert(
            partition.clone(),
            None,
            &Uploads::new(1),
            LineFormat::Envelope,
            SchemaChecks::default(),
        );
        state.assignment.get_mut(partition).unwrap().opened(TopicIdentity::default(), chain(partition));
    }
    let (_, batch, _) = state.assignment.get_mut(&late).unwrap().freeze().unwrap();
    let position_lost = KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset);
    state.take_error(&position_lost).unwrap();
    assert!(state.assignment.get(&late).unwrap().is_publishing());
    assert!(state.assignment.get(&other).unwrap().is_opening());
    state.assignment.get_mut(&other).unwrap().opened(TopicIdentity::default(), chain(&other));

    let outcome = Outcome::Published { chain: Box::new(chain(&late)), batch: Box::new(batch) };
    state.take_report(Report { partition: late.clone(), epoch: AssignmentEpoch(1), outcome }).unwrap();
    assert!(state.assignment.get(&late).unwrap().is_opening());
    assert!(!state.assignment.get(&other).unwrap().is_opening());
    bench.close();
}

#[test]
fn a_sink_whose_partitions_were_lost_has_not_joined() {
    let mut bench = Bench::new();
    let state = &mut bench.state;
    state.revoked(&[], false).unwrap();
    assert!(state.joined);
    state.revoked(&[], true).unwrap();
    assert!(!state.joined);
    state.assigned(Vec::new()).unwrap();
    assert!(state.joined);
    bench.close();
}

#[test]
fn librdkafka_takes_the_share_of_every_memory_limit() {
    for gib in [1, 16, 64] {
        let policy = FlushPolicy {
            interval: Duration::from_secs(5),
            bytes: 1024 * 1024,
            rows: None,
            memory_limit: gib * 1024 * 1024 * 1024,
        };
        assert_eq!(policy.queue_bytes() + policy.buffer_bytes(), policy.memory_limit);
        let group = GroupSettings {
            group: "group".to_owned(),
            instance_id: None,
            protocol: GroupProtocol::Classic,
            patterns: vec!["^atlas\\..*".to_owned()],
            excludes: Vec::new(),
            queue_bytes: policy.queue_bytes(),
        };
        let mut kafka = ClientConfig::new();
        kafka.set("bootstrap.servers", "127.0.0.1:1");
        assert!(GroupConsumer::join(&kafka, &group).is_ok(), "{gib} GiB");
    }
}

//! The loop's own decisions, with clients that never reach a broker.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use rdkafka::ClientConfig;
use shared::kafka_position::KafkaOffset;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::{
    chain::{Chain, LogBounds, Reading, Writer},
    consumer::{GroupProtocol, GroupSettings},
    file_metadata::WriterId,
    lake::ETag,
    partition::AssignmentEpoch,
    publish::tests::{first_head, offline_publisher},
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
            consumer: GroupConsumer::join(&kafka, &group).unwrap(),
            jobs: Jobs::new(publisher, report, runtime.handle().clone()),
            reports,
            waits,
            standings: watch::channel(Vec::new()).0,
            hour_ends: mpsc::channel(1).1,
            names,
            values: ValueReader::new(true),
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
    let reading = Reading { head: first_head(partition), head_etag: ETag::new("1"), file: None, log };
    let writer = Writer { id: WriterId::random(), version: "test" };
    Chain::adopt(partition.clone(), writer, reading, None, KafkaOffset::ZERO, Instant::now()).unwrap()
}

/// A regression: each late one sent all the others back to their chains, those with a batch on its way late again.
#[test]
fn a_partition_that_is_read_again_late_leaves_the_others_alone() {
    let mut bench = Bench::new();
    let state = &mut bench.state;
    let (late, other) = (partition(0), partition(1));
    for partition in [&late, &other] {
        state.assignment.insert(partition.clone(), None);
        state.assignment.get_mut(partition).unwrap().opened(None, chain(partition));
    }
    let (_, batch, _) = state.assignment.get_mut(&late).unwrap().freeze().unwrap();
    let position_lost = KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset);
    state.take_error(&position_lost).unwrap();
    assert!(state.assignment.get(&late).unwrap().is_publishing());
    assert!(state.assignment.get(&other).unwrap().is_opening());
    state.assignment.get_mut(&other).unwrap().opened(None, chain(&other));

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

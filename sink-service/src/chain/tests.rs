//! The chain against the real local directory: several writers step in any order, are refused, lose replies and die, and
//! in the end every record is in the lake once, in order, and the files tile the log.
//!
//! Each writer is what a sink is for one partition: a chain as it believes it to be, and a batch. The schedule is drawn
//! by proptest; a failing one is shrunk and kept under `proptest-regressions/`.
#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    buffer::{Buffer, DeadLetter},
    compression::Compression,
    file_metadata::{LineCrc, METADATA_LIMIT_BYTES},
    lake::{Lake, LakeError, LakeTarget},
    metrics::SinkMetrics,
    partition::{AssignmentEpoch, PartitionState},
    publish::perform,
    record::{RecordView, inspect},
    value_reader::ValueReader,
};
use rdkafka::{Timestamp, message::OwnedMessage};
use shared::{dead_letter::DeadLetterReason, exit::ExitCode};

/// A record of the imagined log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Row,
    DeadLetter,
    Tombstone,
    /// A transaction marker: an offset without a record.
    Marker,
}

#[derive(Clone, Debug)]
struct Log {
    /// Kind and hour of each offset.
    records: Vec<(Kind, u32)>,
}

impl Log {
    fn end(&self) -> KafkaOffset {
        KafkaOffset::new(self.records.len() as u64)
    }

    /// What a consumer that goes on from `start` has read by `end`.
    fn batch(&self, start: KafkaOffset, end: KafkaOffset) -> Batch {
        let mut buffer = Buffer::new(&partition());
        let range = usize::try_from(start.get()).unwrap()..usize::try_from(end.get()).unwrap();
        for (index, (kind, hour)) in self.records[range.clone()].iter().enumerate() {
            let offset = KafkaOffset::new((range.start + index) as u64);
            let now = Instant::now();
            let time = format!("{}.1", hour * 3600);
            let value = format!("{{\"n\":{offset}}}");
            let record = RecordView {
                value: (*kind == Kind::Row).then_some(value.as_bytes()),
                cluster_time: Some(&time),
                ..RecordView::default()
            };
            let inspected = inspect(&record, &namespace(), 1024);
            match kind {
                Kind::Row | Kind::Tombstone => buffer.push(offset, &record, &inspected, now),
                Kind::DeadLetter => buffer.push_dead_letter(dead_letter(offset), inspected.hour, now),
                Kind::Marker => {}
            }
        }
        buffer.freeze(start, end)
    }
}

fn dead_letter(offset: KafkaOffset) -> DeadLetter {
    DeadLetter {
        offset,
        reason: DeadLetterReason::InvalidJson,
        error: String::new(),
        key: None,
        value: None,
        headers: Vec::new(),
        timestamp: None,
    }
}

fn partition() -> TopicPartition {
    TopicPartition::new("atlas.shop.orders", 0)
}

fn namespace() -> Namespace {
    Namespace::new("shop", "orders")
}

fn first_head() -> Head {
    Head {
        topic: "atlas.shop.orders".to_owned(),
        partition: 0,
        topicid: None,
        db: None,
        coll: None,
        start: KafkaOffset::ZERO,
        layout: LAYOUT,
        path: None,
        first: None,
        created: false,
        scanned: KafkaOffset::ZERO,
    }
}

/// One lake on a memory file system where there is one, and what is observed of it.
struct World {
    lake: Lake,
    log: Log,
    policy: RollPolicy,
    compressions: Compressions,
    metrics: SinkMetrics,
    _folder: TempDir,
}

/// Another one for each step, as if every writer were set otherwise.
struct Compressions(std::sync::atomic::AtomicUsize);

impl Compressions {
    fn get(&self) -> Compression {
        let step = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Compression::ALL[step % Compression::ALL.len()]
    }
}

impl World {
    async fn new(log: Log, policy: RollPolicy) -> Self {
        let folder = tempfile::Builder::new().prefix("chain").tempdir_in(memory_folder()).unwrap();
        let lake = Lake::open(&LakeTarget::Directory(folder.path().to_owned()), None).unwrap();
        lake.prepare().await.unwrap();
        lake.create_document(&LakePath::head(&partition()), first_head().to_bytes()).await.unwrap();
        let compressions = Compressions(std::sync::atomic::AtomicUsize::new(0));
        Self { lake, log, policy, compressions, metrics: SinkMetrics::register(), _folder: folder }
    }

    async fn read(&self, confirmed: KafkaOffset, log_start: KafkaOffset) -> Result<Chain, ChainHalt> {
        let document = self.lake.read_document(&LakePath::head(&partition())).await.unwrap().unwrap();
        let head = Head::parse(&document.bytes).unwrap();
        let file = match &head.path {
            Some(path) => self.lake.file(path).await.unwrap(),
            None => None,
        };
        let log = LogBounds { start: log_start, end: self.log.end() };
        let writer = Writer { id: WriterId::random(), version: "test" };
        let reading = Reading { head, head_etag: document.etag, file, log };
        Chain::adopt(partition(), writer, reading, None, confirmed, Instant::now())
    }

    fn context<'a>(&self, namespace: &'a Namespace, publish_position: bool) -> StepContext<'a> {
        StepContext {
            drain: false,
            policy: self.policy,
            compression: self.compressions.get(),
            namespace,
            publish_position,
            hour_end: None,
            now: Instant::now(),
            wall_clock: DateTime::UNIX_EPOCH,
        }
    }

    /// Goes on from whatever is there until the whole log is durable, without faults.
    async fn drain(&self) -> Chain {
        let mut chain = self.read(KafkaOffset::ZERO, KafkaOffset::ZERO).await.unwrap();
        let mut batch = self.log.batch(chain.position(), self.log.end());
        loop {
            let namespace = namespace();
            let context = StepContext { drain: true, ..self.context(&namespace, true) };
            let step = chain.next_step(&mut batch, &context).unwrap();
            if matches!(step, Step::Done) {
                return chain;
            }
            perform(&self.lake, &mut chain, step, &self.metrics).await.unwrap();
        }
    }

    /// Every record is accounted for once, and the files tile the log.
    async fn check(&self, chain: &Chain) {
        let folder = CollectionFolder::of(&namespace());
        let mut files = self.lake.list_files(folder.path()).await.unwrap();
        files.sort_by_key(|file| file.metadata.first);
        let mut expected = KafkaOffset::ZERO;
        let mut rows = Vec::new();
        let (mut dead_letters, mut tombstones) = (Vec::new(), 0);
        for (index, file) in files.iter().enumerate() {
            let metadata = &file.metadata;
            assert_eq!(metadata.first, expected, "files tile the log");
            assert!(metadata.next > metadata.first, "no file has an empty range");
            assert!(metadata.sealed || index + 1 == files.len(), "sealed before its successor");
            assert!(metadata.encoded_len() <= METADATA_LIMIT_BYTES);
            expected = metadata.next;
            let state = self.lake.file(&file.path).await.unwrap().unwrap();
            let mut reader = self.lake.read_file(&file.path, &state).await.unwrap();
            assert_eq!(file.path.compression(), Some(metadata.compressed), "{}", file.path);
            let mut unpacker = metadata.compressed.unpacker();
            let mut content = Vec::new();
            while let Some(chunk) = reader.next_chunk().await.unwrap() {
                content.extend_from_slice(&unpacker.unpack(chunk).unwrap());
            }
            content.extend_from_slice(&unpacker.finish().unwrap());
            assert_eq!(content.len() as u64, metadata.original_size);
            assert_eq!(LineCrc::of(&content), metadata.crc);
            let lines: Vec<serde_json::Value> = content
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(|line| serde_json::from_slice(line).unwrap())
                .collect();
            assert_eq!(lines.len() as u64, metadata.rows);
            for line in lines {
                let offset = line["_kafka"]["offset"].as_u64().unwrap();
                assert!((metadata.first.get()..metadata.next.get()).contains(&offset));
                let (_, hour) = self.log.records[usize::try_from(offset).unwrap()];
                assert_eq!(
                    file.path.hour(),
                    Some(EventHour::from_cluster_time(shared::cluster_time::ClusterTime::new(
                        hour * 3600,
                        1
                    )))
                );
                rows.push(offset);
            }
            dead_letters.extend(metadata.dead_letters.iter().map(KafkaOffset::get));
            tombstones += metadata.tombstones;
        }
        let of_kind = |wanted| {
            let all = self.log.records.iter().enumerate().filter(move |(_, (kind, _))| *kind == wanted);
            all.map(|(offset, _)| offset as u64).collect::<Vec<_>>()
        };
        assert_eq!(rows, of_kind(Kind::Row), "every row once, in order");
        assert_eq!(dead_letters, of_kind(Kind::DeadLetter));
        assert_eq!(tombstones, of_kind(Kind::Tombstone).len() as u64);
        assert_eq!(chain.position(), self.log.end());
    }
}

/// A memory file system where the machine has one: what is tested is order, not durability.
fn memory_folder() -> std::path::PathBuf {
    let memory = std::path::PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

/// One sink, as far as this partition is concerned.
struct Sink {
    publishing: Publishing,
    chain: Option<Chain>,
    /// What it believed before a reply was lost.
    before: Option<Chain>,
    batch: Option<Batch>,
    /// The highest `next` that it saw confirmed.
    confirmed: KafkaOffset,
}

/// What the schedule lets happen to one writer.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// Reads some more records and does its next step.
    Step { reads: u64 },
    /// Does its next step, but never hears of it.
    LostReply,
    /// Its request is lost on the way.
    LostRequest,
    /// Publishes its position although no record stands before it.
    Position,
    /// Publishes what it has, as if it gave the partition up.
    Drain,
    /// Dies and is started again.
    Crash,
}

impl Sink {
    fn new(publishing: Publishing) -> Self {
        Self { publishing, chain: None, before: None, batch: None, confirmed: KafkaOffset::ZERO }
    }

    async fn take(&mut self, turn: Turn, world: &World) {
        if matches!(turn, Turn::Crash) {
            *self = Self::new(self.publishing);
            return;
        }
        let Some(chain) = &mut self.chain else {
            let mut chain = world.read(self.confirmed, KafkaOffset::ZERO).await.unwrap();
            if let Some(before) = self.before.take().filter(|before| before.version() == chain.version()) {
                chain.go_on_staging(before);
            }
            // Else it is read again from where the chain ends.
            self.batch = self.batch.take().filter(|batch| batch.start() <= chain.reached());
            self.chain = Some(chain);
            return;
        };
        self.confirmed = self.confirmed.max(chain.next());
        let reads = if let Turn::Step { reads } = turn { reads } else { 1 };
        let batch = self.batch.get_or_insert_with(|| {
            let start = chain.reached();
            let end = KafkaOffset::new((start.get() + reads).min(world.log.end().get()));
            world.log.batch(start, end.max(start))
        });
        let publish_position = matches!(turn, Turn::Position);
        let (namespace, drain) = (namespace(), matches!(turn, Turn::Drain));
        let policy = RollPolicy { publishing: self.publishing, ..world.policy };
        let context = StepContext { policy, drain, ..world.context(&namespace, publish_position) };
        let step = chain.next_step(batch, &context).unwrap();
        if matches!(step, Step::Done) {
            self.batch = None;
            return;
        }
        match turn {
            Turn::LostRequest => self.chain = None,
            Turn::LostReply => {
                // Whatever comes of it, the writer does not hear it and reads back.
                let outcome = perform(&world.lake, &mut chain.clone(), step, &world.metrics).await;
                assert!(matches!(outcome, Ok(()) | Err(LakeError::Conflict)), "{outcome:?}");
                self.before = self.chain.take();
            }
            _ => match perform(&world.lake, chain, step, &world.metrics).await {
                Ok(()) => {}
                Err(LakeError::Conflict) => self.chain = None,
                Err(error) => panic!("{error}"),
            },
        }
    }
}

fn log() -> impl Strategy<Value = Log> {
    let kind = prop_oneof![5 => Just(Kind::Row), 2 => Just(Kind::DeadLetter), 1 => Just(Kind::Tombstone), 1 => Just(Kind::Marker)];
    // Hours go forward and back: a foreign producer's may.
    proptest::collection::vec((kind, 400_000_u32..400_003), 0..14).prop_map(|records| Log { records })
}

fn schedule() -> impl Strategy<Value = Vec<(usize, Turn)>> {
    let turn = prop_oneof![
        6 => (1_u64..5).prop_map(|reads| Turn::Step { reads }),
        1 => Just(Turn::LostReply),
        1 => Just(Turn::LostRequest),
        1 => Just(Turn::Position),
        1 => Just(Turn::Drain),
        1 => Just(Turn::Crash),
    ];
    proptest::collection::vec((0_usize..3, turn), 0..60)
}

fn policy() -> impl Strategy<Value = RollPolicy> {
    let sizes = (
        prop_oneof![Just(None), (1_u64..400).prop_map(Some)],
        prop_oneof![Just(None), (1_u64..5).prop_map(Some)],
    );
    sizes.prop_map(|(bytes, rows)| RollPolicy { bytes, rows, ..no_roll() })
}

/// Of each sink: all alike, or as if they were restarted one by one with the other setting.
fn modes() -> impl Strategy<Value = [Publishing; 3]> {
    use Publishing::{Rolling, Sealed};
    let mode = || prop_oneof![Just(Rolling), Just(Sealed)];
    prop_oneof![
        1 => Just([Rolling; 3]),
        2 => Just([Sealed; 3]),
        2 => [mode(), mode(), mode()],
    ]
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn three_writers_make_one_chain_whatever_happens(
        log in log(), turns in schedule(), policy in policy(), modes in modes()
    ) {
        run(async {
            let world = World::new(log, RollPolicy { publishing: modes[0], ..policy }).await;
            let mut sinks = modes.map(Sink::new);
            for (index, turn) in turns {
                sinks[index].take(turn, &world).await;
                if modes == [Publishing::Sealed; 3] {
                    let files = world.lake.list_files(CollectionFolder::of(&namespace()).path()).await.unwrap();
                    assert!(files.iter().all(|file| file.metadata.sealed), "no file is seen before it has ended");
                }
            }
            let chain = world.drain().await;
            world.check(&chain).await;
            // A zombie that goes on afterwards changes nothing.
            for sink in &mut sinks {
                for _ in 0..4 {
                    sink.take(Turn::Step { reads: 3 }, &world).await;
                }
            }
            let chain = world.drain().await;
            world.check(&chain).await;
        });
    }
}

const HOUR_A: u32 = 400_000;
const HOUR_B: u32 = 400_001;

fn no_roll() -> RollPolicy {
    RollPolicy { publishing: Publishing::Rolling, bytes: None, rows: None, age: None, blocks: 45_000 }
}

fn sealed() -> RollPolicy {
    RollPolicy { publishing: Publishing::Sealed, ..no_roll() }
}

fn rows(hours: &[u32]) -> Log {
    Log { records: hours.iter().map(|hour| (Kind::Row, *hour)).collect() }
}

/// Goal: seal, head and create may each be the last thing that a writer did. Method: a writer is stopped after every
/// number of steps, another one goes on.
#[test]
fn a_roll_that_is_interrupted_at_any_step_is_finished_by_another_writer() {
    run(async {
        for (stop_after, policy) in (0..12).flat_map(|count| [(count, no_roll()), (count, sealed())]) {
            let world = World::new(rows(&[HOUR_A, HOUR_A, HOUR_B, HOUR_B]), policy).await;
            let mut sink = Sink::new(policy.publishing);
            for _ in 0..stop_after {
                sink.take(Turn::Step { reads: 2 }, &world).await;
            }
            let chain = world.drain().await;
            world.check(&chain).await;
        }
    });
}

#[test]
fn a_dead_letter_extends_the_open_file_whatever_its_hour() {
    run(async {
        let log = Log { records: vec![(Kind::Row, HOUR_A), (Kind::DeadLetter, HOUR_B), (Kind::Row, HOUR_A)] };
        let world = World::new(log, no_roll()).await;
        let chain = world.drain().await;
        world.check(&chain).await;
        assert_eq!(world.lake.list_files(CollectionFolder::of(&namespace()).path()).await.unwrap().len(), 1);
    });
}

#[test]
fn a_file_ends_at_its_size_and_never_more_than_a_row_later() {
    run(async {
        let world = World::new(rows(&[HOUR_A; 9]), RollPolicy { bytes: Some(300), ..no_roll() }).await;
        let chain = world.drain().await;
        world.check(&chain).await;
        let files = world.lake.list_files(CollectionFolder::of(&namespace()).path()).await.unwrap();
        assert!(files.len() > 2);
        for file in files {
            assert!(file.metadata.original_size < 300 + 120, "{}", file.metadata.original_size);
        }
    });
}

#[test]
fn many_scattered_dead_letters_roll_the_file_before_its_metadata_is_full() {
    run(async {
        let record =
            |n: u32| if n.is_multiple_of(2) { (Kind::DeadLetter, HOUR_A) } else { (Kind::Marker, HOUR_A) };
        let world = World::new(Log { records: (0..9_000).map(record).collect() }, no_roll()).await;
        let chain = world.drain().await;
        world.check(&chain).await;
        assert!(world.lake.list_files(CollectionFolder::of(&namespace()).path()).await.unwrap().len() > 1);
    });
}

#[test]
fn a_position_behind_the_last_record_is_published_without_a_row() {
    run(async {
        let log = Log { records: vec![(Kind::Row, HOUR_A), (Kind::Marker, HOUR_A), (Kind::Marker, HOUR_A)] };
        let world = World::new(log, no_roll()).await;
        let chain = world.drain().await;
        world.check(&chain).await;
        assert_eq!(chain.position(), KafkaOffset::new(3));
        // Retention up to the position is no gap.
        world.read(KafkaOffset::ZERO, KafkaOffset::new(3)).await.unwrap();
    });
}

#[test]
fn a_log_that_begins_behind_the_chain_is_a_gap() {
    run(async {
        let world = World::new(rows(&[HOUR_A, HOUR_A]), no_roll()).await;
        let gap = world.read(KafkaOffset::ZERO, KafkaOffset::new(1)).await.unwrap_err();
        assert_eq!(gap.exit_code(), ExitCode::OffsetGap);
        world.drain().await;
        world.read(KafkaOffset::ZERO, KafkaOffset::new(2)).await.unwrap();
    });
}

#[test]
fn a_log_that_ends_before_the_chain_is_another_topic() {
    run(async {
        let mut world = World::new(rows(&[HOUR_A, HOUR_A]), no_roll()).await;
        world.drain().await;
        world.log.records.pop();
        let halt = world.read(KafkaOffset::ZERO, KafkaOffset::ZERO).await.unwrap_err();
        assert_eq!(halt.exit_code(), ExitCode::TopicChanged);
    });
}

#[test]
fn a_lake_that_lost_what_was_confirmed_stops_the_writer() {
    run(async {
        let world = World::new(rows(&[HOUR_A]), no_roll()).await;
        let halt = world.read(KafkaOffset::new(1), KafkaOffset::ZERO).await.unwrap_err();
        assert_eq!(halt.exit_code(), ExitCode::LakeDiffers);
    });
}

#[test]
fn a_current_file_that_was_deleted_by_hand_is_damage() {
    run(async {
        let world = World::new(rows(&[HOUR_A]), no_roll()).await;
        let chain = world.drain().await;
        let path = chain.head().path.clone().unwrap();
        std::fs::remove_file(world._folder.path().join(path.as_str())).unwrap();
        std::fs::remove_file(world._folder.path().join(format!("_chain/files/{path}.json"))).unwrap();
        let halt = world.read(KafkaOffset::ZERO, KafkaOffset::ZERO).await.unwrap_err();
        assert!(matches!(halt, ChainHalt::FileLost { .. }), "{halt}");
    });
}

#[test]
fn another_topic_id_halts() {
    run(async {
        let world = World::new(rows(&[HOUR_A]), no_roll()).await;
        let mut chain = world.drain().await;
        chain.head.topicid = Some("old".to_owned());
        assert!(chain.check_topic_id(Some("old")).is_ok());
        assert!(chain.check_topic_id(None).is_ok());
        assert_eq!(chain.check_topic_id(Some("new")).unwrap_err().exit_code(), ExitCode::TopicChanged);
    });
}

#[test]
#[should_panic(expected = "cannot follow")]
fn a_batch_with_records_missing_before_it_is_never_published() {
    run(async {
        let world = World::new(rows(&[HOUR_A, HOUR_A, HOUR_A]), no_roll()).await;
        let chain = world.read(KafkaOffset::ZERO, KafkaOffset::ZERO).await.unwrap();
        let mut batch = world.log.batch(KafkaOffset::new(2), KafkaOffset::new(3));
        let step = chain.next_step(&mut batch, &world.context(&namespace(), false));
        drop(step);
    });
}

/// A regression: the client's old position became the end of the next batch, and records before it were never read.
#[test]
fn a_position_seen_while_the_chain_is_read_again_says_nothing() {
    run(async {
        let world = World::new(rows(&[HOUR_A; 3]), no_roll()).await;
        let chain = world.read(KafkaOffset::ZERO, KafkaOffset::ZERO).await.unwrap();
        let mut state = PartitionState::opening(partition(), Some(namespace()), AssignmentEpoch(1));
        state.opened(None, chain.clone());
        assert!(state.reopen().is_some());
        state.consumer_is_at(KafkaOffset::new(3), Instant::now());
        state.opened(None, chain);
        let (_, batch, _) = state.freeze().unwrap();
        assert_eq!(batch.end(), KafkaOffset::ZERO);
    });
}

/// A regression: another writer's commit covered all our records but ended before the marker that we had passed.
#[test]
fn a_batch_follows_what_was_adopted_even_if_that_ends_earlier() {
    run(async {
        let log = Log { records: vec![(Kind::Row, HOUR_A), (Kind::Marker, HOUR_A), (Kind::Marker, HOUR_A)] };
        let world = World::new(log, no_roll()).await;
        let first = world.read(KafkaOffset::ZERO, KafkaOffset::ZERO).await.unwrap();
        let mut theirs = first.clone();
        let mut batch = world.log.batch(KafkaOffset::ZERO, KafkaOffset::new(2));
        let namespace = namespace();
        loop {
            let step = theirs.next_step(&mut batch, &world.context(&namespace, false)).unwrap();
            if matches!(step, Step::Done) {
                break;
            }
            perform(&world.lake, &mut theirs, step, &world.metrics).await.unwrap();
        }
        let mut state = PartitionState::opening(partition(), Some(namespace.clone()), AssignmentEpoch(1));
        state.opened(None, first);
        state.consumer_is_at(KafkaOffset::new(3), Instant::now());
        let (_, ours, _) = state.freeze().unwrap();
        assert_eq!(ours.end(), KafkaOffset::new(3));
        state.published(theirs, &ours, &world.metrics, Instant::now());
        let (chain, mut next, _) = state.freeze().unwrap();
        assert_eq!(next.start(), KafkaOffset::new(2));
        chain.next_step(&mut next, &world.context(&namespace, false)).unwrap();
    });
}

/// A regression: around a pause of its own librdkafka may hand a record out twice.
#[test]
fn a_record_that_comes_twice_is_taken_once() {
    run(async {
        let world = World::new(rows(&[HOUR_A; 8]), no_roll()).await;
        let chain = world.read(KafkaOffset::ZERO, KafkaOffset::ZERO).await.unwrap();
        let mut state = PartitionState::opening(partition(), Some(namespace()), AssignmentEpoch(1));
        state.opened(None, chain);
        let mut spares = Vec::new();
        let mut values = ValueReader::new(false);
        let mut take = |state: &mut PartitionState, offset: i64| {
            let message = OwnedMessage::new(
                Some(b"{}".to_vec()),
                None,
                "atlas.shop.orders".to_owned(),
                Timestamp::CreateTime(i64::from(HOUR_A) * 3_600_000),
                0,
                offset,
                None,
            );
            state.take(&message, Instant::now(), &mut values, &mut spares).unwrap();
        };
        let offsets =
            |batch: &Batch| batch.pending().iter().map(|entry| entry.offset.get()).collect::<Vec<_>>();
        for offset in [0, 1, 3, 1, 3, 2, 4] {
            take(&mut state, offset);
        }
        let (_, batch, _) = state.freeze().unwrap();
        assert_eq!(offsets(&batch), [0, 1, 3, 4], "twice in one buffer");
        for offset in [3, 4, 5] {
            take(&mut state, offset);
        }
        state.published(
            world.read(KafkaOffset::ZERO, KafkaOffset::ZERO).await.unwrap(),
            &batch,
            &world.metrics,
            Instant::now(),
        );
        let (_, batch, _) = state.freeze().unwrap();
        assert_eq!(offsets(&batch), [5], "again while its batch is on its way");
    });
}

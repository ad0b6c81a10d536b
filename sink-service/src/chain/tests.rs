//! The chain against the real local directory: in the end every record is in the lake once, in order, and the files tile
//! the log. Here the log, the lake and single cases; [`schedule`] lets several writers step in any order, [`partition`] is
//! about what a partition's state makes of its chain.
#![expect(clippy::unwrap_used, reason = "tests")]

use tempfile::TempDir;

use super::*;
use crate::{
    buffer::{Buffer, DeadLetter},
    compression::Compression,
    file_metadata::{LineCrc, METADATA_LIMIT_BYTES},
    lake::{Lake, LakeError, LakeTarget},
    lake_layout::OpenLake,
    line_format::LineFormat,
    metrics::SinkMetrics,
    publish::perform,
    record::{RecordView, inspect},
    topic_content::TopicContent,
    topic_identity::TopicIdentity,
};
use shared::{dead_letter::DeadLetterReason, exit::ExitCode, namespace::Namespace};

mod partition;
mod schedule;

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
    fn batch(&self, start: KafkaOffset, end: KafkaOffset, format: LineFormat) -> Batch {
        let mut buffer = Buffer::new(&partition(), format);
        let range = usize::try_from(start.get()).unwrap()..usize::try_from(end.get()).unwrap();
        for (index, (kind, hour)) in self.records[range.clone()].iter().enumerate() {
            let offset = KafkaOffset::new((range.start + index) as u64);
            let now = Instant::now();
            let time = format!("{}.1", hour * 3600);
            let value = format!("{{\"_event_n\":{offset}}}");
            let record = RecordView {
                value: (*kind == Kind::Row).then_some(value.as_bytes()),
                cluster_time: Some(&time),
                ..RecordView::default()
            };
            let inspected = inspect(&record, &content(), 1024);
            match kind {
                Kind::Row | Kind::Tombstone => buffer.push(offset, &record, &inspected, now),
                Kind::DeadLetter => buffer.push_dead_letter(dead_letter(offset), inspected.hour, None, now),
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

fn content() -> TopicContent {
    TopicContent::Data(Namespace::new("shop", "orders"))
}

/// Not the usual one.
fn layout() -> Layout {
    Layout::parse("{db}.{coll}/{yyyy}-{MM}-{dd}/{HH}").unwrap()
}

fn first_head() -> Head {
    Head {
        topic: "atlas.shop.orders".to_owned(),
        partition: 0,
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

/// One lake on a memory file system where there is one, and what is observed of it.
struct World {
    lake: OpenLake,
    log: Log,
    policy: FilePolicy,
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
    async fn new(log: Log, policy: FilePolicy) -> Self {
        let folder = tempfile::Builder::new().prefix("chain").tempdir_in(memory_folder()).unwrap();
        let lake = Lake::open(&LakeTarget::Directory(folder.path().to_owned()), None).unwrap();
        let lake = OpenLake::new(lake, layout());
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
        let reading = Reading { layout: layout(), head, head_etag: document.etag, file, log };
        Chain::adopt(partition(), writer, reading, &TopicIdentity::default(), confirmed, Instant::now())
    }

    fn context<'a>(&self, content: &'a TopicContent, publish_position: bool) -> StepContext<'a> {
        StepContext {
            drain: false,
            policy: self.policy,
            compression: self.compressions.get(),
            content,
            publish_position,
            hour_end: None,
            now: Instant::now(),
            wall_clock: DateTime::UNIX_EPOCH,
        }
    }

    /// Goes on from whatever is there until the whole log is durable, without faults.
    async fn drain(&self) -> Chain {
        let mut chain = self.read(KafkaOffset::ZERO, KafkaOffset::ZERO).await.unwrap();
        let mut batch = self.log.batch(chain.position(), self.log.end(), self.policy.line_format);
        loop {
            let content = content();
            let context = StepContext { drain: true, ..self.context(&content, true) };
            let step = chain.next_step(&mut batch, &context).unwrap();
            if matches!(step, Step::Done) {
                return chain;
            }
            perform(&self.lake, &mut chain, step, &self.metrics).await.unwrap();
        }
    }

    /// Every record is accounted for once, and the files tile the log.
    async fn check(&self, chain: &Chain) {
        let folder = layout().folder(&content());
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
                // The name is one that a flat line keeps free.
                assert_eq!(line.get("_document").is_none(), metadata.line_format.is_envelope(), "{line}");
                assert!((metadata.first.get()..metadata.next.get()).contains(&offset));
                let (_, hour) = self.log.records[usize::try_from(offset).unwrap()];
                assert_eq!(
                    layout().hour_of(&file.path),
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
fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(work)
}

const HOUR_A: u32 = 400_000;
const HOUR_B: u32 = 400_001;

fn sealed() -> FilePolicy {
    FilePolicy { publishing: Publishing::Sealed, ..FilePolicy::default() }
}

fn rows(hours: &[u32]) -> Log {
    Log { records: hours.iter().map(|hour| (Kind::Row, *hour)).collect() }
}

#[test]
fn a_dead_letter_extends_the_open_file_whatever_its_hour() {
    run(async {
        let log = Log { records: vec![(Kind::Row, HOUR_A), (Kind::DeadLetter, HOUR_B), (Kind::Row, HOUR_A)] };
        let world = World::new(log, FilePolicy::default()).await;
        let chain = world.drain().await;
        world.check(&chain).await;
        assert_eq!(world.lake.list_files(layout().folder(&content()).path()).await.unwrap().len(), 1);
    });
}

#[test]
fn a_file_ends_at_its_size_and_never_more_than_a_row_later() {
    run(async {
        let world =
            World::new(rows(&[HOUR_A; 9]), FilePolicy { bytes: Some(300), ..FilePolicy::default() }).await;
        let chain = world.drain().await;
        world.check(&chain).await;
        let files = world.lake.list_files(layout().folder(&content()).path()).await.unwrap();
        assert!(files.len() > 2);
        for file in files {
            assert!(file.metadata.original_size < 300 + 120, "{}", file.metadata.original_size);
        }
    });
}

#[test]
fn an_open_file_of_the_other_format_is_sealed_before_anything_is_added() {
    run(async {
        let mut world = World::new(rows(&[HOUR_A; 2]), FilePolicy::default()).await;
        let chain = world.drain().await;
        world.check(&chain).await;
        world.policy.line_format = LineFormat::Flat;
        let due = chain.roll_is_due(&world.policy, Instant::now());
        assert!(due, "even if no record comes");
        world.log.records.extend([(Kind::Row, HOUR_A); 2]);
        let chain = world.drain().await;
        world.check(&chain).await;
        let files = world.lake.list_files(layout().folder(&content()).path()).await.unwrap();
        let facts: Vec<_> = files
            .iter()
            .map(|file| (file.metadata.line_format, file.metadata.rows, file.metadata.sealed))
            .collect();
        assert_eq!(facts, [(LineFormat::Envelope, 2, true), (LineFormat::Flat, 2, false)]);
    });
}

#[test]
fn many_scattered_dead_letters_roll_the_file_before_its_metadata_is_full() {
    run(async {
        let record =
            |n: u32| if n.is_multiple_of(2) { (Kind::DeadLetter, HOUR_A) } else { (Kind::Marker, HOUR_A) };
        let world =
            World::new(Log { records: (0..9_000).map(record).collect() }, FilePolicy::default()).await;
        let chain = world.drain().await;
        world.check(&chain).await;
        assert!(world.lake.list_files(layout().folder(&content()).path()).await.unwrap().len() > 1);
    });
}

#[test]
fn a_position_behind_the_last_record_is_published_without_a_row() {
    run(async {
        let log = Log { records: vec![(Kind::Row, HOUR_A), (Kind::Marker, HOUR_A), (Kind::Marker, HOUR_A)] };
        let world = World::new(log, FilePolicy::default()).await;
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
        let world = World::new(rows(&[HOUR_A, HOUR_A]), FilePolicy::default()).await;
        let gap = world.read(KafkaOffset::ZERO, KafkaOffset::new(1)).await.unwrap_err();
        assert_eq!(gap.exit_code(), ExitCode::OffsetGap);
        world.drain().await;
        world.read(KafkaOffset::ZERO, KafkaOffset::new(2)).await.unwrap();
    });
}

#[test]
fn a_log_that_ends_before_the_chain_was_cut_or_is_another_topics() {
    run(async {
        let mut world = World::new(rows(&[HOUR_A, HOUR_A]), FilePolicy::default()).await;
        world.drain().await;
        world.log.records.pop();
        let halt = world.read(KafkaOffset::ZERO, KafkaOffset::ZERO).await.unwrap_err();
        assert_eq!(halt.exit_code(), ExitCode::TopicChanged);
        // Topic ids are not known here.
        assert!(matches!(halt, ChainHalt::LogTooShort { .. }), "{halt}");
        let of = |is_same| {
            ChainHalt::log_too_short(partition(), KafkaOffset::new(2), KafkaOffset::new(1), is_same)
        };
        assert_eq!(of(false), halt);
        assert_eq!(of(true).exit_code(), ExitCode::TopicChanged);
        assert!(of(true).to_string().contains("the log was cut"));
    });
}

#[test]
fn a_lake_that_lost_what_was_confirmed_stops_the_writer() {
    run(async {
        let world = World::new(rows(&[HOUR_A]), FilePolicy::default()).await;
        let halt = world.read(KafkaOffset::new(1), KafkaOffset::ZERO).await.unwrap_err();
        assert_eq!(halt.exit_code(), ExitCode::LakeDiffers);
    });
}

#[test]
fn a_current_file_that_was_deleted_by_hand_is_damage() {
    run(async {
        let world = World::new(rows(&[HOUR_A]), FilePolicy::default()).await;
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
        let world = World::new(rows(&[HOUR_A]), FilePolicy::default()).await;
        let mut chain = world.drain().await;
        chain.head.topicid = Some("old".to_owned());
        let now = |id: Option<&str>| TopicIdentity { topic: id.map(str::to_owned), cluster: None };
        assert!(chain.check_topic(&now(Some("old"))).is_ok());
        assert!(chain.check_topic(&now(None)).is_ok());
        let halt = chain.check_topic(&now(Some("new"))).unwrap_err();
        assert_eq!(halt.exit_code(), ExitCode::TopicChanged);
    });
}

#[test]
#[should_panic(expected = "cannot follow")]
fn a_batch_with_records_missing_before_it_is_never_published() {
    run(async {
        let world = World::new(rows(&[HOUR_A, HOUR_A, HOUR_A]), FilePolicy::default()).await;
        let chain = world.read(KafkaOffset::ZERO, KafkaOffset::ZERO).await.unwrap();
        let mut batch = world.log.batch(KafkaOffset::new(2), KafkaOffset::new(3), LineFormat::Envelope);
        let step = chain.next_step(&mut batch, &world.context(&content(), false));
        drop(step);
    });
}

/// Rule 3: the record that the head's file was named for expired before it was written, and was given up.
#[test]
fn a_file_named_for_a_lost_record_is_made_without_rows() {
    run(async {
        let hour =
            |hour: u32| EventHour::from_cluster_time(shared::cluster_time::ClusterTime::new(hour * 3600, 1));
        let path =
            layout().folder(&content()).data_file(hour(HOUR_A), 0, KafkaOffset::new(1), Compression::None);
        let log = rows(&[HOUR_A, HOUR_A, HOUR_A, HOUR_B]);
        for policy in [FilePolicy::default(), sealed()] {
            let world = World::new(log.clone(), policy).await;
            let etag = world.lake.read_document(&LakePath::head(&partition())).await.unwrap().unwrap().etag;
            let named = Head {
                db: Some("shop".to_owned()),
                coll: Some("orders".to_owned()),
                path: Some(path.clone()),
                first: Some(KafkaOffset::new(1)),
                scanned: KafkaOffset::new(3),
                ..first_head()
            };
            world
                .lake
                .replace_document(&LakePath::head(&partition()), named.to_bytes(), &etag)
                .await
                .unwrap();
            let chain = world.drain().await;
            assert_eq!(chain.position(), world.log.end());
            let files = world.lake.list_files(layout().folder(&content()).path()).await.unwrap();
            let facts: Vec<_> = files
                .iter()
                .map(|file| {
                    (
                        file.metadata.first.get(),
                        file.metadata.next.get(),
                        file.metadata.rows,
                        layout().hour_of(&file.path),
                    )
                })
                .collect();
            assert_eq!(facts, [(1, 3, 0, Some(hour(HOUR_A))), (3, 4, 1, Some(hour(HOUR_B)))], "{policy:?}");
        }
    });
}

#[test]
fn a_chain_does_not_go_on_where_its_files_are_not() {
    run(async {
        let world = World::new(rows(&[HOUR_A, HOUR_B]), FilePolicy::default()).await;
        let chain = world.drain().await;
        let path = chain.head().path.clone().unwrap();
        assert!(path.as_str().starts_with("shop.orders/"), "{path}");
        let document = world.lake.read_document(&LakePath::head(&partition())).await.unwrap().unwrap();
        for other in ["hive", "{coll}.{db}/{yyyy}-{MM}-{dd}/{HH}", "{db}.{coll}/{yyyy}-{dd}-{MM}/{HH}"] {
            let reading = Reading {
                layout: Layout::parse(other).unwrap(),
                head: Head::parse(&document.bytes).unwrap(),
                head_etag: document.etag.clone(),
                file: world.lake.file(&path).await.unwrap(),
                log: LogBounds { start: KafkaOffset::ZERO, end: world.log.end() },
            };
            let writer = Writer { id: WriterId::random(), version: "test" };
            let now = Instant::now();
            let halt =
                Chain::adopt(partition(), writer, reading, &TopicIdentity::default(), KafkaOffset::ZERO, now)
                    .unwrap_err();
            assert_eq!(halt.exit_code(), ExitCode::LakeDiffers);
            let says = halt.to_string();
            assert!(says.contains(path.as_str()) && says.contains(&format!("LAYOUT={other}")), "{says}");
        }
    });
}

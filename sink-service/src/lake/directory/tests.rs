//! Deaths inside a step, as the states that they leave on the disk, and as real `kill -9` in the conformance suite.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;

use super::*;
use crate::file_metadata::WriterId;

struct Bench {
    lake: Directory,
    root: tempfile::TempDir,
    path: LakePath,
    state: FileState,
}

fn metadata(lines: &[&str]) -> FileMetadata {
    let size: usize = lines.iter().map(|line| line.len()).sum();
    let writer = WriterId::random().to_string();
    let facts = [
        ("topic", "atlas.shop.orders"),
        ("partition", "0"),
        ("first", "0"),
        ("next", &lines.len().to_string()),
        ("rows", &lines.len().to_string()),
        ("tombstones", "0"),
        ("sealed", "false"),
        ("writer", &writer),
        ("seq", "0"),
        ("generation", "0"),
        ("crc", "0000000000000000"),
        ("originalsize", &size.to_string()),
        ("storedsize", &size.to_string()),
        ("compressed", "none"),
        ("processedat", "2026-11-21T12:00:00Z"),
        ("layout", "1"),
        ("version", "0"),
    ];
    let map: HashMap<String, String> =
        facts.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    FileMetadata::from_map(&map).unwrap()
}

fn bytes(lines: &[&str]) -> Vec<Bytes> {
    lines.iter().map(|line| Bytes::copy_from_slice(line.as_bytes())).collect()
}

/// A file with one confirmed line.
async fn bench() -> Bench {
    let root = tempfile::tempdir().unwrap();
    let lake = Directory::new(root.path().to_owned());
    lake.prepare().await.unwrap();
    let path = LakePath::new("shop/orders/hour=00/events.jsonl").unwrap();
    let state = lake.create_file(&path, &bytes(&["one\n"]), &metadata(&["one\n"])).await.unwrap();
    Bench { lake, root, path, state }
}

impl Bench {
    fn data(&self) -> PathBuf {
        self.root.path().join(self.path.as_str())
    }

    fn sidecar(&self) -> PathBuf {
        sidecar::place(self.root.path(), &self.path)
    }

    async fn readable(&self) -> String {
        let state = self.lake.file(&self.path).await.unwrap().unwrap();
        let mut reader = self.lake.read_file(&self.path, &state).await.unwrap();
        let mut text = Vec::new();
        while let Some(chunk) = reader.next_chunk().await.unwrap() {
            text.extend_from_slice(&chunk);
        }
        String::from_utf8(text).unwrap()
    }

    /// The next writer adopts what is there and appends.
    async fn adopt_and_append(&self, line: &'static str) -> Result<FileState, LakeError> {
        let state = self.lake.file(&self.path).await?.unwrap();
        let mut next = metadata(&["one\n", line]);
        next.stored_size = state.metadata.stored_size + line.len() as u64;
        self.lake.append(&self.path, &state, &bytes(&[line]), &next).await
    }
}

#[tokio::test]
async fn death_before_the_sidecar_is_renamed_leaves_no_trace() {
    // Every state between "lock" and "rename": bytes of any length behind storedsize, no or half or whole a sidecar.tmp.
    for beyond in ["", "t", "two\n", "a much longer line than the next one\n"] {
        for half_sidecar in [None, Some("{\"etag\":"), Some("whole")] {
            let bench = bench().await;
            fs::write(bench.data(), format!("one\n{beyond}")).unwrap();
            if let Some(text) = half_sidecar {
                let text = if text == "whole" {
                    fs::read_to_string(bench.sidecar()).unwrap().replace("\"next\": \"1\"", "\"next\": \"9\"")
                } else {
                    text.to_owned()
                };
                fs::write(durable::temporary_name(&bench.sidecar()), text).unwrap();
            }
            assert_eq!(bench.readable().await, "one\n");
            assert_eq!(bench.lake.list(&LakePath::new("shop").unwrap()).await.unwrap().files.len(), 1);
            bench.adopt_and_append("2\n").await.unwrap();
            assert_eq!(bench.readable().await, "one\n2\n");
            assert_eq!(
                fs::read_to_string(bench.data()).unwrap(),
                "one\n2\n",
                "the dead writer's bytes are cut"
            );
        }
    }
}

/// A regression: a file that was sealed without another line kept them, and readers of the folder saw them.
#[tokio::test]
async fn a_dead_writers_bytes_are_cut_where_a_file_only_ends() {
    let bench = bench().await;
    fs::write(bench.data(), "one\ntw").unwrap();
    let sealed = FileMetadata { sealed: true, ..metadata(&["one\n"]) };
    bench.lake.append(&bench.path, &bench.state, &[], &sealed).await.unwrap();
    assert_eq!(fs::read_to_string(bench.data()).unwrap(), "one\n");
}

#[tokio::test]
async fn death_after_the_rename_is_a_finished_step_without_an_answer() {
    let bench = bench().await;
    bench.adopt_and_append("two\n").await.unwrap();
    // The dead writer's successor still holds the state from before: it must read back, and then sees the step.
    let stale =
        bench.lake.append(&bench.path, &bench.state, &bytes(&["2\n"]), &metadata(&["one\n", "2\n"])).await;
    assert!(matches!(stale, Err(LakeError::Conflict)), "{stale:?}");
    assert_eq!(bench.lake.file(&bench.path).await.unwrap().unwrap().metadata.next.get(), 2);
    assert_eq!(bench.readable().await, "one\ntwo\n");
}

#[tokio::test]
async fn death_while_a_file_is_created_leaves_none() {
    let bench = bench().await;
    let other = LakePath::new("shop/orders/hour=01/events.jsonl").unwrap();
    let place = bench.root.path().join(other.as_str());
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(&place, "a dead writer's first bytes").unwrap();
    assert!(bench.lake.file(&other).await.unwrap().is_none());
    bench.lake.create_file(&other, &bytes(&["x\n"]), &metadata(&["x\n"])).await.unwrap();
    assert_eq!(fs::read_to_string(&place).unwrap(), "x\n");
}

#[tokio::test]
async fn lost_bytes_and_unreadable_sidecars_are_damage() {
    let shorter = bench().await;
    fs::write(shorter.data(), "on").unwrap();
    let gone = bench().await;
    fs::remove_file(gone.data()).unwrap();
    let torn = bench().await;
    fs::write(torn.sidecar(), "{\"etag\"").unwrap();
    let later = bench().await;
    let text = fs::read_to_string(later.sidecar()).unwrap().replacen('{', "{\"later\": \"x\",", 1);
    fs::write(later.sidecar(), text).unwrap();
    for bench in [shorter, gone, torn, later] {
        let found = bench.lake.file(&bench.path).await;
        assert!(matches!(found, Err(LakeError::Damaged { .. })), "{found:?}");
        let appended = bench
            .lake
            .append(&bench.path, &bench.state, &bytes(&["2\n"]), &metadata(&["one\n", "2\n"]))
            .await;
        assert!(matches!(appended, Err(LakeError::Damaged { .. })), "{appended:?}");
    }
}

#[tokio::test]
async fn a_lock_that_is_never_released_makes_steps_unavailable_and_names_it() {
    let bench = bench().await;
    let lake = Directory {
        places: Arc::new(Places { root: bench.root.path().to_owned(), patience: Duration::from_millis(60) }),
    };
    let lock = bench.root.path().join("_chain/atlas.shop.orders/p0.lock");
    let held = PartitionLock::take(&lock, Duration::ZERO).unwrap();
    let head = LakePath::head(&TopicPartition::new("atlas.shop.orders", 0));
    let appended = lake.append(&bench.path, &bench.state, &[], &metadata(&["one\n"])).await.map(|_| ());
    let created = lake.create_document(&head, b"{}".to_vec()).await.map(|_| ());
    for result in [appended, created] {
        let Err(LakeError::Unavailable { cause, .. }) = result else { panic!("{result:?}") };
        assert!(cause.contains("p0.lock") && cause.contains("process"), "{cause}");
    }
    // Other partitions do not wait for it, and reading needs no lock.
    let other = LakePath::head(&TopicPartition::new("atlas.shop.orders", 1));
    lake.create_document(&other, b"{}".to_vec()).await.unwrap();
    assert_eq!(bench.readable().await, "one\n");
    drop(held);
    lake.append(&bench.path, &bench.state, &[], &metadata(&["one\n"])).await.unwrap();
}

#[tokio::test]
async fn a_replaced_file_is_a_conflict_for_its_readers() {
    let bench = bench().await;
    let mut rebuilt = metadata(&["one\n"]);
    rebuilt.generation = 1;
    bench.lake.append(&bench.path, &bench.state, &[], &rebuilt).await.unwrap();
    let reader = bench.lake.read_file(&bench.path, &bench.state).await.map(|_| ());
    assert!(matches!(reader, Err(LakeError::Conflict)), "{reader:?}");
}

#[tokio::test]
async fn a_step_whose_caller_gave_up_happens_whole_or_not_at_all() {
    let bench = Arc::new(bench().await);
    let lock = bench.root.path().join("_chain/atlas.shop.orders/p0.lock");
    let held = PartitionLock::take(&lock, Duration::ZERO).unwrap();
    // The late one waits for the lock on its own thread; its caller is gone before it gets it.
    let late_lines = bytes(&["late\n"]);
    let late_metadata = metadata(&["one\n", "late\n"]);
    let late = bench.lake.append(&bench.path, &bench.state, &late_lines, &late_metadata);
    assert!(tokio::time::timeout(Duration::from_millis(20), late).await.is_err());
    let rival = {
        let bench = Arc::clone(&bench);
        tokio::spawn(async move {
            let lines = metadata(&["one\n", "2\n"]);
            bench.lake.append(&bench.path, &bench.state, &bytes(&["2\n"]), &lines).await
        })
    };
    drop(held);
    match rival.await.unwrap() {
        Ok(_) => assert_eq!(bench.readable().await, "one\n2\n", "the late one came second and was refused"),
        Err(LakeError::Conflict) => assert_eq!(bench.readable().await, "one\nlate\n"),
        Err(error) => panic!("{error}"),
    }
}

/// A rewrite whose writer died behind its step: the sidecar names the new content, which is still under its own name.
async fn with_pending() -> (Bench, PathBuf) {
    let bench = bench().await;
    let text = fs::read_to_string(bench.sidecar()).unwrap();
    let folder = bench.root.path().join("_chain/pending/shop/orders/hour=00");
    fs::create_dir_all(&folder).unwrap();
    let written = folder.join("events.jsonl.dead");
    fs::write(&written, "new\n").unwrap();
    let name = written.strip_prefix(bench.root.path()).unwrap().display();
    let text = text.replacen('{', &format!("{{\"pending\": \"{name}\","), 1);
    fs::write(bench.sidecar(), text.replace("\"generation\": \"0\"", "\"generation\": \"1\"")).unwrap();
    (bench, written)
}

#[tokio::test]
async fn a_pending_rewrite_is_finished_by_whoever_comes_next() {
    let (bench, written) = with_pending().await;
    assert_eq!(fs::read_to_string(bench.data()).unwrap(), "one\n");
    assert_eq!(bench.readable().await, "new\n");
    assert!(!written.exists());
    assert!(!fs::read_to_string(bench.sidecar()).unwrap().contains("pending"));

    // Here it died between the rename and the last sidecar.
    let (bench, written) = with_pending().await;
    fs::rename(&written, bench.data()).unwrap();
    let listed = bench.lake.list(&LakePath::new("shop").unwrap()).await.unwrap();
    assert_eq!(listed.files[0].metadata.generation, 1);
    assert_eq!(bench.readable().await, "new\n");
    assert!(!fs::read_to_string(bench.sidecar()).unwrap().contains("pending"));
}

#[tokio::test]
async fn what_dead_writers_staged_is_removed_and_nothing_else() {
    let bench = bench().await;
    let partition = &bench.state.metadata.topic_partition;
    let live = bench.lake.stage_file(&bench.path, partition).await.unwrap();
    let folder = bench.root.path().join("_chain/pending/shop/orders/hour=00");
    fs::write(folder.join("events.jsonl.dead"), "half").unwrap();
    fs::write(folder.join("events.jsonlx"), "another file's").unwrap();
    let next = bench.lake.stage_file(&bench.path, partition).await.unwrap();
    let left = || {
        let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(left().len(), 3, "{:?}", left());
    drop((live, next));
    assert_eq!(left(), ["events.jsonlx"], "what is given up is gone");
}

#[tokio::test]
async fn damage_can_be_looked_at_and_replaced() {
    let torn = bench().await;
    fs::write(torn.sidecar(), "{\"etag\"").unwrap();
    let gone = bench().await;
    fs::remove_file(gone.data()).unwrap();
    for bench in [torn, gone] {
        let sight = bench.lake.look(&bench.path).await.unwrap().unwrap();
        assert!(sight.file.is_err());
        let staged = bench.lake.stage_file(&bench.path, &bench.state.metadata.topic_partition).await.unwrap();
        bench.lake.stage_more(&staged, 0, Bytes::from_static(b"new\n")).await.unwrap();
        let metadata = metadata(&["new\n"]);
        bench.lake.publish_staged(&bench.path, staged, Some(&sight.etag), &metadata).await.unwrap();
        assert_eq!(bench.readable().await, "new\n");
    }
}

#[tokio::test]
async fn what_was_staged_and_removed_by_hand_is_never_published() {
    let bench = bench().await;
    let staged = bench.lake.stage_file(&bench.path, &bench.state.metadata.topic_partition).await.unwrap();
    bench.lake.stage_more(&staged, 0, Bytes::from_static(b"new\n")).await.unwrap();
    fs::remove_dir_all(bench.root.path().join("_chain/pending")).unwrap();
    let metadata = metadata(&["new\n"]);
    let published = bench.lake.publish_staged(&bench.path, staged, Some(&bench.state.etag), &metadata).await;
    assert!(matches!(published, Err(LakeError::Conflict)), "{published:?}");
    assert_eq!(bench.readable().await, "one\n");
}

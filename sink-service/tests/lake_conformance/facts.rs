//! Data files as the promises need them: numbered lines, and metadata that counts them.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::DateTime;
use shared::kafka_position::{KafkaOffset, TopicPartition};
use sink_service::{
    compression::Compression,
    file_metadata::{FileMetadata, LastEvent, LineCrc, OffsetRuns, WriterId},
    lake::{ETag, FileState, Lake, LakeError},
    lake_path::LakePath,
    line_format::LineFormat,
};

pub(crate) const TOPIC: &str = "atlas.shop.orders";

pub(crate) fn path(text: &str) -> LakePath {
    LakePath::new(text).unwrap()
}

pub(crate) fn bytes(lines: &[&str]) -> Vec<Bytes> {
    lines.iter().map(|line| Bytes::copy_from_slice(line.as_bytes())).collect()
}

/// The metadata of a file that does not exist yet.
pub(crate) fn nothing(writer: WriterId) -> FileMetadata {
    FileMetadata {
        topic_partition: TopicPartition::new(TOPIC, 0),
        first: KafkaOffset::ZERO,
        next: KafkaOffset::ZERO,
        rows: 0,
        dead_letters: OffsetRuns::default(),
        tombstones: 0,
        sealed: false,
        writer,
        seq: 0,
        generation: 0,
        last_event: None,
        min_cluster_time: None,
        max_cluster_time: None,
        operations: BTreeMap::new(),
        crc: LineCrc::EMPTY,
        original_size: 0,
        stored_size: 0,
        compressed: Compression::None,
        line_format: LineFormat::Envelope,
        processed_at: DateTime::from_timestamp_millis(1_755_900_008_123).unwrap(),
        layout: 1,
        version: "0.1.0+größe".to_owned(),
    }
}

/// The metadata after these lines were added.
pub(crate) fn after(before: &FileMetadata, lines: &[&str], writer: WriterId) -> FileMetadata {
    let mut metadata = before.clone();
    for line in lines {
        let length = line.len() as u64;
        metadata.crc = metadata.crc.followed_by(LineCrc::of(line.as_bytes()), length);
        metadata.rows += 1;
        metadata.next = metadata.next.after();
        metadata.original_size += length;
        metadata.stored_size += length;
        *metadata.operations.entry("insert".to_owned()).or_default() += 1;
        metadata.last_event = Some(LastEvent::new(line.trim(), "orders/1").into());
    }
    metadata.writer = writer;
    metadata.seq += 1;
    metadata
}

pub(crate) async fn create(lake: &Lake, at: &LakePath, lines: &[&str]) -> Result<FileState, LakeError> {
    let writer = WriterId::random();
    lake.create_file(at, &bytes(lines), &after(&nothing(writer), lines, writer)).await
}

pub(crate) async fn append(
    lake: &Lake,
    at: &LakePath,
    state: &FileState,
    lines: &[&str],
) -> Result<FileState, LakeError> {
    let writer = WriterId::random();
    lake.append(at, state, &bytes(lines), &after(&state.metadata, lines, writer)).await
}

/// The file's whole content anew, in pieces of one line.
pub(crate) async fn rewrite(
    lake: &Lake,
    at: &LakePath,
    expected: Option<&ETag>,
    lines: &[&str],
) -> Result<FileState, LakeError> {
    let writer = WriterId::random();
    let metadata = FileMetadata { generation: 1, ..after(&nothing(writer), lines, writer) };
    let mut rewrite = lake.rewrite(at, &metadata.topic_partition).await?;
    for line in bytes(lines) {
        rewrite.add(line).await?;
    }
    rewrite.commit(expected, &metadata).await
}

pub(crate) async fn state(lake: &Lake, at: &LakePath) -> FileState {
    lake.file(at).await.unwrap().expect("the file exists")
}

/// What a reader of this state sees.
pub(crate) async fn read(lake: &Lake, at: &LakePath, state: &FileState) -> String {
    let mut reader = lake.read_file(at, state).await.unwrap();
    let mut content = Vec::new();
    while let Some(chunk) = reader.next_chunk().await.unwrap() {
        content.extend_from_slice(&chunk);
    }
    String::from_utf8(content).unwrap()
}

/// The whole content now, checked against what the metadata says of it.
pub(crate) async fn content(lake: &Lake, at: &LakePath) -> String {
    let state = state(lake, at).await;
    let text = read(lake, at, &state).await;
    assert_eq!(text.len() as u64, state.metadata.stored_size);
    assert_eq!(LineCrc::of(text.as_bytes()), state.metadata.crc, "bytes and metadata are of one step");
    assert_eq!(text.lines().count() as u64, state.metadata.rows);
    text
}

pub(crate) fn is_conflict<T>(result: &Result<T, LakeError>) -> bool {
    matches!(result, Err(LakeError::Conflict))
}

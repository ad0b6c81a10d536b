//! How far a partition's chain has come, for whoever does not write it.

use shared::kafka_position::{KafkaOffset, TopicPartition};

use crate::{
    head::Head,
    lake::{FileState, Lake, LakeError},
    lake_path::LakePath,
};

/// A chain's head with its current file.
#[derive(Debug)]
pub struct Standing {
    pub head: Head,
    /// `None` if the head names none, or it is not there.
    pub file: Option<FileState>,
    /// Everything before it is durable, and there is no record between the file's end and here.
    pub position: KafkaOffset,
}

/// `None` if there is no chain.
///
/// # Errors
/// As the lake says.
pub async fn standing(lake: &Lake, partition: &TopicPartition) -> Result<Option<Standing>, LakeError> {
    let path = LakePath::head(partition);
    let Some(document) = lake.read_document(&path).await? else { return Ok(None) };
    let head = Head::parse(&document.bytes).map_err(|what| LakeError::Damaged { path, what })?;
    let file = match &head.path {
        Some(path) => lake.file(path).await?,
        None => None,
    };
    let next = file.as_ref().map(|file| file.metadata.next).or(head.first).unwrap_or(head.start);
    let position = next.max(head.scanned);
    Ok(Some(Standing { head, file, position }))
}

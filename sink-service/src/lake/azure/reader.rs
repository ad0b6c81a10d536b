//! Reads a blob in ranges, each on the condition that the blob is still what the state says.

use std::num::NonZero;

use azure_storage_blob::models::{BlobClientDownloadOptions, HttpRange};
use bytes::Bytes;

use super::{AzureContainer, classify::Request};
use crate::{
    lake::{FileState, LakeError},
    lake_path::LakePath,
};

/// Bytes per request.
const CHUNK_BYTES: u64 = 4 * 1024 * 1024;

/// How often a range is asked for again because the file grew in between.
const GROWTH_LIMIT: usize = 20;

/// A blob being read.
pub struct Reader<'a> {
    lake: &'a AzureContainer,
    path: LakePath,
    /// The newest state known to begin with what is read; its ETag is the condition of the next range.
    state: FileState,
    /// The blocks that the reader was opened for.
    blocks: usize,
    offset: u64,
    size: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(lake: &'a AzureContainer, path: LakePath, state: FileState) -> Self {
        let (blocks, size) = (state.blocks.len(), state.metadata.stored_size);
        Self { lake, path, state, blocks, offset: 0, size }
    }

    pub(in crate::lake) async fn next_chunk(&mut self) -> Result<Option<Bytes>, LakeError> {
        let length = CHUNK_BYTES.min(self.size - self.offset);
        if length == 0 {
            return Ok(None);
        }
        for _ in 0..GROWTH_LIMIT {
            match self.range(length).await {
                Ok(bytes) => {
                    self.offset += length;
                    return Ok(Some(bytes));
                }
                Err(LakeError::Conflict) => self.follow_growth().await?,
                Err(error) => return Err(error),
            }
        }
        let cause = format!("read {}: it grows faster than it can be read", self.path);
        Err(LakeError::Unavailable { cause, retry_after: None })
    }

    async fn range(&self, length: u64) -> Result<Bytes, LakeError> {
        let what = format!("read {}", self.path);
        let one_request = usize::try_from(length).ok().and_then(NonZero::new);
        let options = BlobClientDownloadOptions {
            range: Some(HttpRange::new(self.offset, length)),
            if_match: Some(self.state.etag.as_str().into()),
            partition_size: one_request,
            parallel: NonZero::new(1),
            ..Default::default()
        };
        let blob = self.lake.blob(&self.path);
        let bytes = self
            .lake
            .request(Request::Read, &what, async { blob.download(Some(options)).await?.body.collect().await })
            .await?;
        if bytes.len() as u64 != length {
            let cause = format!("{what}: {} bytes came instead of {length}", bytes.len());
            return Err(LakeError::Unavailable { cause, retry_after: None });
        }
        Ok(bytes)
    }

    /// The blob has another ETag. If it still begins with the same blocks it has only grown, since a block's name is
    /// never used for other bytes; else the content was replaced.
    async fn follow_growth(&mut self) -> Result<(), LakeError> {
        let newer = self.lake.file(&self.path).await?.ok_or(LakeError::Conflict)?;
        let begins_the_same = newer.blocks.get(..self.blocks) == self.state.blocks.get(..self.blocks);
        if !begins_the_same || newer.metadata.stored_size < self.size {
            return Err(LakeError::Conflict);
        }
        self.state = newer;
        Ok(())
    }
}

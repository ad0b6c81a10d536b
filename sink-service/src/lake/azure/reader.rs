//! Reads a blob in ranges, each certain to be of the content that the state named, also while the blob grows on.

use std::{num::NonZero, ops::Range, sync::Arc};

use azure_storage_blob::models::{BlobClientDownloadOptions, HttpRange};
use bytes::Bytes;

use super::{AzureContainer, BlockId, classify::Request, unreadable};
use crate::{
    lake::{ETag, FileState, LakeError, Object},
    lake_path::LakePath,
};

/// Bytes per request.
const CHUNK_BYTES: u64 = 4 * 1024 * 1024;

/// A blob being read.
pub struct Reader<'a> {
    lake: &'a AzureContainer,
    path: LakePath,
    /// A version known to begin with what is read; the condition of the next range.
    etag: ETag,
    /// The blocks of the state that the reader was opened for.
    blocks: Arc<Vec<BlockId>>,
    offset: u64,
    size: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(lake: &'a AzureContainer, path: LakePath, state: &FileState) -> Self {
        let (etag, blocks) = (state.etag.clone(), Arc::clone(&state.blocks));
        Self { lake, path, etag, blocks, offset: 0, size: state.metadata.stored_size }
    }

    pub(in crate::lake) async fn next_chunk(&mut self) -> Result<Option<Bytes>, LakeError> {
        let length = CHUNK_BYTES.min(self.size - self.offset);
        if length == 0 {
            return Ok(None);
        }
        let bytes = match self.range(length, Some(&self.etag)).await {
            Ok((bytes, _)) => bytes,
            // Another version. If it has only grown the range is still the same: read it as it is now, then look.
            Err(LakeError::Conflict) => {
                let (bytes, etag) = self.range(length, None).await?;
                self.check_beginning().await?;
                self.etag = etag;
                bytes
            }
            Err(error) => return Err(error),
        };
        self.offset += length;
        Ok(Some(bytes))
    }

    async fn range(&self, length: u64, condition: Option<&ETag>) -> Result<(Bytes, ETag), LakeError> {
        self.lake.range(&self.path, self.offset, length, condition).await
    }

    /// Blocks that were there before a range was read and are there after it were there in between, since a block that
    /// was dropped never comes back and a name is never used for other bytes. So one look is enough, however fast the
    /// blob grows.
    async fn check_beginning(&self) -> Result<(), LakeError> {
        let blob = self.lake.blob(&self.path);
        let now = self.lake.block_list(&blob, &self.path).await?.ok_or(LakeError::Conflict)?;
        let beginning = now.blocks.iter().take(self.blocks.len()).map(|block| block.name.as_deref());
        if beginning.eq(self.blocks.iter().map(|id| Some(id.as_bytes()))) {
            Ok(())
        } else {
            Err(LakeError::Conflict)
        }
    }
}

impl AzureContainer {
    pub(in crate::lake) async fn read_object(
        &self,
        path: &LakePath,
        object: &Object,
        range: Range<u64>,
    ) -> Result<Bytes, LakeError> {
        let length = range.end - range.start;
        self.range(path, range.start, length, Some(&object.etag)).await.map(|(bytes, _)| bytes)
    }

    /// Some bytes of a blob, and of which version they are.
    async fn range(
        &self,
        path: &LakePath,
        offset: u64,
        length: u64,
        condition: Option<&ETag>,
    ) -> Result<(Bytes, ETag), LakeError> {
        let what = format!("read {path}");
        let options = BlobClientDownloadOptions {
            range: Some(HttpRange::new(offset, length)),
            if_match: condition.map(|etag| etag.as_str().into()),
            partition_size: usize::try_from(length).ok().and_then(NonZero::new),
            parallel: NonZero::new(1),
            ..Default::default()
        };
        let blob = self.blob(path);
        let request = async {
            let result = blob.download(Some(options)).await?;
            let etag = result.properties.etag;
            Ok((result.body.collect().await?, etag))
        };
        let (bytes, etag) = self.request(Request::Read, &what, request).await?;
        let etag = etag.ok_or_else(|| unreadable(Request::Read, &what))?;
        // A body that is cut short may come from the network or from a blob that is now shorter: not the same content.
        if bytes.len() as u64 != length {
            return Err(LakeError::Conflict);
        }
        Ok((bytes, ETag::new(etag.to_string())))
    }
}

//! A blob's whole content anew: blocks are staged as they come, and one commit names them and nothing else.
//!
//! Two that write the same blob discard each other's staged blocks with their commits; the second is then answered with InvalidBlockList: a
//! conflict like any other.

use azure_storage_blob::BlockBlobClient;
use bytes::{Bytes, BytesMut};

use super::{AzureContainer, BlockId, Condition};
use crate::{
    file_metadata::FileMetadata,
    lake::{ETag, FileState, LakeError, check_step},
    lake_path::LakePath,
};

/// Smaller pieces are gathered: a blob has room for 50,000 blocks.
const BLOCK_BYTES: usize = 8 * 1024 * 1024;

/// See the module.
pub struct Rewrite<'a> {
    lake: &'a AzureContainer,
    client: BlockBlobClient,
    path: LakePath,
    gathered: BytesMut,
    staged: Vec<BlockId>,
    size: u64,
}

impl<'a> Rewrite<'a> {
    pub(super) fn new(lake: &'a AzureContainer, path: &LakePath) -> Self {
        let client = lake.blob(path).block_blob_client();
        Self { lake, client, path: path.clone(), gathered: BytesMut::new(), staged: Vec::new(), size: 0 }
    }

    pub(in crate::lake) async fn add(&mut self, bytes: Bytes) -> Result<(), LakeError> {
        self.gathered.extend_from_slice(&bytes);
        if self.gathered.len() >= BLOCK_BYTES { self.stage().await } else { Ok(()) }
    }

    async fn stage(&mut self) -> Result<(), LakeError> {
        let block = self.gathered.split().freeze();
        self.size += block.len() as u64;
        self.staged.push(self.lake.stage(&self.client, &self.path, block).await?);
        Ok(())
    }

    pub(in crate::lake) async fn commit(
        mut self,
        expected: Option<&ETag>,
        metadata: &FileMetadata,
    ) -> Result<FileState, LakeError> {
        if !self.gathered.is_empty() {
            self.stage().await?;
        }
        check_step(&self.path, 0, self.size, metadata)?;
        let condition = expected.map_or(Condition::Absent, Condition::Still);
        self.lake.commit(&self.client, &self.path, &[], self.staged, metadata, condition).await
    }
}

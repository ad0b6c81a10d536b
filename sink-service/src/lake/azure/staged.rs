//! A blob's whole content in the making: blocks that no commit has named yet, which nobody sees.
//!
//! Two that write the same blob discard each other's staged blocks with their commits; the second is then answered with
//! InvalidBlockList: a conflict like any other. Azure forgets blocks that wait for a week
//! (<https://learn.microsoft.com/rest/api/storageservices/put-block>), with the same answer.

use std::sync::Arc;

use bytes::Bytes;

use super::{AzureContainer, BlockId, Condition, cut_into_blocks};
use crate::{
    file_metadata::FileMetadata,
    lake::{ETag, FileState, LakeError},
    lake_path::LakePath,
};

impl AzureContainer {
    pub(in crate::lake) async fn stage_more(
        &self,
        path: &LakePath,
        blocks: &mut Arc<Vec<BlockId>>,
        bytes: Bytes,
    ) -> Result<(), LakeError> {
        let client = self.blob(path).block_blob_client();
        let mut new = Vec::new();
        for block in cut_into_blocks(&[bytes]) {
            new.push(self.stage(&client, path, block).await?);
        }
        Arc::make_mut(blocks).extend(new);
        Ok(())
    }

    pub(in crate::lake) async fn publish_staged(
        &self,
        path: &LakePath,
        blocks: Arc<Vec<BlockId>>,
        expected: Option<&ETag>,
        metadata: &FileMetadata,
    ) -> Result<FileState, LakeError> {
        let client = self.blob(path).block_blob_client();
        let condition = expected.map_or(Condition::Absent, Condition::Still);
        self.commit(&client, path, &[], Arc::unwrap_or_clone(blocks), metadata, condition).await
    }
}

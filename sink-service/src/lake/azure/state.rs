//! What a data file is now: properties and block list, of one version.

use std::{collections::HashMap, sync::Arc};

use azure_storage_blob::{
    BlobClient,
    models::{BlobClientGetPropertiesResultHeaders, Block, BlockListHeaders, BlockListType},
};

use super::{
    AzureContainer, BlockId,
    classify::{Failure, Request, classify},
    unreadable,
};
use crate::{
    file_metadata::FileMetadata,
    lake::{ETag, FileState, LakeError, Object, Sight},
    lake_path::LakePath,
};

/// How often properties and block list are read until both are of one version.
const SAME_VERSION_ATTEMPTS: usize = 10;

/// One version of a blob, without its blocks.
struct Properties {
    etag: ETag,
    metadata: HashMap<String, String>,
    length: u64,
}

/// The blocks of one version of a blob.
pub(super) struct BlockListing {
    etag: ETag,
    pub(super) blocks: Vec<Block>,
}

/// Properties and blocks of one version, checked against each other.
fn state_of(path: &LakePath, properties: Properties, list: BlockListing) -> Result<FileState, LakeError> {
    let Properties { etag, metadata, length } = properties;
    let metadata = FileMetadata::from_map(&metadata)
        .map_err(|error| LakeError::Damaged { path: path.clone(), what: error.to_string() })?;
    let in_blocks: i64 = list.blocks.iter().filter_map(|block| block.size).sum();
    let in_blocks = u64::try_from(in_blocks).unwrap_or_default();
    // A blob that was written by other means (Put Blob, append blob, DFS) has bytes outside of blocks: we could never
    // name them in a commit, and they would be gone.
    if length != metadata.stored_size || length != in_blocks {
        let stored = metadata.stored_size;
        let what =
            format!("it has {length} bytes, {in_blocks} of them in blocks, but storedsize is {stored}");
        return Err(LakeError::Damaged { path: path.clone(), what });
    }
    let blocks = list.blocks.into_iter().filter_map(|block| block.name).map(BlockId::adopted).collect();
    Ok(FileState { etag, metadata, blocks: Arc::new(blocks) })
}

impl AzureContainer {
    pub(in crate::lake) async fn file(&self, path: &LakePath) -> Result<Option<FileState>, LakeError> {
        let blob = self.blob(path);
        let mut known_list: Option<BlockListing> = None;
        for _ in 0..SAME_VERSION_ATTEMPTS {
            let Some(properties) = self.properties(&blob, path).await? else { return Ok(None) };
            // The state and the blocks of two versions would publish rows twice (found by the protocol search). The
            // list of the round before may already be the one that fits.
            let list = match known_list.take() {
                Some(list) if list.etag == properties.etag => Some(list),
                _ => self.block_list(&blob, path).await?,
            };
            match list {
                Some(list) if list.etag == properties.etag => {
                    return state_of(path, properties, list).map(Some);
                }
                other => known_list = other,
            }
        }
        let cause =
            format!("{path} changed while its state was read, {SAME_VERSION_ATTEMPTS} times in a row");
        Err(LakeError::Unavailable { cause, retry_after: None })
    }

    pub(in crate::lake) async fn object(&self, path: &LakePath) -> Result<Option<Object>, LakeError> {
        let what = format!("look for {path}");
        match self.ask_properties(&self.blob(path)).await {
            Ok(Some(Properties { etag, length, .. })) => Ok(Some(Object { etag, size: length })),
            Ok(None) => Err(unreadable(Request::Read, &what)),
            // A dry run makes no container, and there is nothing in one that is missing.
            Err(failure) if failure.is_missing_blob() || failure.is("ContainerNotFound") => Ok(None),
            Err(failure) => Err(classify(Request::Read, &failure, &what)),
        }
    }

    pub(in crate::lake) async fn look(&self, path: &LakePath) -> Result<Option<Sight>, LakeError> {
        loop {
            let Some(Properties { etag, .. }) = self.properties(&self.blob(path), path).await? else {
                return Ok(None);
            };
            match self.file(path).await {
                Ok(Some(state)) => return Ok(Some(Sight { etag: state.etag.clone(), file: Ok(state) })),
                // Of another version than the one whose tag was read just now: then the commit will be refused, and it is looked at again.
                Err(LakeError::Damaged { what, .. }) => return Ok(Some(Sight { etag, file: Err(what) })),
                // Deleted in between.
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn properties(&self, blob: &BlobClient, path: &LakePath) -> Result<Option<Properties>, LakeError> {
        let what = format!("read the properties of {path}");
        match self.ask_properties(blob).await {
            Ok(Some(properties)) => Ok(Some(properties)),
            Ok(None) => Err(unreadable(Request::Read, &what)),
            Err(failure) if failure.is_missing_blob() => Ok(None),
            Err(failure) => Err(classify(Request::Read, &failure, &what)),
        }
    }

    /// `None` if the answer lacks what every answer has.
    async fn ask_properties(&self, blob: &BlobClient) -> Result<Option<Properties>, Failure> {
        let request = async {
            let properties = blob.get_properties(None).await?;
            Ok((properties.etag()?, properties.metadata()?, properties.content_length()?))
        };
        let (etag, metadata, length) = self.answer(request).await?;
        let known = etag.zip(length);
        Ok(known.map(|(etag, length)| Properties { etag: ETag::new(etag.to_string()), metadata, length }))
    }

    /// `None` if the blob was deleted since its properties were read.
    pub(super) async fn block_list(
        &self,
        blob: &BlobClient,
        path: &LakePath,
    ) -> Result<Option<BlockListing>, LakeError> {
        let what = format!("read the block list of {path}");
        let client = blob.block_blob_client();
        let answer = self
            .answer(async {
                let list = client.get_block_list(BlockListType::Committed, None).await?;
                Ok((list.etag()?, list.into_model()?.committed_blocks.unwrap_or_default()))
            })
            .await;
        match answer {
            Ok((Some(etag), blocks)) => Ok(Some(BlockListing { etag: ETag::new(etag.to_string()), blocks })),
            Ok((None, _)) => Err(unreadable(Request::Read, &what)),
            Err(failure) if failure.is_missing_blob() => Ok(None),
            Err(failure) => Err(classify(Request::Read, &failure, &what)),
        }
    }
}

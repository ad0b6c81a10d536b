//! What `expire` removes: documents and data files, with the folders that are empty then.
//!
//! A data file's bytes go before its sidecar: a removal that is interrupted leaves a file that says of itself what it was, and that is removed
//! when the command is typed again. Readers of the folder never see bytes that no sidecar knows. What dead writers have left in the making, in the same
//! hour, goes with it.

use std::{fs::File, path::Path};

use shared::kafka_position::TopicPartition;

use super::{Directory, Places, before, durable, sidecar, staged::PENDING_FOLDER};
use crate::{
    lake::{ETag, LakeError},
    lake_path::{CHAIN_FOLDER, LakePath},
};

impl Directory {
    pub(in crate::lake) async fn remove_document(
        &self,
        path: &LakePath,
        expected: &ETag,
    ) -> Result<(), LakeError> {
        let (path, expected) = (path.clone(), expected.clone());
        self.step(move |places| places.remove_document(&path, &expected)).await
    }

    pub(in crate::lake) async fn remove_file(
        &self,
        path: &LakePath,
        partition: &TopicPartition,
    ) -> Result<(), LakeError> {
        let (path, partition) = (path.clone(), partition.clone());
        self.step(move |places| places.remove_file(&path, &partition)).await
    }
}

impl Places {
    fn remove_document(&self, path: &LakePath, expected: &ETag) -> Result<(), LakeError> {
        let _lock = self.lock_document(path)?;
        let place = self.data(path);
        if self.document(path)?.is_some_and(|document| document.etag != *expected) {
            return Err(LakeError::Conflict);
        }
        durable::remove(&place, &self.root).map_err(|error| before(&place, &error))?;
        // Its lock is of no use any more. Whoever waits for it sees that it is gone, and takes a new one.
        let lock = self.document_lock(path);
        durable::remove(&lock, &self.root.join(CHAIN_FOLDER)).map_err(|error| before(&lock, &error))
    }

    fn remove_file(&self, path: &LakePath, partition: &TopicPartition) -> Result<(), LakeError> {
        let _lock = self.lock_partition(partition)?;
        // A rewrite that died half-way is finished, so that it leaves nothing behind.
        match self.sidecar_under_lock(path) {
            Ok(_) | Err(LakeError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
        let (data, sidecar) = (self.data(path), sidecar::place(&self.root, path));
        durable::remove(&data, &self.root).map_err(|error| before(&data, &error))?;
        let chain = self.root.join(CHAIN_FOLDER);
        durable::remove(&sidecar, &chain).map_err(|error| before(&sidecar, &error))?;
        self.remove_pending(path, &chain)
    }

    /// The hour is not being rebuilt, so whatever nobody has locked below its folder is a dead writer's.
    fn remove_pending(&self, path: &LakePath, chain: &Path) -> Result<(), LakeError> {
        let pending = chain.join(PENDING_FOLDER);
        let left = match path.folder() {
            Some(folder) => {
                sidecar::files_below(&pending, &folder).map_err(|error| before(&pending, &error))?
            }
            None => return Ok(()),
        };
        for name in left {
            let place = pending.join(name);
            if File::open(&place).is_ok_and(|file| file.try_lock().is_ok()) {
                durable::remove(&place, chain).map_err(|error| before(&place, &error))?;
            }
        }
        // Of this one nothing is left, but its folder may be.
        let place = pending.join(path.as_str());
        durable::remove(&place, chain).map_err(|error| before(&place, &error))
    }
}

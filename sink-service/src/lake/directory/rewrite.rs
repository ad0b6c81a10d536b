//! A file's whole content anew.
//!
//! ```text
//!   _chain/pending/<path>.<random> ─ written, synced, locked by its writer
//!        │  lock of the partition ─ compare etag
//!        ├─ sidecar: new etag and metadata, `pending`        the step has happened
//!        ├─ rename over the data file, sync the folder
//!        └─ sidecar without `pending` ─ unlock
//! ```
//!
//! Whoever meets a `pending` finishes it under the partition's lock, before anything else. A writer that died before its sidecar was
//! written leaves a file that nobody has locked; the next rewrite of the same path removes it.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use shared::kafka_position::TopicPartition;
use uuid::Uuid;

use super::{Places, Sidecar, before, blocking, durable, is_absent, publish, sidecar};
use crate::{
    file_metadata::FileMetadata,
    lake::{ETag, FileState, LakeError, Sight, check_step},
    lake_path::{CHAIN_FOLDER, LakePath},
};

pub(super) const PENDING_FOLDER: &str = "pending";

/// See the module.
pub struct Rewrite {
    places: Arc<Places>,
    path: LakePath,
    /// Below the root.
    temporary: LakePath,
    /// Locked until it is closed.
    file: Arc<File>,
    size: u64,
}

impl Rewrite {
    pub(super) fn begin(
        places: Arc<Places>,
        path: LakePath,
        partition: &TopicPartition,
    ) -> Result<Self, LakeError> {
        let temporary = format!("{CHAIN_FOLDER}/{PENDING_FOLDER}/{path}.{}", Uuid::new_v4().simple());
        let temporary = LakePath::new(temporary).expect("a path and a suffix are a path");
        let place = places.data(&temporary);
        let folder = place.parent().unwrap_or(&places.root);
        let _lock = places.lock_partition(partition)?;
        places.sidecar_under_lock(&path).or_else(damaged_is_no_pending)?;
        let made = durable::make_folders(folder)
            .and_then(|()| remove_leftovers(folder, &path))
            .and_then(|()| File::create(&place))
            .and_then(|file| file.lock().map(|()| file));
        let file = made.map_err(|error| before(&place, &error))?;
        Ok(Self { places, path, temporary, file: Arc::new(file), size: 0 })
    }

    pub(in crate::lake) async fn add(&mut self, bytes: Bytes) -> Result<(), LakeError> {
        self.size += bytes.len() as u64;
        let (file, place) = (Arc::clone(&self.file), self.places.data(&self.temporary));
        blocking(move || (&*file).write_all(&bytes).map_err(|error| before(&place, &error))).await
    }

    pub(in crate::lake) async fn commit(
        self,
        expected: Option<&ETag>,
        metadata: &FileMetadata,
    ) -> Result<FileState, LakeError> {
        check_step(&self.path, 0, self.size, metadata)?;
        let (expected, metadata) = (expected.cloned(), metadata.clone());
        blocking(move || self.put(expected.as_ref(), metadata)).await
    }

    fn put(self, expected: Option<&ETag>, metadata: FileMetadata) -> Result<FileState, LakeError> {
        let place = self.places.data(&self.temporary);
        self.file.sync_all().map_err(|error| before(&place, &error))?;
        let _lock = self.places.lock_partition(&metadata.topic_partition)?;
        if self.places.look_under_lock(&self.path)?.map(|sight| sight.etag).as_ref() != expected {
            // Whatever stands there now, this is not needed any more.
            fs::remove_file(&place).map_err(|error| before(&place, &error))?;
            return Err(LakeError::Conflict);
        }
        let etag = ETag::new(Uuid::new_v4().simple().to_string());
        let pending = Some(self.temporary.clone());
        let sidecar = Sidecar { etag, metadata, pending };
        publish(&sidecar::place(&self.places.root, &self.path), &sidecar.to_bytes())?;
        Ok(self.places.finish(&self.path, sidecar)?.into_state())
    }
}

impl Places {
    /// Carries out what a sidecar says is pending. The partition's lock is held.
    pub(super) fn finish(&self, path: &LakePath, sidecar: Sidecar) -> Result<Sidecar, LakeError> {
        let Some(pending) = &sidecar.pending else { return Ok(sidecar) };
        let (from, to) = (self.data(pending), self.data(path));
        match durable::rename(&from, &to) {
            Ok(()) => {}
            // It was renamed, and the sidecar was not written any more.
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(before(&to, &error)),
        }
        let sidecar = Sidecar { pending: None, ..sidecar };
        publish(&sidecar::place(&self.root, path), &sidecar.to_bytes())?;
        Ok(sidecar)
    }

    /// What stands at a path, also if it is damaged. The partition's lock is held.
    pub(super) fn look_under_lock(&self, path: &LakePath) -> Result<Option<Sight>, LakeError> {
        match self.sidecar_under_lock(path) {
            Ok(None) => Ok(None),
            Ok(Some(sidecar)) => {
                let etag = sidecar.etag.clone();
                match self.check_length(path, &sidecar.metadata) {
                    Ok(()) => Ok(Some(Sight { etag, file: Ok(sidecar.into_state()) })),
                    Err(LakeError::Damaged { what, .. }) => Ok(Some(Sight { etag, file: Err(what) })),
                    Err(error) => Err(error),
                }
            }
            Err(LakeError::Damaged { what, .. }) => {
                let place = sidecar::place(&self.root, path);
                let bytes = fs::read(&place).map_err(|error| before(&place, &error))?;
                Ok(Some(Sight { etag: super::content_etag(&bytes), file: Err(what) }))
            }
            Err(error) => Err(error),
        }
    }
}

/// A sidecar that cannot be read names nothing that could be finished.
fn damaged_is_no_pending(error: LakeError) -> Result<Option<Sidecar>, LakeError> {
    match error {
        LakeError::Damaged { .. } => Ok(None),
        error => Err(error),
    }
}

/// Files of dead writers for the same path: nobody has them locked.
pub(super) fn remove_leftovers(folder: &Path, path: &LakePath) -> io::Result<()> {
    let prefix = format!("{}.", path.file_name());
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
            let place: PathBuf = entry.path();
            if File::open(&place)?.try_lock().is_ok() {
                fs::remove_file(&place)?;
            }
        }
    }
    Ok(())
}

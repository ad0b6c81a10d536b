//! A file's whole content in the making.
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
//! written leaves a file that nobody has locked; the next one that writes the same path removes it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use shared::kafka_position::TopicPartition;
use uuid::Uuid;

use super::{Directory, Places, Sidecar, before, blocking, durable, is_absent, publish, sidecar};
use crate::{
    file_metadata::FileMetadata,
    lake::{ETag, FileState, LakeError, Sight},
    lake_path::{CHAIN_FOLDER, LakePath},
};

pub(super) const PENDING_FOLDER: &str = "pending";

/// See the module. Removed when nobody has it any more, but for one that a sidecar names.
#[derive(Debug)]
pub struct Temporary {
    /// Below the root.
    path: LakePath,
    place: PathBuf,
    /// Locked until it is closed.
    file: File,
    named: AtomicBool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.named.load(Ordering::Acquire) {
            return;
        }
        match fs::remove_file(&self.place) {
            Ok(()) => {}
            Err(error) if is_absent(&error) => {}
            Err(error) => super::object::tell_left_behind(&self.place, &error),
        }
    }
}

impl Directory {
    pub(in crate::lake) async fn stage_file(
        &self,
        path: &LakePath,
        partition: &TopicPartition,
    ) -> Result<Arc<Temporary>, LakeError> {
        let (path, partition) = (path.clone(), partition.clone());
        self.step(move |places| places.stage_file(&path, &partition)).await
    }

    /// Writes behind the first `size` bytes; whatever an attempt that was given up has left there is cut off.
    pub(in crate::lake) async fn stage_more(
        &self,
        temporary: &Arc<Temporary>,
        size: u64,
        bytes: Bytes,
    ) -> Result<(), LakeError> {
        let temporary = Arc::clone(temporary);
        let work = move || {
            let written = durable::append_at(&temporary.file, size, &[bytes]);
            written.map_err(|error| before(&temporary.place, &error))
        };
        blocking(work).await
    }

    pub(in crate::lake) async fn publish_staged(
        &self,
        path: &LakePath,
        temporary: Arc<Temporary>,
        expected: Option<&ETag>,
        metadata: &FileMetadata,
    ) -> Result<FileState, LakeError> {
        let (path, expected, metadata) = (path.clone(), expected.cloned(), metadata.clone());
        self.step(move |places| places.publish_staged(&path, &temporary, expected.as_ref(), metadata)).await
    }
}

impl Places {
    fn stage_file(&self, path: &LakePath, partition: &TopicPartition) -> Result<Arc<Temporary>, LakeError> {
        let temporary = format!("{CHAIN_FOLDER}/{PENDING_FOLDER}/{path}.{}", Uuid::new_v4().simple());
        let temporary = LakePath::new(temporary).expect("a path and a suffix are a path");
        let place = self.data(&temporary);
        let folder = place.parent().unwrap_or(&self.root);
        let _lock = self.lock_partition(partition)?;
        self.sidecar_under_lock(path).or_else(damaged_is_no_pending)?;
        let made = durable::make_folders(folder)
            .and_then(|()| remove_leftovers(folder, path))
            .and_then(|()| File::create(&place))
            .and_then(|file| file.lock().map(|()| file));
        let file = made.map_err(|error| before(&place, &error))?;
        Ok(Arc::new(Temporary { path: temporary, place, file, named: AtomicBool::new(false) }))
    }

    fn publish_staged(
        &self,
        path: &LakePath,
        temporary: &Temporary,
        expected: Option<&ETag>,
        metadata: FileMetadata,
    ) -> Result<FileState, LakeError> {
        let place = &temporary.place;
        let _lock = self.lock_partition(&metadata.topic_partition)?;
        if self.look_under_lock(path)?.map(|sight| sight.etag).as_ref() != expected {
            return Err(LakeError::Conflict);
        }
        // A piece that was given up in the middle may stand behind them.
        let cut = temporary.file.set_len(metadata.stored_size).and_then(|()| temporary.file.sync_all());
        cut.map_err(|error| before(place, &error))?;
        // Removed by hand: once the sidecar names it, that could not be told from one that has got its place.
        if !place.try_exists().map_err(|error| before(place, &error))? {
            return Err(LakeError::Conflict);
        }
        temporary.named.store(true, Ordering::Release);
        let etag = ETag::new(Uuid::new_v4().simple().to_string());
        let sidecar = Sidecar { etag, metadata, pending: Some(temporary.path.clone()) };
        publish(&sidecar::place(&self.root, path), &sidecar.to_bytes())?;
        Ok(self.finish(path, sidecar)?.into_state())
    }

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
                    Ok(_) => Ok(Some(Sight { etag, file: Ok(sidecar.into_state()) })),
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
            match File::open(&place) {
                Ok(file) if file.try_lock().is_ok() => fs::remove_file(&place)?,
                Ok(_) => {}
                // Its writer has just given it up.
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

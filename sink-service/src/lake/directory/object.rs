//! Files outside of the chains: written beside, synced, and renamed over what stands there.
//!
//! There is no sidecar. The etag is what the file system says of the file (number, length, time of the last change): a rename brings another file, so
//! it changes with every replacement. The comparison and the rename are done under a lock of the path's own.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    Directory, Places, before, blocking, durable, is_absent,
    staged::{PENDING_FOLDER, remove_leftovers},
};
use crate::{
    lake::{ETag, LakeError, Object},
    lake_path::{CHAIN_FOLDER, LakePath},
};

/// See the module.
pub struct NewObject {
    places: Arc<Places>,
    path: LakePath,
    /// Below the root.
    temporary: LakePath,
    /// Locked until it is closed.
    file: File,
}

impl Directory {
    pub(in crate::lake) async fn object(&self, path: &LakePath) -> Result<Option<Object>, LakeError> {
        let path = path.clone();
        self.step(move |places| places.object(&path)).await
    }

    pub(in crate::lake) async fn read_object(
        &self,
        path: &LakePath,
        object: &Object,
        range: Range<u64>,
    ) -> Result<Bytes, LakeError> {
        let (path, expected) = (path.clone(), object.etag.clone());
        self.step(move |places| {
            let place = places.data(&path);
            let length = usize::try_from(range.end - range.start).expect("a range fits the memory");
            let mut bytes = vec![0; length];
            let read = File::open(&place).and_then(|file| {
                let etag = etag_of(&file.metadata()?);
                if etag == expected {
                    file.read_exact_at(&mut bytes, range.start)?;
                }
                Ok(etag)
            });
            match read {
                Ok(etag) if etag == expected => Ok(Bytes::from(bytes)),
                Ok(_) => Err(LakeError::Conflict),
                Err(error) if is_absent(&error) => Err(LakeError::Conflict),
                Err(error) => Err(before(&place, &error)),
            }
        })
        .await
    }

    pub(in crate::lake) async fn new_object(&self, path: &LakePath) -> Result<NewObject, LakeError> {
        let (places, path) = (Arc::clone(&self.places), path.clone());
        blocking(move || NewObject::begin(places, path)).await
    }
}

impl Places {
    fn object(&self, path: &LakePath) -> Result<Option<Object>, LakeError> {
        let place = self.data(path);
        match fs::metadata(&place) {
            Ok(found) => Ok(Some(Object { etag: etag_of(&found), size: found.len() })),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(before(&place, &error)),
        }
    }
}

impl NewObject {
    fn begin(places: Arc<Places>, path: LakePath) -> Result<Self, LakeError> {
        let temporary = format!("{CHAIN_FOLDER}/{PENDING_FOLDER}/{path}.{}", Uuid::new_v4().simple());
        let temporary = LakePath::new(temporary).expect("a path and a suffix are a path");
        let place = places.data(&temporary);
        let folder = place.parent().unwrap_or(&places.root);
        // So that nobody takes the new file for a leftover before it is locked.
        let lock = places.lock_document(&path)?;
        let made = durable::make_folders(folder)
            .and_then(|()| remove_leftovers(folder, &path))
            .and_then(|()| OpenOptions::new().read(true).write(true).create_new(true).open(&place))
            .and_then(|file| file.lock().map(|()| file));
        let file = made.map_err(|error| before(&place, &error))?;
        drop(lock);
        Ok(Self { places, path, temporary, file })
    }

    pub(in crate::lake) fn file(&self) -> &File {
        &self.file
    }

    pub(in crate::lake) async fn publish(self, expected: Option<&ETag>) -> Result<(), LakeError> {
        let expected = expected.cloned();
        blocking(move || self.put(expected.as_ref())).await
    }

    fn put(self, expected: Option<&ETag>) -> Result<(), LakeError> {
        let (from, to) = (self.places.data(&self.temporary), self.places.data(&self.path));
        self.file.sync_all().map_err(|error| before(&from, &error))?;
        let _lock = self.places.lock_document(&self.path)?;
        if self.places.object(&self.path)?.map(|object| object.etag).as_ref() != expected {
            return Err(LakeError::Conflict);
        }
        let in_doubt = |error| LakeError::Unknown { cause: format!("{}: {error}", to.display()) };
        durable::rename(&from, &to).map_err(in_doubt)
    }
}

/// What was published has another name by now.
impl Drop for NewObject {
    fn drop(&mut self) {
        let place = self.places.data(&self.temporary);
        match fs::remove_file(&place) {
            Ok(()) => {}
            Err(error) if is_absent(&error) => {}
            Err(error) => tell_left_behind(&place, &error),
        }
    }
}

pub(super) fn tell_left_behind(place: &Path, error: &std::io::Error) {
    tracing::warn!(place = %place.display(), %error, "a temporary file is left behind; the next one for the same path removes it");
}

fn etag_of(file: &Metadata) -> ETag {
    ETag::new(format!("{:x}-{:x}-{:x}.{:x}", file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
}

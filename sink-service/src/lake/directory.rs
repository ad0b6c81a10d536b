//! The lake in a directory of this machine, with the same steps as in the cloud.
//!
//! A file system has no compare-and-set over bytes and metadata, so one is made of a lock and a sidecar:
//!
//! ```text
//!   lock ─ compare etag ─ cut data to storedsize ─ append ─ sync ─ sidecar.tmp ─ sync ─ rename ─ sync folder ─ unlock
//!                         └────────── seen by nobody: the sidecar says how much counts ──────┘    └ published
//! ```
//!
//! | place | content |
//! |---|---|
//! | `<path>` | a data file's bytes; what is beyond `storedsize` does not count |
//! | `_chain/files/<path>.json` | its sidecar: `etag`, new with every step, and the metadata |
//! | `_chain/pending/<path>.<random>` | the whole content of a file, or of an object, that is in the making |
//! | `_chain/<topic>/p<partition>.json` | a document (a head), plain JSON |
//! | `_chain/<topic>/p<partition>.lock` | the lock of the partition: its head and its files |
//!
//! Invariants:
//! - A file exists when its sidecar does. The rename of the sidecar is the one moment at which a step happens.
//! - Whoever dies inside a step leaves bytes behind `storedsize`, or a `.tmp`, or a finished step without an answer. The
//!   next step overwrites the first two; the third is what [`LakeError::Unknown`] is in the cloud: read back.
//! - A step runs to its end on a thread for blocking work even if the caller stops waiting, like a late request.
//!
//! A sidecar's etag is random. A document's etag is the hash of its bytes, for the file must stay plain JSON. Then a
//! document that changes from A to B and back to A looks unchanged; for documents of ours that cannot mislead, because
//! a writer's next content follows from the content it has read and nothing else, and because it does not occur: in
//! each of them something only ever rises (`first` and `scanned` of a head, the last hour closed, a revision).

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use shared::{
    kafka_position::TopicPartition,
    seeded_bug::{SeededBug, planted},
};
use uuid::Uuid;

use crate::{
    file_metadata::FileMetadata,
    lake::{Document, ETag, FileState, LakeError, ListedFile, Listing, Sight, total_len},
    lake_path::{CHAIN_FOLDER, LakePath},
};

mod durable;
mod mounts;
mod object;
mod partition_lock;
mod probe;
mod removal;
mod sidecar;
mod staged;

use durable::ReplaceError;
pub use object::NewObject;
use partition_lock::{LockError, PartitionLock};
use sidecar::Sidecar;
pub use staged::Temporary;

/// How long a step waits for a lock that another process holds.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

const CHUNK_BYTES: u64 = 4 * 1024 * 1024;

/// A lake below one folder.
pub struct Directory {
    places: Arc<Places>,
}

/// Where things are, and how long to wait for them: what a step on another thread needs.
struct Places {
    root: PathBuf,
    patience: Duration,
}

impl Directory {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { places: Arc::new(Places { root, patience: LOCK_PATIENCE }) }
    }

    pub(super) async fn prepare(&self) -> Result<(), LakeError> {
        self.step(|places| {
            let chain = places.root.join(CHAIN_FOLDER);
            durable::make_folders(&chain).map_err(|error| before(&chain, &error))?;
            let root = fs::canonicalize(&places.root).map_err(|error| before(&places.root, &error))?;
            mounts::refuse_network(&root)?;
            // Shows whether we may write, and whether this file system has locks at all.
            places.lock(&chain.join("prepare.lock")).map(drop)
        })
        .await
    }

    pub(super) async fn read_document(&self, path: &LakePath) -> Result<Option<Document>, LakeError> {
        let path = path.clone();
        self.step(move |places| places.document(&path)).await
    }

    pub(super) async fn create_document(&self, path: &LakePath, bytes: Vec<u8>) -> Result<ETag, LakeError> {
        let path = path.clone();
        self.step(move |places| places.put_document(&path, &bytes, None)).await
    }

    pub(super) async fn replace_document(
        &self,
        path: &LakePath,
        bytes: Vec<u8>,
        expected: &ETag,
    ) -> Result<ETag, LakeError> {
        let (path, expected) = (path.clone(), expected.clone());
        self.step(move |places| places.put_document(&path, &bytes, Some(&expected))).await
    }

    pub(super) async fn file(&self, path: &LakePath) -> Result<Option<FileState>, LakeError> {
        let path = path.clone();
        self.step(move |places| {
            let Some(sidecar) = places.sidecar(&path)? else { return Ok(None) };
            places.check_length(&path, &sidecar.metadata)?;
            Ok(Some(sidecar.into_state()))
        })
        .await
    }

    pub(super) async fn look(&self, path: &LakePath) -> Result<Option<Sight>, LakeError> {
        let path = path.clone();
        self.step(move |places| {
            // Without a sidecar that can be read nobody knows whose file it is; then no lock can be taken, and the commit compares again.
            let _lock = match places.stored_sidecar(&path) {
                Ok(Some(sidecar)) => Some(places.lock_partition(&sidecar.metadata.topic_partition)?),
                Ok(None) => return Ok(None),
                Err(LakeError::Damaged { .. }) => None,
                Err(error) => return Err(error),
            };
            places.look_under_lock(&path)
        })
        .await
    }

    pub(super) async fn create_file(
        &self,
        path: &LakePath,
        bytes: &[Bytes],
        metadata: &FileMetadata,
    ) -> Result<FileState, LakeError> {
        let (path, bytes, metadata) = (path.clone(), bytes.to_vec(), metadata.clone());
        self.step(move |places| places.create_file(&path, &bytes, metadata)).await
    }

    pub(super) async fn append(
        &self,
        path: &LakePath,
        state: &FileState,
        bytes: &[Bytes],
        metadata: &FileMetadata,
    ) -> Result<FileState, LakeError> {
        let (path, etag, bytes, metadata) =
            (path.clone(), state.etag.clone(), bytes.to_vec(), metadata.clone());
        self.step(move |places| places.append(&path, &etag, &bytes, metadata)).await
    }

    pub(super) async fn list(&self, folder: &LakePath) -> Result<Listing, LakeError> {
        let folder = folder.clone();
        self.step(move |places| {
            let mut listing = Listing::default();
            for path in sidecar::list(&places.root, &folder).map_err(|error| before(&places.root, &error))? {
                match places.sidecar(&path) {
                    Ok(Some(sidecar)) => listing.files.push(ListedFile { path, metadata: sidecar.metadata }),
                    Ok(None) => {}
                    Err(LakeError::Damaged { path, what }) => listing.damaged.push((path, what)),
                    Err(error) => return Err(error),
                }
            }
            listing.files.sort_by(|a, b| a.path.cmp(&b.path));
            Ok(listing)
        })
        .await
    }

    pub(super) async fn list_names(&self, folder: &LakePath) -> Result<Vec<LakePath>, LakeError> {
        let folder = folder.clone();
        self.step(move |places| {
            let names =
                sidecar::files_below(&places.root, &folder).map_err(|error| before(&places.root, &error))?;
            Ok(names.into_iter().filter_map(|name| LakePath::new(name).ok()).collect())
        })
        .await
    }

    pub(super) async fn list_heads(&self) -> Result<Vec<LakePath>, LakeError> {
        self.step(|places| {
            let chain = places.root.join(CHAIN_FOLDER);
            let names_in = |folder: &Path| -> Result<Vec<String>, LakeError> {
                let entries = match fs::read_dir(folder) {
                    Ok(entries) => entries,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                    Err(error) => return Err(before(folder, &error)),
                };
                let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
                let names: Result<Vec<Option<String>>, io::Error> = names.collect();
                Ok(names.map_err(|error| before(folder, &error))?.into_iter().flatten().collect())
            };
            let mut heads = Vec::new();
            for topic in names_in(&chain)? {
                let folder = chain.join(&topic);
                if folder.is_dir() {
                    let paths = names_in(&folder)?.into_iter();
                    let paths =
                        paths.filter_map(|name| LakePath::new(format!("{CHAIN_FOLDER}/{topic}/{name}")).ok());
                    heads.extend(paths.filter(|path| path.as_head().is_some()));
                }
            }
            heads.sort();
            Ok(heads)
        })
        .await
    }

    pub(super) async fn stored_length(&self, path: &LakePath) -> Result<Option<u64>, LakeError> {
        let path = path.clone();
        self.step(move |places| places.length(&path)).await
    }

    pub(super) async fn read_file(&self, path: &LakePath, state: &FileState) -> Result<Reader, LakeError> {
        let (path, state) = (path.clone(), state.clone());
        self.step(move |places| {
            // The file is opened before the sidecar is read, so that a rebuild in between cannot go unseen.
            let data = places.data(&path);
            let file = File::open(&data).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => LakeError::Conflict,
                _ => before(&data, &error),
            })?;
            let now = places.sidecar(&path)?.ok_or(LakeError::Conflict)?.metadata;
            let only_grown = now.generation == state.metadata.generation
                && now.first == state.metadata.first
                && now.stored_size >= state.metadata.stored_size;
            if !only_grown {
                return Err(LakeError::Conflict);
            }
            Ok(Reader { file: Arc::new(file), path, offset: 0, size: state.metadata.stored_size })
        })
        .await
    }

    /// Runs a step where blocking is allowed.
    async fn step<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Places) -> Result<T, LakeError> + Send + 'static,
    ) -> Result<T, LakeError> {
        let places = Arc::clone(&self.places);
        blocking(move || step(&places)).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LakeError> + Send + 'static,
) -> Result<T, LakeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(LakeError::Unknown { cause: "the process is shutting down".to_owned() }),
    }
}

impl Places {
    fn data(&self, path: &LakePath) -> PathBuf {
        self.root.join(path.as_str())
    }

    fn lock(&self, path: &Path) -> Result<PartitionLock, LakeError> {
        let folder = path.parent().unwrap_or(&self.root);
        durable::make_folders(folder).map_err(|error| before(folder, &error))?;
        PartitionLock::take(path, self.patience).map_err(|error| match error {
            LockError::Held { .. } => LakeError::Unavailable { cause: error.to_string(), retry_after: None },
            LockError::Io(error) if error.kind() == io::ErrorKind::Unsupported => LakeError::Refused {
                what: format!("the file system of {} has no file locks", path.display()),
            },
            LockError::Io(error) => before(path, &error),
        })
    }

    /// The lock of a partition's head and files.
    fn lock_partition(&self, partition: &TopicPartition) -> Result<PartitionLock, LakeError> {
        self.lock(&self.root.join(LakePath::head(partition).as_str()).with_extension("lock"))
    }

    /// A head shares its partition's lock; any other document has one of its own.
    fn lock_document(&self, path: &LakePath) -> Result<PartitionLock, LakeError> {
        match path.as_head() {
            Some(partition) => self.lock_partition(&partition),
            None => self.lock(&self.document_lock(path)),
        }
    }

    fn document_lock(&self, path: &LakePath) -> PathBuf {
        self.root.join(format!("{CHAIN_FOLDER}/documents/{path}.lock"))
    }

    fn document(&self, path: &LakePath) -> Result<Option<Document>, LakeError> {
        let place = self.data(path);
        match fs::read(&place) {
            Ok(bytes) => Ok(Some(Document { etag: content_etag(&bytes), bytes })),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(before(&place, &error)),
        }
    }

    fn put_document(
        &self,
        path: &LakePath,
        bytes: &[u8],
        expected: Option<&ETag>,
    ) -> Result<ETag, LakeError> {
        let _lock = self.lock_document(path)?;
        if self.document(path)?.map(|document| document.etag).as_ref() != expected {
            return Err(LakeError::Conflict);
        }
        let place = self.data(path);
        publish(&place, bytes)?;
        Ok(content_etag(bytes))
    }

    /// A file's sidecar. What a rewrite left unfinished is finished first.
    fn sidecar(&self, path: &LakePath) -> Result<Option<Sidecar>, LakeError> {
        match self.stored_sidecar(path)? {
            Some(Sidecar { pending: Some(_), metadata, .. }) => {
                let _lock = self.lock_partition(&metadata.topic_partition)?;
                self.sidecar_under_lock(path)
            }
            sidecar => Ok(sidecar),
        }
    }

    fn sidecar_under_lock(&self, path: &LakePath) -> Result<Option<Sidecar>, LakeError> {
        self.stored_sidecar(path)?.map(|sidecar| self.finish(path, sidecar)).transpose()
    }

    fn stored_sidecar(&self, path: &LakePath) -> Result<Option<Sidecar>, LakeError> {
        let place = sidecar::place(&self.root, path);
        match fs::read(&place) {
            Ok(bytes) => Sidecar::parse(&bytes).map(Some).map_err(|what| LakeError::Damaged {
                path: path.clone(),
                what: format!("its sidecar {}: {what}", place.display()),
            }),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(before(&place, &error)),
        }
    }

    /// Publishes a step: from here on the file is what the sidecar says.
    fn put_sidecar(&self, path: &LakePath, metadata: FileMetadata) -> Result<FileState, LakeError> {
        let etag = ETag::new(Uuid::new_v4().simple().to_string());
        let sidecar = Sidecar { etag, metadata, pending: None };
        publish(&sidecar::place(&self.root, path), &sidecar.to_bytes())?;
        Ok(sidecar.into_state())
    }

    fn create_file(
        &self,
        path: &LakePath,
        bytes: &[Bytes],
        metadata: FileMetadata,
    ) -> Result<FileState, LakeError> {
        let _lock = self.lock_partition(&metadata.topic_partition)?;
        if self.sidecar_under_lock(path)?.is_some() {
            return Err(LakeError::Conflict);
        }
        let data = self.data(path);
        let written = durable::make_empty(&data).and_then(|file| durable::append_at(&file, 0, bytes));
        written.map_err(|error| before(&data, &error))?;
        self.put_sidecar(path, metadata)
    }

    fn append(
        &self,
        path: &LakePath,
        etag: &ETag,
        bytes: &[Bytes],
        metadata: FileMetadata,
    ) -> Result<FileState, LakeError> {
        let _lock = self.lock_partition(&metadata.topic_partition)?;
        let now = self.sidecar_under_lock(path)?.ok_or(LakeError::Conflict)?;
        if now.etag != *etag && !planted(SeededBug::UnconditionalPut) {
            return Err(LakeError::Conflict);
        }
        let length = self.check_length(path, &now.metadata)?;
        let added = total_len(bytes);
        let data = self.data(path);
        // What a dead writer has left behind the end goes, also when nothing is added: readers of the file would see it.
        if added > 0 || length > metadata.stored_size {
            let written = durable::open_for_append(&data)
                .and_then(|file| durable::append_at(&file, metadata.stored_size - added, bytes));
            written.map_err(|error| before(&data, &error))?;
        }
        self.put_sidecar(path, metadata)
    }

    fn length(&self, path: &LakePath) -> Result<Option<u64>, LakeError> {
        let data = self.data(path);
        match fs::metadata(&data) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(before(&data, &error)),
        }
    }

    /// A data file that is shorter than its sidecar says has lost confirmed rows; else its length.
    fn check_length(&self, path: &LakePath, metadata: &FileMetadata) -> Result<u64, LakeError> {
        let Some(length) = self.length(path)? else {
            return Err(LakeError::Damaged { path: path.clone(), what: "its bytes are gone".to_owned() });
        };
        if length < metadata.stored_size {
            let what = format!("it has {length} bytes, but storedsize is {}", metadata.stored_size);
            return Err(LakeError::Damaged { path: path.clone(), what });
        }
        Ok(length)
    }
}

fn content_etag(bytes: &[u8]) -> ETag {
    let digits: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    ETag::new(digits)
}

fn publish(place: &Path, bytes: &[u8]) -> Result<(), LakeError> {
    let folder = place.parent().unwrap_or(Path::new("/"));
    durable::make_folders(folder).map_err(|error| before(folder, &error))?;
    durable::replace(place, bytes).map_err(|error| match error {
        ReplaceError::Before(error) => before(place, &error),
        ReplaceError::InDoubt(error) => LakeError::Unknown { cause: format!("{}: {error}", place.display()) },
    })
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// An error before the step was published. A full disk may have room again; a missing right will not come by itself.
fn before(place: &Path, error: &io::Error) -> LakeError {
    let cause = format!("{}: {error}", place.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => LakeError::Denied { cause },
        io::ErrorKind::InvalidFilename | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
            LakeError::Refused { what: cause }
        }
        _ => LakeError::Unavailable { cause, retry_after: None },
    }
}

/// Reads a file up to the size that was confirmed when it was opened.
pub struct Reader {
    file: Arc<File>,
    path: LakePath,
    offset: u64,
    size: u64,
}

impl Reader {
    pub(super) async fn next_chunk(&mut self) -> Result<Option<Bytes>, LakeError> {
        let length =
            usize::try_from(CHUNK_BYTES.min(self.size - self.offset)).expect("a chunk fits the memory");
        if length == 0 {
            return Ok(None);
        }
        let (file, path, offset) = (Arc::clone(&self.file), self.path.clone(), self.offset);
        let chunk = blocking(move || {
            let mut bytes = vec![0; length];
            match file.read_exact_at(&mut bytes, offset) {
                Ok(()) => Ok(Bytes::from(bytes)),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    Err(LakeError::Damaged { path, what: "it is shorter than its storedsize".to_owned() })
                }
                Err(error) => Err(before(Path::new(path.as_str()), &error)),
            }
        })
        .await?;
        self.offset += chunk.len() as u64;
        Ok(Some(chunk))
    }
}

#[cfg(test)]
mod tests;

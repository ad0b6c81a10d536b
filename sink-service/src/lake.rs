//! The lake: one set of atomic steps, done for real on two targets.
//!
//! ```text
//!   read_document ── create_document / replace_document      small JSON objects: heads
//!   file ─────────── create_file / append                    data files: bytes and metadata in one step
//!   stage_file ───── stage_more … ─ publish_staged           a file's whole content, seen by nobody before the last step
//!   look ─────────── rewrite ─ add … ─ commit                the same in the place of what is there: `replay`
//!   list_files, read_file                                    for takeover and `verify`; reprints are listed apart
//!   object ───────── new_object ─ publish                    whole files outside of every chain: `export`
//!   remove_document, remove_file                             `expire` alone; the live sink needs no right to delete
//! ```
//!
//! Every writing step is a compare-and-set: it happens whole, on exactly the state that the caller has read, or not at
//! all. That is all the chain needs (DESIGN §5, rules 2 to 5): no lease, no rename, no delete.
//!
//! Invariants:
//! - Nothing is retried inside. Each request has a time limit. When the outcome is not known for certain the answer is
//!   [`LakeError::Unknown`], and the caller reads back.
//! - [`ETag`]s are compared, never ordered, and mean nothing across targets.
//! - A file's bytes only grow within one generation; what a [`FileState`] covers can be read for as long as that holds.

use std::{fmt, fs::File, ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use shared::kafka_position::TopicPartition;

use crate::{
    file_metadata::{FileMetadata, METADATA_LIMIT_BYTES},
    lake_path::LakePath,
};

mod account;
mod auth;
pub mod azure;
pub mod directory;
mod error;
mod target;

pub use account::{AccountFacts, Answer};
pub use auth::{Entra, EntraIdentity, LakeAuth};
use azure::{AzureContainer, BlockId};
use directory::Directory;
pub use error::LakeError;
pub use target::{AzureTarget, LakeTarget, TargetError};

/// Where the files go.
pub enum Lake {
    Directory(Directory),
    Azure(Box<AzureContainer>),
}

/// Names one version of an object. Opaque.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ETag(String);

impl ETag {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A small object as it was read.
#[derive(Clone, Debug)]
pub struct Document {
    pub bytes: Vec<u8>,
    pub etag: ETag,
}

/// A data file as it was read, or as an own step left it: what the next step must be based on.
#[derive(Clone, Debug)]
pub struct FileState {
    pub etag: ETag,
    pub metadata: FileMetadata,
    /// The committed blocks in order; empty on a directory. Shared, since a full file has 45,000 of them.
    blocks: Arc<Vec<BlockId>>,
}

impl FileState {
    /// How many blocks the file has; 0 on a directory, where nothing limits the number of appends.
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }
}

/// A data file as a listing shows it. Metadata only: read it with [`Lake::file`] before changing it.
#[derive(Clone, Debug)]
pub struct ListedFile {
    pub path: LakePath,
    pub metadata: FileMetadata,
}

/// What a folder holds.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// In the order of their paths.
    pub files: Vec<ListedFile>,
    /// Files of ours that do not say what they are, and why.
    pub damaged: Vec<(LakePath, String)>,
}

impl Listing {
    /// # Errors
    /// If one of them is damaged.
    pub fn whole(self) -> Result<Vec<ListedFile>, LakeError> {
        match self.damaged.into_iter().next() {
            None => Ok(self.files),
            Some((path, what)) => Err(LakeError::Damaged { path, what }),
        }
    }
}

/// What stands at a data file's path, whole or not: what a rewrite is based on.
#[derive(Clone, Debug)]
pub struct Sight {
    pub etag: ETag,
    /// The text says what is wrong with it.
    pub file: Result<FileState, String>,
}

/// A file that is written whole and replaced whole, and belongs to no chain.
#[derive(Clone, Debug)]
pub struct Object {
    pub etag: ETag,
    /// Bytes.
    pub size: u64,
}

/// Whether a lake is there, before anything is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    There,
    /// [`Lake::prepare`] would make it.
    Missing,
}

impl Lake {
    /// Opens the target; no request is made yet, see [`Lake::prepare`].
    ///
    /// # Errors
    /// If an Azure target has no usable credential.
    pub fn open(target: &LakeTarget, auth: Option<&LakeAuth>) -> Result<Self, TargetError> {
        match target {
            LakeTarget::Directory(root) => Ok(Self::Directory(Directory::new(root.clone()))),
            LakeTarget::Azure(target) => {
                let auth = auth.ok_or(TargetError::NoCredential)?;
                Ok(Self::Azure(Box::new(AzureContainer::open(target, auth)?)))
            }
        }
    }

    /// Makes the target usable: the container or directory is created if it is missing and we may; network file systems
    /// are refused where they can be told.
    pub async fn prepare(&self) -> Result<(), LakeError> {
        match self {
            Self::Directory(lake) => lake.prepare().await,
            Self::Azure(lake) => lake.prepare().await,
        }
    }

    /// Whether the container or directory is there and may be read, or for a missing directory: may be made. Changes nothing.
    pub async fn probe(&self) -> Result<Presence, LakeError> {
        match self {
            Self::Directory(lake) => lake.probe().await,
            Self::Azure(lake) => lake.probe().await,
        }
    }

    /// Whether we may write to what is there. Changes nothing: on Azure it is asked with a change to a blob that is not there.
    pub async fn probe_write(&self) -> Result<(), LakeError> {
        match self {
            Self::Directory(lake) => lake.probe_write().await,
            Self::Azure(lake) => lake.probe_write().await,
        }
    }

    /// What the storage account says of itself; `None` for a directory. What it does not say is in the answer.
    pub async fn account(&self) -> Option<AccountFacts> {
        match self {
            Self::Directory(_) => None,
            Self::Azure(lake) => Some(lake.account().await),
        }
    }

    pub async fn read_document(&self, path: &LakePath) -> Result<Option<Document>, LakeError> {
        match self {
            Self::Directory(lake) => lake.read_document(path).await,
            Self::Azure(lake) => lake.read_document(path).await,
        }
    }

    /// Creates a document; [`LakeError::Conflict`] if there is one.
    pub async fn create_document(&self, path: &LakePath, bytes: Vec<u8>) -> Result<ETag, LakeError> {
        match self {
            Self::Directory(lake) => lake.create_document(path, bytes).await,
            Self::Azure(lake) => lake.create_document(path, bytes).await,
        }
    }

    /// Replaces a document that is still as it was read; [`LakeError::Conflict`] if it is not, or is gone.
    pub async fn replace_document(
        &self,
        path: &LakePath,
        bytes: Vec<u8>,
        expected: &ETag,
    ) -> Result<ETag, LakeError> {
        match self {
            Self::Directory(lake) => lake.replace_document(path, bytes, expected).await,
            Self::Azure(lake) => lake.replace_document(path, bytes, expected).await,
        }
    }

    /// A data file's state, all of one version. `None` if there is no such file.
    pub async fn file(&self, path: &LakePath) -> Result<Option<FileState>, LakeError> {
        match self {
            Self::Directory(lake) => lake.file(path).await,
            Self::Azure(lake) => lake.file(path).await,
        }
    }

    /// Creates a data file with its first bytes, which may be none; [`LakeError::Conflict`] if there is one.
    ///
    /// # Panics
    /// If `metadata.stored_size` is not the number of `bytes`.
    pub async fn create_file(
        &self,
        path: &LakePath,
        bytes: &[Bytes],
        metadata: &FileMetadata,
    ) -> Result<FileState, LakeError> {
        check_step(path, 0, total_len(bytes), metadata)?;
        match self {
            Self::Directory(lake) => lake.create_file(path, bytes, metadata).await,
            Self::Azure(lake) => lake.create_file(path, bytes, metadata).await,
        }
    }

    /// Appends to a file that is still as `state` says, and replaces all its metadata, in one step. Without bytes this
    /// is a recommit of the same content: a new `next`, a seal.
    ///
    /// # Panics
    /// If `metadata.stored_size` is not the old size plus the number of `bytes`.
    pub async fn append(
        &self,
        path: &LakePath,
        state: &FileState,
        bytes: &[Bytes],
        metadata: &FileMetadata,
    ) -> Result<FileState, LakeError> {
        check_step(path, state.metadata.stored_size, total_len(bytes), metadata)?;
        match self {
            Self::Directory(lake) => lake.append(path, state, bytes, metadata).await,
            Self::Azure(lake) => lake.append(path, state, bytes, metadata).await,
        }
    }

    /// What stands at a data file's path, also if it is damaged. `None` if nothing of ours does.
    pub async fn look(&self, path: &LakePath) -> Result<Option<Sight>, LakeError> {
        match self {
            Self::Directory(lake) => lake.look(path).await,
            Self::Azure(lake) => lake.look(path).await,
        }
    }

    /// How many bytes a reader of the folder finds at a path, where that can differ from what the file's metadata says: in a directory. `None` where it
    /// cannot, or if nothing is there.
    ///
    /// # Errors
    /// As reading.
    pub async fn stored_length(&self, path: &LakePath) -> Result<Option<u64>, LakeError> {
        match self {
            Self::Directory(lake) => lake.stored_length(path).await,
            Self::Azure(_) => Ok(None),
        }
    }

    /// Begins a file's whole content. Nobody sees it before [`Lake::publish_staged`]; given up, or if this process dies, it is as if it had
    /// never been.
    pub async fn stage_file(
        &self,
        path: &LakePath,
        partition: &TopicPartition,
    ) -> Result<StagedFile, LakeError> {
        let place = match self {
            Self::Directory(lake) => StagedPlace::Directory(lake.stage_file(path, partition).await?),
            Self::Azure(_) => StagedPlace::Azure(Arc::default()),
        };
        Ok(StagedFile { path: path.clone(), place, size: 0 })
    }

    /// Adds bytes at the end. If it fails, `staged` is as it was, and it may be tried again.
    pub async fn stage_more(&self, staged: &mut StagedFile, bytes: Bytes) -> Result<(), LakeError> {
        let added = bytes.len() as u64;
        match (self, &mut staged.place) {
            (Self::Directory(lake), StagedPlace::Directory(place)) => {
                lake.stage_more(place, staged.size, bytes).await?;
            }
            (Self::Azure(lake), StagedPlace::Azure(blocks)) => {
                lake.stage_more(&staged.path, blocks, bytes).await?;
            }
            _ => unreachable!("staged in another lake"),
        }
        staged.size += added;
        Ok(())
    }

    /// Puts content and metadata in the place of what stands there, in one step; [`LakeError::Conflict`] if that is no longer `expected`
    /// (`None`: nothing), or if what was staged is gone.
    ///
    /// # Panics
    /// If `metadata.stored_size` is not the number of bytes that were staged.
    pub async fn publish_staged(
        &self,
        staged: StagedFile,
        expected: Option<&ETag>,
        metadata: &FileMetadata,
    ) -> Result<FileState, LakeError> {
        check_step(&staged.path, 0, staged.size, metadata)?;
        match (self, staged.place) {
            (Self::Directory(lake), StagedPlace::Directory(place)) => {
                lake.publish_staged(&staged.path, place, expected, metadata).await
            }
            (Self::Azure(lake), StagedPlace::Azure(blocks)) => {
                lake.publish_staged(&staged.path, blocks, expected, metadata).await
            }
            _ => unreachable!("staged in another lake"),
        }
    }

    /// Begins to write a file's whole content anew. Nobody sees it before [`Rewrite::commit`].
    pub async fn rewrite(
        &self,
        path: &LakePath,
        partition: &TopicPartition,
    ) -> Result<Rewrite<'_>, LakeError> {
        let staged = self.stage_file(path, partition).await?;
        Ok(Rewrite { lake: self, staged, gathered: BytesMut::new() })
    }

    /// The object at a path, whoever wrote it. `None` if there is none.
    pub async fn object(&self, path: &LakePath) -> Result<Option<Object>, LakeError> {
        match self {
            Self::Directory(lake) => lake.object(path).await,
            Self::Azure(lake) => lake.object(path).await,
        }
    }

    /// Some bytes of an object; [`LakeError::Conflict`] if it is another one by now.
    pub async fn read_object(
        &self,
        path: &LakePath,
        object: &Object,
        range: Range<u64>,
    ) -> Result<Bytes, LakeError> {
        match self {
            Self::Directory(lake) => lake.read_object(path, object, range).await,
            Self::Azure(lake) => lake.read_object(path, object, range).await,
        }
    }

    /// Begins to write an object. Nobody sees it before [`NewObject::publish`].
    pub async fn new_object(&self, path: &LakePath) -> Result<NewObject<'_>, LakeError> {
        match self {
            Self::Directory(lake) => Ok(NewObject::Directory(lake.new_object(path).await?)),
            Self::Azure(lake) => Ok(NewObject::Azure(Box::new(lake.new_object(path)?))),
        }
    }

    /// Removes a document that is still as it was read; that it is gone already is no error.
    pub async fn remove_document(&self, path: &LakePath, expected: &ETag) -> Result<(), LakeError> {
        match self {
            Self::Directory(lake) => lake.remove_document(path, expected).await,
            Self::Azure(lake) => lake.remove_blob(path, Some(expected)).await,
        }
    }

    /// Removes a data file, whatever it holds; that it is gone already is no error. Only for one that no head names and no manifest, so that
    /// nobody writes it any more.
    pub async fn remove_file(&self, path: &LakePath, partition: &TopicPartition) -> Result<(), LakeError> {
        match self {
            Self::Directory(lake) => lake.remove_file(path, partition).await,
            Self::Azure(lake) => lake.remove_blob(path, None).await,
        }
    }

    /// All files of chains under a folder, at any depth, in the order of their paths.
    pub async fn list_files(&self, folder: &LakePath) -> Result<Vec<ListedFile>, LakeError> {
        self.list(folder).await?.whole()
    }

    /// The same, with those whose metadata cannot be read.
    pub async fn list(&self, folder: &LakePath) -> Result<Listing, LakeError> {
        Ok(self.list_with_reprints(folder).await?.0)
    }

    /// The files of chains under a folder, and apart from them those of reprints.
    pub async fn list_with_reprints(&self, folder: &LakePath) -> Result<(Listing, Listing), LakeError> {
        let all = match self {
            Self::Directory(lake) => lake.list(folder).await?,
            Self::Azure(lake) => lake.list(folder).await?,
        };
        let (reprinted, files) = all.files.into_iter().partition(|file| file.path.is_in_a_generation());
        let (spoilt, damaged) = all.damaged.into_iter().partition(|(path, _)| path.is_in_a_generation());
        Ok((Listing { files, damaged }, Listing { files: reprinted, damaged: spoilt }))
    }

    /// The paths of everything under a folder, ours or not, but for reprints: what readers see that list it.
    pub async fn list_names(&self, folder: &LakePath) -> Result<Vec<LakePath>, LakeError> {
        Ok(self.list_names_with_reprints(folder).await?.0)
    }

    /// The same, and apart from them the paths of reprints.
    pub async fn list_names_with_reprints(
        &self,
        folder: &LakePath,
    ) -> Result<(Vec<LakePath>, Vec<LakePath>), LakeError> {
        let all = match self {
            Self::Directory(lake) => lake.list_names(folder).await?,
            Self::Azure(lake) => lake.list_names(folder).await?,
        };
        Ok(all.into_iter().partition(|path| !path.is_in_a_generation() && !path.is_a_generation()))
    }

    /// The paths of all heads, in their order.
    pub async fn list_heads(&self) -> Result<Vec<LakePath>, LakeError> {
        match self {
            Self::Directory(lake) => lake.list_heads().await,
            Self::Azure(lake) => lake.list_heads().await,
        }
    }

    /// Opens what `state` covers for reading, also while the file grows on. [`LakeError::Conflict`] here or while
    /// reading means that the content was replaced (a rebuild) or is gone.
    pub async fn read_file(&self, path: &LakePath, state: &FileState) -> Result<FileReader<'_>, LakeError> {
        match self {
            Self::Directory(lake) => Ok(FileReader::Directory(lake.read_file(path, state).await?)),
            Self::Azure(lake) => Ok(FileReader::Azure(Box::new(lake.read_file(path, state)))),
        }
    }
}

/// A file's whole content in the making. A copy stays what it was while the original goes on.
#[derive(Clone, Debug)]
pub struct StagedFile {
    path: LakePath,
    place: StagedPlace,
    /// Bytes.
    size: u64,
}

/// Where bytes wait that belong to no file yet.
#[derive(Clone, Debug)]
enum StagedPlace {
    Directory(Arc<directory::Temporary>),
    /// Shared, since a full file has 45,000 of them.
    Azure(Arc<Vec<BlockId>>),
}

impl StagedFile {
    /// How many blocks the file will have; 0 on a directory.
    pub fn block_count(&self) -> usize {
        match &self.place {
            StagedPlace::Directory(_) => 0,
            StagedPlace::Azure(blocks) => blocks.len(),
        }
    }
}

/// Smaller pieces of a rewrite are gathered: a blob has room for 50,000 blocks.
const REWRITE_PIECE_BYTES: usize = 8 * 1024 * 1024;

/// A file's new content in the making, in large pieces.
pub struct Rewrite<'a> {
    lake: &'a Lake,
    staged: StagedFile,
    gathered: BytesMut,
}

impl Rewrite<'_> {
    /// Adds bytes at the end.
    pub async fn add(&mut self, bytes: Bytes) -> Result<(), LakeError> {
        self.gathered.extend_from_slice(&bytes);
        if self.gathered.len() >= REWRITE_PIECE_BYTES { self.stage().await } else { Ok(()) }
    }

    async fn stage(&mut self) -> Result<(), LakeError> {
        self.lake.stage_more(&mut self.staged, self.gathered.split().freeze()).await
    }

    /// Puts content and metadata in the place of what stands there, in one step; [`LakeError::Conflict`] if that is no longer `expected`
    /// (`None`: nothing).
    ///
    /// # Panics
    /// If `metadata.stored_size` is not the number of bytes that were added.
    pub async fn commit(
        mut self,
        expected: Option<&ETag>,
        metadata: &FileMetadata,
    ) -> Result<FileState, LakeError> {
        if !self.gathered.is_empty() {
            self.stage().await?;
        }
        self.lake.publish_staged(self.staged, expected, metadata).await
    }
}

/// An object in the making: a file of this machine, to be written and read back before anybody sees it. Given up, it leaves nothing behind.
pub enum NewObject<'a> {
    Directory(directory::NewObject),
    Azure(Box<azure::NewObject<'a>>),
}

impl NewObject<'_> {
    /// Open for reading and writing.
    pub fn file(&self) -> &File {
        match self {
            Self::Directory(object) => object.file(),
            Self::Azure(object) => object.file(),
        }
    }

    /// Puts it in the place of what stands there, in one step; [`LakeError::Conflict`] if that is no longer `expected` (`None`: nothing).
    pub async fn publish(self, expected: Option<&ETag>, content_type: &str) -> Result<(), LakeError> {
        match self {
            Self::Directory(object) => object.publish(expected).await,
            Self::Azure(object) => object.publish(expected, content_type).await,
        }
    }
}

/// Reads a data file in order, in chunks of a few MiB, up to the size that its state named.
pub enum FileReader<'a> {
    Directory(directory::Reader),
    Azure(Box<azure::Reader<'a>>),
}

impl FileReader<'_> {
    /// The next bytes, never empty; `None` at the end.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, LakeError> {
        match self {
            Self::Directory(reader) => reader.next_chunk().await,
            Self::Azure(reader) => reader.next_chunk().await,
        }
    }
}

/// What both targets rely on, checked before anything is sent: a size that does not add up would make a file whose
/// metadata lies, and Azurite would accept metadata that Azure refuses.
fn check_step(
    path: &LakePath,
    size_before: u64,
    added: u64,
    metadata: &FileMetadata,
) -> Result<(), LakeError> {
    assert_eq!(
        metadata.stored_size,
        size_before + added,
        "storedsize of {path} must be what was there plus what is appended"
    );
    let encoded_len = metadata.encoded_len();
    if encoded_len > METADATA_LIMIT_BYTES {
        let what =
            format!("metadata of {path} takes {encoded_len} bytes, at most {METADATA_LIMIT_BYTES} fit");
        return Err(LakeError::Refused { what });
    }
    Ok(())
}

fn total_len(pieces: &[Bytes]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

use bytes::Bytes;
use crate::{file_metadata::FileMetadata, lake::{Document, ETag, FileState, LakeError, ListedFile}, lake_path::LakePath};
use std::path::PathBuf;
pub struct Directory { root: PathBuf }
pub struct Reader;
impl Reader { pub(super) async fn next_chunk(&mut self) -> Result<Option<Bytes>, LakeError> { todo!() } }
impl Directory {
    pub(super) fn new(root: PathBuf) -> Self { Self { root } }
    pub(super) async fn prepare(&self) -> Result<(), LakeError> { todo!("{}", self.root.display()) }
    pub(super) async fn read_document(&self, _path: &LakePath) -> Result<Option<Document>, LakeError> { todo!() }
    pub(super) async fn create_document(&self, _path: &LakePath, _bytes: Vec<u8>) -> Result<ETag, LakeError> { todo!() }
    pub(super) async fn replace_document(&self, _path: &LakePath, _bytes: Vec<u8>, _expected: &ETag) -> Result<ETag, LakeError> { todo!() }
    pub(super) async fn file(&self, _path: &LakePath) -> Result<Option<FileState>, LakeError> { todo!() }
    pub(super) async fn create_file(&self, _path: &LakePath, _bytes: &[Bytes], _metadata: &FileMetadata) -> Result<FileState, LakeError> { todo!() }
    pub(super) async fn append(&self, _path: &LakePath, _state: &FileState, _bytes: &[Bytes], _metadata: &FileMetadata) -> Result<FileState, LakeError> { todo!() }
    pub(super) async fn list_files(&self, _folder: &LakePath) -> Result<Vec<ListedFile>, LakeError> { todo!() }
    pub(super) async fn read_file(&self, _path: &LakePath, _state: &FileState) -> Result<Reader, LakeError> { todo!() }
}

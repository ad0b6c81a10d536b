use bytes::Bytes;
use crate::{file_metadata::FileMetadata, lake::{Document, ETag, FileState, LakeError, ListedFile, AzureTarget, LakeAuth, TargetError}, lake_path::LakePath};
#[derive(Clone, Debug)]
pub struct BlockId;
pub struct AzureContainer;
pub struct Reader<'a>(&'a ());
impl Reader<'_> { pub(super) async fn next_chunk(&mut self) -> Result<Option<Bytes>, LakeError> { todo!("{:?}", self.0) } }
impl AzureContainer {
    pub(super) fn open(_target: &AzureTarget, _auth: &LakeAuth) -> Result<Self, TargetError> { todo!() }
    pub(super) async fn prepare(&self) -> Result<(), LakeError> { todo!() }
    pub(super) async fn read_document(&self, _path: &LakePath) -> Result<Option<Document>, LakeError> { todo!() }
    pub(super) async fn create_document(&self, _path: &LakePath, _bytes: Vec<u8>) -> Result<ETag, LakeError> { todo!() }
    pub(super) async fn replace_document(&self, _path: &LakePath, _bytes: Vec<u8>, _expected: &ETag) -> Result<ETag, LakeError> { todo!() }
    pub(super) async fn file(&self, _path: &LakePath) -> Result<Option<FileState>, LakeError> { todo!() }
    pub(super) async fn create_file(&self, _path: &LakePath, _bytes: &[Bytes], _metadata: &FileMetadata) -> Result<FileState, LakeError> { todo!() }
    pub(super) async fn append(&self, _path: &LakePath, _state: &FileState, _bytes: &[Bytes], _metadata: &FileMetadata) -> Result<FileState, LakeError> { todo!() }
    pub(super) async fn list_files(&self, _folder: &LakePath) -> Result<Vec<ListedFile>, LakeError> { todo!() }
    pub(super) fn read_file(&self, _path: &LakePath, _state: &FileState) -> Reader<'_> { todo!() }
}

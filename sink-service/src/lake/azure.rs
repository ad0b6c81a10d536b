//! The lake in one container of an Azure storage account, through the Blob endpoint and the official client.
//!
//! ```text
//!   append:  Put Block × n  (seen by nobody) ──▶  Put Block List [old ids Committed, new ids Uncommitted]
//!                                                  + If-Match + all metadata + content type, one request
//! ```
//!
//! Invariants:
//! - The SDK's retries are off and each request has a time limit: a lost answer is seen, and told as such.
//! - While a `Retry-After` of the service's lasts nothing at all is sent.
//! - Every commit repeats all metadata and the content type: what is left out is erased (seen on Azurite 3.37).
//! - Old ids are listed as Committed, new ones as Uncommitted: a late or foreign block under an old name can never
//!   take a committed block's place. The SDK writes the Committed ones first, which is the order of the file.
//! - A commit discards whatever others have staged; theirs is then refused with InvalidBlockList: just another conflict.

use std::{collections::HashMap, num::NonZero, sync::Arc, time::Duration};

use azure_core::http::{
    ClientOptions, HttpClientOptions, RequestContent, RetryOptions, Transport, Url, new_http_client,
};
use azure_storage_blob::{
    BlobClient, BlobContainerClient, BlobContainerClientOptions, BlobServiceClient, BlobServiceClientOptions,
    BlockBlobClient,
    models::{
        BlobClientDeleteOptions, BlobClientDownloadOptions, BlockBlobClientCommitBlockListOptions,
        BlockBlobClientCommitBlockListResultHeaders, BlockBlobClientUploadOptions, BlockLookupList,
        DeleteSnapshotsOptionType,
    },
};
use bytes::Bytes;
use shared::seeded_bug::{SeededBug, planted};

use crate::{
    file_metadata::FileMetadata,
    lake::{AzureTarget, Document, ETag, FileState, LakeAuth, LakeError, Presence, TargetError},
    lake_path::LakePath,
};

mod account;
mod auth;
mod block_id;
mod blocks;
mod classify;
mod listing;
mod object;
mod pause;
mod reader;
mod staged;
mod state;

pub(super) use block_id::BlockId;
use block_id::BlockIds;
use blocks::cut_into_blocks;
use classify::{Failure, Request, classify};
pub use object::NewObject;
use pause::Pause;
pub use reader::Reader;

/// Documents are written by one Put Blob, never in blocks; larger than any head or manifest.
const DOCUMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How long any one request may take, body included. 8 MiB in this time is 140 KB/s.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);

const DOCUMENT_CONTENT_TYPE: &str = "application/json";

/// One container and the folder in it that is the lake's root.
pub struct AzureContainer {
    client: BlobContainerClient,
    /// For questions about the account.
    service: BlobServiceClient,
    name: String,
    /// Without outer slashes; may be empty.
    base: String,
    block_ids: BlockIds,
    request_limit: Duration,
    pause: Pause,
    /// `None` for as many as the service gives.
    results_per_page: Option<i32>,
}

/// On what a write depends.
enum Condition<'a> {
    Absent,
    Still(&'a ETag),
}

/// What a commit says besides the blocks.
struct Content<'a> {
    content_type: &'a str,
    metadata: HashMap<String, String>,
}

impl Condition<'_> {
    fn if_match(&self) -> Option<azure_core::http::Etag> {
        match self {
            Self::Absent => None,
            Self::Still(etag) => Some(etag.as_str().into()),
        }
    }

    fn if_none_match(&self) -> Option<azure_core::http::Etag> {
        match self {
            Self::Absent => Some("*".into()),
            Self::Still(_) => None,
        }
    }
}

impl AzureContainer {
    pub(super) fn open(target: &AzureTarget, auth: &LakeAuth) -> Result<Self, TargetError> {
        let mut url = target.endpoint.clone();
        push_segments(&mut url, &target.container)?;
        let transport = new_http_client(Some(HttpClientOptions { automatic_decompression: false }));
        let client_options = ClientOptions {
            retry: RetryOptions::none(),
            per_try_policies: vec![auth::policy(target, auth)?],
            transport: Some(Transport::new(transport)),
            ..Default::default()
        };
        let failed = |error: azure_core::Error| TargetError::Client { cause: error.to_string() };
        let options =
            BlobServiceClientOptions { client_options: client_options.clone(), ..Default::default() };
        let service = BlobServiceClient::new(target.endpoint.clone(), None, Some(options)).map_err(failed)?;
        let options = BlobContainerClientOptions { client_options, ..Default::default() };
        let client = BlobContainerClient::new(url, None, Some(options)).map_err(failed)?;
        Ok(Self {
            client,
            service,
            name: target.container.clone(),
            base: target.base.clone(),
            block_ids: BlockIds::new(),
            request_limit: REQUEST_LIMIT,
            pause: Pause::new(),
            results_per_page: None,
        })
    }

    pub(super) async fn prepare(&self) -> Result<(), LakeError> {
        match self.probe().await? {
            Presence::There => Ok(()),
            Presence::Missing => self.create_container().await,
        }
    }

    /// A listing is what the sink needs first (rule 2), so it is also the probe.
    pub(super) async fn probe(&self) -> Result<Presence, LakeError> {
        let what = format!("list container {}", self.name);
        match self.list_page(String::new(), None, Some(1), &what).await? {
            Ok(_) => Ok(Presence::There),
            Err(failure) if failure.is("ContainerNotFound") => Ok(Presence::Missing),
            Err(failure) => Err(match classify(Request::Read, &failure, &what) {
                LakeError::Denied { cause } => LakeError::Denied {
                    cause: format!(
                        "{cause}; the sink needs the rights to list, read, create and write there"
                    ),
                },
                other => other,
            }),
        }
    }

    async fn create_container(&self) -> Result<(), LakeError> {
        let what = format!("create container {}", self.name);
        let created = self.answer(async { self.client.create(None).await.map(|_| ()) }).await;
        match created {
            Ok(()) => Ok(()),
            Err(failure) if failure.is("ContainerAlreadyExists") => Ok(()),
            Err(failure) => Err(match classify(Request::Commit, &failure, &what) {
                LakeError::Denied { cause } => LakeError::Denied {
                    cause: format!(
                        "{cause}; the container is missing: create it, or grant the right to create containers"
                    ),
                },
                other => other,
            }),
        }
    }

    pub(super) async fn read_document(&self, path: &LakePath) -> Result<Option<Document>, LakeError> {
        let what = format!("read {path}");
        let blob = self.blob(path);
        let options = BlobClientDownloadOptions {
            parallel: NonZero::new(1),
            partition_size: usize::try_from(DOCUMENT_BYTES_MAX).ok().and_then(NonZero::new),
            ..Default::default()
        };
        let answer = self
            .answer(async {
                let result = blob.download(Some(options)).await?;
                let etag = result.properties.etag;
                Ok((result.body.collect().await?, etag))
            })
            .await;
        match answer {
            Ok((bytes, Some(etag))) => {
                Ok(Some(Document { bytes: bytes.to_vec(), etag: ETag::new(etag.to_string()) }))
            }
            Ok((_, None)) => Err(unreadable(Request::Read, &what)),
            Err(failure) if failure.is_missing_blob() => Ok(None),
            Err(failure) => Err(classify(Request::Read, &failure, &what)),
        }
    }

    pub(super) async fn create_document(&self, path: &LakePath, bytes: Vec<u8>) -> Result<ETag, LakeError> {
        self.put_document(path, bytes, Condition::Absent).await
    }

    pub(super) async fn replace_document(
        &self,
        path: &LakePath,
        bytes: Vec<u8>,
        expected: &ETag,
    ) -> Result<ETag, LakeError> {
        self.put_document(path, bytes, Condition::Still(expected)).await
    }

    async fn put_document(
        &self,
        path: &LakePath,
        bytes: Vec<u8>,
        condition: Condition<'_>,
    ) -> Result<ETag, LakeError> {
        let what = format!("write {path}");
        let options = BlockBlobClientUploadOptions {
            blob_content_type: Some(DOCUMENT_CONTENT_TYPE.to_owned()),
            if_match: condition.if_match(),
            if_none_match: condition.if_none_match(),
            parallel: NonZero::new(1),
            partition_size: NonZero::new(DOCUMENT_BYTES_MAX),
            ..Default::default()
        };
        let blob = self.blob(path);
        let etag = self
            .request(Request::Commit, &what, async {
                Ok(blob.upload(RequestContent::from(bytes), Some(options)).await?.etag)
            })
            .await?;
        etag.map(|etag| ETag::new(etag.to_string())).ok_or_else(|| unreadable(Request::Commit, &what))
    }

    /// With its snapshots. Where the account keeps deleted blobs, it is the account that removes it for good.
    pub(super) async fn remove_blob(
        &self,
        path: &LakePath,
        expected: Option<&ETag>,
    ) -> Result<(), LakeError> {
        let what = format!("delete {path}");
        let blob = self.blob(path);
        let options = BlobClientDeleteOptions {
            if_match: expected.map(|etag| etag.as_str().into()),
            delete_snapshots: Some(DeleteSnapshotsOptionType::Include),
            ..Default::default()
        };
        match self.answer(async { blob.delete(Some(options)).await.map(drop) }).await {
            Ok(()) => Ok(()),
            Err(failure) if failure.is_missing_blob() => Ok(()),
            Err(failure) => match classify(Request::Commit, &failure, &what) {
                // A blob that is gone is not as it was read either (seen on Azurite).
                LakeError::Conflict if self.object(path).await?.is_none() => Ok(()),
                error => Err(error),
            },
        }
    }

    pub(super) async fn create_file(
        &self,
        path: &LakePath,
        bytes: &[Bytes],
        metadata: &FileMetadata,
    ) -> Result<FileState, LakeError> {
        self.publish(path, &[], bytes, metadata, Condition::Absent).await
    }

    pub(super) async fn append(
        &self,
        path: &LakePath,
        state: &FileState,
        bytes: &[Bytes],
        metadata: &FileMetadata,
    ) -> Result<FileState, LakeError> {
        self.publish(path, &state.blocks, bytes, metadata, Condition::Still(&state.etag)).await
    }

    async fn publish(
        &self,
        path: &LakePath,
        old: &[BlockId],
        bytes: &[Bytes],
        metadata: &FileMetadata,
        condition: Condition<'_>,
    ) -> Result<FileState, LakeError> {
        let client = self.blob(path).block_blob_client();
        let mut new = Vec::new();
        for block in cut_into_blocks(bytes) {
            new.push(self.stage(&client, path, block).await?);
        }
        self.commit(&client, path, old, new, metadata, condition).await
    }

    /// Sends bytes that belong to nothing until a commit names them.
    async fn stage(
        &self,
        client: &BlockBlobClient,
        path: &LakePath,
        block: Bytes,
    ) -> Result<BlockId, LakeError> {
        let id = self.block_ids.mint();
        let what = format!("stage a block of {path}");
        let length = block.len() as u64;
        self.request(Request::Stage, &what, async {
            client.stage_block(id.as_bytes(), length, block.into(), None).await
        })
        .await?;
        Ok(id)
    }

    async fn commit(
        &self,
        client: &BlockBlobClient,
        path: &LakePath,
        old: &[BlockId],
        new: Vec<BlockId>,
        metadata: &FileMetadata,
        condition: Condition<'_>,
    ) -> Result<FileState, LakeError> {
        let facts = metadata.to_map().into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let content = Content { content_type: metadata.compressed.content_type(), metadata: facts };
        let etag = self.commit_blocks(client, path, old, &new, content, condition).await?;
        let blocks = old.iter().cloned().chain(new).collect();
        Ok(FileState { etag, metadata: metadata.clone(), blocks: Arc::new(blocks) })
    }

    /// Makes these blocks, and no others, the content.
    async fn commit_blocks(
        &self,
        client: &BlockBlobClient,
        path: &LakePath,
        old: &[BlockId],
        new: &[BlockId],
        content: Content<'_>,
        condition: Condition<'_>,
    ) -> Result<ETag, LakeError> {
        let what = format!("commit {path}");
        let ids = |blocks: &[BlockId]| {
            (!blocks.is_empty()).then(|| blocks.iter().map(|id| id.as_bytes().to_vec()).collect::<Vec<_>>())
        };
        let list = BlockLookupList { committed: ids(old), uncommitted: ids(new), ..Default::default() };
        let list: RequestContent<_, _> = list.try_into().map_err(|_: azure_core::Error| {
            LakeError::Refused { what: format!("{what}: the list cannot be written") }
        })?;
        let conditional = !planted(SeededBug::UnconditionalPut);
        let options = BlockBlobClientCommitBlockListOptions {
            blob_content_type: Some(content.content_type.to_owned()),
            metadata: Some(content.metadata),
            if_match: condition.if_match().filter(|_| conditional),
            if_none_match: condition.if_none_match().filter(|_| conditional),
            ..Default::default()
        };
        let etag = self
            .request(Request::Commit, &what, async {
                client.commit_block_list(list, Some(options)).await?.etag()
            })
            .await?
            .ok_or_else(|| unreadable(Request::Commit, &what))?;
        Ok(ETag::new(etag.to_string()))
    }

    pub(super) fn read_file(&self, path: &LakePath, state: &FileState) -> Reader<'_> {
        Reader::new(self, path.clone(), state)
    }

    fn blob(&self, path: &LakePath) -> BlobClient {
        self.client.blob_client(&self.blob_name(path.as_str()))
    }

    fn blob_name(&self, path: &str) -> String {
        if self.base.is_empty() { path.to_owned() } else { format!("{}/{path}", self.base) }
    }

    /// Sends one request and judges its failure.
    fn request<'a, T: 'a>(
        &'a self,
        kind: Request,
        what: &'a str,
        request: impl Future<Output = azure_core::Result<T>> + 'a,
    ) -> impl Future<Output = Result<T, LakeError>> + 'a {
        let answer = self.answer(request);
        async move { answer.await.map_err(|failure| classify(kind, &failure, what)) }
    }

    /// The SDK's futures take tens of kilobytes each. They stand on the heap while they run, or every task that may send a request would be as large.
    fn answer<'a, T: 'a>(
        &'a self,
        request: impl Future<Output = azure_core::Result<T>> + 'a,
    ) -> impl Future<Output = Result<T, Failure>> + 'a {
        let request = Box::pin(request);
        async move {
            if let Some(left) = self.pause.left() {
                return Err(Failure::Paused { left });
            }
            let failure = match tokio::time::timeout(self.request_limit, request).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => Failure::of(&error),
                Err(_) => Failure::NoAnswer("no answer within the time limit"),
            };
            if let Some(asked) = failure.asks_for_a_pause() {
                self.pause.begin(asked);
            }
            Err(failure)
        }
    }
}

/// The request was answered as done, but without what every answer has.
fn unreadable(request: Request, what: &str) -> LakeError {
    classify(request, &Failure::NoAnswer("the answer lacks its ETag"), what)
}

fn push_segments(url: &mut Url, container: &str) -> Result<(), TargetError> {
    let problem = || TargetError::Client { cause: "the endpoint cannot have a path".to_owned() };
    url.path_segments_mut().map_err(|()| problem())?.pop_if_empty().push(container);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use shared::settings::Secret;

    use super::*;
    use crate::lake::LakeTarget;

    #[tokio::test]
    async fn a_server_that_never_answers_is_given_up() {
        // The socket takes connections, by its backlog, and stays silent.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}/acme", silent.local_addr().unwrap());
        let parsed = LakeTarget::parse("abfss://raw@acme.dfs.core.windows.net/", Some(&endpoint)).unwrap();
        let LakeTarget::Azure(target) = parsed else { panic!("{parsed:?}") };
        let mut lake = AzureContainer::open(&target, &LakeAuth::SharedKey(Secret::new("a2V5"))).unwrap();
        lake.request_limit = Duration::from_millis(50);
        let path = LakePath::new("a/b.json").unwrap();
        let read = lake.file(&path).await;
        assert!(matches!(read, Err(LakeError::Unavailable { .. })), "{read:?}");
        let written = lake.create_document(&path, b"{}".to_vec()).await;
        assert!(matches!(written, Err(LakeError::Unknown { .. })), "{written:?}");
    }
}

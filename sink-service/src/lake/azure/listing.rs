//! What is there: listings, page by page, with metadata.

use std::collections::HashMap;

use azure_storage_blob::models::{BlobContainerClientListBlobsOptions, ListBlobsIncludeItem};
use futures::TryStreamExt;

use super::{
    AzureContainer,
    classify::{Failure, Request, classify},
    unreadable,
};
use crate::{
    file_metadata::{FileMetadata, MARKER_KEY},
    lake::{LakeError, ListedFile, Listing},
    lake_path::LakePath,
};

/// A part of a listing.
pub(super) struct Page {
    pub(super) blobs: Vec<(String, HashMap<String, String>)>,
    next: Option<String>,
}

impl AzureContainer {
    pub(in crate::lake) async fn list(&self, folder: &LakePath) -> Result<Listing, LakeError> {
        let mut listing = Listing::default();
        for (name, metadata) in self.list_blobs(folder).await? {
            // Documents, markers, folders, other people's files have no such metadata.
            let Some(path) = self.relative(&name).filter(|_| metadata.contains_key(MARKER_KEY)) else {
                continue;
            };
            match FileMetadata::from_map(&metadata) {
                Ok(metadata) => listing.files.push(ListedFile { path, metadata }),
                Err(error) => listing.damaged.push((path, error.to_string())),
            }
        }
        listing.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(listing)
    }

    pub(in crate::lake) async fn list_heads(&self) -> Result<Vec<LakePath>, LakeError> {
        let blobs = self.list_blobs(&LakePath::chain_folder()).await?.into_iter();
        let paths = blobs.filter_map(|(name, _)| self.relative(&name));
        Ok(paths.filter(|path| path.as_head().is_some()).collect())
    }

    pub(in crate::lake) async fn list_names(&self, folder: &LakePath) -> Result<Vec<LakePath>, LakeError> {
        let blobs = self.list_blobs(folder).await?.into_iter();
        Ok(blobs.filter_map(|(name, _)| self.relative(&name)).collect())
    }

    /// Everything below a folder, with its metadata.
    async fn list_blobs(
        &self,
        folder: &LakePath,
    ) -> Result<Vec<(String, HashMap<String, String>)>, LakeError> {
        let what = format!("list {folder}");
        let prefix = format!("{}/", self.blob_name(folder.as_str()));
        let mut blobs = Vec::new();
        let mut marker = None;
        loop {
            let page = self
                .list_page(prefix.clone(), marker, self.results_per_page, &what)
                .await?
                .map_err(|failure| classify(Request::Read, &failure, &what))?;
            blobs.extend(page.blobs);
            marker = page.next;
            if marker.is_none() {
                return Ok(blobs);
            }
        }
    }

    /// A blob's path in the lake; `None` for what is not below its base.
    fn relative(&self, name: &str) -> Option<LakePath> {
        let relative = match self.base.as_str() {
            "" => Some(name),
            base => name.strip_prefix(base).and_then(|rest| rest.strip_prefix('/')),
        };
        LakePath::new(relative?).ok()
    }

    /// One page; the inner error is the service's answer, not yet judged.
    pub(super) async fn list_page(
        &self,
        prefix: String,
        marker: Option<String>,
        results_max: Option<i32>,
        what: &str,
    ) -> Result<Result<Page, Failure>, LakeError> {
        let options = BlobContainerClientListBlobsOptions {
            include: Some(vec![ListBlobsIncludeItem::Metadata]),
            prefix: (!prefix.is_empty()).then_some(prefix),
            marker,
            maxresults: results_max,
            ..Default::default()
        };
        let answer = self
            .answer(async {
                let mut pages = self.client.list_blobs(Some(options))?.into_pages();
                let Some(page) = pages.try_next().await? else { return Ok(None) };
                page.into_model().map(Some)
            })
            .await;
        let page = match answer {
            Ok(Some(page)) => page,
            Ok(None) => return Err(unreadable(Request::Read, what)),
            Err(failure) => return Ok(Err(failure)),
        };
        let blobs = page.blob_items.into_iter().filter_map(|blob| {
            let metadata = blob.metadata.and_then(|metadata| metadata.values).unwrap_or_default();
            Some((blob.name?, metadata))
        });
        let next = page.next_marker.filter(|marker| !marker.is_empty());
        Ok(Ok(Page { blobs: blobs.collect(), next }))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use pipeline_tests::servers::{
        Azurite, AzuriteStorage,
        azurite::{ACCOUNT, ACCOUNT_KEY},
    };
    use shared::settings::Secret;

    use super::*;
    use crate::lake::{LakeAuth, LakeTarget};

    #[tokio::test]
    async fn a_listing_of_many_pages_is_whole() {
        let server = Azurite::start(AzuriteStorage::Memory).await.unwrap();
        let url = format!("abfss://raw@{ACCOUNT}.dfs.core.windows.net/base");
        let LakeTarget::Azure(target) = LakeTarget::parse(&url, Some(&server.endpoint())).unwrap() else {
            panic!("{url} is on Azure")
        };
        let auth = LakeAuth::SharedKey(Secret::new(ACCOUNT_KEY));
        let mut lake = AzureContainer::open(&target, &auth).unwrap();
        lake.prepare().await.unwrap();
        lake.results_per_page = Some(2);
        let heads: Vec<LakePath> =
            (0..7).map(|n| LakePath::new(format!("_chain/atlas.a.b/p{n}.json")).unwrap()).collect();
        for head in &heads {
            lake.create_document(head, b"{}".to_vec()).await.unwrap();
        }
        assert_eq!(lake.list_heads().await.unwrap(), heads);
    }
}

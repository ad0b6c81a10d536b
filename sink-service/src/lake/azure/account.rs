//! What the account and the container say of themselves. Nothing here is needed to write: what may not be asked stays unknown.

use std::collections::HashMap;

use azure_core::http::headers::HeaderName;
use azure_storage_blob::models::{
    BlobClientSetMetadataOptions, BlobContainerClientGetAccountInfoResultHeaders,
    BlobContainerClientGetPropertiesResultHeaders,
};

use super::{
    AzureContainer,
    classify::{Request, classify},
};
use crate::{
    lake::{AccountFacts, Answer, LakeError},
    lake_path::{CHAIN_FOLDER, LakePath},
};

/// Of an account with versioning each blob that was written since has one.
const VERSION: HeaderName = HeaderName::from_static("x-ms-version-id");
/// Only accounts with hierarchical namespace say it.
const RESOURCE_TYPE: HeaderName = HeaderName::from_static("x-ms-resource-type");

/// No blob has it.
const NO_ETAG: &str = "\"0x0\"";

struct Info {
    kind: Option<String>,
    hierarchical: Option<bool>,
}

struct Container {
    immutable: Answer<Option<&'static str>>,
    /// Immutability by version is for accounts with versioning alone.
    versions: bool,
}

/// What one blob of ours shows.
struct Sample {
    has_version: bool,
    hierarchical: bool,
}

impl AzureContainer {
    /// Asks for other metadata of a blob that is not there: nothing can come of it but a yes or a no. The right is the one that writing needs.
    pub(in crate::lake) async fn probe_write(&self) -> Result<(), LakeError> {
        let path = LakePath::new(format!("{CHAIN_FOLDER}/check.json")).expect("a path of our own");
        let what = format!("write {path}");
        let blob = self.blob(&path);
        let options = BlobClientSetMetadataOptions { if_match: Some(NO_ETAG.into()), ..Default::default() };
        let asked = self
            .request(Request::Read, &what, async {
                blob.set_metadata(&HashMap::new(), Some(options)).await.map(|_| ())
            })
            .await;
        match asked {
            // Allowed, and there is no such blob.
            Ok(()) | Err(LakeError::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(in crate::lake) async fn account(&self) -> AccountFacts {
        let (info, container, soft_delete, sample) =
            tokio::join!(self.account_info(), self.container_properties(), self.soft_delete(), self.sample());
        facts(info, container, soft_delete, sample)
    }

    async fn account_info(&self) -> Result<Info, LakeError> {
        self.request(Request::Read, "get the account's information", async {
            let answer = self.client.get_account_info(None).await?;
            let kind = answer.account_kind()?.map(|kind| kind.to_string());
            Ok(Info { kind, hierarchical: answer.is_hierarchical_namespace_enabled()? })
        })
        .await
    }

    async fn container_properties(&self) -> Result<Container, LakeError> {
        let what = format!("get the properties of container {}", self.name);
        self.request(Request::Read, &what, async {
            let answer = self.client.get_properties(None).await?;
            let immutable = match (answer.has_immutability_policy()?, answer.has_legal_hold()?) {
                (Some(true), _) => Answer::Known(Some("an immutability policy")),
                (_, Some(true)) => Answer::Known(Some("a legal hold")),
                (Some(false), _) => Answer::Known(None),
                (None, _) => Answer::Unknown("the container's properties do not say".to_owned()),
            };
            let versions = answer.is_immutable_storage_with_versioning_enabled()?.unwrap_or(false);
            Ok(Container { immutable, versions })
        })
        .await
    }

    async fn soft_delete(&self) -> Result<Option<bool>, LakeError> {
        self.request(Request::Read, "get the properties of the Blob service", async {
            let properties = self.service.get_properties(None).await?.into_model()?;
            Ok(properties.delete_retention_policy.and_then(|policy| policy.enabled))
        })
        .await
    }

    /// The first blob below `_chain/`, which is written often; `None` if there is none.
    async fn sample(&self) -> Result<Option<Sample>, LakeError> {
        let folder = LakePath::chain_folder();
        let what = format!("list {folder}");
        let prefix = format!("{}/", self.blob_name(folder.as_str()));
        let page = match self.list_page(prefix, None, Some(1), &what).await? {
            Ok(page) => page,
            Err(failure) if failure.is("ContainerNotFound") => return Ok(None),
            Err(failure) => return Err(classify(Request::Read, &failure, &what)),
        };
        let Some((name, _)) = page.blobs.into_iter().next() else { return Ok(None) };
        let what = format!("get the properties of {name}");
        let sample = self.request(Request::Read, &what, async {
            let answer = self.client.blob_client(&name).get_properties(None).await?;
            let has = |header| answer.headers().get_optional_str(header).is_some();
            Ok(Sample { has_version: has(&VERSION), hierarchical: has(&RESOURCE_TYPE) })
        });
        sample.await.map(Some)
    }
}

fn facts(
    info: Result<Info, LakeError>,
    container: Result<Container, LakeError>,
    soft_delete: Result<Option<bool>, LakeError>,
    sample: Result<Option<Sample>, LakeError>,
) -> AccountFacts {
    let unsaid = |what: &str| format!("{what} does not say");
    let (kind, said) = match info {
        Ok(Info { kind, hierarchical }) => {
            let unsaid = || unsaid("the account's information");
            (
                kind.map_or_else(|| Answer::Unknown(unsaid()), Answer::Known),
                hierarchical.map_or_else(|| Answer::Unknown(unsaid()), Answer::Known),
            )
        }
        Err(error) => (Answer::Unknown(error.to_string()), Answer::Unknown(error.to_string())),
    };
    let (immutable, versions_by_policy) = match container {
        Ok(Container { immutable, versions }) => (immutable, versions),
        Err(error) => (Answer::Unknown(error.to_string()), false),
    };
    let soft_delete = match soft_delete {
        Ok(Some(enabled)) => Answer::Known(enabled),
        Ok(None) => Answer::Unknown(unsaid("the Blob service")),
        Err(error) => Answer::Unknown(error.to_string()),
    };
    let hierarchical = match (said, &sample) {
        (Answer::Known(said), _) => Answer::Known(said),
        (Answer::Unknown(_), Ok(Some(sample))) if sample.hierarchical => Answer::Known(true),
        (unknown, _) => unknown,
    };
    let versions = match sample {
        _ if versions_by_policy => Answer::Known(true),
        Ok(Some(sample)) if sample.has_version => Answer::Known(true),
        _ if hierarchical.known() == Some(&true) => Answer::Known(false),
        Ok(Some(_)) => Answer::Known(false),
        Ok(None) => {
            Answer::Unknown("only what is written shows it, and nothing of a sink is there yet".to_owned())
        }
        Err(error) => Answer::Unknown(error.to_string()),
    };
    AccountFacts { kind, hierarchical, versions, soft_delete, immutable }
}

//! Which lake is meant: `LAKE_URL` and `LAKE_ENDPOINT`, parsed once and checked whole.
//!
//! | `LAKE_URL` | target |
//! |---|---|
//! | `file:///dir` | a directory of this machine |
//! | `abfss://container@account.dfs.core.windows.net/base` | as Hadoop and Spark write it |
//! | `https://account.{blob,dfs}.core.windows.net/container/base` | as the portal shows it |
//!
//! The account's two hosts, `blob` and `dfs`, are the same data; we always speak to the Blob one, because only it can
//! publish bytes and metadata in one step. Sovereign clouds differ in the suffix only, and a private host without either
//! label is taken as it is. `LAKE_ENDPOINT` replaces scheme and host, for an emulator or a private endpoint; the account
//! is then the last part of its path (`http://127.0.0.1:10000/devstoreaccount1`), or else the one that `LAKE_URL` names.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use shared::settings::Secrecy;
use thiserror::Error;
use url::Url;

/// Where the lake is; says nothing about how to get in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LakeTarget {
    Directory(PathBuf),
    Azure(AzureTarget),
}

/// One container, and a folder in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureTarget {
    /// Of the Blob service, without a slash at the end: `https://account.blob.core.windows.net`, or path-style
    /// `http://127.0.0.1:10000/devstoreaccount1`.
    pub(crate) endpoint: Url,
    pub(crate) account: String,
    pub(crate) container: String,
    /// Without outer slashes; empty for the container's root.
    pub(crate) base: String,
}

/// For people; a target holds no credential.
impl LakeTarget {
    /// Whether it is another one's place, or lies below that: readers of the outer one would see its files.
    pub fn lies_in(&self, outer: &Self) -> bool {
        match (self, outer) {
            (Self::Directory(inner), Self::Directory(outer)) => inner.starts_with(outer),
            (Self::Azure(inner), Self::Azure(outer)) => {
                let is_container = inner.endpoint == outer.endpoint && inner.container == outer.container;
                is_container && Path::new(&inner.base).starts_with(&outer.base)
            }
            _ => false,
        }
    }

    /// Another lake by its `LAKE_URL`; if it is in the same account, by the same endpoint.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn another(&self, lake_url: &str) -> Result<Self, TargetError> {
        let mut other = Self::parse(lake_url, None)?;
        if let (Self::Azure(this), Self::Azure(other)) = (self, &mut other)
            && this.account == other.account
        {
            other.endpoint = this.endpoint.clone();
        }
        Ok(other)
    }
}

impl fmt::Display for LakeTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(root) => write!(f, "file://{}", root.display()),
            Self::Azure(AzureTarget { endpoint, container, base, .. }) => {
                let slash = if base.is_empty() { "" } else { "/" };
                write!(f, "{}/{container}{slash}{base}", endpoint.as_str().trim_end_matches('/'))
            }
        }
    }
}

/// What is wrong with the settings of the lake. Never shows a secret.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TargetError {
    /// `url` is masked.
    #[error("LAKE_URL is {url:?}: {problem}; expected {EXPECTED_URLS}")]
    Url { url: String, problem: &'static str },
    /// `url` is masked.
    #[error(
        "LAKE_ENDPOINT is {url:?}: {problem}; expected the Blob service's address, such as \
         http://127.0.0.1:10000/devstoreaccount1"
    )]
    Endpoint { url: String, problem: &'static str },
    #[error("a lake on Azure needs LAKE_AUTH and its credential")]
    NoCredential,
    #[error(
        "ADLS_SAS is not a shared access signature: {problem}; expected the query string that ends in or contains sig=…"
    )]
    Sas { problem: &'static str },
    #[error("ADLS_SHARED_KEY is not the base64 text of an account key")]
    SharedKey,
    /// Of a secret, a certificate or a token file; `cause` holds none of it.
    #[error("no tokens with LAKE_AUTH={mode}: {cause}")]
    Identity { mode: &'static str, cause: String },
    #[error("the storage client could not be built: {cause}")]
    Client { cause: String },
}

const EXPECTED_URLS: &str = "file:///directory, abfss://container@account.dfs.core.windows.net/base \
     or https://account.blob.core.windows.net/container/base";

impl LakeTarget {
    /// # Errors
    /// If either address cannot be used; the message names the setting, its value and what was expected. A query in the
    /// address is refused without being shown: it may be a signature.
    pub fn parse(lake_url: &str, endpoint: Option<&str>) -> Result<Self, TargetError> {
        let wrong = |problem| TargetError::Url { url: Secrecy::Address.mask(lake_url), problem };
        if lake_url.contains(['?', '#']) {
            return Err(wrong("it has a query or fragment; a signature belongs in ADLS_SAS"));
        }
        let url = Url::parse(lake_url).map_err(|_| wrong("it is not a URL"))?;
        if url.password().is_some() {
            return Err(wrong("it has a password in it"));
        }
        match url.scheme() {
            "file" => {
                if let Some(endpoint) = endpoint {
                    return Err(TargetError::Endpoint {
                        url: Secrecy::Address.mask(endpoint),
                        problem: "a local directory has no endpoint",
                    });
                }
                if !lake_url.starts_with("file:///") {
                    return Err(wrong("a directory is given by three slashes and its absolute path"));
                }
                let root = url.to_file_path().map_err(|()| wrong("it names no local directory"))?;
                Ok(Self::Directory(root))
            }
            "abfss" | "abfs" => {
                let host =
                    url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong("it has no host"))?;
                if url.username().is_empty() {
                    return Err(wrong("it names no container before the @"));
                }
                let container =
                    decode_segment(url.username()).ok_or_else(|| wrong("its container is not UTF-8"))?;
                let scheme = if url.scheme() == "abfss" { "https" } else { "http" };
                let authority = authority(host, url.port());
                let base = path_segments(&url).ok_or_else(|| wrong("its path cannot be used"))?;
                AzureTarget::target(
                    &format!("{scheme}://{authority}"),
                    host,
                    container,
                    &base,
                    endpoint,
                    &wrong,
                )
            }
            "https" | "http" => {
                if !url.username().is_empty() {
                    return Err(wrong("it has a user in it"));
                }
                let host =
                    url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong("it has no host"))?;
                let authority = authority(host, url.port());
                let mut segments = path_segments(&url).ok_or_else(|| wrong("its path cannot be used"))?;
                if segments.is_empty() {
                    return Err(wrong("it names no container"));
                }
                let container = segments.remove(0);
                let service = format!("{}://{authority}", url.scheme());
                AzureTarget::target(&service, host, container, &segments, endpoint, &wrong)
            }
            _ => Err(wrong("its scheme is not known")),
        }
    }
}

impl AzureTarget {
    fn target(
        service: &str,
        host: &str,
        container: String,
        base: &[String],
        endpoint: Option<&str>,
        wrong: &impl Fn(&'static str) -> TargetError,
    ) -> Result<LakeTarget, TargetError> {
        if !is_container_name(&container) {
            return Err(wrong("its container is not 3 to 63 lower-case letters, digits and single hyphens"));
        }
        let named_account = host.split('.').next().unwrap_or_default().to_owned();
        let (endpoint, account) = match endpoint {
            Some(text) => parse_endpoint(text, named_account)?,
            None => {
                let service = Url::parse(&service.replacen(".dfs.", ".blob.", 1));
                let service = service.map_err(|_| wrong("its host cannot be used"))?;
                if service.scheme() != "https" {
                    return Err(wrong("plain http is for an emulator, which LAKE_ENDPOINT names"));
                }
                (service, named_account)
            }
        };
        Ok(LakeTarget::Azure(Self { endpoint, account, container, base: base.join("/") }))
    }
}

/// The emulator's or a private endpoint's address, and the account that it or `LAKE_URL` names.
fn parse_endpoint(text: &str, named_account: String) -> Result<(Url, String), TargetError> {
    let wrong = |problem| TargetError::Endpoint { url: Secrecy::Address.mask(text), problem };
    if text.contains(['?', '#']) {
        return Err(wrong("it has a query or fragment; a signature belongs in ADLS_SAS"));
    }
    let mut url = Url::parse(text).map_err(|_| wrong("it is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(wrong("it is not http or https with a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("it has a user in it"));
    }
    let segments = path_segments(&url).ok_or_else(|| wrong("its path cannot be used"))?;
    let account = match segments.as_slice() {
        [] => named_account,
        [account] => account.clone(),
        _ => return Err(wrong("its path has more than the account's name")),
    };
    let path = url.path().trim_matches('/').to_owned();
    url.set_path(&path);
    Ok((url, account))
}

fn authority(host: &str, port: Option<u16>) -> String {
    port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The path's parts, decoded; outer and doubled slashes do not count. `None` if a part cannot be one of a blob's name.
fn path_segments(url: &Url) -> Option<Vec<String>> {
    let parts = url.path().split('/').filter(|part| !part.is_empty()).map(decode_segment);
    parts
        .map(|part| part.filter(|text| !text.contains('/') && !matches!(text.as_str(), "" | "." | "..")))
        .collect()
}

fn decode_segment(text: &str) -> Option<String> {
    crate::file_metadata::percent_decode(text)
}

/// <https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata>
fn is_container_name(name: &str) -> bool {
    let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    (3..=63).contains(&name.len())
        && letters
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn azure(lake_url: &str, endpoint: Option<&str>) -> (String, String, String, String) {
        match LakeTarget::parse(lake_url, endpoint).unwrap() {
            LakeTarget::Azure(target) => (
                target.endpoint.as_str().trim_end_matches('/').to_owned(),
                target.account,
                target.container,
                target.base,
            ),
            LakeTarget::Directory(root) => panic!("{lake_url} became the directory {}", root.display()),
        }
    }

    #[test]
    fn every_form_leads_to_the_blob_endpoint() {
        let cases = [
            (
                "abfss://raw@acme.dfs.core.windows.net/cdc/",
                None,
                "https://acme.blob.core.windows.net",
                "acme",
                "cdc",
            ),
            ("abfss://raw@acme.dfs.core.windows.net", None, "https://acme.blob.core.windows.net", "acme", ""),
            (
                "https://acme.dfs.core.windows.net/raw//a/b/",
                None,
                "https://acme.blob.core.windows.net",
                "acme",
                "a/b",
            ),
            (
                "https://acme.blob.core.chinacloudapi.cn/raw",
                None,
                "https://acme.blob.core.chinacloudapi.cn",
                "acme",
                "",
            ),
            ("https://lake.corp.example:8443/raw/x", None, "https://lake.corp.example:8443", "lake", "x"),
            (
                "abfss://raw@devstoreaccount1.dfs.core.windows.net/t%20est",
                Some("http://127.0.0.1:10000/devstoreaccount1/"),
                "http://127.0.0.1:10000/devstoreaccount1",
                "devstoreaccount1",
                "t est",
            ),
            (
                "https://acme.blob.core.windows.net/raw/x",
                Some("https://10.0.0.4"),
                "https://10.0.0.4",
                "acme",
                "x",
            ),
        ];
        for (url, endpoint, service, account, base) in cases {
            let expected = (service.to_owned(), account.to_owned(), "raw".to_owned(), base.to_owned());
            assert_eq!(azure(url, endpoint), expected, "{url}");
        }
    }

    #[test]
    fn a_file_url_is_a_directory() {
        let parsed = LakeTarget::parse("file:///var/lib/the%20lake", None);
        assert_eq!(parsed, Ok(LakeTarget::Directory(PathBuf::from("/var/lib/the lake"))));
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_setting_and_what_was_expected() {
        for (url, endpoint) in [
            ("", None),
            ("/var/lib/lake", None),
            ("file://host/dir", None),
            ("file:relative", None),
            ("s3://bucket/x", None),
            ("abfss://acme.dfs.core.windows.net/x", None),
            ("abfss://UPPER@acme.dfs.core.windows.net/x", None),
            ("https://acme.blob.core.windows.net", None),
            ("https://acme.blob.core.windows.net/a--b/c", None),
            ("http://acme.blob.core.windows.net/raw", None),
            ("file:///var/lib/lake", Some("http://127.0.0.1:1/x")),
            ("https://acme.blob.core.windows.net/raw", Some("ftp://127.0.0.1")),
            ("https://acme.blob.core.windows.net/raw", Some("http://127.0.0.1/a/b")),
        ] {
            let message = LakeTarget::parse(url, endpoint).unwrap_err().to_string();
            assert!(message.starts_with("LAKE_URL") || message.starts_with("LAKE_ENDPOINT"), "{message}");
            assert!(message.contains("expected"), "{message}");
        }
    }

    #[test]
    fn a_signature_in_the_address_is_refused_and_not_shown() {
        for (url, endpoint) in [
            ("https://acme.blob.core.windows.net/raw?sv=1&sig=topsecret", None),
            ("https://user:topsecret@acme.blob.core.windows.net/raw", None),
            ("https://acme.blob.core.windows.net/raw", Some("https://10.0.0.4/?sig=topsecret")),
            ("https://acme.blob.core.windows.net/raw", Some("https://u:topsecret@10.0.0.4/")),
        ] {
            let error = LakeTarget::parse(url, endpoint).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("topsecret"), "{error}");
        }
    }
}

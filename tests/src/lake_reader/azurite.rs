//! A lake in Azurite, over the Blob service's REST interface.
//!
//! Requests are signed with the shared key as
//! <https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key> says. The product's way in (the SDK
//! and a policy of ours) is not used, so that a mistake there cannot hide itself.

use std::{collections::BTreeMap, ops::Range};

use anyhow::{Context, Result, bail};
use azure_core::{credentials::Secret, hmac::hmac_sha256};
use chrono::Utc;

use super::{LakeContent, LakeFile, LakeHead, is_data_file, is_head};
use crate::{
    http::{self, Response},
    servers::azurite::{ACCOUNT, ACCOUNT_KEY},
};

/// Whether data files are read, or only what is said about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bytes {
    Read,
    Skip,
}

pub(super) fn read(port: u16, container: &str, bytes: Bytes) -> Result<LakeContent> {
    let mut content = LakeContent::default();
    for name in list(port, container)? {
        if is_head(&name) {
            let answer = blob("GET", port, container, &name)?;
            content.heads.push(LakeHead::parse(&name, &answer.body)?);
        } else if is_data_file(&name) {
            // Bytes and metadata of one answer are of one version of the blob.
            let answer = blob(if bytes == Bytes::Read { "GET" } else { "HEAD" }, port, container, &name)?;
            let metadata: BTreeMap<String, String> = answer
                .headers
                .iter()
                .filter_map(|(name, value)| {
                    Some((name.strip_prefix("x-ms-meta-")?.to_owned(), value.clone()))
                })
                .collect();
            content.files.push(LakeFile::new(name, metadata, answer.body)?);
        }
    }
    content.files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(content)
}

/// All data files, their metadata from the listing itself: one request per 5,000 blobs.
pub(super) fn files(port: u16, container: &str) -> Result<Vec<LakeFile>> {
    let mut files = Vec::new();
    pages(port, container, "metadata", |xml| {
        for blob in elements(xml, "Blob") {
            let path = elements(blob, "Name").map(unescape).next().context("a blob without a name")?;
            if is_data_file(&path) {
                let metadata = elements(blob, "Metadata").next().map(children).unwrap_or_default();
                files.push(LakeFile::new(path, metadata, Vec::new())?);
            }
        }
        Ok(())
    })?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

pub(super) fn bytes(port: u16, container: &str, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
    if range.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = format!("bytes={}-{}", range.start, range.end - 1);
    let answer = signed("GET", port, &format!("{container}/{}", percent_encode(name)), &[], &wanted)?;
    if answer.status != 206 {
        bail!("GET {wanted} of {name}: {} {}", answer.status, answer.text());
    }
    Ok(answer.body)
}

/// The names of all blobs. A container that does not exist has none.
fn list(port: u16, container: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    pages(port, container, "", |xml| {
        names.extend(elements(xml, "Name").map(unescape));
        Ok(())
    })?;
    Ok(names)
}

/// Hands over each page of a listing; none if the container does not exist. `include` may be empty.
fn pages(port: u16, container: &str, include: &str, mut page: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let mut marker = String::new();
    loop {
        // The signature wants the parameters in the order of their names.
        let mut query = vec![("comp", "list".to_owned())];
        if !include.is_empty() {
            query.push(("include", include.to_owned()));
        }
        if !marker.is_empty() {
            query.push(("marker", marker.clone()));
        }
        query.push(("restype", "container".to_owned()));
        let answer = signed("GET", port, container, &query, "")?;
        if answer.status == 404 {
            return Ok(());
        }
        if answer.status != 200 {
            bail!("list {container}: {} {}", answer.status, answer.text());
        }
        let text = answer.text();
        page(&text)?;
        marker = elements(&text, "NextMarker").map(unescape).next().unwrap_or_default();
        if marker.is_empty() {
            return Ok(());
        }
    }
}

pub(super) fn document(port: u16, container: &str, name: &str) -> Result<Option<Vec<u8>>> {
    let answer = signed("GET", port, &format!("{container}/{}", percent_encode(name)), &[], "")?;
    match answer.status {
        200 => Ok(Some(answer.body)),
        404 => Ok(None),
        status => bail!("GET {name}: {status} {}", answer.text()),
    }
}

fn blob(method: &str, port: u16, container: &str, name: &str) -> Result<Response> {
    let answer = signed(method, port, &format!("{container}/{}", percent_encode(name)), &[], "")?;
    if answer.status != 200 {
        bail!("{method} {name}: {} {}", answer.status, answer.text());
    }
    Ok(answer)
}

/// Deletes a blob, or puts bytes without any metadata in its place, as a person's tool would.
pub(super) fn damage(port: u16, container: &str, name: &str, bytes: Option<&[u8]>) -> Result<()> {
    let path = format!("{container}/{}", percent_encode(name));
    let (answer, expected) = match bytes {
        None => (send("DELETE", port, &path, &[], "", None)?, 202),
        Some(bytes) => (send("PUT", port, &path, &[], "", Some(bytes))?, 201),
    };
    if answer.status != expected {
        bail!("damage {name}: {} {}", answer.status, answer.text());
    }
    Ok(())
}

fn signed(method: &str, port: u16, path: &str, query: &[(&str, String)], range: &str) -> Result<Response> {
    send(method, port, path, query, range, None)
}

/// `path` is encoded already; the signature covers it as it is sent. `range` may be empty. A body is put as a block blob.
fn send(
    method: &str,
    port: u16,
    path: &str,
    query: &[(&str, String)],
    range: &str,
    body: Option<&[u8]>,
) -> Result<Response> {
    let date = Utc::now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let version = "2021-10-04";
    let blob_type = body.map_or("", |_| "x-ms-blob-type:BlockBlob\n");
    let canonical_headers = format!("{blob_type}x-ms-date:{date}\nx-ms-version:{version}\n");
    let length = body.filter(|body| !body.is_empty()).map(|body| body.len().to_string()).unwrap_or_default();
    // Path style: the account is named twice, once as the account and once as the path's first part.
    let mut resource = format!("/{ACCOUNT}/{ACCOUNT}/{path}");
    for (name, value) in query {
        resource.push_str(&format!("\n{name}:{value}"));
    }
    // Eleven standard headers: encoding, language, length, MD5, type, date, four conditions (all empty), range.
    let to_sign = format!("{method}\n\n\n{length}\n\n\n\n\n\n\n\n{range}\n{canonical_headers}{resource}");
    let signature = hmac_sha256(&to_sign, &Secret::from(ACCOUNT_KEY)).context("sign a request")?;
    let authorization = format!("SharedKey {ACCOUNT}:{signature}");
    let query: Vec<String> =
        query.iter().map(|(name, value)| format!("{name}={}", percent_encode(value))).collect();
    let question_mark = if query.is_empty() { "" } else { "?" };
    let target = format!("/{ACCOUNT}/{path}{question_mark}{}", query.join("&"));
    let mut headers =
        vec![("x-ms-date", date.as_str()), ("x-ms-version", version), ("Authorization", &authorization)];
    if !range.is_empty() {
        headers.push(("Range", range));
    }
    if body.is_some() {
        headers.push(("x-ms-blob-type", "BlockBlob"));
    }
    if method == "PUT" && length.is_empty() {
        headers.push(("Content-Length", "0"));
    }
    http::send(method, port, &target, &headers, body.unwrap_or_default())
}

fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
        encoded
    })
}

/// The texts of all elements of this name. Good for the flat answers of "list blobs", where no name holds another one.
fn elements<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let start = rest.find(&open)? + open.len();
        let end = start + rest[start..].find(&close)?;
        let text = &rest[start..end];
        rest = &rest[end + close.len()..];
        Some(text)
    })
}

/// The elements right below this one, none of which may hold another one: names and texts.
fn children(xml: &str) -> BTreeMap<String, String> {
    let mut children = BTreeMap::new();
    let mut rest = xml;
    while let Some((name, tail)) = rest.split_once('<').and_then(|(_, tail)| tail.split_once('>')) {
        let Some((text, after)) = tail.split_once(&format!("</{name}>")) else { break };
        children.insert(name.to_owned(), unescape(text));
        rest = after;
    }
    children
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_out_of_a_listing() {
        let xml = "<Blobs><Blob><Name>a&amp;b</Name></Blob><Blob><Name>c</Name></Blob></Blobs><NextMarker/>";
        assert_eq!(elements(xml, "Name").map(unescape).collect::<Vec<_>>(), ["a&b", "c"]);
        assert_eq!(elements(xml, "NextMarker").next(), None);
    }

    #[test]
    fn metadata_is_taken_out_of_a_listing() {
        let metadata = children("<rows>3</rows><topic>a&amp;b</topic>");
        assert_eq!(metadata.get("rows").map(String::as_str), Some("3"));
        assert_eq!(metadata.get("topic").map(String::as_str), Some("a&b"));
    }
}

//! A lake in Azurite, over the Blob service's REST interface.
//!
//! Requests are signed with the shared key as
//! <https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key> says. The product's way in (the SDK
//! and a policy of ours) is not used, so that a mistake there cannot hide itself.

use std::collections::BTreeMap;

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
            content.files.push(LakeFile { path: name, metadata, bytes: answer.body });
        }
    }
    content.files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(content)
}

/// The names of all blobs, page by page. A container that does not exist has none.
fn list(port: u16, container: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut marker = String::new();
    loop {
        let mut query = vec![("comp", "list".to_owned()), ("restype", "container".to_owned())];
        if !marker.is_empty() {
            query.push(("marker", marker.clone()));
        }
        let answer = signed("GET", port, container, &query)?;
        if answer.status == 404 {
            return Ok(names);
        }
        if answer.status != 200 {
            bail!("list {container}: {} {}", answer.status, answer.text());
        }
        let text = answer.text();
        names.extend(elements(&text, "Name").map(unescape));
        marker = elements(&text, "NextMarker").map(unescape).next().unwrap_or_default();
        if marker.is_empty() {
            return Ok(names);
        }
    }
}

fn blob(method: &str, port: u16, container: &str, name: &str) -> Result<Response> {
    let answer = signed(method, port, &format!("{container}/{}", percent_encode(name)), &[])?;
    if answer.status != 200 {
        bail!("{method} {name}: {} {}", answer.status, answer.text());
    }
    Ok(answer)
}

/// `path` is encoded already; the signature covers it as it is sent.
fn signed(method: &str, port: u16, path: &str, query: &[(&str, String)]) -> Result<Response> {
    let date = Utc::now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let version = "2021-10-04";
    let canonical_headers = format!("x-ms-date:{date}\nx-ms-version:{version}\n");
    // Path style: the account is named twice, once as the account and once as the path's first part.
    let mut resource = format!("/{ACCOUNT}/{ACCOUNT}/{path}");
    for (name, value) in query {
        resource.push_str(&format!("\n{name}:{value}"));
    }
    // Twelve empty standard headers: encoding, language, length, MD5, type, date, five conditions, range.
    let to_sign = format!("{method}\n\n\n\n\n\n\n\n\n\n\n\n{canonical_headers}{resource}");
    let signature = hmac_sha256(&to_sign, &Secret::from(ACCOUNT_KEY)).context("sign a request")?;
    let authorization = format!("SharedKey {ACCOUNT}:{signature}");
    let query: Vec<String> =
        query.iter().map(|(name, value)| format!("{name}={}", percent_encode(value))).collect();
    let question_mark = if query.is_empty() { "" } else { "?" };
    let target = format!("/{ACCOUNT}/{path}{question_mark}{}", query.join("&"));
    let headers =
        [("x-ms-date", date.as_str()), ("x-ms-version", version), ("Authorization", &authorization)];
    http::request(method, port, &target, &headers)
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
}

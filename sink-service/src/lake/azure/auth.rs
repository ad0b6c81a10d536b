//! How requests are authorised: policies that run once per try, because signatures carry the time.
//!
//! Entra tokens come from `azure_identity` ([`token`]). The official crates know a SAS inside the client's URL only. A SAS in the URL would travel into every
//! error text and clone; added here it exists only between this policy and the wire. Shared key follows
//! <https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key>.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use async_trait::async_trait;
use azure_core::{
    base64,
    credentials::Secret,
    error::ErrorKind,
    hmac::hmac_sha256,
    http::{
        Context, Request, Url,
        headers::HeaderName,
        policies::{Policy, PolicyResult},
    },
    time::{OffsetDateTime, to_rfc7231},
};

use crate::lake::{AzureTarget, LakeAuth, TargetError};

mod token;

use token::TokenPolicy;

/// The policy for a credential, checked as far as that is possible without a request.
pub(super) fn policy(target: &AzureTarget, auth: &LakeAuth) -> Result<Arc<dyn Policy>, TargetError> {
    match auth {
        LakeAuth::Entra(entra) => Ok(Arc::new(TokenPolicy::new(target, entra)?)),
        LakeAuth::Sas(sas) => Ok(Arc::new(SasPolicy { query: Secret::new(sas_query(sas.expose())?) })),
        LakeAuth::SharedKey(key) => {
            let key = key.expose().trim();
            if key.is_empty() || base64::decode(key).is_err() {
                return Err(TargetError::SharedKey);
            }
            Ok(Arc::new(SharedKeyPolicy {
                account: target.account.clone(),
                key: Secret::new(key.to_owned()),
            }))
        }
    }
}

/// The bare query of a SAS. Accepted are the four spellings that the portal and tools hand out: the query itself, with
/// `?` or `&` before it, or at the end of a whole SAS URL, of which only the query counts.
fn sas_query(text: &str) -> Result<String, TargetError> {
    let text = text.trim();
    let query = match text.split_once('?') {
        Some((_, query)) => query,
        None if text.contains("://") => {
            return Err(TargetError::Sas { problem: "it is a URL without a query" });
        }
        None => text,
    };
    let query = query.trim_start_matches('&').trim_end_matches('&');
    let has = |key: &str| {
        query.split('&').any(|pair| {
            pair.split_once('=')
                .is_some_and(|(name, value)| name.eq_ignore_ascii_case(key) && !value.is_empty())
        })
    };
    if !has("sig") {
        return Err(TargetError::Sas { problem: "it has no sig" });
    }
    if !has("sv") {
        return Err(TargetError::Sas { problem: "it has no sv" });
    }
    // What the server would see after decoding must be what was signed: no blanks, no second fragment.
    if query.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'#') {
        return Err(TargetError::Sas { problem: "it has characters that no query may have" });
    }
    Ok(query.to_owned())
}

/// Appends a shared access signature to each request's query.
#[derive(Debug)]
struct SasPolicy {
    query: Secret,
}

#[async_trait]
impl Policy for SasPolicy {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let unsigned = request.url().clone();
        let query = match unsigned.query().filter(|query| !query.is_empty()) {
            Some(own) => format!("{own}&{}", self.query.secret()),
            None => self.query.secret().to_owned(),
        };
        request.url_mut().set_query(Some(&query));
        let (following, rest) = next.split_first().expect("a transport always follows");
        let result = following.send(ctx, request, rest).await;
        *request.url_mut() = unsigned;
        result
    }
}

/// Signs each try with the account's key.
#[derive(Debug)]
struct SharedKeyPolicy {
    account: String,
    key: Secret,
}

#[async_trait]
impl Policy for SharedKeyPolicy {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        request.insert_header("x-ms-date", to_rfc7231(&OffsetDateTime::now_utc()));
        let text = string_to_sign(&self.account, request);
        let signature = hmac_sha256(&text, &self.key).map_err(|_| {
            azure_core::Error::with_message(ErrorKind::Credential, "the shared key cannot sign")
        })?;
        request.insert_header("authorization", format!("SharedKey {}:{signature}", self.account));
        let (following, rest) = next.split_first().expect("a transport always follows");
        following.send(ctx, request, rest).await
    }
}

/// The text that a shared key signs, in the form of service versions since 2015-02-21 (no body: empty length).
fn string_to_sign(account: &str, request: &Request) -> String {
    let header = |name: &'static str| {
        request.headers().get_optional_str(&HeaderName::from_static(name)).unwrap_or_default().trim()
    };
    let length = match request.body().len() {
        None | Some(0) => String::new(),
        Some(length) => length.to_string(),
    };
    let mut text = format!(
        "{method}\n{encoding}\n{language}\n{length}\n{md5}\n{content_type}\n{date}\n{modified}\n{matches}\n{none}\n{unmodified}\n{range}\n",
        method = request.method(),
        encoding = header("content-encoding"),
        language = header("content-language"),
        md5 = header("content-md5"),
        content_type = header("content-type"),
        // Empty, since `x-ms-date` is always there and takes its place.
        date = "",
        modified = header("if-modified-since"),
        matches = header("if-match"),
        none = header("if-none-match"),
        unmodified = header("if-unmodified-since"),
        range = header("range"),
    );
    let ms_headers: BTreeMap<String, &str> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str().to_ascii_lowercase(), value.as_str().trim()))
        .filter(|(name, _)| name.starts_with("x-ms-"))
        .collect();
    for (name, value) in ms_headers {
        writeln!(text, "{name}:{value}").expect("writing to a String cannot fail");
    }
    text.push_str(&canonical_resource(account, request.url()));
    text
}

/// `/account` and the path exactly as it is sent, so a path-style endpoint names the account twice; then the query,
/// decoded, names in lower case and in order.
fn canonical_resource(account: &str, url: &Url) -> String {
    let mut query: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in url.query_pairs() {
        query.entry(name.to_ascii_lowercase()).or_default().push(value.into_owned());
    }
    let mut text = format!("/{account}{}", url.path());
    for (name, mut values) in query {
        values.sort();
        write!(text, "\n{name}:{}", values.join(",")).expect("writing to a String cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use azure_core::http::Method;

    use super::*;

    #[test]
    fn four_spellings_are_one_signature() {
        let query = "sv=2024-11-04&sr=c&sp=rcwl&sig=a%2Bb%3D";
        for text in [
            query.to_owned(),
            format!("?{query}"),
            format!("&{query}"),
            format!(" https://acme.blob.core.windows.net/raw?{query}\n"),
        ] {
            assert_eq!(sas_query(&text).unwrap(), query, "{text}");
        }
    }

    #[test]
    fn what_is_no_signature_is_refused_and_not_shown() {
        for text in
            ["", "?", "sv=1", "sig=topsecret", "https://topsecret", "sv=1&sig=", "sv=1&sig=top secret"]
        {
            let error = sas_query(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("top"), "{error}");
        }
    }

    #[test]
    fn the_signed_text_is_canonical() {
        // Goal: each rule of the documented form once, on a path-style endpoint, which names the account twice.
        let url =
            "http://127.0.0.1:10000/acme/raw/a%20b%2Fc.jsonl?timeout=30&comp=blocklist&Prefix=x%2By&prefix=a";
        let mut request = Request::new(Url::parse(url).unwrap(), Method::Put);
        request.insert_header("content-type", "application/xml");
        request.insert_header("if-match", "\"0x8D\"");
        request.insert_header("x-ms-version", "2025-01-05");
        request.insert_header("x-ms-meta-next", " 12 ");
        request.insert_header("x-ms-date", "Fri, 21 Nov 2026 12:00:00 GMT");
        request.insert_header("accept", "application/xml");
        request.set_body("12345");
        assert_eq!(
            string_to_sign("acme", &request),
            "PUT\n\n\n5\n\napplication/xml\n\n\n\"0x8D\"\n\n\n\n\
             x-ms-date:Fri, 21 Nov 2026 12:00:00 GMT\nx-ms-meta-next:12\nx-ms-version:2025-01-05\n\
             /acme/acme/raw/a%20b%2Fc.jsonl\ncomp:blocklist\nprefix:a,x+y\ntimeout:30"
        );
        request.set_body("");
        assert!(string_to_sign("acme", &request).starts_with("PUT\n\n\n\n"));
    }

    #[test]
    fn debug_shows_no_secret() {
        let policies = [
            format!("{:?}", SasPolicy { query: Secret::new("sig=topsecret") }),
            format!("{:?}", SharedKeyPolicy { account: "acme".into(), key: Secret::new("topsecret") }),
        ];
        assert!(policies.iter().all(|text| !text.contains("topsecret")), "{policies:?}");
    }
}

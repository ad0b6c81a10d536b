//! Events that are too large for MongoDB to send, or for their topic: they are published without their documents, and say so.
//!
//! | too large for | what is left out | where the rest is |
//! |---|---|---|
//! | a reply of MongoDB (16 MB, with look-up and pre-image) | both documents | in MongoDB only |
//! | a record of its topic, after compression | documents and update description | the whole value is in the dead-letter topic, in parts |

use bson::{RawArrayBuf, RawDocument, RawDocumentBuf, cstr, raw::CStr, rawdoc};
use sha2::{Digest as _, Sha256};
use shared::{exit::Stop, wire::member};

use crate::change_stream::unreadable;

/// A part of a value in the dead-letter topic, whose limit is above that of every data topic's smallest.
pub const PART_BYTES: usize = 512 * 1024;

const OVERSIZE: &CStr = cstr!("oversize");

/// Members that can be large.
const LARGE: [&str; 3] =
    [member::FULL_DOCUMENT, member::FULL_DOCUMENT_BEFORE_CHANGE, member::UPDATE_DESCRIPTION];

/// An event that MongoDB sent without documents says so.
///
/// # Errors
/// If it is no event.
pub fn without_images(event: &RawDocument) -> Result<RawDocumentBuf, Stop> {
    let mut event = event.to_owned();
    let left_out = [member::FULL_DOCUMENT, member::FULL_DOCUMENT_BEFORE_CHANGE].into_iter();
    let left_out: RawArrayBuf = left_out.filter(|name| !matches!(event.get(name), Ok(Some(_)))).collect();
    event.append(OVERSIZE, rawdoc! { "reason": "event", "leftOut": left_out });
    Ok(event)
}

/// An event whose value is `value`, without what makes it large.
///
/// # Errors
/// If it is no event.
pub fn stub(event: &[u8], value: &[u8], dead_letters: &str) -> Result<RawDocumentBuf, Stop> {
    let event = RawDocument::from_bytes(event).map_err(|error| unreadable(&error))?;
    let mut stub = RawDocumentBuf::new();
    let mut left_out = RawArrayBuf::new();
    for member in event {
        let (name, value) = member.map_err(|error| unreadable(&error))?;
        if LARGE.contains(&name.as_str()) {
            left_out.push(name.as_str());
        } else {
            stub.append(name, value);
        }
    }
    let length = i64::try_from(value.len()).unwrap_or(i64::MAX);
    let parts = i64::try_from(value.len().div_ceil(PART_BYTES)).unwrap_or(i64::MAX);
    stub.append(
        OVERSIZE,
        rawdoc! {
            "reason": "record",
            "leftOut": left_out,
            "bytes": length,
            "sha256": sha256(value),
            "topic": dead_letters,
            "parts": parts,
        },
    );
    Ok(stub)
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use bson::{Document, doc};

    use super::*;

    #[test]
    fn a_stub_has_everything_but_the_documents() {
        let event = rawdoc! {
            "_id": { "_data": "82" },
            "operationType": "update",
            "fullDocument": { "a": "x".repeat(1000) },
            "ns": { "db": "shop", "coll": "orders" },
            "updateDescription": { "updatedFields": {} },
            "lsid": { "id": 1 },
        };
        let value = vec![b'a'; PART_BYTES + 1];
        let stub = stub(event.as_bytes(), &value, "atlas.dlq").unwrap();
        let mut stub = Document::try_from(&stub).unwrap();
        let oversize = stub.remove("oversize").unwrap();
        assert_eq!(
            stub,
            doc! { "_id": { "_data": "82" }, "operationType": "update", "ns": { "db": "shop", "coll": "orders" }, "lsid": { "id": 1 } }
        );
        let oversize = oversize.as_document().unwrap();
        assert_eq!(
            oversize.get_array("leftOut").unwrap(),
            &["fullDocument".into(), "updateDescription".into()]
        );
        assert_eq!((oversize.get_i64("bytes").unwrap(), oversize.get_i64("parts").unwrap()), (524_289, 2));
        assert_eq!(oversize.get_str("sha256").unwrap().len(), 64);
    }
}

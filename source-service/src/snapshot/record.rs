//! How far a collection's copy is, as a record of the token topic: key `snapshot/<db>.<coll>`, written in the transaction of each
//! chunk's rows.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bson::{RawDocumentBuf, cstr, raw::RawBson};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared::namespace::Namespace;

use super::{
    ahead::RowsAhead,
    plan::{CollectionCopy, Ended, RangeCopy},
    request::{filter_from_text, filter_to_text},
};
use crate::token_record::UnusableRecord;

/// Before a collection's name, in the key of its copy.
pub const COPY_KEY_PREFIX: &str = "snapshot/";

/// The key of a collection's copy.
pub fn copy_key(namespace: &Namespace) -> String {
    format!("{COPY_KEY_PREFIX}{namespace}")
}

/// The wire form of [`CollectionCopy`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CopyJson {
    db: String,
    coll: String,
    requested_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    estimate: u64,
    rows: u64,
    next_chunk: u32,
    ranges: Option<Vec<RangeJson>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended: Option<Ended>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    filter: Option<String>,
    /// [`RowsAhead`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ahead: Option<String>,
}

/// Bounds are BSON, `{"_id": …}` in base64: exact in type, and in the order of members, which JSON objects do not keep for everybody.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RangeJson {
    from: Option<String>,
    to: Option<String>,
    copied_to: Option<String>,
    done: bool,
}

impl CollectionCopy {
    pub fn to_json(&self) -> Vec<u8> {
        let range = |range: &RangeCopy| RangeJson {
            from: range.from.as_ref().map(to_text),
            to: range.to.as_ref().map(to_text),
            copied_to: range.copied_to.as_ref().map(to_text),
            done: range.done,
        };
        let json = CopyJson {
            db: self.namespace.db.clone(),
            coll: self.namespace.coll.clone(),
            requested_at: self.requested_at,
            finished_at: self.finished_at,
            estimate: self.estimate,
            rows: self.rows,
            next_chunk: self.next_chunk,
            ranges: self.ranges.as_ref().map(|ranges| ranges.iter().map(range).collect()),
            ended: self.ended,
            request: self.request.clone(),
            filter: self.filter.as_ref().map(filter_to_text),
            ahead: (!self.ahead.is_empty()).then(|| self.ahead.to_text()),
        };
        serde_json::to_vec(&json).expect("the record has only strings as keys")
    }

    /// # Errors
    /// [`UnusableRecord::Unreadable`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, UnusableRecord> {
        let json: CopyJson =
            serde_json::from_slice(bytes).map_err(|error| UnusableRecord::Unreadable(error.to_string()))?;
        let ranges =
            json.ranges.map(|ranges| ranges.into_iter().map(range_of).collect::<Result<Vec<_>, _>>());
        Ok(Self {
            namespace: Namespace::new(json.db, json.coll),
            requested_at: json.requested_at,
            finished_at: json.finished_at,
            estimate: json.estimate,
            rows: json.rows,
            next_chunk: json.next_chunk,
            ranges: ranges.transpose()?,
            ended: json.ended,
            request: json.request,
            filter: json.filter.as_deref().map(filter_from_text).transpose()?,
            ahead: json
                .ahead
                .as_deref()
                .map_or(Some(RowsAhead::default()), RowsAhead::from_text)
                .ok_or_else(|| {
                    UnusableRecord::Unreadable("its rows that are ahead are no hashes".to_owned())
                })?,
        })
    }
}

fn range_of(json: RangeJson) -> Result<RangeCopy, UnusableRecord> {
    let bound = |text: Option<String>| text.map(|text| from_text(&text)).transpose();
    Ok(RangeCopy {
        from: bound(json.from)?,
        to: bound(json.to)?,
        copied_to: bound(json.copied_to)?,
        done: json.done,
    })
}

fn to_text(id: &RawBson) -> String {
    let mut document = RawDocumentBuf::new();
    document.append(cstr!("_id"), id.clone());
    STANDARD.encode(document.as_bytes())
}

fn from_text(text: &str) -> Result<RawBson, UnusableRecord> {
    let unreadable = || UnusableRecord::Unreadable("a bound is no _id".to_owned());
    let bytes = STANDARD.decode(text).map_err(|_| unreadable())?;
    let document = RawDocumentBuf::from_bytes(bytes).map_err(|_| unreadable())?;
    let id = document.get("_id").ok().flatten().ok_or_else(unreadable)?;
    Ok(id.into())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use bson::{Binary, Decimal128, oid::ObjectId, rawdoc, spec::BinarySubtype};

    use super::*;

    #[test]
    fn bounds_of_every_type_come_back_as_they_were() {
        let ids = vec![
            RawBson::Int32(42),
            RawBson::Int64(42),
            RawBson::Double(42.0),
            RawBson::Decimal128(Decimal128::from_bytes([7; 16])),
            RawBson::String("sku-9".to_owned()),
            RawBson::Document(rawdoc! { "region": "eu", "n": 7_i64 }),
            RawBson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: vec![1; 16] }),
            RawBson::ObjectId(ObjectId::from_bytes([3; 12])),
            RawBson::Boolean(true),
            RawBson::DateTime(bson::DateTime::from_millis(-5)),
            RawBson::Timestamp(bson::Timestamp { time: 7, increment: 1 }),
        ];
        let mut copy = CollectionCopy::new(Namespace::new("shop", "a.b"), Utc::now());
        copy.cut(11, ids);
        copy.next_chunk = 3;
        copy.filter = Some(bson::doc! { "z": 1, "a": 2_i64 });
        copy.request = Some("r1".to_owned());
        copy.ahead.insert(b"42");
        copy.ended = Some(Ended::Gone);
        assert_eq!(CollectionCopy::from_json(&copy.to_json()).unwrap(), copy);
    }
}

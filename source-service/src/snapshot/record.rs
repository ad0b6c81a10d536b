//! How far a collection's copy is, as a record of the token topic: key `snapshot/<db>.<coll>`, written in the transaction of each
//! chunk's rows.

use bson::{Bson, raw::RawBson};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared::namespace::Namespace;

use super::plan::{CollectionCopy, RangeCopy};
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
}

/// Bounds are canonical Extended JSON: `42` of four types are four bounds.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RangeJson {
    from: Option<serde_json::Value>,
    to: Option<serde_json::Value>,
    copied_to: Option<serde_json::Value>,
    done: bool,
}

impl CollectionCopy {
    pub fn to_json(&self) -> Vec<u8> {
        let range = |range: &RangeCopy| RangeJson {
            from: range.from.as_ref().map(to_json),
            to: range.to.as_ref().map(to_json),
            copied_to: range.copied_to.as_ref().map(to_json),
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
        })
    }
}

fn range_of(json: RangeJson) -> Result<RangeCopy, UnusableRecord> {
    let bound = |json: Option<serde_json::Value>| json.map(from_json).transpose();
    Ok(RangeCopy {
        from: bound(json.from)?,
        to: bound(json.to)?,
        copied_to: bound(json.copied_to)?,
        done: json.done,
    })
}

/// Wrapped, because Extended JSON of a whole value is a document's.
fn to_json(id: &RawBson) -> serde_json::Value {
    let id = Bson::try_from(id.clone()).expect("an _id that was read from a reply is valid BSON");
    id.into_canonical_extjson()
}

fn from_json(json: serde_json::Value) -> Result<RawBson, UnusableRecord> {
    let unreadable = |error: &dyn std::fmt::Display| UnusableRecord::Unreadable(format!("a bound: {error}"));
    let id = Bson::try_from(json).map_err(|error| unreadable(&error))?;
    RawBson::try_from(id).map_err(|error| unreadable(&error))
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
        assert_eq!(CollectionCopy::from_json(&copy.to_json()).unwrap(), copy);
    }
}

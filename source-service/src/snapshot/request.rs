//! What an operator asks to be copied: a record of the token topic, key `snapshot-request/<db>.<coll>`.
//!
//! It is the one kind of record there that not the source writes, but `source-service snapshot`: plainly, outside of any transaction, and so
//! without fencing a source that runs. The source takes it up in a transaction of its own, by writing the collection's copy with
//! the request's id: a request is open as long as the copy has another one. So it is neither lost nor done twice, whoever dies when.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bson::Document;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared::namespace::Namespace;

use super::plan::SnapshotPlan;
use crate::token_record::UnusableRecord;

/// Before a collection's name, in the key of a request.
pub const REQUEST_KEY_PREFIX: &str = "snapshot-request/";

/// One collection's request. A later one of the same collection takes its place.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotRequest {
    /// Random.
    pub id: String,
    pub namespace: Namespace,
    pub requested_at: DateTime<Utc>,
    /// Which documents; `None` leaves it to the source's SNAPSHOT_FILTER_FILE.
    pub filter: Option<Document>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestJson {
    id: String,
    db: String,
    coll: String,
    requested_at: DateTime<Utc>,
    /// BSON in base64: the order of members counts in a query.
    #[serde(default)]
    filter: Option<String>,
}

impl SnapshotRequest {
    pub fn new(namespace: Namespace, filter: Option<Document>) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        Self { id, namespace, requested_at: Utc::now(), filter }
    }

    pub fn key(&self) -> String {
        format!("{REQUEST_KEY_PREFIX}{}", self.namespace)
    }

    /// Whether no copy was begun for it.
    pub fn is_open(&self, plan: &SnapshotPlan) -> bool {
        plan.find(&self.namespace).and_then(|copy| copy.request.as_ref()) != Some(&self.id)
    }

    pub fn to_json(&self) -> Vec<u8> {
        let json = RequestJson {
            id: self.id.clone(),
            db: self.namespace.db.clone(),
            coll: self.namespace.coll.clone(),
            requested_at: self.requested_at,
            filter: self.filter.as_ref().map(filter_to_text),
        };
        serde_json::to_vec(&json).expect("the record has only strings as keys")
    }

    /// # Errors
    /// [`UnusableRecord::Unreadable`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, UnusableRecord> {
        let json: RequestJson =
            serde_json::from_slice(bytes).map_err(|error| UnusableRecord::Unreadable(error.to_string()))?;
        Ok(Self {
            id: json.id,
            namespace: Namespace::new(json.db, json.coll),
            requested_at: json.requested_at,
            filter: json.filter.as_deref().map(filter_from_text).transpose()?,
        })
    }
}

/// A query, in a record.
pub(super) fn filter_to_text(filter: &Document) -> String {
    STANDARD.encode(filter.to_vec().expect("what was read from JSON can be written"))
}

/// # Errors
/// [`UnusableRecord::Unreadable`].
pub(super) fn filter_from_text(text: &str) -> Result<Document, UnusableRecord> {
    let unreadable = || UnusableRecord::Unreadable("a filter is no query".to_owned());
    let bytes = STANDARD.decode(text).map_err(|_| unreadable())?;
    Document::from_reader(bytes.as_slice()).map_err(|_| unreadable())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use bson::doc;

    use super::*;
    use crate::snapshot::plan::CollectionCopy;

    #[test]
    fn a_request_comes_back_and_is_open_until_a_copy_bears_its_id() {
        let request = SnapshotRequest::new(
            Namespace::new("shop", "a.b"),
            Some(doc! { "at": { "z": 1_i64, "a": bson::DateTime::from_millis(7) } }),
        );
        let again = SnapshotRequest::from_json(&request.to_json()).unwrap();
        // Times lose what is below their text.
        assert_eq!((again.id.as_str(), &again.filter), (request.id.as_str(), &request.filter));
        assert_eq!(again.key(), "snapshot-request/shop.a.b");

        let mut plan = SnapshotPlan::default();
        assert!(request.is_open(&plan));
        plan.put(CollectionCopy::new(request.namespace.clone(), Utc::now()));
        assert!(request.is_open(&plan));
        plan.put(plan.collections[0].again(Utc::now()).asked(&request));
        assert!(!request.is_open(&plan));
    }
}

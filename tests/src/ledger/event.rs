//! One change as MongoDB's driver delivered it.

use anyhow::{Context, Result};
use bson::{Bson, Document, RawDocumentBuf, Timestamp};

/// What a change is about, which decides where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// insert, update, replace, delete: one document, a data topic.
    Document,
    /// drop, rename, dropDatabase, invalidate …: the control topic.
    Definition,
}

/// A change event, decoded by the `bson` crate.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpectedEvent {
    /// The resume token's `_data`.
    pub id: String,
    pub operation: String,
    /// Empty for `invalidate`.
    pub db: String,
    pub coll: Option<String>,
    pub cluster_time: Timestamp,
    /// The whole event, resume token included.
    pub event: Document,
}

impl ExpectedEvent {
    /// Decodes without serde: it would take a user's own `{"$oid": …}` for an ObjectId.
    ///
    /// # Errors
    /// If a member that every event has is missing.
    pub fn decode(raw: &RawDocumentBuf) -> Result<Self> {
        let event = Document::try_from(raw.as_ref()).context("decode a change event")?;
        Self::new(event)
    }

    /// # Errors
    /// If a member that every event has is missing.
    pub fn new(event: Document) -> Result<Self> {
        let namespace = event.get_document("ns").ok();
        let name = |part: &str| namespace.and_then(|ns| ns.get_str(part).ok()).map(str::to_owned);
        Ok(Self {
            id: event.get_document("_id")?.get_str("_data")?.to_owned(),
            operation: event.get_str("operationType")?.to_owned(),
            db: name("db").unwrap_or_default(),
            coll: name("coll"),
            cluster_time: event.get_timestamp("clusterTime")?,
            event,
        })
    }

    pub fn kind(&self) -> EventKind {
        match self.operation.as_str() {
            "insert" | "update" | "replace" | "delete" => EventKind::Document,
            _ => EventKind::Definition,
        }
    }

    /// The `_id` of the document; `Null` where there is none.
    pub fn document_id(&self) -> &Bson {
        let key = self.event.get_document("documentKey").ok();
        key.and_then(|key| key.get("_id")).unwrap_or(&Bson::Null)
    }

    /// `db.coll`, as the control topic's key has it.
    pub fn namespace(&self) -> String {
        match &self.coll {
            Some(coll) => format!("{}.{coll}", self.db),
            None => self.db.clone(),
        }
    }
}

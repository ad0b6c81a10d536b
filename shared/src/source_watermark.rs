//! How far a source is, and which collections that speaks for: what the sink reads of a source's position record.
//!
//! A source commits its position as the record with its id as key in `<prefix>.resume-tokens-<source id>`, in the
//! transaction of the events before it. So a reader of committed records that sees a position knows that every event
//! before its cluster time is in Kafka: that is when an hour of the lake may end.

use serde::{Deserialize, Serialize};

use crate::{
    cluster_time::{ClusterTime, TimestampJson},
    name_pattern::NamePattern,
    namespace::Namespace,
};

/// Of the position record; a reader refuses what it does not know.
pub const VERSION: u32 = 1;

/// What a stream covers, in clear. Nothing in `databases` and `collections` means the whole deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScopeRecord {
    /// Whole databases, by name or pattern.
    pub databases: Vec<String>,
    /// `db.coll`, each part a name or a pattern.
    pub collections: Vec<String>,
    /// `db.*` or `db.coll`.
    pub excludes: Vec<String>,
}

impl ScopeRecord {
    /// Whether changes of this collection are read.
    pub fn covers(&self, namespace: &Namespace) -> bool {
        let of = |item: &String| match item.split_once('.') {
            Some((db, coll)) => {
                NamePattern::new(db).matches(&namespace.db) && NamePattern::new(coll).matches(&namespace.coll)
            }
            None => NamePattern::new(item).matches(&namespace.db),
        };
        let everything = self.databases.is_empty() && self.collections.is_empty();
        let included = everything || self.databases.iter().any(of) || self.collections.iter().any(of);
        included && !self.excludes.iter().any(of)
    }
}

/// One source's committed position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceWatermark {
    /// Every event before it is committed.
    pub cluster_time: ClusterTime,
    pub scope: ScopeRecord,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    version: u32,
    cluster_time: TimestampJson,
    #[serde(default)]
    scope: ScopeRecord,
}

impl SourceWatermark {
    /// Reads the value of a position record.
    ///
    /// # Errors
    /// What is wrong with it, without its content.
    pub fn parse(value: &[u8]) -> Result<Self, String> {
        let json: Json =
            serde_json::from_slice(value).map_err(|error| format!("no position record: {error}"))?;
        if json.version != VERSION {
            return Err(format!("it has version {}, and this program knows version {VERSION}", json.version));
        }
        Ok(Self { cluster_time: json.cluster_time.into(), scope: json.scope })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_scope_says_which_collections_a_position_speaks_for() {
        let scope = |databases: &[&str], collections: &[&str], excludes: &[&str]| {
            let owned = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
            ScopeRecord {
                databases: owned(databases),
                collections: owned(collections),
                excludes: owned(excludes),
            }
        };
        let orders = Namespace::new("shop", "orders.eu");
        for (scope, covered) in [
            (scope(&[], &[], &[]), true),
            (scope(&["shop"], &[], &[]), true),
            (scope(&["sh*"], &[], &[]), true),
            (scope(&["crm"], &[], &[]), false),
            (scope(&[], &["shop.orders.eu"], &[]), true),
            (scope(&[], &["shop.orders"], &[]), false),
            (scope(&["crm"], &["*.orders*"], &[]), true),
            (scope(&[], &[], &["shop.*"]), false),
            (scope(&["shop"], &[], &["shop.orders.*"]), false),
            (scope(&["shop"], &[], &["shop.orders"]), true),
        ] {
            assert_eq!(scope.covers(&orders), covered, "{scope:?}");
        }
    }

    #[test]
    fn a_position_is_read_whatever_else_the_record_holds() {
        let value = br#"{"version":1,"instance":"5a","run":2,"token":{"_data":"82"},"fingerprint":"f",
            "clusterTime":{"$timestamp":{"t":1755900000,"i":3}},"scope":{"databases":["shop"]},"keyFormat":"json"}"#;
        let watermark = SourceWatermark::parse(value).unwrap();
        assert_eq!(watermark.cluster_time, ClusterTime::new(1_755_900_000, 3));
        assert_eq!(watermark.scope.databases, ["shop"]);
        assert!(SourceWatermark::parse(br#"{"version":2}"#).is_err());
        assert!(SourceWatermark::parse(b"{}").is_err());
    }
}

//! What a change happened to: a database and, for most events, a collection.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A collection, by database and name. The two are kept apart because a collection's name may contain dots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Namespace {
    pub db: String,
    pub coll: String,
}

impl Namespace {
    pub fn new(db: impl Into<String>, coll: impl Into<String>) -> Self {
        Self { db: db.into(), coll: coll.into() }
    }
}

/// MongoDB's own form, `db.coll`. For people and keys of control records; it is never parsed back without the rule
/// that a database name has no dot.
impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.db, self.coll)
    }
}

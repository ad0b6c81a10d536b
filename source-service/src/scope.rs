//! What of MongoDB is read: the deployment, databases, or collections; and the stream that covers just that.
//!
//! One stream serves any scope, because every cursor walks the whole oplog on the server. The narrowest stream that holds the scope is
//! opened; if it holds more, a `$match` on `ns.db` and `ns.coll` cuts it down on the server, in the shape that the server can push
//! down to the oplog scan. Events that end a stream or a database have no `ns.coll`; they are let through.

use bson::{Document, doc};
use shared::{namespace::Namespace, settings::Expected};

use crate::token_record::ScopeRecord;

/// Their changes are the server's own business; `$changeStream` refuses or leaves them out too.
const INTERNAL_DATABASES: [&str; 3] = ["admin", "local", "config"];

/// The databases and collections that are read. Both empty means the whole deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    databases: Vec<String>,
    collections: Vec<Namespace>,
}

/// What the stream is opened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Deployment,
    Database(String),
    Collection(Namespace),
}

impl Scope {
    /// Names in any order, also twice. A collection of a database that is named as a whole adds nothing.
    pub fn new(mut databases: Vec<String>, mut collections: Vec<Namespace>) -> Self {
        databases.sort();
        databases.dedup();
        collections.retain(|collection| !databases.contains(&collection.db));
        collections.sort();
        collections.dedup();
        Self { databases, collections }
    }

    pub fn target(&self) -> Target {
        match (self.databases.as_slice(), self.collections.as_slice()) {
            ([database], []) => Target::Database(database.clone()),
            ([], [collection]) => Target::Collection(collection.clone()),
            ([], [first, others @ ..]) if others.iter().all(|other| other.db == first.db) => {
                Target::Database(first.db.clone())
            }
            _ => Target::Deployment,
        }
    }

    /// The stage behind `$changeStream`; `None` if the stream holds nothing else.
    pub fn filter(&self) -> Option<Document> {
        if self.collections.len() + self.databases.len() < 2 {
            return None;
        }
        let mut branches = Vec::new();
        if !self.databases.is_empty() {
            branches.push(doc! { "ns.db": { "$in": &self.databases } });
        }
        for (database, collections) in self.by_database() {
            branches.push(doc! { "ns.db": database, "ns.coll": { "$in": collections } });
            branches.push(doc! { "ns.db": database, "operationType": "dropDatabase" });
        }
        branches.push(doc! { "operationType": "invalidate" });
        Some(doc! { "$match": { "$or": branches } })
    }

    /// Whether events of this collection are in scope.
    pub fn contains(&self, db: &str, coll: &str) -> bool {
        let whole = self.databases.is_empty() && self.collections.is_empty();
        !INTERNAL_DATABASES.contains(&db)
            && (whole
                || self.databases.iter().any(|database| database == db)
                || self.collections.iter().any(|collection| collection.db == db && collection.coll == coll))
    }

    /// Whether anything of this database is in scope.
    pub fn touches(&self, db: &str) -> bool {
        let whole = self.databases.is_empty() && self.collections.is_empty();
        !INTERNAL_DATABASES.contains(&db)
            && (whole
                || self.databases.iter().any(|database| database == db)
                || self.collections.iter().any(|collection| collection.db == db))
    }

    /// In clear, for the token record.
    pub fn record(&self) -> ScopeRecord {
        ScopeRecord {
            databases: self.databases.clone(),
            collections: self.collections.iter().map(ToString::to_string).collect(),
            excludes: Vec::new(),
        }
    }

    fn by_database(&self) -> Vec<(&str, Vec<&str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for collection in &self.collections {
            match groups.last_mut() {
                Some((database, names)) if *database == collection.db => names.push(&collection.coll),
                _ => groups.push((&collection.db, vec![&collection.coll])),
            }
        }
        groups
    }
}

/// For people: `deployment`, or the names.
impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.databases.is_empty() && self.collections.is_empty() {
            return f.write_str("deployment");
        }
        let databases = self.databases.iter().map(|database| format!("{database}.*"));
        let names: Vec<String> = databases.chain(self.collections.iter().map(ToString::to_string)).collect();
        f.write_str(&names.join(","))
    }
}

/// An item of `MONGO_DATABASES`.
///
/// # Errors
/// What was expected instead.
pub fn parse_database(text: &str) -> Result<String, Expected> {
    if INTERNAL_DATABASES.contains(&text) {
        return Err(Expected::exactly("no internal database (admin, local, config)"));
    }
    // MongoDB's own rule for database names, plus the characters that patterns are made of.
    let refused =
        |c: char| matches!(c, '/' | '\\' | '.' | ' ' | '"' | '$' | '*' | '<' | '>' | ':' | '|' | '?' | '\0');
    if text.is_empty() || text.len() > 63 || text.contains(refused) {
        return Err(Expected::exactly("exact database names, separated by commas"));
    }
    Ok(text.to_owned())
}

/// An item of `MONGO_COLLECTIONS`.
///
/// # Errors
/// What was expected instead.
pub fn parse_collection(text: &str) -> Result<Namespace, Expected> {
    let expected = || Expected::exactly("exact names as database.collection, separated by commas");
    let (database, collection) = text.split_once('.').ok_or_else(expected)?;
    let database = parse_database(database)?;
    let refused = |c: char| matches!(c, '$' | '*' | '?' | '\0');
    if collection.is_empty() || collection.starts_with("system.") || collection.contains(refused) {
        return Err(expected());
    }
    Ok(Namespace::new(database, collection))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn scope(databases: &[&str], collections: &[&str]) -> Scope {
        Scope::new(
            databases.iter().map(|name| parse_database(name).unwrap()).collect(),
            collections.iter().map(|name| parse_collection(name).unwrap()).collect(),
        )
    }

    #[test]
    fn the_narrowest_stream_is_opened() {
        assert_eq!(scope(&[], &[]).target(), Target::Deployment);
        assert_eq!(scope(&["shop"], &[]).target(), Target::Database("shop".to_owned()));
        assert_eq!(scope(&[], &["shop.a.b"]).target(), Target::Collection(Namespace::new("shop", "a.b")));
        assert_eq!(scope(&[], &["shop.a", "shop.b"]).target(), Target::Database("shop".to_owned()));
        assert_eq!(scope(&["shop"], &["shop.a"]).target(), Target::Database("shop".to_owned()));
        assert_eq!(scope(&["shop", "crm"], &[]).target(), Target::Deployment);
        assert_eq!(scope(&[], &["shop.a", "crm.b"]).target(), Target::Deployment);
    }

    #[test]
    fn the_filter_lets_ends_through() {
        assert_eq!(scope(&["shop"], &[]).filter(), None);
        assert_eq!(scope(&[], &["shop.a"]).filter(), None);
        let filter = scope(&["crm"], &["shop.a", "shop.b"]).filter().unwrap();
        let expected = doc! { "$match": { "$or": [
            { "ns.db": { "$in": ["crm"] } },
            { "ns.db": "shop", "ns.coll": { "$in": ["a", "b"] } },
            { "ns.db": "shop", "operationType": "dropDatabase" },
            { "operationType": "invalidate" },
        ] } };
        assert_eq!(filter, expected);
    }

    #[test]
    fn names_are_exact_and_not_internal() {
        for name in ["admin", "a.b", "shop*", "", "a b"] {
            assert!(parse_database(name).is_err(), "{name}");
        }
        for name in ["shop", "shop.", ".a", "local.a", "shop.or*", "shop.system.views"] {
            assert!(parse_collection(name).is_err(), "{name}");
        }
    }
}

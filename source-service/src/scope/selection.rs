//! A set of databases and collections, as one list of settings names it.

use std::fmt;

use shared::name_pattern::NamePattern;

/// Collections by the pattern of their database and the pattern of their own name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CollectionPattern {
    pub db: NamePattern,
    pub coll: NamePattern,
}

impl CollectionPattern {
    /// Whether this collection is one of them.
    pub fn matches(&self, db: &str, coll: &str) -> bool {
        self.db.matches(db) && self.coll.matches(coll)
    }

    fn covers(&self, other: &Self) -> bool {
        self.db.covers(&other.db) && self.coll.covers(&other.coll)
    }
}

impl fmt::Display for CollectionPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.db.text(), self.coll.text())
    }
}

/// One item of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Databases as a whole.
    Databases(NamePattern),
    Collections(CollectionPattern),
}

/// Databases as a whole, and collections beside them. Sorted, and without items that others cover.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) databases: Vec<NamePattern>,
    pub(super) collections: Vec<CollectionPattern>,
}

impl Selection {
    pub(super) fn new(items: impl IntoIterator<Item = Item>) -> Self {
        let mut selection = Self::default();
        for item in items {
            match item {
                Item::Databases(pattern) => selection.databases.push(pattern),
                // All collections of a database are the database.
                Item::Collections(pattern) if pattern.coll.is_everything() => {
                    selection.databases.push(pattern.db)
                }
                Item::Collections(pattern) => selection.collections.push(pattern),
            }
        }
        selection.databases.sort();
        selection.databases.dedup();
        let all = selection.databases.clone();
        selection.databases.retain(|one| !all.iter().any(|other| other != one && other.covers(one)));
        let databases = &selection.databases;
        selection.collections.retain(|one| !databases.iter().any(|database| database.covers(&one.db)));
        selection.collections.sort();
        selection.collections.dedup();
        let all = selection.collections.clone();
        selection.collections.retain(|one| !all.iter().any(|other| other != one && other.covers(one)));
        selection
    }

    pub(super) fn is_empty(&self) -> bool {
        self.databases.is_empty() && self.collections.is_empty()
    }

    /// Whether no name is outside.
    pub(super) fn is_everything(&self) -> bool {
        self.databases.iter().any(NamePattern::is_everything)
    }

    pub(super) fn contains(&self, db: &str, coll: &str) -> bool {
        self.contains_whole(db) || self.collections.iter().any(|pattern| pattern.matches(db, coll))
    }

    /// Whether the database is in it as a whole.
    pub(super) fn contains_whole(&self, db: &str) -> bool {
        self.databases.iter().any(|pattern| pattern.matches(db))
    }

    /// Whether a collection of the database may be in it.
    pub(super) fn touches(&self, db: &str) -> bool {
        self.contains_whole(db) || self.collections.iter().any(|pattern| pattern.db.matches(db))
    }

    /// Takes away what `other` covers; what it covers only in part stays.
    pub(super) fn without(mut self, other: &Self) -> Self {
        let covered = |db: &NamePattern| other.databases.iter().any(|pattern| pattern.covers(db));
        self.databases.retain(|database| !covered(database));
        self.collections
            .retain(|one| !covered(&one.db) && !other.collections.iter().any(|pattern| pattern.covers(one)));
        self
    }

    /// By the pattern of the database.
    pub(super) fn collections_by_database(&self) -> Vec<(&NamePattern, Vec<&NamePattern>)> {
        let mut groups: Vec<(&NamePattern, Vec<&NamePattern>)> = Vec::new();
        for CollectionPattern { db, coll } in &self.collections {
            match groups.last_mut() {
                Some((database, names)) if *database == db => names.push(coll),
                _ => groups.push((db, vec![coll])),
            }
        }
        groups
    }

    /// `db.*` for whole databases, then `db.coll`.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        let databases = self.databases.iter().map(|database| format!("{}.*", database.text()));
        databases.chain(self.collections.iter().map(ToString::to_string))
    }
}

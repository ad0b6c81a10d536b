//! The scope as a `$match` that the server can push down into its scan of the oplog.
//!
//! Every cursor reads the whole oplog, so what decides the cost is whether an entry is thrown away before it is made into an event.
//! The server can do that for predicates on `ns.db`, `ns.coll`, `to.db`, `to.coll` and `operationType`; behind a `$replaceRoot` it
//! cannot. Names are asked for by `$in` and `$nin`, patterns by `$expr` and `$regexMatch`: measured on MongoDB 6.0.5 per oplog entry
//! that is thrown away, names cost 1.6 to 3.5 µs and patterns 3 µs, while the same patterns as predicates (`{"ns.db": /…/}`) cost
//! 12 µs, more than making the event (5 µs). A `$nor` over several predicates with such a pattern even makes that server fail
//! ("must be a nonempty array"): an exclude is an `$or` of what is different.
//!
//! An event passes if its collection is in scope. One about a database (`dropDatabase`, no `ns.coll`) passes if the database may
//! hold such a collection, and `invalidate` (no `ns`) always does. A `rename` passes also by the name that it gives: otherwise a
//! collection in scope could be replaced unseen.

use bson::{Document, doc};

use super::{Scope, Target, operations::Operations, selection::Selection};
use shared::name_pattern::NamePattern;

/// The stage behind `$changeStream`; `None` if the stream holds nothing else than what is wanted.
pub fn stage(scope: &Scope, operations: &Operations) -> Option<Document> {
    let mut conditions: Vec<Document> = of_scope(scope).into_iter().collect();
    if !operations.left_out().is_empty() {
        conditions.push(doc! { "operationType": { "$nin": operations.left_out() } });
    }
    if conditions.is_empty() { None } else { Some(doc! { "$match": all(conditions) }) }
}

fn of_scope(scope: &Scope) -> Option<Document> {
    let target = scope.target();
    if matches!(target, Target::Collection(_)) {
        return None;
    }
    let ns = Side { target: &target, db: "ns.db", coll: "ns.coll" };
    let to = Side { target: &target, db: "to.db", coll: "to.coll" };
    let included = ns.any_of(&scope.included);
    let excluded = ns.none_of(&scope.excluded);
    if included.is_none() && excluded.is_empty() {
        return None;
    }

    let mut branches = Vec::new();
    if let Some(included) = &included {
        branches.push(all([vec![any(included.clone())], excluded].concat()));
        branches.extend(ns.databases_of_collections(scope));
        branches.push(doc! { "operationType": "invalidate" });
    } else {
        // A missing name is in no `$nin`, so these also let through what has none.
        branches.push(all(excluded));
    }
    let mut renamed = vec![doc! { "operationType": "rename" }];
    renamed.extend(to.any_of(&scope.included).map(any));
    renamed.extend(to.none_of(&scope.excluded));
    branches.push(all(renamed));
    Some(any(branches))
}

/// The predicates on one of an event's two namespaces.
struct Side<'a> {
    target: &'a Target,
    db: &'static str,
    coll: &'static str,
}

impl Side<'_> {
    /// `None` if all that the stream holds is in it.
    fn any_of(&self, selection: &Selection) -> Option<Vec<Document>> {
        if selection.is_empty() {
            return None;
        }
        let mut branches = Vec::new();
        match self.databases(&selection.databases) {
            Databases::All => return None,
            Databases::None => {}
            Databases::These(patterns) => branches.push(one_of(self.db, &patterns)),
        }
        for (database, collections) in selection.collections_by_database() {
            let collections = one_of(self.coll, &collections);
            match self.databases([database]) {
                Databases::All => branches.push(collections),
                Databases::None => {}
                Databases::These(patterns) => {
                    branches.push(all(vec![one_of(self.db, &patterns), collections]))
                }
            }
        }
        Some(branches)
    }

    /// All of them hold for what is in none of it.
    fn none_of(&self, selection: &Selection) -> Vec<Document> {
        let mut conditions = Vec::new();
        // That not all of the stream is excluded was seen when the settings were read.
        if let Databases::These(patterns) = self.databases(&selection.databases) {
            conditions.push(other_than(self.db, &patterns));
        }
        for (database, collections) in selection.collections_by_database() {
            let collections = other_than(self.coll, &collections);
            match self.databases([database]) {
                Databases::All => conditions.push(collections),
                Databases::None => {}
                Databases::These(patterns) => {
                    conditions.push(any(vec![other_than(self.db, &patterns), collections]));
                }
            }
        }
        conditions
    }

    /// Lets through what is about a database of which only collections are in scope.
    fn databases_of_collections(&self, scope: &Scope) -> Option<Document> {
        let mut patterns: Vec<&NamePattern> = scope.included.collections.iter().map(|one| &one.db).collect();
        patterns.dedup();
        let mut conditions = vec![doc! { "operationType": "dropDatabase" }];
        match self.databases(patterns) {
            Databases::All => {}
            Databases::None => return None,
            Databases::These(patterns) => conditions.push(one_of(self.db, &patterns)),
        }
        if let Databases::These(patterns) = self.databases(&scope.excluded.databases) {
            conditions.push(other_than(self.db, &patterns));
        }
        Some(all(conditions))
    }

    /// Which of the patterns say something about the databases of this stream.
    fn databases<'p>(&self, patterns: impl IntoIterator<Item = &'p NamePattern>) -> Databases<'p> {
        let patterns: Vec<&NamePattern> = patterns.into_iter().collect();
        let all = match self.target {
            Target::Deployment => patterns.iter().any(|pattern| pattern.is_everything()),
            Target::Database(name) | Target::Collection(shared::namespace::Namespace { db: name, .. }) => {
                if !patterns.iter().any(|pattern| pattern.matches(name)) {
                    return Databases::None;
                }
                true
            }
        };
        if all {
            Databases::All
        } else if patterns.is_empty() {
            Databases::None
        } else {
            Databases::These(patterns)
        }
    }
}

/// What patterns of databases select in a stream.
enum Databases<'p> {
    All,
    None,
    These(Vec<&'p NamePattern>),
}

/// Holds for what one of the patterns matches, and not for what is not there.
fn one_of(field: &str, patterns: &[&NamePattern]) -> Document {
    let (names, matched) = names_and_patterns(field, patterns);
    match matched {
        None => doc! { field: { "$in": names } },
        Some(matched) if names.is_empty() => doc! { "$expr": matched },
        Some(matched) => any(vec![doc! { field: { "$in": names } }, doc! { "$expr": matched }]),
    }
}

/// Holds for what none of the patterns matches, also for what is not there.
fn other_than(field: &str, patterns: &[&NamePattern]) -> Document {
    let (names, matched) = names_and_patterns(field, patterns);
    match matched {
        None => doc! { field: { "$nin": names } },
        Some(matched) if names.is_empty() => doc! { "$expr": { "$not": [matched] } },
        Some(matched) => doc! { field: { "$nin": names }, "$expr": { "$not": [matched] } },
    }
}

/// The names as they are, and all the others in one expression.
fn names_and_patterns<'p>(field: &str, patterns: &[&'p NamePattern]) -> (Vec<&'p str>, Option<Document>) {
    let names = patterns.iter().filter_map(|pattern| pattern.exact()).collect();
    let regexes: Vec<String> = patterns.iter().filter_map(|pattern| pattern.regex()).collect();
    if regexes.is_empty() {
        return (names, None);
    }
    // `s`: a dot is any character, as in the wildcards. `\z` and not `$`, which would let a line break follow.
    let regex = format!(r"\A(?:{})\z", regexes.join("|"));
    let matched = doc! { "$regexMatch": { "input": format!("${field}"), "regex": regex, "options": "s" } };
    (names, Some(matched))
}

/// Predicates on different fields stand side by side; the same field twice needs `$and`.
fn all(conditions: Vec<Document>) -> Document {
    let mut together = Document::new();
    for condition in &conditions {
        for (field, predicate) in condition {
            if together.insert(field, predicate.clone()).is_some() {
                return doc! { "$and": conditions };
            }
        }
    }
    together
}

fn any(mut branches: Vec<Document>) -> Document {
    match branches.len() {
        1 => branches.remove(0),
        _ => doc! { "$or": branches },
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::scope, *};

    fn filter(databases: &str, collections: &str, excludes: &str) -> Option<Document> {
        stage(&scope(databases, collections, excludes), &Operations::default()).map(|mut stage| {
            match stage.remove("$match") {
                Some(bson::Bson::Document(filter)) => filter,
                other => panic!("no $match but {other:?}"),
            }
        })
    }

    #[test]
    fn a_stream_that_holds_nothing_else_needs_no_filter() {
        for (databases, collections, excludes) in [
            ("", "", ""),
            ("shop", "", ""),
            ("", "shop.a", ""),
            ("*", "", ""),
            ("shop", "", "crm"),
            ("", "shop.*", "crm.a"),
        ] {
            assert_eq!(
                filter(databases, collections, excludes),
                None,
                "{databases} {collections} {excludes}"
            );
        }
    }

    #[test]
    fn collections_and_databases_are_told_by_ns() {
        let renamed = doc! { "operationType": "rename", "$or": [
            { "to.db": { "$in": ["crm"] } },
            { "to.db": { "$in": ["shop"] }, "to.coll": { "$in": ["a", "b"] } },
        ] };
        let expected = doc! { "$or": [
            { "$or": [
                { "ns.db": { "$in": ["crm"] } },
                { "ns.db": { "$in": ["shop"] }, "ns.coll": { "$in": ["a", "b"] } },
            ] },
            { "operationType": "dropDatabase", "ns.db": { "$in": ["shop"] } },
            { "operationType": "invalidate" },
            renamed,
        ] };
        assert_eq!(filter("crm", "shop.a,shop.b", ""), Some(expected));
    }

    #[test]
    fn within_a_database_only_collections_are_told() {
        let expected = doc! { "$or": [
            { "ns.coll": { "$in": ["a", "b"] } },
            { "operationType": "dropDatabase" },
            { "operationType": "invalidate" },
            { "operationType": "rename", "to.coll": { "$in": ["a", "b"] } },
        ] };
        assert_eq!(filter("", "shop.a,shop.b", "crm"), Some(expected));
    }

    #[test]
    fn excludes_are_an_or_of_what_is_different() {
        let other = |field: &str| {
            doc! { "$expr": { "$not": [
                { "$regexMatch": { "input": field, "regex": r"\A(?:tmp.*|x.)\z", "options": "s" } },
            ] } }
        };
        let expected = doc! { "$or": [
            { "ns.db": { "$nin": ["crm"] }, "$or": [{ "ns.db": { "$nin": ["shop"] } }, other("$ns.coll")] },
            { "operationType": "rename", "to.db": { "$nin": ["crm"] },
              "$or": [{ "to.db": { "$nin": ["shop"] } }, other("$to.coll")] },
        ] };
        assert_eq!(filter("", "", "crm.*,shop.tmp*,shop.x?"), Some(expected));
    }

    #[test]
    fn operations_that_are_left_out_are_named() {
        let operations = Operations::only(&["insert"]);
        let expected = doc! { "$match": { "operationType": { "$nin": ["update", "replace", "delete"] } } };
        assert_eq!(stage(&scope("", "", ""), &operations), Some(expected));
    }
}

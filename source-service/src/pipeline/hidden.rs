//! Filters on `fullDocument` hide more than they seem to: a delete has no document, so nothing that is asked of it holds.
//!
//! A filter is judged for one operation twice: with a document about which nothing is known, and without one. If it can hold with
//! and cannot hold without, it hides that operation because of its clauses on the document.

use bson::{Bson, Document};

use crate::scope::operations::Operations;

const DOCUMENT: &str = "fullDocument";

/// What is said of the changes that the filter hides for want of a document, to go on from the stage's name. `looked_up`: whether
/// updates carry a document.
pub(super) fn changes(filter: &Document, operations: &Operations, looked_up: bool) -> Option<String> {
    let hides = |operation: &str| {
        let with = Event { operation, has_document: true }.all(filter);
        let without = Event { operation, has_document: false }.all(filter);
        operations.has(operation) && with.possible && !without.possible
    };
    let deletes = hides("delete");
    let updates = !looked_up && hides("update");
    let who = match (deletes, updates) {
        (false, false) => return None,
        (true, false) => {
            "a delete does not have: deletes are not published, nor is an update after which a document no longer matches"
        }
        (false, true) => "an update does not have with FULL_DOCUMENT=default: updates are not published",
        (true, true) => {
            "neither a delete nor, with FULL_DOCUMENT=default, an update has: they are not published"
        }
    };
    let clause = clause(filter).unwrap_or_else(|| DOCUMENT.to_owned());
    Some(format!(
        "asks for {clause}, which {who}. Whoever keeps the current state from the topic goes stale; to let deletes through, write \
         {{\"$or\": [{{\"operationType\": \"delete\"}}, …]}}"
    ))
}

/// The first path into the document that the filter names.
fn clause(filter: &Document) -> Option<String> {
    filter.iter().find_map(|(name, value)| match value {
        _ if is_of_document(name) => Some(name.clone()),
        Bson::Document(inner) => clause(inner),
        Bson::Array(inner) => inner.iter().find_map(|value| match value {
            Bson::Document(inner) => clause(inner),
            Bson::String(path) => path_of_expression(path),
            _ => None,
        }),
        Bson::String(path) => path_of_expression(path),
        _ => None,
    })
}

fn path_of_expression(text: &str) -> Option<String> {
    text.strip_prefix('$').filter(|path| is_of_document(path)).map(ToOwned::to_owned)
}

fn is_of_document(path: &str) -> bool {
    path.strip_prefix(DOCUMENT).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether a predicate can hold, and whether it can fail.
#[derive(Clone, Copy)]
struct Truth {
    possible: bool,
    refutable: bool,
}

impl Truth {
    const UNKNOWN: Self = Self { possible: true, refutable: true };

    const fn of(holds: bool) -> Self {
        Self { possible: holds, refutable: !holds }
    }

    const fn not(self) -> Self {
        Self { possible: self.refutable, refutable: self.possible }
    }

    fn and(all: impl Iterator<Item = Self>) -> Self {
        all.fold(Self::of(true), |left, right| Self {
            possible: left.possible && right.possible,
            refutable: left.refutable || right.refutable,
        })
    }

    fn or(any: impl Iterator<Item = Self>) -> Self {
        Self::and(any.map(Self::not)).not()
    }
}

struct Event<'a> {
    operation: &'a str,
    has_document: bool,
}

impl Event<'_> {
    fn all(&self, filter: &Document) -> Truth {
        Truth::and(filter.iter().map(|(name, value)| self.one(name, value)))
    }

    fn one(&self, name: &str, value: &Bson) -> Truth {
        let branches = || value.as_array().into_iter().flatten().filter_map(Bson::as_document);
        match name {
            "$and" => Truth::and(branches().map(|branch| self.all(branch))),
            "$or" => Truth::or(branches().map(|branch| self.all(branch))),
            "$nor" => Truth::or(branches().map(|branch| self.all(branch))).not(),
            "$expr" => {
                let expression = bson::doc! { "$expr": value };
                let of_document = clause(&expression).is_some();
                // What else the expression may say of the operation is not followed.
                if of_document && !self.has_document && !super::mentions(&expression, "$operationType") {
                    Truth::of(false)
                } else {
                    Truth::UNKNOWN
                }
            }
            "operationType" => self.predicate(value, Some(self.operation)),
            name if is_of_document(name) && !self.has_document => self.predicate(value, None),
            _ => Truth::UNKNOWN,
        }
    }

    /// A predicate on a text, or on what is not there.
    fn predicate(&self, predicate: &Bson, found: Option<&str>) -> Truth {
        let same = |wanted: &Bson| match found {
            Some(text) => wanted.as_str() == Some(text),
            None => *wanted == Bson::Null,
        };
        let Bson::Document(operators) = predicate else {
            let is_pattern = matches!(predicate, Bson::RegularExpression(_)) && found.is_some();
            return if is_pattern { Truth::UNKNOWN } else { Truth::of(same(predicate)) };
        };
        if !operators.keys().next().is_some_and(|name| name.starts_with('$')) {
            return Truth::of(false);
        }
        Truth::and(operators.iter().map(|(operator, value)| {
            let one_of = || value.as_array().is_some_and(|values| values.iter().any(same));
            let exists =
                matches!(value, Bson::Boolean(true)) || value.as_i32().is_some_and(|number| number != 0);
            match operator.as_str() {
                "$eq" => Truth::of(same(value)),
                "$ne" => Truth::of(!same(value)),
                "$in" => Truth::of(one_of()),
                "$nin" => Truth::of(!one_of()),
                "$exists" => Truth::of(exists == found.is_some()),
                "$not" => self.predicate(value, found).not(),
                "$gt" | "$gte" | "$lt" | "$lte" | "$regex" | "$size" | "$all" | "$elemMatch" | "$mod"
                | "$type"
                    if found.is_none() =>
                {
                    Truth::of(*value == Bson::Null)
                }
                // `$options` belongs to `$regex`.
                "$options" => Truth::of(true),
                _ => Truth::UNKNOWN,
            }
        }))
    }
}

//! Field policies: which fields of documents are hidden before anything leaves the source.
//!
//! ```text
//!  FIELD_POLICY_FILE ─ file ─▶ FieldPolicy ─ collection ─▶ PathTree (one for each set of rules) ─▶ Veil: the walk in the
//!                                                                                                  transcoder's stead
//! ```
//!
//! | module | subject |
//! |---|---|
//! | [`file`] | the file, and every mistake in it |
//! | [`path_tree`] | paths as an automaton: what a name leads to, in one look-up |
//! | [`hash`] | the keyed hash of a value |
//! | [`veil`] | writes documents and update descriptions without what is hidden |
//! | [`collection`] | which rules hold for a collection, kept once it is known |
//! | [`pipeline_reads`] | stages of a pipeline that would carry a hidden field elsewhere |
//!
//! Invariants:
//! - A path means the same wherever a field can stand: in the document, in its pre-image, in a row of a snapshot, and in the paths of an
//!   update. Where an update's path can be read in two ways (`a.0.b`: an element or a field named `0`), both are hidden.
//! - Nothing identifies a document and is hidden: keys are published as they are, so a rule on one is refused.
//! - Without a policy an event costs one comparison; with one, nothing is allocated for an event.

mod collection;
mod file;
mod hash;
mod path_tree;
mod pipeline_reads;
#[cfg(test)]
mod tests;
mod veil;

use std::{fmt, path::Path, sync::Arc};

use shared::namespace::Namespace;

use self::path_tree::{Along, PathTree, ROOT};
pub(crate) use self::{collection::CollectionVeils, veil::Veil};
pub use self::{
    file::{PolicyError, RefusedRule},
    hash::{HashKey, ShortKey},
};
use crate::{
    pipeline::Pipeline,
    scope::{CollectionPattern, Scope},
};

/// What stands in place of a masked value.
pub const MASK: &str = "***";

/// What happens to a field. Where rules meet, the later of these holds: it hides more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// HMAC-SHA-256 of the value in hexadecimal: equal values stay equal.
    Hash,
    /// [`MASK`] in place of the value, whatever its type.
    Mask,
    /// The field is not there.
    Drop,
}

impl Action {
    pub const ALL: [Self; 3] = [Self::Hash, Self::Mask, Self::Drop];

    /// As the file and the metrics have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Mask => "mask",
            Self::Drop => "drop",
        }
    }
}

/// How often something was hidden.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HiddenCounts([u32; 3]);

impl HiddenCounts {
    pub fn count(&mut self, action: Action) {
        self.0[action as usize] += 1;
    }

    pub fn of(&self, action: Action) -> u32 {
        self.0[action as usize]
    }

    pub fn add(&mut self, other: Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }
}

/// Names from the document's root to a field; `*` is any one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldPath(Vec<String>);

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rule {
    place: RulePlace,
    namespaces: Vec<CollectionPattern>,
    paths: Vec<FieldPath>,
    action: Action,
}

/// For people: `rule 2 (line 7)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RulePlace {
    /// From 1.
    number: usize,
    line: usize,
}

impl fmt::Display for RulePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {} (line {})", self.number, self.line)
    }
}

/// All rules, checked.
#[derive(Clone, Debug)]
pub struct FieldPolicy {
    rules: Arc<[Rule]>,
    key: Option<HashKey>,
}

impl FieldPolicy {
    /// Without a key yet: see [`Self::hashing_rule`].
    ///
    /// # Errors
    /// See [`PolicyError`]; every mistake in every rule is named.
    pub fn read(path: &Path) -> Result<Self, PolicyError> {
        file::read(path).map(Self::new)
    }

    /// # Errors
    /// As [`Self::read`].
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        file::parse(text).map(Self::new)
    }

    fn new(rules: Vec<Rule>) -> Self {
        Self { rules: rules.into(), key: None }
    }

    /// The key that values are hashed with.
    #[must_use]
    pub fn with_key(mut self, key: Option<HashKey>) -> Self {
        self.key = key;
        self
    }

    /// The first rule that needs a key.
    pub fn hashing_rule(&self) -> Option<RulePlace> {
        self.rules.iter().find(|rule| rule.action == Action::Hash).map(|rule| rule.place)
    }

    pub fn rules(&self) -> usize {
        self.rules.len()
    }

    /// The rule that hides a field or a part of it, in this collection.
    pub fn rule_on(&self, namespace: &Namespace, field: &str) -> Option<RulePlace> {
        let holds = |rule: &&Rule| rule.holds_for(&namespace.db, &namespace.coll) && rule.touches(field);
        self.rules.iter().find(holds).map(|rule| rule.place)
    }

    /// What works, but may hide less than was meant.
    pub fn warnings(&self, scope: &Scope) -> Vec<String> {
        let mut warnings = Vec::new();
        for rule in self.rules.iter() {
            for namespace in &rule.namespaces {
                if let (Some(db), Some(coll)) = (namespace.db.exact(), namespace.coll.exact())
                    && !scope.contains(db, coll)
                {
                    warnings.push(format!("{} is about {namespace}, which is not read", rule.place));
                }
            }
            for path in &rule.paths {
                if file::PARTS.contains(&path.0[0].as_str()) {
                    warnings.push(format!(
                        "{} is about a field named {} inside of documents: a path begins with the document's own fields",
                        rule.place, path.0[0]
                    ));
                }
            }
        }
        warnings
    }

    /// Stages that read what is hidden, and so could put it where no rule looks for it. In words that go on from "stages that".
    pub fn read_by(&self, pipeline: &Pipeline) -> Vec<String> {
        let mut found = Vec::new();
        for (name, reads) in pipeline_reads::of(pipeline) {
            for read in reads {
                let rule = self.rules.iter().find(|rule| rule.touches(&read.path));
                if let Some(rule) = rule {
                    found.push(format!(
                        "{name} reads {}, which {} hides in part or whole",
                        read.text, rule.place
                    ));
                }
            }
        }
        found
    }
}

impl Rule {
    fn holds_for(&self, db: &str, coll: &str) -> bool {
        self.namespaces.iter().any(|pattern| pattern.matches(db, coll))
    }

    /// Whether the field is hidden, or has a part that is. The empty path is the whole document.
    fn touches(&self, path: &str) -> bool {
        let tree = PathTree::new(self.paths.iter().map(|path| (path, self.action)));
        path.is_empty() || tree.is_none_or(|tree| tree.along(ROOT, path.as_bytes()) != Along::Clear)
    }
}

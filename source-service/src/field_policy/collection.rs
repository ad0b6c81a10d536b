//! Which rules hold for the collection of an event. The answer is kept: there are as many as collections, and of trees as many as sets
//! of rules.

use std::collections::HashMap;

use super::{Action, FieldPath, FieldPolicy, Veil, path_tree::PathTree};
use crate::envelope::EventNamespace;

/// Where a definition can quote values of documents: filters of indexes and of validators, stages of views.
const QUOTING: [&[&str]; 7] = [
    &["validator"],
    &["pipeline"],
    &["collectionOptions", "validator"],
    &["collectionOptions", "pipeline"],
    &["indexes", "partialFilterExpression"],
    &["index", "partialFilterExpression"],
    &["indexOptions", "partialFilterExpression"],
];

/// A policy at work.
#[derive(Debug)]
pub(crate) struct CollectionVeils {
    policy: FieldPolicy,
    /// By the numbers of the rules in it.
    trees: Vec<(Vec<usize>, PathTree)>,
    /// By the BSON of `ns`; `None` if no rule holds.
    known: HashMap<Box<[u8]>, Option<usize>>,
    definitions: PathTree,
}

impl CollectionVeils {
    pub(crate) fn new(policy: FieldPolicy) -> Self {
        let quoting: Vec<FieldPath> =
            QUOTING.iter().map(|names| FieldPath(names.iter().map(ToString::to_string).collect())).collect();
        let definitions = PathTree::new(quoting.iter().map(|path| (path, Action::Mask)));
        Self {
            policy,
            trees: Vec::new(),
            known: HashMap::new(),
            definitions: definitions.expect("a few names are a few states"),
        }
    }

    /// What is hidden in this collection; `None` if nothing is.
    pub(crate) fn of(&mut self, namespace: &EventNamespace<'_>) -> Option<Veil<'_>> {
        let index = match self.known.get(namespace.raw) {
            Some(index) => *index,
            None => self.learn(namespace),
        };
        let (_, tree) = &self.trees[index?];
        Some(Veil::new(tree, &self.definitions, self.policy.key.as_ref()))
    }

    fn learn(&mut self, namespace: &EventNamespace<'_>) -> Option<usize> {
        let holds =
            |rule: &super::Rule| namespace.coll.is_some_and(|coll| rule.holds_for(namespace.db, coll));
        let rules = &self.policy.rules;
        let numbers: Vec<usize> = (0..rules.len()).filter(|&number| holds(&rules[number])).collect();
        let index = if numbers.is_empty() {
            None
        } else {
            let known = self.trees.iter().position(|(known, _)| *known == numbers);
            Some(known.unwrap_or_else(|| {
                let paths = numbers.iter().map(|&number| &rules[number]);
                let paths = paths.flat_map(|rule| rule.paths.iter().map(|path| (path, rule.action)));
                let tree = PathTree::new(paths).expect("the tree of all rules was made when they were read");
                self.trees.push((numbers, tree));
                self.trees.len() - 1
            }))
        };
        self.known.insert(namespace.raw.into(), index);
        index
    }
}

//! How many changes there were, by collection and operation.

use std::collections::BTreeMap;

/// Counts. The operation is the change event's `operationType`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally(BTreeMap<String, BTreeMap<String, u64>>);

impl Tally {
    pub(crate) fn add(&mut self, collection: &str, operation: &str, count: u64) {
        if count == 0 {
            return;
        }
        // Most calls find what they look for, and then nothing is allocated.
        if let Some(known) = self.0.get_mut(collection).and_then(|operations| operations.get_mut(operation)) {
            *known += count;
            return;
        }
        self.0.entry(collection.to_owned()).or_default().insert(operation.to_owned(), count);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (collection, operation, count) in other.iter() {
            self.add(collection, operation, count);
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.iter().map(|(_, _, count)| count).sum()
    }

    /// All changes of one kind, over all collections.
    pub(crate) fn of_operation(&self, operation: &str) -> u64 {
        self.iter().filter(|(_, own, _)| *own == operation).map(|(_, _, count)| count).sum()
    }

    /// Where the other one differs, in words; empty if it does not.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let mut keys: Vec<(&str, &str)> = self
            .iter()
            .chain(other.iter())
            .map(|(collection, operation, _)| (collection, operation))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        let count = |tally: &Self, (collection, operation): (&str, &str)| {
            tally.0.get(collection).and_then(|operations| operations.get(operation)).copied().unwrap_or(0)
        };
        let differing = keys.into_iter().filter(|&key| count(self, key) != count(other, key));
        differing
            .map(|key| format!("{} {}: {} against {}", key.0, key.1, count(self, key), count(other, key)))
            .collect()
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &str, u64)> {
        self.0.iter().flat_map(|(collection, operations)| {
            operations.iter().map(move |(operation, &count)| (collection.as_str(), operation.as_str(), count))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_both_counts() {
        let (mut left, mut right) = (Tally::default(), Tally::default());
        left.add("flights", "insert", 2);
        right.add("flights", "insert", 2);
        assert!(left.differences(&right).is_empty());
        right.add("flights", "delete", 1);
        right.add("flights", "insert", 0);
        assert_eq!(left.differences(&right), ["flights delete: 0 against 1"]);
        left.merge(&right);
        assert_eq!((left.total(), left.of_operation("insert")), (5, 4));
    }
}

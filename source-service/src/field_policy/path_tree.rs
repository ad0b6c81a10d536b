//! Paths as an automaton: from a state, a name leads to another state, to something hidden, or out of all paths.
//!
//! Paths with `*` overlap, and a path goes through arrays without naming them, so several may be followed at the same time. The
//! sets of places that can be followed together are made states beforehand; while a document is walked there is one state and one look-up
//! for a name.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::{Action, FieldPath};

/// More than any policy that somebody wrote; paths that are full of `*` could make more.
pub(super) const STATES_MAX: usize = 50_000;

/// Any one name.
pub(super) const ANY: &str = "*";

/// A place in a document at which something below may be hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State(usize);

/// The document itself.
pub(super) const ROOT: State = State(0);

/// What one name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing here or below is hidden.
    Clear,
    /// Something below may be.
    Into(State),
    Hidden(Action),
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Along {
    Clear,
    Into(State),
    /// `at` is how much of the path is needed to get there, in bytes: less than all of it if the path leads into something hidden.
    Hidden {
        action: Action,
        at: usize,
    },
}

/// What each name leads to.
#[derive(Debug)]
struct Steps {
    /// Sorted by name.
    named: Vec<(Box<[u8]>, Step)>,
    other: Step,
}

impl Steps {
    fn of(&self, name: &[u8]) -> Step {
        let found = self.named.binary_search_by(|(known, _)| (**known).cmp(name));
        found.map_or(self.other, |index| self.named[index].1)
    }
}

/// Where each state's names lead.
#[derive(Debug)]
struct NextSteps {
    members: Steps,
    /// An element of an array: whatever could be followed before can be followed on, and the index is a name too.
    items: Steps,
}

/// All paths of the rules that hold for a collection.
#[derive(Debug)]
pub(super) struct PathTree {
    states: Vec<NextSteps>,
}

impl PathTree {
    /// `None` if it would have too many states ([`STATES_MAX`]).
    pub(super) fn new<'p>(paths: impl IntoIterator<Item = (&'p FieldPath, Action)>) -> Option<Self> {
        let nodes = Node::tree(paths);
        let mut sets = Sets::default();
        sets.state_of(BTreeSet::from([0]));
        let mut states = Vec::new();
        while let Some(set) = sets.next() {
            let names: BTreeSet<&str> = set
                .iter()
                .flat_map(|&place| nodes[place].children.keys().copied())
                .filter(|name| *name != ANY)
                .collect();
            let members = |name: &str| -> BTreeSet<usize> {
                let named = set
                    .iter()
                    .flat_map(|&place| [nodes[place].children.get(name), nodes[place].children.get(ANY)]);
                named.flatten().copied().collect()
            };
            let mut step = |places: BTreeSet<usize>| match places
                .iter()
                .filter_map(|&place| nodes[place].action)
                .max()
            {
                Some(action) => Step::Hidden(action),
                None if places.is_empty() => Step::Clear,
                None => Step::Into(sets.state_of(places)),
            };
            // A name that is none of them leads where `*` leads: no name is empty here.
            let other = members("");
            let items = |places: BTreeSet<usize>| places.union(&set).copied().collect::<BTreeSet<usize>>();
            let steps = NextSteps {
                members: Steps {
                    named: names.iter().map(|name| (name.as_bytes().into(), step(members(name)))).collect(),
                    other: step(other.clone()),
                },
                items: Steps {
                    named: names
                        .iter()
                        .filter(|name| is_index(name.as_bytes()))
                        .map(|name| (name.as_bytes().into(), step(items(members(name)))))
                        .collect(),
                    other: step(items(other)),
                },
            };
            states.push(steps);
            if sets.len() > STATES_MAX {
                return None;
            }
        }
        Some(Self { states })
    }

    /// An element of an array.
    pub(super) fn item(&self, state: State, index: usize) -> Step {
        let items = &self.states[state.0].items;
        if items.named.is_empty() {
            items.other
        } else {
            items.of(itoa::Buffer::new().format(index).as_bytes())
        }
    }

    /// The path of an update, or the name of a member, which may have dots too. The first name is a member's; further ones that are
    /// numbers may be indices as well.
    pub(super) fn along(&self, mut state: State, path: &[u8]) -> Along {
        let mut from = 0;
        loop {
            let rest = &path[from..];
            let length = rest.iter().position(|byte| *byte == b'.').unwrap_or(rest.len());
            let (name, at) = (&rest[..length], from + length);
            let steps = &self.states[state.0];
            let step = if from > 0 && is_index(name) { steps.items.of(name) } else { steps.members.of(name) };
            match step {
                Step::Clear => return Along::Clear,
                Step::Hidden(action) => return Along::Hidden { action, at },
                Step::Into(next) if at == path.len() => return Along::Into(next),
                Step::Into(next) => state = next,
            }
            from = at + 1;
        }
    }
}

fn is_index(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(u8::is_ascii_digit)
}

/// A name in the tree of all paths.
#[derive(Default)]
struct Node<'p> {
    children: BTreeMap<&'p str, usize>,
    action: Option<Action>,
}

impl<'p> Node<'p> {
    fn tree(paths: impl IntoIterator<Item = (&'p FieldPath, Action)>) -> Vec<Self> {
        let mut nodes = vec![Self::default()];
        for (FieldPath(names), action) in paths {
            let mut place = 0;
            for name in names {
                let new = nodes.len();
                let next = *nodes[place].children.entry(name).or_insert(new);
                if next == new {
                    nodes.push(Self::default());
                }
                place = next;
            }
            nodes[place].action = nodes[place].action.max(Some(action));
        }
        nodes
    }
}

/// Places that are followed together, each set once; a set is a state by its number.
#[derive(Default)]
struct Sets {
    known: HashMap<BTreeSet<usize>, State>,
    new: VecDeque<BTreeSet<usize>>,
}

impl Sets {
    fn state_of(&mut self, set: BTreeSet<usize>) -> State {
        let state = State(self.known.len());
        if let Some(known) = self.known.get(&set) {
            return *known;
        }
        self.new.push_back(set.clone());
        self.known.insert(set, state);
        state
    }

    /// In the order of their numbers.
    fn next(&mut self) -> Option<BTreeSet<usize>> {
        self.new.pop_front()
    }

    fn len(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn tree(paths: &[(&str, Action)]) -> PathTree {
        let paths: Vec<_> = paths
            .iter()
            .map(|(path, action)| (FieldPath(path.split('.').map(ToOwned::to_owned).collect()), *action))
            .collect();
        PathTree::new(paths.iter().map(|(path, action)| (path, *action))).unwrap()
    }

    /// How much of the path is needed, and the action.
    fn hidden(tree: &PathTree, path: &str) -> Option<(Action, String)> {
        match tree.along(ROOT, path.as_bytes()) {
            Along::Hidden { action, at } => Some((action, path[..at].to_owned())),
            Along::Clear | Along::Into(_) => None,
        }
    }

    #[test]
    fn a_path_goes_through_arrays_and_ends_at_what_is_hidden_first() {
        let tree = tree(&[
            ("cards.number", Action::Mask),
            ("cards", Action::Hash),
            ("a.b.c", Action::Drop),
            ("a.b.c", Action::Hash),
        ]);
        assert_eq!(hidden(&tree, "cards.0.number"), Some((Action::Hash, "cards".to_owned())));
        for path in ["a.b.c", "a.0.b.c", "a.0.1.b.22.c"] {
            assert_eq!(hidden(&tree, path), Some((Action::Drop, path.to_owned())));
        }
        assert_eq!(hidden(&tree, "a.b.c.d.0"), Some((Action::Drop, "a.b.c".to_owned())));
        for path in ["a", "a.b", "a.0"] {
            assert!(matches!(tree.along(ROOT, path.as_bytes()), Along::Into(_)), "{path}");
        }
        // Neither a top-level field named `0` nor other names are on the way.
        for path in ["b", "0.cards", "a.x.b.c", "A.b.c", "", "cards2", "a..b.c"] {
            assert_eq!(tree.along(ROOT, path.as_bytes()), Along::Clear, "{path}");
        }
    }

    #[test]
    fn a_star_is_any_one_name_and_any_index() {
        let tree =
            tree(&[("phones.*.number", Action::Mask), ("tags.*", Action::Hash), ("m.7", Action::Drop)]);
        for path in [
            "phones.home.number",
            "phones.0.number",
            "phones.0.home.number",
            "tags.x",
            "tags.3",
            "m.7",
            "m.0.7",
        ] {
            assert_eq!(hidden(&tree, path).map(|(_, hidden)| hidden).as_deref(), Some(path));
        }
        for path in ["phones.number", "phones.a.b.number", "tags", "m.8"] {
            assert_eq!(hidden(&tree, path), None, "{path}");
        }
        assert_eq!(hidden(&tree, "tags.3.x"), Some((Action::Hash, "tags.3".to_owned())));
    }

    #[test]
    fn too_many_states_are_no_tree() {
        let names = ["a", "b", "c", "d"];
        let mut paths = Vec::new();
        for first in names {
            for length in 1..12 {
                // "the name at this distance before the end" needs a state for every history.
                paths.push((format!("x.{}{first}{}", "*.".repeat(length), ".*".repeat(14)), Action::Mask));
            }
        }
        let paths: Vec<_> = paths
            .iter()
            .map(|(path, action)| (FieldPath(path.split('.').map(ToOwned::to_owned).collect()), *action))
            .collect();
        assert!(PathTree::new(paths.iter().map(|(path, action)| (path, *action))).is_none());
    }
}

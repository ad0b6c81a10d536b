//! A document that differs, until it agrees or is known to differ. Decides only; the rounds do the reading.

use bson::Bson;

use super::{
    fold::{LastChange, State},
    normal::ValueHash,
};

/// A document that differed when both sides were last looked at.
pub(super) struct Suspect {
    pub(super) id: Bson,
    pub(super) mongo: InMongo,
    /// A change since MongoDB was asked left what it said.
    met: bool,
    /// What both sides had in the round before.
    before: Option<(InMongo, Option<LastChange>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InMongo {
    Document(ValueHash),
    Absent,
    NotAskedYet,
}

impl InMongo {
    fn is(self, state: State) -> bool {
        match (self, state) {
            (Self::Document(found), State::Document(left)) => found == left,
            (Self::Absent, State::Deleted) => true,
            _ => false,
        }
    }
}

impl Suspect {
    pub(super) fn new(id: Bson, mongo: InMongo) -> Self {
        Self { id, mongo, met: false, before: None }
    }

    pub(super) fn agrees(&self, last: Option<LastChange>) -> bool {
        self.met || self.mongo.is(last.map_or(State::Deleted, |last| last.state))
    }

    /// A document that changes all the time is compared with each change that came since: one of them left it as it was found.
    pub(super) fn meet(&mut self, state: State) {
        self.met |= self.mongo.is(state);
    }

    pub(super) fn ask_again(&mut self, last: Option<LastChange>) {
        self.before = Some((self.mongo, last));
        self.mongo = InMongo::Absent;
        self.met = false;
    }

    /// Both sides were as they are in the round before.
    pub(super) fn is_settled(&self, last: Option<LastChange>) -> bool {
        self.mongo != InMongo::NotAskedYet && self.before == Some((self.mongo, last))
    }

    /// For people.
    pub(super) fn difference(&self, last: Option<LastChange>) -> &'static str {
        match (self.mongo, last.map_or(State::Deleted, |last| last.state)) {
            (_, State::NotSaid) => "its last change in the lake came without the document",
            (InMongo::Document(_), State::Document(_)) => "its last change in the lake left another document",
            (InMongo::Document(_), State::Deleted) if last.is_some() => "deleted in the lake, but in MongoDB",
            (InMongo::Document(_), State::Deleted) => "not in the lake, but in MongoDB",
            (InMongo::Absent | InMongo::NotAskedYet, _) => "in the lake, but not in MongoDB",
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::cluster_time::ClusterTime;

    use super::*;

    fn hash(text: &str) -> ValueHash {
        ValueHash::of(&text.into())
    }

    fn change(state: State, seconds: u32) -> Option<LastChange> {
        Some(LastChange { state, time: ClusterTime::new(seconds, 1) })
    }

    #[test]
    fn it_differs_when_two_rounds_saw_the_same() {
        let old = change(State::Document(hash("old")), 1);
        let mut suspect = Suspect::new(1.into(), InMongo::Document(hash("new")));
        assert!(!suspect.agrees(old) && !suspect.is_settled(old));
        suspect.ask_again(old);
        suspect.mongo = InMongo::Document(hash("new"));
        // A change came in between, even one that left the same: another round.
        assert!(!suspect.is_settled(change(State::Document(hash("old")), 2)));
        assert!(suspect.is_settled(old));
        assert_eq!(suspect.difference(old), "its last change in the lake left another document");
        // And another document in MongoDB is another round too.
        suspect.mongo = InMongo::Document(hash("newer"));
        assert!(!suspect.is_settled(old));
    }

    #[test]
    fn one_that_changes_all_the_time_agrees_with_the_change_that_was_met() {
        let mut suspect = Suspect::new(1.into(), InMongo::Document(hash("b")));
        for state in ["a", "b", "c"] {
            suspect.meet(State::Document(hash(state)));
        }
        let last = change(State::Document(hash("c")), 9);
        assert!(suspect.agrees(last));
        suspect.ask_again(last);
        assert!(!suspect.agrees(last), "what was met before MongoDB was asked again counts no more");
    }

    #[test]
    fn what_was_not_asked_yet_is_never_settled() {
        let mut suspect = Suspect::new(1.into(), InMongo::NotAskedYet);
        let last = change(State::Deleted, 1);
        assert!(!suspect.agrees(last) && !suspect.is_settled(last));
        suspect.ask_again(last);
        assert!(suspect.agrees(last), "absent in MongoDB, deleted in the lake");
        assert!(suspect.agrees(None), "absent in MongoDB, never in the lake");
        assert!(!suspect.agrees(change(State::NotSaid, 1)));
    }
}

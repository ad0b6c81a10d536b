//! Which letters a command is about.

use chrono::{DateTime, Utc};

use super::letter::{Letter, Mark, Marked};

/// What became of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Its record is nowhere in the lake; it waits for somebody to decide.
    Open,
    /// The sink has not moved past its record: it may yet become a row.
    NotSettled,
    /// The lake holds its record as a row.
    Void,
    Retried,
    Dropped,
    /// No chain says it.
    Unknown,
}

impl State {
    pub const ALL: [Self; 6] =
        [Self::Open, Self::NotSettled, Self::Void, Self::Retried, Self::Dropped, Self::Unknown];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::NotSettled => "not-settled",
            Self::Void => "void",
            Self::Retried => "retried",
            Self::Dropped => "dropped",
            Self::Unknown => "unknown",
        }
    }

    /// A marker decides; else it is what the lake says.
    pub(super) fn of(mark: Option<&Mark>, standing: Self) -> Self {
        match mark.map(|mark| &mark.what) {
            Some(Marked::Retried) => Self::Retried,
            Some(Marked::Dropped { .. }) => Self::Dropped,
            None => standing,
        }
    }
}

/// Empty lists and absent bounds leave everything through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub keys: Vec<String>,
    pub reasons: Vec<String>,
    /// Of the original record.
    pub topics: Vec<String>,
    /// When it failed: from here on.
    pub from: Option<DateTime<Utc>>,
    /// Exclusive.
    pub to: Option<DateTime<Utc>>,
    pub states: Vec<State>,
}

impl Filter {
    /// Everything but the state, which is asked of the lake.
    pub(super) fn lets(&self, letter: &Letter) -> bool {
        let one_of = |wanted: &[String], found: Option<&str>| {
            wanted.is_empty() || wanted.iter().any(|each| Some(each.as_str()) == found)
        };
        let in_time = match letter.failed_at {
            Some(at) => self.from.is_none_or(|from| at >= from) && self.to.is_none_or(|to| at < to),
            None => self.from.is_none() && self.to.is_none(),
        };
        one_of(&self.keys, Some(&letter.key))
            && one_of(&self.reasons, Some(&letter.reason))
            && one_of(&self.topics, letter.topic())
            && in_time
    }

    pub(super) fn lets_state(&self, state: State) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::letter::Entry, *};
    use crate::dlq::letter::tests::{SINK, message};

    fn letter() -> Letter {
        match Entry::of(&message((0, 5), "atlas.shop.orders/2/17", Some(b"{"), &SINK)) {
            Entry::Letter(letter) => *letter,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_part_of_a_filter_has_to_let_it_through() {
        let at = |text: &str| DateTime::parse_from_rfc3339(text).ok().map(|at| at.to_utc());
        let text = |text: &str| vec![text.to_owned()];
        let lets = |filter: Filter| filter.lets(&letter());
        assert!(lets(Filter::default()));
        assert!(lets(Filter {
            topics: text("atlas.shop.orders"),
            reasons: text("invalid-json"),
            ..Filter::default()
        }));
        assert!(!lets(Filter {
            topics: text("atlas.shop.orders"),
            reasons: text("empty"),
            ..Filter::default()
        }));
        assert!(!lets(Filter { topics: text("atlas.shop.order"), ..Filter::default() }));
        assert!(!lets(Filter { keys: text("atlas.shop.orders/2/1"), ..Filter::default() }));
        assert!(lets(Filter {
            from: at("2026-11-26T10:00:00Z"),
            to: at("2026-11-26T10:00:01Z"),
            ..Filter::default()
        }));
        assert!(!lets(Filter { to: at("2026-11-26T10:00:00Z"), ..Filter::default() }));
        assert!(!lets(Filter { from: at("2026-11-26T10:00:01Z"), ..Filter::default() }));
    }

    #[test]
    fn a_marker_decides() {
        assert_eq!(State::of(None, State::Void), State::Void);
        let marker = [("dlq-marker", "retried")];
        let Entry::Marker { mark, .. } = Entry::of(&message((0, 1), "k", None, &marker)) else {
            panic!("no marker")
        };
        assert_eq!(State::of(Some(&mark), State::Open), State::Retried);
    }
}

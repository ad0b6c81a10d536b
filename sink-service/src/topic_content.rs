//! What a topic is to the sink: the changes of one collection, or what happened to collections and databases.
//!
//! The control topic goes into the lake by the same chain as every other. What is of its own is here: its folder ([`crate::lake_path`]) has neither
//! database nor collection, its records are of any namespace or of none, and its hours wait for all sources.

use std::fmt;

use shared::{
    namespace::Namespace,
    topic_name::{DataTopic, TopicNames},
};

/// What the records of one topic are about, which says where its files lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicContent {
    /// Changes of one collection.
    Data(Namespace),
    /// Definitions of every collection and database, and gap markers.
    Control,
}

impl TopicContent {
    /// By the topic's name; `None` if that was cut, so that only records say it, and if the sink reads no such topic.
    pub fn by_name(names: &TopicNames, topic: &str) -> Option<Self> {
        match names.decode(topic) {
            Some(DataTopic::Named(namespace)) => Some(Self::Data(namespace)),
            Some(DataTopic::Cut) => None,
            None => (topic == names.control()).then_some(Self::Control),
        }
    }

    /// The collection whose changes it holds.
    pub fn namespace(&self) -> Option<&Namespace> {
        match self {
            Self::Data(namespace) => Some(namespace),
            Self::Control => None,
        }
    }

    /// Whether a record of this database or collection, as far as it says one, belongs elsewhere.
    pub fn contradicts(&self, db: Option<&str>, coll: Option<&str>) -> bool {
        self.namespace().is_some_and(|namespace| {
            db.is_some_and(|db| db != namespace.db) || coll.is_some_and(|coll| coll != namespace.coll)
        })
    }
}

impl fmt::Display for TopicContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(namespace) => namespace.fmt(f),
            Self::Control => f.write_str("collections and databases"),
        }
    }
}

/// Whether a sink reads topics of this name: data topics and the control topic, and none of the others under the prefix.
pub fn is_archived(names: &TopicNames, topic: &str) -> bool {
    names.decode(topic).is_some() || topic == names.control()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_topic_holds_no_collection() {
        let names = TopicNames::new("atlas").expect("a prefix");
        let of = |topic| TopicContent::by_name(&names, topic);
        let orders = TopicContent::Data(Namespace::new("shop", "orders"));
        assert_eq!(of("atlas.shop.orders"), Some(orders.clone()));
        assert_eq!(of("atlas.control"), Some(TopicContent::Control));
        for other in ["atlas.dlq", "atlas.clock", "atlas.resume-tokens-a", "other.control", "control"] {
            assert!(of(other).is_none() && !is_archived(&names, other), "{other}");
        }
        assert!(is_archived(&names, "atlas.control") && is_archived(&names, "atlas.shop.orders"));
        assert!(orders.contradicts(Some("crm"), None) && orders.contradicts(None, Some("people")));
        assert!(!orders.contradicts(None, None) && !orders.contradicts(Some("shop"), Some("orders")));
        assert!(!TopicContent::Control.contradicts(Some("crm"), Some("people")));
    }
}

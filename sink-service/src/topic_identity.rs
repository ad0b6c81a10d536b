//! Whether a topic in Kafka is the one that the lake was written from.
//!
//! The topic's id (KIP-516) decides: it is drawn when a topic is made, and never again. The id of the cluster says what has happened where topic
//! ids differ; it decides only where there are none.
//!
//! ```text
//!   topic ids     cluster ids            ──▶
//!   agree         (whatever they are)        the same topic: disks that were restored under another cluster id keep it
//!   differ        agree                      made again
//!   differ        differ                     another cluster
//!   differ        one is not known           one of the two
//!   one unknown   differ                     another cluster
//!   one unknown   agree, or unknown          cannot be told: taken for the same
//! ```

use thiserror::Error;

/// A topic beyond its name. What is `None` is not known, and not compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicIdentity {
    /// Kafka's topic id, base64 as Kafka prints it; a broker may have none.
    pub topic: Option<String>,
    /// The id of the cluster, as Kafka prints it; heads of before have none.
    pub cluster: Option<String>,
}

/// It has the name, and is another one: its offsets say nothing of those in the lake.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AnotherTopic {
    #[error(
        "the topic was deleted and made again: the lake was written from the one with id {expected}, Kafka has {found}"
    )]
    MadeAgain { expected: String, found: String },
    #[error(
        "this is another Kafka cluster: the lake was written from cluster {expected}, and this is cluster {found}, whose topic of \
         this name is another one"
    )]
    AnotherCluster { expected: String, found: String },
    #[error(
        "the topic was deleted and made again, or this is another Kafka cluster: the lake was written from the topic with id \
         {expected}, this one has {found}, and of which cluster the first one was is not known"
    )]
    Either { expected: String, found: String },
}

impl TopicIdentity {
    /// Holds what Kafka says now against what was recorded.
    ///
    /// # Errors
    /// If it is certainly another topic.
    pub fn check(&self, now: &Self) -> Result<(), AnotherTopic> {
        let differ = |pair: Option<(&String, &String)>| {
            pair.filter(|(expected, found)| expected != found)
                .map(|(expected, found)| (expected.clone(), found.clone()))
        };
        let topics = self.topic.as_ref().zip(now.topic.as_ref());
        let clusters = self.cluster.as_ref().zip(now.cluster.as_ref());
        if topics.is_some() && differ(topics).is_none() {
            return Ok(());
        }
        match (differ(topics), differ(clusters)) {
            (_, Some((expected, found))) => Err(AnotherTopic::AnotherCluster { expected, found }),
            (Some((expected, found)), None) if clusters.is_some() => {
                Err(AnotherTopic::MadeAgain { expected, found })
            }
            (Some((expected, found)), None) => Err(AnotherTopic::Either { expected, found }),
            (None, None) => Ok(()),
        }
    }

    /// Whether both are known to be of one topic.
    pub fn is_certainly(&self, now: &Self) -> bool {
        self.topic.is_some() && self.topic == now.topic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(topic: &str, cluster: &str) -> TopicIdentity {
        let known = |id: &str| (!id.is_empty()).then(|| id.to_owned());
        TopicIdentity { topic: known(topic), cluster: known(cluster) }
    }

    #[test]
    fn the_topics_id_decides_and_the_clusters_says_what_happened() {
        let recorded = |topic, cluster| identity(topic, cluster);
        let made_again = AnotherTopic::MadeAgain { expected: "a".to_owned(), found: "b".to_owned() };
        let either = AnotherTopic::Either { expected: "a".to_owned(), found: "b".to_owned() };
        let elsewhere = AnotherTopic::AnotherCluster { expected: "one".to_owned(), found: "two".to_owned() };
        for (recorded, now, expected) in [
            (recorded("a", "one"), identity("a", "one"), Ok(())),
            (recorded("a", "one"), identity("a", "two"), Ok(())),
            (recorded("a", "one"), identity("b", "one"), Err(&made_again)),
            (recorded("a", "one"), identity("b", "two"), Err(&elsewhere)),
            (recorded("a", ""), identity("b", "two"), Err(&either)),
            (recorded("a", "one"), identity("b", ""), Err(&either)),
            (recorded("a", "one"), identity("", "two"), Err(&elsewhere)),
            (recorded("", "one"), identity("b", "two"), Err(&elsewhere)),
            (recorded("", "one"), identity("", "one"), Ok(())),
            (recorded("a", ""), identity("", ""), Ok(())),
            (recorded("", ""), identity("b", "two"), Ok(())),
        ] {
            assert_eq!(recorded.check(&now).as_ref(), expected.as_ref().map_err(|other| *other));
        }
    }

    #[test]
    fn only_ids_make_it_certain() {
        assert!(identity("a", "one").is_certainly(&identity("a", "two")));
        assert!(!identity("", "one").is_certainly(&identity("", "one")));
        assert!(!identity("a", "").is_certainly(&identity("", "")));
    }
}

//! How far the sources are, and which hour has ended for a collection.

use std::collections::BTreeMap;

use shared::{cluster_time::ClusterTime, source_watermark::SourceWatermark};

use crate::topic_content::TopicContent;

/// Every source's committed position, as last read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watermarks {
    sources: BTreeMap<String, SourceWatermark>,
}

impl Watermarks {
    pub fn set(&mut self, source: &str, watermark: SourceWatermark) {
        self.sources.insert(source.to_owned(), watermark);
    }

    /// The source is retired: nobody waits for it any more.
    pub fn retire(&mut self, source: &str) {
        self.sources.remove(source);
    }

    /// Every event of this collection before it is in Kafka; `None` if no source reads the collection. Every source writes to the control topic.
    pub fn of(&self, content: &TopicContent) -> Option<ClusterTime> {
        let covers = |source: &&SourceWatermark| match content {
            TopicContent::Data(namespace) => source.scope.covers(namespace),
            TopicContent::Control => true,
        };
        let covering = self.sources.values().filter(covers);
        covering.map(|source| source.cluster_time).min()
    }
}

#[cfg(test)]
mod tests {
    use shared::{namespace::Namespace, source_watermark::ScopeRecord};

    use super::*;

    #[test]
    fn a_collection_waits_for_the_slowest_source_that_reads_it() {
        let at = |seconds, databases: &[&str]| SourceWatermark {
            cluster_time: ClusterTime::new(seconds, 0),
            scope: ScopeRecord {
                databases: databases.iter().map(|name| (*name).to_owned()).collect(),
                ..ScopeRecord::default()
            },
        };
        let orders = TopicContent::Data(Namespace::new("shop", "orders"));
        let mut watermarks = Watermarks::default();
        assert_eq!((watermarks.of(&orders), watermarks.of(&TopicContent::Control)), (None, None));
        watermarks.set("crm", at(10, &["crm"]));
        assert_eq!(watermarks.of(&orders), None);
        watermarks.set("all", at(30, &[]));
        watermarks.set("shop", at(20, &["shop"]));
        assert_eq!(watermarks.of(&orders), Some(ClusterTime::new(20, 0)));
        // Definitions wait for all sources, whatever they read.
        assert_eq!(watermarks.of(&TopicContent::Control), Some(ClusterTime::new(10, 0)));
        watermarks.retire("shop");
        assert_eq!(watermarks.of(&orders), Some(ClusterTime::new(30, 0)));
    }
}

//! The head of a partition's chain: a small JSON object per Kafka partition that says where the chain begins and which
//! file is its current one.
//!
//! DESIGN §5 rule 2 fixes it. Everything in it changes by compare-and-set only. Nobody creates a file that the head
//! does not name, and nobody moves the head off a file that is missing or not sealed; that is what keeps the chain
//! linear whoever writes.

use serde::{Deserialize, Serialize};
use shared::{kafka_position::KafkaOffset, namespace::Namespace};

use crate::{
    file_metadata::{LastEvents, OffsetRuns},
    lake_path::LakePath,
    topic_content::TopicContent,
    topic_identity::TopicIdentity,
};

/// So many offsets before its end a chain can be held against the log ([`crate::partition`]). A transaction of one record takes two.
pub const LOOK_BACK_OFFSETS: u64 = 16;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub topic: String,
    pub partition: i32,
    /// Kafka's topic id (KIP-516), base64 as Kafka prints it; `None` if the broker has none, then it is not compared.
    pub topicid: Option<String>,
    /// The id of Kafka's cluster, as of the last time that a sink wrote the head for another reason; heads of before have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusterid: Option<String>,
    /// The folder, fixed for all groups by whoever saw the first record. That of the control topic is of no database and no collection.
    pub db: Option<String>,
    pub coll: Option<String>,
    /// Where the chain begins.
    pub start: KafkaOffset,
    /// The function from a record to its hour.
    pub layout: u32,
    /// The current file; `None` until the first record.
    pub path: Option<LakePath>,
    pub first: Option<KafkaOffset>,
    /// The current file has been there: if it is missing, it was lost.
    pub created: bool,
    /// The last events before `first`, which the current file may repeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lastevent: Option<LastEvents>,
    /// Dead letters among the last [`LOOK_BACK_OFFSETS`] offsets before `first`; `None` if that is not known, as in heads that were made again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadletters: Option<OffsetRuns>,
    /// Up to here, exclusive, there is nothing to read that is not durable. Moves no boundary: the next file still
    /// begins at `next`.
    pub scanned: KafkaOffset,
}

impl Head {
    /// # Errors
    /// The text says what is wrong with the bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let head: Self =
            serde_json::from_slice(bytes).map_err(|error| format!("not the head of a chain: {error}"))?;
        if head.db.is_some() != head.coll.is_some() {
            return Err("not the head of a chain: it has one of `db` and `coll` without the other".to_owned());
        }
        Ok(head)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a head is JSON")
    }

    /// What the chain's rows are of, which says where its files lie; `None` until the first record.
    pub fn content(&self) -> Option<TopicContent> {
        self.path.as_ref()?;
        match (&self.db, &self.coll) {
            (Some(db), Some(coll)) => Some(TopicContent::Data(Namespace::new(db.clone(), coll.clone()))),
            (None, None) => Some(TopicContent::Control),
            // `parse` refuses it.
            (Some(_), None) | (None, Some(_)) => None,
        }
    }

    /// The topic that the chain was written from.
    pub fn topic_identity(&self) -> TopicIdentity {
        TopicIdentity { topic: self.topicid.clone(), cluster: self.clusterid.clone() }
    }

    /// What it says of a folder: database and collection.
    pub fn names_of(content: &TopicContent) -> (Option<String>, Option<String>) {
        content.namespace().map(|namespace| (namespace.db.clone(), namespace.coll.clone())).unzip()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_stored_form_is_the_one_that_design_names() {
        let head = Head {
            topic: "atlas.shop.orders".to_owned(),
            partition: 0,
            topicid: Some("x2f6jDKGSVO8GbVr2ZQ0Mg".to_owned()),
            clusterid: None,
            db: Some("shop".to_owned()),
            coll: Some("orders".to_owned()),
            start: KafkaOffset::ZERO,
            layout: 1,
            path: Some(LakePath::new("shop/orders/f").unwrap()),
            first: Some(KafkaOffset::new(7)),
            created: true,
            lastevent: None,
            deadletters: None,
            scanned: KafkaOffset::new(9),
        };
        let text = "{\"topic\":\"atlas.shop.orders\",\"partition\":0,\"topicid\":\"x2f6jDKGSVO8GbVr2ZQ0Mg\",\"db\":\"shop\",\
                    \"coll\":\"orders\",\"start\":0,\"layout\":1,\"path\":\"shop/orders/f\",\"first\":7,\"created\":true,\
                    \"scanned\":9}";
        assert_eq!(String::from_utf8(head.to_bytes()).unwrap(), text);
        assert_eq!(Head::parse(text.as_bytes()).as_ref(), Ok(&head));
        assert!(Head::parse(b"{}").is_err());
        // Heads of before have no cluster.
        let of_cluster = Head { clusterid: Some("MkU3OEVBNTcwNTJENDM2Qg".to_owned()), ..head.clone() };
        let with_cluster = text.replace("\"db\":", "\"clusterid\":\"MkU3OEVBNTcwNTJENDM2Qg\",\"db\":");
        assert_eq!(String::from_utf8(of_cluster.to_bytes()).unwrap(), with_cluster);
        assert_eq!(Head::parse(with_cluster.as_bytes()), Ok(of_cluster));
        let of = |head: &Head| head.content();
        assert_eq!(of(&head), Some(TopicContent::Data(Namespace::new("shop", "orders"))));
        let control = Head { db: None, coll: None, ..head };
        assert_eq!(of(&control), Some(TopicContent::Control));
        assert_eq!(of(&Head { path: None, ..control }), None);
        assert!(Head::parse(text.replace("shop/orders/f", "../f").as_bytes()).is_err());
    }

    #[test]
    fn last_events_of_one_source_look_as_they_always_did() {
        let head = |last: &str| {
            let text = format!(
                r#"{{"topic":"t","partition":0,"topicid":null,"db":null,"coll":null,"start":0,"layout":1,"path":null,"first":null,"created":false,"lastevent":{last},"scanned":0}}"#
            );
            let head = Head::parse(text.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(head.to_bytes()).unwrap(), text);
            head.lastevent
        };
        let mut last = None;
        LastEvents::take(&mut last, "8201", "a/1");
        assert_eq!(head(r#"{"eventid":"8201","source":"a/1"}"#), last);
        LastEvents::take(&mut last, "8200", "b/1");
        let both = r#"{"eventid":"8200","source":"b/1","others":[{"eventid":"8201","source":"a/1"}]}"#;
        assert_eq!(head(both), last);
    }

    /// A regression: it was taken for the control topic's.
    #[test]
    fn a_head_with_half_of_a_collections_name_is_damaged() {
        let head = |db: &str, coll: &str| {
            let text = format!(
                r#"{{"topic":"t","partition":0,"topicid":null,"db":{db},"coll":{coll},"start":0,"layout":1,"path":"f","first":0,"created":true,"scanned":0}}"#
            );
            Head::parse(text.as_bytes())
        };
        assert_eq!(head("null", "null").unwrap().content(), Some(TopicContent::Control));
        assert!(head("\"shop\"", "\"orders\"").is_ok());
        for half in [head("\"shop\"", "null"), head("null", "\"orders\"")] {
            assert!(half.unwrap_err().contains("`db` and `coll`"));
        }
    }
}

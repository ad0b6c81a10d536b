//! The judge: what MongoDB says it did, against what is in Kafka and in the lake.
//!
//! ```text
//!   MongoDB ──(the driver's own change stream)──▶ Ledger ──▶ Expected ─┐
//!      └──────▶ source ──▶ Kafka ───(kafka_reader)──────────▶ records ─┼─▶ judge ──▶ violations (none = passed)
//!                            └──▶ sink ──▶ lake ──(lake_reader)─▶ files ┘
//! ```
//!
//! Independence is the point: events come through the driver's own resumable stream, values are compared with the `bson`
//! crate's decoding by [`extended_json`], files are read by `lake_reader`. Not one function of the product is used.
//! The rules are those of DESIGN §3 and §5; each violation has a [`ViolationKind`] that a planted bug can be asked for.

mod chain_rules;
mod collector;
mod event;
mod event_hour;
pub mod extended_json;
mod flat_line;
mod kafka_rules;
mod line_rules;
#[cfg(test)]
mod tests;
mod violation;

use std::collections::BTreeMap;

pub use collector::{Ledger, MARKER_COLLECTION, Scope};
pub use event::{EventKind, ExpectedEvent};
pub use violation::{Violation, ViolationKind, Violations};

use crate::{
    kafka_reader::{KafkaContent, KafkaReader, KafkaRecord},
    lake_reader::{LakeContent, LakeReader},
};

/// Everything that happened in a scope, in the order of the stream.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    pub events: Vec<ExpectedEvent>,
}

/// Where the product was told to put things.
#[derive(Clone, Debug)]
pub struct Topics {
    prefix: String,
    source_id: String,
}

impl Topics {
    /// As `TOPIC_PREFIX` and `SOURCE_ID` of the source.
    pub fn new(prefix: impl Into<String>, source_id: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), source_id: source_id.into() }
    }

    /// All topics begin with this: the prefix and its dot.
    pub fn prefix(&self) -> String {
        format!("{}.", self.prefix)
    }

    pub fn control(&self) -> String {
        format!("{}.control", self.prefix)
    }

    pub fn dead_letters(&self) -> String {
        format!("{}.dlq", self.prefix)
    }

    pub fn tokens(&self) -> String {
        format!("{}.resume-tokens-{}", self.prefix, self.source_id)
    }

    /// A data topic has at least two parts after the prefix.
    pub fn is_data(&self, topic: &str) -> bool {
        topic.strip_prefix(&self.prefix()).is_some_and(|rest| rest.contains('.'))
    }

    /// What a sink writes into the lake.
    pub fn is_archived(&self, topic: &str) -> bool {
        self.is_data(topic) || topic == self.control()
    }

    pub fn source_id(&self) -> &str {
        &self.source_id
    }
}

/// What a judgement is made of: content, read once, so that one look is judged and not several.
#[derive(Clone, Debug)]
pub struct Evidence {
    pub topics: Topics,
    pub kafka: KafkaContent,
    /// `None` where no sink ran.
    pub lake: Option<LakeContent>,
    /// What the sink's group has committed to Kafka, by topic and partition.
    pub committed: BTreeMap<(String, i32), i64>,
}

impl Evidence {
    /// Reads everything under the prefix.
    ///
    /// # Errors
    /// If Kafka cannot be read.
    pub async fn of_kafka(topics: &Topics, kafka: &KafkaReader) -> anyhow::Result<Self> {
        let kafka = kafka.read_prefix(&topics.prefix()).await?;
        Ok(Self { topics: topics.clone(), kafka, lake: None, committed: BTreeMap::new() })
    }

    /// Reads everything under the prefix, the offsets of a sink's group, and the lake.
    ///
    /// # Errors
    /// If Kafka or the lake cannot be read.
    pub async fn of_kafka_and_lake(
        topics: &Topics,
        kafka: &KafkaReader,
        group: &str,
        lake: &LakeReader,
    ) -> anyhow::Result<Self> {
        let evidence = Self::of_kafka(topics, kafka).await?;
        let archived = evidence.kafka.topics.keys().filter(|topic| topics.is_archived(topic)).cloned();
        // Before the lake: what is committed must be durable already, whatever a running sink does meanwhile.
        let committed = kafka.committed(group, archived).await?;
        Ok(Self { lake: Some(lake.read().await?), committed, ..evidence })
    }

    /// How many records the data topics hold.
    pub fn data_records(&self) -> usize {
        self.records_of(|topic| self.topics.is_data(topic))
    }

    /// How many records the data topics and the control topic hold.
    pub fn archived_records(&self) -> usize {
        self.records_of(|topic| self.topics.is_archived(topic))
    }

    fn records_of(&self, wanted: impl Fn(&str) -> bool) -> usize {
        let topics = self.kafka.topics.iter().filter(|(topic, _)| wanted(topic));
        topics.flat_map(|(_, parts)| parts.values()).map(|part| part.records.len()).sum()
    }

    /// How many dead letters there are.
    pub fn dead_letters(&self) -> usize {
        self.letters().count()
    }

    /// What the dead-letter topic holds, without the markers of what was done with them.
    pub fn letters(&self) -> impl Iterator<Item = &KafkaRecord> {
        let records = self.kafka.records(&self.topics.dead_letters());
        records.filter(|record| record.header("dlq-marker").is_none())
    }
}

impl Expected {
    /// The whole judgement: MongoDB against Kafka, Kafka against the lake, and the lake's chains by themselves.
    pub fn judge(&self, evidence: &Evidence) -> Violations {
        let mut violations = Violations::default();
        kafka_rules::judge(self, evidence, &mut violations);
        judge_lake(evidence, &mut violations);
        violations
    }

    /// Events by namespace, for messages.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for event in &self.events {
            *counts.entry(format!("{}.{}", event.db, event.coll.as_deref().unwrap_or("-"))).or_default() += 1;
        }
        counts
    }
}

/// Kafka against the lake only, for records that no MongoDB event stands behind.
pub fn judge_lake(evidence: &Evidence, violations: &mut Violations) {
    if let Some(lake) = &evidence.lake {
        let chains = chain_rules::judge(lake, violations);
        chain_rules::judge_offsets(&chains, &evidence.committed, violations);
        line_rules::judge(evidence, &chains, violations);
    }
}

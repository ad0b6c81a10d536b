//! `_chain/<topic>/gaps.json`: records that Kafka had expired before they were written, and that an operator has given up.
//!
//! `run --accept-gap <topic>` is the only writer. The marker comes first, by compare-and-set; then the chain's position moves behind the gap: on the
//! open file, by recommitting what it holds, or else as the head's `scanned`. So nothing is passed over that is not written down.

use serde::{Deserialize, Serialize};
use shared::kafka_position::KafkaOffset;

use crate::{
    lake::{ETag, Lake, LakeError},
    lake_path::LakePath,
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gaps {
    pub topic: String,
    /// In the order in which they were accepted.
    pub gaps: Vec<Gap>,
}

/// What is lost for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub partition: i32,
    /// The first offset that is missing. Some of them may have been markers of transactions.
    pub from: KafkaOffset,
    /// The first offset behind it.
    pub to: KafkaOffset,
    /// By the sink's clock, RFC 3339.
    pub acceptedat: String,
}

impl Gaps {
    pub fn new(topic: &str) -> Self {
        Self { topic: topic.to_owned(), gaps: Vec::new() }
    }

    /// # Errors
    /// The text says what is wrong with the bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| format!("not a record of gaps: {error}"))
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("the record is JSON")
    }

    pub fn has(&self, partition: i32, from: KafkaOffset, to: KafkaOffset) -> bool {
        self.gaps.iter().any(|gap| (gap.partition, gap.from, gap.to) == (partition, from, to))
    }

    /// Offsets of a partition that are lost. Two attempts at one gap, between which Kafka lost more, are one.
    pub fn lost_of(&self, partition: i32) -> u64 {
        let mut ranges: Vec<(u64, u64)> = self
            .gaps
            .iter()
            .filter(|gap| gap.partition == partition)
            .map(|gap| (gap.from.get(), gap.to.get()))
            .collect();
        ranges.sort_unstable();
        let (mut lost, mut reached) = (0, 0);
        for (from, to) in ranges {
            lost += to.saturating_sub(from.max(reached));
            reached = reached.max(to);
        }
        lost
    }
}

/// The gaps of a topic; `None` if there are none.
///
/// # Errors
/// As the lake says, and if what is there is no such record.
pub async fn gaps(lake: &Lake, topic: &str) -> Result<Option<(Gaps, ETag)>, LakeError> {
    let path = LakePath::gaps(topic);
    let Some(document) = lake.read_document(&path).await? else { return Ok(None) };
    let record = Gaps::parse(&document.bytes).map_err(|what| LakeError::Damaged { path, what })?;
    Ok(Some((record, document.etag)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_lost_once() {
        let gap = |partition, from, to| Gap {
            partition,
            from: KafkaOffset::new(from),
            to: KafkaOffset::new(to),
            acceptedat: "2026-11-20T07:00:00.000Z".to_owned(),
        };
        let gaps = Gaps {
            topic: "atlas.shop.orders".to_owned(),
            gaps: vec![gap(0, 10, 20), gap(1, 0, 5), gap(0, 10, 25), gap(0, 30, 31), gap(0, 12, 13)],
        };
        assert_eq!((gaps.lost_of(0), gaps.lost_of(1), gaps.lost_of(2)), (16, 5, 0));
    }
}

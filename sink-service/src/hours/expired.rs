//! `_chain/<topic>/expired.json`: what was removed from the lake on purpose, by `sink-service expire`.
//!
//! It is written hour by hour, before a file is removed, and says what *may* be missing: an interrupted removal is told from damage, and typed again. Of
//! an hour that stays nothing is written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::kafka_position::{KafkaOffset, TopicPartition};

use crate::{
    event_hour::EventHour,
    file_metadata::LastEvents,
    lake::{ETag, Lake, LakeError},
    lake_path::LakePath,
};

/// Offsets from the first to the second, exclusive.
type Range = (KafkaOffset, KafkaOffset);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expired {
    pub topic: String,
    /// Hours before this one were removed, but for those that a chain still stood in. Rows that came later make them again.
    pub before: EventHour,
    /// By partition, which offsets the removed files held. In order; none touches the next.
    partitions: BTreeMap<i32, Vec<Range>>,
    /// By partition and end of a range, the last events before it: what follows may repeat them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    lastevents: BTreeMap<i32, BTreeMap<KafkaOffset, LastEvents>>,
}

impl Expired {
    pub fn new(topic: &str, before: EventHour) -> Self {
        Self { topic: topic.to_owned(), before, partitions: BTreeMap::new(), lastevents: BTreeMap::new() }
    }

    /// # Errors
    /// The text says what is wrong with the bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| format!("not a record of expired hours: {error}"))
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("the record is JSON")
    }

    /// Takes note of a file that is to be removed.
    pub fn add(&mut self, partition: i32, first: KafkaOffset, next: KafkaOffset, last: Option<&LastEvents>) {
        let lastevents = self.lastevents.entry(partition).or_default();
        if let Some(last) = last {
            lastevents.insert(next, last.clone());
        }
        let ranges = self.partitions.entry(partition).or_default();
        ranges.push((first, next));
        ranges.sort_unstable();
        let mut joined: Vec<Range> = Vec::with_capacity(ranges.len());
        for (first, next) in ranges.drain(..) {
            match joined.last_mut() {
                Some((_, end)) if *end >= first => *end = next.max(*end),
                _ => joined.push((first, next)),
            }
        }
        lastevents.retain(|end, _| joined.iter().any(|(_, next)| next == end));
        if lastevents.is_empty() {
            self.lastevents.remove(&partition);
        }
        *ranges = joined;
    }

    /// The last events before the end of a range that was removed; the outer `None` if no range ends here.
    pub fn event_before(&self, partition: i32, offset: KafkaOffset) -> Option<Option<LastEvents>> {
        let ends = self.partitions.get(&partition)?.iter().any(|(_, next)| *next == offset);
        let last = || self.lastevents.get(&partition)?.get(&offset).cloned();
        ends.then(last)
    }

    /// What of a range was not removed.
    pub fn left_of(&self, partition: i32, from: KafkaOffset, to: KafkaOffset) -> Vec<Range> {
        let mut left = Vec::new();
        let mut at = from;
        for (first, next) in self.partitions.get(&partition).into_iter().flatten() {
            if at >= to {
                break;
            }
            if *first > at {
                left.push((at, to.min(*first)));
            }
            at = at.max(*next);
        }
        if at < to {
            left.push((at, to));
        }
        left
    }

    /// Whether the whole range was removed.
    pub fn holds(&self, partition: i32, from: KafkaOffset, to: KafkaOffset) -> bool {
        self.left_of(partition, from, to).is_empty()
    }
}

/// What was removed of a topic on purpose; `None` if nothing was.
///
/// # Errors
/// As the lake says, and if what is there is no such record.
pub async fn expired(lake: &Lake, topic: &str) -> Result<Option<(Expired, ETag)>, LakeError> {
    let path = LakePath::expired(topic);
    let Some(document) = lake.read_document(&path).await? else { return Ok(None) };
    let record = Expired::parse(&document.bytes).map_err(|what| LakeError::Damaged { path, what })?;
    Ok(Some((record, document.etag)))
}

/// Whether a file of this range may be missing.
pub fn may_be_missing(
    expired: Option<&Expired>,
    partition: &TopicPartition,
    first: KafkaOffset,
    next: KafkaOffset,
) -> bool {
    expired.is_some_and(|expired| expired.holds(partition.partition, first, next))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;
    use crate::file_metadata::LastEvent;

    #[test]
    fn neighbours_become_one_range() {
        let offset = KafkaOffset::new;
        let mut expired = Expired::new("atlas.shop.orders", EventHour::EPOCH.next().unwrap());
        for (first, next) in [(10, 20), (0, 5), (5, 10), (30, 40)] {
            let last = LastEvent::new(&format!("82{next:04}"), "w/1").into();
            expired.add(1, offset(first), offset(next), Some(&last));
        }
        let text = String::from_utf8(expired.to_bytes()).unwrap();
        assert_eq!(
            text,
            r#"{"topic":"atlas.shop.orders","before":"1970-01-01T01:00:00Z","partitions":{"1":[[0,20],[30,40]]},"lastevents":{"1":{"20":{"eventid":"820020","source":"w/1"},"40":{"eventid":"820040","source":"w/1"}}}}"#
        );
        assert_eq!(Expired::parse(text.as_bytes()).unwrap(), expired);
        assert!(expired.holds(1, offset(3), offset(20)) && !expired.holds(0, offset(3), offset(20)));
        assert_eq!(
            expired.left_of(1, offset(15), offset(50)),
            [(offset(20), offset(30)), (offset(40), offset(50))]
        );
    }

    proptest! {
        #[test]
        fn what_is_left_is_what_nobody_removed(
            removed in proptest::collection::vec((0_u64..60, 1_u64..10), 0..8),
            from in 0_u64..60,
            length in 0_u64..40,
        ) {
            let mut expired = Expired::new("t", EventHour::EPOCH);
            for (first, length) in &removed {
                expired.add(0, KafkaOffset::new(*first), KafkaOffset::new(first + length), None);
            }
            let to = from + length;
            let left = expired.left_of(0, KafkaOffset::new(from), KafkaOffset::new(to));
            for offset in from..to {
                let gone = removed.iter().any(|(first, length)| (*first..first + length).contains(&offset));
                let kept = left.iter().any(|(first, next)| (first.get()..next.get()).contains(&offset));
                prop_assert_eq!(gone, !kept, "offset {}", offset);
            }
        }
    }
}

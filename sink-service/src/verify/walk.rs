//! One partition's result in the making, and what its chain alone shows.

use std::{
    collections::{HashMap, HashSet, hash_map::RandomState},
    hash::{BuildHasher, Hash},
};

use serde::Serialize;
use shared::kafka_position::{KafkaOffset, TopicPartition};

use crate::{
    file_metadata::FileMetadata, head::Head, hours::expired::Expired, lake::ListedFile, lake_path::LakePath,
};

/// How many differences of one partition are kept for showing; all are counted.
const DIFFERENCES_SHOWN: usize = 10;

/// One partition's result.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionResult {
    pub topic: String,
    pub partition: i32,
    /// Where the chain begins and ends; `None` if there is no chain.
    pub start: Option<u64>,
    pub end: Option<u64>,
    pub files: usize,
    pub rows: u64,
    pub bytes: u64,
    pub dead_letters: u64,
    pub tombstones: u64,
    /// Records of events that the partition has already: no rows.
    pub repeats: u64,
    /// Rows of a snapshot that are there already, where that is no difference.
    pub repeated_snapshot_rows: u64,
    /// Offsets that were lost in Kafka and given up.
    pub lost: u64,
    /// Records in Kafka behind the chain's end.
    pub pending: u64,
    /// Rows whose records Kafka no longer has: checked by their file alone.
    pub unconfirmed: u64,
    /// Files of reprints that were compared too; their rows are those of the chain's files, and not counted again.
    pub reprinted: usize,
    pub differences: u64,
    /// The first of them.
    pub shown: Vec<String>,
}

impl PartitionResult {
    /// A partition whose part of the lake cannot be read.
    pub fn unreadable(partition: &TopicPartition, what: String) -> Self {
        let mut walk = Walk::new(partition, Delivery::ExactlyOnce);
        walk.differs(format!("{what}. Nothing more of this partition was compared"));
        walk.result
    }
}

/// Event ids seen so far, by topic and source: each may come once. Kept as 64-bit hashes.
#[derive(Default)]
pub(super) struct EventIds {
    hasher: RandomState,
    seen: HashMap<String, HashSet<u64>>,
}

impl EventIds {
    pub(super) fn contains(&self, topic: &str, id: impl Hash) -> bool {
        self.seen.get(topic).is_some_and(|seen| seen.contains(&self.hasher.hash_one(id)))
    }

    /// Whether it is new.
    pub(super) fn insert(&mut self, topic: &str, id: impl Hash) -> bool {
        let hash = self.hasher.hash_one(id);
        match self.seen.get_mut(topic) {
            Some(seen) => seen.insert(hash),
            None => self.seen.entry(topic.to_owned()).or_default().insert(hash),
        }
    }
}

/// How the topic's sources deliver, as the operator has it: records do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    ExactlyOnce,
    /// Rows of a snapshot may come twice: they are never taken for repeats.
    AtLeastOnce,
}

/// A partition's result in the making.
pub(super) struct Walk {
    pub(super) result: PartitionResult,
    delivery: Delivery,
}

impl Walk {
    pub(super) fn new(partition: &TopicPartition, delivery: Delivery) -> Self {
        Self {
            delivery,
            result: PartitionResult {
                topic: partition.topic.to_string(),
                partition: partition.partition,
                start: None,
                end: None,
                files: 0,
                rows: 0,
                bytes: 0,
                dead_letters: 0,
                tombstones: 0,
                repeats: 0,
                repeated_snapshot_rows: 0,
                lost: 0,
                pending: 0,
                unconfirmed: 0,
                reprinted: 0,
                differences: 0,
                shown: Vec::new(),
            },
        }
    }

    pub(super) fn differs(&mut self, what: String) {
        self.result.differences += 1;
        if self.result.shown.len() < DIFFERENCES_SHOWN {
            self.result.shown.push(what);
        }
    }

    /// Takes over what was found in files that are no files of the chain.
    pub(super) fn absorb(&mut self, other: Self) {
        let PartitionResult { differences, shown, .. } = other.result;
        self.result.differences += differences;
        let room = DIFFERENCES_SHOWN.saturating_sub(self.result.shown.len());
        self.result.shown.extend(shown.into_iter().take(room));
    }

    /// The row at `offset` has an event id that another row has.
    pub(super) fn comes_again(&mut self, path: &LakePath, offset: KafkaOffset, of_snapshot: bool) {
        match (of_snapshot, self.delivery) {
            (false, _) => self.differs(format!("{path}: the event at offset {offset} is there twice")),
            (true, Delivery::AtLeastOnce) => self.result.repeated_snapshot_rows += 1,
            (true, Delivery::ExactlyOnce) => self.differs(format!(
                "{path}: the snapshot's row at offset {offset} is there twice (if its source delivers at least once, that may be: --at-least-once)"
            )),
        }
    }

    pub(super) fn pending(&mut self, count: u64, drained: bool, what: &str) {
        self.result.pending = count;
        if drained {
            self.differs(format!("{count} {what}"));
        }
    }

    /// Returns where the chain ends.
    pub(super) fn check_chain(
        &mut self,
        head: &Head,
        files: &[ListedFile],
        expired: Option<&Expired>,
    ) -> KafkaOffset {
        let gone = |from, to| expired.is_some_and(|expired| expired.holds(head.partition, from, to));
        let mut expected = head.start;
        for (index, ListedFile { path, metadata }) in files.iter().enumerate() {
            let FileMetadata { first, next, .. } = metadata;
            if *first > expected && !gone(expected, *first) {
                self.differs(format!("gap: nothing holds offsets {expected} to {first}, before {path}"));
            } else if *first < expected {
                self.differs(format!(
                    "overlap: {path} begins at {first}, the file before it ends at {expected}"
                ));
            }
            if next <= first {
                self.differs(format!("{path} holds no offsets: {first} to {next}"));
            }
            if index + 1 < files.len() && !metadata.sealed {
                self.differs(format!("{path} has a successor but is not sealed"));
            }
            expected = *next;
        }
        if let Some(first) = head.first.filter(|first| *first > expected && gone(expected, *first)) {
            expected = first;
        }
        let last = files.last();
        let names_last = head.path.as_ref() == last.map(|file| &file.path);
        let names_the_next =
            !head.created && last.is_none_or(|file| file.metadata.sealed) && head.first == Some(expected);
        if !names_last && !names_the_next {
            let current = head.path.as_ref().map_or("none", |path| path.as_str());
            self.differs(format!(
                "the head's current file is {current}, the chain ends at {expected} without it"
            ));
        }
        if head.scanned > expected && last.is_some_and(|file| !file.metadata.sealed) {
            self.differs(format!(
                "the head scanned up to {}, but its file is open at {expected}",
                head.scanned
            ));
        }
        expected
    }

    /// Counts the files that are compared.
    pub(super) fn count(&mut self, files: &[ListedFile]) {
        self.result.files = files.len();
        for ListedFile { metadata, .. } in files {
            self.result.rows += metadata.rows;
            self.result.bytes += metadata.stored_size;
            self.result.dead_letters += metadata.dead_letters.count();
            self.result.tombstones += metadata.tombstones;
        }
    }
}

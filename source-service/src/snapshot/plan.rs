//! Which ranges there are to copy, and how far each of them is. No I/O.

use bson::raw::RawBson;
use chrono::{DateTime, Utc};
use shared::namespace::Namespace;

use super::{Chunk, RangeId};

/// Everything that is to be copied, and what was. Empty if there was never anything to copy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnapshotPlan {
    pub collections: Vec<CollectionCopy>,
}

/// One collection's copy.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectionCopy {
    pub namespace: Namespace,
    pub requested_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
    /// Documents in it when the copy began, as MongoDB estimated.
    pub estimate: u64,
    pub rows: u64,
    /// The number of the next chunk.
    pub next_chunk: u32,
    /// `None` until it is known where to cut.
    pub ranges: Option<Vec<RangeCopy>>,
}

/// A range of `_id` in BSON's order: from `from` on, up to but without `to`. `None` means the collection's end on that side.
#[derive(Clone, Debug, PartialEq)]
pub struct RangeCopy {
    pub from: Option<RawBson>,
    pub to: Option<RawBson>,
    /// The last row that is copied.
    pub copied_to: Option<RawBson>,
    pub done: bool,
}

/// How far all of it is, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub collections: usize,
    pub collections_done: usize,
    pub rows: u64,
    /// Documents that there are to copy, as estimated; never below `rows`.
    pub estimate: u64,
}

impl CollectionCopy {
    pub fn new(namespace: Namespace, now: DateTime<Utc>) -> Self {
        Self {
            namespace,
            requested_at: now,
            finished_at: None,
            estimate: 0,
            rows: 0,
            next_chunk: 0,
            ranges: None,
        }
    }

    pub fn is_done(&self) -> bool {
        self.finished_at.is_some()
    }

    /// It is known where to cut: at each of `bounds`, which are in order.
    pub fn cut(&mut self, estimate: u64, bounds: Vec<RawBson>) {
        let mut from = None;
        let mut ranges = Vec::with_capacity(bounds.len() + 1);
        for bound in bounds {
            let to = Some(bound);
            ranges.push(RangeCopy { from, to: to.clone(), copied_to: None, done: false });
            from = to;
        }
        ranges.push(RangeCopy { from, to: None, copied_to: None, done: false });
        self.estimate = estimate;
        self.ranges = Some(ranges);
    }

    /// What it is once this chunk of one of its ranges is committed.
    #[must_use]
    pub fn with(&self, chunk: &Chunk, now: DateTime<Utc>) -> Self {
        let mut after = self.clone();
        after.rows += chunk.rows() as u64;
        after.next_chunk += 1;
        let ranges = after.ranges.as_mut().expect("a chunk is of a range");
        let range = &mut ranges[chunk.range.range];
        if chunk.last.is_some() {
            range.copied_to.clone_from(&chunk.last);
        }
        range.done = chunk.is_last;
        if ranges.iter().all(|range| range.done) {
            after.finished_at = Some(now);
        }
        after
    }
}

impl SnapshotPlan {
    pub fn is_done(&self) -> bool {
        self.collections.iter().all(CollectionCopy::is_done)
    }

    /// The first collection of which it is not known where to cut, unless enough ranges are known to be busy with.
    pub fn to_be_cut(&self, ranges_wanted: usize) -> Option<usize> {
        if self.open_ranges().count() >= ranges_wanted {
            return None;
        }
        self.collections.iter().position(|collection| collection.ranges.is_none())
    }

    /// Ranges with something left to copy, in order: one collection is finished before the next one begins.
    pub fn open_ranges(&self) -> impl Iterator<Item = RangeId> {
        self.collections.iter().enumerate().flat_map(|(collection, copy)| {
            let ranges = copy.ranges.iter().flatten().enumerate();
            ranges.filter(|(_, range)| !range.done).map(move |(range, _)| RangeId { collection, range })
        })
    }

    pub fn range(&self, id: RangeId) -> (&CollectionCopy, &RangeCopy) {
        let collection = &self.collections[id.collection];
        let ranges = collection.ranges.as_ref().expect("only collections that are cut have ranges");
        (collection, &ranges[id.range])
    }

    pub fn progress(&self) -> Progress {
        let mut progress = Progress { collections: self.collections.len(), ..Progress::default() };
        for collection in &self.collections {
            progress.collections_done += usize::from(collection.is_done());
            progress.rows += collection.rows;
            progress.estimate +=
                if collection.is_done() { collection.rows } else { collection.estimate.max(collection.rows) };
        }
        progress
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn plan(bounds: Vec<RawBson>) -> SnapshotPlan {
        let mut copy = CollectionCopy::new(Namespace::new("shop", "orders"), DateTime::UNIX_EPOCH);
        copy.cut(100, bounds);
        SnapshotPlan { collections: vec![copy] }
    }

    #[test]
    fn ranges_tile_all_of_it() {
        let plan = plan(vec![RawBson::Int32(5), RawBson::String("m".to_owned())]);
        let ranges = plan.collections[0].ranges.clone().unwrap();
        let ends: Vec<_> = ranges.iter().map(|range| (range.from.clone(), range.to.clone())).collect();
        let (five, m) = (Some(RawBson::Int32(5)), Some(RawBson::String("m".to_owned())));
        assert_eq!(ends, [(None, five.clone()), (five, m.clone()), (m, None)]);
        assert_eq!(plan.open_ranges().count(), 3);
        assert_eq!(plan.progress(), Progress { collections: 1, collections_done: 0, rows: 0, estimate: 100 });
    }
}

//! Which ranges there are to copy, and how far each of them is. No I/O.

use bson::{Document, raw::RawBson};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared::namespace::Namespace;

use super::{Chunk, RangeId, ahead::RowsAhead, request::SnapshotRequest};

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
    /// The number of the next chunk; it goes on rising when the collection is copied again.
    pub next_chunk: u32,
    /// `None` until it is known where to cut.
    pub ranges: Option<Vec<RangeCopy>>,
    /// Why it ended without having copied everything; `None` while it goes on, and if it has.
    pub ended: Option<Ended>,
    /// The request that it does; `None` if the start asked for it.
    pub request: Option<String>,
    /// The request's own query; `None` leaves it to SNAPSHOT_FILTER_FILE.
    pub filter: Option<Document>,
    /// Rows that a torn transaction has committed: they are not sent again.
    pub ahead: RowsAhead,
}

/// Why a copy is over although not everything is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// The collection was dropped or renamed.
    Gone,
    /// It is a view or a time-series collection: change streams have no events of it either.
    NoCollection,
    /// The settings do not have it in scope.
    OutOfScope,
    /// OPERATIONS leaves inserts out, and rows are inserts.
    NoInserts,
}

impl Ended {
    /// For people.
    pub const fn why(self) -> &'static str {
        match self {
            Self::Gone => "the collection does not exist (any more): it was dropped or renamed",
            Self::NoCollection => {
                "it is a view or a time-series collection, of which change streams have no events either"
            }
            Self::OutOfScope => "it is not in the source's scope",
            Self::NoInserts => "OPERATIONS leaves out insert, and rows of a snapshot are inserts",
        }
    }
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
            ended: None,
            request: None,
            filter: None,
            ahead: RowsAhead::default(),
        }
    }

    /// Copied once more from its beginning. The numbers of chunks go on rising, so that event ids do.
    #[must_use]
    pub fn again(&self, now: DateTime<Utc>) -> Self {
        Self { next_chunk: self.next_chunk, ..Self::new(self.namespace.clone(), now) }
    }

    /// What an operator has asked for.
    #[must_use]
    pub fn asked(self, request: &SnapshotRequest) -> Self {
        Self {
            requested_at: request.requested_at,
            request: Some(request.id.clone()),
            filter: request.filter.clone(),
            ..self
        }
    }

    /// Whether the copy is over with this chunk.
    pub fn is_last(&self, chunk: &Chunk) -> bool {
        let others =
            self.ranges.iter().flatten().enumerate().filter(|(place, _)| *place != chunk.range.range);
        chunk.is_last && others.map(|(_, range)| range).all(|range| range.done)
    }

    /// Over, without having copied everything.
    #[must_use]
    pub fn ended(self, why: Ended, now: DateTime<Utc>) -> Self {
        Self { finished_at: Some(now), ended: Some(why), ahead: RowsAhead::default(), ..self }
    }

    /// Rows of later chunks than the next one's number says are committed.
    #[must_use]
    pub fn with_ahead(&self, ahead: RowsAhead, next_chunk: u32) -> Self {
        let mut after = self.clone();
        after.ahead.extend(ahead);
        after.next_chunk = after.next_chunk.max(next_chunk);
        after
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

    /// What it is once this chunk of one of its ranges is committed. `found` are those of its rows that were committed before.
    #[must_use]
    pub fn with(&self, chunk: &Chunk, found: &RowsAhead, now: DateTime<Utc>) -> Self {
        let mut after = self.clone();
        after.ahead.remove(found);
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
            // Rows that were not met again: their documents are gone.
            after.ahead = RowsAhead::default();
        }
        after
    }
}

impl SnapshotPlan {
    pub fn find(&self, namespace: &Namespace) -> Option<&CollectionCopy> {
        self.collections.iter().find(|copy| copy.namespace == *namespace)
    }

    /// In the place of the collection's former copy, if there was one.
    pub fn put(&mut self, copy: CollectionCopy) {
        match self.collections.iter_mut().find(|known| known.namespace == copy.namespace) {
            Some(known) => *known = copy,
            None => self.collections.push(copy),
        }
    }

    pub fn is_done(&self) -> bool {
        self.collections.iter().all(CollectionCopy::is_done)
    }

    /// The first collection of which it is not known where to cut, unless enough ranges are known to be busy with.
    pub fn to_be_cut(&self, ranges_wanted: usize) -> Option<usize> {
        if self.open_ranges().count() >= ranges_wanted {
            return None;
        }
        self.collections.iter().position(|copy| !copy.is_done() && copy.ranges.is_none())
    }

    /// Ranges with something left to copy, in order: one collection is finished before the next one begins.
    pub fn open_ranges(&self) -> impl Iterator<Item = RangeId> {
        self.collections.iter().enumerate().flat_map(|(collection, copy)| {
            let ranges = copy.ranges.iter().filter(|_| !copy.is_done()).flatten().enumerate();
            ranges.filter(|(_, range)| !range.done).map(move |(range, _)| RangeId { collection, range })
        })
    }

    pub fn range(&self, id: RangeId) -> (&CollectionCopy, &RangeCopy) {
        let collection = &self.collections[id.collection];
        let ranges = collection.ranges.as_ref().expect("only collections that are cut have ranges");
        (collection, &ranges[id.range])
    }

    /// Of what goes on: copies that were over before the oldest open one was asked for do not count. Of all if nothing goes on.
    pub fn progress(&self) -> Progress {
        let open = self.collections.iter().filter(|copy| !copy.is_done());
        let began = open.map(|copy| copy.requested_at).min();
        let counts = |copy: &&CollectionCopy| {
            began.is_none_or(|began| copy.finished_at.is_none_or(|finished| finished >= began))
        };
        let mut progress = Progress::default();
        for collection in self.collections.iter().filter(counts) {
            progress.collections += 1;
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

    #[test]
    fn a_second_copy_begins_again_but_for_its_chunks_numbers() {
        let mut plan = plan(vec![RawBson::Int32(5)]);
        let first = &mut plan.collections[0];
        first.next_chunk = 7;
        first.rows = 90;
        first.finished_at = Some(DateTime::UNIX_EPOCH);
        let request = SnapshotRequest {
            id: "r1".to_owned(),
            namespace: first.namespace.clone(),
            requested_at: DateTime::from_timestamp(60, 0).unwrap(),
            filter: Some(bson::doc! { "open": true }),
        };
        let again = first.again(Utc::now()).asked(&request);
        assert_eq!((again.next_chunk, again.rows, &again.ranges, again.is_done()), (7, 0, &None, false));
        plan.put(again);
        plan.put(CollectionCopy::new(Namespace::new("shop", "b"), DateTime::UNIX_EPOCH));
        assert_eq!((plan.collections.len(), plan.to_be_cut(4)), (2, Some(0)));
        assert_eq!(plan.find(&request.namespace).unwrap().request.as_deref(), Some("r1"));
    }

    #[test]
    fn progress_is_that_of_what_goes_on() {
        let mut plan = plan(Vec::new());
        plan.collections[0] = plan.collections[0].clone().ended(Ended::Gone, DateTime::UNIX_EPOCH);
        let mut open =
            CollectionCopy::new(Namespace::new("shop", "b"), DateTime::from_timestamp(60, 0).unwrap());
        (open.estimate, open.rows) = (50, 20);
        plan.put(open);
        let left = Progress { collections: 1, collections_done: 0, rows: 20, estimate: 50 };
        assert_eq!((plan.progress(), plan.open_ranges().count()), (left, 0));
    }
}

//! The snapshot's turns: while the stream stands still at a position, chunks are read as of it and published.
//!
//! A chunk that came into doubt is kept and sent again under the same ids before anything else, so that the tails decide, row for
//! row, what of it is committed already.

use std::time::{Duration, Instant};

use bson::{Document, rawdoc};
use chrono::Utc;
use shared::{backoff::Backoff, cluster_time::ClusterTime, namespace::Namespace};
use tokio_util::sync::CancellationToken;

use super::{Pump, Session, TURN, setback::Setback};
use crate::{
    batch::{self, Destination},
    snapshot::{
        Chunk, RangeId, RowIds,
        plan::{CollectionCopy, SnapshotPlan},
        reader::{RangeRead, ReadReport},
        record::copy_key,
    },
};

/// How long the stream stands still at a time, apart from the chunks that are on their way then.
const EPISODE: Duration = Duration::from_secs(1);
/// How often the log says how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// Bytes that a chunk should have: large enough that a transaction costs little, small enough that several fit the memory.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;
const BATCH_ROWS_FIRST: u32 = 1_000;
const BATCH_ROWS_MAX: u32 = 10_000;

/// `SNAPSHOT_…`.
#[derive(Clone, Debug)]
pub struct SnapshotSettings {
    /// Ranges that are read at the same time.
    pub parallelism: usize,
    /// Rows per second; `None` = as fast as it goes.
    pub rate: Option<u32>,
    /// By `db.coll`.
    pub filters: std::collections::BTreeMap<String, Document>,
}

/// The plan, and what of it is on its way.
pub(super) struct Copying {
    plan: SnapshotPlan,
    in_doubt: Option<InDoubt>,
    batch_rows: u32,
    /// When the last episode ended, and how long it took.
    episode: Option<(Instant, Duration)>,
    /// After an error, or for the sake of the rate.
    not_before: Option<Instant>,
    backoff: Backoff,
    pace: Option<Pace>,
}

/// What this process has copied, for the ETA.
struct Pace {
    began: Instant,
    rows: u64,
    told: Instant,
}

/// A chunk whose transaction may or may not be committed.
struct InDoubt {
    chunk: Box<Chunk>,
    ids: RowIds,
    /// Its collection's copy without it.
    before: CollectionCopy,
}

impl Default for Copying {
    fn default() -> Self {
        Self {
            plan: SnapshotPlan::default(),
            in_doubt: None,
            batch_rows: BATCH_ROWS_FIRST,
            episode: None,
            not_before: None,
            backoff: Backoff::default(),
            pace: None,
        }
    }
}

impl Copying {
    /// What is committed.
    pub(super) fn recovered(&mut self, plan: SnapshotPlan) {
        self.plan = plan;
    }

    /// A first start's plan.
    pub(super) fn plan_copies(&mut self, collections: Vec<Namespace>) {
        tracing::info!(collections = collections.len(), "a snapshot is to be copied");
        let copies = collections.into_iter().map(|namespace| CollectionCopy::new(namespace, Utc::now()));
        self.plan = SnapshotPlan { collections: copies.collect() };
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_doubt.is_some()
    }

    pub(super) fn is_done(&self) -> bool {
        self.plan.is_done()
    }

    /// Records of everything that is to be copied.
    pub(super) fn records(&self) -> impl Iterator<Item = (String, Vec<u8>)> {
        self.plan.collections.iter().map(|copy| (copy_key(&copy.namespace), copy.to_json()))
    }

    /// Whether it is the snapshot's turn: the stream has nothing to read, or has had as much time as the last episode took.
    fn is_due(&self, caught_up: bool) -> bool {
        let now = Instant::now();
        let rested = self.episode.is_none_or(|(ended, took)| now.duration_since(ended) >= took);
        !self.is_done() && (caught_up || rested) && self.not_before.is_none_or(|time| now >= time)
    }

    fn fit_batch(&mut self, chunk: &Chunk) {
        let (rows, bytes) = (chunk.rows(), chunk.batch.as_raw_document().as_bytes().len());
        if let Some(row_bytes) = bytes.checked_div(rows) {
            let fitting = u32::try_from(CHUNK_BYTES / row_bytes.max(1)).unwrap_or(BATCH_ROWS_MAX);
            self.batch_rows = fitting.clamp(2, BATCH_ROWS_MAX);
        }
    }
}

impl Pump {
    /// Copies for a while if it is the snapshot's turn.
    pub(super) fn copy(&mut self, session: &mut Session) -> Result<(), Setback> {
        self.resolve_chunk(session)?;
        if !self.copying.is_due(session.caught_up) {
            return Ok(());
        }
        let began = Instant::now();
        let rows_before = self.copying.pace.as_ref().map_or(0, |pace| pace.rows);
        self.copying.pace.get_or_insert(Pace { began, rows: 0, told: began });
        let cut = self.cut_collections();
        let read = if cut { self.copy_ranges(session, began)? } else { false };
        let took = began.elapsed();
        self.copying.episode = Some((Instant::now(), took));
        if read {
            self.copying.backoff.reset();
            let rows = self.copying.pace.as_ref().map_or(0, |pace| pace.rows) - rows_before;
            let rate = self.settings.snapshot.rate;
            self.copying.not_before =
                rate.map(|rate| began + Duration::from_secs_f64(rows_f64(rows) / f64::from(rate)));
        } else {
            self.copying.not_before = Some(Instant::now() + self.copying.backoff.next_delay());
        }
        self.tell_snapshot(false);
        Ok(())
    }

    /// Finds out where to cut as many collections as can be read at once. `false` if MongoDB did not say.
    fn cut_collections(&mut self) -> bool {
        let ranges = self.settings.snapshot.parallelism;
        while let Some(index) = self.copying.plan.to_be_cut(ranges) {
            let copy = &mut self.copying.plan.collections[index];
            match self.stream.cuts(&copy.namespace, ranges as u64) {
                Ok(cuts) => {
                    tracing::info!(namespace = %copy.namespace, estimate = cuts.estimate, ranges = cuts.bounds.len() + 1, "copying");
                    copy.cut(cuts.estimate, cuts.bounds);
                }
                Err(cause) => {
                    tracing::warn!(namespace = %copy.namespace, cause, "the snapshot waits for MongoDB");
                    return false;
                }
            }
        }
        true
    }

    /// One episode. `false` if a range could not be read.
    fn copy_ranges(&mut self, session: &mut Session, began: Instant) -> Result<bool, Setback> {
        let at = session.pending.cluster_time();
        let base = session.pending.event_id().to_owned();
        let ranges: Vec<RangeId> =
            self.copying.plan.open_ranges().take(self.settings.snapshot.parallelism).collect();
        let reads = ranges.into_iter().map(|id| self.range_read(id, at)).collect();
        let enough = CancellationToken::new();
        let _ends_with_this = enough.clone().drop_guard();
        let mut reports = self.stream.read_ranges(reads, &enough);
        let mut unbroken = true;
        let mut left = self.settings.snapshot.rate.map(u64::from);
        loop {
            if began.elapsed() >= EPISODE || left == Some(0) || self.stop.is_cancelled() {
                enough.cancel();
            }
            self.shown.turn();
            let report = self.runtime.block_on(async { tokio::time::timeout(TURN, reports.recv()).await });
            match report {
                Err(_elapsed) => {}
                Ok(None) => return Ok(unbroken),
                Ok(Some(ReadReport::Chunk(chunk))) => {
                    left = left.map(|left| left.saturating_sub(chunk.rows() as u64));
                    self.copying.fit_batch(&chunk);
                    let before = self.copying.plan.collections[chunk.range.collection].clone();
                    let ids = RowIds { base: base.clone(), time: at, chunk: before.next_chunk };
                    self.publish_chunk(session, InDoubt { chunk, ids, before })?;
                }
                Ok(Some(ReadReport::Broken(id, cause))) => {
                    unbroken = false;
                    let namespace = &self.copying.plan.collections[id.collection].namespace;
                    tracing::warn!(%namespace, cause, "a part of the snapshot could not be read: trying again");
                }
                Ok(Some(ReadReport::Stopped(stop))) => return Err(Setback::Stop(stop)),
            }
        }
    }

    fn range_read(&self, id: RangeId, at: ClusterTime) -> RangeRead {
        let (collection, range) = self.copying.plan.range(id);
        let filters = &self.settings.snapshot.filters;
        // A chunk is a quarter of a second's worth at most: some are on their way when an episode ends.
        let limit = self.settings.snapshot.rate.map_or(BATCH_ROWS_MAX, |rate| (rate / 4).max(2));
        RangeRead {
            id,
            namespace: collection.namespace.clone(),
            from: range.copied_to.clone().or_else(|| range.from.clone()),
            to: range.to.clone(),
            from_is_copied: range.copied_to.is_some(),
            at,
            batch_rows: self.copying.batch_rows.min(limit),
            filter: filters.get(&collection.namespace.to_string()).cloned().unwrap_or_default(),
        }
    }

    /// What came into doubt is sent again first, unless it turned out to be committed.
    fn resolve_chunk(&mut self, session: &mut Session) -> Result<(), Setback> {
        let Some(mut doubt) = self.copying.in_doubt.take() else { return Ok(()) };
        let collections = &mut self.copying.plan.collections;
        let place = collections.iter().position(|copy| copy.namespace == doubt.before.namespace);
        match place {
            Some(index) if collections[index].next_chunk == doubt.ids.chunk => {
                collections[index] = doubt.before.clone();
                doubt.chunk.range.collection = index;
                self.publish_chunk(session, doubt)
            }
            _ => Ok(()),
        }
    }

    /// A chunk's rows, how far its collection is, and the position: one transaction.
    fn publish_chunk(&mut self, session: &mut Session, doubt: InDoubt) -> Result<(), Setback> {
        let begun = Instant::now();
        if session.publisher.disturbed() {
            // Nothing of it was sent: it will be read again.
            return Err(Setback::Disturbed);
        }
        let (index, rows) = (doubt.chunk.range.collection, doubt.chunk.rows());
        let after = doubt.before.with(&doubt.chunk, Utc::now());
        let namespace = doubt.before.namespace.clone();
        self.copying.in_doubt = Some(doubt);
        if rows > 0 {
            let raw = rawdoc! { "db": namespace.db.as_str(), "coll": namespace.coll.as_str() };
            self.topics.intern(self.log.client(), raw.as_bytes(), &namespace)?;
            self.commit_topics(session)?;
        }
        let token = self.token_record(session, false).to_json();
        session.publisher.begin()?;
        let InDoubt { chunk, ids, .. } = self.copying.in_doubt.as_ref().expect("it was put there above");
        let mut figures = self.writer.write_rows(
            chunk,
            ids,
            &namespace,
            &mut Destination {
                tails: session.tails.as_ref(),
                topics: &mut self.topics,
                publisher: &mut session.publisher,
            },
        )?;
        let publisher = &mut session.publisher;
        batch::send_state(publisher, &self.token_topic, &copy_key(&namespace), &after.to_json())?;
        batch::send_state(publisher, &self.token_topic, &self.settings.source_id, &token)?;
        publisher.commit()?;
        self.copying.in_doubt = None;

        figures.seconds = begun.elapsed().as_secs_f64();
        self.totals.rows += self.topics.committed();
        self.totals.skipped += figures.skipped;
        self.metrics.batch_committed(&figures);
        if figures.stubs > 0 {
            self.writer.stubs_committed();
        }
        if after.is_done() {
            tracing::info!(%namespace, rows = after.rows, "copied");
        }
        self.copying.plan.collections[index] = after;
        if let Some(pace) = &mut self.copying.pace {
            pace.rows += rows as u64;
        }
        self.committed(session);
        self.tell_snapshot(self.copying.is_done());
        Ok(())
    }

    /// For `/status`, the metrics, and from time to time the log.
    pub(super) fn tell_snapshot(&mut self, now: bool) {
        let progress = self.copying.plan.progress();
        if progress.collections == 0 {
            return;
        }
        let left = progress.estimate.saturating_sub(progress.rows);
        let pace = self.copying.pace.as_mut().filter(|pace| pace.rows > 0);
        let eta = pace.as_ref().map(|pace| {
            Duration::from_secs_f64(pace.began.elapsed().as_secs_f64() * rows_f64(left) / rows_f64(pace.rows))
        });
        self.metrics.snapshot(progress, eta);
        self.shown.status.snapshot(progress, eta);
        if let Some(pace) = pace
            && (now || pace.told.elapsed() >= TOLD_EVERY)
        {
            pace.told = Instant::now();
            let percent = progress.rows * 100 / progress.estimate.max(1);
            let eta = eta.map(|eta| Duration::from_secs(eta.as_secs()));
            tracing::info!(
                rows = progress.rows,
                estimate = progress.estimate,
                percent,
                collections_left = progress.collections - progress.collections_done,
                ?eta,
                "snapshot"
            );
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a pace; exact up to 2^53 rows")]
fn rows_f64(rows: u64) -> f64 {
    rows as f64
}

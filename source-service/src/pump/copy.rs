//! The snapshot's turns: while the stream stands still at a position, chunks are read as of it and published.
//!
//! After a doubt nothing is sent again from memory: what of a chunk is committed is read back from Kafka ([`RowsAhead`]), and the rest of it is
//! read again from MongoDB.
//!
//! [`RowsAhead`]: crate::snapshot::ahead::RowsAhead

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bson::{Document, rawdoc};
use chrono::Utc;
use shared::{backoff::Backoff, cluster_time::ClusterTime, namespace::Namespace};
use tokio_util::sync::CancellationToken;

use super::{Pump, Session, TURN, requests::Requests, setback::Setback, tails_to_skip};
use crate::{
    batch::{self, Destination},
    kafka_log::LogError,
    publisher::Delivery,
    recovery::{self, Tails},
    snapshot::{
        Chunk, RangeId, RowIds,
        bar::SnapshotBar,
        catalog::Found,
        plan::{CollectionCopy, Ended, SnapshotPlan},
        reader::{RangeRead, ReadReport},
        record::copy_key,
    },
    token_record::{Position, TopicRecord},
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
    pub filters: BTreeMap<String, Document>,
}

/// The plan, and what of it is on its way.
pub(super) struct Copying {
    pub(super) plan: SnapshotPlan,
    pub(super) requests: Requests,
    /// Places of copies whose change is not committed yet.
    unrecorded: Vec<usize>,
    batch_rows: u32,
    /// When the last episode ended, and how long it took.
    episode: Option<(Instant, Duration)>,
    /// After an error, or for the sake of the rate.
    not_before: Option<Instant>,
    backoff: Backoff,
    pace: Option<Pace>,
    bar: SnapshotBar,
}

/// What this process has copied, for the ETA.
struct Pace {
    began: Instant,
    rows: u64,
    told: Instant,
}

impl Default for Copying {
    fn default() -> Self {
        Self {
            plan: SnapshotPlan::default(),
            requests: Requests::default(),
            unrecorded: Vec::new(),
            batch_rows: BATCH_ROWS_FIRST,
            episode: None,
            not_before: None,
            backoff: Backoff::default(),
            pace: None,
            bar: SnapshotBar::default(),
        }
    }
}

impl Copying {
    /// What is committed.
    pub(super) fn recovered(&mut self, plan: SnapshotPlan) {
        self.plan = plan;
        self.unrecorded.clear();
        // The chunk that came into doubt is read again first: as long as nothing else moves, under the same ids.
        (self.episode, self.not_before) = (None, None);
    }

    /// All of these are to be copied, whether they were before or not.
    pub(super) fn plan_copies(&mut self, collections: Vec<Namespace>) {
        tracing::info!(collections = collections.len(), "a snapshot is to be copied");
        for namespace in collections {
            let copy = match self.plan.find(&namespace) {
                Some(former) => former.again(Utc::now()),
                None => CollectionCopy::new(namespace, Utc::now()),
            };
            self.change(copy);
        }
    }

    /// Whether rows are committed that no record counts yet. Their keys must not change meanwhile.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.plan.collections.iter().any(|copy| !copy.ahead.is_empty())
    }

    /// To be committed with [`Self::unrecorded`].
    fn change(&mut self, copy: CollectionCopy) {
        let namespace = copy.namespace.clone();
        self.plan.put(copy);
        self.unrecorded.extend(self.plan.collections.iter().position(|copy| copy.namespace == namespace));
    }

    /// Whether nothing is left to copy, and nothing asked for.
    pub(super) fn is_done(&self) -> bool {
        self.plan.is_done() && !self.requests.are_open(&self.plan)
    }

    /// Records of what was changed and is not committed.
    pub(super) fn unrecorded(&self) -> Vec<(String, Vec<u8>)> {
        let changed = self.unrecorded.iter().map(|place| &self.plan.collections[*place]);
        changed.map(|copy| (copy_key(&copy.namespace), copy.to_json())).collect()
    }

    /// The records of [`Self::unrecorded`] are committed.
    pub(super) fn recorded(&mut self) {
        self.unrecorded.clear();
    }

    /// Whether it is the snapshot's turn: the stream has nothing to read, or has had as much time as the last episode took.
    fn is_due(&self, session: &Session) -> bool {
        let now = Instant::now();
        let rested = self.episode.is_none_or(|(ended, took)| now.duration_since(ended) >= took);
        !self.plan.is_done()
            && (session.caught_up || rested)
            && self.not_before.is_none_or(|time| now >= time)
            && has_place_for_rows(session)
    }

    fn fit_batch(&mut self, chunk: &Chunk) {
        let (rows, bytes) = (chunk.rows(), chunk.batch.as_raw_document().as_bytes().len());
        if let Some(row_bytes) = bytes.checked_div(rows) {
            let fitting = u32::try_from(CHUNK_BYTES / row_bytes.max(1)).unwrap_or(BATCH_ROWS_MAX);
            self.batch_rows = fitting.clamp(2, BATCH_ROWS_MAX);
        }
    }
}

/// Rows sort behind everything that is committed only at a token, which is there with the stream's first reply, and only
/// behind the tails: after a torn commit the stream begins before them, and rows that it read there would be taken for committed.
fn has_place_for_rows(session: &Session) -> bool {
    let Position::After(_) = session.pending else { return false };
    session.tails.as_ref().is_none_or(|tails| tails.are_before(session.pending.event_id()))
}

impl Pump {
    /// After a recovery: what of the open copies is committed without their records, and which of them may not go on.
    pub(super) fn review_copies(
        &mut self,
        topics: &BTreeMap<String, TopicRecord>,
        tails: &Tails,
        own: &str,
        token_time_ms: i64,
    ) -> Result<(), LogError> {
        let open: Vec<CollectionCopy> =
            self.copying.plan.collections.iter().filter(|copy| !copy.is_done()).cloned().collect();
        for mut copy in open {
            if let Some(why) = self.not_to_be_copied(&copy.namespace) {
                tracing::warn!(namespace = %copy.namespace, rows = copy.rows, why = why.why(), "its copy ends");
                self.copying.change(copy.ended(why, Utc::now()));
                continue;
            }
            if self.settings.delivery == Delivery::AtLeastOnce {
                continue;
            }
            let namespace = copy.namespace.clone();
            for (topic, _) in topics.iter().filter(|(_, record)| record.namespace == namespace) {
                let going_on = |busy: recovery::Busy<'_>| self.going_on(busy);
                let (log, chunk) = (&self.log, copy.next_chunk);
                let found =
                    recovery::read_rows_ahead(log, topic, own, tails, chunk, token_time_ms, going_on)?;
                if let Some((ahead, next_chunk)) = found {
                    tracing::info!(
                        %namespace,
                        rows = ahead.len(),
                        "a commit was torn: these rows are committed, and are not sent again"
                    );
                    copy = copy.with_ahead(ahead, next_chunk);
                    self.copying.change(copy.clone());
                }
            }
        }
        Ok(())
    }

    /// Why the settings do not let a collection be copied.
    pub(super) fn not_to_be_copied(&self, namespace: &Namespace) -> Option<Ended> {
        let stream = &self.settings.stream;
        if !stream.scope.contains(&namespace.db, &namespace.coll) {
            Some(Ended::OutOfScope)
        } else if !stream.operations.has("insert") {
            Some(Ended::NoInserts)
        } else {
            None
        }
    }

    /// Copies for a while if it is the snapshot's turn.
    pub(super) fn copy(&mut self, session: &mut Session) -> Result<(), Setback> {
        self.take_up_requests(session)?;
        if !self.copying.is_due(session) {
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
            let rows = self.copying.pace.as_ref().map_or(0, |pace| pace.rows).saturating_sub(rows_before);
            let rate = self.settings.snapshot.rate;
            self.copying.not_before =
                rate.map(|rate| began + Duration::from_secs_f64(rows_f64(rows) / f64::from(rate)));
        } else {
            self.copying.not_before = Some(Instant::now() + self.copying.backoff.next_delay());
        }
        self.tell_snapshot(false);
        if self.copying.plan.is_done() {
            // The next one has a pace of its own.
            self.copying.pace = None;
        }
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
                // A read that hangs holds nothing up: what it brings is void.
                Err(_elapsed) if self.stop.is_cancelled() => return Ok(unbroken),
                Err(_elapsed) => {}
                Ok(None) => return Ok(unbroken),
                Ok(Some(ReadReport::Chunk(chunk))) => {
                    left = left.map(|left| left.saturating_sub(chunk.rows() as u64));
                    self.copying.fit_batch(&chunk);
                    let number = self.copying.plan.collections[chunk.range.collection].next_chunk;
                    let ids = RowIds { base: base.clone(), time: at, chunk: number };
                    self.publish_chunk(session, &chunk, &ids)?;
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
            filter: collection
                .filter
                .as_ref()
                .or_else(|| filters.get(&collection.namespace.to_string()))
                .cloned()
                .unwrap_or_default(),
            pipeline: self.settings.stream.pipeline.clone(),
        }
    }

    /// A chunk's rows, how far its collection is, and the position: one transaction.
    fn publish_chunk(&mut self, session: &mut Session, chunk: &Chunk, ids: &RowIds) -> Result<(), Setback> {
        let begun = Instant::now();
        if session.publisher.disturbed() {
            return Err(Setback::Disturbed);
        }
        let index = chunk.range.collection;
        let rows = chunk.rows();
        let namespace = self.copying.plan.collections[index].namespace.clone();
        if rows > 0 {
            let raw = rawdoc! { "db": namespace.db.as_str(), "coll": namespace.coll.as_str() };
            if self.topics.find(raw.as_bytes()).is_none() {
                self.topics.intern(self.log.client(), raw.as_bytes(), &namespace)?;
            }
            self.commit_topics(session)?;
        }
        let gone = self.copying.plan.collections[index].is_last(chunk)
            && self.stream.find_collection(&namespace) == Ok(Found::Nothing);
        let token = self.token_record(session, false).to_json();
        session.publisher.begin()?;
        let before = &self.copying.plan.collections[index];
        let (mut figures, found) = self.writer.write_rows(
            chunk,
            ids,
            before,
            &mut Destination {
                tails: tails_to_skip(session.tails.as_ref(), self.settings.delivery),
                topics: &mut self.topics,
                publisher: &mut session.publisher,
            },
        )?;
        let mut after = before.with(chunk, &found, Utc::now());
        if gone {
            after = after.ended(Ended::Gone, Utc::now());
        }
        let publisher = &mut session.publisher;
        batch::send_state(publisher, &self.token_topic, &copy_key(&namespace), &after.to_json())?;
        batch::send_state(publisher, &self.token_topic, &self.settings.source_id, &token)?;
        publisher.commit()?;

        figures.seconds = begun.elapsed().as_secs_f64();
        self.totals.rows += self.topics.committed();
        self.totals.skipped += figures.skipped;
        self.metrics.batch_committed(&figures);
        if figures.stubs > 0 {
            self.writer.stubs_committed();
        }
        match after.ended {
            Some(why) => {
                tracing::warn!(%namespace, rows = after.rows, why = why.why(), "its copy ends");
                if why == Ended::Gone {
                    tracing::warn!(
                        "if it was renamed, ask for a snapshot under its new name: source-service snapshot --collection …"
                    );
                }
            }
            None if after.is_done() => tracing::info!(%namespace, rows = after.rows, "copied"),
            None => {}
        }
        self.copying.plan.collections[index] = after;
        if let Some(pace) = &mut self.copying.pace {
            pace.rows += rows as u64;
        }
        self.committed(session);
        self.tell_snapshot(self.copying.plan.is_done());
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
        let told_by_bar = self.copying.bar.show(progress, eta);
        if let Some(pace) = pace
            && !told_by_bar
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

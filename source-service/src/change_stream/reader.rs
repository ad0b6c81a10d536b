//! The reader's thread: opens the stream, hands its replies over, and opens it again when it broke.

use std::{pin::Pin, time::Duration};

use bson::{Document, doc};
use futures::Stream as _;
use mongodb::{
    Client,
    raw_batch_cursor::{RawBatch, RawBatchCursor},
};
use shared::{
    backoff::Backoff,
    exit::{ExitCode, Stop},
};
use tokio::sync::{mpsc, watch};

use super::{Epoch, FIRST_CONTACT_LIMIT, Open, Reply, StreamEvent, StreamOptions, unreachable_at_start};
use crate::{
    metrics::StreamMetrics,
    pipeline::Pipeline,
    scope::{Target, filter},
    status::Status,
    stream_error::{self, Cause, Phase, SILENCE_UNTIL_DOWN, Verdict},
    token_record::{Position, ResumeToken},
};

/// Events in one reply at most; the server also ends a reply at 16 MB. Bounds memory without costing throughput.
const BATCH_EVENTS_MAX: u32 = 2000;
/// How long the server waits for an event before it answers with an empty reply, whose token keeps the position young.
const AWAIT_TIME: Duration = Duration::from_secs(1);
/// A connection that has been silent for this long is given up: a black hole sends no error.
const SILENCE_LIMIT: Duration = Duration::from_secs(120);

/// Why reading from one cursor ended.
enum Ended {
    /// Open again from here.
    Broken(Cause, String),
    /// The server closed the cursor in order, as it does after `invalidate`.
    Closed,
    Stopped(Stop),
    /// Nobody listens any more.
    Abandoned,
}

pub(super) struct Reader {
    client: Client,
    options: StreamOptions,
    status: Status,
    metrics: StreamMetrics,
    events: mpsc::Sender<StreamEvent>,
    /// Whether a stream was ever open: until then a server that is away may also be one that was never there.
    reached: bool,
    /// Whether the server is asked for what happens to collections beyond drop and rename. Not every one can be (6.0 and later).
    expanded: bool,
    /// The last error that a stage of the user's may have raised, and where.
    failed: Option<(i32, Position)>,
}

impl Reader {
    pub(super) fn new(
        client: Client,
        options: StreamOptions,
        status: Status,
        metrics: StreamMetrics,
        events: mpsc::Sender<StreamEvent>,
    ) -> Self {
        Self { client, options, status, metrics, events, reached: false, expanded: true, failed: None }
    }

    pub(super) async fn run(mut self, mut commands: watch::Receiver<Option<Open>>) {
        loop {
            let command = commands.borrow_and_update().clone();
            let Some(open) = command else {
                if commands.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let changed = tokio::select! {
                // Dropping the reading drops its cursor, which the driver then closes on the server.
                changed = commands.changed() => changed,
                () = self.read(open) => commands.changed().await,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Reads until there is nothing left to try.
    async fn read(&mut self, mut open: Open) {
        let mut backoff = Backoff::default();
        let started = tokio::time::Instant::now();
        loop {
            let ended = match self.open_cursor(&open.position).await {
                Ok(cursor) => {
                    self.reached = true;
                    self.metrics.up(true);
                    tracing::info!(from = %open.position.cluster_time(), attempts = backoff.attempts() + 1, "change stream open");
                    self.read_cursor(cursor, &mut open, &mut backoff).await
                }
                Err(error) => self.judge(&error, Phase::Opening, &open.position),
            };
            self.metrics.up(false);
            let delay = match ended {
                Ended::Abandoned => return,
                Ended::Stopped(stop) => return self.report_stop(open.epoch, stop).await,
                Ended::Closed => {
                    self.metrics.restarted("closed");
                    tracing::info!(at = %open.position.cluster_time(), "the server closed the stream, as after invalidate: going on behind it");
                    Duration::ZERO
                }
                Ended::Broken(cause, text) => {
                    self.metrics.restarted(cause.as_str());
                    if !self.reached && started.elapsed() > FIRST_CONTACT_LIMIT {
                        return self.report_stop(open.epoch, unreachable_at_start(&text)).await;
                    }
                    self.status.stream_down(&text);
                    let delay = backoff.next_delay();
                    tracing::warn!(
                        attempt = backoff.attempts(),
                        ?delay,
                        cause = text,
                        "the change stream broke: opening it again"
                    );
                    delay
                }
            };
            tokio::time::sleep(delay).await;
        }
    }

    async fn read_cursor(
        &mut self,
        mut cursor: RawBatchCursor,
        open: &mut Open,
        backoff: &mut Backoff,
    ) -> Ended {
        loop {
            // Room first: then one reply is read ahead, and never a second one waits in memory.
            let Ok(room) = self.events.reserve().await else { return Ended::Abandoned };
            let batch = match self.next_reply(&mut cursor).await {
                NextReply::Batch(batch) => batch,
                NextReply::End => return Ended::Closed,
                NextReply::Silent => return Ended::Broken(Cause::Network, "MongoDB is silent".to_owned()),
                NextReply::Failed(error) => {
                    drop(room);
                    return self.judge(&error, Phase::Streaming, &open.position);
                }
            };
            let Some(token) = token_of(&batch) else {
                let text = "a reply of the change stream has no usable resume token";
                return Ended::Stopped(Stop::new(ExitCode::Defect, text));
            };
            backoff.reset();
            self.status.stream_up();
            room.send(StreamEvent { epoch: open.epoch, reply: Ok(Reply { batch, token: token.clone() }) });
            // Only what was handed over counts as read.
            open.position = Position::After(token);
        }
    }

    /// The server answers at least every [`AWAIT_TIME`]; a longer silence is shown, and in the end given up.
    async fn next_reply(&self, cursor: &mut RawBatchCursor) -> NextReply {
        let next = std::future::poll_fn(|context| Pin::new(&mut *cursor).poll_next(context));
        tokio::pin!(next);
        let mut silence = Duration::ZERO;
        loop {
            match tokio::time::timeout(SILENCE_UNTIL_DOWN, &mut next).await {
                Ok(Some(Ok(batch))) => {
                    if !silence.is_zero() {
                        self.metrics.up(true);
                    }
                    return NextReply::Batch(batch);
                }
                Ok(Some(Err(error))) => return NextReply::Failed(error),
                Ok(None) => return NextReply::End,
                Err(_elapsed) => {
                    silence += SILENCE_UNTIL_DOWN;
                    self.metrics.up(false);
                    self.status.stream_down("MongoDB is silent");
                    if silence >= SILENCE_LIMIT {
                        return NextReply::Silent;
                    }
                }
            }
        }
    }

    fn judge(&mut self, error: &mongodb::error::Error, phase: Phase, position: &Position) -> Ended {
        let mut verdict = stream_error::classify(error, phase);
        if verdict == Verdict::Reopen(Cause::Server) && self.repeats_itself(error, position) {
            verdict = stream_error::REPEATED;
        }
        match verdict {
            Verdict::Reopen(cause) => Ended::Broken(cause, stream_error::short(error)),
            Verdict::Stop(code, advice) => {
                Ended::Stopped(Stop::new(code, stream_error::stop_text(advice, error, &describe(position))))
            }
        }
    }

    /// Whether a stage of the user's fails for the second time at the same place: it will again. Most of its errors have codes that
    /// say nothing else about them.
    fn repeats_itself(&mut self, error: &mongodb::error::Error, position: &Position) -> bool {
        let code = stream_error::code_of_a_stage(error).filter(|_| self.options.pipeline.is_some());
        let failed = code.map(|code| (code, position.clone()));
        let repeated = failed.is_some() && failed == self.failed;
        self.failed = failed;
        repeated
    }

    async fn report_stop(&self, epoch: Epoch, stop: Stop) {
        self.status.stream_down(&stop.message);
        // A pump that has gone has its own reason to end.
        drop(self.events.send(StreamEvent { epoch, reply: Err(stop) }).await);
    }

    pub(super) async fn open_cursor(
        &mut self,
        position: &Position,
    ) -> mongodb::error::Result<RawBatchCursor> {
        match self.aggregate(position).await {
            Err(error) if self.expanded && stream_error::is_unknown_option(&error) => {
                // It may be another option; then it is said again.
                self.expanded = false;
                let cursor = self.aggregate(position).await?;
                tracing::warn!(
                    "this server does not report creates, changes of indexes and the like (MongoDB 6.0 does): atlas.control has drops and renames only"
                );
                Ok(cursor)
            }
            opened => opened,
        }
    }

    async fn aggregate(&self, position: &Position) -> mongodb::error::Result<RawBatchCursor> {
        let target = self.options.scope.target();
        let mut pipeline =
            vec![doc! { "$changeStream": stage(&self.options, &target, position, self.expanded)? }];
        pipeline.extend(filter::stage(&self.options.scope, &self.options.operations));
        pipeline.extend(self.options.pipeline.iter().flat_map(Pipeline::stages).cloned());
        match target {
            Target::Deployment => {
                let database = self.client.database("admin");
                database
                    .aggregate(pipeline)
                    .batch_size(BATCH_EVENTS_MAX)
                    .max_await_time(AWAIT_TIME)
                    .batch()
                    .await
            }
            Target::Database(name) => {
                let database = self.client.database(&name);
                database
                    .aggregate(pipeline)
                    .batch_size(BATCH_EVENTS_MAX)
                    .max_await_time(AWAIT_TIME)
                    .batch()
                    .await
            }
            Target::Collection(name) => {
                let collection = self.client.database(&name.db).collection::<Document>(&name.coll);
                collection
                    .aggregate(pipeline)
                    .batch_size(BATCH_EVENTS_MAX)
                    .max_await_time(AWAIT_TIME)
                    .batch()
                    .await
            }
        }
    }
}

enum NextReply {
    Batch(RawBatch),
    End,
    Silent,
    Failed(mongodb::error::Error),
}

fn stage(
    options: &StreamOptions,
    target: &Target,
    position: &Position,
    expanded: bool,
) -> mongodb::error::Result<Document> {
    let mut stage = Document::new();
    if *target == Target::Deployment {
        stage.insert("allChangesForCluster", true);
    }
    if expanded {
        stage.insert("showExpandedEvents", true);
    }
    // Not asking for what is the default keeps the stage understood by old servers.
    if let Some(mode) = options.full_document.mode() {
        stage.insert("fullDocument", mode);
    }
    if let Some(mode) = options.full_document_before.mode() {
        stage.insert("fullDocumentBeforeChange", mode);
    }
    match position {
        Position::Time(time) => {
            stage.insert(
                "startAtOperationTime",
                bson::Timestamp { time: time.seconds, increment: time.increment },
            );
        }
        Position::After(token) => {
            stage.insert("startAfter", Document::try_from(token.as_raw())?);
        }
    }
    Ok(stage)
}

/// The reply's `postBatchResumeToken`; of a reply that closes its stream, the last event's own.
fn token_of(batch: &RawBatch) -> Option<ResumeToken> {
    let cursor = batch.as_raw_document().get_document("cursor").ok()?;
    if let Ok(token) = cursor.get_document("postBatchResumeToken") {
        return ResumeToken::new(token);
    }
    let last = batch.doc_slices().ok()?.into_iter().last()?.ok()?;
    ResumeToken::new(last.as_document()?.get_document("_id").ok()?)
}

/// A position for people; tokens hold no document but its `_id`, which may be personal, so only the time is shown.
fn describe(position: &Position) -> String {
    match position {
        Position::Time(time) => format!("cluster time {time}"),
        Position::After(token) => format!("behind the event of cluster time {}", token.cluster_time()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use bson::{Bson, rawdoc};
    use shared::cluster_time::ClusterTime;

    use super::*;
    use crate::{
        change_stream::{FullDocument, FullDocumentBefore},
        scope::{Scope, operations::Operations},
    };

    fn options(scope: Scope) -> StreamOptions {
        StreamOptions {
            scope,
            operations: Operations::default(),
            pipeline: None,
            full_document: FullDocument::UpdateLookup,
            full_document_before: FullDocumentBefore::WhenAvailable,
        }
    }

    #[test]
    fn a_stream_always_goes_on_with_start_after() {
        let token = ResumeToken::new(&rawdoc! { "_data": "8266C1F3A4000000032B0229296E04" }).unwrap();
        let stage =
            stage(&options(Scope::default()), &Target::Deployment, &Position::After(token), true).unwrap();
        let expected = doc! {
            "allChangesForCluster": true,
            "showExpandedEvents": true,
            "fullDocument": "updateLookup",
            "fullDocumentBeforeChange": "whenAvailable",
            "startAfter": { "_data": "8266C1F3A4000000032B0229296E04" },
        };
        assert_eq!(stage, expected);
    }

    #[test]
    fn a_first_start_opens_at_a_time() {
        let position = Position::Time(ClusterTime::new(7, 2));
        let stage = stage(&options(Scope::default()), &Target::Database("shop".to_owned()), &position, false)
            .unwrap();
        assert_eq!(
            stage.get("startAtOperationTime"),
            Some(&Bson::Timestamp(bson::Timestamp { time: 7, increment: 2 }))
        );
        assert_eq!((stage.get("allChangesForCluster"), stage.get("showExpandedEvents")), (None, None));
    }
}

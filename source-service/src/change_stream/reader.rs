//! The reader's thread: opens the stream, hands its replies over, and opens it again when it broke.

use std::{pin::Pin, time::Duration};

use bson::RawDocument;
use futures::Stream as _;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use shared::{
    backoff::Backoff,
    cluster_time::ClusterTime,
    exit::{ExitCode, Stop},
};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Epoch, FIRST_CONTACT_LIMIT, FullDocument, Open, Oversize, Reply, StreamEvent,
    fragments::Fragments,
    lookup::{self, LookedUp, LookupError},
    open::{Opener, View},
    oplog::watch_start,
    reply::{Events, document},
    rights::{self, Right},
    standstill::{Moved, Standstill},
    unreachable_at_start, unreadable,
};
use crate::{
    metrics::StreamMetrics,
    oversize,
    status::Status,
    stream_error::{self, Cause, OVERSIZE, Phase, SILENCE_UNTIL_DOWN, Verdict},
    token_record::{Position, ResumeToken},
    transactions::REPLY_EVENTS_MAX,
};

/// A connection that has been silent for this long is given up: a black hole sends no error.
const SILENCE_LIMIT: Duration = Duration::from_secs(120);

/// Events that are read one by one, at most, before replies are full again: an event that was too large may not be any more.
const ONE_BY_ONE_MAX: u32 = REPLY_EVENTS_MAX;

/// Why reading from one cursor ended.
enum Ended {
    /// Open again from here.
    Broken(Cause, String),
    /// The server closed the cursor in order, as it does after `invalidate`.
    Closed,
    /// The next event, or one soon after it, is too large to be sent.
    Oversize(String),
    /// Open again from here with full replies.
    Usual,
    Stopped(Stop),
    /// Nobody listens any more.
    Abandoned,
}

pub(super) struct Reader {
    opener: Opener,
    status: Status,
    metrics: StreamMetrics,
    events: mpsc::Sender<StreamEvent>,
    /// Whether a stream was ever open: until then a server that is away may also be one that was never there.
    reached: bool,
    /// The last error that a stage of the user's may have raised, and where.
    failed: Option<(i32, Position)>,
    view: View,
    standstill: Standstill,
}

impl Reader {
    pub(super) fn new(
        opener: Opener,
        status: Status,
        metrics: StreamMetrics,
        events: mpsc::Sender<StreamEvent>,
    ) -> Self {
        Self {
            opener,
            status,
            metrics,
            events,
            reached: false,
            failed: None,
            view: View::Usual,
            standstill: Standstill::default(),
        }
    }

    pub(super) async fn run(mut self, mut commands: watch::Receiver<Option<Open>>) {
        let mut oplog_watch = None;
        loop {
            let command = commands.borrow_and_update().clone();
            let Some(open) = command else {
                if commands.changed().await.is_err() {
                    return;
                }
                continue;
            };
            oplog_watch.get_or_insert_with(|| {
                let (client, metrics) = (self.opener.client().clone(), self.metrics.clone());
                AbortOnDropHandle::new(tokio::spawn(watch_start(client, metrics)))
            });
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
        self.view = View::Usual;
        loop {
            let ended = match self.opener.open(&open.position, self.view).await {
                Ok(cursor) => {
                    self.reached = true;
                    self.metrics.up(!self.standstill.is_suspected());
                    tracing::info!(from = %open.position.cluster_time(), attempts = backoff.attempts() + 1, "change stream open");
                    match self.view {
                        View::WithoutImages => self.read_without_images(cursor, &mut open).await,
                        View::Usual | View::OneByOne => {
                            self.read_cursor(cursor, &mut open, &mut backoff).await
                        }
                    }
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
                Ended::Oversize(text) => match self.narrower(&text, &open.position) {
                    Ok(()) => Duration::ZERO,
                    Err(stop) => return self.report_stop(open.epoch, stop).await,
                },
                Ended::Usual => {
                    self.view = View::Usual;
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

    /// What comes before the event arrives when events are asked for one by one; then it is the next one, and is read without images.
    fn narrower(&mut self, text: &str, position: &Position) -> Result<(), Stop> {
        self.metrics.restarted("oversize");
        self.view = match self.view {
            View::Usual => View::OneByOne,
            View::OneByOne if self.opener.options().oversize == Oversize::Stub => View::WithoutImages,
            View::OneByOne | View::WithoutImages => {
                let at = describe(position);
                return Err(Stop::new(
                    ExitCode::Configuration,
                    format!("{OVERSIZE}. Position: {at}. MongoDB says: {text}"),
                ));
            }
        };
        tracing::warn!(at = %position.cluster_time(), view = ?self.view, cause = text, "an event is too large for MongoDB to send: looking for it");
        Ok(())
    }

    async fn read_cursor(
        &mut self,
        mut cursor: RawBatchCursor,
        open: &mut Open,
        backoff: &mut Backoff,
    ) -> Ended {
        let mut fragments = Fragments::default();
        let mut replies = 0;
        loop {
            // Room first: then one reply is read ahead, and never a second one waits in memory.
            let Ok(room) = self.events.clone().reserve_owned().await else { return Ended::Abandoned };
            let batch = match self.next_reply(&mut cursor).await {
                Ok(batch) => batch,
                Err(NextReply::End) => return Ended::Closed,
                Err(NextReply::Silent) => {
                    return Ended::Broken(Cause::Network, "MongoDB is silent".to_owned());
                }
                Err(NextReply::Failed(error)) => {
                    drop(room);
                    return self.judge(&error, Phase::Streaming, &open.position);
                }
            };
            let Some(token) = token_of(&batch) else { return Ended::Stopped(no_token()) };
            if let Moved::No(text) = self.standstill.look_at(token.cluster_time(), cluster_time_of(&batch)) {
                return Ended::Broken(Cause::Standstill, text);
            }
            let events = match self.whole_events(batch, &mut fragments) {
                Ok(Some(events)) => events,
                // Only the last fragment's token is safe.
                Ok(None) => continue,
                Err(stop) => return Ended::Stopped(stop),
            };
            let looked_up = match self.look_up(&events, token.cluster_time()).await {
                Ok(looked_up) => looked_up,
                Err(LookupError::Stop(stop)) => return Ended::Stopped(stop),
                Err(LookupError::MongoDb(error)) => {
                    drop(room);
                    return self.judge(&error, Phase::Streaming, &open.position);
                }
            };
            let reply = Reply { events, looked_up, token: token.clone() };
            let empty = reply.is_empty();
            backoff.reset();
            if !self.standstill.is_suspected() {
                self.status.stream_up();
            }
            room.send(StreamEvent { epoch: open.epoch, reply: Ok(reply) });
            // Only what was handed over counts as read.
            open.position = Position::After(token);
            replies += 1;
            if self.view == View::OneByOne && (empty || replies >= ONE_BY_ONE_MAX) {
                return Ended::Usual;
            }
        }
    }

    /// `None` if the server does it, or nobody.
    async fn look_up(&self, events: &Events, until: ClusterTime) -> Result<Option<LookedUp>, LookupError> {
        if self.opener.options().full_document != FullDocument::BatchedLookup {
            return Ok(None);
        }
        lookup::look_up(self.opener.client(), events, until).await.map(Some)
    }

    /// `None` while an event lacks fragments.
    fn whole_events(&self, batch: RawBatch, fragments: &mut Fragments) -> Result<Option<Events>, Stop> {
        if !self.opener.splits() {
            return Ok(Some(Events::Sent(batch)));
        }
        let documents = || -> Result<Vec<&RawDocument>, Stop> {
            let elements = batch.doc_slices().map_err(|error| unreadable(&error))?;
            elements.into_iter().map(|element| document(element).and_then(raw_document)).collect()
        };
        let documents = documents()?;
        if !fragments.is_open() && !documents.iter().any(|event| Fragments::are_in(event)) {
            return Ok(Some(Events::Sent(batch)));
        }
        documents.into_iter().try_for_each(|event| fragments.add(event))?;
        Ok((!fragments.is_open()).then(|| Events::Rebuilt(fragments.take())))
    }

    /// Hands over the one event that is too large, without its documents; it is the next one.
    async fn read_without_images(&mut self, mut cursor: RawBatchCursor, open: &mut Open) -> Ended {
        loop {
            let Ok(room) = self.events.clone().reserve_owned().await else { return Ended::Abandoned };
            let batch = match self.next_reply(&mut cursor).await {
                Ok(batch) => batch,
                Err(NextReply::End) => return Ended::Closed,
                Err(NextReply::Silent) => {
                    return Ended::Broken(Cause::Network, "MongoDB is silent".to_owned());
                }
                Err(NextReply::Failed(error)) => {
                    drop(room);
                    return self.judge(&error, Phase::Streaming, &open.position);
                }
            };
            let Some(token) = token_of(&batch) else { return Ended::Stopped(no_token()) };
            let reply = Reply { events: Events::Sent(batch), looked_up: None, token: token.clone() };
            let reduced = reply.events().map(|event| oversize::without_images(raw_document(event?)?));
            let reduced = match reduced.collect::<Result<Vec<_>, Stop>>() {
                Ok(reduced) => reduced,
                Err(stop) => return Ended::Stopped(stop),
            };
            if reduced.is_empty() {
                // Not found yet: nothing is between the position and it.
                continue;
            }
            self.metrics.oversize_event();
            tracing::warn!(at = %token.cluster_time(), "an event is published without its documents: it is larger than MongoDB can send with them");
            room.send(StreamEvent {
                epoch: open.epoch,
                reply: Ok(Reply { events: Events::Rebuilt(reduced), looked_up: None, token: token.clone() }),
            });
            open.position = Position::After(token);
            return Ended::Usual;
        }
    }

    /// The server answers at least every [`AWAIT_TIME`]; a longer silence is shown, and in the end given up.
    async fn next_reply(&self, cursor: &mut RawBatchCursor) -> Result<RawBatch, NextReply> {
        let next = std::future::poll_fn(|context| Pin::new(&mut *cursor).poll_next(context));
        tokio::pin!(next);
        let mut silence = Duration::ZERO;
        loop {
            match tokio::time::timeout(SILENCE_UNTIL_DOWN, &mut next).await {
                Ok(Some(Ok(batch))) => {
                    if !silence.is_zero() {
                        self.metrics.up(true);
                    }
                    return Ok(batch);
                }
                Ok(Some(Err(error))) => return Err(NextReply::Failed(error)),
                Ok(None) => return Err(NextReply::End),
                Err(_elapsed) => {
                    silence += SILENCE_UNTIL_DOWN;
                    self.metrics.up(false);
                    self.status.stream_down("MongoDB is silent");
                    if silence >= SILENCE_LIMIT {
                        return Err(NextReply::Silent);
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
            Verdict::Oversize => Ended::Oversize(stream_error::short(error)),
            Verdict::Stop(code, advice) => {
                Ended::Stopped(Stop::new(code, stream_error::stop_text(advice, error, &describe(position))))
            }
        }
    }

    /// Whether a stage of the user's fails for the second time at the same place: it will again. Most of its errors have codes that
    /// say nothing else about them.
    fn repeats_itself(&mut self, error: &mongodb::error::Error, position: &Position) -> bool {
        let code = stream_error::code_of_a_stage(error).filter(|_| self.opener.options().pipeline.is_some());
        let failed = code.map(|code| (code, position.clone()));
        let repeated = failed.is_some() && failed == self.failed;
        self.failed = failed;
        repeated
    }

    async fn report_stop(&self, epoch: Epoch, mut stop: Stop) {
        if stop.code == ExitCode::NotAllowed {
            stop.message +=
                &rights::sentence(self.opener.client(), &Right::to_watch(&self.opener.options().scope)).await;
        }
        self.status.stream_down(&stop.message);
        // A pump that has gone has its own reason to end.
        drop(self.events.send(StreamEvent { epoch, reply: Err(stop) }).await);
    }
}

/// Why there is no next reply.
enum NextReply {
    End,
    Silent,
    Failed(mongodb::error::Error),
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

fn no_token() -> Stop {
    Stop::new(ExitCode::Defect, "a reply of the change stream has no usable resume token")
}

/// The newest time that the server had heard of when it answered. A server alone does not say.
fn cluster_time_of(batch: &RawBatch) -> Option<ClusterTime> {
    let cluster = batch.as_raw_document().get_document("$clusterTime").ok()?;
    let time = cluster.get_timestamp("clusterTime").ok()?;
    Some(ClusterTime::new(time.time, time.increment))
}

fn raw_document(event: &[u8]) -> Result<&RawDocument, Stop> {
    RawDocument::from_bytes(event).map_err(|error| unreadable(&error))
}

/// A position for people; tokens hold no document but its `_id`, which may be personal, so only the time is shown.
fn describe(position: &Position) -> String {
    match position {
        Position::Time(time) => format!("cluster time {time}"),
        Position::After(token) => format!("behind the event of cluster time {}", token.cluster_time()),
    }
}

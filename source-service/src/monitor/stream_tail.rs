//! Follows MongoDB's change stream itself, with the source's own reader and transcoder: what is shown is what would be published. Kafka is not
//! asked, and no position is kept.

use std::time::Duration;

use shared::{
    cluster_time::ClusterTime,
    exit::{ExitCode, Stop},
};
use tokio::runtime::Runtime;

use super::{Begin, Turn, event_view::Observed};
use crate::{
    batch::now_ms,
    change_stream::{ChangeStream, Epoch, OplogStart, Reply},
    envelope::{EventContext, EventTranscoder, KeyFormat},
    metrics::StreamMetrics,
    settings::StreamMonitorSettings,
    start_from::{self, StartFrom},
    status::Status,
    token_record::Position,
};

pub(super) struct StreamTail {
    stream: ChangeStream,
    epoch: Epoch,
    transcoder: EventTranscoder,
    runtime: Runtime,
    scope: String,
    /// With an end: where the stream was at the start.
    end: Option<ClusterTime>,
    ended: bool,
}

impl StreamTail {
    pub(super) fn start(
        settings: &StreamMonitorSettings,
        from: &Begin,
        until_end: bool,
    ) -> Result<Self, Stop> {
        let options = &settings.stream;
        let stream = ChangeStream::start(
            settings.mongo_uri.expose(),
            options.clone(),
            Status::default(),
            StreamMetrics::default(),
        )?;
        let end = if until_end { Some(stream.server_time()?) } else { None };
        let from = match from {
            Begin::End => StartFrom::Now,
            Begin::Earliest => StartFrom::Time(oldest(&stream)?),
            Begin::Time(time) => StartFrom::Time(*time),
            Begin::Token(token) => StartFrom::Token(token.clone()),
        };
        let chosen = start_from::choose(&stream, options, &from)?;
        for unchecked in &chosen.unchecked {
            tracing::warn!(unchecked, "the begin could not be checked whole");
        }
        let position = match (chosen.position, from) {
            // Its newest event is no news.
            (Position::Time(now), StartFrom::Now) => {
                Position::Time(ClusterTime::new(now.seconds, now.increment + 1))
            }
            (position, _) => position,
        };
        let epoch = Epoch::default().next();
        stream.open(epoch, position);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Stop::new(ExitCode::Temporary, format!("no runtime: {error}")))?;
        let transcoder = EventTranscoder::new(&settings.source_id, settings.dialect, KeyFormat::ExtendedJson)
            .hiding(settings.field_policy.clone());
        Ok(Self { stream, epoch, transcoder, runtime, scope: options.scope.to_string(), end, ended: false })
    }

    /// For people: what is read.
    pub(super) fn describe(&self) -> String {
        format!("change stream of {}", self.scope)
    }

    /// Hands over the events of one reply, after waiting for it at most `limit`.
    ///
    /// # Errors
    /// What no waiting heals.
    pub(super) fn turn(
        &mut self,
        limit: Duration,
        take: &mut impl FnMut(&Observed<'_>),
    ) -> Result<Turn, Stop> {
        if self.ended {
            return Ok(Turn::End);
        }
        let reply = match self.runtime.block_on(self.stream.next(self.epoch, limit)) {
            Some(reply) => reply?,
            None => return Ok(Turn::Idle),
        };
        let events = self.take(&reply, take)?;
        let time = reply.token.cluster_time();
        // Events of one transaction share a time: only an empty reply says that there are no more of it.
        self.ended = self.end.is_some_and(|end| time > end || (events == 0 && time == end));
        Ok(if events == 0 { Turn::Idle } else { Turn::More })
    }

    fn take(&mut self, reply: &Reply, take: &mut impl FnMut(&Observed<'_>)) -> Result<usize, Stop> {
        let mut context = EventContext {
            processed_at_ms: now_ms(),
            snapshot: false,
            transaction_count: None,
            looked_up: None,
        };
        let mut count = 0;
        for event in reply.events() {
            context.looked_up = reply.looked_up(count);
            count += 1;
            let record = match self.transcoder.transcode(event?, &context) {
                Ok(record) => record,
                Err(error) => {
                    tracing::warn!(%error, "an event that has no record");
                    continue;
                }
            };
            let namespace = record.namespace.as_ref().map(|namespace| match namespace.coll {
                Some(coll) => format!("{}.{coll}", namespace.db),
                None => namespace.db.to_owned(),
            });
            let observed = Observed {
                namespace: namespace.as_deref().unwrap_or_default(),
                operation: record.operation.name(),
                key: record.key,
                cluster_time: Some(record.cluster_time),
                value: Some(record.value),
                place: None,
            };
            take(&observed);
        }
        Ok(count)
    }
}

fn oldest(stream: &ChangeStream) -> Result<ClusterTime, Stop> {
    match stream.oplog_start() {
        OplogStart::At(time) => Ok(time),
        OplogStart::Unreadable(why) => Err(Stop::new(
            ExitCode::NotAllowed,
            format!(
                "--from earliest needs the first entry of the oplog, which cannot be read: {why}. Give a time instead: --from timestamp:…"
            ),
        )),
    }
}

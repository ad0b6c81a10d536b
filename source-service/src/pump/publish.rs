//! Replies become transactions: one each, but for those that cut a MongoDB transaction.
//!
//! The server ends a reply where it is full, also in the middle of a MongoDB transaction. Such a reply waits for the next ones, so that
//! the transaction is in Kafka whole or not at all; up to a bound, because all of it is in memory.

use std::time::{Duration, Instant};

use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use shared::{
    exit::{ExitCode, Stop},
    seeded_bug::{self, SeededBug},
};

use super::{Pump, Session, setback::Setback, tails_to_skip};
use crate::{
    batch::{self, Destination},
    change_stream::{Oversize, Reply},
    envelope,
    token_record::Position,
    transactions,
};

/// What may wait, in bytes of replies; a further one of at most 16 MB is read ahead.
const HELD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Replies of one Kafka transaction to be.
#[derive(Default)]
pub(super) struct Held {
    replies: Vec<Reply>,
    bytes: usize,
}

impl Held {
    fn push(&mut self, reply: Reply) {
        self.bytes += reply.bytes();
        self.replies.push(reply);
    }

    /// The MongoDB transaction of the last event may have more.
    fn is_cut(&self) -> bool {
        self.replies.last().is_some_and(transactions::may_go_on)
    }

    fn is_full(&self) -> bool {
        self.bytes >= HELD_BYTES_MAX
    }
}

impl Pump {
    pub(super) fn take(&mut self, session: &mut Session, reply: Reply) -> Result<(), Setback> {
        let (empty, token) = (reply.is_empty(), reply.token.clone());
        if !empty || !session.held.replies.is_empty() {
            session.held.push(reply);
            if session.held.is_cut() && !session.held.is_full() {
                return Ok(());
            }
        }
        session.caught_up = empty;
        let time = token.cluster_time();
        session.pending = Position::After(token);
        if !session.held.replies.is_empty() {
            self.publish_held(session)?;
        }
        // Events of one transaction share a time: only an empty reply says that there are no more of it.
        self.end_reached |= self.end.is_some_and(|end| time > end || (empty && time == end));
        Ok(())
    }

    /// Nothing of the transaction is committed. The next attempt has a stub in the event's place, if there is to be one.
    pub(super) fn too_large(&mut self, topic: &str, event_id: String) -> Result<(), Stop> {
        let stubs = self.settings.stream.oversize == Oversize::Stub;
        tracing::warn!(event_id, topic, "an event is too large for its topic, even compressed");
        if stubs && self.writer.stub_for(event_id.clone()) {
            return Ok(());
        }
        Err(Stop::new(
            ExitCode::Configuration,
            format!(
                "an event is too large for topic {topic}, even compressed: raise TOPIC_MAX_MESSAGE_BYTES and max.message.bytes of the topic, or set OVERSIZE=stub \
                 (event {event_id}). Nothing was skipped"
            ),
        ))
    }

    /// What was held, and the position behind it: one transaction.
    fn publish_held(&mut self, session: &mut Session) -> Result<(), Setback> {
        let begun = Instant::now();
        if session.publisher.disturbed() {
            return Err(Setback::Disturbed);
        }
        let ended = !session.held.is_cut();
        let replies = std::mem::take(&mut session.held).replies;
        let token = self.token_record(session, false).to_json();
        self.writer.prepare(&replies, &mut self.topics, &self.log)?;
        self.commit_topics(session)?;
        session.publisher.begin()?;
        if seeded_bug::planted(SeededBug::TokenOutsideTransaction) {
            self.send_outside(&token)?;
        }
        let mut figures = self.writer.write(
            &replies,
            ended,
            &mut Destination {
                tails: tails_to_skip(session.tails.as_ref(), self.settings.delivery),
                topics: &mut self.topics,
                publisher: &mut session.publisher,
            },
        )?;
        if !seeded_bug::planted(SeededBug::TokenOutsideTransaction) {
            batch::send_state(&mut session.publisher, &self.token_topic, &self.settings.source_id, &token)?;
        }
        session.publisher.commit()?;

        figures.seconds = begun.elapsed().as_secs_f64();
        figures.age_seconds = figures.age_seconds.map(|age| age + figures.seconds);
        self.totals.events += self.topics.committed();
        self.totals.skipped += figures.skipped;
        self.metrics.batch_committed(&figures);
        if figures.stubs > 0 {
            self.writer.stubs_committed();
        }
        self.committed(session);
        // A reply's own token is behind its last event.
        if session.tails.as_ref().is_some_and(|tails| !tails.may_hold(&last_event_id(&replies))) {
            session.tails = None;
        }
        Ok(())
    }

    /// The planted bug `token-outside-transaction`.
    fn send_outside(&self, token: &[u8]) -> Result<(), Setback> {
        let doubt = |error: rdkafka::error::KafkaError| Setback::Doubt("seeded", error.to_string());
        let producer: BaseProducer =
            self.settings.kafka.client_config("atlas-seeded-bug").create().map_err(doubt)?;
        let record =
            BaseRecord::to(&self.token_topic).partition(0).key(&self.settings.source_id).payload(token);
        producer.send(record).map_err(|(error, _)| doubt(error))?;
        producer.flush(Duration::from_secs(10)).map_err(doubt)
    }
}

fn last_event_id(replies: &[Reply]) -> String {
    let last = replies.iter().rev().find_map(|reply| reply.events().filter_map(Result::ok).last());
    let id = last.and_then(|event| envelope::resume_token(event).ok());
    id.map(|(_, id)| id.to_owned()).unwrap_or_default()
}

//! The loop that owns the producer and the position.
//!
//! ```text
//!        ┌──────────────────────────────── any doubt ◀────────────────────────────┐
//!        ▼                                                                         │
//!   recover: init_transactions ▸ tokens ▸ tails ▸ own token record ──▶ open stream at the position
//!                                                                                  │
//!                        ┌── begin ▸ events ▸ token ▸ flush ▸ commit ◀── next reply ┘
//!                        └──────────────── advance ────────────────────▶
//! ```
//!
//! Invariants: a reply's events and the token that covers them are one transaction; nothing is published between a doubt and the end
//! of the recovery that follows it; the position in memory is never ahead of a committed one, but for an idle stream's.

mod copy;
mod gap;
mod partitions;
mod publish;
mod recover;
mod requests;
mod setback;

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use rdkafka::ClientConfig;
use shared::{
    admin::HealthReporter,
    backoff::Backoff,
    cluster_time::ClusterTime,
    exit::{ExitCode, Stop},
    kafka_topics::TopicAdmin,
};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use self::{copy::Copying, gap::Gap, publish::Held, setback::Setback};
pub use self::{copy::SnapshotSettings, gap::OnPositionLost};
use crate::{
    batch::{self, BatchWriter},
    change_stream::{ChangeStream, Epoch},
    envelope::{EventTranscoder, ValueFormat},
    kafka_log::KafkaLog,
    metrics::{self, PumpMetrics},
    publisher::{Delivery, Publisher, producer_config},
    recovery::Tails,
    settings::SourceSettings,
    status::{Identity, Stage, Status, Totals},
    token_record::{Position, TOPIC_KEY_PREFIX, TokenRecord},
    topics::Topics,
};

/// The loop turns at least this often, so that `/livez` and `/readyz` are young.
const TURN: Duration = Duration::from_secs(1);

/// How long a reply is waited for while there is something to copy.
const COPY_TURN: Duration = Duration::from_millis(5);

/// From a recovery to the next doubt.
struct Session {
    publisher: Publisher,
    /// Until all of them are passed.
    tails: Option<Tails>,
    committed: Position,
    /// Where the stream is; ahead of `committed` only by replies without events.
    pending: Position,
    committed_at: Instant,
    run: u32,
    /// Replies that wait for the rest of a MongoDB transaction.
    held: Held,
    /// The stream had nothing more when it was last looked at.
    caught_up: bool,
}

/// What is committed already and not to be sent again. Where records are not committed with their position, everything behind that is.
fn tails_to_skip(tails: Option<&Tails>, delivery: Delivery) -> Option<&Tails> {
    tails.filter(|_| delivery == Delivery::ExactlyOnce)
}

/// What is shown to the outside.
struct Shown {
    status: Status,
    health: HealthReporter,
    identity: Identity,
    told: std::cell::Cell<Instant>,
}

impl Shown {
    fn stage(&self, stage: Stage) {
        self.status.stage(stage);
        self.tell();
    }

    fn turn(&self) {
        if self.told.get().elapsed() >= TURN {
            self.tell();
        }
    }

    fn tell(&self) {
        self.told.set(Instant::now());
        let reasons = self.status.not_ready();
        if reasons.is_empty() {
            self.health.ready();
        } else {
            self.health.not_ready(reasons.join("; "));
        }
        self.health.status(self.status.to_json(&self.identity));
    }
}

/// The owner of everything that moves.
pub struct Pump {
    settings: SourceSettings,
    shown: Rc<Shown>,
    stream: ChangeStream,
    log: KafkaLog,
    admin: TopicAdmin,
    topics: Topics,
    writer: BatchWriter,
    producer_config: ClientConfig,
    token_topic: String,
    fingerprint: String,
    metrics: PumpMetrics,
    totals: Totals,
    runtime: Runtime,
    stop: CancellationToken,
    epoch: Epoch,
    brokers_checked: Option<Instant>,
    partitions_looked_at: Instant,
    copying: Copying,
    /// With `--until-end`: where the stream was when this process started.
    end: Option<ClusterTime>,
    end_reached: bool,
    /// The last producer was fenced: by another instance, or because its own transaction timed out.
    fenced: bool,
    /// MongoDB does not have the committed position any more, and the next recovery is to go on behind a gap.
    position_lost: bool,
    /// Whether a token record of this instance is committed: from then on another instance's is a takeover.
    announced: bool,
}

impl Pump {
    /// Makes the Kafka clients; contacts nobody yet.
    ///
    /// # Errors
    /// [`ExitCode::Configuration`] if librdkafka refuses its configuration.
    pub fn new(
        settings: SourceSettings,
        format: ValueFormat,
        identity: Identity,
        mut stream: ChangeStream,
        status: Status,
        health: HealthReporter,
        stop: CancellationToken,
    ) -> Result<Self, Stop> {
        let refused = |error: rdkafka::error::KafkaError| {
            Stop::new(
                ExitCode::Configuration,
                format!("the Kafka client refuses its configuration: {error}; see KAFKA_OPTIONS"),
            )
        };
        let no_runtime =
            |error: std::io::Error| Stop::new(ExitCode::Temporary, format!("no runtime: {error}"));
        let runtime =
            || tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_runtime);
        let mut connection = settings.kafka.client_config(&format!("atlas-source-{}", settings.source_id));
        if connection.get("reconnect.backoff.max.ms").is_none() {
            // A broker that is back is found within a second; the client's own default waits up to ten.
            connection.set("reconnect.backoff.max.ms", "1000");
        }
        let log = KafkaLog::new(&connection, &settings.source_id).map_err(refused)?;
        let admin = TopicAdmin::new(&connection, Duration::from_secs(15)).map_err(refused)?;
        let topics = Topics::new(
            settings.names.clone(),
            settings.topics.clone(),
            settings.accepted_counts.clone(),
            admin.clone(),
            runtime()?,
        );
        let transcoder =
            EventTranscoder::new(&settings.source_id, settings.dialect, settings.form.key_format)
                .hiding(settings.field_policy.clone())
                .in_format(format, &settings.source_id)
                .as_profile(settings.form.profile, settings.names.prefix());
        let fingerprint = settings.stream.fingerprint();
        let shown = Rc::new(Shown { status, health, identity, told: std::cell::Cell::new(Instant::now()) });
        let prefix = settings.names.prefix();
        let writer =
            BatchWriter::new(transcoder, format, "").in_form(settings.form, prefix, &shown.identity.instance);
        let (showing, asked_to_stop) = (Rc::clone(&shown), stop.clone());
        stream.while_waiting(move || {
            showing.turn();
            !asked_to_stop.is_cancelled()
        });
        Ok(Self {
            shown,
            writer,
            producer_config: producer_config(
                connection,
                &settings.source_id,
                settings.transaction_timeout,
                settings.delivery,
            ),
            token_topic: settings.names.resume_tokens(&settings.source_id),
            metrics: PumpMetrics::default(),
            totals: Totals::default(),
            runtime: runtime()?,
            epoch: Epoch::default(),
            brokers_checked: None,
            partitions_looked_at: Instant::now(),
            announced: false,
            fenced: false,
            position_lost: false,
            end: None,
            end_reached: false,
            copying: Copying::default(),
            settings,
            stream,
            log,
            admin,
            topics,
            fingerprint,
            stop,
        })
    }

    /// Ends by itself when everything is published that MongoDB has committed by now.
    ///
    /// # Errors
    /// If MongoDB cannot be asked.
    pub fn until_end(mut self) -> Result<Self, Stop> {
        self.end = Some(self.stream.server_time()?);
        Ok(self)
    }

    /// Whether the end that was asked for is reached.
    pub fn is_at_end(&self) -> bool {
        self.end_reached && self.copying.is_done()
    }

    /// Until a signal, the end that was asked for, or something that does not heal.
    ///
    /// # Errors
    /// The exit code and what to do.
    pub fn run(&mut self) -> Result<Totals, Stop> {
        let mut backoff = Backoff::default();
        let mut disturbed_in_a_row = 0_u32;
        loop {
            let transactions_before = self.totals.transactions;
            let setback = match self.recover() {
                Ok(mut session) => self.publish(&mut session),
                Err(setback) => setback,
            };
            self.topics.discarded();
            if self.totals.transactions > transactions_before + 1 {
                backoff.reset();
            }
            let (label, text) = match setback {
                Setback::Asked => return Ok(self.totals),
                Setback::Stop(stop) => return Err(stop),
                Setback::Disturbed => {
                    self.metrics.doubt("disturbed");
                    tracing::info!(
                        "the connection to Kafka was disturbed: taking a new producer before the next transaction"
                    );
                    // Once is free. A connection that is disturbed faster than anything is committed is waited for.
                    disturbed_in_a_row = if self.totals.transactions > transactions_before + 1 {
                        0
                    } else {
                        disturbed_in_a_row + 1
                    };
                    if disturbed_in_a_row > 1 && self.pause(backoff.next_delay()) {
                        return Ok(self.totals);
                    }
                    continue;
                }
                Setback::TooLarge { topic, event_id } => {
                    self.too_large(&topic, event_id)?;
                    continue;
                }
                Setback::Doubt(label, text) => (label, text),
                Setback::Fenced(text) => {
                    self.fenced = true;
                    ("fenced", text)
                }
                Setback::PositionLost(text) => {
                    self.position_lost = true;
                    ("position-lost", text)
                }
            };
            disturbed_in_a_row = 0;
            self.totals.recoveries += 1;
            self.metrics.doubt(label);
            metrics::error("publish", label);
            self.shown.status.error(&text);
            let delay = backoff.next_delay();
            tracing::warn!(
                attempt = backoff.attempts(),
                ?delay,
                reason = label,
                cause = text,
                "reading what is really committed, and going on from there"
            );
            self.shown.stage(Stage::Recovering(text));
            if self.pause(delay) {
                return Ok(self.totals);
            }
        }
    }

    /// Returns whether a signal came.
    fn pause(&self, delay: Duration) -> bool {
        self.runtime.block_on(async {
            tokio::select! {
                () = self.stop.cancelled() => true,
                () = tokio::time::sleep(delay) => false,
            }
        })
    }

    fn publish(&mut self, session: &mut Session) -> Setback {
        loop {
            if self.stop.is_cancelled() {
                return self.finish(session);
            }
            // At once, not with the next transaction: if Kafka is gone, it shows.
            if session.publisher.disturbed() {
                return Setback::Disturbed;
            }
            self.shown.turn();
            if let Err(setback) = self.copy(session) {
                return setback;
            }
            if self.is_at_end() {
                tracing::info!(cluster_time = %session.pending.cluster_time(), "the end is reached");
                self.stop.cancel();
                continue;
            }
            let turn = if self.copying.is_done() { TURN } else { COPY_TURN };
            let limit = self
                .settings
                .token_interval
                .saturating_sub(session.committed_at.elapsed())
                .clamp(Duration::from_millis(1), turn);
            let next = self.runtime.block_on(async {
                tokio::select! {
                    // A reply that is there is finished first; then the signal is seen above.
                    biased;
                    next = self.stream.next(self.epoch, limit) => next,
                    () = self.stop.cancelled() => None,
                }
            });
            let result = match next {
                Some(Ok(reply)) => self.take(session, reply),
                Some(Err(stop)) => {
                    metrics::stream_stopped(stop.code);
                    Err(self.stream_ended(stop))
                }
                None => Ok(()),
            };
            if let Err(setback) = result.and_then(|()| self.keep_young(session)) {
                return setback;
            }
        }
    }

    /// The reader can do nothing more by itself.
    fn stream_ended(&self, stop: Stop) -> Setback {
        let goes_on = self.settings.on_position_lost != OnPositionLost::Stop;
        if stop.code == ExitCode::PositionLost && goes_on {
            Setback::PositionLost(stop.message)
        } else {
            Setback::Stop(stop)
        }
    }

    /// An idle stream's position is committed too: it must not fall off the oplog.
    fn keep_young(&mut self, session: &mut Session) -> Result<(), Setback> {
        self.check_brokers()?;
        self.look_at_partitions(session)?;
        if session.committed_at.elapsed() < self.settings.token_interval {
            return Ok(());
        }
        if session.pending == session.committed {
            session.committed_at = Instant::now();
            return Ok(());
        }
        self.commit_token(session, false)
    }

    /// Where keys go is committed before anything goes there: if the first events were torn from their transaction's other
    /// records, recovery would not know which partitions to look at.
    fn commit_topics(&mut self, session: &mut Session) -> Result<(), Setback> {
        if self.topics.unrecorded().next().is_none() {
            return Ok(());
        }
        session.publisher.begin()?;
        for (topic, record) in self.topics.unrecorded() {
            let key = format!("{TOPIC_KEY_PREFIX}{topic}");
            batch::send_state(&mut session.publisher, &self.token_topic, &key, &record.to_json())?;
        }
        session.publisher.commit()?;
        self.topics.recorded();
        if session.publisher.disturbed() { Err(Setback::Disturbed) } else { Ok(()) }
    }

    fn commit_token(&mut self, session: &mut Session, clean: bool) -> Result<(), Setback> {
        self.commit_states(session, clean, &[], None)
    }

    /// The position, and further records of the token topic with it.
    fn commit_states(
        &mut self,
        session: &mut Session,
        clean: bool,
        states: &[(String, Vec<u8>)],
        gap: Option<&Gap>,
    ) -> Result<(), Setback> {
        if session.publisher.disturbed() {
            return Err(Setback::Disturbed);
        }
        let token = self.token_record(session, clean).to_json();
        session.publisher.begin()?;
        if let Some(gap) = gap {
            self.send_gap(gap, session.run, &mut session.publisher)?;
        }
        for (key, state) in states {
            batch::send_state(&mut session.publisher, &self.token_topic, key, state)?;
        }
        batch::send_state(&mut session.publisher, &self.token_topic, &self.settings.source_id, &token)?;
        session.publisher.commit()?;
        self.committed(session);
        Ok(())
    }

    fn committed(&mut self, session: &mut Session) {
        session.committed.clone_from(&session.pending);
        session.committed_at = Instant::now();
        self.totals.transactions += 1;
        let time = session.committed.cluster_time();
        self.metrics.position(time.seconds);
        self.shown.status.committed(time, session.run, self.totals);
    }

    fn token_record(&self, session: &Session, clean: bool) -> TokenRecord {
        TokenRecord {
            instance: self.shown.identity.instance.clone(),
            run: session.run,
            position: session.pending.clone(),
            scope: self.settings.stream.scope.record(),
            fingerprint: self.fingerprint.clone(),
            key_format: self.settings.form.key_format,
            clean,
        }
    }

    /// Whether nothing is in doubt: what the last recovery found beyond the position is passed.
    fn is_in_order(&self, session: &Session) -> bool {
        let position = session.pending.event_id();
        let torn = session.tails.as_ref().is_some_and(|tails| tails.reach_beyond(position));
        !torn && !self.copying.is_in_doubt()
    }

    /// A clean token record says to the next start that nothing was in flight: neither now, nor before the last recovery.
    fn finish(&mut self, session: &mut Session) -> Setback {
        self.shown.stage(Stage::Stopping);
        let clean = self.is_in_order(session);
        match self.commit_token(session, clean) {
            Ok(()) => Setback::Asked,
            Err(Setback::Stop(stop)) => Setback::Stop(stop),
            // All that was published is committed or will be found by the next start; only its "clean" is missing.
            Err(Setback::Doubt(_, cause) | Setback::Fenced(cause) | Setback::PositionLost(cause)) => {
                tracing::warn!(cause, "stopped without a clean token record");
                Setback::Asked
            }
            // A token record is small.
            Err(Setback::Disturbed | Setback::TooLarge { .. } | Setback::Asked) => Setback::Asked,
        }
    }
}

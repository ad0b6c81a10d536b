//! The loop of the sink. It owns the consumer and the state of every assigned partition; nobody else changes either.
//!
//! ```text
//!            ┌──────────────────────────── one turn ─────────────────────────────┐
//!            │ reports of jobs ─▶ rebalances ─▶ records ─▶ flushes ─▶ commits     │
//!            └────────────────────────────────────────────────────────────────────┘
//!   Kafka ──poll──▶ PartitionState.buffer ──freeze──▶ job (runtime) ──▶ lake
//!                                                        └── report: durable up to ──▶ commit to Kafka
//! ```
//!
//! Invariants:
//! - Polling never stops, so the group's protocol is always served; back-pressure is `pause`.
//! - One batch per partition is on its way; what is read meanwhile is the next batch.
//! - A Kafka offset is committed only behind durable data, and is for people and lag tools only: the head is the truth.
//! - Memory over all partitions is bounded: early flushes from 90 % of the limit on, `pause` at the limit. One topic of several
//!   takes half of it at most.

mod flush;
mod rebalance;
#[cfg(test)]
mod tests;
mod until_end;
mod waits;

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use rdkafka::{error::KafkaError, types::RDKafkaErrorCode};
use shared::{
    admin::HealthReporter,
    exit::{ExitCode, Stop},
    kafka_position::TopicPartition,
    topic_name::TopicNames,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::{until_end::UntilEnd, waits::Waits};
use crate::{
    assignment::Assignment,
    buffer::SpareBuffer,
    consumer::{GroupConsumer, Notice, QUEUE_BYTES_MAX},
    hours::{HourEnd, keeper::Standing},
    jobs::{Jobs, Outcome, Report},
    metrics::SinkMetrics,
    partition::{PartitionState, Taken},
    publish::{Halt, Waiting},
    schema_check::SchemaChecks,
    value_reader::ValueReader,
};

/// How long one turn may wait for a record.
const POLL_WAIT: Duration = Duration::from_millis(20);

/// Records taken in one turn before anything else is looked at.
const RECORDS_PER_TURN: usize = 5_000;

/// A turn also ends when it has taken this part of the memory limit, which is looked at between turns only.
const TURNS_PER_LIMIT: usize = 16;

/// Buffers kept for use again; each has room for two flushes at most.
const SPARES_MAX: usize = 4;

const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// All positions are committed again this often, also those that did not move.
const FULL_COMMIT_INTERVAL: Duration = Duration::from_secs(30);
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
const LETTERS_LIMIT: Duration = Duration::from_secs(5);
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// When a partition's buffer is published, and how much all of them may hold.
#[derive(Clone, Copy, Debug)]
pub struct FlushPolicy {
    pub interval: Duration,
    pub bytes: usize,
    /// `None` = off.
    pub rows: Option<usize>,
    /// Over all partitions, in bytes: what the client has fetched and nobody has polled yet, and what is buffered.
    pub memory_limit: usize,
}

impl FlushPolicy {
    /// The share of the memory that the client's queue of fetched records may take, in bytes.
    pub fn queue_bytes(&self) -> usize {
        (self.memory_limit / 8).min(QUEUE_BYTES_MAX)
    }

    /// The share that buffers and batches may take, in bytes.
    pub fn buffer_bytes(&self) -> usize {
        self.memory_limit - self.queue_bytes()
    }
}

/// What was done, for the last log line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub records: u64,
    pub batches: u64,
    /// Whether everything that was read is durable.
    pub drained: bool,
}

/// See the module's picture.
pub struct SinkWriter {
    pub consumer: GroupConsumer,
    pub jobs: Jobs,
    pub reports: mpsc::Receiver<Report>,
    pub waits: mpsc::Receiver<Waiting>,
    /// Where the keeper of the hours learns what is ours.
    pub standings: watch::Sender<Vec<Standing>>,
    pub hour_ends: mpsc::Receiver<(TopicPartition, HourEnd)>,
    pub names: TopicNames,
    /// Topics of which records that Kafka no longer has are given up.
    pub accepted_gaps: BTreeSet<String>,
    /// End when each partition has reached the end that it had at its assignment.
    pub until_end: bool,
    pub values: ValueReader,
    pub schemas: SchemaChecks,
    pub flush: FlushPolicy,
    /// Bounds a flush at revocation and at the end.
    pub drain_limit: Duration,
    pub health: HealthReporter,
    pub metrics: Arc<SinkMetrics>,
    pub shutdown: CancellationToken,
}

impl SinkWriter {
    /// Runs until the token is cancelled or the end is reached, and everything is drained, or something stops it.
    ///
    /// # Errors
    /// The exit code and what to do.
    pub fn run(self) -> Result<Totals, Stop> {
        let mut state = Loop::new(self);
        let result = state.run();
        state.io.consumer.leave(LEAVE_LIMIT);
        result
    }
}

struct Loop {
    io: SinkWriter,
    /// The name of the control topic.
    control: String,
    assignment: Assignment,
    /// Partitions that wait for a dependency, and why.
    waiting: Waits,
    /// The group has answered, and has not gone on without us since.
    joined: bool,
    /// `None`: only a signal ends it.
    until_end: Option<UntilEnd>,
    memory_paused: bool,
    /// Topics whose share of the memory is taken.
    paused_topics: HashSet<Arc<str>>,
    /// Partitions that were read at least once.
    opened: HashSet<TopicPartition>,
    /// Memory of batches that are done with, for the next buffers.
    spares: Vec<SpareBuffer>,
    totals: Totals,
    next_full_commit: Instant,
    /// As of the client's last statistics, or its last error.
    brokers_connected: bool,
    next_commit: Instant,
    next_health: Instant,
}

impl Loop {
    fn new(io: SinkWriter) -> Self {
        Self {
            control: io.names.control(),
            until_end: io.until_end.then(|| UntilEnd::new(io.drain_limit)),
            io,
            assignment: Assignment::default(),
            waiting: Waits::default(),
            joined: false,
            memory_paused: false,
            paused_topics: HashSet::new(),
            opened: HashSet::new(),
            spares: Vec::new(),
            totals: Totals::default(),
            brokers_connected: true,
            next_full_commit: Instant::now() + FULL_COMMIT_INTERVAL,
            next_commit: Instant::now(),
            next_health: Instant::now(),
        }
    }

    fn run(&mut self) -> Result<Totals, Stop> {
        let mut at_end = false;
        while !self.io.shutdown.is_cancelled() {
            self.turn(POLL_WAIT)?;
            at_end = self.is_at_end();
            if at_end {
                tracing::info!(partitions = self.assignment.len(), "the end is reached: stopping");
                // As a signal does: whoever follows the loop's work ends with it.
                self.io.shutdown.cancel();
            }
        }
        self.io.health.not_ready("draining");
        let all = self.assignment.partitions();
        self.totals.drained = self.drain(&all, Instant::now() + self.io.drain_limit)?;
        self.commit(Instant::now());
        self.io.jobs.publisher().dead_letters.flush(LETTERS_LIMIT);
        if self.until_end.is_some() && !at_end {
            return Err(Stop::before_end());
        }
        Ok(self.totals)
    }

    fn is_at_end(&self) -> bool {
        let reached =
            |until: &UntilEnd| until.is_reached(self.joined, self.assignment.iter(), Instant::now());
        self.until_end.as_ref().is_some_and(reached)
    }

    fn turn(&mut self, wait: Duration) -> Result<(), Stop> {
        self.take_reports()?;
        while let Some(notice) = self.io.consumer.next_notice() {
            self.take_notice(notice)?;
        }
        self.take_records(wait)?;
        let now = Instant::now();
        self.apply_memory_limit(now);
        self.flush_due(now);
        if now >= self.next_commit {
            self.next_commit = now + COMMIT_INTERVAL;
            self.observe_positions(now);
            self.assignment.iter_mut().try_for_each(PartitionState::judge_passed_look_back)?;
            self.commit(now);
            let standings = self.assignment.iter().filter(|state| !state.is_opening());
            self.io.standings.send_replace(standings.map(PartitionState::standing).collect());
        }
        if now >= self.next_health {
            self.next_health = now + HEALTH_INTERVAL;
            self.publish_health(now);
        }
        Ok(())
    }

    fn take_records(&mut self, wait: Duration) -> Result<(), Stop> {
        let mut wait = wait;
        let mut now = Instant::now();
        let mut room = self.io.flush.buffer_bytes() / TURNS_PER_LIMIT;
        for count in 0..RECORDS_PER_TURN {
            // The clock is for flush timers only: once in a while is enough.
            if count % 64 == 0 {
                now = Instant::now();
            }
            match self.io.consumer.poll(wait) {
                Some(Ok(message)) => {
                    room = room.saturating_sub(message.payload_len());
                    let Some(state) = self.assignment.of_message(&message) else { continue };
                    match state.take(&message, now, &mut self.io.values, &mut self.spares)? {
                        Taken::Yes => self.totals.records += 1,
                        Taken::No => {}
                        Taken::AfterSchema => {
                            let partition = state.partition().clone();
                            drop(message);
                            self.ask_for_schema(&partition);
                        }
                    }
                    if room == 0 {
                        return Ok(());
                    }
                }
                Some(Err(error)) => return self.take_error(&error),
                None => return Ok(()),
            }
            wait = Duration::ZERO;
        }
        Ok(())
    }

    /// The partition goes on at its chain's position when the registry has answered. Until then what comes would be read for
    /// nothing.
    fn ask_for_schema(&mut self, partition: &TopicPartition) {
        if let Err(error) = self.io.consumer.pause(std::slice::from_ref(partition)) {
            tracing::warn!(%partition, %error, "cannot pause");
        }
        self.reopen(partition);
    }

    /// An error of the consumer's that is not one record's.
    fn take_error(&mut self, error: &KafkaError) -> Result<(), Stop> {
        use RDKafkaErrorCode as Code;
        let code = error.rdkafka_error_code();
        match code {
            // `auto.offset.reset=error`: the place to go on from is not in the log. Which partition it is the client
            // does not say, so all are read again, and the chain's rules decide.
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::NoOffset) => {
                tracing::warn!(%error, "a position is outside its log: chains are read again");
                self.reopen_all();
                Ok(())
            }
            Some(
                Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed,
            ) => {
                let message =
                    format!("{error}: grant Read on the topics under the prefix and on the consumer group");
                Err(Stop::new(ExitCode::NotAllowed, message))
            }
            // Of KIP-848's protocol: the one before is not fenced, it is waited for until its session ends.
            Some(Code::UnreleasedInstanceId) => {
                let message = "the group still has a member with this GROUP_INSTANCE_ID: one that was killed is dropped when its session ends \
                               (group.consumer.session.timeout.ms of the broker, 45 s by default); restart after that";
                Err(Stop::new(ExitCode::Temporary, message))
            }
            Some(Code::FencedInstanceId) => {
                let message = "another sink with the same GROUP_INSTANCE_ID has joined the group";
                Err(Stop::new(ExitCode::Fenced, message))
            }
            Some(Code::InconsistentGroupProtocol) => {
                let message = "the group's other members use another way of assignment: all sinks of a group need \
                               cooperative-sticky; choose another SINK_GROUP";
                Err(Stop::new(ExitCode::Configuration, message))
            }
            // No topic matches the subscription yet. The group does not say more than that, and there is nothing to wait for.
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) if self.assignment.is_empty() => {
                if !self.joined {
                    tracing::info!(
                        "no partition yet: a topic is missing, or others have them until their session ends"
                    );
                }
                self.joined = true;
                if let Some(until) = &mut self.until_end {
                    until.no_topic(Instant::now());
                }
                Ok(())
            }
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
                Err(Stop::new(ExitCode::Temporary, format!("the consumer cannot go on: {error}")))
            }
            // The client has reported it already, each connection by itself.
            Some(Code::AllBrokersDown | Code::BrokerTransportFailure) => {
                self.io.metrics.error("consume", "client");
                tracing::debug!(%error, "consumer error");
                Ok(())
            }
            // A topic that was deleted: the client goes on by itself, or the next flush says so.
            _ => {
                self.io.metrics.error("consume", "client");
                tracing::warn!(%error, "consumer error");
                Ok(())
            }
        }
    }

    fn take_notice(&mut self, notice: Notice) -> Result<(), Stop> {
        match notice {
            Notice::Assigned(partitions) => self.assigned(partitions),
            Notice::Revoked { partitions, lost } => self.revoked(&partitions, lost),
            Notice::Brokers { connected } => {
                match (self.brokers_connected, connected) {
                    (true, false) => tracing::warn!("no broker is connected: waiting for one"),
                    (false, true) => tracing::info!("a broker is connected again"),
                    _ => {}
                }
                self.brokers_connected = connected;
                Ok(())
            }
            Notice::LogEnds(ends) => {
                for (partition, end) in ends {
                    if let Some(state) = self.assignment.get_mut(&partition) {
                        state.set_log_end(end);
                    }
                }
                Ok(())
            }
        }
    }

    fn take_reports(&mut self) -> Result<(), Stop> {
        while let Ok(report) = self.io.reports.try_recv() {
            self.take_report(report)?;
        }
        while let Ok((partition, over)) = self.io.hour_ends.try_recv() {
            if let Some(state) = self.assignment.get_mut(&partition) {
                state.set_hour_end(over);
            }
        }
        while let Ok(Waiting { partition, wait }) = self.io.waits.try_recv() {
            match wait {
                Some(wait) if self.assignment.get(&partition).is_some() => {
                    self.waiting.failed(partition, wait, Utc::now());
                }
                _ => self.waiting.over(&partition),
            }
        }
        Ok(())
    }

    fn take_report(&mut self, report: Report) -> Result<(), Stop> {
        let Report { partition, epoch, outcome } = report;
        if let Outcome::Halted(halt) = &outcome
            && self.assignment.is_current(&partition, epoch)
        {
            return Err(self.halted(halt));
        }
        self.waiting.over(&partition);
        let Some(state) = self.assignment.get_mut(&partition).filter(|state| state.epoch() == epoch) else {
            return Ok(());
        };
        match outcome {
            Outcome::Opened { topic, chain, log, schema } => {
                if let Some((id, means)) = schema {
                    self.io.values.learn(id, means);
                }
                let lost_its_place = state.assigned();
                let position = state.opened(topic, *chain);
                let from = state.begin_reading(log.start);
                if self.until_end.is_some() {
                    state.end_at(log.end);
                }
                self.opened.insert(partition.clone());
                tracing::info!(%partition, %position, "reading");
                // A partition whose offset was out of range is not fetched any more, and cannot be sought in either.
                let freed = if lost_its_place {
                    self.io.consumer.unassign(std::slice::from_ref(&partition))
                } else {
                    Ok(())
                };
                let assigned = freed.and_then(|()| self.io.consumer.assign(&[(partition.clone(), from)]));
                // A pause outlives the assignment inside the client, and this one begins without.
                let assigned =
                    assigned.and_then(|()| self.io.consumer.resume(std::slice::from_ref(&partition)));
                assigned.map_err(|error| cannot("read a partition", &error))?;
            }
            Outcome::Published { chain, batch } => {
                state.published(*chain, &batch, &self.io.metrics, Instant::now());
                if self.spares.len() < SPARES_MAX {
                    self.spares.extend(batch.into_spare(self.io.flush.bytes.saturating_mul(2)));
                }
                self.totals.batches += 1;
                if state.reopen_due() {
                    self.reopen(&partition);
                }
            }
            Outcome::Behind { chain } => {
                tracing::info!(%partition, "what was staged is gone: it is read again");
                state.fell_behind(*chain);
                self.reopen(&partition);
            }
            Outcome::Halted(_) => {}
        }
        Ok(())
    }

    fn halted(&self, halt: &Halt) -> Stop {
        self.io.metrics.error("publish", "halt");
        self.io.health.not_ready(halt.to_string());
        halt.to_stop()
    }

    /// Learns where the consumer is: everything before it has been handed out by `poll`, and so lies in a buffer.
    fn observe_positions(&mut self, now: Instant) {
        match self.io.consumer.positions() {
            Ok(positions) => {
                for (partition, position) in positions {
                    if let Some(state) = self.assignment.get_mut(&partition) {
                        state.consumer_is_at(position, now);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "the consumer does not say where it is"),
        }
    }

    /// Sends what moved. Never waits for the answer: without a coordinator librdkafka would, for as long as a session lasts,
    /// and in its event interface nobody hears what becomes of a commit. A lost one costs nothing, since the head is the
    /// truth; positions are sent again from time to time.
    fn commit(&mut self, now: Instant) {
        if now >= self.next_full_commit {
            self.next_full_commit = now + FULL_COMMIT_INTERVAL;
            self.assignment.iter_mut().for_each(PartitionState::commit_again);
        }
        let due: Vec<_> = self.assignment.iter_mut().filter_map(PartitionState::commit_due).collect();
        if due.is_empty() {
            return;
        }
        let sent = self.io.consumer.commit(&due);
        self.io.metrics.committed(sent.is_ok());
        if let Err(error) = sent {
            tracing::info!(%error, "offsets not committed");
        }
    }

    fn publish_health(&mut self, now: Instant) {
        for state in self.assignment.iter_mut() {
            state.report(now);
        }
        self.io.metrics.lake(self.waiting.lake_fails_since());
        let opening = self.assignment.iter().filter(|state| state.is_opening()).count();
        match self.waiting.first() {
            Some((partition, cause)) => self.io.health.not_ready(format!("{partition} waits: {cause}")),
            None if !self.brokers_connected => self.io.health.not_ready("kafka: no broker is connected"),
            None if !self.joined => self.io.health.not_ready("joining the consumer group"),
            None if opening > 0 => {
                self.io.health.not_ready(format!("reading the chains of {opening} partitions"))
            }
            None => self.io.health.ready(),
        }
        let partitions: Vec<_> = self.assignment.iter().map(PartitionState::status).collect();
        self.io.health.status(serde_json::json!({
            "records": self.totals.records,
            "batches": self.totals.batches,
            "memoryPaused": self.memory_paused,
            "lake": self.waiting.lake((now, Utc::now())),
            "partitions": partitions,
        }));
    }
}

fn cannot(what: &str, error: &KafkaError) -> Stop {
    Stop::new(ExitCode::Temporary, format!("the consumer cannot {what}: {error}"))
}

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
//! - Memory over all partitions is bounded: early flushes from 90 % of the limit on, `pause` at the limit.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{error::KafkaError, types::RDKafkaErrorCode};
use shared::{
    admin::HealthReporter,
    exit::{ExitCode, Stop},
    kafka_position::{KafkaOffset, TopicPartition},
    topic_name::{DataTopic, TopicNames},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    assignment::Assignment,
    buffer::SpareBuffer,
    consumer::{GroupConsumer, Notice},
    jobs::{Jobs, Opening, Outcome, Publishing, Report},
    metrics::SinkMetrics,
    partition::PartitionState,
    publish::{Halt, Waiting},
};

/// How long one turn may wait for a record.
const POLL_WAIT: Duration = Duration::from_millis(20);

/// Records taken in one turn before anything else is looked at.
const RECORDS_PER_TURN: usize = 5_000;

/// A partition whose batch is on its way is paused when this many flushes' worth has gathered behind it: one slow
/// collection does not take the memory of the others.
const FLUSHES_BEHIND_MAX: usize = 4;

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
    /// Over all partitions, in bytes.
    pub memory_limit: usize,
    /// The largest value that becomes a line, in bytes.
    pub value_bytes_max: usize,
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
    pub names: TopicNames,
    pub flush: FlushPolicy,
    /// Bounds a flush at revocation and at the end.
    pub drain_limit: Duration,
    pub health: HealthReporter,
    pub metrics: std::sync::Arc<SinkMetrics>,
    pub shutdown: CancellationToken,
}

impl SinkWriter {
    /// Runs until the token is cancelled and everything is drained, or something stops it.
    ///
    /// # Errors
    /// The exit code and what to do.
    pub fn run(self) -> Result<Totals, Stop> {
        let mut state = Loop {
            io: self,
            assignment: Assignment::default(),
            waiting: BTreeMap::new(),
            joined: false,
            memory_paused: false,
            spares: Vec::new(),
            totals: Totals::default(),
            brokers_connected: true,
            next_full_commit: Instant::now() + FULL_COMMIT_INTERVAL,
            next_commit: Instant::now(),
            next_health: Instant::now(),
        };
        let result = state.run();
        state.io.consumer.leave(LEAVE_LIMIT);
        result
    }
}

struct Loop {
    io: SinkWriter,
    assignment: Assignment,
    /// Partitions that wait for a dependency, and why.
    waiting: BTreeMap<TopicPartition, String>,
    /// The group has answered at least once.
    joined: bool,
    memory_paused: bool,
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
    fn run(&mut self) -> Result<Totals, Stop> {
        while !self.io.shutdown.is_cancelled() {
            self.turn(POLL_WAIT)?;
        }
        self.io.health.not_ready("draining");
        let all = self.assignment.partitions();
        self.totals.drained = self.drain(&all, Instant::now() + self.io.drain_limit)?;
        self.commit(Instant::now());
        self.io.jobs.publisher().dead_letters.flush(LETTERS_LIMIT);
        Ok(self.totals)
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
            self.commit(now);
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
        for count in 0..RECORDS_PER_TURN {
            // The clock is for flush timers only: once in a while is enough.
            if count % 64 == 0 {
                now = Instant::now();
            }
            match self.io.consumer.poll(wait) {
                Some(Ok(message)) => {
                    let Some(state) = self.assignment.of_message(&message) else { continue };
                    state.take(&message, self.io.flush.value_bytes_max, &self.io.metrics, now);
                    self.totals.records += 1;
                }
                Some(Err(error)) => return self.take_error(&error),
                None => return Ok(()),
            }
            wait = Duration::ZERO;
        }
        Ok(())
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
                    tracing::info!("no data topic under the prefix yet");
                }
                self.joined = true;
                Ok(())
            }
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
                Err(Stop::new(ExitCode::Temporary, format!("the consumer cannot go on: {error}")))
            }
            // A topic that was deleted, a broker that is away: the client goes on by itself, or the next flush says so.
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

    /// Answers an assignment at once, with nothing: each partition is fetched when its chain is known.
    fn assigned(&mut self, partitions: Vec<TopicPartition>) -> Result<(), Stop> {
        self.joined = true;
        self.io.consumer.assign(&[]).map_err(|error| cannot("answer an assignment", &error))?;
        tracing::info!(partitions = %names_of(&partitions), "assigned");
        let mut round = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let namespace = match self.io.names.decode(&partition.topic) {
                Some(DataTopic::Named(namespace)) => Some(namespace),
                Some(DataTopic::Cut) => None,
                None => {
                    tracing::debug!(%partition, "not a data topic");
                    continue;
                }
            };
            let state = self.assignment.insert(partition, namespace);
            round.push(opening_of(state, KafkaOffset::ZERO));
        }
        self.io.jobs.open(round);
        self.io.metrics.rebalanced("assign", self.assignment.len());
        Ok(())
    }

    /// Flushes and commits the revoked partitions, within a bound, then gives them up. What is lost already is dropped:
    /// its next owner reads it again.
    fn revoked(&mut self, partitions: &[TopicPartition], lost: bool) -> Result<(), Stop> {
        self.joined = true;
        tracing::info!(partitions = %names_of(partitions), lost, "revoked");
        if !lost {
            let ours: Vec<_> = partitions
                .iter()
                .filter(|partition| self.assignment.get(partition).is_some())
                .cloned()
                .collect();
            self.drain(&ours, Instant::now() + self.io.drain_limit / 2)?;
            self.commit(Instant::now());
        }
        let fetched: Vec<TopicPartition> = partitions
            .iter()
            .filter(|partition| self.assignment.remove(partition).is_some_and(|state| state.assigned()))
            .cloned()
            .collect();
        for partition in partitions {
            self.waiting.remove(partition);
        }
        self.io.consumer.unassign(&fetched).map_err(|error| cannot("answer a revocation", &error))?;
        self.io.metrics.rebalanced(if lost { "lost" } else { "revoke" }, self.assignment.len());
        Ok(())
    }

    /// Publishes everything that these partitions hold, without polling; `false` if the deadline came first.
    fn drain(&mut self, partitions: &[TopicPartition], deadline: Instant) -> Result<bool, Stop> {
        self.observe_positions(Instant::now());
        loop {
            let mut round = Vec::new();
            let mut drained = true;
            for partition in partitions {
                let Some(state) = self.assignment.get_mut(partition) else { continue };
                if state.is_opening() || state.is_drained() {
                    continue;
                }
                drained = false;
                round.extend(publishing_of(state, false, &mut self.spares));
            }
            self.start(round);
            if drained {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                tracing::warn!("not everything could be flushed in time; it will be read again");
                return Ok(false);
            }
            self.io.health.beat();
            match self.wait_for_report(deadline) {
                Some(report) => self.take_report(report)?,
                None => continue,
            }
        }
    }

    /// Blocks until a job reports, at most until `deadline` or the next heartbeat.
    fn wait_for_report(&mut self, deadline: Instant) -> Option<Report> {
        let until = deadline.min(Instant::now() + HEALTH_INTERVAL);
        let runtime = tokio::runtime::Handle::current();
        runtime.block_on(async {
            tokio::time::timeout_at(until.into(), self.io.reports.recv()).await.ok().flatten()
        })
    }

    fn take_reports(&mut self) -> Result<(), Stop> {
        while let Ok(report) = self.io.reports.try_recv() {
            self.take_report(report)?;
        }
        while let Ok(Waiting { partition, cause }) = self.io.waits.try_recv() {
            match cause {
                Some(cause) if self.assignment.get(&partition).is_some() => {
                    self.waiting.insert(partition, cause);
                }
                _ => {
                    self.waiting.remove(&partition);
                }
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
        self.waiting.remove(&partition);
        let Some(state) = self.assignment.get_mut(&partition).filter(|state| state.epoch() == epoch) else {
            return Ok(());
        };
        match outcome {
            Outcome::Opened { topic_id, chain } => {
                let lost_its_place = state.assigned();
                let position = state.opened(topic_id, *chain);
                tracing::info!(%partition, %position, "reading");
                // A partition whose offset was out of range is not fetched any more, and cannot be sought in either.
                let freed = if lost_its_place {
                    self.io.consumer.unassign(std::slice::from_ref(&partition))
                } else {
                    Ok(())
                };
                let assigned = freed.and_then(|()| self.io.consumer.assign(&[(partition.clone(), position)]));
                // A pause outlives the assignment inside the client, and this one begins without.
                let assigned =
                    assigned.and_then(|()| self.io.consumer.resume(std::slice::from_ref(&partition)));
                assigned.map_err(|error| cannot("read a partition", &error))?;
            }
            Outcome::Published { chain, batch } => {
                state.published(*chain, &self.io.metrics, Instant::now());
                if let Some(oldest) = batch.oldest_cluster_time() {
                    self.io.metrics.event_age(oldest.seconds);
                }
                if self.spares.len() < SPARES_MAX {
                    self.spares.extend(batch.into_spare(self.io.flush.bytes.saturating_mul(2)));
                }
                self.totals.batches += 1;
                if state.reopen_due() {
                    self.reopen_all();
                }
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

    /// Drops what is buffered and reads all chains again; those with a batch on its way when that has ended.
    fn reopen_all(&mut self) {
        let mut round = Vec::new();
        for state in self.assignment.iter_mut() {
            if let Some(confirmed) = state.reopen() {
                round.push(opening_of(state, confirmed));
            }
        }
        self.io.jobs.open(round);
    }

    fn flush_due(&mut self, now: Instant) {
        let mut due = Vec::new();
        for (index, state) in self.assignment.iter_mut().enumerate() {
            let Some(chain) = state.idle_chain() else { continue };
            let policy = self.io.flush;
            let full = state.buffered_bytes() >= policy.bytes
                || policy.rows.is_some_and(|rows| state.buffered_records() >= rows)
                || state.buffered_since().is_some_and(|since| now.duration_since(since) >= policy.interval);
            let file_due = chain.roll_is_due(&self.io.jobs.publisher().policy, now);
            if full || file_due || state.stale_position(now) {
                due.push(index);
            }
        }
        if due.is_empty() {
            return;
        }
        self.observe_positions(now);
        let mut round = Vec::with_capacity(due.len());
        for (index, state) in self.assignment.iter_mut().enumerate() {
            if due.binary_search(&index).is_ok() {
                let publish_position = state.stale_position(now);
                round.extend(publishing_of(state, publish_position, &mut self.spares));
            }
        }
        self.start(round);
    }

    fn start(&self, round: Vec<Publishing>) {
        if !round.is_empty() {
            self.io.jobs.publish(round);
        }
    }

    /// At 90 % of the limit the largest buffers are flushed early, at the limit everything is paused, below 80 % it goes
    /// on. A partition that gathers too much behind its own batch is paused by itself.
    fn apply_memory_limit(&mut self, now: Instant) {
        let limit = self.io.flush.memory_limit;
        let used: usize = self.assignment.iter().map(PartitionState::memory).sum();
        if used >= limit / 10 * 9 {
            self.flush_largest(used - limit / 10 * 8, now);
        }
        self.memory_paused = used >= limit || (self.memory_paused && used >= limit / 10 * 8);
        let behind_max = self.io.flush.bytes.saturating_mul(FLUSHES_BEHIND_MAX);
        let mut pause = Vec::new();
        let mut resume = Vec::new();
        for state in self.assignment.iter_mut().filter(|state| !state.is_opening()) {
            let wanted =
                self.memory_paused || (state.is_publishing() && state.buffered_bytes() >= behind_max);
            if wanted != state.paused() {
                state.set_paused(wanted);
                if wanted { &mut pause } else { &mut resume }.push(state.partition().clone());
            }
        }
        let paused = self.assignment.iter().filter(|state| state.paused()).count();
        self.io.metrics.memory(used, limit, paused);
        for result in [
            (!pause.is_empty()).then(|| self.io.consumer.pause(&pause)),
            (!resume.is_empty()).then(|| self.io.consumer.resume(&resume)),
        ] {
            if let Some(Err(error)) = result {
                self.io.metrics.error("consume", "pause");
                tracing::warn!(%error, "cannot pause or resume partitions");
            }
        }
    }

    fn flush_largest(&mut self, bytes: usize, now: Instant) {
        let mut sizes: Vec<(usize, TopicPartition)> = self
            .assignment
            .iter()
            .filter(|state| state.idle_chain().is_some() && state.buffered_bytes() > 0)
            .map(|state| (state.buffered_bytes(), state.partition().clone()))
            .collect();
        if sizes.is_empty() {
            return;
        }
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        self.observe_positions(now);
        let mut freed = 0;
        let mut round = Vec::new();
        for (size, partition) in sizes {
            if freed >= bytes {
                break;
            }
            freed += size;
            round.extend(
                self.assignment
                    .get_mut(&partition)
                    .and_then(|state| publishing_of(state, false, &mut self.spares)),
            );
        }
        self.start(round);
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
        let opening = self.assignment.iter().filter(|state| state.is_opening()).count();
        match self.waiting.iter().next() {
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
            "partitions": partitions,
        }));
    }
}

/// Takes what is buffered out of a partition; `None` while a batch is on its way.
fn publishing_of(
    state: &mut PartitionState,
    publish_position: bool,
    spares: &mut Vec<SpareBuffer>,
) -> Option<Publishing> {
    let (chain, batch, namespace) = state.freeze()?;
    if let Some(spare) = spares.pop() {
        state.reuse(spare);
    }
    Some(Publishing {
        identity: state.identity().clone(),
        epoch: state.epoch(),
        chain,
        batch,
        namespace,
        publish_position,
        given_up: state.given_up(),
    })
}

fn opening_of(state: &PartitionState, confirmed: KafkaOffset) -> Opening {
    Opening {
        identity: state.identity().clone(),
        epoch: state.epoch(),
        confirmed,
        given_up: state.given_up(),
    }
}

fn cannot(what: &str, error: &KafkaError) -> Stop {
    Stop::new(ExitCode::Temporary, format!("the consumer cannot {what}: {error}"))
}

fn names_of(partitions: &[TopicPartition]) -> String {
    let names: Vec<String> = partitions.iter().map(ToString::to_string).collect();
    names.join(" ")
}

//! Partitions that come and go, and the drain before they go.

use std::time::Instant;

use shared::{
    exit::Stop,
    kafka_position::{KafkaOffset, TopicPartition},
};

use super::{HEALTH_INTERVAL, Loop, cannot, flush::publishing_of};
use crate::{
    jobs::{Opening, Report},
    partition::PartitionState,
    publish::{LostRecords, Publisher},
    topic_content::{TopicContent, is_archived},
};

impl Loop {
    /// Answers an assignment at once, with nothing: each partition is fetched when its chain is known.
    pub(super) fn assigned(&mut self, partitions: Vec<TopicPartition>) -> Result<(), Stop> {
        self.joined = true;
        self.io.consumer.assign(&[]).map_err(|error| cannot("answer an assignment", &error))?;
        tracing::info!(partitions = %names_of(&partitions), "assigned");
        let mut round = Vec::with_capacity(partitions.len());
        for partition in partitions {
            if !is_archived(&self.io.names, &partition.topic) {
                tracing::debug!(%partition, "neither a data topic nor the control topic");
                continue;
            }
            let content = TopicContent::by_name(&self.io.names, &partition.topic);
            // Once: what is lost later was not spoken of.
            let give_up =
                self.io.accepted_gaps.contains(&*partition.topic) && !self.opened.contains(&partition);
            let lost = if give_up { LostRecords::GiveUp } else { LostRecords::Stop };
            let Publisher { uploads, policy, .. } = self.io.jobs.publisher();
            let state = self.assignment.insert(
                partition,
                content,
                uploads,
                policy.line_format,
                self.io.schemas.clone(),
            );
            round.push(Opening { lost, ..opening_of(state, KafkaOffset::ZERO) });
        }
        self.io.jobs.open(round);
        if let Some(until) = &mut self.until_end {
            until.assigned(!self.assignment.is_empty(), Instant::now());
        }
        self.io.metrics.rebalanced("assign", self.assignment.len());
        Ok(())
    }

    /// Flushes and commits the revoked partitions, within a bound, then gives them up. What is lost already is dropped:
    /// its next owner reads it again.
    pub(super) fn revoked(&mut self, partitions: &[TopicPartition], lost: bool) -> Result<(), Stop> {
        // The next assignment says that the group has us again.
        self.joined = !lost;
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
            self.waiting.over(partition);
        }
        if let Some(until) = &mut self.until_end {
            until.revoked(Instant::now());
        }
        self.io.consumer.unassign(&fetched).map_err(|error| cannot("answer a revocation", &error))?;
        self.io.metrics.rebalanced(if lost { "lost" } else { "revoke" }, self.assignment.len());
        Ok(())
    }

    /// Publishes everything that these partitions hold, without polling; `false` if the deadline came first, or if what one held is gone and has
    /// to be read again.
    pub(super) fn drain(&mut self, partitions: &[TopicPartition], deadline: Instant) -> Result<bool, Stop> {
        self.observe_positions(Instant::now());
        loop {
            let mut round = Vec::new();
            let (mut drained, mut whole) = (true, true);
            for partition in partitions {
                let Some(state) = self.assignment.get_mut(partition) else { continue };
                // One that is read for the first time has held nothing.
                whole &= !(state.is_opening() && state.assigned());
                if state.is_opening() || state.is_drained() {
                    continue;
                }
                drained = false;
                round.extend(publishing_of(state, false, true));
            }
            self.start(round);
            if drained {
                return Ok(whole);
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

    /// Drops what a partition has buffered and reads its chain again: at once, or when the batch that is on its way has ended.
    pub(super) fn reopen(&mut self, partition: &TopicPartition) {
        if let Some(state) = self.assignment.get_mut(partition)
            && let Some(confirmed) = state.reopen()
        {
            let opening = opening_of(state, confirmed);
            self.io.jobs.open(vec![opening]);
        }
    }

    /// Drops what is buffered and reads all chains again; those with a batch on its way when that has ended.
    pub(super) fn reopen_all(&mut self) {
        let mut round = Vec::new();
        for state in self.assignment.iter_mut() {
            if let Some(confirmed) = state.reopen() {
                round.push(opening_of(state, confirmed));
            }
        }
        self.io.jobs.open(round);
    }
}

fn opening_of(state: &PartitionState, confirmed: KafkaOffset) -> Opening {
    Opening {
        identity: state.identity().clone(),
        epoch: state.epoch(),
        confirmed,
        lost: LostRecords::Stop,
        wanted_schema: state.wanted_schema(),
        given_up: state.given_up(),
    }
}

fn names_of(partitions: &[TopicPartition]) -> String {
    let names: Vec<String> = partitions.iter().map(ToString::to_string).collect();
    names.join(" ")
}

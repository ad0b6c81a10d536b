//! What is published when, and how much may wait.

use std::time::Instant;

use shared::kafka_position::TopicPartition;

use super::Loop;
use crate::{buffer::SpareBuffer, jobs::Publishing, partition::PartitionState};

/// A partition whose batch is on its way is paused when this many flushes' worth has gathered behind it: one slow
/// collection does not take the memory of the others.
const FLUSHES_BEHIND_MAX: usize = 4;

impl Loop {
    pub(super) fn flush_due(&mut self, now: Instant) {
        let mut due = Vec::new();
        for (index, state) in self.assignment.iter_mut().enumerate() {
            let Some(chain) = state.idle_chain() else { continue };
            let policy = self.io.flush;
            let full = state.buffered_bytes() >= policy.bytes
                || policy.rows.is_some_and(|rows| state.buffered_records() >= rows)
                || state.buffered_since().is_some_and(|since| now.duration_since(since) >= policy.interval);
            let file_due = chain.roll_is_due(&self.io.jobs.publisher().policy, now);
            if full || file_due || state.stale_position(now) || state.hour_end_due() || state.end_due() {
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
                let ends = state.end_due();
                let publish_position = ends || state.stale_position(now) || state.hour_end_due();
                round.extend(publishing_of(state, publish_position, ends));
            }
        }
        self.start(round);
    }

    pub(super) fn start(&self, round: Vec<Publishing>) {
        if !round.is_empty() {
            self.io.jobs.publish(round);
        }
    }

    /// At 90 % of the limit the largest buffers are flushed early, at the limit everything is paused, below 80 % it goes
    /// on. A topic that has half of the limit is treated so by itself, unless it is the only one beside the control topic,
    /// which needs next to nothing: whatever holds it up, the others have the other half. A partition that gathers too
    /// much behind its own batch is paused by itself, too.
    pub(super) fn apply_memory_limit(&mut self, now: Instant) {
        let limit = self.io.flush.buffer_bytes();
        let mut used = self.memory();
        if self.memory_paused || used >= limit / 10 * 9 {
            // Memory that is only kept to be used again goes first. While everything is paused nothing else would ever free
            // it, and the pause would not end. A buffer that is empty keeps none.
            self.spares.clear();
            used = self.memory();
        }
        self.memory_paused = self.relieve(None, used, limit, self.memory_paused, now);
        let before = std::mem::take(&mut self.paused_topics);
        let by_topic = self.assignment.memory_by_topic();
        let data_topics = by_topic.len() - usize::from(by_topic.contains_key(self.control.as_str()));
        if data_topics > 1 {
            for (topic, used) in by_topic {
                let paused = before.contains(&topic);
                if self.relieve(Some(&topic), used, limit / 2, paused, now) {
                    self.paused_topics.insert(topic);
                }
            }
        }
        let behind_max = self.io.flush.bytes.saturating_mul(FLUSHES_BEHIND_MAX);
        let mut pause = Vec::new();
        let mut resume = Vec::new();
        for state in self.assignment.iter_mut().filter(|state| !state.is_opening()) {
            let wanted = self.memory_paused
                || self.paused_topics.contains(&state.partition().topic)
                || (state.is_publishing() && state.buffered_bytes() >= behind_max);
            if wanted != state.paused() {
                state.set_paused(wanted);
                if wanted { &mut pause } else { &mut resume }.push(state.partition().clone());
            }
        }
        let paused = self.assignment.iter().filter(|state| state.paused()).count();
        self.io.metrics.memory(used, self.io.flush.memory_limit, paused);
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

    pub(super) fn memory(&self) -> usize {
        let partitions: usize = self.assignment.iter().map(PartitionState::memory).sum();
        partitions + self.spares.iter().map(SpareBuffer::memory).sum::<usize>()
    }

    /// Flushes early what fills a topic's share, or the whole limit; whether it is to be paused.
    fn relieve(
        &mut self,
        topic: Option<&str>,
        used: usize,
        limit: usize,
        paused: bool,
        now: Instant,
    ) -> bool {
        let (full, low) = (used >= limit, limit / 10 * 8);
        if used >= limit / 10 * 9 {
            // What is on its way counts as freed: this is looked at many times before it is, and each time would send smaller
            // batches after it. Unless it stands still, while others could be sent.
            let partitions = self.assignment.iter().filter(|state| is_of(state, topic));
            let on_its_way: usize = partitions.map(PartitionState::on_its_way).sum();
            let stands_still = full && self.io.jobs.publisher().uploads.are_idle();
            let surplus = (used - low).saturating_sub(if stands_still { 0 } else { on_its_way });
            self.flush_largest(topic, surplus, now);
        }
        full || (paused && used >= low)
    }

    /// As many of the largest buffers as hold so many bytes; of two that are alike, the one with the older record.
    fn flush_largest(&mut self, topic: Option<&str>, bytes: usize, now: Instant) {
        let idle = self.assignment.iter().filter(|state| {
            is_of(state, topic) && state.idle_chain().is_some() && state.buffered_bytes() > 0
        });
        let mut sizes: Vec<(usize, Option<Instant>, TopicPartition)> = idle
            .map(|state| (state.buffered_bytes(), state.buffered_since(), state.partition().clone()))
            .collect();
        if bytes == 0 || sizes.is_empty() {
            return;
        }
        sizes.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        self.observe_positions(now);
        let mut freed = 0;
        let mut round = Vec::new();
        for (size, _, partition) in sizes {
            if freed >= bytes {
                break;
            }
            freed += size;
            round.extend(
                self.assignment.get_mut(&partition).and_then(|state| publishing_of(state, false, false)),
            );
        }
        self.start(round);
    }
}

fn is_of(state: &PartitionState, topic: Option<&str>) -> bool {
    topic.is_none_or(|topic| *state.partition().topic == *topic)
}

/// Takes what is buffered out of a partition; `None` while a batch is on its way.
pub(super) fn publishing_of(
    state: &mut PartitionState,
    publish_position: bool,
    drain: bool,
) -> Option<Publishing> {
    let (chain, batch, content) = state.freeze()?;
    Some(Publishing {
        identity: state.identity().clone(),
        epoch: state.epoch(),
        chain,
        batch,
        content,
        publish_position,
        hour_end: state.hour_end(),
        drain,
        given_up: state.given_up(),
    })
}

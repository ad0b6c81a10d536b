//! The partitions that are ours now.

use std::{collections::HashMap, sync::Arc};

use rdkafka::{Message, message::BorrowedMessage};
use shared::{kafka_position::TopicPartition, namespace::Namespace};

use crate::partition::{AssignmentEpoch, PartitionState};

/// State by partition. Records come in runs of one partition, so the last one found is looked at first.
#[derive(Default)]
pub struct Assignment {
    states: Vec<PartitionState>,
    places: HashMap<Arc<str>, HashMap<i32, usize>>,
    last: usize,
    epoch: u64,
}

impl Assignment {
    pub fn len(&self) -> usize {
        self.states.len()
    }

    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    pub fn partitions(&self) -> Vec<TopicPartition> {
        self.states.iter().map(|state| state.partition().clone()).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &PartitionState> {
        self.states.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut PartitionState> {
        self.states.iter_mut()
    }

    /// Begins a new assignment of a partition; whatever was known of an earlier one is void.
    pub fn insert(&mut self, partition: TopicPartition, namespace: Option<Namespace>) -> &PartitionState {
        self.remove(&partition);
        self.epoch += 1;
        let place = self.states.len();
        self.places.entry(Arc::clone(&partition.topic)).or_default().insert(partition.partition, place);
        self.states.push(PartitionState::opening(partition, namespace, AssignmentEpoch(self.epoch)));
        &self.states[place]
    }

    pub fn remove(&mut self, partition: &TopicPartition) -> Option<PartitionState> {
        let place = self.place(&partition.topic, partition.partition)?;
        if let Some(of_topic) = self.places.get_mut(&partition.topic) {
            of_topic.remove(&partition.partition);
        }
        let mut state = self.states.swap_remove(place);
        if let Some(moved) = self.states.get(place) {
            let TopicPartition { topic, partition } = moved.partition();
            self.places.get_mut(topic).expect("every state has its place").insert(*partition, place);
        }
        state.retire();
        Some(state)
    }

    pub fn get(&self, partition: &TopicPartition) -> Option<&PartitionState> {
        self.place(&partition.topic, partition.partition).map(|place| &self.states[place])
    }

    pub fn get_mut(&mut self, partition: &TopicPartition) -> Option<&mut PartitionState> {
        self.place(&partition.topic, partition.partition).map(|place| &mut self.states[place])
    }

    /// Whether this is the assignment that a task was started for.
    pub fn is_current(&self, partition: &TopicPartition, epoch: AssignmentEpoch) -> bool {
        self.get(partition).is_some_and(|state| state.epoch() == epoch)
    }

    /// Whose record this is; `None` if its partition was given up meanwhile.
    pub fn of_message(&mut self, message: &BorrowedMessage<'_>) -> Option<&mut PartitionState> {
        let (topic, partition) = (message.topic(), message.partition());
        let is_last = self.states.get(self.last).is_some_and(|state| {
            state.partition().partition == partition && &*state.partition().topic == topic
        });
        if !is_last {
            self.last = self.place(topic, partition)?;
        }
        self.states.get_mut(self.last)
    }

    fn place(&self, topic: &str, partition: i32) -> Option<usize> {
        self.places.get(topic)?.get(&partition).copied()
    }
}

//! The partitions that are ours now.

use std::{collections::HashMap, sync::Arc};

use rdkafka::{Message, message::BorrowedMessage};
use shared::kafka_position::TopicPartition;

use crate::{
    line_format::LineFormat,
    partition::{AssignmentEpoch, PartitionState},
    schema_check::SchemaChecks,
    topic_content::TopicContent,
    uploads::{TopicUploads, Uploads},
};

/// State by partition. Records come in runs of one partition, so the last one found is looked at first.
#[derive(Default)]
pub struct Assignment {
    states: Vec<PartitionState>,
    topics: HashMap<Arc<str>, Topic>,
    last: usize,
    epoch: u64,
}

struct Topic {
    /// Where the states of its partitions are.
    places: HashMap<i32, usize>,
    uploads: TopicUploads,
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

    /// Memory by topic, in bytes.
    pub fn memory_by_topic(&self) -> HashMap<Arc<str>, usize> {
        let mut memory: HashMap<Arc<str>, usize> = HashMap::new();
        for state in &self.states {
            match memory.get_mut(&state.partition().topic) {
                Some(of_topic) => *of_topic += state.memory(),
                None => {
                    memory.insert(Arc::clone(&state.partition().topic), state.memory());
                }
            }
        }
        memory
    }

    pub fn iter(&self) -> impl Iterator<Item = &PartitionState> {
        self.states.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut PartitionState> {
        self.states.iter_mut()
    }

    /// Begins a new assignment of a partition; whatever was known of an earlier one is void.
    pub fn insert(
        &mut self,
        partition: TopicPartition,
        content: Option<TopicContent>,
        uploads: &Uploads,
        format: LineFormat,
        schemas: SchemaChecks,
    ) -> &PartitionState {
        self.remove(&partition);
        self.epoch += 1;
        let place = self.states.len();
        let topic = self
            .topics
            .entry(Arc::clone(&partition.topic))
            .or_insert_with(|| Topic { places: HashMap::new(), uploads: uploads.of_topic() });
        topic.places.insert(partition.partition, place);
        let (uploads, epoch) = (topic.uploads.clone(), AssignmentEpoch(self.epoch));
        self.states.push(PartitionState::opening(partition, content, uploads, epoch, format, schemas));
        &self.states[place]
    }

    pub fn remove(&mut self, partition: &TopicPartition) -> Option<PartitionState> {
        let place = self.place(&partition.topic, partition.partition)?;
        if let Some(topic) = self.topics.get_mut(&partition.topic) {
            topic.places.remove(&partition.partition);
        }
        let mut state = self.states.swap_remove(place);
        if let Some(moved) = self.states.get(place) {
            let TopicPartition { topic, partition } = moved.partition();
            let topic = self.topics.get_mut(topic).expect("every state has its place");
            topic.places.insert(*partition, place);
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
        self.topics.get(topic)?.places.get(&partition).copied()
    }
}

//! The partitions that a command may be about.

use std::{collections::HashSet, sync::Arc};

use shared::{kafka_position::TopicPartition, topic_name::TopicNames};

use crate::{
    lake::Lake, look_again::look_again, look_error::LookError, topic_content::is_archived,
    topic_reader::TopicReader,
};

/// Those of the topics that a sink reads that `wanted` accepts, and those that have a head in the lake; in their order.
///
/// # Errors
/// If Kafka or the lake does not answer.
pub async fn known_partitions(
    lake: &Lake,
    reader: &TopicReader,
    names: &TopicNames,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<TopicPartition>, LookError> {
    let mut partitions: HashSet<TopicPartition> = HashSet::new();
    for (topic, count) in reader.topics()? {
        if is_archived(names, &topic) && wanted(&topic) {
            let topic: Arc<str> = topic.into();
            partitions.extend((0..count).map(|partition| TopicPartition::new(Arc::clone(&topic), partition)));
        }
    }
    for path in look_again(async || lake.list_heads().await).await? {
        if let Some(partition) = path.as_head()
            && is_archived(names, &partition.topic)
            && wanted(&partition.topic)
        {
            partitions.insert(partition);
        }
    }
    let mut partitions: Vec<TopicPartition> = partitions.into_iter().collect();
    partitions.sort_unstable();
    Ok(partitions)
}

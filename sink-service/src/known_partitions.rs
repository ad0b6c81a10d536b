//! The partitions that a command may be about.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use shared::{
    exit::{ExitCode, Stop},
    kafka_position::TopicPartition,
    topic_name::TopicNames,
};

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

/// So many topics are named; there may be thousands.
const NAMED_MAX: usize = 10;

/// The one answer of all commands to a topic that is neither in Kafka nor in the lake: a mistake in the command line (64).
///
/// # Errors
/// If one of those that were asked for is not among those that are there.
pub fn refuse_unknown<'a>(
    asked: &[String],
    there: impl IntoIterator<Item = &'a TopicPartition>,
) -> Result<(), Stop> {
    let there: BTreeSet<&str> = there.into_iter().map(|partition| &*partition.topic).collect();
    let Some(unknown) = asked.iter().find(|topic| !there.contains(topic.as_str())) else { return Ok(()) };
    let what = format!(
        "no such topic, neither in Kafka nor in the lake: {unknown}. Topics that are there: {}",
        named(&there)
    );
    Err(Stop::new(ExitCode::Usage, what))
}

/// Topics for a sentence.
pub fn named(topics: &BTreeSet<impl AsRef<str>>) -> String {
    let shown: Vec<&str> = topics.iter().map(AsRef::as_ref).take(NAMED_MAX).collect();
    let more = if topics.len() > NAMED_MAX { ", …" } else { "" };
    if shown.is_empty() { "none".to_owned() } else { format!("{}{more}", shown.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_is_nowhere_is_a_mistake_in_the_command_line() {
        let there =
            [TopicPartition::new("atlas.shop.orders", 0), TopicPartition::new("atlas.shop.orders", 1)];
        assert!(refuse_unknown(&["atlas.shop.orders".to_owned()], &there).is_ok());
        let stop = refuse_unknown(&["atlas.shop.order".to_owned()], &there).expect_err("it is unknown");
        assert_eq!(stop.code, ExitCode::Usage);
        assert!(
            stop.message.ends_with(": atlas.shop.order. Topics that are there: atlas.shop.orders"),
            "{stop:?}"
        );
        assert!(refuse_unknown(&["a".to_owned()], []).is_err_and(|stop| stop.message.ends_with("none")));
    }
}

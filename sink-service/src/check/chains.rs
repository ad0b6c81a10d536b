//! The chains: whether each partition's could be gone on with, by the look and the rule that a start takes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use shared::{exit::Stop, kafka_position::TopicPartition};

use super::{Report, Step, kafka::NAMED_MAX};
use crate::{
    publish::{ChainLook, Outlook},
    settings::SinkSettings,
    topic_content::TopicContent,
};

const WHAT: &str = "chains";

/// So many partitions are looked at at a time.
const LOOKS_AT_ONCE: usize = 8;

/// How long all of them together may take; there may be thousands.
const LIMIT: Duration = Duration::from_secs(120);

/// Topics with their numbers of partitions.
pub(super) async fn look(
    chains: ChainLook<'_>,
    settings: &SinkSettings,
    all: &[(String, i32)],
    report: &mut Report,
) {
    let taken: Vec<&(String, i32)> = all.iter().filter(|(topic, _)| settings.topics.takes(topic)).collect();
    if taken.is_empty() {
        return;
    }
    let names = taken.iter().map(|(topic, _)| Arc::from(topic.as_str())).collect();
    let identities = match chains.log.identities(names).await {
        Ok(identities) => identities,
        Err(error) => return report.unknown(WHAT, error.to_string(), []),
    };
    let partitions = taken.iter().flat_map(|(topic, count)| {
        let topic: Arc<str> = topic.as_str().into();
        (0..*count).map(move |number| TopicPartition::new(Arc::clone(&topic), number))
    });
    let looks = stream::iter(partitions).map(|partition| async {
        let content = TopicContent::by_name(&settings.names, &partition.topic);
        let outlook = match identities.get(&partition.topic) {
            Some(identity) => chains.outlook(&partition, content.as_ref(), identity).await,
            None => Outlook::Unknown("the topic is not there any more".to_owned()),
        };
        (partition, outlook)
    });
    let mut seen = Seen::default();
    let mut looks = std::pin::pin!(looks.buffered(LOOKS_AT_ONCE));
    let whole = tokio::time::timeout(LIMIT, async {
        while let Some((partition, outlook)) = looks.next().await {
            seen.take(partition, outlook);
        }
    });
    if whole.await.is_err() {
        let found = format!("not all were looked at within {} s", LIMIT.as_secs());
        report.unknown(WHAT, found, []);
    }
    seen.tell(report);
}

#[derive(Default)]
struct Seen {
    go_on: usize,
    begin: usize,
    /// Of each topic what the first partition ends a start with, and how many more do.
    stops: BTreeMap<Arc<str>, (Stop, usize)>,
    unknown: BTreeMap<Arc<str>, String>,
}

impl Seen {
    fn take(&mut self, partition: TopicPartition, outlook: Outlook) {
        match outlook {
            Outlook::GoesOn => self.go_on += 1,
            Outlook::Begins => self.begin += 1,
            Outlook::Stops(halt) => match self.stops.get_mut(&partition.topic) {
                Some((_, more)) => *more += 1,
                None => drop(self.stops.insert(partition.topic, (halt.to_stop(), 0))),
            },
            Outlook::Unknown(why) => drop(self.unknown.entry(partition.topic).or_insert(why)),
        }
    }

    fn tell(self, report: &mut Report) {
        let Self { go_on, begin, stops, unknown } = self;
        if go_on + begin > 0 {
            let found = format!("{go_on} partition(s) go on where the lake ends, {begin} begin");
            report.ok(WHAT, found);
        }
        let unnamed = stops.len().saturating_sub(NAMED_MAX);
        let first_unnamed = stops.values().nth(NAMED_MAX).map(|(stop, _)| stop.code);
        for (topic, (stop, more)) in stops.into_iter().take(NAMED_MAX) {
            let others = (more > 0).then(|| format!("and {more} more of its partitions"));
            report.missing((Step::Chains, stop.code), format!("chain of {topic}"), stop.message, others);
        }
        if let Some(code) = first_unnamed {
            report.missing((Step::Chains, code), WHAT, format!("{unnamed} more topics end a start too"), []);
        }
        let unnamed = unknown.len().saturating_sub(NAMED_MAX);
        for (topic, why) in unknown.into_iter().take(NAMED_MAX) {
            report.unknown(format!("chain of {topic}"), why, []);
        }
        if unnamed > 0 {
            report.unknown(WHAT, format!("nor is it known of {unnamed} more topics"), []);
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::{exit::ExitCode, kafka_position::KafkaOffset};

    use super::*;
    use crate::{chain::ChainHalt, publish::Halt};

    #[test]
    fn each_topic_is_named_once_with_the_code_and_the_remedy_of_a_start() {
        let gap = |number| {
            let partition = TopicPartition::new("atlas.shop.orders", number);
            let (position, log_start) = (KafkaOffset::new(7), KafkaOffset::new(9));
            let halt = ChainHalt::Gap { partition: partition.clone(), position, log_start };
            (partition, Outlook::Stops(Halt::Chain(halt)))
        };
        let mut seen = Seen::default();
        for (partition, outlook) in
            [gap(0), (TopicPartition::new("atlas.shop.orders", 1), Outlook::GoesOn), gap(2)]
        {
            seen.take(partition, outlook);
        }
        let mut report = Report::default();
        seen.tell(&mut report);
        let text = report.to_string();
        assert_eq!(report.code(), ExitCode::OffsetGap);
        assert!(text.contains("--accept-gap") && text.contains("and 1 more of its partitions"), "{text}");
        assert!(text.contains("1 partition(s) go on where the lake ends, 0 begin"), "{text}");
    }
}

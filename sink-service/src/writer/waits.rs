//! Partitions that wait for a dependency, and what that says of the lake.

use std::{collections::BTreeMap, time::Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use shared::kafka_position::TopicPartition;

use crate::publish::{Dependency, Wait};

/// See the module.
#[derive(Default)]
pub(super) struct Waits {
    by_partition: BTreeMap<TopicPartition, Wait>,
    outage: Option<Outage>,
}

/// The time in which some partition's writes fail: one that waits while another writes is a wait all the same.
struct Outage {
    since: DateTime<Utc>,
    failures: u64,
    cause: String,
}

impl Waits {
    /// An attempt failed, or gets no answer.
    pub(super) fn failed(&mut self, partition: TopicPartition, wait: Wait, now: DateTime<Utc>) {
        if wait.on == Dependency::Lake {
            let outage =
                self.outage.get_or_insert_with(|| Outage { since: now, failures: 0, cause: String::new() });
            // A silence ends in a failure, or in an answer that was late.
            if wait.next.is_some() {
                outage.failures += 1;
            }
            outage.cause.clone_from(&wait.cause);
        }
        self.by_partition.insert(partition, wait);
        self.settle();
    }

    /// The partition has got what it waited for, or is no longer ours.
    pub(super) fn over(&mut self, partition: &TopicPartition) {
        self.by_partition.remove(partition);
        self.settle();
    }

    fn settle(&mut self) {
        if self.of_lake().next().is_none() {
            self.outage = None;
        }
    }

    fn of_lake(&self) -> impl Iterator<Item = &Wait> {
        self.by_partition.values().filter(|wait| wait.on == Dependency::Lake)
    }

    /// Any of them.
    pub(super) fn first(&self) -> Option<(&TopicPartition, &str)> {
        self.by_partition.iter().next().map(|(partition, wait)| (partition, wait.cause.as_str()))
    }

    /// Since when writes fail; `None` while none does.
    pub(super) fn lake_fails_since(&self) -> Option<DateTime<Utc>> {
        self.outage.as_ref().map(|outage| outage.since)
    }

    /// The member `lake` of `/status`. `clocks` are one moment.
    pub(super) fn lake(&self, clocks: (Instant, DateTime<Utc>)) -> Value {
        let (now, wall) = clocks;
        let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
        let next = self.of_lake().filter_map(|wait| wait.next).min();
        let due = next.and_then(|next| {
            let wait = chrono::Duration::from_std(next.saturating_duration_since(now)).ok()?;
            wall.checked_add_signed(wait)
        });
        json!({
            "up": self.outage.is_none(),
            "failsSince": self.outage.as_ref().map(|outage| text(outage.since)),
            "failures": self.outage.as_ref().map_or(0, |outage| outage.failures),
            "waitingPartitions": self.of_lake().count(),
            "cause": self.outage.as_ref().map(|outage| outage.cause.as_str()),
            "nextAttempt": due.map(text),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn partition(number: i32) -> TopicPartition {
        TopicPartition::new("atlas.shop.orders", number)
    }

    #[test]
    fn the_lake_is_down_from_the_first_failure_until_nobody_waits_for_it() {
        let (now, wall) = (Instant::now(), DateTime::from_timestamp(1_700_000_000, 0).unwrap_or_default());
        let lake = |cause: &str, seconds: Option<u64>| Wait {
            on: Dependency::Lake,
            cause: cause.to_owned(),
            next: seconds.map(|seconds| now + Duration::from_secs(seconds)),
        };
        let mut waits = Waits::default();
        assert_eq!((&waits.lake((now, wall))["up"], waits.lake_fails_since()), (&Value::Bool(true), None));

        waits.failed(partition(0), lake("503", Some(7)), wall);
        waits.failed(partition(1), lake("no connection", Some(3)), wall + Duration::from_secs(5));
        waits.failed(partition(2), lake("silence", None), wall + Duration::from_secs(6));
        let kafka = Wait { on: Dependency::Kafka, ..lake("no broker", Some(1)) };
        waits.failed(partition(3), kafka, wall);
        let expected = json!({
            "up": false,
            "failsSince": "2023-11-14T22:13:20Z",
            "failures": 2,
            "waitingPartitions": 3,
            "cause": "silence",
            "nextAttempt": "2023-11-14T22:13:23Z",
        });
        assert_eq!(waits.lake((now, wall)), expected);
        assert_eq!(waits.lake_fails_since(), Some(wall));

        for number in [0, 1] {
            waits.over(&partition(number));
            assert_eq!(waits.lake_fails_since(), Some(wall));
        }
        // It waits for something else now.
        let kafka = Wait { on: Dependency::Kafka, ..lake("no broker", Some(1)) };
        waits.failed(partition(2), kafka, wall);
        assert_eq!((waits.lake_fails_since(), waits.lake((now, wall))["failures"].as_u64()), (None, Some(0)));
        assert!(waits.first().is_some());
    }
}

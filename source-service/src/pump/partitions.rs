//! Numbers of partitions, looked at while the source runs.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Pump, Session, setback::Setback};
use crate::kafka_log::LogError;

/// Between two looks. Until a change is seen no key moves, so nothing hangs on it.
const INTERVAL: Duration = Duration::from_secs(30);

impl Pump {
    /// How many partitions the recorded topics have; those that are not there are left out.
    pub(super) fn partition_counts(
        &self,
        recorded: impl Fn(&str) -> bool,
    ) -> Result<BTreeMap<String, u32>, LogError> {
        let mut counts = BTreeMap::new();
        for place in self.log.partitions(recorded)? {
            *counts.entry(place.topic).or_insert(0) += 1;
        }
        Ok(counts)
    }

    /// Between two transactions: if somebody has given a topic another number of partitions, the source ends, and in order, so that the
    /// new number can be confirmed.
    pub(super) fn look_at_partitions(&mut self, session: &mut Session) -> Result<(), Setback> {
        // While something is in doubt it could not end in order.
        if self.partitions_looked_at.elapsed() < INTERVAL || !self.is_in_order(session) {
            return Ok(());
        }
        self.partitions_looked_at = Instant::now();
        let counts = match self.partition_counts(|topic| self.topics.is_recorded(topic)) {
            Ok(counts) => counts,
            // Whether Kafka is well is for transactions to find out.
            Err(error) => {
                tracing::debug!(%error, "numbers of partitions could not be looked at");
                return Ok(());
            }
        };
        let Some(stop) = self.topics.count_changed(&counts) else { return Ok(()) };
        self.commit_token(session, true)?;
        Err(Setback::Stop(stop))
    }
}

//! `run --until-end`: when the loop ends by itself.
//!
//! Each partition has an end of its own, taken when it was assigned ([`PartitionState::end_at`]). What is left to decide is whether the group has
//! said which partitions those are. A rebalance takes two rounds: in the first one a member that joins gets nothing, and others give up what it
//! gets in the second one. So an answer that leaves us without any partition may be followed by another one, and so may a revocation: for as long as
//! a sink may take to give partitions up. Of the broker's own assignment (KIP-848) the client does not say that it is empty: then a sink without a
//! partition waits until another one ends, and its partitions move.

use std::time::{Duration, Instant};

use crate::partition::PartitionState;

/// See the module.
#[derive(Debug)]
pub(super) struct UntilEnd {
    /// How long another sink may take to give partitions up.
    handover: Duration,
    /// Since when the group may be about to give us partitions.
    sharing_since: Option<Instant>,
}

impl UntilEnd {
    pub(super) fn new(handover: Duration) -> Self {
        Self { handover, sharing_since: None }
    }

    /// The group has answered, and we have partitions after that or none.
    pub(super) fn assigned(&mut self, any: bool, now: Instant) {
        self.sharing_since = (!any).then_some(now);
    }

    /// Partitions were taken from us; they may come back to us if nobody else is there any more.
    pub(super) fn revoked(&mut self, now: Instant) {
        self.sharing_since = Some(now);
    }

    /// The client says, again and again, that no topic matches.
    pub(super) fn no_topic(&mut self, now: Instant) {
        self.sharing_since.get_or_insert(now);
    }

    /// Whether everything is done. `joined`: the group has answered, and has not gone on without us since.
    pub(super) fn is_reached<'a>(
        &self,
        joined: bool,
        mut partitions: impl Iterator<Item = &'a PartitionState>,
        now: Instant,
    ) -> bool {
        let shared_out = self.sharing_since.is_none_or(|since| now.duration_since(since) >= self.handover);
        joined && shared_out && partitions.all(PartitionState::at_end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDOVER: Duration = Duration::from_secs(24);

    /// Without partitions, so many seconds after the begin.
    fn is_reached(until: &UntilEnd, joined: bool, begun: Instant, seconds: u64) -> bool {
        until.is_reached(joined, std::iter::empty(), begun + Duration::from_secs(seconds))
    }

    #[test]
    fn nothing_is_reached_before_the_group_has_answered() {
        let (begun, until) = (Instant::now(), UntilEnd::new(HANDOVER));
        assert!(!is_reached(&until, false, begun, 3600));
    }

    #[test]
    fn an_answer_without_partitions_may_be_followed_by_another() {
        let (begun, mut until) = (Instant::now(), UntilEnd::new(HANDOVER));
        until.assigned(false, begun);
        assert!(!is_reached(&until, true, begun, 23));
        assert!(is_reached(&until, true, begun, 24));
        assert!(!is_reached(&until, false, begun, 24), "the group has gone on without us");
        // Each answer begins anew; what has a partition is judged by that alone.
        until.assigned(false, begun + Duration::from_secs(20));
        assert!(!is_reached(&until, true, begun, 24));
        until.assigned(true, begun + Duration::from_secs(21));
        assert!(is_reached(&until, true, begun, 21));
    }

    #[test]
    fn what_was_taken_away_may_come_back() {
        let (begun, mut until) = (Instant::now(), UntilEnd::new(HANDOVER));
        until.assigned(true, begun);
        until.revoked(begun);
        assert!(!is_reached(&until, true, begun, 1));
        until.assigned(true, begun + Duration::from_secs(2));
        assert!(is_reached(&until, true, begun, 2));
    }

    #[test]
    fn topics_that_do_not_come_are_not_waited_for_again_and_again() {
        let (begun, mut until) = (Instant::now(), UntilEnd::new(HANDOVER));
        for seconds in [0, 5, 10, 15, 20] {
            until.no_topic(begun + Duration::from_secs(seconds));
        }
        assert!(!is_reached(&until, true, begun, 23) && is_reached(&until, true, begun, 24));
    }
}

//! What was seen: totals since the start, and how much per second of late.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use shared::cluster_time::ClusterTime;

/// Rates are over the last so many whole seconds.
const WINDOW: u64 = 10;

/// By operation. There are few, so they are searched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts(Vec<(String, u64)>);

impl Counts {
    fn add(&mut self, operation: &str, count: u64) {
        match self.0.iter_mut().find(|(name, _)| name == operation) {
            Some((_, sum)) => *sum += count,
            None => self.0.push((operation.to_owned(), count)),
        }
    }

    pub(super) fn of(&self, operation: &str) -> u64 {
        self.0.iter().find(|(name, _)| name == operation).map_or(0, |(_, count)| *count)
    }

    pub(super) fn total(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    /// The most frequent first.
    pub(super) fn by_count(&self) -> Vec<(&str, u64)> {
        let mut counts: Vec<(&str, u64)> =
            self.0.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        counts
    }
}

type ByNamespace = BTreeMap<String, Counts>;

/// Counts events by namespace and operation, by the second in which they were seen.
#[derive(Debug)]
pub(super) struct Rates {
    begun: Instant,
    totals: ByNamespace,
    events: u64,
    /// The second since the start, and what was seen in it; the newest last.
    seconds: VecDeque<(u64, ByNamespace)>,
    newest: Option<ClusterTime>,
}

impl Rates {
    pub(super) fn new(begun: Instant) -> Self {
        Self { begun, totals: ByNamespace::new(), events: 0, seconds: VecDeque::new(), newest: None }
    }

    pub(super) fn count(
        &mut self,
        namespace: &str,
        operation: &str,
        time: Option<ClusterTime>,
        now: Instant,
    ) {
        self.events += 1;
        self.newest = self.newest.max(time);
        add(&mut self.totals, namespace, operation);
        let second = self.second(now);
        if self.seconds.back().is_none_or(|(newest, _)| *newest < second) {
            self.seconds.push_back((second, ByNamespace::new()));
        }
        if let Some((_, counts)) = self.seconds.back_mut() {
            add(counts, namespace, operation);
        }
        self.forget(second);
    }

    /// The cluster time of the newest event.
    pub(super) fn newest(&self) -> Option<ClusterTime> {
        self.newest
    }

    pub(super) fn events(&self) -> u64 {
        self.events
    }

    pub(super) fn totals(&self) -> &BTreeMap<String, Counts> {
        &self.totals
    }

    pub(super) fn elapsed(&self, now: Instant) -> Duration {
        now.duration_since(self.begun)
    }

    /// Events in the last seconds, the busiest namespace first, and over how many seconds they were counted. The second that is running is left
    /// out, because it is not whole.
    pub(super) fn recent(&mut self, now: Instant) -> (Vec<(String, Counts)>, u64) {
        let second = self.second(now);
        self.forget(second);
        let mut sums = ByNamespace::new();
        for (_, counts) in self.seconds.iter().filter(|(of, _)| *of < second) {
            for (namespace, counts) in counts {
                let sum = sums.entry(namespace.clone()).or_default();
                counts.0.iter().for_each(|(operation, count)| sum.add(operation, *count));
            }
        }
        let mut recent: Vec<(String, Counts)> = sums.into_iter().collect();
        recent.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.total()));
        (recent, second.clamp(1, WINDOW))
    }

    fn second(&self, now: Instant) -> u64 {
        now.duration_since(self.begun).as_secs()
    }

    fn forget(&mut self, second: u64) {
        while self.seconds.front().is_some_and(|(oldest, _)| oldest + WINDOW < second) {
            self.seconds.pop_front();
        }
    }
}

/// Without an allocation for a namespace that is known.
fn add(counts: &mut ByNamespace, namespace: &str, operation: &str) {
    match counts.get_mut(namespace) {
        Some(counts) => counts.add(operation, 1),
        None => counts.entry(namespace.to_owned()).or_default().add(operation, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_forget_and_totals_do_not() {
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_millis(seconds * 1000 + 500);
        let mut rates = Rates::new(begun);
        for second in 0..20 {
            for _ in 0..3 {
                rates.count("shop.orders", "insert", Some(ClusterTime::new(100, 1)), at(second));
            }
        }
        rates.count("shop.items", "update", Some(ClusterTime::new(99, 1)), at(19));
        let (recent, seconds) = rates.recent(at(20));
        assert_eq!(seconds, 10);
        assert_eq!((recent[0].0.as_str(), recent[0].1.of("insert")), ("shop.orders", 30));
        assert_eq!((recent[1].0.as_str(), recent[1].1.of("update")), ("shop.items", 1));
        assert_eq!((rates.events(), rates.totals()["shop.orders"].total()), (61, 60));
        assert_eq!(rates.newest(), Some(ClusterTime::new(100, 1)));
        assert!(rates.recent(at(60)).0.is_empty(), "nothing came for long");
        assert_eq!(rates.events(), 61);
    }

    #[test]
    fn the_running_second_waits_until_it_is_whole() {
        let begun = Instant::now();
        let mut rates = Rates::new(begun);
        rates.count("shop.orders", "insert", None, begun + Duration::from_millis(100));
        assert_eq!(rates.recent(begun + Duration::from_millis(900)).0, []);
        let (recent, seconds) = rates.recent(begun + Duration::from_millis(1100));
        assert_eq!((recent.len(), seconds), (1, 1));
    }

    #[test]
    fn the_most_frequent_operation_comes_first() {
        let mut counts = Counts::default();
        counts.add("delete", 1);
        counts.add("insert", 5);
        counts.add("replace", 1);
        assert_eq!(counts.by_count(), [("insert", 5), ("delete", 1), ("replace", 1)]);
    }
}

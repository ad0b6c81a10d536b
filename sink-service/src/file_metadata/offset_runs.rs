//! A set of Kafka offsets as runs: small in memory, and small as text where 8 KB must hold it.
//!
//! Text: the distance from the end of the run before (from 0 for the first), and `*length` where a run is longer than
//! one. `105,0*3` cannot come out, because neighbours melt together: `105*4`. Then `1` is offset 110.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use shared::kafka_position::KafkaOffset;

/// Offsets in rising order. Grows only at its end, as a consumer meets them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetRuns(Vec<Run>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: u64,
    /// Exclusive; above `start`.
    end: u64,
}

impl OffsetRuns {
    /// Adds an offset behind all others. An offset at or before the last one is ignored: it is already accounted for.
    pub fn push(&mut self, offset: KafkaOffset) {
        let offset = offset.get();
        match self.0.last_mut() {
            Some(last) if offset < last.end => {}
            Some(last) if offset == last.end => last.end += 1,
            _ => self.0.push(Run { start: offset, end: offset + 1 }),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many offsets the set holds.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|run| run.end - run.start).sum()
    }

    pub fn contains(&self, offset: KafkaOffset) -> bool {
        let after = self.0.partition_point(|run| run.end <= offset.get());
        self.0.get(after).is_some_and(|run| run.start <= offset.get())
    }

    /// Those at or behind `from`.
    #[must_use]
    pub fn since(&self, from: KafkaOffset) -> Self {
        let from = from.get();
        let runs = self.0.iter().filter(|run| run.end > from);
        Self(runs.map(|run| Run { start: run.start.max(from), end: run.end }).collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = KafkaOffset> + '_ {
        self.0.iter().flat_map(|run| run.start..run.end).map(KafkaOffset::new)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut runs = Vec::new();
        let mut end = 0_u64;
        for item in text.split(',') {
            let (gap, length) = match item.split_once('*') {
                Some((gap, length)) => (gap.parse::<u64>().ok()?, length.parse().ok()?),
                None => (item.parse().ok()?, 1),
            };
            let touches_the_run_before = gap == 0 && !runs.is_empty();
            if touches_the_run_before || length == 0 {
                return None;
            }
            let start = end.checked_add(gap)?;
            end = start.checked_add(length)?;
            runs.push(Run { start, end });
        }
        Some(Self(runs))
    }
}

impl fmt::Display for OffsetRuns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut end = 0;
        for (index, run) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}", run.start - end)?;
            if run.end - run.start > 1 {
                write!(f, "*{}", run.end - run.start)?;
            }
            end = run.end;
        }
        Ok(())
    }
}

/// As its text, an empty one for no offset.
impl Serialize for OffsetRuns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OffsetRuns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self::default());
        }
        Self::parse(&text).ok_or_else(|| de::Error::custom("expected runs of offsets"))
    }
}

impl FromIterator<KafkaOffset> for OffsetRuns {
    fn from_iter<I: IntoIterator<Item = KafkaOffset>>(offsets: I) -> Self {
        let mut runs = Self::default();
        for offset in offsets {
            runs.push(offset);
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(offsets: &[u64]) -> OffsetRuns {
        offsets.iter().copied().map(KafkaOffset::new).collect()
    }

    #[test]
    fn neighbours_melt_into_runs() {
        let set = runs(&[105, 106, 107, 108, 110, 110, 107]);
        assert_eq!(set.to_string(), "105*4,1");
        assert_eq!(set.count(), 5);
        assert_eq!(set.iter().map(KafkaOffset::get).collect::<Vec<_>>(), [105, 106, 107, 108, 110]);
        assert_eq!(OffsetRuns::parse("105*4,1"), Some(set));
        assert_eq!(OffsetRuns::parse("0"), Some(runs(&[0])));
    }

    #[test]
    fn membership_is_by_offset() {
        let set = runs(&[3, 4, 9]);
        for offset in 0..12 {
            assert_eq!(set.contains(KafkaOffset::new(offset)), [3, 4, 9].contains(&offset), "{offset}");
        }
    }

    #[test]
    fn a_thousand_scattered_offsets_fit_the_metadata() {
        let set: OffsetRuns = (0..1_000).map(|i| KafkaOffset::new(9_000_000_000 + i * 37)).collect();
        assert!(set.to_string().len() < 4_000);
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for text in ["", "1,0", "1*0", "x", "1,", "-1", "18446744073709551615", "1*18446744073709551615"] {
            assert_eq!(OffsetRuns::parse(text), None, "{text}");
        }
    }
}

//! What can be wrong, by name.

use std::{collections::BTreeMap, fmt};

/// The promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ViolationKind {
    /// A change of MongoDB is in no topic.
    LostInKafka,
    /// A change of MongoDB is in Kafka more than once.
    TwiceInKafka,
    /// A record that no change of MongoDB stands behind.
    InventedInKafka,
    /// A change is in the topic of another namespace, or one namespace has two topics; or a file is in another topic's folder.
    WrongTopic,
    /// Changes of one document are not in the stream's order, or are spread over partitions.
    WrongOrder,
    WrongKey,
    WrongHeader,
    /// Kafka's timestamp is not the event's cluster time.
    WrongTimestamp,
    /// A value, or a line of the lake, does not say what it should.
    WrongContent,
    /// The committed resume token lies before an event that is committed, or cannot be read.
    TornToken,
    /// A record of Kafka is not in the lake although its chain says it got that far, or should have.
    LostInLake,
    TwiceInLake,
    /// A line whose record Kafka does not have.
    InventedInLake,
    /// A line lies in another hour than its event's.
    WrongHour,
    /// Between two files of a chain, offsets belong to nobody.
    ChainGap,
    /// Two files of a chain answer for the same offsets.
    ChainOverlap,
    /// A file that has a successor is not sealed.
    NotSealed,
    /// The head is missing, or does not name the chain's last file.
    WrongHead,
    /// Kafka was told a position that the lake has not reached.
    OffsetAhead,
    /// A file's metadata does not agree with its content.
    WrongMetadata,
}

/// One broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub kind: ViolationKind,
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.detail)
    }
}

/// All broken promises of one judgement.
#[derive(Clone, Debug, Default)]
pub struct Violations(Vec<Violation>);

impl Violations {
    pub fn add(&mut self, kind: ViolationKind, detail: impl Into<String>) {
        self.0.push(Violation { kind, detail: detail.into() });
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Violation> {
        self.0.iter()
    }

    pub fn has(&self, kind: ViolationKind) -> bool {
        self.0.iter().any(|violation| violation.kind == kind)
    }

    /// How many there are of each kind.
    pub fn counts(&self) -> BTreeMap<ViolationKind, usize> {
        self.0.iter().fold(BTreeMap::new(), |mut counts, violation| {
            *counts.entry(violation.kind).or_default() += 1;
            counts
        })
    }

    /// # Errors
    /// If there is any; the message counts them by kind and shows the first ones.
    pub fn none(&self) -> anyhow::Result<()> {
        if self.is_empty() { Ok(()) } else { Err(anyhow::anyhow!("the ledger found violations\n{self}")) }
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_PER_KIND: usize = 4;
        for (kind, count) in self.counts() {
            writeln!(f, "{kind:?}: {count}")?;
            for violation in self.0.iter().filter(|violation| violation.kind == kind).take(SHOWN_PER_KIND) {
                writeln!(f, "    {}", violation.detail)?;
            }
        }
        Ok(())
    }
}

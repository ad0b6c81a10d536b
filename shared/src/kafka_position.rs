//! Where a record is in Kafka.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// An offset in one Kafka partition; never negative. As the end of a range it is exclusive, as Kafka commits it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KafkaOffset(u64);

impl KafkaOffset {
    pub const ZERO: Self = Self(0);

    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// `None` for librdkafka's negative logical offsets.
    pub fn from_kafka(value: i64) -> Option<Self> {
        u64::try_from(value).ok().map(Self)
    }

    /// The signed form that Kafka's protocol uses.
    ///
    /// # Panics
    /// If the offset is above `i64::MAX`, which no Kafka log can hold.
    pub fn to_kafka(self) -> i64 {
        i64::try_from(self.0).expect("Kafka offsets fit a signed 64-bit integer")
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    /// The offset after this one.
    #[must_use]
    pub const fn after(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for KafkaOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One partition of one topic. Cheap to clone: the name is shared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic: Arc<str>,
    pub partition: i32,
}

impl TopicPartition {
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

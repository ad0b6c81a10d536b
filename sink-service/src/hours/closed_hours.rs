//! `_chain/<topic>/hours.json`: which hours of a topic have closed.

use serde::{Deserialize, Serialize};

use crate::event_hour::EventHour;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedHours {
    pub topic: String,
    /// The hour in which the topic was first seen. From it on every hour closes, also an empty one; before it, those that have files.
    pub begin: EventHour,
    /// The last hour that has closed, and all before it.
    pub closed: Option<EventHour>,
}

impl ClosedHours {
    /// # Errors
    /// The text says what is wrong with the bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| format!("not a record of closed hours: {error}"))
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("the record is JSON")
    }

    /// Whether the hour has closed.
    pub fn has_closed(&self, hour: EventHour) -> bool {
        self.closed.is_some_and(|closed| hour <= closed)
    }
}

//! MongoDB's cluster time: the logical clock that orders change events.
//!
//! A cluster time is a BSON timestamp, seconds since the epoch and an increment within that second. It is the only
//! time by which the pipeline routes: the record's Kafka timestamp and the hour in the lake follow from it, never from
//! a wall clock, so that a replay lands where the original did.
//!
//! It can be read back from a resume token: `_data` is a hexadecimal KeyString whose first byte 0x82 announces a
//! timestamp, followed by seconds and increment, both big-endian.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Seconds since the Unix epoch and the increment within that second. Ordered as MongoDB orders it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterTime {
    pub seconds: u32,
    pub increment: u32,
}

impl ClusterTime {
    pub const fn new(seconds: u32, increment: u32) -> Self {
        Self { seconds, increment }
    }

    /// Decodes the time at the front of a resume token's `_data`. `None` if the text is not of that form.
    pub fn from_token_data(data: &str) -> Option<Self> {
        let hex = data.as_bytes().get(..18)?;
        if !hex.iter().all(u8::is_ascii_hexdigit) || !hex.starts_with(b"82") {
            return None;
        }
        let seconds = u32::from_str_radix(data.get(2..10)?, 16).ok()?;
        let increment = u32::from_str_radix(data.get(10..18)?, 16).ok()?;
        Some(Self { seconds, increment })
    }

    /// The Kafka record timestamp of an event at this time, in milliseconds: whole seconds, because the increment is
    /// not a fraction of a second.
    pub const fn to_millis(self) -> i64 {
        self.seconds as i64 * 1000
    }

    /// Parses the form of the `cluster-time` header, `<seconds>.<increment>`.
    pub fn parse(text: &str) -> Option<Self> {
        let (seconds, increment) = text.split_once('.')?;
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(seconds) || !digits(increment) {
            return None;
        }
        Some(Self { seconds: seconds.parse().ok()?, increment: increment.parse().ok()? })
    }
}

/// The form of the `cluster-time` header.
impl fmt::Display for ClusterTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.seconds, self.increment)
    }
}

/// The form in Extended JSON, `{"$timestamp":{"t":…,"i":…}}`, as envelope and position records have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimestampJson {
    #[serde(rename = "$timestamp")]
    timestamp: TimestampParts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TimestampParts {
    t: u32,
    i: u32,
}

impl From<ClusterTime> for TimestampJson {
    fn from(time: ClusterTime) -> Self {
        Self { timestamp: TimestampParts { t: time.seconds, i: time.increment } }
    }
}

impl From<TimestampJson> for ClusterTime {
    fn from(json: TimestampJson) -> Self {
        Self::new(json.timestamp.t, json.timestamp.i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_data_starts_with_the_cluster_time() {
        let data = "8268A8F2400000000329295A1004";
        assert_eq!(ClusterTime::from_token_data(data), Some(ClusterTime::new(0x68A8_F240, 3)));
    }

    #[test]
    fn other_texts_have_no_cluster_time() {
        for text in ["", "82", "8168A8F24000000003", "82ZZA8F24000000003", "82FF", "82é8A8F24000000003"] {
            assert_eq!(ClusterTime::from_token_data(text), None, "{text}");
        }
    }

    #[test]
    fn header_form_is_read_back() {
        let time = ClusterTime::new(1_755_900_000, 3);
        assert_eq!(time.to_string(), "1755900000.3");
        assert_eq!(ClusterTime::parse("1755900000.3"), Some(time));
        for text in ["", ".", "1.", ".1", "1", "-1.2", "+1.2", "1.2.3", "99999999999.1", "1 .2"] {
            assert_eq!(ClusterTime::parse(text), None, "{text}");
        }
    }

    #[test]
    fn order_is_seconds_then_increment() {
        assert!(ClusterTime::new(2, 1) > ClusterTime::new(1, 9));
        assert!(ClusterTime::new(2, 2) > ClusterTime::new(2, 1));
        assert_eq!(ClusterTime::new(3, 7).to_millis(), 3_000);
    }
}

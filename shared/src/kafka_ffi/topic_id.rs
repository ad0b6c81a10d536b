//! Kafka's name for one incarnation of a topic.

use std::fmt;

/// Kafka's id of a topic, given at its creation and never used again (KIP-516).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId([u8; 16]);

impl TopicId {
    /// `None` for all zeroes: this broker has no topic ids (before 2.8), so there is nothing to compare.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    pub(super) fn from_halves(most: i64, least: i64) -> Option<Self> {
        let number = u128::from(most.cast_unsigned()) << 64 | u128::from(least.cast_unsigned());
        Self::from_bytes(number.to_be_bytes())
    }
}

const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// URL-safe base64 without padding, 22 characters, as Kafka prints it.
impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = u128::from_be_bytes(self.0);
        for place in 0..22_u32 {
            let digit = if place < 21 { number >> (122 - 6 * place) } else { number << 4 };
            let digit = usize::try_from(digit & 0b11_1111).expect("six bits");
            write!(f, "{}", char::from(BASE64_URL[digit]))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn ids_have_the_form_that_kafka_prints() {
        // java.util.UUID 01234567-89ab-cdef-fedc-ba9876543210 through org.apache.kafka.common.Uuid.
        let bytes = 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210_u128.to_be_bytes();
        let id = TopicId::from_bytes(bytes).unwrap();
        assert_eq!(id.to_string(), "ASNFZ4mrze_-3LqYdlQyEA");
        assert_eq!(TopicId::from_halves(0x0123_4567_89ab_cdef, -0x0123_4567_89ab_cdf0), Some(id));
        assert_eq!(TopicId::from_bytes([0; 16]), None);
    }
}

//! Which partition a key belongs to, as Kafka's Java client computes it.
//!
//! The producer leaves the choice to librdkafka (`murmur2_random`); recovery asks the same question about
//! keys that it does not send, so the answer has to be ours too. Source: `Utils.murmur2`, `Utils.toPositive`
//! and `BuiltInPartitioner.partitionForKey` in Apache Kafka's `clients`.

use std::num::NonZeroU32;

/// The partition of a record with this key in a topic of `partitions` partitions: below `partitions`, from 0.
///
/// # Panics
/// If a topic had more partitions than Kafka can number, `i32::MAX`.
pub fn partition_for_key(key: &[u8], partitions: NonZeroU32) -> i32 {
    // Java's `toPositive` clears the sign bit of the 32-bit hash.
    let positive = murmur2::murmur2(key, murmur2::KAFKA_SEED) & 0x7FFF_FFFF;
    i32::try_from(positive % partitions).expect("the sign bit is cleared")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn hashes_are_those_of_the_java_client() {
        let vectors: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, expected) in vectors {
            let hash = murmur2::murmur2(key.as_bytes(), murmur2::KAFKA_SEED).cast_signed();
            assert_eq!(hash, expected, "{key}");
        }
    }

    #[test]
    fn partitions_come_from_the_hash_without_its_sign() {
        let three = NonZeroU32::new(3).expect("not zero");
        // -973_932_308 without its sign bit is 1_173_551_340.
        assert_eq!(partition_for_key(b"21", three), 1_173_551_340 % 3);
        assert_eq!(partition_for_key(b"abc", three), 479_470_107 % 3);
        assert_eq!(partition_for_key(b"abc", NonZeroU32::MIN), 0);
    }
}

//! Rows that are committed although the record of their chunk is not: what a torn transaction leaves behind.
//!
//! A late EndTxn can commit the first part of a chunk's rows, in some partitions and not in others, without the record that says how far
//! the collection is copied. The chunk can not be read again as it was: another process knows neither its range nor, after some minutes,
//! its time. So recovery reads the keys of such rows back from the topic, and keeps them in the collection's record until the copy meets
//! their documents again: those rows are not sent a second time. Which of them there are does not matter, nor in which range they lie.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

/// A key may be long; a collision would lose a row, so 128 bits are kept.
const HASH_BYTES: usize = 16;

/// Hashes of record keys. As many as a chunk has rows at most, as a rule none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowsAhead(BTreeSet<[u8; HASH_BYTES]>);

impl RowsAhead {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// `key` as it is in Kafka.
    pub fn insert(&mut self, key: &[u8]) {
        self.0.insert(hash(key));
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        !self.0.is_empty() && self.0.contains(&hash(key))
    }

    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    pub fn remove(&mut self, others: &Self) {
        self.0.retain(|hash| !others.0.contains(hash));
    }

    /// For a record.
    pub fn to_text(&self) -> String {
        STANDARD.encode(self.0.iter().flatten().copied().collect::<Vec<u8>>())
    }

    /// `None` if it is not what [`Self::to_text`] makes.
    pub fn from_text(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text).ok()?;
        let (hashes, []) = bytes.as_chunks::<HASH_BYTES>() else { return None };
        Some(Self(hashes.iter().copied().collect()))
    }
}

fn hash(key: &[u8]) -> [u8; HASH_BYTES] {
    let digest: [u8; 32] = Sha256::digest(key).into();
    *digest.first_chunk().expect("it is longer")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn keys_come_back_and_are_taken_away() {
        let mut rows = RowsAhead::default();
        assert_eq!(RowsAhead::from_text(&rows.to_text()), Some(rows.clone()));
        rows.insert(b"42");
        rows.insert(b"\"42\"");
        rows.insert(b"42");
        assert_eq!(rows.len(), 2);
        assert_eq!(RowsAhead::from_text(&rows.to_text()).unwrap(), rows);
        assert!(rows.contains(b"42") && !rows.contains(b"43"));
        let mut found = RowsAhead::default();
        found.insert(b"42");
        rows.remove(&found);
        assert!(!rows.contains(b"42") && rows.contains(b"\"42\""));
        assert!(RowsAhead::from_text("AAAA").is_none());
    }
}

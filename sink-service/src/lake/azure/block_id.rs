//! Names of staged blocks. Two blocks never share one, whoever wrote them and however often a step is repeated.
//!
//! Azure matches a commit to staged blocks by name alone, and a late Put Block under a name that is used again would
//! replace the bytes between staging and commit: rows lost (found by the protocol search, with names by offset, with a
//! writer's name stable over restarts, and with a counter reused for other bytes).

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use uuid::Uuid;

/// 16 random bytes of one [`BlockIds`] and its counter, big-endian: always 24 bytes, as all ids of a blob must have one
/// length. Cheap to clone: a full file has 45,000. Foreign ids that are adopted from a block list may have another content, but never another length.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::lake) struct BlockId(Bytes);

impl BlockId {
    pub(super) fn adopted(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Mints ids. One per open container, its prefix never given from outside, so that none can be minted twice.
#[derive(Debug)]
pub(super) struct BlockIds {
    prefix: Uuid,
    next: AtomicU64,
}

impl BlockIds {
    pub(super) fn new() -> Self {
        Self { prefix: Uuid::new_v4(), next: AtomicU64::new(0) }
    }

    pub(super) fn mint(&self) -> BlockId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut bytes = Vec::with_capacity(24);
        bytes.extend_from_slice(self.prefix.as_bytes());
        bytes.extend_from_slice(&number.to_be_bytes());
        BlockId(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_id_is_minted_twice_and_all_have_one_length() {
        let minters = [BlockIds::new(), BlockIds::new()];
        let ids: Vec<BlockId> = minters.iter().flat_map(|ids| (0..1_000).map(|_| ids.mint())).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        assert!(ids.iter().all(|id| id.as_bytes().len() == 24));
    }
}

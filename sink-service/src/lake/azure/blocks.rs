//! Cuts a flush into blocks.

use bytes::{Bytes, BytesMut};

/// A flush is cut into blocks of at most this many bytes.
const BLOCK_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Joins small pieces and splits large ones, so that a flush is as few blocks as possible.
pub(super) fn cut_into_blocks(pieces: &[Bytes]) -> Vec<Bytes> {
    let mut blocks = Vec::new();
    let mut gathered = BytesMut::new();
    for piece in pieces {
        let mut piece = piece.clone();
        while !piece.is_empty() {
            if gathered.is_empty() && piece.len() >= BLOCK_BYTES_MAX {
                blocks.push(piece.split_to(BLOCK_BYTES_MAX));
                continue;
            }
            let room = BLOCK_BYTES_MAX - gathered.len();
            gathered.extend_from_slice(&piece.split_to(room.min(piece.len())));
            if gathered.len() == BLOCK_BYTES_MAX {
                blocks.push(gathered.split().freeze());
            }
        }
    }
    if !gathered.is_empty() {
        blocks.push(gathered.freeze());
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_all_bytes_in_order_and_none_is_empty_or_too_large() {
        let sizes = [0, 1, 5, BLOCK_BYTES_MAX - 3, 0, 2 * BLOCK_BYTES_MAX + 7, 1];
        let pieces: Vec<Bytes> = (1_u8..).zip(sizes).map(|(fill, size)| vec![fill; size].into()).collect();
        let blocks = cut_into_blocks(&pieces);
        assert!(blocks.iter().all(|block| !block.is_empty() && block.len() <= BLOCK_BYTES_MAX));
        assert_eq!(blocks.concat(), pieces.concat());
        assert_eq!(blocks.len(), pieces.concat().len().div_ceil(BLOCK_BYTES_MAX));
        assert!(cut_into_blocks(&[]).is_empty());
    }
}

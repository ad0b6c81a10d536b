//! Looks at eight bytes at a time with plain integer arithmetic ("SIMD within a register").
//!
//! A function that flags answers with one bit at the top of each byte that was looked for. A borrow of the
//! subtraction can flag a byte wrongly only above one that is flagged rightly, so the first flag is exact,
//! and only the first is used.

const EACH: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x80 * EACH;

/// One bit at the top of each byte that equals `byte`.
#[inline]
const fn equal(word: u64, byte: u64) -> u64 {
    let difference = word ^ (EACH * byte);
    difference.wrapping_sub(EACH) & !difference & HIGH
}

/// One bit at the top of each byte that JSON wants escaped.
#[inline]
pub(super) const fn escaped(word: u64) -> u64 {
    let control = word.wrapping_sub(EACH * 0x20) & !word & HIGH;
    control | equal(word, 0x22) | equal(word, 0x5C)
}

/// Escaped, or not ASCII: then it has to be checked first.
#[inline]
pub(super) const fn not_plain(word: u64) -> u64 {
    escaped(word) | (word & HIGH)
}

/// Escaped, or the first byte of U+0085, U+2028 or U+2029 (and of others, which are then copied).
#[inline]
pub(super) const fn not_copied(word: u64) -> u64 {
    escaped(word) | equal(word, 0xC2) | equal(word, 0xE2)
}

/// The position of the first flagged byte in a word of which one is flagged, or 8.
#[inline]
pub(super) const fn first_flag(flags: u64) -> usize {
    // At most 64 / 8, so nothing is cut.
    (flags.trailing_zeros() / 8) as usize
}

/// How many bytes at the start of `bytes` are not flagged.
#[inline]
pub(super) fn run(bytes: &[u8], flags: impl Fn(u64) -> u64) -> usize {
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let found = flags(u64::from_le_bytes(*word));
        if found != 0 {
            return index * 8 + first_flag(found);
        }
    }
    // A space is never flagged, so the filling does not count.
    let mut last = [b' '; 8];
    last[..tail.len()].copy_from_slice(tail);
    let found = flags(u64::from_le_bytes(last));
    let tail_run = if found == 0 { tail.len() } else { first_flag(found) };
    bytes.len() - tail.len() + tail_run
}

/// The position of the first zero byte.
#[inline]
pub(super) fn first_zero(bytes: &[u8]) -> Option<usize> {
    let end = run(bytes, |word| equal(word, 0));
    (end < bytes.len()).then_some(end)
}

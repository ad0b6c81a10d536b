//! Strings as JSON, scanned eight bytes at a time.
//!
//! The scan looks at a word of eight bytes with plain integer arithmetic and finds the first byte that cannot be
//! copied as it is. A borrow of the subtraction can flag a byte wrongly only above a byte that is flagged rightly, so the
//! first flag is exact, and only the first is used.

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
const fn escaped(word: u64) -> u64 {
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
const fn not_copied(word: u64) -> u64 {
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
fn run(bytes: &[u8], flags: impl Fn(u64) -> u64) -> usize {
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

/// Appends `bytes` as a JSON string with its quotes. Returns whether invalid UTF-8 had to be replaced.
#[inline]
pub(crate) fn write_text(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    out.push(b'"');
    let plain = run(bytes, not_plain);
    out.extend_from_slice(&bytes[..plain]);
    let repaired = plain < bytes.len() && write_difficult(&bytes[plain..], out);
    out.push(b'"');
    repaired
}

/// The rest of a text, from the first byte that is not plain ASCII.
fn write_difficult(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    if std::str::from_utf8(bytes).is_ok() {
        write_valid(bytes, out);
        return false;
    }
    for chunk in bytes.utf8_chunks() {
        write_valid(chunk.valid().as_bytes(), out);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{FFFD}".as_bytes());
        }
    }
    true
}

/// Bytes that are known to be UTF-8.
fn write_valid(mut bytes: &[u8], out: &mut Vec<u8>) {
    loop {
        let (plain, rest) = bytes.split_at(run(bytes, not_copied));
        out.extend_from_slice(plain);
        bytes = match rest {
            [] => return,
            [0xC2, 0x85, rest @ ..] => written(b"\\u0085", rest, out),
            [0xE2, 0x80, 0xA8, rest @ ..] => written(b"\\u2028", rest, out),
            [0xE2, 0x80, 0xA9, rest @ ..] => written(b"\\u2029", rest, out),
            [b'"', rest @ ..] => written(b"\\\"", rest, out),
            [b'\\', rest @ ..] => written(b"\\\\", rest, out),
            [b'\n', rest @ ..] => written(b"\\n", rest, out),
            [b'\r', rest @ ..] => written(b"\\r", rest, out),
            [b'\t', rest @ ..] => written(b"\\t", rest, out),
            [0x08, rest @ ..] => written(b"\\b", rest, out),
            [0x0C, rest @ ..] => written(b"\\f", rest, out),
            [control @ 0x00..0x20, rest @ ..] => {
                let [high, low] = HEX[usize::from(*control)];
                written(&[b'\\', b'u', b'0', b'0', high, low], rest, out)
            }
            [other, rest @ ..] => written(&[*other], rest, out),
        };
    }
}

#[inline]
fn written<'a>(escape: &[u8], rest: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    out.extend_from_slice(escape);
    rest
}

/// Two lower-case hexadecimal digits for each byte.
pub(super) const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    table
};

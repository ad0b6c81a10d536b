//! Strings as JSON, scanned and copied eight bytes at a time.

use super::swar::{first_flag, not_copied, not_plain, run};

/// Texts up to this length are copied word by word while they are scanned; for longer ones one large copy is
/// faster.
const SHORT: usize = 64;

/// Appends a text that ends with a zero byte at `length`, as a JSON string with its quotes. `bytes` may go on
/// behind the zero: it is read, not written. Returns whether invalid UTF-8 had to be replaced.
///
/// The zero counts as a control character, so one test of a word finds the end and proves that nothing before
/// it needs escaping; words of constant size are copied with one instruction each.
#[inline]
pub(super) fn write_closed_text(bytes: &[u8], length: usize, out: &mut Vec<u8>) -> bool {
    if length <= SHORT {
        let start = out.len();
        out.push(b'"');
        if copy_plain(bytes, out) == Some(length) {
            out.push(b'"');
            return false;
        }
        out.truncate(start);
    }
    write_text(&bytes[..length], out)
}

/// Appends plain ASCII up to a zero byte, whose position is returned. `None` if something else comes first or
/// the bytes end: the output then has to be cut back.
#[inline]
pub(super) fn copy_plain(bytes: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let start = out.len();
    let mut length = 0;
    for word in bytes.as_chunks::<8>().0 {
        out.extend_from_slice(word);
        let flags = not_plain(u64::from_le_bytes(*word));
        if flags == 0 {
            length += 8;
            continue;
        }
        let end = first_flag(flags);
        length += end;
        out.truncate(start + length);
        return (word[end] == 0).then_some(length);
    }
    None
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
pub(crate) const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    table
};

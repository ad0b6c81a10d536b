//! Reversible escaping of names into alphabets that cannot hold them.
//!
//! A byte that may not stand in the target is written `-xHH` (two lower-case hexadecimal digits). A `-` that would
//! read as the start of such a sequence is escaped itself, so that no two names give the same text and every text
//! that [`escape`] made is read back by [`unescape`].

use std::fmt::Write;

/// Writes `name` to `out`, byte by byte: as it is where `keep(position, byte)` says so, escaped elsewhere.
///
/// `keep` may only accept ASCII bytes.
pub fn escape(name: &str, out: &mut String, keep: impl Fn(usize, u8) -> bool) {
    let bytes = name.as_bytes();
    for (position, &byte) in bytes.iter().enumerate() {
        let plain = keep(position, byte) && !starts_sequence(&bytes[position..]);
        if plain {
            debug_assert!(byte.is_ascii(), "only ASCII can be kept");
            out.push(char::from(byte));
        } else {
            write!(out, "-x{byte:02x}").expect("writing to a String cannot fail");
        }
    }
}

/// The name that [`escape`] was given. `None` if the bytes are no UTF-8 text.
pub fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if starts_sequence(rest) {
            let digits = std::str::from_utf8(&rest[2..4]).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[4..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

fn starts_sequence(bytes: &[u8]) -> bool {
    let lower_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    matches!(bytes, [b'-', b'x', high, low, ..] if lower_hex(high) && lower_hex(low))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(name: &str) -> String {
        let mut out = String::new();
        escape(name, &mut out, |_, byte| byte.is_ascii_alphanumeric() || byte == b'-');
        out
    }

    #[test]
    fn a_literal_sequence_is_escaped() {
        assert_eq!(escaped("a b"), "a-x20b");
        assert_eq!(escaped("a-x20b"), "a-x2dx20b");
        assert_eq!(escaped("-x2é"), "-x2-xc3-xa9");
        assert_eq!(escaped("-X20"), "-X20");
    }

    proptest! {
        #[test]
        fn every_name_is_read_back(name in "\\PC*|[-x0-9a-f ]{0,12}") {
            prop_assert_eq!(unescape(&escaped(&name)), Some(name));
        }
    }
}

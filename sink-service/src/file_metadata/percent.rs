//! Percent-encoding for metadata values: total, reversible, and only printable ASCII without blanks comes out.

use std::fmt::Write;

/// Encodes every byte that is not printable ASCII, `%` itself, and each byte of `reserved`, which the caller uses as
/// separators. The empty text becomes `%`, which nothing else does: empty header values are not safe.
pub(super) fn encode(text: &str, reserved: &str) -> String {
    if text.is_empty() {
        return "%".to_owned();
    }
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if is_safe(byte, reserved) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    encoded
}

/// How many bytes [`encode`] makes of the text.
pub(super) fn encoded_len(text: &str, reserved: &str) -> usize {
    text.bytes().map(|byte| if is_safe(byte, reserved) { 1 } else { 3 }).sum::<usize>().max(1)
}

fn is_safe(byte: u8, reserved: &str) -> bool {
    byte.is_ascii_graphic() && byte != b'%' && !reserved.as_bytes().contains(&byte)
}

/// What [`encode`] makes of one character at most, whatever is reserved.
pub(super) fn encoded_len_max(character: char) -> usize {
    3 * character.len_utf8()
}

/// The inverse of [`encode`], whatever was reserved. `None` for what `encode` cannot have written.
pub(crate) fn decode(text: &str) -> Option<String> {
    if text == "%" {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            let (digits, tail) = tail.split_at_checked(2)?;
            let digits =
                str::from_utf8(digits).ok().filter(|text| text.bytes().all(|d| d.is_ascii_hexdigit()))?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_safe_in_a_header_and_read_back() {
        for (text, encoded) in [
            ("atlas.shop.orders", "atlas.shop.orders"),
            ("", "%"),
            (" a b ", "%20a%20b%20"),
            ("100%", "100%25"),
            ("größe\r\n", "gr%C3%B6%C3%9Fe%0D%0A"),
            ("a,b:c", "a%2Cb:c"),
        ] {
            assert_eq!(encode(text, ","), encoded);
            assert_eq!(encoded_len(text, ","), encoded.len());
            assert_eq!(decode(encoded).as_deref(), Some(text));
        }
    }

    #[test]
    fn broken_escapes_are_no_text() {
        for text in ["%2", "a%", "%zz", "%C3", "%+1"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}

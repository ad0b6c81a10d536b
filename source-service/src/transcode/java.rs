//! JSON as MongoDB's Java driver writes it, for the profiles that stand in for connectors that use it.
//!
//! `JsonWriter` of the driver differs from the specification's text in spacing, in numbers (`1.0E10`), in dates without a fraction of a
//! second, and in which characters it escapes. Its mode STRICT is the first version of Extended JSON. With an "indentation" of nothing
//! and a "new line" of nothing, which is how Debezium asks for compact text, there is no blank behind commas.
//! Seen on the drivers 4.7.2 and 5.6.2 by `profiles::records_are_those_of_the_connectors`.

use shared::iso_instant::IsoInstant;
use unicode_general_category::{GeneralCategory, get_general_category};

use super::{
    Dialect, Relaxed,
    dialect::{base64_text, not_finite, typed},
    swar::{not_plain, run},
    text::HEX,
};

/// `JsonMode.STRICT`, Extended JSON v1. With `SPACED` as `toJson()` writes it, else as Debezium does.
#[derive(Clone, Copy, Debug)]
pub struct JavaStrict<const SPACED: bool>;

/// `JsonMode.RELAXED`, Extended JSON v2.
#[derive(Clone, Copy, Debug)]
pub struct JavaRelaxed<const SPACED: bool>;

const NAME_END: &[u8] = b"\": ";

const fn next_member(spaced: bool) -> &'static [u8] {
    if spaced { b", \"" } else { b",\"" }
}

const fn next_item(spaced: bool) -> &'static [u8] {
    if spaced { b", " } else { b"," }
}

impl<const SPACED: bool> Dialect for JavaStrict<SPACED> {
    const NEXT_MEMBER: &'static [u8] = next_member(SPACED);
    const NEXT_ITEM: &'static [u8] = next_item(SPACED);
    const NAME_END: &'static [u8] = NAME_END;
    const PLAIN_TEXT: bool = false;
    const OLD_SHAPES: bool = true;

    fn text(bytes: &[u8], out: &mut Vec<u8>) -> bool {
        text(bytes, out)
    }

    fn int32(value: i32, out: &mut Vec<u8>) {
        Relaxed::int32(value, out);
    }

    fn int64(value: i64, out: &mut Vec<u8>) {
        typed(b"{\"$numberLong\": \"", itoa::Buffer::new().format(value), b"\"}", out);
    }

    /// What is no number has no quotes: not JSON, but what the driver writes.
    fn double(value: f64, out: &mut Vec<u8>) {
        if value.is_finite() {
            double(value, out);
        } else {
            out.extend_from_slice(not_finite(value).as_bytes());
        }
    }

    fn date(ms: i64, out: &mut Vec<u8>) {
        typed(b"{\"$date\": ", itoa::Buffer::new().format(ms), b"}", out);
    }

    fn object_id(id: [u8; 12], out: &mut Vec<u8>) {
        object_id(id, out);
    }

    fn decimal(bytes: [u8; 16], out: &mut Vec<u8>) {
        decimal(bytes, out);
    }

    fn binary(subtype: u8, content: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"$binary\": ");
        base64_text(content, out);
        out.extend_from_slice(Self::NEXT_MEMBER);
        let [high, low] = HEX[usize::from(subtype)];
        out.extend_from_slice(b"$type\": \"");
        out.extend_from_slice(&[high, low, b'"', b'}']);
    }
}

impl<const SPACED: bool> Dialect for JavaRelaxed<SPACED> {
    const NEXT_MEMBER: &'static [u8] = next_member(SPACED);
    const NEXT_ITEM: &'static [u8] = next_item(SPACED);
    const NAME_END: &'static [u8] = NAME_END;
    const PLAIN_TEXT: bool = false;

    fn text(bytes: &[u8], out: &mut Vec<u8>) -> bool {
        text(bytes, out)
    }

    fn int32(value: i32, out: &mut Vec<u8>) {
        Relaxed::int32(value, out);
    }

    fn int64(value: i64, out: &mut Vec<u8>) {
        Relaxed::int64(value, out);
    }

    fn double(value: f64, out: &mut Vec<u8>) {
        if value.is_finite() {
            double(value, out);
        } else {
            typed(b"{\"$numberDouble\": \"", not_finite(value), b"\"}", out);
        }
    }

    fn date(ms: i64, out: &mut Vec<u8>) {
        let Some(instant) = IsoInstant::from_millis(ms) else {
            return typed(b"{\"$date\": {\"$numberLong\": \"", itoa::Buffer::new().format(ms), b"\"}}", out);
        };
        // The fraction has no zeros at its end, and goes with its point if there is nothing left of it.
        let text = instant.as_bytes().strip_suffix(b"Z").unwrap_or_default();
        let digits = text.iter().rev().take(3).take_while(|digit| **digit == b'0').count();
        let kept = text.len() - if digits == 3 { 4 } else { digits };
        out.extend_from_slice(b"{\"$date\": \"");
        out.extend_from_slice(&text[..kept]);
        out.extend_from_slice(b"Z\"}");
    }

    fn object_id(id: [u8; 12], out: &mut Vec<u8>) {
        object_id(id, out);
    }

    fn decimal(bytes: [u8; 16], out: &mut Vec<u8>) {
        decimal(bytes, out);
    }

    fn binary(subtype: u8, content: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"$binary\": {\"base64\": ");
        base64_text(content, out);
        out.extend_from_slice(Self::NEXT_MEMBER);
        let [high, low] = HEX[usize::from(subtype)];
        out.extend_from_slice(b"subType\": \"");
        out.extend_from_slice(&[high, low, b'"', b'}', b'}']);
    }
}

fn object_id(id: [u8; 12], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"$oid\": \"");
    for byte in id {
        out.extend_from_slice(&HEX[usize::from(byte)]);
    }
    out.extend_from_slice(b"\"}");
}

fn decimal(bytes: [u8; 16], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"$numberDecimal\": \"");
    super::decimal::write(bytes, out);
    out.extend_from_slice(b"\"}");
}

/// Of `Double.toString`, JDK 19 and later: the shortest digits that read back as the same number, at least two of them, as a decimal from
/// 10⁻³ up to 10⁷ and else with `E`. The value is finite.
fn double(value: f64, out: &mut Vec<u8>) {
    if value.is_sign_negative() {
        out.push(b'-');
    }
    let value = value.abs();
    if value == 0.0 {
        return out.extend_from_slice(b"0.0");
    }
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(value);
    // One digit is not always the nearest of two: 4.9E-324 is shorter as 5E-324. It takes so small a number for them to differ.
    let nearest;
    let text = if value < 1e-300 {
        nearest = format!("{value:.1e}");
        if nearest.parse() == Ok(value) { nearest.as_str() } else { text }
    } else {
        text
    };
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = [b'0'; 64];
    let mut count = 0;
    for digit in whole.bytes().chain(fraction.bytes()).skip_while(|digit| *digit == b'0').take(digits.len()) {
        digits[count] = digit;
        count += 1;
    }
    let leading = i32::try_from(whole.len() + fraction.len() - count).unwrap_or_default();
    let point = i32::try_from(whole.len()).unwrap_or_default() - leading + exponent;
    while count > 1 && digits[count - 1] == b'0' {
        count -= 1;
    }
    let digits = &digits[..count];
    // Of the first digit.
    let power = point - 1;
    match power {
        0..7 => {
            let whole = usize::try_from(point).unwrap_or_default();
            out.extend_from_slice(&digits[..whole.min(count)]);
            out.resize(out.len() + whole.saturating_sub(count), b'0');
            out.push(b'.');
            out.extend_from_slice(if whole < count { &digits[whole..] } else { b"0" });
        }
        -3..0 => {
            out.extend_from_slice(b"0.");
            out.resize(out.len() + usize::try_from(-point).unwrap_or_default(), b'0');
            out.extend_from_slice(digits);
        }
        _ => {
            out.push(digits[0]);
            out.push(b'.');
            out.extend_from_slice(if count > 1 { &digits[1..] } else { b"0" });
            out.push(b'E');
            out.extend_from_slice(itoa::Buffer::new().format(power).as_bytes());
        }
    }
}

/// Returns whether invalid UTF-8 had to be replaced.
fn text(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    out.push(b'"');
    let plain = run(bytes, not_plain);
    let mut repaired = false;
    if plain == bytes.len() && !bytes.contains(&0x7F) {
        out.extend_from_slice(bytes);
    } else {
        for chunk in bytes.utf8_chunks() {
            for character in chunk.valid().chars() {
                write_char(character, out);
            }
            if !chunk.invalid().is_empty() {
                write_char('\u{FFFD}', out);
                repaired = true;
            }
        }
    }
    out.push(b'"');
    repaired
}

fn write_char(character: char, out: &mut Vec<u8>) {
    match character {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\u{8}' => out.extend_from_slice(b"\\b"),
        '\u{C}' => out.extend_from_slice(b"\\f"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        ' '..='~' => out.push(character as u8),
        _ if is_written(character) => {
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        _ => {
            // Java's characters are units of UTF-16; one that takes two of them is never written as it is.
            for unit in character.encode_utf16(&mut [0; 2]) {
                let [high, low] = unit.to_be_bytes();
                out.extend_from_slice(b"\\u");
                out.extend_from_slice(&HEX[usize::from(high)]);
                out.extend_from_slice(&HEX[usize::from(low)]);
            }
        }
    }
}

/// Letters, digits, punctuation and symbols are; marks, controls, formats, separators of lines and what is not assigned are not.
fn is_written(character: char) -> bool {
    use GeneralCategory as G;
    u32::from(character) <= 0xFFFF
        && matches!(
            get_general_category(character),
            G::UppercaseLetter
                | G::LowercaseLetter
                | G::TitlecaseLetter
                | G::OtherLetter
                | G::DecimalNumber
                | G::LetterNumber
                | G::OtherNumber
                | G::SpaceSeparator
                | G::ConnectorPunctuation
                | G::DashPunctuation
                | G::OpenPunctuation
                | G::ClosePunctuation
                | G::InitialPunctuation
                | G::FinalPunctuation
                | G::OtherPunctuation
                | G::MathSymbol
                | G::CurrencySymbol
                | G::ModifierSymbol
                | G::OtherSymbol
        )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    /// As JDK 21 prints them.
    #[test]
    fn doubles_are_those_of_java() {
        for (value, expected) in [
            (1.0, "1.0"),
            (1.5, "1.5"),
            (1e10, "1.0E10"),
            (1e-5, "1.0E-5"),
            (123_456_789.123, "1.23456789123E8"),
            (-0.0, "-0.0"),
            (0.0, "0.0"),
            (1e7, "1.0E7"),
            (9_999_999.0, "9999999.0"),
            (0.001, "0.001"),
            (0.000_999, "9.99E-4"),
            (1e22, "1.0E22"),
            (1e23, "1.0E23"),
            (5e-324, "4.9E-324"),
            (1e-323, "9.9E-324"),
            (f64::MAX, "1.7976931348623157E308"),
            (f64::MIN_POSITIVE, "2.2250738585072014E-308"),
            (0.1 + 0.2, "0.30000000000000004"),
            (2e-3, "0.002"),
            (100.0, "100.0"),
            (-120.25, "-120.25"),
            (9_007_199_254_740_992.0, "9.007199254740992E15"),
        ] {
            assert_eq!(written(|out| double(value, out)), expected);
        }
    }

    #[test]
    fn fractions_of_a_second_lose_their_zeros() {
        for (ms, expected) in [
            (1_755_900_000_123, "2025-08-22T22:00:00.123Z"),
            (1_755_900_000_120, "2025-08-22T22:00:00.12Z"),
            (1_755_900_000_100, "2025-08-22T22:00:00.1Z"),
            (1_755_900_000_000, "2025-08-22T22:00:00Z"),
            (1_755_900_000_001, "2025-08-22T22:00:00.001Z"),
        ] {
            let text = format!("{{\"$date\": \"{expected}\"}}");
            assert_eq!(written(|out| JavaRelaxed::<true>::date(ms, out)), text);
        }
        assert_eq!(
            written(|out| JavaRelaxed::<true>::date(-5, out)),
            "{\"$date\": {\"$numberLong\": \"-5\"}}"
        );
    }

    #[test]
    fn texts_are_escaped_as_java_does() {
        let text_of = |text: &str| written(|out| assert!(!super::text(text.as_bytes(), out)));
        assert_eq!(
            text_of(
                "q\"b\\n\n\r\t\u{8}\u{c}/\u{1}\u{7f}\u{85}\u{2028}\u{2029}é€😀\u{200b}\u{ad}\u{e000}\u{301}\u{feff}\u{378}"
            ),
            "\"q\\\"b\\\\n\\n\\r\\t\\b\\f/\\u0001\\u007f\\u0085\\u2028\\u2029é€\\ud83d\\ude00\\u200b\\u00ad\\ue000\\u0301\\ufeff\\u0378\""
        );
        assert_eq!(text_of("plain"), "\"plain\"");
        assert_eq!(text_of(""), "\"\"");
        assert_eq!(written(|out| assert!(super::text(b"a\xFFb", out))), "\"a\u{FFFD}b\"");
    }
}

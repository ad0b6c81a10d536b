//! Which JSON a BSON value becomes.
//!
//! A dialect is chosen at compile time of the walk, so that the hot path has no switch per value. Relaxed and
//! canonical differ only in the required functions; the provided ones are where [`Plain`], which is not
//! Extended JSON, writes its own form.

use base64::{Engine, encoded_len, engine::general_purpose::STANDARD};

use shared::iso_instant::write_far;

use super::{
    IsoInstant, decimal,
    text::{HEX, write_text},
};

/// Writes the values that dialects disagree about. Each function appends one JSON value.
pub trait Dialect {
    /// Between two members, up to the opening quote of the second one's name.
    const NEXT_MEMBER: &'static [u8] = b",\"";
    /// Behind a member's name, from its closing quote on.
    const NAME_END: &'static [u8] = b"\":";
    /// Between two items of an array.
    const NEXT_ITEM: &'static [u8] = b",";
    /// Texts of plain ASCII are copied as they are.
    const PLAIN_TEXT: bool = true;
    /// Expressions and pointers have the shapes of Extended JSON v1.
    const OLD_SHAPES: bool = false;
    /// A symbol is a bare text.
    const BARE_SYMBOL: bool = false;

    /// With its quotes. Returns whether invalid UTF-8 had to be replaced.
    #[inline]
    fn text(bytes: &[u8], out: &mut Vec<u8>) -> bool {
        write_text(bytes, out)
    }

    fn int32(value: i32, out: &mut Vec<u8>);

    fn int64(value: i64, out: &mut Vec<u8>);

    fn double(value: f64, out: &mut Vec<u8>);

    /// Milliseconds since 1970, any.
    fn date(ms: i64, out: &mut Vec<u8>);

    fn object_id(id: [u8; 12], out: &mut Vec<u8>) {
        let mut text = *b"{\"$oid\":\"000000000000000000000000\"}";
        for (place, byte) in text[9..33].as_chunks_mut::<2>().0.iter_mut().zip(id) {
            *place = HEX[usize::from(byte)];
        }
        out.extend_from_slice(&text);
    }

    fn decimal(bytes: [u8; 16], out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"$numberDecimal\":\"");
        decimal::write(bytes, out);
        out.extend_from_slice(b"\"}");
    }

    fn binary(subtype: u8, content: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"$binary\":{\"base64\":");
        base64_text(content, out);
        let [high, low] = HEX[usize::from(subtype)];
        out.extend_from_slice(b",\"subType\":\"");
        out.extend_from_slice(&[high, low, b'"', b'}', b'}']);
    }
}

/// Extended JSON v2, relaxed: numbers are JSON numbers, dates are ISO text. What JSON cannot say (not a
/// number, infinity, years outside 1970 to 9999) stays typed.
#[derive(Clone, Copy, Debug)]
pub struct Relaxed;

/// Extended JSON v2, canonical: every value can be read back as the type it was.
#[derive(Clone, Copy, Debug)]
pub struct Canonical;

/// Bare values, for readers that know nothing of MongoDB: ObjectIds, dates, decimals and binary are texts, and so
/// is a number that a reader of JSON could round (whole numbers beyond 2^53) or that JSON does not have. What type
/// a text was is not said. Timestamps and the rarer types stay as relaxed has them.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

/// Up to here every whole number is exact in a double, which most readers of JSON keep numbers in.
const DOUBLE_EXACT_MAX: u64 = 1 << 53;

impl Dialect for Relaxed {
    #[inline]
    fn int32(value: i32, out: &mut Vec<u8>) {
        out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    #[inline]
    fn int64(value: i64, out: &mut Vec<u8>) {
        out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// The shortest text that reads back as the same number; whole numbers keep their `.0`, zero its sign.
    #[inline]
    fn double(value: f64, out: &mut Vec<u8>) {
        if value.is_finite() {
            out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
        } else {
            Canonical::double(value, out);
        }
    }

    #[inline]
    fn date(ms: i64, out: &mut Vec<u8>) {
        let Some(instant) = IsoInstant::from_millis(ms) else {
            return Canonical::date(ms, out);
        };
        let mut text = *b"{\"$date\":\"0000-00-00T00:00:00.000Z\"}";
        text[10..34].copy_from_slice(instant.as_bytes());
        out.extend_from_slice(&text);
    }
}

impl Dialect for Canonical {
    fn int32(value: i32, out: &mut Vec<u8>) {
        typed(b"{\"$numberInt\":\"", itoa::Buffer::new().format(value), b"\"}", out);
    }

    fn int64(value: i64, out: &mut Vec<u8>) {
        typed(b"{\"$numberLong\":\"", itoa::Buffer::new().format(value), b"\"}", out);
    }

    fn double(value: f64, out: &mut Vec<u8>) {
        let mut buffer = zmij::Buffer::new();
        let text = if value.is_finite() { buffer.format_finite(value) } else { not_finite(value) };
        typed(b"{\"$numberDouble\":\"", text, b"\"}", out);
    }

    fn date(ms: i64, out: &mut Vec<u8>) {
        typed(b"{\"$date\":{\"$numberLong\":\"", itoa::Buffer::new().format(ms), b"\"}}", out);
    }
}

impl Dialect for Plain {
    const BARE_SYMBOL: bool = true;

    #[inline]
    fn int32(value: i32, out: &mut Vec<u8>) {
        Relaxed::int32(value, out);
    }

    #[inline]
    fn int64(value: i64, out: &mut Vec<u8>) {
        if value.unsigned_abs() <= DOUBLE_EXACT_MAX {
            Relaxed::int64(value, out);
        } else {
            typed(b"\"", itoa::Buffer::new().format(value), b"\"", out);
        }
    }

    #[inline]
    fn double(value: f64, out: &mut Vec<u8>) {
        if value.is_finite() {
            Relaxed::double(value, out);
        } else {
            typed(b"\"", not_finite(value), b"\"", out);
        }
    }

    /// Also before 1970 and after 9999, where birthdays and placeholders lie.
    #[inline]
    fn date(ms: i64, out: &mut Vec<u8>) {
        out.push(b'"');
        match IsoInstant::from_millis(ms) {
            Some(instant) => out.extend_from_slice(instant.as_bytes()),
            None => write_far(ms, out),
        }
        out.push(b'"');
    }

    #[inline]
    fn object_id(id: [u8; 12], out: &mut Vec<u8>) {
        let mut text = *b"\"000000000000000000000000\"";
        for (place, byte) in text[1..25].as_chunks_mut::<2>().0.iter_mut().zip(id) {
            *place = HEX[usize::from(byte)];
        }
        out.extend_from_slice(&text);
    }

    fn decimal(bytes: [u8; 16], out: &mut Vec<u8>) {
        out.push(b'"');
        decimal::write(bytes, out);
        out.push(b'"');
    }

    fn binary(_subtype: u8, content: &[u8], out: &mut Vec<u8>) {
        base64_text(content, out);
    }
}

/// With its quotes.
pub(super) fn base64_text(content: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let start = out.len();
    let length = encoded_len(content.len(), true).expect("BSON is shorter than 2 GiB");
    out.resize(start + length, 0);
    STANDARD.encode_slice(content, &mut out[start..]).expect("the room was measured");
    out.push(b'"');
}

/// The specification knows one `NaN`, without sign or payload.
pub(super) fn not_finite(value: f64) -> &'static str {
    if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

pub(super) fn typed(open: &[u8], text: &str, close: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(open);
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(close);
}

//! Which JSON a BSON value becomes.
//!
//! A dialect is chosen at compile time of the walk, so that the hot path has no switch per value. Relaxed and
//! canonical differ only in the required functions; the provided ones are where a dialect that is not
//! Extended JSON (ObjectId as bare hexadecimal text, decimals as strings) would write its own form.

use super::{IsoInstant, decimal, text::HEX};

/// Writes the values that dialects disagree about. Each function appends one JSON value.
pub trait Dialect {
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
}

/// Extended JSON v2, relaxed: numbers are JSON numbers, dates are ISO text. What JSON cannot say (not a
/// number, infinity, years outside 1970 to 9999) stays typed.
#[derive(Clone, Copy, Debug)]
pub struct Relaxed;

/// Extended JSON v2, canonical: every value can be read back as the type it was.
#[derive(Clone, Copy, Debug)]
pub struct Canonical;

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

    /// The specification knows one `NaN`, without sign or payload.
    fn double(value: f64, out: &mut Vec<u8>) {
        let mut buffer = zmij::Buffer::new();
        let text = if value.is_nan() {
            "NaN"
        } else if value == f64::INFINITY {
            "Infinity"
        } else if value == f64::NEG_INFINITY {
            "-Infinity"
        } else {
            buffer.format_finite(value)
        };
        typed(b"{\"$numberDouble\":\"", text, b"\"}", out);
    }

    fn date(ms: i64, out: &mut Vec<u8>) {
        typed(b"{\"$date\":{\"$numberLong\":\"", itoa::Buffer::new().format(ms), b"\"}}", out);
    }
}

fn typed(open: &[u8], text: &str, close: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(open);
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(close);
}

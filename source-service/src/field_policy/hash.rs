//! The keyed hash of a value: HMAC-SHA-256 ([RFC 2104](https://www.rfc-editor.org/rfc/rfc2104)) over a form in which equal values are
//! equal bytes.
//!
//! Equal is what MongoDB takes for equal: `5` as an int, a long, a double or a decimal, `-0.0` and `0`, a symbol and the same string. The form
//! is one letter for the type, then the content:
//!
//! | type | bytes |
//! |---|---|
//! | string, symbol | `s`, then the text |
//! | number | `n`, then its digits (`5`, `-12`), or `5E-1` for what is no whole number or has more than 34 digits; `NaN`, `Infinity`, `-Infinity`; a double that has no such digits: `x` and its 16 hexadecimal digits |
//! | ObjectId | `o`, then 12 bytes |
//! | date | `d`, then milliseconds since 1970, in digits |
//! | boolean | `t` or `f` |
//! | null | `z` |
//! | binary | `b`, the subtype's byte, then the content |
//! | timestamp | `m`, then 8 bytes as in BSON |
//! | document, array | `{` or `[`, then the form of each value in it; a zero byte at the end |
//!
//! A value inside a document or array has behind its letter the name (none in an array), a zero byte and, unless it is a document or array
//! itself, the length of its content (4 bytes, little-endian): so no two values have the same bytes.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::transcode::{DecimalParts, ElementKind, HEX, MAX_DEPTH, MalformedBson, Reader, decimal_parts};

/// Bytes that a key must have: as many as the hash.
const KEY_BYTES_MIN: usize = 32;

/// The largest coefficient of a number that is written as digits: 34 of them, as a decimal has.
const DIGITS_MAX: u128 = 10_u128.pow(34) - 1;

/// What values are hashed with; never shown.
#[derive(Clone)]
pub struct HashKey(Hmac<Sha256>);

/// A key that could be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a text of at least {KEY_BYTES_MIN} characters")]
pub struct ShortKey;

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(***)")
    }
}

impl HashKey {
    /// # Errors
    /// [`ShortKey`].
    pub fn new(text: &str) -> Result<Self, ShortKey> {
        if text.len() < KEY_BYTES_MIN {
            return Err(ShortKey);
        }
        Hmac::new_from_slice(text.as_bytes()).map(Self).map_err(|_| ShortKey)
    }

    /// 64 hexadecimal digits.
    pub(super) fn of(&self, kind: ElementKind, value: &[u8]) -> Result<[u8; 64], MalformedBson> {
        let mut form = Form { mac: self.0.clone() };
        form.value(kind, value, None, MAX_DEPTH)?;
        let mut text = [0; 64];
        for (place, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(form.mac.finalize().into_bytes()) {
            *place = HEX[usize::from(byte)];
        }
        Ok(text)
    }
}

/// Where in a value another one lies: it is then framed, and in a document it has a name.
type Inside<'a> = Option<&'a [u8]>;

struct Form {
    mac: Hmac<Sha256>,
}

impl Form {
    /// `inside` is the name that the value has in a document, empty in an array; `None` for the whole value.
    fn value(
        &mut self,
        kind: ElementKind,
        bytes: &[u8],
        inside: Inside<'_>,
        depth: usize,
    ) -> Result<(), MalformedBson> {
        let mut reader = Reader::new(bytes);
        match kind {
            ElementKind::String | ElementKind::Symbol => self.sized(b's', inside, &[reader.string()?]),
            ElementKind::Int32 => self.number(&Number::whole(i64::from(reader.i32()?)), inside),
            ElementKind::Int64 => self.number(&Number::whole(reader.i64()?), inside),
            ElementKind::Double => self.number(&Number::double(f64::from_le_bytes(reader.array()?)), inside),
            ElementKind::Decimal128 => self.number(&Number::decimal(reader.array()?), inside),
            ElementKind::DateTime => {
                self.sized(b'd', inside, &[itoa::Buffer::new().format(reader.i64()?).as_bytes()])
            }
            ElementKind::ObjectId => self.sized(b'o', inside, &[reader.take(12)?]),
            ElementKind::Timestamp => self.sized(b'm', inside, &[reader.take(8)?]),
            ElementKind::Boolean => match reader.byte()? {
                0 => self.sized(b'f', inside, &[]),
                1 => self.sized(b't', inside, &[]),
                other => return Err(MalformedBson::Boolean(other)),
            },
            ElementKind::Null => self.sized(b'z', inside, &[]),
            ElementKind::Binary => {
                let (subtype, content) = reader.binary()?;
                self.sized(b'b', inside, &[&[subtype], content]);
            }
            ElementKind::Document => self.members(reader.document()?, inside, depth)?,
            ElementKind::Array => self.items(reader.document()?, inside, depth)?,
            // Seldom stored, and without a second form that is equal: as BSON has them.
            ElementKind::Regex => self.sized(b'r', inside, &[bytes]),
            ElementKind::Code => self.sized(b'c', inside, &[bytes]),
            ElementKind::CodeWithScope => self.sized(b'w', inside, &[bytes]),
            ElementKind::DbPointer => self.sized(b'p', inside, &[bytes]),
            ElementKind::Undefined => self.sized(b'u', inside, &[]),
            ElementKind::MinKey => self.sized(b'<', inside, &[]),
            ElementKind::MaxKey => self.sized(b'>', inside, &[]),
        }
        Ok(())
    }

    fn letter(&mut self, letter: u8, inside: Inside<'_>) {
        self.mac.update(&[letter]);
        if let Some(name) = inside.filter(|name| !name.is_empty()) {
            self.mac.update(name);
        }
        if inside.is_some() {
            self.mac.update(&[0]);
        }
    }

    fn sized(&mut self, letter: u8, inside: Inside<'_>, parts: &[&[u8]]) {
        self.letter(letter, inside);
        if inside.is_some() {
            let length: usize = parts.iter().map(|part| part.len()).sum();
            self.mac.update(&u32::try_from(length).expect("BSON is shorter than 2 GiB").to_le_bytes());
        }
        for part in parts {
            self.mac.update(part);
        }
    }

    fn members(&mut self, document: &[u8], inside: Inside<'_>, depth: usize) -> Result<(), MalformedBson> {
        let depth = depth.checked_sub(1).ok_or(MalformedBson::TooDeep)?;
        self.letter(b'{', inside);
        let mut reader = Reader::of_document(document)?;
        while let Some(element) = reader.element()? {
            self.value(element.kind, element.value, Some(element.name), depth)?;
        }
        self.mac.update(&[0]);
        Ok(())
    }

    fn items(&mut self, array: &[u8], inside: Inside<'_>, depth: usize) -> Result<(), MalformedBson> {
        let depth = depth.checked_sub(1).ok_or(MalformedBson::TooDeep)?;
        self.letter(b'[', inside);
        let mut reader = Reader::of_document(array)?;
        while let Some(element) = reader.element()? {
            self.value(element.kind, element.value, Some(b""), depth)?;
        }
        self.mac.update(&[0]);
        Ok(())
    }

    fn number(&mut self, number: &Number, inside: Inside<'_>) {
        let (mut digits, mut exponent, mut bits) = (itoa::Buffer::new(), itoa::Buffer::new(), [0; 16]);
        let sign: &[u8] = if number.is_negative() { b"-" } else { b"" };
        match *number {
            Number::Nan => self.sized(b'n', inside, &[b"NaN"]),
            Number::Infinite { .. } => self.sized(b'n', inside, &[sign, b"Infinity"]),
            Number::Digits { coefficient, exponent: 0, .. } => {
                self.sized(b'n', inside, &[sign, digits.format(coefficient).as_bytes()]);
            }
            Number::Digits { coefficient, exponent: power, .. } => {
                let digits = digits.format(coefficient).as_bytes();
                self.sized(b'n', inside, &[sign, digits, b"E", exponent.format(power).as_bytes()]);
            }
            Number::Double(double) => {
                for (place, byte) in
                    bits.as_chunks_mut::<2>().0.iter_mut().zip(double.to_bits().to_be_bytes())
                {
                    *place = HEX[usize::from(byte)];
                }
                self.sized(b'n', inside, &[b"x", &bits]);
            }
        }
    }
}

/// A number by its value, whatever its type: equal numbers are equal here.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Number {
    Nan,
    Infinite {
        negative: bool,
    },
    /// Of at most 34 digits. The exponent is 0 where the digits are enough to write it, else the coefficient is no multiple of ten.
    Digits {
        negative: bool,
        coefficient: u128,
        exponent: i32,
    },
    /// Needs more digits than a decimal has: equal only to itself.
    Double(f64),
}

impl Number {
    fn is_negative(&self) -> bool {
        matches!(self, Self::Infinite { negative: true } | Self::Digits { negative: true, .. })
    }

    fn whole(value: i64) -> Self {
        Self::digits(value < 0, u128::from(value.unsigned_abs()), 0)
    }

    fn digits(negative: bool, mut coefficient: u128, mut exponent: i32) -> Self {
        if coefficient == 0 {
            return Self::Digits { negative: false, coefficient: 0, exponent: 0 };
        }
        while coefficient.is_multiple_of(10) && exponent != 0 {
            coefficient /= 10;
            exponent += 1;
        }
        while exponent > 0 && coefficient <= DIGITS_MAX / 10 {
            coefficient *= 10;
            exponent -= 1;
        }
        if exponent > 0 {
            // Digits alone are not enough: as short as it can be.
            while coefficient.is_multiple_of(10) {
                coefficient /= 10;
                exponent += 1;
            }
        }
        Self::Digits { negative, coefficient, exponent }
    }

    fn decimal(bytes: [u8; 16]) -> Self {
        match decimal_parts(bytes) {
            DecimalParts::NotANumber => Self::Nan,
            DecimalParts::Infinite { negative } => Self::Infinite { negative },
            DecimalParts::Number { negative, coefficient, exponent } => {
                Self::digits(negative, coefficient, exponent)
            }
        }
    }

    /// Exact: a double is a whole number times a power of two, and so a decimal fraction, if often a long one.
    fn double(value: f64) -> Self {
        const FRACTION_BITS: u32 = 52;
        if value.is_nan() {
            return Self::Nan;
        }
        let negative = value.is_sign_negative();
        if value.is_infinite() {
            return Self::Infinite { negative };
        }
        let bits = value.to_bits();
        let biased = i32::try_from(bits >> FRACTION_BITS & 0x7FF).expect("11 bits fit");
        let fraction = u128::from(bits & ((1 << FRACTION_BITS) - 1));
        let mut coefficient = if biased == 0 { fraction } else { fraction | 1 << FRACTION_BITS };
        if coefficient == 0 {
            return Self::digits(false, 0, 0);
        }
        let twos = coefficient.trailing_zeros();
        coefficient >>= twos;
        let mut power_of_two = biased.max(1) - 1075 + twos.cast_signed();
        let mut power_of_ten = 0;
        // 2 × 5 = 10 above zero, and 1/2 = 5/10 below.
        while power_of_two > 0 {
            if coefficient.is_multiple_of(5) {
                coefficient /= 5;
                power_of_ten += 1;
            } else if coefficient <= DIGITS_MAX / 2 {
                coefficient *= 2;
            } else {
                return Self::Double(value);
            }
            power_of_two -= 1;
        }
        while power_of_two < 0 {
            if coefficient > DIGITS_MAX / 5 {
                return Self::Double(value);
            }
            coefficient *= 5;
            power_of_ten -= 1;
            power_of_two += 1;
        }
        Self::digits(negative, coefficient, power_of_ten)
    }
}

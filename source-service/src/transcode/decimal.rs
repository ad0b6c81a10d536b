//! Decimal128 as text, as MongoDB's "BSON Decimal128" specification ("To String Representation") wants it.

const EXPONENT_BIAS: i32 = 6176;
/// 34 digits. A larger coefficient is not canonical and counts as zero (same specification).
const COEFFICIENT_MAX: u128 = 10_u128.pow(34) - 1;

/// What the bits of a Decimal128 mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecimalParts {
    /// Its sign and signalling bit mean nothing.
    NotANumber,
    Infinite {
        negative: bool,
    },
    /// `coefficient` × 10^`exponent`, of at most 34 digits.
    Number {
        negative: bool,
        coefficient: u128,
        exponent: i32,
    },
}

/// Takes a Decimal128 apart, given as BSON stores it (little-endian).
pub(crate) fn decimal_parts(bytes: [u8; 16]) -> DecimalParts {
    let bits = u128::from_le_bytes(bytes);
    let negative = bits >> 127 == 1;
    // The five bits after the sign tell numbers from the special values.
    let special = (bits >> 122) & 0b1_1111;
    if special == 0b1_1111 {
        return DecimalParts::NotANumber;
    }
    if special == 0b1_1110 {
        return DecimalParts::Infinite { negative };
    }

    // With 11 in front the exponent begins two bits later, and an implied 100 makes the coefficient larger
    // than 34 digits: always zero.
    let implied = special >> 3 == 0b11;
    let exponent_bits = (bits >> if implied { 111 } else { 113 }) & 0x3FFF;
    let exponent = i32::try_from(exponent_bits).expect("14 bits fit") - EXPONENT_BIAS;
    let stored = bits & ((1 << 113) - 1);
    let coefficient = if implied || stored > COEFFICIENT_MAX { 0 } else { stored };
    DecimalParts::Number { negative, coefficient, exponent }
}

/// Appends the text of a Decimal128. At most 43 bytes.
pub(super) fn write(bytes: [u8; 16], out: &mut Vec<u8>) {
    let parts = decimal_parts(bytes);
    if let DecimalParts::Infinite { negative: true } | DecimalParts::Number { negative: true, .. } = parts {
        out.push(b'-');
    }
    match parts {
        DecimalParts::NotANumber => out.extend_from_slice(b"NaN"),
        DecimalParts::Infinite { .. } => out.extend_from_slice(b"Infinity"),
        DecimalParts::Number { coefficient, exponent, .. } => write_number(coefficient, exponent, out),
    }
}

fn write_number(coefficient: u128, exponent: i32, out: &mut Vec<u8>) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(coefficient).as_bytes();
    let count = i32::try_from(digits.len()).expect("at most 34 digits");
    let scientific = exponent + count - 1;

    if exponent > 0 || scientific < -6 {
        let (first, others) = digits.split_at(1);
        out.extend_from_slice(first);
        if !others.is_empty() {
            out.push(b'.');
            out.extend_from_slice(others);
        }
        out.extend_from_slice(if scientific > 0 { b"E+" } else { b"E" });
        out.extend_from_slice(itoa::Buffer::new().format(scientific).as_bytes());
        return;
    }

    let fraction = usize::try_from(-exponent).expect("not above zero here");
    if fraction == 0 {
        out.extend_from_slice(digits);
    } else if let Some(whole) = digits.len().checked_sub(fraction).filter(|&whole| whole > 0) {
        out.extend_from_slice(&digits[..whole]);
        out.push(b'.');
        out.extend_from_slice(&digits[whole..]);
    } else {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + fraction - digits.len(), b'0');
        out.extend_from_slice(digits);
    }
}

#[cfg(test)]
mod tests {
    use bson::Decimal128;
    use proptest::prelude::*;

    fn text(bytes: [u8; 16]) -> String {
        let mut out = Vec::new();
        super::write(bytes, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn texts_of_the_specification_come_back() {
        let texts = "0 -0 1 -1 0.1 0.001234 0.00000 1.20 123456789012345678901234567890.1234 0E+6111 0E-6176 \
             1.000000000000000000000000000000000E+6144 9.999999999999999999999999999999999E+6144 1E-6176 1E-7 1E+3 \
             1.05E+3 -1.05E-9 NaN Infinity -Infinity";
        for expected in texts.split_whitespace() {
            let decimal: Decimal128 = expected.parse().expect("the crate reads the specification's forms");
            assert_eq!(text(decimal.bytes()), expected);
        }
    }

    proptest! {
        #[test]
        fn any_bits_give_the_text_of_the_crate(
            bytes in any::<[u8; 16]>(),
            small in any::<u64>(),
            exponent in 6100_u128..6250,
        ) {
            prop_assert_eq!(text(bytes), Decimal128::from_bytes(bytes).to_string());
            let near_zero = (u128::from(small) | exponent << 113).to_le_bytes();
            prop_assert_eq!(text(near_zero), Decimal128::from_bytes(near_zero).to_string());
        }
    }
}

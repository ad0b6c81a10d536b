//! The checksum of a file's lines: CRC-64/NVME, which appends combine without reading the file again.

use std::fmt;

use crc_fast::{CrcAlgorithm, Digest, checksum, checksum_combine};

/// CRC-64/NVME of uncompressed lines. Printed as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LineCrc(u64);

impl LineCrc {
    /// Of no bytes at all.
    pub const EMPTY: Self = Self(0);

    pub fn of(bytes: &[u8]) -> Self {
        Self(checksum(CrcAlgorithm::Crc64Nvme, bytes))
    }

    /// The checksum of these bytes followed by `len` bytes whose checksum is `appended`.
    #[must_use]
    pub fn followed_by(self, appended: Self, len: u64) -> Self {
        if len == 0 {
            return self;
        }
        Self(checksum_combine(CrcAlgorithm::Crc64Nvme, self.0, appended.0, len))
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if digits { u64::from_str_radix(text, 16).ok().map(Self) } else { None }
    }
}

impl fmt::Display for LineCrc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Builds a [`LineCrc`] piece by piece.
pub struct LineCrcBuilder(Digest);

impl LineCrcBuilder {
    pub fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc64Nvme))
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(&self) -> LineCrc {
        LineCrc(self.0.finalize())
    }
}

impl Default for LineCrcBuilder {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_catalogue_is_met() {
        // https://reveng.sourceforge.io/crc-catalogue/all.htm, CRC-64/NVME, check over "123456789".
        assert_eq!(LineCrc::of(b"123456789").to_string(), "ae8b14860a799888");
        assert_eq!(LineCrc::of(b""), LineCrc::EMPTY);
    }

    #[test]
    fn appends_combine_to_the_checksum_of_the_whole() {
        let whole = b"{\"a\":1}\n{\"b\":2}\n{\"c\":3}\n";
        for cut in 0..=whole.len() {
            let (head, tail) = whole.split_at(cut);
            let combined = LineCrc::of(head).followed_by(LineCrc::of(tail), tail.len() as u64);
            assert_eq!(combined, LineCrc::of(whole));
            let mut built = LineCrcBuilder::new();
            built.update(head);
            built.update(tail);
            assert_eq!(built.finish(), LineCrc::of(whole));
        }
    }

    #[test]
    fn only_sixteen_digits_are_a_checksum() {
        assert_eq!(LineCrc::parse("ae8b14860a799888"), Some(LineCrc::of(b"123456789")));
        for text in ["", "0", "+e8b14860a799888", "ae8b14860a7998881"] {
            assert_eq!(LineCrc::parse(text), None, "{text}");
        }
    }
}

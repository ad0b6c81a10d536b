//! From the Avro binary back to the envelope. The bytes may be anybody's: every length is checked against what is there,
//! and nothing is made that is larger than they are.

use super::{ChangeEvent, Meta};
use crate::cluster_time::ClusterTime;

/// Why bytes are no event of the schema that they name. Says nothing of their content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedAvro {
    #[error("the record ends inside a value")]
    Truncated,
    #[error("a number takes more than ten bytes")]
    Number,
    #[error("a length of {0} bytes is impossible")]
    Length(i64),
    #[error("a text is not UTF-8")]
    Text,
    #[error("a union of two has no branch {0}")]
    Branch(i64),
    #[error("a boolean holds {0}")]
    Boolean(u8),
    #[error("{0} is no part of a timestamp")]
    Timestamp(i64),
    #[error("{0} bytes follow the record")]
    TrailingBytes(usize),
}

/// Appends the JSON of an event's Avro binary.
///
/// # Errors
/// If the bytes are not one whole event; `out` is then as it was before.
pub fn write_json(datum: &[u8], out: &mut Vec<u8>) -> Result<(), MalformedAvro> {
    ChangeEvent::read(datum)?.write_json(out);
    Ok(())
}

impl<'a> ChangeEvent<'a, Entries<'a>> {
    /// Reads a whole datum.
    ///
    /// # Errors
    /// If the bytes are not one whole event.
    pub fn read(datum: &'a [u8]) -> Result<Self, MalformedAvro> {
        let mut reader = Reader(datum);
        let event_id = reader.text()?;
        let operation = reader.text()?;
        let namespace = match reader.is_there()? {
            true => Some((reader.text()?, reader.optional_text()?)),
            false => None,
        };
        let cluster_time = ClusterTime::new(reader.half_timestamp()?, reader.half_timestamp()?);
        let meta = Meta {
            event_id,
            operation,
            namespace,
            cluster_time,
            wall_time_ms: reader.optional_long()?,
            lsid: reader.optional_text()?,
            txn_number: reader.optional_long()?,
            source: reader.text()?,
            snapshot: reader.boolean()?,
            processed_at_ms: reader.optional_long()?,
        };
        let event = Self {
            meta,
            meta_text: reader.optional_text()?,
            document_key: reader.optional_text()?,
            full_document: reader.optional_text()?,
            update_description: reader.optional_text()?,
            full_document_before_change: reader.optional_text()?,
            further: reader.entries()?,
        };
        match reader.0.len() {
            0 => Ok(event),
            rest => Err(MalformedAvro::TrailingBytes(rest)),
        }
    }
}

/// The entries of a map that was read through once and found whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entries<'a> {
    rest: &'a [u8],
    /// Left in the block.
    count: u64,
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let mut reader = Reader(self.rest);
        while self.count == 0 {
            self.count = reader.block().ok()??;
        }
        let entry = (reader.text().ok()?, reader.text().ok()?);
        self.count -= 1;
        self.rest = reader.0;
        Some(entry)
    }
}

/// What is not read yet.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn long(&mut self) -> Result<i64, MalformedAvro> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(MalformedAvro::Truncated)?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                return Err(MalformedAvro::Number);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
        }
        Err(MalformedAvro::Number)
    }

    fn bytes(&mut self) -> Result<&'a [u8], MalformedAvro> {
        let announced = self.long()?;
        let length = usize::try_from(announced).map_err(|_| MalformedAvro::Length(announced))?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(MalformedAvro::Truncated)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<&'a str, MalformedAvro> {
        simdutf8::basic::from_utf8(self.bytes()?).map_err(|_| MalformedAvro::Text)
    }

    fn is_there(&mut self) -> Result<bool, MalformedAvro> {
        match self.long()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(MalformedAvro::Branch(other)),
        }
    }

    fn optional_text(&mut self) -> Result<Option<&'a str>, MalformedAvro> {
        if self.is_there()? { self.text().map(Some) } else { Ok(None) }
    }

    fn optional_long(&mut self) -> Result<Option<i64>, MalformedAvro> {
        if self.is_there()? { self.long().map(Some) } else { Ok(None) }
    }

    fn boolean(&mut self) -> Result<bool, MalformedAvro> {
        let (&byte, rest) = self.0.split_first().ok_or(MalformedAvro::Truncated)?;
        self.0 = rest;
        match byte {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(MalformedAvro::Boolean(other)),
        }
    }

    fn half_timestamp(&mut self) -> Result<u32, MalformedAvro> {
        let value = self.long()?;
        u32::try_from(value).map_err(|_| MalformedAvro::Timestamp(value))
    }

    /// The count of a block's entries; `None` behind the last block. A negative count announces the block's size too.
    fn block(&mut self) -> Result<Option<u64>, MalformedAvro> {
        let count = self.long()?;
        if count < 0 {
            self.long()?;
        }
        Ok((count != 0).then_some(count.unsigned_abs()))
    }

    fn entries(&mut self) -> Result<Entries<'a>, MalformedAvro> {
        let entries = Entries { rest: self.0, count: 0 };
        // An entry takes two bytes at least, so a false count runs into the end.
        while let Some(count) = self.block()? {
            for _ in 0..count {
                self.text()?;
                self.text()?;
            }
        }
        Ok(entries)
    }
}

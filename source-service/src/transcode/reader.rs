//! Reads BSON from a slice. Every length is compared with what is there before it is used.

use super::{MalformedBson, swar::first_zero};

/// The element types of the BSON specification 1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ElementKind {
    Double,
    String,
    Document,
    Array,
    Binary,
    Undefined,
    ObjectId,
    Boolean,
    DateTime,
    Null,
    Regex,
    DbPointer,
    Code,
    Symbol,
    CodeWithScope,
    Int32,
    Timestamp,
    Int64,
    Decimal128,
    MinKey,
    MaxKey,
}

impl ElementKind {
    const fn of_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::Double,
            0x02 => Self::String,
            0x03 => Self::Document,
            0x04 => Self::Array,
            0x05 => Self::Binary,
            0x06 => Self::Undefined,
            0x07 => Self::ObjectId,
            0x08 => Self::Boolean,
            0x09 => Self::DateTime,
            0x0A => Self::Null,
            0x0B => Self::Regex,
            0x0C => Self::DbPointer,
            0x0D => Self::Code,
            0x0E => Self::Symbol,
            0x0F => Self::CodeWithScope,
            0x10 => Self::Int32,
            0x11 => Self::Timestamp,
            0x12 => Self::Int64,
            0x13 => Self::Decimal128,
            0x7F => Self::MaxKey,
            0xFF => Self::MinKey,
            _ => return None,
        })
    }
}

/// A look-up in place of a jump for each element.
const KINDS: [Option<ElementKind>; 256] = {
    let mut table = [None; 256];
    let mut byte = 0_u8;
    loop {
        table[byte as usize] = ElementKind::of_byte(byte);
        if byte == u8::MAX {
            break table;
        }
        byte += 1;
    }
};

/// One member of a document: its name without the closing zero, and the bytes of its value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element<'a> {
    pub(crate) kind: ElementKind,
    pub(crate) name: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Over the bytes of one value, or of several in a row.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Over the elements of a whole document, the closing zero included: see [`Self::element_kind`].
    #[inline]
    pub(crate) fn of_document(document: &'a [u8]) -> Result<Self, MalformedBson> {
        let mut reader = Self::new(document);
        let length = reader.i32()?;
        if usize::try_from(length) != Ok(document.len()) {
            return Err(MalformedBson::Length(length));
        }
        match reader.rest.last() {
            Some(0) => Ok(reader),
            Some(_) => Err(MalformedBson::Unterminated),
            None => Err(MalformedBson::Length(length)),
        }
    }

    /// The type of the next element of a document; `None` at its end, which must be the end of the bytes too.
    #[inline]
    pub(crate) fn element_kind(&mut self) -> Result<Option<ElementKind>, MalformedBson> {
        let byte = self.byte()?;
        if byte != 0 {
            let kind = KINDS[usize::from(byte)];
            return if kind.is_some() { Ok(kind) } else { Err(MalformedBson::UnknownType(byte)) };
        }
        if self.rest.is_empty() { Ok(None) } else { Err(MalformedBson::TrailingBytes) }
    }

    /// The next element of a document, its value only measured, not looked into; `None` at its end.
    #[inline]
    pub(crate) fn element(&mut self) -> Result<Option<Element<'a>>, MalformedBson> {
        let Some(kind) = self.element_kind()? else { return Ok(None) };
        let name = self.c_string()?;
        let value = self.value(kind)?;
        Ok(Some(Element { kind, name, value }))
    }

    /// The bytes of the next value.
    pub(crate) fn value(&mut self, kind: ElementKind) -> Result<&'a [u8], MalformedBson> {
        let before = self.rest;
        match kind {
            ElementKind::Undefined | ElementKind::Null | ElementKind::MinKey | ElementKind::MaxKey => &[],
            ElementKind::Boolean => self.take(1)?,
            ElementKind::Int32 => self.take(4)?,
            ElementKind::Double | ElementKind::DateTime | ElementKind::Timestamp | ElementKind::Int64 => {
                self.take(8)?
            }
            ElementKind::ObjectId => self.take(12)?,
            ElementKind::Decimal128 => self.take(16)?,
            ElementKind::String | ElementKind::Code | ElementKind::Symbol => self.string()?,
            ElementKind::Document | ElementKind::Array | ElementKind::CodeWithScope => self.sized()?,
            ElementKind::Binary => {
                let length = self.i32()?;
                self.take_len(length, 1)?
            }
            ElementKind::Regex => {
                self.c_string()?;
                self.c_string()?
            }
            ElementKind::DbPointer => {
                self.string()?;
                self.take(12)?
            }
        };
        Ok(&before[..before.len() - self.rest.len()])
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Skips bytes that [`Self::rest`] showed.
    #[inline]
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], MalformedBson> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(MalformedBson::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], MalformedBson> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(MalformedBson::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(crate) fn byte(&mut self) -> Result<u8, MalformedBson> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn i32(&mut self) -> Result<i32, MalformedBson> {
        self.array().map(i32::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, MalformedBson> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    pub(crate) fn i64(&mut self) -> Result<i64, MalformedBson> {
        self.array().map(i64::from_le_bytes)
    }

    /// `length` bytes and `more` behind them.
    #[inline]
    fn take_len(&mut self, length: i32, more: usize) -> Result<&'a [u8], MalformedBson> {
        let count = usize::try_from(length).map_err(|_| MalformedBson::Length(length))?;
        self.take(count.saturating_add(more)).map_err(|_| MalformedBson::Length(length))
    }

    /// A name or part of an expression: bytes up to a zero, which is read but not returned.
    #[inline]
    pub(crate) fn c_string(&mut self) -> Result<&'a [u8], MalformedBson> {
        let end = first_zero(self.rest).ok_or(MalformedBson::Unterminated)?;
        let text = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    /// A string with its length before it and a zero behind it, which may hold zeros itself. Any bytes: BSON
    /// from old drivers is not always UTF-8.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<&'a [u8], MalformedBson> {
        let length = self.i32()?;
        match self.take_len(length, 0)?.split_last() {
            Some((0, text)) => Ok(text),
            Some(_) => Err(MalformedBson::Unterminated),
            None => Err(MalformedBson::Length(length)),
        }
    }

    /// Bytes that begin with their own length, which counts itself.
    #[inline]
    fn sized(&mut self) -> Result<&'a [u8], MalformedBson> {
        let mut ahead = *self;
        let length = ahead.i32()?;
        self.take_len(length, 0)
    }

    /// A document or array, with its frame; what is inside has not been looked at.
    #[inline]
    pub(crate) fn document(&mut self) -> Result<&'a [u8], MalformedBson> {
        self.sized()
    }

    /// Code and the document of its scope.
    pub(crate) fn code_with_scope(&mut self) -> Result<(&'a [u8], &'a [u8]), MalformedBson> {
        let whole = self.sized()?;
        let mut inner = Self::new(whole);
        let length = inner.i32()?;
        let code = inner.string()?;
        let scope = inner.document()?;
        if inner.rest.is_empty() { Ok((code, scope)) } else { Err(MalformedBson::Length(length)) }
    }

    /// Subtype and content. The old generic subtype 2 repeats the length inside the content; it is not part
    /// of it.
    #[inline]
    pub(crate) fn binary(&mut self) -> Result<(u8, &'a [u8]), MalformedBson> {
        let length = self.i32()?;
        let (&subtype, content) = self.take_len(length, 1)?.split_first().ok_or(MalformedBson::Truncated)?;
        if subtype != 2 {
            return Ok((subtype, content));
        }
        let mut inner = Self::new(content);
        let inner_length = inner.i32()?;
        if usize::try_from(inner_length) != Ok(inner.rest.len()) {
            return Err(MalformedBson::Length(inner_length));
        }
        Ok((subtype, inner.rest))
    }
}

//! The walk: one BSON value after the other, each appended as JSON.

use std::marker::PhantomData;

use super::{
    Dialect, ElementKind, MAX_DEPTH, MalformedBson, Reader,
    text::{copy_plain, write_closed_text},
};

/// Appends values in dialect `D` and counts what had to be repaired.
///
/// After an error the output ends somewhere inside the value: whoever owns the buffer cuts it back.
pub(crate) struct Writer<'o, D> {
    out: &'o mut Vec<u8>,
    repaired_texts: u32,
    dialect: PhantomData<D>,
}

impl<'o, D: Dialect> Writer<'o, D> {
    pub(crate) fn new(out: &'o mut Vec<u8>) -> Self {
        Self { out, repaired_texts: 0, dialect: PhantomData }
    }

    pub(crate) fn repaired_texts(&self) -> u32 {
        self.repaired_texts
    }

    /// How long the output is by now.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }

    /// What lies between the values: punctuation and names that need no escaping.
    #[inline]
    pub(crate) fn raw(&mut self, json: &[u8]) {
        self.out.extend_from_slice(json);
    }

    #[inline]
    pub(crate) fn text(&mut self, bytes: &[u8]) {
        self.repaired_texts += u32::from(D::text(bytes, self.out));
    }

    /// What separates two members, before the second one's name.
    pub(crate) fn next_member(&mut self) {
        self.raw(&D::NEXT_MEMBER[..D::NEXT_MEMBER.len() - 1]);
    }

    /// What separates two items of an array.
    pub(crate) fn next_item(&mut self) {
        self.raw(D::NEXT_ITEM);
    }

    /// What separates a name from its value.
    pub(crate) fn colon(&mut self) {
        self.raw(&D::NAME_END[1..]);
    }

    /// Begins an object with a member of this name, which needs no escape.
    pub(crate) fn open(&mut self, name: &[u8]) {
        self.raw(b"{\"");
        self.raw(name);
        self.raw(D::NAME_END);
    }

    /// Another member of this name, which needs no escape.
    pub(crate) fn next(&mut self, name: &[u8]) {
        self.raw(D::NEXT_MEMBER);
        self.raw(name);
        self.raw(D::NAME_END);
    }

    /// A number of our own, in no dialect; `null` if it is not known.
    pub(crate) fn count(&mut self, count: Option<u32>) {
        match count {
            Some(count) => self.raw(itoa::Buffer::new().format(count).as_bytes()),
            None => self.raw(b"null"),
        }
    }

    /// A whole document, frame included, as an object.
    pub(crate) fn document(&mut self, document: &[u8]) -> Result<(), MalformedBson> {
        self.members(document, MAX_DEPTH)
    }

    /// One value of which the type is known; `bytes` must hold nothing else.
    pub(crate) fn value(&mut self, kind: ElementKind, bytes: &[u8]) -> Result<(), MalformedBson> {
        self.value_within(kind, bytes, MAX_DEPTH)
    }

    /// As [`Self::value`], with so many levels of documents and arrays at most.
    pub(crate) fn value_within(
        &mut self,
        kind: ElementKind,
        bytes: &[u8],
        depth: usize,
    ) -> Result<(), MalformedBson> {
        let mut reader = Reader::new(bytes);
        self.next_value(kind, &mut reader, depth)?;
        if reader.rest().is_empty() { Ok(()) } else { Err(MalformedBson::TrailingBytes) }
    }

    fn members(&mut self, document: &[u8], depth: usize) -> Result<(), MalformedBson> {
        let depth = depth.checked_sub(1).ok_or(MalformedBson::TooDeep)?;
        let mut reader = Reader::of_document(document)?;
        let Some(mut kind) = reader.element_kind()? else {
            self.raw(b"{}");
            return Ok(());
        };
        self.raw(b"{\"");
        loop {
            self.name(&mut reader)?;
            self.next_value(kind, &mut reader, depth)?;
            match reader.element_kind()? {
                Some(next) => kind = next,
                None => break,
            }
            self.raw(D::NEXT_MEMBER);
        }
        self.raw(b"}");
        Ok(())
    }

    /// The names of an array's elements are its indices in order; they are skipped, not checked.
    fn items(&mut self, array: &[u8], depth: usize) -> Result<(), MalformedBson> {
        let depth = depth.checked_sub(1).ok_or(MalformedBson::TooDeep)?;
        let mut reader = Reader::of_document(array)?;
        self.raw(b"[");
        let mut first = true;
        while let Some(kind) = reader.element_kind()? {
            if !first {
                self.raw(D::NEXT_ITEM);
            }
            first = false;
            reader.c_string()?;
            self.next_value(kind, &mut reader, depth)?;
        }
        self.raw(b"]");
        Ok(())
    }

    /// A member's name behind its opening quote, up to the colon.
    #[inline]
    fn name(&mut self, reader: &mut Reader<'_>) -> Result<(), MalformedBson> {
        let start = self.out.len();
        if D::PLAIN_TEXT
            && let Some(length) = copy_plain(reader.rest(), self.out)
        {
            self.raw(D::NAME_END);
            reader.take(length + 1)?;
            return Ok(());
        }
        // An unusual name, or one near the end of the document. `start` is behind the quote, which comes
        // again.
        self.out.truncate(start - 1);
        let name = reader.c_string()?;
        self.text(name);
        self.colon();
        Ok(())
    }

    #[inline]
    fn next_value(
        &mut self,
        kind: ElementKind,
        reader: &mut Reader<'_>,
        depth: usize,
    ) -> Result<(), MalformedBson> {
        match kind {
            ElementKind::String => self.string(reader)?,
            ElementKind::Int32 => D::int32(reader.i32()?, self.out),
            ElementKind::Int64 => D::int64(reader.i64()?, self.out),
            ElementKind::Double => D::double(f64::from_le_bytes(reader.array()?), self.out),
            ElementKind::DateTime => D::date(reader.i64()?, self.out),
            ElementKind::ObjectId => D::object_id(reader.array()?, self.out),
            ElementKind::Document => self.members(reader.document()?, depth)?,
            ElementKind::Array => self.items(reader.document()?, depth)?,
            ElementKind::Null => self.raw(b"null"),
            ElementKind::Boolean => match reader.byte()? {
                0 => self.raw(b"false"),
                1 => self.raw(b"true"),
                other => return Err(MalformedBson::Boolean(other)),
            },
            ElementKind::Decimal128 => D::decimal(reader.array()?, self.out),
            ElementKind::Binary => self.binary(reader)?,
            ElementKind::Timestamp => self.timestamp(reader)?,
            ElementKind::Regex => self.regex(reader)?,
            ElementKind::Code => self.typed_text(b"$code", reader)?,
            ElementKind::Symbol if D::BARE_SYMBOL => self.text(reader.string()?),
            ElementKind::Symbol => self.typed_text(b"$symbol", reader)?,
            ElementKind::CodeWithScope => self.code_with_scope(reader, depth)?,
            ElementKind::DbPointer => self.db_pointer(reader)?,
            ElementKind::Undefined => self.constant(b"$undefined", b"true}"),
            ElementKind::MinKey => self.constant(b"$minKey", b"1}"),
            ElementKind::MaxKey => self.constant(b"$maxKey", b"1}"),
        }
        Ok(())
    }

    #[inline]
    fn string(&mut self, reader: &mut Reader<'_>) -> Result<(), MalformedBson> {
        if !D::PLAIN_TEXT {
            let text = reader.string()?;
            self.text(text);
            return Ok(());
        }
        let ahead = *reader;
        let length = reader.string()?.len();
        // Four bytes of length, which was read.
        let bytes = &ahead.rest()[4..];
        self.repaired_texts += u32::from(write_closed_text(bytes, length, self.out));
        Ok(())
    }

    fn binary(&mut self, reader: &mut Reader<'_>) -> Result<(), MalformedBson> {
        let (subtype, content) = reader.binary()?;
        D::binary(subtype, content, self.out);
        Ok(())
    }

    fn timestamp(&mut self, reader: &mut Reader<'_>) -> Result<(), MalformedBson> {
        let (increment, seconds) = (reader.u32()?, reader.u32()?);
        self.open(b"$timestamp");
        self.open(b"t");
        self.raw(itoa::Buffer::new().format(seconds).as_bytes());
        self.next(b"i");
        self.raw(itoa::Buffer::new().format(increment).as_bytes());
        self.raw(b"}}");
        Ok(())
    }

    // What follows is deprecated or seldom stored, and kept out of line so that it does not burden the common
    // types.

    #[cold]
    fn constant(&mut self, name: &[u8], rest: &[u8]) {
        self.open(name);
        self.raw(rest);
    }

    #[cold]
    fn typed_text(&mut self, name: &[u8], reader: &mut Reader<'_>) -> Result<(), MalformedBson> {
        self.open(name);
        self.text(reader.string()?);
        self.raw(b"}");
        Ok(())
    }

    #[cold]
    fn code_with_scope(&mut self, reader: &mut Reader<'_>, depth: usize) -> Result<(), MalformedBson> {
        let (code, scope) = reader.code_with_scope()?;
        self.open(b"$code");
        self.text(code);
        self.next(b"$scope");
        self.members(scope, depth)?;
        self.raw(b"}");
        Ok(())
    }

    #[cold]
    fn db_pointer(&mut self, reader: &mut Reader<'_>) -> Result<(), MalformedBson> {
        if !D::OLD_SHAPES {
            self.open(b"$dbPointer");
        }
        self.open(b"$ref");
        self.text(reader.string()?);
        self.next(b"$id");
        D::object_id(reader.array()?, self.out);
        self.raw(if D::OLD_SHAPES { b"}" } else { b"}}" });
        Ok(())
    }

    #[cold]
    fn regex(&mut self, reader: &mut Reader<'_>) -> Result<(), MalformedBson> {
        let (pattern, options) = (reader.c_string()?, reader.c_string()?);
        if D::OLD_SHAPES {
            self.open(b"$regex");
            self.text(pattern);
            self.next(b"$options");
            self.options(options);
            self.raw(b"}");
            return Ok(());
        }
        self.open(b"$regularExpression");
        self.open(b"pattern");
        self.text(pattern);
        self.next(b"options");
        self.options(options);
        self.raw(b"}}");
        Ok(())
    }

    /// The options of an expression, which the specification wants in alphabetical order. Longer than any
    /// real list: left as it is.
    fn options(&mut self, options: &[u8]) {
        let mut sorted = [0; 16];
        match sorted.get_mut(..options.len()) {
            Some(sorted) if options.is_ascii() => {
                sorted.copy_from_slice(options);
                sorted.sort_unstable();
                self.text(sorted);
            }
            _ => self.text(options),
        }
    }
}

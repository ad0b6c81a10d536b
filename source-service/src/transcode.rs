//! BSON to JSON, bytes to bytes: Extended JSON v2, or bare values.
//!
//! ```text
//!  raw BSON ──► Reader (every length checked) ──► Writer<D: Dialect> ──► reused Vec<u8>
//!                                                    │
//!                                                    ├─ text       strings and names, escaped
//!                                                    └─ decimal    Decimal128 as text
//! ```
//!
//! One pass, no tree, no allocation besides the growth of the output buffer. This is the hot spot of the
//! source, so nothing here goes through `bson::Document` or `serde_json::Value`.
//!
//! Invariants:
//! - The output is one line: no raw control character, and also none of U+0085, U+2028, U+2029, which some
//!   readers take for the end of a line (Python's `splitlines`, JavaScript before 2019). They are written as
//!   `\u…`.
//! - The output is UTF-8 whatever the input holds: invalid sequences in strings, names, code, symbols and
//!   expressions become U+FFFD, and the number of texts so repaired is reported.
//! - Malformed BSON gives a [`MalformedBson`] and leaves the output as it was; nothing here panics or
//!   overflows the stack ([`MAX_DEPTH`]).
//! - Members keep their order, and duplicate names stay duplicate.
//!
//! Source of the shapes: MongoDB's specification "Extended JSON", version 2. Where it leaves a choice,
//! [`Dialect`] says which one was taken.

mod decimal;
mod dialect;
mod java;
mod reader;
mod swar;
#[cfg(test)]
mod tests;
mod text;
mod writer;

pub(crate) use decimal::{DecimalParts, decimal_parts};
pub use dialect::{Canonical, Dialect, Plain, Relaxed};
pub use java::{JavaRelaxed, JavaStrict};
pub(crate) use reader::{Element, ElementKind, Reader};
pub use shared::iso_instant::IsoInstant;
pub(crate) use text::{HEX, write_text};
pub(crate) use writer::Writer;

/// Documents and arrays inside one another, the outermost included. MongoDB stores 100 levels and answers
/// with a few more around them; a deeper value is refused before it could exhaust the stack.
pub const MAX_DEPTH: usize = 250;

/// Why bytes could not be read as BSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedBson {
    #[error("the document ends inside a value")]
    Truncated,
    #[error("a length of {0} bytes contradicts the bytes around it")]
    Length(i32),
    #[error("a text or document is not closed by a zero byte")]
    Unterminated,
    #[error("a zero byte ends the document before its length does")]
    TrailingBytes,
    #[error("there is no element type 0x{0:02x}")]
    UnknownType(u8),
    #[error("a boolean holds {0}")]
    Boolean(u8),
    #[error("documents are nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
}

/// Appends `document` to `out` as one JSON object in dialect `D`. Returns how many texts held invalid UTF-8
/// and were repaired.
///
/// # Errors
/// If the bytes are not one whole BSON document; `out` is then as it was before.
pub fn write_document<D: Dialect>(document: &[u8], out: &mut Vec<u8>) -> Result<u32, MalformedBson> {
    let start = out.len();
    let mut writer = Writer::<D>::new(out);
    match writer.document(document) {
        Ok(()) => Ok(writer.repaired_texts()),
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

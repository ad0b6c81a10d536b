//! The lines of one file, in order, each with the offset that its `_kafka` member names.

use bytes::{Bytes, BytesMut};
use shared::kafka_position::KafkaOffset;

use crate::{
    compression::Unpacker,
    file_metadata::FileMetadata,
    lake::{FileReader, LakeError},
    lake_path::LakePath,
    look_again::look_again,
};

/// Reads up to the size that the metadata names, and no further.
pub struct FileLines<'a> {
    reader: FileReader<'a>,
    unpacker: Unpacker,
    path: LakePath,
    /// Stored bytes.
    left: u64,
    rest: BytesMut,
    scanned: usize,
    peeked: Option<(Option<KafkaOffset>, Bytes)>,
    at_end: bool,
    cut_off: bool,
}

/// What [`FileLines::next_at`] came upon.
pub struct Found {
    /// Offsets of lines before the one that was asked for.
    pub before: Vec<KafkaOffset>,
    pub line: Option<Bytes>,
}

impl<'a> FileLines<'a> {
    pub fn new(reader: FileReader<'a>, path: LakePath, metadata: &FileMetadata) -> Self {
        Self {
            reader,
            unpacker: metadata.compressed.unpacker(),
            path,
            left: metadata.stored_size,
            rest: BytesMut::new(),
            scanned: 0,
            peeked: None,
            at_end: false,
            cut_off: false,
        }
    }

    /// The line at an offset; lines before it are passed over and told.
    ///
    /// # Errors
    /// As [`Self::read_line`].
    pub async fn next_at(&mut self, offset: KafkaOffset) -> Result<Found, LakeError> {
        let mut before = Vec::new();
        loop {
            match self.peek().await? {
                Some((Some(at), _)) if *at < offset => {
                    before.push(*at);
                    self.peeked = None;
                }
                Some((Some(at), _)) if *at == offset => {
                    let line = self.peeked.take().map(|(_, line)| line);
                    return Ok(Found { before, line });
                }
                // A line without an offset is met again when the file is closed.
                _ => return Ok(Found { before, line: None }),
            }
        }
    }

    /// The next line whose offset lies before `end`, or that has none.
    ///
    /// # Errors
    /// As [`Self::read_line`].
    pub async fn next_before(
        &mut self,
        end: KafkaOffset,
    ) -> Result<Option<(Option<KafkaOffset>, Bytes)>, LakeError> {
        match self.peek().await? {
            Some((Some(at), _)) if *at >= end => Ok(None),
            Some(_) => Ok(self.peeked.take()),
            None => Ok(None),
        }
    }

    /// Whether bytes were left behind the last line break; known when no line is left.
    pub fn ends_without_newline(&self) -> bool {
        self.cut_off
    }

    async fn peek(&mut self) -> Result<Option<&(Option<KafkaOffset>, Bytes)>, LakeError> {
        if self.peeked.is_none() {
            self.peeked = self.read_line().await?.map(|line| (offset_of(&line), line));
        }
        Ok(self.peeked.as_ref())
    }

    /// The next line, with its line break.
    ///
    /// # Errors
    /// As the lake says, and if the bytes cannot be unpacked.
    pub async fn read_line(&mut self) -> Result<Option<Bytes>, LakeError> {
        loop {
            if let Some(length) = self.rest[self.scanned..].iter().position(|byte| *byte == b'\n') {
                let line = self.rest.split_to(self.scanned + length + 1).freeze();
                self.scanned = 0;
                return Ok(Some(line));
            }
            self.scanned = self.rest.len();
            if self.at_end {
                self.cut_off |= !self.rest.is_empty();
                self.rest.clear();
                self.scanned = 0;
                return Ok(None);
            }
            let chunk = if self.left == 0 {
                None
            } else {
                look_again(async || self.reader.next_chunk().await).await?
            };
            let lines = match chunk {
                Some(mut chunk) => {
                    chunk.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                    self.left -= chunk.len() as u64;
                    self.unpacker.unpack(chunk)
                }
                None => {
                    self.at_end = true;
                    self.unpacker.finish()
                }
            };
            let lines = lines.map_err(|error| LakeError::Damaged {
                path: self.path.clone(),
                what: format!("it cannot be unpacked: {error}"),
            })?;
            self.rest.extend_from_slice(&lines);
        }
    }
}

/// The offset in the last member of a line, found from its end without parsing the line.
fn offset_of(line: &[u8]) -> Option<KafkaOffset> {
    const MARK: &[u8] = b"\"_kafka\":{";
    let start = line.windows(MARK.len()).rposition(|window| window == MARK)?;
    let text = std::str::from_utf8(&line[start + MARK.len()..]).ok()?;
    let (_, rest) = text.split_once("\"offset\":")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).map(|end| &rest[..end])?;
    digits.parse().ok().map(KafkaOffset::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_is_that_of_the_last_member() {
        let line = br#"{"a":{"_kafka":{"offset":1}},"_kafka":{"topic":"t","partition":0,"offset":42,"timestamp":5}}"#;
        assert_eq!(offset_of(line), Some(KafkaOffset::new(42)));
        for line in [&b"{}"[..], b"{\"_kafka\":{\"topic\":\"t\"}}", b"{\"_kafka\":{\"offset\":x}}"] {
            assert_eq!(offset_of(line), None);
        }
    }
}

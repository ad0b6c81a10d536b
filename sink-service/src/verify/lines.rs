//! The lines of one file, in order, each with the offset that its `_kafka` member names.

use bytes::{Bytes, BytesMut};
use rdkafka::{Message, message::BorrowedMessage};
use shared::kafka_position::KafkaOffset;

use crate::{
    compression::Unpacker,
    file_metadata::FileMetadata,
    lake::{FileReader, LakeError},
    lake_path::LakePath,
};

/// Reads up to the size that the metadata names, and no further.
pub(super) struct FileLines<'a> {
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
pub(super) struct Found {
    /// Offsets of lines before the one that was asked for.
    pub before: Vec<KafkaOffset>,
    pub line: Option<Bytes>,
}

impl<'a> FileLines<'a> {
    pub(super) fn new(reader: FileReader<'a>, path: LakePath, metadata: &FileMetadata) -> Self {
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
    pub(super) async fn next_at(&mut self, offset: KafkaOffset) -> Result<Found, LakeError> {
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
    pub(super) async fn next_before(
        &mut self,
        end: KafkaOffset,
    ) -> Result<Option<(Option<KafkaOffset>, Bytes)>, LakeError> {
        match self.peek().await? {
            Some((Some(at), _)) if *at >= end => Ok(None),
            Some(_) => Ok(self.peeked.take()),
            None => Ok(None),
        }
    }

    pub(super) fn ends_without_newline(&self) -> bool {
        self.cut_off
    }

    async fn peek(&mut self) -> Result<Option<&(Option<KafkaOffset>, Bytes)>, LakeError> {
        if self.peeked.is_none() {
            self.peeked = self.read_line().await?.map(|line| (offset_of(&line), line));
        }
        Ok(self.peeked.as_ref())
    }

    async fn read_line(&mut self) -> Result<Option<Bytes>, LakeError> {
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
            let chunk = if self.left == 0 { None } else { self.reader.next_chunk().await? };
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

/// Whether a line is the record's value with its coordinates as the last member. Written apart from the code that writes
/// lines, so that a mistake there is seen here.
pub(super) fn is_line_of(
    line: &[u8],
    body: &[u8],
    empty_object: bool,
    message: &BorrowedMessage<'_>,
) -> bool {
    let Some((head, tail)) = line.split_at_checked(body.len()) else { return false };
    let same = head.iter().zip(body).all(|(found, sent)| match sent {
        b'\n' | b'\r' => *found == b' ',
        other => found == other,
    });
    let timestamp =
        message.timestamp().to_millis().map_or_else(|| "null".to_owned(), |millis| millis.to_string());
    let comma = if empty_object { "" } else { "," };
    let expected = format!(
        "{comma}\"_kafka\":{{\"topic\":\"{}\",\"partition\":{},\"offset\":{},\"timestamp\":{timestamp}}}}}\n",
        message.topic(),
        message.partition(),
        message.offset(),
    );
    same && tail == expected.as_bytes()
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

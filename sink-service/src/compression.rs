//! How a data file's bytes are packed: what one append adds is one whole gzip member or zstd frame.
//!
//! Members and frames may stand one after the other in a file (RFC 1952 §2.2, RFC 8878 §3), so a file is whole at every moment, and
//! `zcat`, `zstdcat` and the readers of the lake read all of it. A file keeps the packing that it began with: its path says which.

use std::io::{self, Write};

use bytes::Bytes;
use clap::ValueEnum;
use flate2::{write::GzEncoder, write::MultiGzDecoder};
use serde::{Deserialize, Serialize};

/// Also decides path and content type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Zstd,
}

/// zlib's and zstd's own defaults: a higher level costs several times the CPU for a few percent.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

impl Compression {
    pub const ALL: [Self; 3] = [Self::None, Self::Gzip, Self::Zstd];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            Self::None => "application/x-ndjson",
            Self::Gzip => "application/gzip",
            Self::Zstd => "application/zstd",
        }
    }

    /// What a file's name ends with, behind `.jsonl`. Readers choose the codec by it.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|each| each.as_str() == text)
    }

    /// By the end of a data file's name.
    pub fn of_name(name: &str) -> Option<Self> {
        let (_, extension) = name.rsplit_once(".jsonl")?;
        Self::ALL.into_iter().find(|each| each.extension() == extension)
    }

    /// What a file begins with that has no lines yet: a member or frame of nothing, for there are readers that take an empty file for a
    /// broken one.
    pub fn pack_nothing(self) -> Bytes {
        match self {
            Self::None => Bytes::new(),
            Self::Gzip | Self::Zstd => self.packed(&[]),
        }
    }

    /// Packs the lines of one append; no lines make no bytes. The same lines make the same bytes: no time and no name goes in.
    ///
    /// # Panics
    /// If the library refuses, which it does for want of memory only.
    pub fn pack(self, lines: &Bytes) -> Bytes {
        match self {
            Self::None => lines.clone(),
            _ if lines.is_empty() => Bytes::new(),
            Self::Gzip | Self::Zstd => self.packed(lines),
        }
    }

    fn packed(self, lines: &[u8]) -> Bytes {
        match self {
            Self::None => Bytes::copy_from_slice(lines),
            Self::Gzip => {
                let mut packer = GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
                packer
                    .write_all(lines)
                    .and_then(|()| packer.finish())
                    .expect("a vector takes all bytes")
                    .into()
            }
            Self::Zstd => zstd::bulk::compress(lines, ZSTD_LEVEL).expect("zstd packs any bytes").into(),
        }
    }

    /// Unpacks a file from its begin on.
    pub fn unpacker(self) -> Unpacker {
        let codec = match self {
            Self::None => Codec::None,
            Self::Gzip => Codec::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            Self::Zstd => {
                let decoder = zstd::stream::write::Decoder::new(Vec::new());
                Codec::Zstd(Box::new(decoder.expect("zstd makes a decoder")))
            }
        };
        Unpacker { codec, begun: false }
    }
}

/// Turns stored bytes into lines, chunk by chunk.
pub struct Unpacker {
    codec: Codec,
    begun: bool,
}

enum Codec {
    None,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Vec<u8>>>),
}

impl Unpacker {
    /// The lines of the next stored bytes, as far as they can be told.
    ///
    /// # Errors
    /// If the bytes are not packed as they should be.
    pub fn unpack(&mut self, stored: Bytes) -> io::Result<Bytes> {
        self.begun |= !stored.is_empty();
        match &mut self.codec {
            Codec::None => Ok(stored),
            Codec::Gzip(decoder) => {
                decoder.write_all(&stored)?;
                Ok(std::mem::take(decoder.get_mut()).into())
            }
            Codec::Zstd(decoder) => {
                decoder.write_all(&stored)?;
                decoder.flush()?;
                Ok(std::mem::take(decoder.get_mut()).into())
            }
        }
    }

    /// What is left at the end of the file. A file without any bytes is whole.
    ///
    /// # Errors
    /// If it ends inside of a gzip member.
    pub fn finish(&mut self) -> io::Result<Bytes> {
        match &mut self.codec {
            Codec::Gzip(decoder) if self.begun => {
                decoder.try_finish()?;
                Ok(std::mem::take(decoder.get_mut()).into())
            }
            Codec::Zstd(decoder) if self.begun => {
                decoder.flush()?;
                Ok(std::mem::take(decoder.get_mut()).into())
            }
            _ => Ok(Bytes::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn unpack(compression: Compression, stored: &[u8], chunk: usize) -> io::Result<Vec<u8>> {
        let mut unpacker = compression.unpacker();
        let mut lines = Vec::new();
        for bytes in stored.chunks(chunk) {
            lines.extend_from_slice(&unpacker.unpack(Bytes::copy_from_slice(bytes))?);
        }
        lines.extend_from_slice(&unpacker.finish()?);
        Ok(lines)
    }

    proptest! {
        #[test]
        fn appends_come_back_whatever_the_chunks(
            appends in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..6),
            chunk in 1_usize..700,
        ) {
            for compression in Compression::ALL {
                let stored: Vec<u8> =
                    appends.iter().flat_map(|lines| compression.pack(&Bytes::copy_from_slice(lines)).to_vec()).collect();
                prop_assert_eq!(unpack(compression, &stored, chunk).unwrap(), appends.concat());
            }
        }
    }

    #[test]
    fn a_large_append_is_packed_the_same_each_time_and_comes_back() {
        let lines: Bytes = (0..200_000).flat_map(|n: u32| format!("{{\"n\":{n}}}\n").into_bytes()).collect();
        for compression in [Compression::Gzip, Compression::Zstd] {
            let stored = compression.pack(&lines);
            assert!(stored.len() < lines.len() / 2);
            assert_eq!(stored, compression.pack(&lines));
            assert_eq!(unpack(compression, &stored, 4096).unwrap(), lines);
        }
    }

    #[test]
    fn a_file_without_lines_is_a_whole_file() {
        for compression in Compression::ALL {
            let lines = compression.pack(&Bytes::from_static(b"{}\n"));
            let stored = [compression.pack_nothing(), lines].concat();
            assert_eq!(unpack(compression, &compression.pack_nothing(), 7).unwrap(), b"");
            assert_eq!(unpack(compression, &stored, 7).unwrap(), b"{}\n");
            assert_eq!(compression.pack_nothing().is_empty(), compression == Compression::None);
        }
    }

    #[test]
    fn a_file_that_ends_inside_an_append_is_told() {
        let lines = Bytes::from_static(b"{\"a\":1}\n");
        let gzip = Compression::Gzip.pack(&lines);
        assert!(unpack(Compression::Gzip, &gzip[..gzip.len() - 3], 64).is_err());
        assert!(unpack(Compression::Gzip, b"no gzip at all", 64).is_err());
        assert!(unpack(Compression::Zstd, b"no zstd at all", 64).is_err());
    }

    #[test]
    fn names_say_how_a_file_is_packed() {
        for compression in Compression::ALL {
            let name = format!("events-20260101-00-p0000-0.jsonl{}", compression.extension());
            assert_eq!(Compression::of_name(&name), Some(compression));
            assert_eq!(Compression::parse(compression.as_str()), Some(compression));
        }
        assert_eq!(Compression::of_name("events.jsonl.xz"), None);
        assert_eq!(Compression::of_name("_manifest.json"), None);
    }
}

//! A closed hour's rows once more, in files of their own beside the chain's: what they are like, and which of an hour's files readers take.
//!
//! ```text
//!   <hour>/events-…-p0000-0.jsonl      [0, 10)  ┐ the chain ──▶ <hour>/_gen-1/events-…-p0000-0.jsonl.zst [0, 25)  ┐ `files` of
//!   <hour>/events-…-p0000-10.jsonl     [10, 25) ┘                                                                ├ the manifest
//!   <hour>/events-…-p0000-40.jsonl     [40, 41) ── came later ───────────────────────────────────────────────────┘
//! ```
//!
//! A reprint is made of whole files of the chain, so a file of the chain is either covered by it, to the last offset, or not at all.

use serde::{Deserialize, Serialize};
use shared::kafka_position::KafkaOffset;

use super::manifest::ManifestFile;
use crate::{compression::Compression, file_metadata::LineCrc, lake_path::LakePath, line_format::LineFormat};

/// What the files of a reprint are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    pub compression: Compression,
    pub lineformat: LineFormat,
    /// A file ends at this size of its lines, in bytes; `None` = off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollbytes: Option<u64>,
    /// And at this number of rows; `None` = off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollrows: Option<u64>,
}

/// One reprint of an hour. Two that agree in it consist of the same files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reprint {
    /// `None`: each file as it is in the chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<Form>,
    /// CRC-64 of the ranges of the chain's files that it is made of.
    pub ranges: String,
}

/// One file's offsets: partition, first, and the end, exclusive.
pub type FileRange = (i32, KafkaOffset, KafkaOffset);

impl Reprint {
    /// Of these files of the chain, by partition and first offset.
    pub fn of(form: Option<Form>, ranges: impl Iterator<Item = FileRange>) -> Self {
        let text: String =
            ranges.map(|(partition, first, next)| format!("{partition} {first} {next}\n")).collect();
        Self { form, ranges: LineCrc::of(text.as_bytes()).to_string() }
    }
}

/// What readers take: the reprint, and the files of the chain that it does not cover. By partition and first offset.
pub(super) fn beside(reprinted: Vec<ManifestFile>, chain: &[ManifestFile]) -> Vec<ManifestFile> {
    let later: Vec<ManifestFile> = chain.iter().filter(|file| !covers(&reprinted, file)).cloned().collect();
    let mut files = reprinted;
    files.extend(later);
    files.sort_by_key(|file| (file.partition, file.first));
    files
}

/// Whether the rows of a file of the chain are in one of these.
pub fn covers(reprinted: &[ManifestFile], file: &ManifestFile) -> bool {
    let meets = |other: &ManifestFile| {
        other.partition == file.partition && other.first < file.next && file.first < other.next
    };
    reprinted.iter().any(meets)
}

impl ManifestFile {
    /// Whether it is one of a reprint.
    pub fn is_reprint(&self) -> bool {
        LakePath::new(format!("hour/{}", self.name)).is_ok_and(|path| path.is_in_a_generation())
    }
}

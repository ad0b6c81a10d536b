//! `_manifest.json`: the files of one closed hour, with what they must hold.
//!
//! It lies in the hour's folder. It is made when the hour closes, and changed by compare-and-set only: `revision` rises with every change, so
//! that a reader who saw an hour knows whether to read it again; `generation` rises with every rebuild.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared::kafka_position::KafkaOffset;

use crate::{
    event_hour::EventHour, file_metadata::FileMetadata, head::Head, lake::ListedFile,
    line_format::LineFormat, topic_content::TopicContent,
};

/// Of the manifest's form.
const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    pub topic: String,
    /// Not there in the control topic's, which is of no collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub db: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coll: Option<String>,
    pub hour: EventHour,
    /// 1 when the hour closed; each change adds one.
    pub revision: u64,
    /// 0 for what the live sink wrote; each rebuild of the hour adds one when it is done.
    pub generation: u64,
    /// The generation of a rebuild that has begun. Readers need not care: every file is whole at every moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuilding: Option<u64>,
    /// By the sink's clock, when this revision was written.
    pub writtenat: DateTime<Utc>,
    pub rows: u64,
    pub deadletters: u64,
    pub tombstones: u64,
    pub originalsize: u64,
    pub storedsize: u64,
    /// Where each partition's chain stood, at least, when the hour closed.
    pub positions: BTreeMap<i32, KafkaOffset>,
    /// Sealed files, by partition and first offset.
    pub files: Vec<ManifestFile>,
}

/// One sealed file. Names and meanings are those of the file's own metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Relative to the hour's folder.
    pub name: String,
    pub partition: i32,
    pub first: KafkaOffset,
    pub next: KafkaOffset,
    pub rows: u64,
    pub deadletters: u64,
    pub tombstones: u64,
    pub operations: BTreeMap<String, u64>,
    /// CRC-64 of the uncompressed lines.
    pub crc: String,
    pub originalsize: u64,
    pub storedsize: u64,
    pub compressed: String,
    #[serde(default, skip_serializing_if = "LineFormat::is_envelope")]
    pub lineformat: LineFormat,
    pub generation: u64,
}

impl Manifest {
    /// The first revision. Files that are not sealed are left out.
    pub fn new(
        topic: &str,
        content: &TopicContent,
        hour: EventHour,
        positions: BTreeMap<i32, KafkaOffset>,
        files: Vec<ManifestFile>,
        now: DateTime<Utc>,
    ) -> Self {
        let (db, coll) = Head::names_of(content);
        let manifest = Self {
            version: VERSION,
            topic: topic.to_owned(),
            db,
            coll,
            hour,
            revision: 1,
            generation: files.iter().map(|file| file.generation).max().unwrap_or_default(),
            rebuilding: None,
            writtenat: now,
            rows: 0,
            deadletters: 0,
            tombstones: 0,
            originalsize: 0,
            storedsize: 0,
            positions,
            files: Vec::new(),
        };
        manifest.holding(files)
    }

    /// The next revision, with these files.
    #[must_use]
    pub fn revised(&self, files: Vec<ManifestFile>, now: DateTime<Utc>) -> Self {
        let next = Self { revision: self.revision + 1, writtenat: now, ..self.clone() };
        next.holding(files)
    }

    /// The next revision, after a rebuild.
    #[must_use]
    pub fn rebuilt(&self, generation: u64, files: Vec<ManifestFile>, now: DateTime<Utc>) -> Self {
        Self { generation, rebuilding: None, ..self.revised(files, now) }
    }

    fn holding(self, files: Vec<ManifestFile>) -> Self {
        let sum = |of: fn(&ManifestFile) -> u64| files.iter().map(of).sum();
        Self {
            rows: sum(|file| file.rows),
            deadletters: sum(|file| file.deadletters),
            tombstones: sum(|file| file.tombstones),
            originalsize: sum(|file| file.originalsize),
            storedsize: sum(|file| file.storedsize),
            files,
            ..self
        }
    }

    /// # Errors
    /// The text says what is wrong with the bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| format!("not a manifest: {error}"))?;
        if manifest.version != VERSION {
            return Err(format!("it has version {}, and this program knows {VERSION}", manifest.version));
        }
        Ok(manifest)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a manifest is JSON")
    }
}

/// The sealed files of a listing that belong to the topic, as a manifest has them.
pub fn sealed_files(listed: &[ListedFile], topic: &str) -> Vec<ManifestFile> {
    let ours =
        listed.iter().filter(|file| &*file.metadata.topic_partition.topic == topic && file.metadata.sealed);
    let mut files: Vec<ManifestFile> = ours.map(manifest_file).collect();
    files.sort_by_key(|file| (file.partition, file.first));
    files
}

fn manifest_file(file: &ListedFile) -> ManifestFile {
    let FileMetadata { topic_partition, first, next, rows, dead_letters, tombstones, .. } = &file.metadata;
    ManifestFile {
        name: file.path.file_name().to_owned(),
        partition: topic_partition.partition,
        first: *first,
        next: *next,
        rows: *rows,
        deadletters: dead_letters.count(),
        tombstones: *tombstones,
        operations: file.metadata.operations.clone(),
        crc: file.metadata.crc.to_string(),
        originalsize: file.metadata.original_size,
        storedsize: file.metadata.stored_size,
        compressed: file.metadata.compressed.as_str().to_owned(),
        lineformat: file.metadata.line_format,
        generation: file.metadata.generation,
    }
}

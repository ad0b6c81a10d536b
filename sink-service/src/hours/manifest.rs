//! `_manifest.json`: the files of one closed hour, with what they must hold.
//!
//! It lies in the hour's folder. It is made when the hour closes, and changed by compare-and-set only: `revision` rises with every change, so
//! that a reader who saw an hour knows whether to read it again; `generation` rises with every rebuild.
//!
//! `files` is what readers follow: each row of the hour once. It names the chain's files, or a [reprint](super::reprint) of them and what came later.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared::kafka_position::KafkaOffset;

use super::reprint::{Reprint, beside};
use crate::{
    event_hour::EventHour, file_metadata::FileMetadata, head::Head, lake::ListedFile, lake_path::LakePath,
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
    /// What that rebuild makes beside the chain's files; `None`: it makes them again in their places.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reprinting: Option<Reprint>,
    /// What `files` names beside files of the chain; `None`: it names no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reprint: Option<Reprint>,
    /// By the sink's clock, when this revision was written.
    pub writtenat: DateTime<Utc>,
    pub rows: u64,
    pub deadletters: u64,
    pub tombstones: u64,
    pub originalsize: u64,
    pub storedsize: u64,
    /// Where each partition's chain stood, at least, when the hour closed.
    pub positions: BTreeMap<i32, KafkaOffset>,
    /// Each row of the hour once: sealed files, by partition and first offset.
    pub files: Vec<ManifestFile>,
    /// With a reprint: all sealed files of the chain. Without one, these are `files`. See [`Self::chain_files`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<ManifestFile>,
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
            reprinting: None,
            reprint: None,
            writtenat: now,
            rows: 0,
            deadletters: 0,
            tombstones: 0,
            originalsize: 0,
            storedsize: 0,
            positions,
            files: Vec::new(),
            chain: Vec::new(),
        };
        manifest.holding(files)
    }

    /// The sealed files of the chain.
    pub fn chain_files(&self) -> &[ManifestFile] {
        if self.reprint.is_some() { &self.chain } else { &self.files }
    }

    /// The files of the reprint.
    pub fn reprinted_files(&self) -> impl Iterator<Item = &ManifestFile> {
        self.files.iter().filter(|file| file.is_reprint())
    }

    /// The next revision, with these files of the chain. Those that the reprint does not cover are named beside it.
    #[must_use]
    pub fn revised(&self, chain: Vec<ManifestFile>, now: DateTime<Utc>) -> Self {
        let next = Self { revision: self.revision + 1, writtenat: now, ..self.clone() };
        match &self.reprint {
            None => next.holding(chain),
            Some(_) => {
                let files = beside(self.reprinted_files().cloned().collect(), &chain);
                Self { chain, ..next.holding(files) }
            }
        }
    }

    /// The next revision, after a rebuild in place.
    #[must_use]
    pub fn rebuilt(&self, generation: u64, chain: Vec<ManifestFile>, now: DateTime<Utc>) -> Self {
        let claimed = Self { generation, rebuilding: None, reprinting: None, ..self.clone() };
        Self { reprint: None, chain: Vec::new(), ..claimed }.revised(chain, now)
    }

    /// The next revision, after a rebuild that has made a reprint of these files.
    #[must_use]
    pub fn switched(
        &self,
        generation: u64,
        reprint: (Reprint, Vec<ManifestFile>),
        chain: Vec<ManifestFile>,
        now: DateTime<Utc>,
    ) -> Self {
        let (reprint, files) = reprint;
        let claimed = Self { generation, rebuilding: None, reprinting: None, files, ..self.clone() };
        Self { reprint: Some(reprint), ..claimed }.revised(chain, now)
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
    let mut files: Vec<ManifestFile> = ours.map(|file| manifest_file(&file.path, &file.metadata)).collect();
    files.sort_by_key(|file| (file.partition, file.first));
    files
}

/// A file as its hour's manifest has it.
pub fn manifest_file(path: &LakePath, metadata: &FileMetadata) -> ManifestFile {
    let FileMetadata { topic_partition, first, next, rows, dead_letters, tombstones, .. } = metadata;
    ManifestFile {
        name: path.name_in_hour().to_owned(),
        partition: topic_partition.partition,
        first: *first,
        next: *next,
        rows: *rows,
        deadletters: dead_letters.count(),
        tombstones: *tombstones,
        operations: metadata.operations.clone(),
        crc: metadata.crc.to_string(),
        originalsize: metadata.original_size,
        storedsize: metadata.stored_size,
        compressed: metadata.compressed.as_str().to_owned(),
        lineformat: metadata.line_format,
        generation: metadata.generation,
    }
}

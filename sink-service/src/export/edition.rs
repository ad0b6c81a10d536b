//! Which state of an hour a Parquet file was made of; kept in the file itself, as its key-value metadata.

use parquet::file::metadata::KeyValue;
use sha2::{Digest, Sha256};

use crate::{event_hour::EventHour, hours::manifest::Manifest};

/// Of columns and layout: another one makes every file anew.
pub(super) const FORM: &str = "1";

/// Two files of the same edition hold the same rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edition {
    pub topic: String,
    pub hour: EventHour,
    pub revision: u64,
    pub generation: u64,
    pub rows: u64,
    /// SHA-256 of the names, ranges, rows and checksums of the hour's files in the chain: an export reads those, whatever a reprint is like.
    pub files: String,
    form: String,
}

const TOPIC: &str = "atlas.topic";
const HOUR: &str = "atlas.hour";
const REVISION: &str = "atlas.revision";
const GENERATION: &str = "atlas.generation";
const ROWS: &str = "atlas.rows";
const FILES: &str = "atlas.files";
const FORM_KEY: &str = "atlas.form";

impl Edition {
    pub(super) fn of(manifest: &Manifest) -> Self {
        let mut hash = Sha256::new();
        for file in manifest.chain_files() {
            let (name, first, next, rows, crc) = (&file.name, file.first, file.next, file.rows, &file.crc);
            hash.update(format!("{name} {first} {next} {rows} {crc}\n"));
        }
        Self {
            topic: manifest.topic.clone(),
            hour: manifest.hour,
            revision: manifest.revision,
            generation: manifest.generation,
            rows: manifest.chain_files().iter().map(|file| file.rows).sum(),
            files: hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
            form: FORM.to_owned(),
        }
    }

    pub(super) fn to_key_values(&self) -> Vec<KeyValue> {
        let facts = [
            (TOPIC, self.topic.clone()),
            (HOUR, String::from(self.hour)),
            (REVISION, self.revision.to_string()),
            (GENERATION, self.generation.to_string()),
            (ROWS, self.rows.to_string()),
            (FILES, self.files.clone()),
            (FORM_KEY, self.form.clone()),
        ];
        facts.map(|(key, value)| KeyValue::new(key.to_owned(), value)).into()
    }

    /// `None` if the file is none of ours.
    pub(super) fn from_key_values(facts: &[KeyValue]) -> Option<Self> {
        let text = |key: &str| facts.iter().find(|fact| fact.key == key)?.value.clone();
        let number = |key: &str| text(key)?.parse().ok();
        Some(Self {
            topic: text(TOPIC)?,
            hour: EventHour::try_from(text(HOUR)?).ok()?,
            revision: number(REVISION)?,
            generation: number(GENERATION)?,
            rows: number(ROWS)?,
            files: text(FILES)?,
            form: text(FORM_KEY)?,
        })
    }
}

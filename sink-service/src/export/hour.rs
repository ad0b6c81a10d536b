//! One hour: is its Parquet file current, and if not, made again.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parquet::{
    errors::ParquetError,
    file::metadata::{ParquetMetaData, ParquetMetaDataReader},
};
use shared::exit::{ExitCode, Stop};

use super::{
    ExportError,
    edition::Edition,
    parquet_file::{Content, EventFile, read_back},
    row::Row,
};
use crate::{
    event_hour::EventHour,
    file_lines::FileLines,
    file_metadata::{FileMetadata, LineCrcBuilder},
    hours::{
        accounts::manifest,
        manifest::{Manifest, ManifestFile},
    },
    lake::{ETag, Lake, LakeError, Object},
    lake_layout::OpenLake,
    lake_path::{LakePath, TopicFolder},
};

/// How often an hour is begun again because somebody changed it meanwhile.
const ATTEMPTS: usize = 5;

/// Read from the end of a Parquet file first; nearly always all of its footer.
const FOOTER_BYTES: u64 = 64 * 1024;

const CONTENT_TYPE: &str = "application/vnd.apache.parquet";

/// See the module.
pub(super) struct HourExport {
    pub lake: Arc<OpenLake>,
    pub into: Arc<Lake>,
    pub topic: String,
    pub folder: TopicFolder,
    pub hour: EventHour,
    /// Rows, of all hours.
    pub done: Arc<AtomicU64>,
}

/// What stands at both places.
#[derive(Debug)]
pub(super) struct Look {
    pub manifest: Manifest,
    pub edition: Edition,
    /// The Parquet file that is there.
    pub there: Option<Found>,
}

#[derive(Debug)]
pub(super) struct Found {
    pub edition: Edition,
    pub row_groups: u64,
    pub bytes: u64,
    etag: ETag,
}

impl Look {
    pub(super) fn is_current(&self) -> bool {
        self.there.as_ref().is_some_and(|found| found.edition == self.edition)
    }
}

/// What came of an hour.
#[derive(Clone, Debug)]
pub(super) struct Exported {
    pub path: LakePath,
    pub edition: Edition,
    pub deed: Deed,
    pub row_groups: u64,
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Written,
    /// In the place of another edition.
    Replaced,
    /// It was there already.
    Current,
}

impl Deed {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Replaced => "replaced",
            Self::Current => "current",
        }
    }
}

/// Why an attempt came to nothing.
enum Interrupted {
    /// Somebody changed something: to be begun again.
    Changed,
    /// It may have been published: the next look shows it.
    InDoubt(LakeError),
    /// The file is not what the manifest says.
    Differs {
        path: LakePath,
        what: String,
    },
    Failed(ExportError),
}

impl From<LakeError> for Interrupted {
    fn from(error: LakeError) -> Self {
        match error {
            LakeError::Conflict => Self::Changed,
            LakeError::Unknown { .. } => Self::InDoubt(error),
            LakeError::Damaged { path, what } => Self::Differs { path, what },
            error => Self::Failed(error.into()),
        }
    }
}

impl HourExport {
    /// `None` if the hour has not closed.
    ///
    /// # Errors
    /// As the lakes say, and if what stands at the place is no export of this hour.
    pub(super) async fn look(&self) -> Result<Option<Look>, ExportError> {
        // In this order: what is there was made of a manifest that was read before, so it is never newer than the one that is read now.
        let there = self.found().await?;
        if self.lake.read_document(&self.folder.success(self.hour)).await?.is_none() {
            return Ok(None);
        }
        let Some((manifest, _)) = manifest(&self.lake, &self.folder, self.hour).await? else {
            return Ok(None);
        };
        if manifest.topic != self.topic || manifest.hour != self.hour {
            let what = format!("it is of {} and hour {}", manifest.topic, manifest.hour);
            return Err(LakeError::Damaged { path: self.folder.manifest(self.hour), what }.into());
        }
        let edition = Edition::of(&manifest);
        Ok(Some(Look { manifest, edition, there }))
    }

    fn path(&self) -> LakePath {
        self.folder.parquet(self.hour)
    }

    async fn found(&self) -> Result<Option<Found>, ExportError> {
        let path = self.path();
        for _ in 0..ATTEMPTS {
            let Some(object) = self.into.object(&path).await? else { return Ok(None) };
            let footer = match self.footer(&path, &object).await {
                Err(LakeError::Conflict) => continue,
                footer => footer?,
            };
            let facts = footer.as_ref().and_then(|footer| footer.file_metadata().key_value_metadata());
            let edition = facts.and_then(|facts| Edition::from_key_values(facts));
            let ours = edition.filter(|edition| edition.topic == self.topic && edition.hour == self.hour);
            let (Some(footer), Some(edition)) = (footer, ours) else {
                let what = format!(
                    "what is there is no export of {} and this hour; it was left alone. Move it away, or export into another place",
                    self.topic
                );
                return Err(LakeError::Damaged { path, what }.into());
            };
            let row_groups = footer.num_row_groups() as u64;
            return Ok(Some(Found { edition, row_groups, bytes: object.size, etag: object.etag }));
        }
        Err(self.unsteady())
    }

    /// `None` if it is no Parquet file.
    async fn footer(&self, path: &LakePath, object: &Object) -> Result<Option<ParquetMetaData>, LakeError> {
        let mut reader = ParquetMetaDataReader::new();
        let mut range: Range<u64> = object.size.saturating_sub(FOOTER_BYTES)..object.size;
        loop {
            let bytes = self.into.read_object(path, object, range.clone()).await?;
            match reader.try_parse_sized(&bytes, object.size) {
                Ok(()) => return Ok(reader.finish().ok()),
                Err(ParquetError::NeedMoreData(needed)) if needed as u64 > range.end - range.start => {
                    range.start = object.size.saturating_sub(needed as u64);
                }
                Err(_) => return Ok(None),
            }
        }
    }

    /// Makes the Parquet file, unless it is current.
    ///
    /// # Errors
    /// As the lakes say; if the hour's files are not what its manifest says.
    pub(super) async fn run(&self) -> Result<Exported, ExportError> {
        let mut doubt = None;
        for _ in 0..ATTEMPTS {
            let Some(look) = self.look().await? else {
                let what = format!("hour {} of {} was closed, and is no more", self.hour, self.topic);
                return Err(Stop::new(ExitCode::LakeDiffers, what).into());
            };
            if let Some(current) = self.current(&look) {
                return Ok(current);
            }
            let mut counted = 0;
            let made = self.make(&look, &mut counted).await;
            if made.is_err() {
                self.done.fetch_sub(counted, Ordering::Relaxed);
            }
            match made {
                Ok(exported) => return Ok(exported),
                Err(Interrupted::Changed) => doubt = None,
                Err(Interrupted::InDoubt(error)) => doubt = Some(error),
                Err(Interrupted::Differs { path, what }) => {
                    // A replay or a late row may have come between manifest and file.
                    if self.look().await?.is_some_and(|now| now.edition == look.edition) {
                        let what = format!(
                            "{what}; so nothing was published for this hour. `sink-service replay` makes its files again"
                        );
                        return Err(LakeError::Damaged { path, what }.into());
                    }
                }
                Err(Interrupted::Failed(error)) => return Err(error),
            }
        }
        Err(doubt.map_or_else(|| self.unsteady(), ExportError::from))
    }

    /// What there is to say of an hour whose Parquet file needs not be made.
    pub(super) fn current(&self, look: &Look) -> Option<Exported> {
        let there = look.there.as_ref().filter(|_| look.is_current())?;
        Some(Exported {
            path: self.path(),
            edition: look.edition.clone(),
            deed: Deed::Current,
            row_groups: there.row_groups,
            bytes: there.bytes,
        })
    }

    fn unsteady(&self) -> ExportError {
        let what = format!("hour {} of {} changes while it is exported", self.hour, self.topic);
        Stop::new(ExitCode::Temporary, format!("{what}. Type the same command later")).into()
    }

    async fn make(&self, look: &Look, counted: &mut u64) -> Result<Exported, Interrupted> {
        let path = self.path();
        let object = self.into.new_object(&path).await?;
        let clone = || object.file().try_clone().map_err(ParquetError::from);
        let refused = |error: ParquetError| Interrupted::Failed(not_written(&path, &error));
        let mut events = clone().and_then(|file| EventFile::begin(file, &look.edition)).map_err(refused)?;
        let mut files: Vec<&ManifestFile> = look.manifest.chain_files().iter().collect();
        files.sort_by_key(|file| (file.partition, file.first));
        for file in files {
            self.read(file, &look.manifest, &mut events, counted).await?;
        }
        let written = events.finish().map_err(refused)?;
        let (read, edition) = clone().and_then(read_back).map_err(refused)?;
        if read != written || edition.as_ref() != Some(&look.edition) || read.rows != look.edition.rows {
            return Err(Interrupted::Failed(not_the_same(&path, &written, &read)));
        }
        let bytes = object.file().metadata().map_err(ParquetError::from).map_err(refused)?.len();
        let etag = look.there.as_ref().map(|found| &found.etag);
        match object.publish(etag, CONTENT_TYPE).await {
            Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        let deed = if etag.is_some() { Deed::Replaced } else { Deed::Written };
        Ok(Exported { path, edition: look.edition.clone(), deed, row_groups: read.row_groups, bytes })
    }

    /// Adds the rows of one file, which must be what the manifest says.
    async fn read(
        &self,
        file: &ManifestFile,
        manifest: &Manifest,
        events: &mut EventFile,
        counted: &mut u64,
    ) -> Result<(), Interrupted> {
        let path = LakePath::new(format!("{}/{}", self.folder.hour(self.hour), file.name));
        let path = path.map_err(|error| LakeError::Damaged {
            path: self.folder.manifest(self.hour),
            what: error.to_string(),
        })?;
        let differs = |what: String| Interrupted::Differs { path: path.clone(), what };
        let Some(state) = self.lake.file(&path).await? else {
            return Err(differs("it is missing, and the manifest names it".to_owned()));
        };
        if let Some(what) = contradiction(file, &state.metadata) {
            // Between the file and its manifest a replay is at work.
            return Err(match manifest.rebuilding {
                Some(generation) if state.metadata.generation == generation => {
                    Interrupted::Failed(self.unsteady())
                }
                _ => differs(what),
            });
        }
        let reader = self.lake.read_file(&path, &state).await?;
        let mut lines = FileLines::new(reader, path.clone(), &state.metadata);
        let (mut rows, mut size, mut crc) = (0_u64, 0_u64, LineCrcBuilder::new());
        let mut expected = i64::try_from(file.first.get()).unwrap_or(i64::MAX);
        let end = i64::try_from(file.next.get()).unwrap_or(i64::MAX);
        while let Some(line) = lines.read_line().await? {
            let (row, place) = Row::of(&state.metadata.line_format.envelope_of(&line))
                .map_err(|error| differs(format!("line {}: {error}", rows + 1)))?;
            if place.partition != file.partition || !(expected..end).contains(&place.offset) {
                let (partition, offset) = (place.partition, place.offset);
                let what = format!(
                    "line {} is of partition {partition} and offset {offset}, not from {expected} on",
                    rows + 1
                );
                return Err(differs(what));
            }
            expected = place.offset + 1;
            rows += 1;
            size += line.len() as u64;
            crc.update(&line);
            events
                .push(row, line.len() as u64)
                .map_err(|error| Interrupted::Failed(not_written(&self.path(), &error)))?;
            *counted += 1;
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        if lines.ends_without_newline() {
            return Err(differs("its last line is cut off".to_owned()));
        }
        let crc = crc.finish().to_string();
        if rows != file.rows || size != file.originalsize || crc != file.crc {
            let what = format!(
                "it holds {rows} rows, {size} bytes, checksum {crc}; the manifest says {} rows, {} bytes, {}",
                file.rows, file.originalsize, file.crc
            );
            return Err(differs(what));
        }
        Ok(())
    }
}

/// Where a file's own metadata is not what the manifest says.
fn contradiction(file: &ManifestFile, metadata: &FileMetadata) -> Option<String> {
    let FileMetadata { topic_partition, first, next, rows, sealed, crc, .. } = metadata;
    let same = topic_partition.partition == file.partition
        && (*first, *next, *rows, *sealed) == (file.first, file.next, file.rows, true)
        && crc.to_string() == file.crc;
    (!same).then(|| {
        format!(
            "its metadata says offsets {first} to {next}, {rows} rows, checksum {crc}; the manifest says {} to {}, {} rows, {}",
            file.first, file.next, file.rows, file.crc
        )
    })
}

/// Nothing was published.
fn not_written(path: &LakePath, error: &ParquetError) -> ExportError {
    Stop::new(ExitCode::Temporary, format!("{path} cannot be written: {error}. What stands there stays"))
        .into()
}

fn not_the_same(path: &LakePath, written: &Content, read: &Content) -> ExportError {
    let what = format!(
        "{path} does not read as it was written ({} rows of {}), so it was not published: the disk, or a defect of ours",
        read.rows, written.rows
    );
    Stop::new(ExitCode::Defect, what).into()
}

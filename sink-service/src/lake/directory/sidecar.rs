//! What stands beside a data file on a local directory: the same facts that a blob carries as metadata.
//!
//! A later version may add members; a version that does not know them must not touch the file, so unknown members are an error.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    file_metadata::FileMetadata,
    lake::{ETag, FileState},
    lake_path::{CHAIN_FOLDER, LakePath},
};

const SIDECAR_FOLDER: &str = "files";
const SUFFIX: &str = ".json";

/// One version of a data file.
#[derive(Debug)]
pub(super) struct Sidecar {
    pub(super) etag: ETag,
    pub(super) metadata: FileMetadata,
    /// Below the lake's root: the file that is to take the data file's place, and has perhaps done so already.
    pub(super) pending: Option<LakePath>,
}

#[derive(Serialize)]
struct Written<'a> {
    etag: &'a str,
    metadata: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pending: Option<&'a LakePath>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    etag: String,
    metadata: HashMap<String, String>,
    pending: Option<LakePath>,
}

impl Sidecar {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let pending = self.pending.as_ref();
        let written = Written { etag: self.etag.as_str(), metadata: self.metadata.to_map(), pending };
        serde_json::to_vec_pretty(&written).expect("strings always make JSON")
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let read: Read = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let metadata = FileMetadata::from_map(&read.metadata).map_err(|error| error.to_string())?;
        Ok(Self { etag: ETag::new(read.etag), metadata, pending: read.pending })
    }

    pub(super) fn into_state(self) -> FileState {
        FileState { etag: self.etag, metadata: self.metadata, blocks: Arc::default() }
    }
}

/// The sidecar of a data file.
pub(super) fn place(root: &Path, path: &LakePath) -> PathBuf {
    root.join(format!("{CHAIN_FOLDER}/{SIDECAR_FOLDER}/{path}{SUFFIX}"))
}

/// The data files below a folder, by their sidecars, in no order.
pub(super) fn list(root: &Path, folder: &LakePath) -> io::Result<Vec<LakePath>> {
    let names = files_below(&root.join(CHAIN_FOLDER).join(SIDECAR_FOLDER), folder)?.into_iter();
    Ok(names.filter_map(|name| LakePath::new(name.strip_suffix(SUFFIX)?).ok()).collect())
}

/// The files below a folder of `base`, relative to `base`, in no order; those whose names are no UTF-8 are left out.
pub(super) fn files_below(base: &Path, folder: &LakePath) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![base.join(folder.as_str())];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let place = entry.path();
            found.extend(place.strip_prefix(base).ok().and_then(Path::to_str).map(str::to_owned));
        }
    }
    Ok(found)
}

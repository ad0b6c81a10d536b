//! A lake in a local directory: sidecars say what is there.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{LakeContent, LakeFile, LakeHead, is_data_file, is_head};

/// Whether data files are read, or only what is said about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bytes {
    Read,
    Skip,
}

pub(super) fn read(root: &Path, bytes: Bytes) -> Result<LakeContent> {
    let mut content = LakeContent::default();
    for file in walk(&root.join("_chain"))? {
        let relative = below(root, &file)?;
        if is_head(&relative) {
            let document = fs::read(&file).with_context(|| format!("read {relative}"))?;
            content.heads.push(LakeHead::parse(&relative, &document)?);
        } else if let Some(path) =
            relative.strip_prefix("_chain/files/").and_then(|path| path.strip_suffix(".json"))
            && is_data_file(path)
        {
            // A sidecar is replaced by rename, so it is always whole. It is read before the bytes: these only grow.
            let document = fs::read(&file).with_context(|| format!("read {relative}"))?;
            let (metadata, pending) =
                sidecar(&document).with_context(|| format!("the sidecar {relative}"))?;
            let mut data = LakeFile::new(path.to_owned(), metadata, Vec::new())?;
            if bytes == Bytes::Read {
                let stored = usize::try_from(data.number("storedsize")?).context("storedsize")?;
                let mut bytes =
                    whole(root, path, pending.as_deref()).with_context(|| format!("read {path}"))?;
                if bytes.len() < stored {
                    bail!("{path} has {} bytes, its sidecar says {stored}", bytes.len());
                }
                bytes.truncate(stored);
                data = LakeFile::new(data.path, data.metadata, bytes)?;
            }
            content.files.push(data);
        }
    }
    content.files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(content)
}

pub(super) fn bytes(root: &Path, path: &str, range: Range<u64>) -> Result<Vec<u8>> {
    let length = usize::try_from(range.end - range.start).context("a length")?;
    let mut bytes = vec![0; length];
    let file = File::open(root.join(path)).with_context(|| format!("open {path}"))?;
    file.read_exact_at(&mut bytes, range.start).with_context(|| format!("read {range:?} of {path}"))?;
    Ok(bytes)
}

pub(super) fn document(root: &Path, path: &str) -> Result<Option<Vec<u8>>> {
    match fs::read(root.join(path)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {path}")),
    }
}

pub(super) fn delete(root: &Path, path: &str) -> Result<()> {
    fs::remove_file(root.join(path)).with_context(|| format!("delete {path}"))?;
    let sidecar = format!("_chain/files/{path}.json");
    match fs::remove_file(root.join(&sidecar)) {
        // An export's file has none.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("delete {sidecar}"))
        }
        _ => Ok(()),
    }
}

/// A file that appears whole gets its place just after its sidecar says where it lies until then; a writer may have been killed in between.
fn whole(root: &Path, path: &str, pending: Option<&str>) -> io::Result<Vec<u8>> {
    if let Some(pending) = pending {
        match fs::read(root.join(pending)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            read => return read,
        }
    }
    fs::read(root.join(path))
}

/// The facts of a sidecar, its member `metadata` or the object itself; and where the file lies that has not got its place yet.
fn sidecar(bytes: &[u8]) -> Result<(BTreeMap<String, String>, Option<String>)> {
    let value: Value = serde_json::from_slice(bytes).context("is no JSON")?;
    let pending = value["pending"].as_str().map(str::to_owned);
    let facts = if value["metadata"].is_object() { &value["metadata"] } else { &value };
    let facts = facts.as_object().context("is no object")?;
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Ok((facts.iter().map(|(name, value)| (name.clone(), text(value))).collect(), pending))
}

/// All files below a folder; a folder that vanishes meanwhile or was never there has none.
fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("list {}", folder.display())),
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("list {}", folder.display()))?;
            if entry.file_type().context("ask for a file's type")?.is_dir() {
                open.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

fn below(root: &Path, path: &Path) -> Result<String> {
    let relative = path.strip_prefix(root).context("a path outside the lake")?;
    Ok(relative.to_str().context("a path that is no UTF-8")?.to_owned())
}

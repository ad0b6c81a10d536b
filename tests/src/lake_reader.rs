//! What is really in the lake, read (and, for tests of damage, spoilt) without any of the product's code.
//!
//! ```text
//!   directory   <root>/_chain/files/<path>.json      the sidecar: a file is there when its sidecar is
//!               <root>/<path>                        its bytes, up to the sidecar's `storedsize`
//!   Azurite     the blob's metadata and its bytes    one request each, signed with the account's key
//!   both        _chain/<topic>/p<partition>.json     the head of a partition's chain
//! ```

mod azurite;
mod directory;

use std::{collections::BTreeMap, ops::Range, path::PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Where a lake is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LakeReader {
    Directory(PathBuf),
    /// A container of a running Azurite; the lake begins at its root.
    Azurite {
        port: u16,
        container: String,
    },
}

/// A data file as its metadata and its bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LakeFile {
    /// Below the lake's root.
    pub path: String,
    /// Lower-case names.
    pub metadata: BTreeMap<String, String>,
    /// What a reader gets, as it is stored.
    pub bytes: Vec<u8>,
    /// The same unpacked; empty where nothing is packed.
    unpacked: Vec<u8>,
}

/// The head of one partition's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LakeHead {
    /// Below the lake's root.
    pub document_path: String,
    pub topic: String,
    pub partition: i32,
    pub start: i64,
    pub scanned: i64,
    /// The current file; `None` until the first record.
    pub path: Option<String>,
    pub first: Option<i64>,
    pub created: bool,
}

/// Everything that a ledger judges.
#[derive(Clone, Debug, Default)]
pub struct LakeContent {
    /// By path.
    pub files: Vec<LakeFile>,
    pub heads: Vec<LakeHead>,
}

impl LakeFile {
    /// # Errors
    /// If the fact is missing or no number.
    pub fn number(&self, name: &str) -> Result<i64> {
        let text = self.text(name)?;
        text.parse().with_context(|| format!("{}: `{name}` is {text:?}, no number", self.path))
    }

    /// # Errors
    /// If the fact is missing.
    pub fn text(&self, name: &str) -> Result<&str> {
        let value = self.metadata.get(name).map(String::as_str);
        value.with_context(|| format!("{}: metadata has no `{name}`", self.path))
    }

    /// # Errors
    /// If the bytes are not packed as the metadata says.
    pub(crate) fn new(path: String, metadata: BTreeMap<String, String>, bytes: Vec<u8>) -> Result<Self> {
        let mut file = Self { path, metadata, bytes, unpacked: Vec::new() };
        if !file.bytes.is_empty() {
            let (packed, path) = (file.bytes.as_slice(), file.path.as_str());
            file.unpacked = match file.text("compressed")? {
                "none" => Vec::new(),
                "gzip" => {
                    let mut lines = Vec::new();
                    let mut reader = flate2::read::MultiGzDecoder::new(packed);
                    std::io::Read::read_to_end(&mut reader, &mut lines)
                        .with_context(|| format!("{path} as gzip"))?;
                    lines
                }
                "zstd" => zstd::decode_all(packed).with_context(|| format!("{path} as zstd"))?,
                other => bail!("{path}: `compressed` is {other:?}"),
            };
        }
        Ok(file)
    }

    /// The lines as they are read by whoever unpacks the file.
    ///
    /// # Errors
    /// If the metadata does not say how it is packed.
    pub fn plain(&self) -> Result<&[u8]> {
        Ok(if self.text("compressed")? == "none" { &self.bytes } else { &self.unpacked })
    }

    /// Lines without their line breaks; the last one must have its own.
    ///
    /// # Errors
    /// If the file ends inside a line.
    pub fn lines(&self) -> Result<Vec<&[u8]>> {
        let plain = self.plain()?;
        let Some(body) = plain.strip_suffix(b"\n") else {
            if plain.is_empty() {
                return Ok(Vec::new());
            }
            bail!("{}: ends inside a line", self.path);
        };
        Ok(body.split(|&byte| byte == b'\n').collect())
    }
}

impl LakeHead {
    fn parse(document_path: &str, bytes: &[u8]) -> Result<Self> {
        let value: Value =
            serde_json::from_slice(bytes).with_context(|| format!("{document_path} is no JSON"))?;
        let number = |name: &str| {
            value[name].as_i64().with_context(|| format!("{document_path}: `{name}` is no number"))
        };
        Ok(Self {
            document_path: document_path.to_owned(),
            topic: value["topic"].as_str().with_context(|| format!("{document_path}: no topic"))?.to_owned(),
            partition: i32::try_from(number("partition")?).context("partition")?,
            start: number("start")?,
            scanned: number("scanned")?,
            path: value["path"].as_str().map(str::to_owned),
            first: value["first"].as_i64(),
            created: value["created"].as_bool().unwrap_or(false),
        })
    }
}

impl LakeReader {
    /// Reads everything: data files with metadata and bytes, and all heads. A lake that does not exist yet is empty.
    ///
    /// # Errors
    /// If something is there that cannot be read as what it should be.
    pub async fn read(&self) -> Result<LakeContent> {
        let reader = self.clone();
        let read = move || match reader {
            Self::Directory(root) => directory::read(&root, directory::Bytes::Read),
            Self::Azurite { port, container } => azurite::read(port, &container, azurite::Bytes::Read),
        };
        tokio::task::spawn_blocking(read).await.context("a lake reader's thread")?
    }

    /// All data files with their metadata, without their bytes: cheap enough to be asked many times a second.
    ///
    /// # Errors
    /// As [`LakeReader::read`].
    pub async fn files(&self) -> Result<Vec<LakeFile>> {
        let reader = self.clone();
        let read = move || match reader {
            Self::Directory(root) => Ok(directory::read(&root, directory::Bytes::Skip)?.files),
            Self::Azurite { port, container } => azurite::files(port, &container),
        };
        tokio::task::spawn_blocking(read).await.context("a lake reader's thread")?
    }

    /// Some bytes of a data file, as they are stored.
    ///
    /// # Errors
    /// If the file does not have them.
    pub async fn bytes(&self, path: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let (reader, path) = (self.clone(), path.to_owned());
        let read = move || match reader {
            Self::Directory(root) => directory::bytes(&root, &path, range),
            Self::Azurite { port, container } => azurite::bytes(port, &container, &path, range),
        };
        tokio::task::spawn_blocking(read).await.context("a lake reader's thread")?
    }

    /// Any object; `None` if it is not there.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn document(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let (reader, path) = (self.clone(), path.to_owned());
        let read = move || match reader {
            Self::Directory(root) => directory::document(&root, &path),
            Self::Azurite { port, container } => azurite::document(port, &container, &path),
        };
        tokio::task::spawn_blocking(read).await.context("a lake reader's thread")?
    }

    /// Deletes a data file as a person would, with everything that is said of it.
    ///
    /// # Errors
    /// If it is not there.
    pub async fn delete(&self, path: &str) -> Result<()> {
        let (reader, path) = (self.clone(), path.to_owned());
        let delete = move || match reader {
            Self::Directory(root) => directory::delete(&root, &path),
            Self::Azurite { port, container } => azurite::damage(port, &container, &path, None),
        };
        tokio::task::spawn_blocking(delete).await.context("a lake reader's thread")?
    }

    /// Puts other bytes into a data file. In a directory what is said of it stays, in Azurite it is lost, as with any upload.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn overwrite(&self, path: &str, bytes: Vec<u8>) -> Result<()> {
        let (reader, path) = (self.clone(), path.to_owned());
        let write = move || match reader {
            Self::Directory(root) => std::fs::write(root.join(&path), bytes).with_context(|| path.clone()),
            Self::Azurite { port, container } => azurite::damage(port, &container, &path, Some(&bytes)),
        };
        tokio::task::spawn_blocking(write).await.context("a lake reader's thread")?
    }

    /// How far each chain is durable: the last file's `next`, or the head's `scanned` if that is further. Bytes are not
    /// read, so that it can be asked often.
    ///
    /// # Errors
    /// As [`LakeReader::read`].
    pub async fn positions(&self) -> Result<BTreeMap<(String, i32), i64>> {
        let reader = self.clone();
        let read = move || match reader {
            Self::Directory(root) => directory::read(&root, directory::Bytes::Skip),
            Self::Azurite { port, container } => azurite::read(port, &container, azurite::Bytes::Skip),
        };
        let content = tokio::task::spawn_blocking(read).await.context("a lake reader's thread")??;
        let mut positions: BTreeMap<(String, i32), i64> = BTreeMap::new();
        for head in &content.heads {
            positions.insert((head.topic.clone(), head.partition), head.scanned);
        }
        for file in &content.files {
            let partition = i32::try_from(file.number("partition")?).context("partition")?;
            let position = positions.entry((file.topic()?, partition)).or_default();
            *position = (*position).max(file.number("next")?);
        }
        Ok(positions)
    }
}

impl LakeFile {
    /// The topic, decoded: metadata values are percent-encoded where HTTP headers could not carry them.
    ///
    /// # Errors
    /// If it is missing or badly encoded.
    pub fn topic(&self) -> Result<String> {
        let text = self.text("topic")?;
        let mut bytes = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((&first, tail)) = rest.split_first() {
            if first != b'%' {
                bytes.push(first);
                rest = tail;
                continue;
            }
            let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
            let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            bytes.push(byte.with_context(|| format!("{}: topic {text:?} is badly encoded", self.path))?);
            rest = &tail[2..];
        }
        String::from_utf8(bytes).with_context(|| format!("{}: topic {text:?} is no UTF-8", self.path))
    }
}

/// Whether a path below the root is the head of a chain: `_chain/<topic>/p<partition>.json`.
fn is_head(path: &str) -> bool {
    let Some(rest) = path.strip_prefix("_chain/") else { return false };
    let Some((topic, file)) = rest.split_once('/') else { return false };
    let number = file.strip_prefix('p').and_then(|file| file.strip_suffix(".json"));
    topic != "files" && number.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Whether a path below the root is a data file: `…/hour=HH/events-….jsonl`, in no hidden folder but `_control`.
fn is_data_file(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let hidden = path.starts_with("_chain/") || path.contains("/_gen-");
    !hidden && name.starts_with("events-") && name.contains(".jsonl")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn paths_are_told_apart() {
        assert!(is_head("_chain/atlas.shop.orders/p0.json"));
        assert!(!is_head("_chain/files/shop/p0.json/x"));
        assert!(!is_head("_chain/atlas.shop.orders/hours.json"));
        assert!(is_data_file(
            "shop/orders/year=2025/month=01/day=02/hour=03/events-20250102-03-p0000-0.jsonl"
        ));
        assert!(!is_data_file("_chain/files/shop/orders/year=2025/events-1.jsonl.json"));
        assert!(!is_data_file("shop/orders/year=2025/month=01/day=02/hour=03/_manifest.json"));
    }

    #[test]
    fn an_unfinished_line_is_an_error() {
        let metadata = BTreeMap::from([("compressed".to_owned(), "none".to_owned())]);
        let file = |bytes: &[u8]| LakeFile::new("f".to_owned(), metadata.clone(), bytes.to_vec()).unwrap();
        assert_eq!(file(b"{}\n{}\n").lines().unwrap().len(), 2);
        assert_eq!(file(b"").lines().unwrap().len(), 0);
        assert!(file(b"{}\n{").lines().is_err());
    }
}

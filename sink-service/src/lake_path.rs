//! Where things are in the lake: every path is built here and nowhere else. Which folders a collection and its hours have is a matter of
//! the lake's [`Layout`]; here as it is unless set otherwise:
//!
//! ```text
//! <root>/<db>/<coll>/year=YYYY/month=MM/day=DD/hour=HH/events-YYYYMMDD-HH-p<partition>-<first>.jsonl[.gz|.zst]
//!     …/hour=HH/_manifest.json, _SUCCESS         of an hour that has closed
//!     …/hour=HH/_gen-<n>/events-…                a reprint of the hour, for those who follow its manifest
//! <root>/_chain/layout.json                      which layout that is
//! <root>/_control/year=YYYY/…                    the same of the control topic, which is of no collection
//! <root>/_chain/<topic>/p<partition>.json        the head of a partition's chain
//! <root>/_chain/<topic>/hours.json               which hours of the topic have closed
//! <root>/_chain/<topic>/expired.json             what was removed on purpose
//! <root>/_chain/<topic>/gaps.json                what was lost in Kafka and given up
//! <root>/_chain/files/<path of a file>.json      a file's sidecar, on a local directory only
//! ```
//!
//! Database and collection names are escaped so that no two of them share a folder and none hides behind a leading
//! `_` or `.`, which readers such as Spark skip. Paths are relative to the lake's root and have no leading slash.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use shared::{
    escape::escape,
    kafka_position::{KafkaOffset, TopicPartition},
};
use thiserror::Error;

use crate::{compression::Compression, event_hour::EventHour, layout::Layout};

/// Bookkeeping of the chains; lifecycle and clean-up rules must spare it.
pub const CHAIN_FOLDER: &str = "_chain";

/// Definitions and gap markers. No database has a folder of this name, and readers of the whole lake skip it.
pub const CONTROL_FOLDER: &str = "_control";

/// Hidden from readers by their first character, as Spark, Hive and Hadoop have it.
pub const MANIFEST: &str = "_manifest.json";
pub const SUCCESS: &str = "_SUCCESS";

/// What an export makes of an hour.
const PARQUET: &str = "events.parquet";

/// File systems allow 255 bytes in one segment; sidecars and markers append to it.
pub(crate) const SEGMENT_LEN_MAX: usize = 200;

/// Of a folder within an hour's, behind it the number of the generation. Hidden as the manifest is.
const GENERATION_PREFIX: &str = "_gen-";

/// A path below the lake's root: non-empty segments joined by `/`, none of them `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LakePath(String);

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is no path inside the lake")]
pub struct InvalidLakePath(String);

impl LakePath {
    /// # Errors
    /// If a segment is empty, `.` or `..`, or the path could leave the root.
    pub fn new(path: impl Into<String>) -> Result<Self, InvalidLakePath> {
        let path = path.into();
        let legal =
            path.split('/').all(|segment| !matches!(segment, "" | "." | "..") && !segment.contains('\0'));
        if legal { Ok(Self(path)) } else { Err(InvalidLakePath(path)) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Which layout the lake has.
    pub fn layout() -> Self {
        Self(format!("{CHAIN_FOLDER}/layout.json"))
    }

    /// The head of a partition's chain.
    pub fn head(partition: &TopicPartition) -> Self {
        Self(format!("{CHAIN_FOLDER}/{}/p{}.json", partition.topic, partition.partition))
    }

    /// Which hours of the topic have closed.
    pub fn closed_hours(topic: &str) -> Self {
        Self(format!("{CHAIN_FOLDER}/{topic}/hours.json"))
    }

    /// What was removed of the topic on purpose.
    pub fn expired(topic: &str) -> Self {
        Self(format!("{CHAIN_FOLDER}/{topic}/expired.json"))
    }

    /// Records of the topic that are lost and were given up.
    pub fn gaps(topic: &str) -> Self {
        Self(format!("{CHAIN_FOLDER}/{topic}/gaps.json"))
    }

    /// The last segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// Where it lies; `None` at the root.
    pub fn folder(&self) -> Option<Self> {
        self.0.rsplit_once('/').map(|(folder, _)| Self(folder.to_owned()))
    }

    /// What it is called in its hour's folder, that of its reprint included.
    pub fn name_in_hour(&self) -> &str {
        let name = self.file_name();
        if !self.is_in_a_generation() {
            return name;
        }
        let folder = self.0.rsplit('/').nth(1).unwrap_or_default();
        &self.0[self.0.len() - name.len() - 1 - folder.len()..]
    }

    /// All heads lie below it.
    pub fn chain_folder() -> Self {
        Self(CHAIN_FOLDER.to_owned())
    }

    /// The topic and partition whose head this is; `None` for every other path.
    pub fn as_head(&self) -> Option<TopicPartition> {
        let (topic, file) = self.0.strip_prefix(CHAIN_FOLDER)?.strip_prefix('/')?.split_once('/')?;
        let partition = file.strip_prefix('p')?.strip_suffix(".json")?.parse().ok()?;
        Some(TopicPartition::new(topic, partition))
    }

    /// How a data file is packed, by its name; `None` for every other path.
    pub fn compression(&self) -> Option<Compression> {
        Compression::of_name(self.file_name())
    }

    /// The offset that a data file begins at, by its name; `None` for every other path.
    pub fn first(&self) -> Option<KafkaOffset> {
        let (name, _) = self.file_name().strip_prefix("events-")?.split_once(".jsonl")?;
        let (_, first) = name.rsplit_once('-')?;
        first.parse().ok().map(KafkaOffset::new)
    }

    /// The partition that a data file's name says; `None` for every other path.
    pub fn partition(&self) -> Option<i32> {
        let after_hour = self.file_name().strip_prefix("events-")?.get("YYYYMMDD-HH".len()..)?;
        let (partition, _) = after_hour.strip_prefix("-p")?.split_once('-')?;
        partition.parse().ok()
    }

    /// Where a data file of a reprint lies whose place in the chain would be this one.
    #[must_use]
    pub fn in_generation(&self, generation: u64) -> Self {
        let (folder, name) = self.0.rsplit_once('/').unwrap_or(("", &self.0));
        Self(format!("{folder}/{GENERATION_PREFIX}{generation}/{name}"))
    }

    /// Whether it lies in the folder of a reprint.
    pub fn is_in_a_generation(&self) -> bool {
        self.0.rsplit('/').nth(1).is_some_and(|folder| folder.starts_with(GENERATION_PREFIX))
    }

    /// Whether it is such a folder itself: accounts with folders list them too.
    pub fn is_a_generation(&self) -> bool {
        self.file_name().starts_with(GENERATION_PREFIX)
    }

    /// The way back from [`Self::in_generation`].
    #[must_use]
    pub fn in_the_chain(&self) -> Self {
        let Some((folder, name)) = self.0.rsplit_once('/').filter(|_| self.is_in_a_generation()) else {
            return self.clone();
        };
        let hour = folder.rsplit_once('/').map_or("", |(hour, _)| hour);
        Self(format!("{hour}/{name}"))
    }
}

impl fmt::Display for LakePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for LakePath {
    type Error = InvalidLakePath;

    fn try_from(path: String) -> Result<Self, Self::Error> {
        Self::new(path)
    }
}

impl From<LakePath> for String {
    fn from(path: LakePath) -> Self {
        path.0
    }
}

/// The folder of one topic: that of its collection, or the one of definitions. [`Layout::folder`] gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFolder {
    path: LakePath,
    layout: Layout,
}

impl TopicFolder {
    pub(crate) fn new(path: LakePath, layout: Layout) -> Self {
        Self { path, layout }
    }

    pub fn path(&self) -> &LakePath {
        &self.path
    }

    pub fn hour(&self, hour: EventHour) -> LakePath {
        LakePath(format!("{}/{}", self.path, self.layout.hour(hour)))
    }

    /// The hour whose folder a file lies in; `None` for every other path.
    pub fn hour_of(&self, path: &LakePath) -> Option<EventHour> {
        self.layout.hour_of(path)
    }

    /// Whether this is where the file lies that holds `partition`'s records from `first` on, whatever its hour.
    pub fn is_at(&self, path: &LakePath, partition: i32, first: KafkaOffset) -> bool {
        let expected = || {
            let (hour, compression) = (self.hour_of(path)?, path.compression()?);
            Some(self.data_file(hour, partition, first, compression))
        };
        expected().as_ref() == Some(path)
    }

    /// What an hour that has closed consists of.
    pub fn manifest(&self, hour: EventHour) -> LakePath {
        self.in_hour(hour, MANIFEST)
    }

    /// An empty object: the hour has closed.
    pub fn success(&self, hour: EventHour) -> LakePath {
        self.in_hour(hour, SUCCESS)
    }

    /// All records of an hour that has closed, below the place of an export.
    pub fn parquet(&self, hour: EventHour) -> LakePath {
        self.in_hour(hour, PARQUET)
    }

    /// The file that holds `partition`'s records of `hour` from offset `first` on.
    pub fn data_file(
        &self,
        hour: EventHour,
        partition: i32,
        first: KafkaOffset,
        compression: Compression,
    ) -> LakePath {
        let (hour_of_name, first, extension) = (hour.compact(), first.get(), compression.extension());
        let name = format!("events-{hour_of_name}-p{partition:04}-{first:020}.jsonl{extension}");
        self.in_hour(hour, &name)
    }

    fn in_hour(&self, hour: EventHour, name: &str) -> LakePath {
        LakePath(format!("{}/{}/{name}", self.path, self.layout.hour(hour)))
    }
}

/// Whether a file's name says that it holds records of this partition of its collection.
pub fn is_data_file_of(path: &LakePath, partition: i32) -> bool {
    path.partition() == Some(partition)
}

/// One name as one path segment, or as a part of one: then it has at most `len_max` bytes, and `apart`, which separates it from what follows, is not
/// left bare in it. Two names never give the same text.
pub(crate) fn segment(name: &str, len_max: usize, apart: Option<u8>) -> String {
    let bytes = name.as_bytes();
    let mut text = String::with_capacity(name.len());
    escape(name, &mut text, |position, byte| match byte {
        _ if Some(byte) == apart => false,
        b'_' => position > 0,
        // Never `..`, never hidden; and Azure drops a dot at a segment's end.
        b'.' => position > 0 && position + 1 < bytes.len() && bytes[position - 1] != b'.',
        other => other.is_ascii_alphanumeric() || other == b'-',
    });
    if text.len() > len_max || is_cut(&text, len_max) {
        let hash = Sha256::digest(name.as_bytes());
        text.truncate(len_max - CUT_SUFFIX_LEN);
        text.push_str("-h");
        for byte in &hash[..16] {
            use fmt::Write;
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        }
    }
    text
}

/// `-h` and 32 hexadecimal digits close a segment that was cut.
const CUT_SUFFIX_LEN: usize = 34;

fn is_cut(text: &str, len_max: usize) -> bool {
    text.len() == len_max && text[len_max - CUT_SUFFIX_LEN..].starts_with("-h")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use shared::namespace::Namespace;

    use super::*;
    use crate::topic_content::TopicContent;

    fn data(db: &str, coll: &str) -> TopicContent {
        TopicContent::Data(Namespace::new(db, coll))
    }

    #[test]
    fn a_data_file_lies_in_its_hour() {
        let folder = Layout::hive().folder(&data("shop", "orders"));
        let hour = EventHour::from_calendar(2026, 11, 21, 7).unwrap();
        let path = folder.data_file(hour, 3, KafkaOffset::new(42), Compression::None);
        assert_eq!(
            path.as_str(),
            "shop/orders/year=2026/month=11/day=21/hour=07/events-20261121-07-p0003-00000000000000000042.jsonl"
        );
        assert_eq!(folder.hour_of(&path), Some(hour));
        assert_eq!(path.as_head(), None);
        assert!(is_data_file_of(&path, 3) && !is_data_file_of(&path, 4));
        let packed = folder.data_file(hour, 3, KafkaOffset::new(42), Compression::Zstd);
        assert_eq!(packed.as_str(), format!("{path}.zst"));
        assert_eq!(
            (packed.compression(), path.compression()),
            (Some(Compression::Zstd), Some(Compression::None))
        );
        assert!(is_data_file_of(&packed, 3));
        let hidden = packed.in_generation(12);
        assert_eq!(
            hidden.as_str(),
            "shop/orders/year=2026/month=11/day=21/hour=07/_gen-12/events-20261121-07-p0003-00000000000000000042.jsonl.zst"
        );
        assert!(hidden.is_in_a_generation() && !packed.is_in_a_generation());
        let itself = hidden.folder().unwrap();
        assert!(itself.is_a_generation() && !itself.is_in_a_generation() && !hidden.is_a_generation());
        assert_eq!(
            (folder.hour_of(&hidden), hidden.in_the_chain(), packed.in_the_chain()),
            (None, packed.clone(), packed.clone())
        );
        assert_eq!(
            (hidden.name_in_hour(), packed.name_in_hour()),
            (&hidden.as_str()[hidden.as_str().find("_gen").unwrap()..], packed.file_name())
        );
        assert_eq!((hidden.partition(), hidden.first()), (Some(3), Some(KafkaOffset::new(42))));
        assert_eq!(folder.manifest(hour).partition(), None);
    }

    #[test]
    fn definitions_lie_in_a_folder_that_no_database_has() {
        let folder = Layout::hive().folder(&TopicContent::Control);
        let hour = EventHour::from_calendar(2026, 11, 21, 7).unwrap();
        let path = folder.data_file(hour, 0, KafkaOffset::new(42), Compression::None);
        assert_eq!(
            path.as_str(),
            "_control/year=2026/month=11/day=21/hour=07/events-20261121-07-p0000-00000000000000000042.jsonl"
        );
        assert_eq!(folder.hour_of(&path), Some(hour));
        assert_eq!(path.as_head(), None);
        assert_eq!(Layout::hive().folder(&data("_control", "a")).path().as_str(), "-x5fcontrol/a");
    }

    #[test]
    fn a_head_names_its_partition() {
        let partition = TopicPartition::new("atlas.shop.orders", 2);
        let path = LakePath::head(&partition);
        assert_eq!(path.as_str(), "_chain/atlas.shop.orders/p2.json");
        assert_eq!(path.as_head(), Some(partition));
        assert_eq!(Layout::hive().hour_of(&path), None);
    }

    #[test]
    fn unsafe_names_are_escaped() {
        let folder = |db, coll| Layout::hive().folder(&data(db, coll)).path().as_str().to_owned();
        assert_eq!(folder("shop", "orders.eu"), "shop/orders.eu");
        assert_eq!(folder("shop", "a/b"), "shop/a-x2fb");
        assert_eq!(folder("_chain", ".."), "-x5fchain/-x2e-x2e");
        assert_eq!(folder("shop", ".hidden."), "shop/-x2ehidden-x2e");
        assert_eq!(folder("shop", "a..b"), "shop/a.-x2eb");
    }

    #[test]
    fn paths_cannot_leave_the_lake() {
        for path in ["", "/a", "a/", "a//b", "a/../b", "..", ".", "a/./b", "a\0"] {
            assert!(LakePath::new(path).is_err(), "{path:?}");
        }
        assert!(LakePath::new("a/b=c/..d").is_ok());
    }
}

//! Which hours go and which stay; nothing is changed here.

use std::collections::{BTreeMap, BTreeSet};

use shared::kafka_position::KafkaOffset;

use crate::{
    event_hour::EventHour,
    head::Head,
    hours::accounts::closed_hours,
    lake::{Lake, LakeError, ListedFile},
    lake_layout::OpenLake,
    lake_path::{LakePath, MANIFEST, SUCCESS},
    look_again::look_again,
    topic_content::TopicContent,
};

/// Everything of one topic.
pub(super) struct Plan {
    pub topic: String,
    pub content: TopicContent,
    /// Hours before this one go: what was asked for, as far as hours have closed.
    pub before: EventHour,
    /// In their order.
    pub hours: Vec<OldHour>,
    pub kept: Vec<KeptHour>,
}

/// An hour that goes.
pub(super) struct OldHour {
    pub hour: EventHour,
    /// Of the chain.
    pub files: Vec<ListedFile>,
    pub reprints: Reprints,
}

/// Files of reprints, whether a manifest names them or not, and their bytes; 0 where nothing says it.
pub(super) type Reprints = BTreeMap<LakePath, u64>;

/// An hour that is old enough and stays.
pub(super) struct KeptHour {
    pub hour: EventHour,
    pub why: Kept,
}

/// Why an hour stays.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Kept {
    #[error("a partition's chain stands in {0}")]
    Current(LakePath),
    #[error("{0} has no chain in this lake")]
    NoChain(LakePath),
    #[error("{0}; `replay` makes closed hours again")]
    Damaged(String),
    #[error(
        "a replay is making it again, or was and has not finished: type that one again, or --abandon-replays"
    )]
    Rebuilding,
    #[error("somebody changed it meanwhile")]
    Changed,
}

impl Plan {
    /// `None` if the topic has no rows in the lake.
    ///
    /// # Errors
    /// As the lake says.
    pub(super) async fn of(
        lake: &OpenLake,
        topic: &str,
        asked: EventHour,
    ) -> Result<Option<Self>, LakeError> {
        let heads = heads(lake, topic).await?;
        let Some(content) = heads.values().find_map(Head::content) else { return Ok(None) };
        let folder = lake.folder(&content);
        let closed = look_again(async || closed_hours(lake, topic).await).await?;
        let closed = closed.and_then(|(record, _)| record.closed);
        let before = closed.and_then(EventHour::next).unwrap_or(EventHour::EPOCH).min(asked);
        let mut hours: BTreeMap<EventHour, Vec<ListedFile>> = BTreeMap::new();
        let mut reprints: BTreeMap<EventHour, Reprints> = BTreeMap::new();
        let names = look_again(async || lake.list_names_with_reprints(folder.path()).await).await?;
        for path in names.0 {
            if let Some(hour) = folder.hour_of(&path)
                && matches!(path.file_name(), MANIFEST | SUCCESS)
            {
                hours.entry(hour).or_default();
            }
        }
        let listed = look_again(async || lake.list_with_reprints(folder.path()).await).await?;
        let (listing, reprinted) = listed;
        let unknown =
            reprinted.damaged.into_iter().map(|(path, _)| path).chain(names.1).map(|path| (path, 0));
        let known = reprinted.files.into_iter().map(|file| (file.path, file.metadata.stored_size));
        for (path, bytes) in unknown.chain(known) {
            if let Some(hour) = folder.hour_of(&path.in_the_chain()).filter(|_| path.partition().is_some()) {
                hours.entry(hour).or_default();
                reprints.entry(hour).or_default().insert(path, bytes);
            }
        }
        // One damaged file does not keep the others.
        let mut damaged: BTreeMap<EventHour, String> = BTreeMap::new();
        for (path, what) in listing.damaged {
            if let Some(hour) = folder.hour_of(&path) {
                hours.entry(hour).or_default();
                damaged.insert(hour, LakeError::Damaged { path, what }.to_string());
            }
        }
        for file in listing.files {
            if let Some(hour) = folder.hour_of(&file.path)
                && *file.metadata.topic_partition.topic == *topic
            {
                hours.entry(hour).or_default().push(file);
            }
        }
        let mut plan = Self { topic: topic.to_owned(), content, before, hours: Vec::new(), kept: Vec::new() };
        for (hour, files) in hours.range(..before) {
            let why = damaged.remove(hour).map(Kept::Damaged);
            match why.or_else(|| files.iter().find_map(|file| needed(file, &heads))) {
                Some(why) => plan.kept.push(KeptHour { hour: *hour, why }),
                None => plan.hours.push(OldHour {
                    hour: *hour,
                    files: files.clone(),
                    reprints: reprints.remove(hour).unwrap_or_default(),
                }),
            }
        }
        Ok(Some(plan))
    }
}

/// Why a file cannot go: its chain has not left it behind.
fn needed(file: &ListedFile, heads: &BTreeMap<i32, Head>) -> Option<Kept> {
    let Some(head) = heads.get(&file.metadata.topic_partition.partition) else {
        return Some(Kept::NoChain(file.path.clone()));
    };
    let stands_at = head.first.unwrap_or(KafkaOffset::ZERO);
    let left_behind = file.metadata.sealed && file.metadata.next <= stands_at;
    (!left_behind).then(|| Kept::Current(file.path.clone()))
}

/// The topics that have a chain in the lake.
///
/// # Errors
/// As the lake says.
pub(super) async fn topics(lake: &Lake) -> Result<BTreeSet<String>, LakeError> {
    let heads = look_again(async || lake.list_heads().await).await?;
    Ok(heads.iter().filter_map(LakePath::as_head).map(|partition| partition.topic.to_string()).collect())
}

async fn heads(lake: &Lake, topic: &str) -> Result<BTreeMap<i32, Head>, LakeError> {
    let mut heads = BTreeMap::new();
    for path in look_again(async || lake.list_heads().await).await? {
        let Some(partition) = path.as_head().filter(|partition| *partition.topic == *topic) else { continue };
        let Some(document) = look_again(async || lake.read_document(&path).await).await? else { continue };
        let head = Head::parse(&document.bytes).map_err(|what| LakeError::Damaged { path, what })?;
        heads.insert(partition.partition, head);
    }
    Ok(heads)
}

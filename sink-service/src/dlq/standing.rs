//! What the lake says of a record that became a letter: DESIGN §5 rule 6.

use std::collections::{BTreeMap, HashMap};

use shared::kafka_position::{KafkaOffset, TopicPartition};

use super::{
    filter::State,
    letter::{Letter, Origin},
};
use crate::{
    event_hour::EventHour,
    file_metadata::FileMetadata,
    head::Head,
    hours::{
        accounts::manifest,
        expired::{Expired, expired, may_be_missing},
    },
    lake::LakeError,
    lake_layout::OpenLake,
    lake_path::{LakePath, is_data_file_of},
    topic_content::TopicContent,
};

/// One chain as far as it was asked for.
struct ChainFiles {
    content: Option<TopicContent>,
    start: KafkaOffset,
    expired: Option<Expired>,
    /// By where they begin.
    paths: BTreeMap<KafkaOffset, LakePath>,
    read: HashMap<KafkaOffset, Option<FileMetadata>>,
    /// Hours that were asked for: whether a replay has claimed them.
    rebuilding: HashMap<EventHour, bool>,
}

/// Reads each head once, each folder's names once, and a file's metadata where a letter lies in it.
pub(super) struct Standings<'a> {
    lake: &'a OpenLake,
    chains: HashMap<TopicPartition, Option<ChainFiles>>,
}

impl<'a> Standings<'a> {
    pub(super) fn new(lake: &'a OpenLake) -> Self {
        Self { lake, chains: HashMap::new() }
    }

    /// Never [`State::Retried`] or [`State::Dropped`]. A letter of the source is open: nothing of it is in Kafka or the lake.
    pub(super) async fn of(&mut self, letter: &Letter) -> Result<State, LakeError> {
        let Some(origin) = &letter.origin else { return Ok(State::Open) };
        let lake = self.lake;
        let Some(chain) = self.chain(&origin.partition).await? else { return Ok(State::NotSettled) };
        let (offset, partition) = (origin.offset, &origin.partition);
        let removed = may_be_missing(chain.expired.as_ref(), partition, offset, offset.after());
        if offset < chain.start || removed {
            return Ok(State::Unknown);
        }
        let Some((first, path)) = chain.paths.range(..=origin.offset).next_back() else {
            return Ok(State::NotSettled);
        };
        if !chain.read.contains_key(first) {
            let state = lake.file(path).await?;
            chain.read.insert(*first, state.map(|state| state.metadata));
        }
        let Some(metadata) = &chain.read[first] else { return Ok(State::Unknown) };
        let is_last = chain.paths.range(first.after()..).next().is_none();
        Ok(if metadata.topic_partition != origin.partition {
            State::Unknown
        } else if origin.offset < metadata.next {
            let is_letter = metadata.dead_letters.contains(origin.offset);
            if is_letter { State::Open } else { State::Void }
        } else if is_last {
            State::NotSettled
        } else {
            // A file between the two is missing.
            State::Unknown
        })
    }

    /// Whether the letter's record has become a row since, or a replay that could make it one is at the file's hour.
    pub(super) async fn may_become_a_row(&mut self, letter: &Letter) -> Result<bool, LakeError> {
        if self.of(letter).await? != State::Open {
            return Ok(true);
        }
        let (lake, Some(Origin { partition, offset })) = (self.lake, &letter.origin) else {
            return Ok(false);
        };
        let Some(chain) = self.chain(partition).await? else { return Ok(false) };
        let file = chain.paths.range(..=*offset).next_back();
        let hour = file.and_then(|(_, path)| lake.hour_of(path));
        let (Some(content), Some(hour)) = (&chain.content, hour) else { return Ok(false) };
        if let Some(known) = chain.rebuilding.get(&hour) {
            return Ok(*known);
        }
        let manifest = manifest(lake, &lake.folder(content), hour).await?;
        let is_rebuilding = manifest.is_some_and(|(manifest, _)| manifest.rebuilding.is_some());
        chain.rebuilding.insert(hour, is_rebuilding);
        Ok(is_rebuilding)
    }

    /// What a chain's rows are of.
    pub(super) async fn topic_content(
        &mut self,
        partition: &TopicPartition,
    ) -> Result<Option<TopicContent>, LakeError> {
        Ok(self.chain(partition).await?.and_then(|chain| chain.content.clone()))
    }

    /// An hour's folder below its collection's.
    pub(super) fn hour(&self, hour: EventHour) -> String {
        self.lake.layout().hour(hour)
    }

    async fn chain(&mut self, partition: &TopicPartition) -> Result<Option<&mut ChainFiles>, LakeError> {
        if !self.chains.contains_key(partition) {
            let chain = self.read(partition).await?;
            self.chains.insert(partition.clone(), chain);
        }
        Ok(self.chains.get_mut(partition).and_then(Option::as_mut))
    }

    async fn read(&self, partition: &TopicPartition) -> Result<Option<ChainFiles>, LakeError> {
        let path = LakePath::head(partition);
        let Some(document) = self.lake.read_document(&path).await? else { return Ok(None) };
        let head = Head::parse(&document.bytes).map_err(|what| LakeError::Damaged { path, what })?;
        let content = head.content();
        let mut paths = BTreeMap::new();
        if let Some(content) = &content {
            for path in self.lake.list_names(self.lake.folder(content).path()).await? {
                if is_data_file_of(&path, partition.partition)
                    && let Some(first) = path.first()
                {
                    paths.insert(first, path);
                }
            }
        }
        let expired = expired(self.lake, &partition.topic).await?.map(|(record, _)| record);
        Ok(Some(ChainFiles {
            content,
            start: head.start,
            expired,
            paths,
            read: HashMap::new(),
            rebuilding: HashMap::new(),
        }))
    }
}

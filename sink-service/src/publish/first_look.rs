//! What lies in a folder before a chain begins there.
//!
//! ```text
//!   head is missing ──▶ a file of this partition ──▶ the head was lost (25)
//!                       `_control/`: another topic's file or manifest ──▶ another prefix archives its definitions here (25)
//! ```
//!
//! Looked at once in a chain's life, before its head is made. Of a topic whose name was cut, and of the control topic, before its head names the first file.
//!
//! [`ChainLook`] only reads: the sink's start and `check` judge by the same look.

use std::time::Instant;

use shared::kafka_position::{KafkaOffset, TopicPartition};

use super::{Halt, Identity, Publisher, Trouble};
use crate::{
    chain::{Chain, ChainHalt, LogBounds, Reading, Step, Writer},
    file_metadata::WriterId,
    head::Head,
    hours::accounts::manifest,
    kafka_log::{KafkaLog, LogError},
    lake::LakeError,
    lake_layout::OpenLake,
    lake_path::{LakePath, MANIFEST, is_data_file_of},
    topic_content::TopicContent,
    topic_identity::TopicIdentity,
};

/// What a partition's chain would go on from.
pub(super) enum Seen {
    Chain(Box<Reading>),
    /// There is no head.
    NotBegun {
        log_start: KafkaOffset,
    },
}

/// How a start would find a partition.
#[derive(Debug)]
pub enum Outlook {
    GoesOn,
    Begins,
    /// The start would end with this.
    Stops(Halt),
    /// Kafka or the lake does not say.
    Unknown(String),
}

/// Looks at chains, and changes nothing.
#[derive(Clone, Copy)]
pub struct ChainLook<'a> {
    pub lake: &'a OpenLake,
    pub log: &'a KafkaLog,
}

impl ChainLook<'_> {
    /// Whether a sink that is assigned this partition now could go on. `content` as in [`Identity`], `topic` what the broker says.
    pub async fn outlook(
        &self,
        partition: &TopicPartition,
        content: Option<&TopicContent>,
        topic: &TopicIdentity,
    ) -> Outlook {
        match self.judge(partition, content, topic).await {
            Ok(outlook) => outlook,
            Err(Trouble::Chain(halt)) => Outlook::Stops(Halt::Chain(halt)),
            Err(Trouble::Log(error @ LogError::Denied(_))) => Outlook::Stops(Halt::Kafka(error)),
            Err(Trouble::Log(error)) => Outlook::Unknown(error.to_string()),
            Err(Trouble::Lake(
                error @ (LakeError::Conflict | LakeError::Unavailable { .. } | LakeError::Unknown { .. }),
            )) => Outlook::Unknown(error.to_string()),
            Err(Trouble::Lake(error)) => Outlook::Stops(Halt::Lake(error)),
            Err(Trouble::Changed) => Outlook::Unknown("it is being written just now".to_owned()),
        }
    }

    async fn judge(
        &self,
        partition: &TopicPartition,
        content: Option<&TopicContent>,
        topic: &TopicIdentity,
    ) -> Result<Outlook, Trouble> {
        match self.read(partition).await? {
            Seen::Chain(reading) => {
                // Nothing is written in its name.
                let nobody = Writer { id: WriterId::random(), version: "" };
                let partition = partition.clone();
                Chain::adopt(partition, nobody, *reading, topic, KafkaOffset::ZERO, Instant::now())
                    .map_err(Trouble::Chain)?;
                Ok(Outlook::GoesOn)
            }
            Seen::NotBegun { .. } => {
                if let Some(content) = content {
                    self.check_folder(content, partition).await?;
                }
                Ok(Outlook::Begins)
            }
        }
    }

    pub(super) async fn read(&self, partition: &TopicPartition) -> Result<Seen, Trouble> {
        // The order matters: a start of the log that is asked for after the head was read could have moved past it
        // meanwhile, with somebody else's flush; the end, asked before, could lie behind what somebody else published.
        let start = self.log.start(partition).await?;
        let path = LakePath::head(partition);
        let Some(document) = self.lake.read_document(&path).await? else {
            return Ok(Seen::NotBegun { log_start: start });
        };
        let head = Head::parse(&document.bytes).map_err(|what| LakeError::Damaged { path, what })?;
        let file = match &head.path {
            Some(path) => self.lake.file(path).await?,
            None => None,
        };
        let end = self.log.end(partition).await?;
        Ok(Seen::Chain(Box::new(Reading {
            layout: self.lake.layout().clone(),
            head,
            head_etag: document.etag,
            file,
            log: LogBounds { start, end },
        })))
    }

    /// What lies in the folder where the chain will begin must not be of a chain that was lost, nor of another prefix.
    pub(super) async fn check_folder(
        &self,
        content: &TopicContent,
        partition: &TopicPartition,
    ) -> Result<(), Trouble> {
        if *content == TopicContent::Control {
            self.check_definitions(&partition.topic).await?;
        }
        self.check_for_lost_head(content, partition).await
    }

    /// All prefixes have one folder for definitions. Where another one has begun there, no chain of ours begins, or each would take the other's
    /// files out of the manifests, and both could come to one path.
    async fn check_definitions(&self, topic: &str) -> Result<(), LakeError> {
        let folder = self.lake.folder(&TopicContent::Control);
        let names = self.lake.list_names(folder.path()).await?;
        let foreign = |path: &LakePath, owner: &str| {
            let (path, owner, topic) = (path.clone(), owner.to_owned(), topic.to_owned());
            if owner == topic { Ok(()) } else { Err(LakeError::Foreign { path, owner, topic }) }
        };
        // One of each kind says whose they are: there is no second chain beside it, or this would have been found then.
        if let Some(path) = names.iter().find(|path| path.partition().is_some())
            && let Some(file) = self.lake.file(path).await?
        {
            foreign(path, &file.metadata.topic_partition.topic)?;
        }
        // An hour without definitions has no file, and a manifest.
        let manifests = names.iter().filter(|path| path.file_name() == MANIFEST);
        if let Some(hour) = manifests.filter_map(|path| folder.hour_of(path)).max()
            && let Some((manifest, _)) = manifest(self.lake, &folder, hour).await?
        {
            foreign(&folder.manifest(hour), &manifest.topic)?;
        }
        Ok(())
    }

    /// A file of this partition although no head names one: the head was lost, and a new chain would double the old one.
    async fn check_for_lost_head(
        &self,
        content: &TopicContent,
        partition: &TopicPartition,
    ) -> Result<(), Trouble> {
        let Some(file) = self.file_of(content, partition).await? else { return Ok(()) };
        // Somebody else may have begun the chain meanwhile: then the file is theirs, and the head names one now.
        let path = LakePath::head(partition);
        let head = match self.lake.read_document(&path).await? {
            Some(document) => {
                Some(Head::parse(&document.bytes).map_err(|what| LakeError::Damaged { path, what })?)
            }
            None => None,
        };
        if head.is_some_and(|head| head.path.is_some()) {
            return Ok(());
        }
        Err(Trouble::Chain(ChainHalt::HeadLost { partition: partition.clone(), path: file }))
    }

    /// Any data file of this partition in its collection's folder. By name, because what is said about the files may be lost
    /// together with the head; a file that another topic owns is not ours.
    async fn file_of(
        &self,
        content: &TopicContent,
        partition: &TopicPartition,
    ) -> Result<Option<LakePath>, LakeError> {
        let folder = self.lake.folder(content);
        for path in self.lake.list_names(folder.path()).await? {
            if is_data_file_of(&path, partition.partition) {
                let owner = self.lake.file(&path).await?.map(|file| file.metadata.topic_partition);
                if owner.is_none_or(|owner| owner == *partition) {
                    return Ok(Some(path));
                }
            }
        }
        Ok(None)
    }
}

impl Publisher {
    /// Where the topic's name was cut, the folder is known with the first record only: before the head gets its path there,
    /// the folder is looked at as it is in [`Publisher::begin`] where the name says it. That of definitions is looked at once more: two prefixes that
    /// begin one lake together find it empty at first.
    pub(super) async fn check_first_folder(
        &self,
        identity: &Identity,
        chain: &Chain,
        step: &Step,
    ) -> Result<(), Trouble> {
        let Step::WriteHead(next) = step else { return Ok(()) };
        if chain.head().path.is_some() {
            return Ok(());
        }
        match (&identity.content, next.content()) {
            (None, Some(content)) => self.look().check_folder(&content, &identity.partition).await,
            (Some(TopicContent::Control), Some(_)) => {
                Ok(self.look().check_definitions(&identity.partition.topic).await?)
            }
            _ => Ok(()),
        }
    }
}

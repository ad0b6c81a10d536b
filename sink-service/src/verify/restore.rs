//! `verify --restore-head`: heads that were lost, made again from the files. The only thing that `verify` ever writes, with the record
//! of the layout where that is lost too.
//!
//! A head says where its chain begins and which file is its current one; both can be seen from the files, as long as they follow each other
//! without gap. What cannot be seen is a `scanned` beyond the last file: then the sink reads from the file's end, where there was nothing.

use shared::{
    exit::{ExitCode, Stop},
    kafka_position::TopicPartition,
};

use super::Verification;
use crate::{
    chain::ChainHalt,
    head::Head,
    hours::expired::expired,
    lake::{LakeError, ListedFile},
    lake_layout::begin,
    lake_path::LakePath,
    look_again::look_again,
    look_error::LookError,
    record::LAYOUT,
    settings::LayoutSetting,
    topic_content::TopicContent,
    topic_identity::TopicIdentity,
};

impl Verification<'_> {
    /// Makes the head of a partition again if there is none although the lake has files of it; the file that is its current one.
    ///
    /// # Errors
    /// If the files do not make one chain, or are not of this topic.
    pub(super) async fn restore_head(
        &self,
        partition: &TopicPartition,
    ) -> Result<Option<LakePath>, LookError> {
        let path = LakePath::head(partition);
        if look_again(async || self.lake.read_document(&path).await).await?.is_some() {
            return Ok(None);
        }
        let Some(content) = TopicContent::by_name(&self.names, &partition.topic) else {
            let what = format!(
                "the head of {partition} cannot be made again: the topic's name does not say which folder its files are in"
            );
            return Err(Stop::new(ExitCode::LakeDiffers, what).into());
        };
        let folder = self.lake.folder(&content);
        let listed = look_again(async || self.lake.list_files(folder.path()).await).await?;
        let mut files: Vec<ListedFile> =
            listed.into_iter().filter(|file| file.metadata.topic_partition == *partition).collect();
        files.sort_by_key(|file| file.metadata.first);
        let (Some(first), Some(last)) = (files.first(), files.last()) else { return Ok(None) };
        let removed = look_again(async || expired(self.lake, &partition.topic).await).await?;
        let removed = removed.map(|(record, _)| record);
        for pair in files.windows(2) {
            let (end, begin) = (pair[0].metadata.next, pair[1].metadata.first);
            let on_purpose =
                removed.as_ref().is_some_and(|record| record.holds(partition.partition, end, begin));
            if (end != begin && !(end < begin && on_purpose)) || !pair[0].metadata.sealed {
                let what = format!(
                    "the head of {partition} cannot be made again: {} ends at {end}{}, {} begins at {begin}. Bring the files back first; nothing was changed",
                    pair[0].path,
                    if pair[0].metadata.sealed { "" } else { ", open" },
                    pair[1].path
                );
                return Err(Stop::new(ExitCode::LakeDiffers, what).into());
            }
        }
        if last.metadata.layout != LAYOUT {
            let what =
                format!("{} is of layout {}, this version writes {LAYOUT}", last.path, last.metadata.layout);
            return Err(Stop::new(ExitCode::LakeDiffers, what).into());
        }
        let log_end = self.log.end(partition).await?;
        if log_end < last.metadata.next {
            // The head that had the topic's id is gone.
            let halt = ChainHalt::log_too_short(partition.clone(), last.metadata.next, log_end, false);
            let what = format!("{halt}. Nothing was changed");
            return Err(Stop::new(ExitCode::TopicChanged, what).into());
        }
        let mut identities = self.log.identities(vec![partition.topic.clone()]).await?;
        let TopicIdentity { topic: topicid, cluster: clusterid } =
            identities.remove(&partition.topic).unwrap_or_default();
        let before = files.len().checked_sub(2).and_then(|index| files[index].metadata.last_event.clone());
        let (db, coll) = Head::names_of(&content);
        let head = Head {
            topic: partition.topic.to_string(),
            partition: partition.partition,
            topicid,
            clusterid,
            db,
            coll,
            start: first.metadata.first,
            layout: LAYOUT,
            path: Some(last.path.clone()),
            first: Some(last.metadata.first),
            created: true,
            lastevent: before,
            deadletters: None,
            scanned: first.metadata.first,
        };
        // A head without a record would be taken for one of before there were records.
        let layout = LayoutSetting { layout: self.lake.layout().clone(), given: true };
        let has = begin(self.lake, &layout).await?;
        if has != layout.layout {
            let what =
                format!("somebody else began the lake with LAYOUT={has} meanwhile: type the command again");
            return Err(Stop::new(ExitCode::Temporary, what).into());
        }
        match self.lake.create_document(&path, head.to_bytes()).await {
            Ok(_) => Ok(Some(last.path.clone())),
            Err(LakeError::Conflict | LakeError::Unknown { .. }) => {
                let what =
                    format!("somebody else made the head of {partition} meanwhile: type the command again");
                Err(Stop::new(ExitCode::Temporary, what).into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

//! The removal itself, in an order that a reader, a live sink and the next attempt can live with.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use shared::kafka_position::TopicPartition;

use super::plan::{Kept, KeptHour, OldHour, Plan};
use crate::{
    event_hour::EventHour,
    hours::{
        accounts::HourFolder,
        expired::{Expired, expired},
    },
    lake::LakeError,
    lake_layout::OpenLake,
    lake_path::{LakePath, TopicFolder},
    look_again::look_again,
    metrics::SinkMetrics,
};

/// So many files are removed at a time.
const REMOVALS_AT_ONCE: usize = 16;

/// Removes what a plan names, and moves the hours that stayed after all to those that are kept.
pub(super) struct Removal<'a> {
    pub lake: &'a OpenLake,
    pub metrics: &'a SinkMetrics,
    /// A claim of a replay keeps no hour.
    pub abandons_replays: bool,
    /// Files that are gone.
    pub done: &'a AtomicU64,
}

impl Removal<'_> {
    /// # Errors
    /// As the lake says. What was removed until then stays removed.
    pub(super) async fn carry_out(&self, plan: &mut Plan) -> Result<(), LakeError> {
        for old in std::mem::take(&mut plan.hours) {
            match self.remove_hour(plan, &self.lake.folder(&plan.content), &old).await? {
                None => {
                    self.bring_in_late_rows(plan, old.hour).await?;
                    plan.hours.push(old);
                }
                Some(why) => {
                    if why == Kept::Changed {
                        self.bring_in_late_rows(plan, old.hour).await?;
                    }
                    plan.kept.push(KeptHour { hour: old.hour, why });
                }
            }
        }
        plan.kept.sort_by_key(|kept| kept.hour);
        Ok(())
    }

    /// What is missing from here on, on purpose.
    async fn write_down(&self, plan: &Plan, old: &OldHour) -> Result<(), LakeError> {
        let path = LakePath::expired(&plan.topic);
        loop {
            let found = look_again(async || expired(self.lake, &plan.topic).await).await?;
            let (before, etag) = found.unzip();
            let mut record = before.clone().unwrap_or_else(|| Expired::new(&plan.topic, plan.before));
            record.before = record.before.max(plan.before);
            for file in &old.files {
                let metadata = &file.metadata;
                let last = metadata.last_event.as_ref();
                record.add(metadata.topic_partition.partition, metadata.first, metadata.next, last);
            }
            if before.as_ref() == Some(&record) {
                return Ok(());
            }
            let written = match &etag {
                Some(etag) => self.lake.replace_document(&path, record.to_bytes(), etag).await,
                None => self.lake.create_document(&path, record.to_bytes()).await,
            };
            match written {
                // Read again: by whomever, it must be there.
                Ok(_) | Err(LakeError::Conflict | LakeError::Unknown { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Why the hour stays, if it does. Whether it goes is decided where its manifest is removed: a replay would have changed that. Only then it is written
    /// down, before any file is gone.
    async fn remove_hour(
        &self,
        plan: &Plan,
        folder: &TopicFolder,
        old: &OldHour,
    ) -> Result<Option<Kept>, LakeError> {
        let (mark, manifest) = (folder.success(old.hour), folder.manifest(old.hour));
        let found =
            look_again(async || crate::hours::accounts::manifest(self.lake, folder, old.hour).await).await?;
        if let Some((manifest, _)) = &found
            && manifest.rebuilding.is_some()
            && !self.abandons_replays
        {
            return Ok(Some(Kept::Rebuilding));
        }
        if let Some((manifest, _)) = &found {
            let planned = |name: &str| old.files.iter().any(|file| file.path.file_name() == name);
            if manifest.chain_files().iter().any(|file| !planned(&file.name)) {
                return Ok(Some(Kept::Changed));
            }
            // A replay may have ended since. What somebody has deleted is no reason to keep the others.
            for file in manifest.reprinted_files() {
                let path = LakePath::new(format!("{}/{}", folder.hour(old.hour), file.name));
                if let Ok(path) = path
                    && !old.reprints.contains_key(&path)
                    && look_again(async || self.lake.look(&path).await).await?.is_some()
                {
                    return Ok(Some(Kept::Changed));
                }
            }
        }
        tracing::info!(topic = plan.topic, hour = %old.hour, files = old.files.len(), "removing an hour");
        // Readers of closed hours go by the mark.
        if let Some(document) = look_again(async || self.lake.read_document(&mark).await).await? {
            self.remove_document(&mark, &document.etag).await?;
        }
        if let Some((_, etag)) = &found
            && !self.remove_document(&manifest, etag).await?
        {
            return Ok(Some(Kept::Changed));
        }
        self.write_down(plan, old).await?;
        let reprints = old.reprints.keys().filter_map(|path| {
            let partition = TopicPartition::new(plan.topic.as_str(), path.partition()?);
            Some((path, partition))
        });
        let files = old.files.iter().map(|file| (&file.path, file.metadata.topic_partition.clone()));
        stream::iter(reprints.chain(files))
            .map(Ok)
            .try_for_each_concurrent(REMOVALS_AT_ONCE, async |(path, partition)| {
                again(async || self.lake.remove_file(path, &partition).await).await?;
                self.done.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
            .await?;
        Ok(None)
    }

    /// Whether it is gone; if not, somebody has changed it.
    async fn remove_document(&self, path: &LakePath, etag: &crate::lake::ETag) -> Result<bool, LakeError> {
        match again(async || self.lake.remove_document(path, etag).await).await {
            Ok(()) => Ok(true),
            Err(LakeError::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A row that came late may have been accounted for in a manifest that was on its way out, or in a new one that names files that were. And where
    /// the hour stays after all, it has its mark again.
    async fn bring_in_late_rows(&self, plan: &Plan, hour: EventHour) -> Result<(), LakeError> {
        let Self { lake, metrics, .. } = *self;
        let (topic, content) = (plan.topic.as_str(), &plan.content);
        let folder = HourFolder { lake, metrics, topic, content, hour };
        let place = lake.folder(content).hour(hour);
        let files = look_again(async || lake.list_files(&place).await).await?;
        let late =
            files.iter().any(|file| file.metadata.sealed && *file.metadata.topic_partition.topic == *topic);
        if late || look_again(async || folder.manifest().await).await?.is_some() {
            folder.write_manifest(&BTreeMap::new()).await?;
        }
        Ok(())
    }
}

/// A removal may be repeated whatever came of it.
async fn again(mut removal: impl AsyncFnMut() -> Result<(), LakeError>) -> Result<(), LakeError> {
    look_again(async || match removal().await {
        Err(LakeError::Unknown { cause }) => Err(LakeError::Unavailable { cause, retry_after: None }),
        result => result,
    })
    .await
}

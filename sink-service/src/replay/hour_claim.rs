//! One hour's generation: claimed in its manifest before the first file, and made the manifest's own after the last.

use std::collections::BTreeMap;

use chrono::{SubsecRound, Utc};
use shared::exit::{ExitCode, Stop};

use super::ReplayError;
use crate::{
    event_hour::EventHour,
    hours::{
        accounts::HourFolder,
        manifest::{Manifest, sealed_files},
    },
    lake::{ETag, LakeError},
    lake_layout::OpenLake,
    metrics::SinkMetrics,
    topic_content::TopicContent,
};

/// See the module.
pub(super) struct HourClaim<'a> {
    pub lake: &'a OpenLake,
    pub metrics: &'a SinkMetrics,
    pub topic: &'a str,
    pub content: &'a TopicContent,
    pub hour: EventHour,
}

impl HourClaim<'_> {
    /// The generation that this hour's files are to get: one more than the manifest's, or the one that an unfinished replay has claimed.
    ///
    /// # Errors
    /// As the lake says.
    pub(super) async fn take(&self) -> Result<u64, ReplayError> {
        loop {
            let Some((manifest, etag)) = self.manifest().await? else {
                // Deleted by hand: it is made anew from what is there.
                self.folder().write_manifest(&BTreeMap::new()).await?;
                continue;
            };
            if let Some(generation) = manifest.rebuilding {
                return Ok(generation);
            }
            let generation = manifest.generation + 1;
            let claimed = Manifest { rebuilding: Some(generation), ..manifest };
            if self.replace(&claimed, &etag).await? {
                return Ok(generation);
            }
        }
    }

    /// All files that were planned carry the generation: the manifest says so now.
    ///
    /// # Errors
    /// As the lake says, and if a later replay has begun meanwhile.
    pub(super) async fn finish(&self, generation: u64) -> Result<(), ReplayError> {
        loop {
            let folder = self.lake.folder(self.content).hour(self.hour);
            let Some((manifest, etag)) = self.manifest().await? else {
                self.folder().write_manifest(&BTreeMap::new()).await?;
                continue;
            };
            // The other one that joined was first.
            if manifest.generation >= generation {
                return Ok(());
            }
            if manifest.rebuilding != Some(generation) && manifest.rebuilding.is_some() {
                return Err(superseded(self.topic, self.hour).into());
            }
            let files = sealed_files(&self.lake.list_files(&folder).await?, self.topic);
            let next = manifest.rebuilt(generation, files, Utc::now().trunc_subsecs(3));
            if self.replace(&next, &etag).await? {
                // What was sealed between the look and the write.
                self.folder().write_manifest(&BTreeMap::new()).await?;
                return Ok(());
            }
        }
    }

    fn folder(&self) -> HourFolder<'_> {
        let Self { lake, metrics, topic, content, hour } = *self;
        HourFolder { lake, metrics, topic, content, hour }
    }

    async fn manifest(&self) -> Result<Option<(Manifest, ETag)>, LakeError> {
        self.folder().manifest().await
    }

    /// Whether it was done; otherwise it is read again.
    async fn replace(&self, manifest: &Manifest, etag: &ETag) -> Result<bool, LakeError> {
        let path = self.lake.folder(self.content).manifest(self.hour);
        match self.lake.replace_document(&path, manifest.to_bytes(), etag).await {
            Ok(_) => Ok(true),
            Err(LakeError::Conflict | LakeError::Unknown { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

pub(super) fn superseded(topic: &str, hour: EventHour) -> Stop {
    let what = format!(
        "another replay of {topic}, hour {hour}, has begun after this one and goes on with a higher generation: this one ends here, and nothing is lost by it"
    );
    Stop::new(ExitCode::Temporary, what)
}

//! One hour's generation: claimed in its manifest before the first file, and made the manifest's own after the last.

use std::{collections::BTreeMap, fmt};

use chrono::{SubsecRound, Utc};

use super::ReplayError;
use crate::{
    event_hour::EventHour,
    hours::{
        accounts::HourFolder,
        manifest::{Manifest, ManifestFile, sealed_files},
        reprint::{FileRange, Form, Reprint},
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

/// What a rebuild of the hour does, and under which number.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub generation: u64,
    /// What is made beside the chain's files.
    pub reprint: Option<Reprint>,
}

/// How the hours of a replay are to be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// The chain's files, each in its place; with them the reprint that the manifest names, where it does.
    InPlace,
    /// A reprint in the form of the one that there is, else of the chain's files. Those change only where they are not whole.
    Beside,
    /// The same in another form.
    Reformat(Form),
}

impl Manner {
    /// Whether the chain's files stay as they are as long as they are whole.
    pub(super) fn keeps_whole_files(self) -> bool {
        self != Self::InPlace
    }

    fn reprint(self, standing: Option<&Reprint>, ranges: &[FileRange]) -> Option<Reprint> {
        let form = match self {
            Self::InPlace => standing?.form,
            Self::Beside => standing.and_then(|reprint| reprint.form),
            Self::Reformat(form) => Some(form),
        };
        Some(Reprint::of(form, ranges.iter().copied()))
    }
}

impl fmt::Display for Manner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InPlace => f.write_str("in place"),
            Self::Beside => f.write_str("beside the files that are there"),
            Self::Reformat(Form { compression, lineformat, .. }) => {
                let (compression, lines) = (compression.as_str(), lineformat.as_str());
                write!(f, "beside the files that are there, compression {compression}, lines {lines}")
            }
        }
    }
}

impl HourClaim<'_> {
    /// The generation that this hour's files are to get: one more than the manifest's, or the one that an unfinished replay has claimed which makes
    /// the same. One that makes something else is left behind: whoever is still at it finds that, and ends.
    ///
    /// # Errors
    /// As the lake says.
    pub(super) async fn take(&self, manner: Manner, ranges: &[FileRange]) -> Result<Claim, ReplayError> {
        loop {
            let Some((manifest, etag)) = self.manifest().await? else {
                // Deleted by hand: it is made anew from what is there.
                self.folder().write_manifest(&BTreeMap::new()).await?;
                continue;
            };
            let reprint = manner.reprint(manifest.reprint.as_ref(), ranges);
            let generation = match manifest.rebuilding {
                Some(generation) if manifest.reprinting == reprint => {
                    return Ok(Claim { generation, reprint });
                }
                claimed => claimed.unwrap_or(manifest.generation) + 1,
            };
            let reprinting = reprint.clone();
            let claimed = Manifest { rebuilding: Some(generation), reprinting, ..manifest };
            if self.replace(&claimed, &etag).await? {
                return Ok(Claim { generation, reprint });
            }
        }
    }

    /// All files that were planned are there: the manifest says so now. `reprinted` are those of the reprint, as they were read back.
    ///
    /// # Errors
    /// As the lake says, and if another replay has begun meanwhile or has put other files there.
    pub(super) async fn finish(&self, claim: &Claim, reprinted: &[ManifestFile]) -> Result<(), ReplayError> {
        let folder = self.lake.folder(self.content).hour(self.hour);
        loop {
            let Some((manifest, etag)) = self.manifest().await? else {
                self.folder().write_manifest(&BTreeMap::new()).await?;
                continue;
            };
            let superseding = manifest.rebuilding.is_some_and(|generation| generation != claim.generation);
            if superseding || manifest.generation > claim.generation {
                return Err(superseded(self.topic, self.hour));
            }
            let (files, there) = self.lake.list_with_reprints(&folder).await?;
            let chain = sealed_files(&files.whole()?, self.topic);
            let now = Utc::now().trunc_subsecs(3);
            let next = match &claim.reprint {
                None => manifest.rebuilt(claim.generation, chain, now),
                Some(reprint) => {
                    let there = sealed_files(&there.files, self.topic);
                    if !reprinted.iter().all(|file| there.contains(file)) {
                        return Err(superseded(self.topic, self.hour));
                    }
                    manifest.switched(claim.generation, (reprint.clone(), reprinted.to_vec()), chain, now)
                }
            };
            // The other one that joined was first.
            if manifest.generation == claim.generation && manifest.files == next.files {
                return Ok(());
            }
            if self.replace(&next, &etag).await? {
                // What was sealed between the look and the write.
                self.folder().write_manifest(&BTreeMap::new()).await?;
                return Ok(());
            }
        }
    }

    /// Whatever the manifest says of the chain's files.
    ///
    /// # Errors
    /// As the lake says.
    pub(super) async fn name_files_as_they_are(&self) -> Result<(), LakeError> {
        self.folder().write_manifest(&BTreeMap::new()).await
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

pub(super) fn superseded(topic: &str, hour: EventHour) -> ReplayError {
    ReplayError::Superseded { topic: topic.to_owned(), hour }
}

//! Manifests that name every sealed file of their hour, whenever it came.
//!
//! A file that is sealed before its hour closes is found by whoever closes it: the folder is listed twice, before and after the manifest is
//! made. One that is sealed later, because a foreign producer was late or a partition changed hands, is brought into the manifest by its
//! writer, before the chain's head moves off it. If the writer dies first, the head still names the file, and the partition's next owner does
//! it. So no sealed file of a closed hour stays outside.

use chrono::{SubsecRound, Utc};
use shared::kafka_position::KafkaOffset;
use std::collections::BTreeMap;

use super::{
    closed_hours::ClosedHours,
    manifest::{Manifest, sealed_files},
};
use crate::{
    event_hour::EventHour,
    lake::{ETag, Lake, LakeError},
    lake_layout::OpenLake,
    lake_path::{LakePath, TopicFolder},
    metrics::SinkMetrics,
    topic_content::TopicContent,
};

/// One hour of one collection.
pub struct HourFolder<'a> {
    pub lake: &'a OpenLake,
    pub metrics: &'a SinkMetrics,
    pub topic: &'a str,
    pub content: &'a TopicContent,
    pub hour: EventHour,
}

impl HourFolder<'_> {
    /// After a file of this hour was sealed: if the hour has closed, its manifest must name the file.
    ///
    /// # Errors
    /// As the lake says. Nothing is lost by it: do it again.
    pub async fn account_for_sealed(&self) -> Result<(), LakeError> {
        if self.manifest().await?.is_none() && !self.has_closed().await? {
            return Ok(());
        }
        // Where the hour closed without a file, and before hours were counted, there is no manifest yet.
        self.write_manifest(&BTreeMap::new()).await
    }

    /// Makes the manifest, or corrects it, until it names what the folder holds.
    ///
    /// # Errors
    /// As the lake says.
    pub async fn write_manifest(&self, positions: &BTreeMap<i32, KafkaOffset>) -> Result<(), LakeError> {
        let folder = self.lake.folder(self.content);
        let path = folder.manifest(self.hour);
        loop {
            let found = self.manifest().await?;
            let files = sealed_files(&self.lake.list_files(&folder.hour(self.hour)).await?, self.topic);
            let written = match found {
                Some((manifest, _)) if manifest.chain_files() == files => break,
                Some((manifest, etag)) => {
                    let next = manifest.revised(files, Utc::now().trunc_subsecs(3));
                    let late = next.rows.saturating_sub(manifest.rows);
                    let written = self.lake.replace_document(&path, next.to_bytes(), &etag).await;
                    self.metrics.storage_request("manifest", written.as_ref().err());
                    if written.is_ok() {
                        self.metrics.hour_revised(late);
                        let (hour, revision) = (self.hour, next.revision);
                        tracing::info!(topic = self.topic, %hour, revision, late, "manifest revised");
                    }
                    written
                }
                None => {
                    let (topic, positions) = (self.topic, positions.clone());
                    let first = Manifest::new(
                        topic,
                        self.content,
                        self.hour,
                        positions,
                        files,
                        Utc::now().trunc_subsecs(3),
                    );
                    let written = self.lake.create_document(&path, first.to_bytes()).await;
                    self.metrics.storage_request("manifest", written.as_ref().err());
                    written
                }
            };
            match written {
                // Once more: what was sealed between the look and the write.
                Ok(_) | Err(LakeError::Conflict | LakeError::Unknown { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.mark().await
    }

    async fn mark(&self) -> Result<(), LakeError> {
        let path = self.lake.folder(self.content).success(self.hour);
        if self.lake.read_document(&path).await?.is_some() {
            return Ok(());
        }
        let marked = self.lake.create_document(&path, Vec::new()).await;
        self.metrics.storage_request("success", marked.as_ref().err());
        match marked {
            Ok(_) | Err(LakeError::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// # Errors
    /// As the lake says, if what is there is no manifest, and [`LakeError::Foreign`] if it is that of another topic: whoever writes must not take
    /// its files out.
    pub async fn manifest(&self) -> Result<Option<(Manifest, ETag)>, LakeError> {
        let folder = self.lake.folder(self.content);
        match manifest(self.lake, &folder, self.hour).await? {
            Some((manifest, _)) if manifest.topic != self.topic => Err(LakeError::Foreign {
                path: folder.manifest(self.hour),
                owner: manifest.topic,
                topic: self.topic.to_owned(),
            }),
            found => Ok(found),
        }
    }

    async fn has_closed(&self) -> Result<bool, LakeError> {
        let record = closed_hours(self.lake, self.topic).await?;
        Ok(record.is_some_and(|(record, _)| record.has_closed(self.hour)))
    }
}

/// Which hours of a topic have closed; `None` if nobody has looked after them yet.
///
/// # Errors
/// As the lake says.
pub async fn closed_hours(lake: &Lake, topic: &str) -> Result<Option<(ClosedHours, ETag)>, LakeError> {
    let path = LakePath::closed_hours(topic);
    let Some(document) = lake.read_document(&path).await? else { return Ok(None) };
    let record = ClosedHours::parse(&document.bytes).map_err(|what| LakeError::Damaged { path, what })?;
    Ok(Some((record, document.etag)))
}

/// An hour's manifest; `None` if there is none.
///
/// # Errors
/// As the lake says, and if what is there is no manifest.
pub async fn manifest(
    lake: &Lake,
    folder: &TopicFolder,
    hour: EventHour,
) -> Result<Option<(Manifest, ETag)>, LakeError> {
    let path = folder.manifest(hour);
    let Some(document) = lake.read_document(&path).await? else { return Ok(None) };
    let manifest = Manifest::parse(&document.bytes).map_err(|what| LakeError::Damaged { path, what })?;
    Ok(Some((manifest, document.etag)))
}

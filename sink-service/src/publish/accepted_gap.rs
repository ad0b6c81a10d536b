//! Going on behind records that are lost, where an operator has said so.

use chrono::{SecondsFormat, Utc};
use shared::kafka_position::{KafkaOffset, TopicPartition};

use super::{Publisher, Trouble};
use crate::{
    chain::Reading,
    file_metadata::FileMetadata,
    gaps::{Gap, Gaps, gaps},
    head::Head,
    lake::LakeError,
    lake_path::LakePath,
};

impl Publisher {
    /// Writes the gap down, then moves the chain's position behind it. The caller reads everything again.
    pub(super) async fn pass_gap(
        &self,
        partition: &TopicPartition,
        before: Reading,
        from: KafkaOffset,
        to: KafkaOffset,
    ) -> Result<(), Trouble> {
        self.write_gap_down(partition, from, to).await?;
        let Reading { head, head_etag, file, .. } = before;
        let has_file = file.is_some();
        tracing::error!(
            %partition,
            %from,
            %to,
            offsets = to.get() - from.get(),
            "records that Kafka no longer has are given up, as --accept-gap says"
        );
        match file.filter(|file| !file.metadata.sealed).zip(head.path.as_ref()) {
            Some((file, path)) => {
                let metadata = FileMetadata {
                    next: to,
                    writer: self.writer.id,
                    seq: file.metadata.seq + 1,
                    processed_at: Utc::now(),
                    version: self.writer.version.to_owned(),
                    ..file.metadata.clone()
                };
                let written = self.lake.append(path, &file, &[], &metadata).await;
                self.metrics.storage_request("gap", written.as_ref().err());
                written?;
            }
            None => {
                let next = Head { scanned: to, created: head.created || has_file, ..head };
                let path = LakePath::head(partition);
                let written = self.lake.replace_document(&path, next.to_bytes(), &head_etag).await;
                self.metrics.storage_request("gap", written.as_ref().err());
                written?;
            }
        }
        Ok(())
    }

    async fn write_gap_down(
        &self,
        partition: &TopicPartition,
        from: KafkaOffset,
        to: KafkaOffset,
    ) -> Result<(), Trouble> {
        let path = LakePath::gaps(&partition.topic);
        loop {
            let (mut record, etag) = match gaps(&self.lake, &partition.topic).await? {
                Some((record, etag)) => (record, Some(etag)),
                None => (Gaps::new(&partition.topic), None),
            };
            if record.has(partition.partition, from, to) {
                return Ok(());
            }
            let acceptedat = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
            record.gaps.push(Gap { partition: partition.partition, from, to, acceptedat });
            let written = match &etag {
                Some(etag) => self.lake.replace_document(&path, record.to_bytes(), etag).await,
                None => self.lake.create_document(&path, record.to_bytes()).await,
            };
            self.metrics.storage_request("gap", written.as_ref().err());
            match written {
                // Read again: by whomever, it must be there.
                Ok(_) | Err(LakeError::Conflict | LakeError::Unknown { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

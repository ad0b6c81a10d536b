//! The rows of one topic, read from where the last reading ended.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use shared::{
    exit::{ExitCode, Stop},
    kafka_position::KafkaOffset,
    namespace::Namespace,
};

use super::fold::{Bucket, NoRow, Row};
use crate::{
    file_lines::FileLines, lake::ListedFile, lake_layout::OpenLake, look_again::look_again,
    look_error::LookError, progress::Progress,
};

/// So many lines pass between two looks at the clock.
const LINES_PER_TICK: u64 = 1000;

pub(super) struct LakeSide<'a> {
    lake: &'a OpenLake,
    topic: &'a str,
    namespace: &'a Namespace,
    bucket: Bucket,
    /// By partition: everything before it was read.
    read: BTreeMap<i32, KafkaOffset>,
    /// Lines that are no changes: of other producers, or of another profile.
    pub(super) strange: u64,
}

impl<'a> LakeSide<'a> {
    pub(super) fn new(lake: &'a OpenLake, topic: &'a str, namespace: &'a Namespace, bucket: Bucket) -> Self {
        Self { lake, topic, namespace, bucket, read: BTreeMap::new(), strange: 0 }
    }

    /// Reads what has come since; each row of the bucket goes to `take`, those of a partition in its order.
    pub(super) async fn read_on(&mut self, mut take: impl FnMut(Row)) -> Result<(), LookError> {
        let folder = self.lake.folder(self.namespace);
        let listed = look_again(async || self.lake.list_files(folder.path()).await).await?;
        let place = |file: &ListedFile| (file.metadata.topic_partition.partition, file.metadata.first);
        let mut files: Vec<ListedFile> = listed
            .into_iter()
            .filter(|file| &*file.metadata.topic_partition.topic == self.topic)
            .filter(|file| file.metadata.next > self.read_to(file.metadata.topic_partition.partition))
            .collect();
        files.sort_by_key(place);
        let done = Arc::new(AtomicU64::new(0));
        let total = files.iter().map(|file| file.metadata.rows).sum();
        let mut progress = Progress::over("compare", "rows of the lake", total, Arc::clone(&done));
        for file in files {
            self.read_file(&file, &mut take, &done, &mut progress).await?;
        }
        progress.over_and_out();
        Ok(())
    }

    async fn read_file(
        &mut self,
        file: &ListedFile,
        take: &mut impl FnMut(Row),
        done: &AtomicU64,
        progress: &mut Progress,
    ) -> Result<(), LookError> {
        let partition = file.metadata.topic_partition.partition;
        let (begin, end) = (self.read_to(partition), file.metadata.next);
        let Some(state) = look_again(async || self.lake.file(&file.path).await).await? else {
            let what = format!("{} has gone while it was to be read; type the command again", file.path);
            return Err(Stop::new(ExitCode::Temporary, what).into());
        };
        let reader = self.lake.read_file(&file.path, &state).await?;
        let mut lines = FileLines::new(reader, file.path.clone(), &file.metadata);
        while let Some((offset, line)) = lines.next_before(end).await? {
            if offset.is_some_and(|offset| offset < begin) {
                continue;
            }
            if done.fetch_add(1, Ordering::Relaxed).is_multiple_of(LINES_PER_TICK) {
                progress.tick();
            }
            let line = file.metadata.line_format.envelope_of(&line);
            match Row::of(&line, self.bucket) {
                Ok(Some(row)) => take(row),
                Ok(None) => {}
                Err(NoRow::NoChange) => self.strange += 1,
                Err(NoRow::Plain) => return Err(plain(self.topic).into()),
            }
        }
        self.read.insert(partition, end);
        Ok(())
    }

    fn read_to(&self, partition: i32) -> KafkaOffset {
        self.read.get(&partition).copied().unwrap_or_default()
    }
}

fn plain(topic: &str) -> Stop {
    let what = format!(
        "{topic} was written with JSON_DIALECT=plain, which does not say the types of values: it cannot be compared with MongoDB"
    );
    Stop::new(ExitCode::Configuration, what)
}

//! The lines that the lake has of one topic, read from where the last reading ended.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use shared::{
    exit::{ExitCode, Stop},
    kafka_position::KafkaOffset,
};

use crate::{
    file_lines::FileLines,
    lake::{Lake, ListedFile},
    lake_path::TopicFolder,
    look_again::look_again,
    look_error::LookError,
    progress::Progress,
    topic_content::TopicContent,
};

/// So many lines pass between two looks at the clock.
const LINES_PER_TICK: u64 = 1000;

pub(super) struct TopicLines<'a> {
    lake: &'a Lake,
    topic: &'a str,
    folder: TopicFolder,
    /// By partition: everything before it was read.
    read: BTreeMap<i32, KafkaOffset>,
}

impl<'a> TopicLines<'a> {
    pub(super) fn new(lake: &'a Lake, topic: &'a str, content: &TopicContent) -> Self {
        Self { lake, topic, folder: TopicFolder::of(content), read: BTreeMap::new() }
    }

    /// Reads what has come since; each line goes to `each` as an envelope, those of a partition in its order.
    ///
    /// # Errors
    /// As the lake says, and what `each` does.
    pub(super) async fn read_on(
        &mut self,
        mut each: impl FnMut(&Bytes) -> Result<(), Stop>,
    ) -> Result<(), LookError> {
        let listed = look_again(async || self.lake.list_files(self.folder.path()).await).await?;
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
            self.read_file(&file, &mut each, &done, &mut progress).await?;
        }
        progress.over_and_out();
        Ok(())
    }

    async fn read_file(
        &mut self,
        file: &ListedFile,
        each: &mut impl FnMut(&Bytes) -> Result<(), Stop>,
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
            each(&file.metadata.line_format.envelope_of(&line))?;
        }
        self.read.insert(partition, end);
        Ok(())
    }

    /// Everything of the partition before it was read.
    pub(super) fn read_to(&self, partition: i32) -> KafkaOffset {
        self.read.get(&partition).copied().unwrap_or_default()
    }
}

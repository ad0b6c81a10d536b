//! The rows of a run of the chain's files once more, in files of their own that only the manifest names.
//!
//! What is a row and what is a dead letter the chain says, so a reprint has the chain's rows, each once. Which files it consists of follows from the
//! chain's ranges and the form, so whoever makes it makes the same files.

use std::sync::atomic::Ordering;

use shared::kafka_position::KafkaOffset;

use super::{
    EventBefore, PlannedFile, ReplayError,
    rebuild::{Rebuilder, Rebuilt, Rules, again, roll_due},
};
use crate::{
    chain::FilePolicy,
    file_metadata::{FileMetadata, LastEvents, OffsetRuns},
    hours::reprint::Form,
    lake_path::TopicFolder,
};

/// What is made again together: files of one hour that follow each other in the chain without a gap where they get another form, else each
/// file. None is empty.
pub(super) fn runs(
    files: Vec<PlannedFile>,
    has_form: impl Fn(&PlannedFile) -> bool,
) -> Vec<Vec<PlannedFile>> {
    let mut runs: Vec<Vec<PlannedFile>> = Vec::new();
    for file in files {
        let merges = has_form(&file);
        match runs.last_mut() {
            Some(run)
                if merges
                    && run.last().is_some_and(|last| (last.hour, last.next) == (file.hour, file.first)) =>
            {
                run.push(file);
            }
            _ => runs.push(vec![file]),
        }
    }
    runs
}

/// One run, and what its reprint is to be.
pub(super) struct Run<'a> {
    /// Never none.
    pub files: &'a [PlannedFile],
    /// What the chain's files hold as dead letters.
    pub letters: OffsetRuns,
    pub before: Option<LastEvents>,
    pub form: Option<Form>,
    pub generation: u64,
}

impl Run<'_> {
    /// The file that begins at an offset, as far as it could reach; `None` at the end.
    fn file_at(
        &self,
        folder: &TopicFolder,
        first: KafkaOffset,
        before: Option<LastEvents>,
    ) -> Option<PlannedFile> {
        let like = self.files.first()?;
        let next = self.files.last()?.next;
        let format = self.form.map_or(like.format, |form| form.lineformat);
        let compression = self.form.map(|form| form.compression).or(like.path.compression());
        let path =
            folder.data_file(like.hour, like.partition.partition, first, compression.unwrap_or_default());
        let path = path.in_generation(self.generation);
        (first < next).then(|| PlannedFile {
            path,
            first,
            next,
            format,
            after: EventBefore::Is(before),
            ..like.clone()
        })
    }

    fn policy(&self) -> Option<FilePolicy> {
        let Form { rollbytes, rollrows, .. } = self.form?;
        Some(FilePolicy { bytes: rollbytes, rows: rollrows, ..FilePolicy::default() })
    }

    /// Whether it is what this run makes of the file.
    fn is_made(&self, file: &PlannedFile, metadata: &FileMetadata) -> bool {
        let FileMetadata { topic_partition, first, next, generation, line_format, .. } = metadata;
        let letters: OffsetRuns =
            self.letters.iter().filter(|offset| (*first..*next).contains(offset)).collect();
        *topic_partition == file.partition
            && (*first, *generation, *line_format) == (file.first, self.generation, file.format)
            && metadata.dead_letters == letters
            && (*next == file.next || (*next < file.next && roll_due(metadata, self.policy().as_ref())))
    }
}

impl Rebuilder<'_> {
    /// Makes the run's files, or leaves those alone that an earlier attempt has made.
    ///
    /// # Errors
    /// If it cannot be done.
    pub(super) async fn reprint(
        &mut self,
        run: &Run<'_>,
    ) -> Result<Vec<(PlannedFile, Rebuilt)>, ReplayError> {
        let mut made = Vec::new();
        let Some(first) = run.files.first() else { return Ok(made) };
        let folder = self.lake.folder(self.content);
        let (mut at, mut before) = (first.first, run.before.clone());
        while let Some(file) = run.file_at(&folder, at, before) {
            let rebuilt = again(&file.path, async || self.reprint_file(run, &file).await).await?;
            (at, before) = (rebuilt.metadata.next, rebuilt.metadata.last_event.clone());
            made.push((PlannedFile { next: at, ..file }, rebuilt));
        }
        Ok(made)
    }

    async fn reprint_file(&mut self, run: &Run<'_>, file: &PlannedFile) -> Result<Rebuilt, ReplayError> {
        let (expected, there) = match self.lake.look(&file.path).await? {
            Some(sight) => (Some(sight.etag), sight.file.ok()),
            None => (None, None),
        };
        if let Some(state) = &there
            && run.is_made(file, &state.metadata)
            && self.holds_what_it_says(&file.path, state).await?
        {
            let offsets = state.metadata.next.get() - file.first.get();
            self.done.fetch_add(offsets, Ordering::Relaxed);
            return Ok(self.left_alone(&state.metadata, run.generation));
        }
        let rules = Rules { letters: Some(&run.letters), takes_in: false, policy: run.policy() };
        let (rewrite, metadata, _) = self.write(file, run.generation, &rules).await?;
        self.commit(rewrite, &file.path, expected.as_ref(), &metadata).await?;
        Ok(Rebuilt { metadata, was_done: false, kept: false, taken_in: 0, changed: false })
    }
}

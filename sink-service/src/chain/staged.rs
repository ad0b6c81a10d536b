//! The steps where a file is seen only when it has ended: its rows are staged, and one create publishes them sealed.
//!
//! ```text
//!   rows ──▶ Stage ──▶ Stage ──▶ … ──▶ Create (sealed)      hour, size, rows, age, blocks, metadata, hour's end, drain
//!            └─ read, not durable ─┘    └─ durable
//! ```

use std::time::Instant;

use shared::kafka_position::KafkaOffset;

use super::{
    Chain, ChainHalt, FilePolicy, FileStep, RollReason, Step, StepContext,
    file_step::{fits, roll_due},
};
use crate::{buffer::Batch, file_metadata::FileMetadata, lake::StagedFile, lake_path::LakePath};

/// What is in the lake for the head's file and seen by nobody.
#[derive(Clone, Debug)]
pub(super) struct Staged {
    file: StagedFile,
    /// Of the file as if it ended here.
    metadata: FileMetadata,
    since: Instant,
}

impl Staged {
    pub(super) fn due(&self, policy: &FilePolicy, now: Instant) -> Option<RollReason> {
        roll_due(&self.metadata, self.file.block_count(), self.since, policy, now)
    }
}

impl Chain {
    /// The same as for a file that grows, but for what is done with it.
    ///
    /// # Errors
    /// As for a file that grows.
    pub(super) fn stage_step(
        &self,
        path: &LakePath,
        batch: &Batch,
        context: &StepContext<'_>,
    ) -> Result<Step, ChainHalt> {
        let hour = self.hour_of(path)?;
        let first = batch.pending().first();
        let Some(staged) = &self.staged else {
            let Some(entry) = first else { return Ok(self.scan_step(batch, context)) };
            if let Some(step) = self.step_over_lost(entry, path, hour, context) {
                return Ok(step);
            }
            self.check_first(entry, path, hour)?;
            let nothing = self.empty_file(path, context);
            return Ok(stage_or_create(self.file_step(path, hour, &nothing, 0, batch, context)));
        };
        let due = staged.due(&context.policy, context.now);
        let recommit =
            |next, roll| stage_or_create(self.recommit(path, &staged.metadata, next, roll, context));
        Ok(match first {
            Some(entry) if due.is_none() && fits(entry, hour) => {
                let blocks = staged.file.block_count();
                stage_or_create(self.file_step(path, hour, &staged.metadata, blocks, batch, context))
            }
            Some(entry) => recommit(entry.offset, Some(due.unwrap_or(RollReason::Hour))),
            None => {
                let roll = due.or_else(|| self.ends_with(batch, hour, context));
                if roll.is_some() || (context.publish_position && batch.end() > self.reached()) {
                    recommit(batch.end(), roll)
                } else {
                    Step::Done
                }
            }
        })
    }

    /// What is staged for the head's file.
    pub fn staged_file(&self) -> Option<&StagedFile> {
        self.staged.as_ref().map(|staged| &staged.file)
    }

    /// Rows that are staged.
    pub fn staged_rows(&self) -> u64 {
        self.staged.as_ref().map_or(0, |staged| staged.metadata.rows)
    }

    pub(super) fn staged_metadata(&self) -> Option<&FileMetadata> {
        self.staged.as_ref().map(|staged| &staged.metadata)
    }

    pub(super) fn staged_next(&self) -> Option<KafkaOffset> {
        self.staged.as_ref().map(|staged| staged.metadata.next)
    }

    /// Takes notice of a step that was staged.
    pub fn rows_staged(&mut self, file: StagedFile, metadata: FileMetadata, now: Instant) {
        let since = self.staged.take().map_or(now, |staged| staged.since);
        self.staged = Some(Staged { file, metadata, since });
    }

    /// Goes on with what was staged before everything was read back, and nothing had changed.
    pub fn go_on_staging(&mut self, before: Self) {
        debug_assert_eq!(self.version(), before.version(), "what is staged belongs to that version");
        self.staged = before.staged;
    }
}

fn stage_or_create(step: FileStep) -> Step {
    if step.roll.is_some() { Step::Create(step) } else { Step::Stage(step) }
}

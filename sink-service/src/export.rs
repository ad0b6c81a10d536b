//! `export parquet`: hours that have closed, as Parquet, in another place.
//!
//! ```text
//!   _manifest.json + _SUCCESS ─▶ edition ── is `events.parquet` of this edition? ──▶ nothing to do
//!        │                                    │ no
//!        ▼                                    ▼
//!   its files, checked ─▶ lines ─▶ rows ─▶ row groups ─▶ a file that nobody sees ─ read back ─▶ put in place in one step
//! ```
//!
//! Invariants:
//! - Input is exactly what the manifest names: rows, size and checksum of each file are compared while it is read. What does not agree stops
//!   the export, and the hour's old Parquet file stays.
//! - The same manifest and the same program make the same bytes: no clock, no random, no path goes in.
//! - A Parquet file says which edition of the hour it was made of. That alone decides whether it is made again.
//! - What stands at the place is looked at before the manifest is read, and replaced only if it is still that. So of two exports at once the one
//!   that has read the older manifest never replaces what the other has made of the newer one.
//! - Kafka is not asked, and nothing in the lake is written.

mod args;
mod columns;
mod command;
mod edition;
mod hour;
mod parquet_file;
mod plan;
mod report;
mod row;

use shared::exit::{ExitCode, Stop};

pub use self::{
    args::{export_command, export_request},
    command::export,
};
use crate::{lake::LakeError, span::Span, verify::Output};

/// What is to be exported.
#[derive(Clone, Debug)]
pub struct ExportRequest {
    pub topics: Vec<String>,
    pub span: Span,
    /// The `LAKE_URL` of the place that gets the files.
    pub into: String,
    /// Shows the plan and ends.
    pub dry_run: bool,
    pub output: Output,
}

/// It cannot be done, or not now.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("{0}")]
    Lake(#[from] LakeError),
    #[error("{0}")]
    Stop(#[from] Stop),
}

impl From<ExportError> for Stop {
    fn from(error: ExportError) -> Self {
        let code = match &error {
            ExportError::Stop(stop) => return stop.clone(),
            ExportError::Lake(error) => error.exit_code(ExitCode::Temporary),
        };
        Self::new(code, format!("{error}. What was exported so far stays; type the same command to go on"))
    }
}

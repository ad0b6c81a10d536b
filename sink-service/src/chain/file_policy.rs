//! How a file comes to be seen, and when and why it ends, apart from what its chain needs.

use std::time::Duration;

use crate::line_format::LineFormat;

/// How a file comes to be seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Publishing {
    /// It grows with every flush.
    #[default]
    Rolling,
    /// It appears once, when it has ended, and never changes after that.
    Sealed,
}

/// How a file comes to be seen, and when it ends, apart from the hour.
#[derive(Clone, Copy, Debug)]
pub struct FilePolicy {
    pub publishing: Publishing,
    /// Of files to come, and of the batches that are published.
    pub line_format: LineFormat,
    /// Uncompressed bytes; `None` = off.
    pub bytes: Option<u64>,
    /// `None` = off.
    pub rows: Option<u64>,
    /// Since this process created or adopted the file, or began to stage it; `None` = off.
    pub age: Option<Duration>,
    pub blocks: usize,
}

/// Azure allows 50,000 committed blocks; a margin for the append that reaches the limit.
const BLOCKS_MAX: usize = 45_000;

/// Files grow, and end with their hour or when Azure takes no more blocks.
impl Default for FilePolicy {
    fn default() -> Self {
        Self {
            publishing: Publishing::default(),
            line_format: LineFormat::default(),
            bytes: None,
            rows: None,
            age: None,
            blocks: BLOCKS_MAX,
        }
    }
}

/// Why a file ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RollReason {
    Hour,
    Size,
    Rows,
    Age,
    Blocks,
    Metadata,
    /// The hour is over, and nothing of it is missing. Of a sealed file also: everything up to where an hour ended is to be in the lake.
    HourEnd,
    /// It was begun to grow, and files are sealed now.
    Mode,
    /// It was begun in another line format.
    Format,
    /// Its writer gives the partition up, or has reached the end that it was to reach, and the file would be seen by nobody.
    Drain,
}

impl RollReason {
    pub const ALL: [Self; 10] = [
        Self::Hour,
        Self::Size,
        Self::Rows,
        Self::Age,
        Self::Blocks,
        Self::Metadata,
        Self::HourEnd,
        Self::Mode,
        Self::Format,
        Self::Drain,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Size => "size",
            Self::Rows => "rows",
            Self::Age => "age",
            Self::Blocks => "blocks",
            Self::Metadata => "metadata",
            Self::HourEnd => "hour_end",
            Self::Mode => "mode",
            Self::Format => "format",
            Self::Drain => "drain",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Azure's own limit is 50,000; what is between is room for the append that reaches ours.
    #[test]
    fn files_end_well_before_azure_takes_no_more_blocks() {
        assert_eq!(FilePolicy::default().blocks, 45_000);
    }
}

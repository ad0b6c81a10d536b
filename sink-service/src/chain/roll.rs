//! When and why a file ends, apart from what its chain needs.

use std::time::Duration;

/// When a file ends, apart from the hour.
#[derive(Clone, Copy, Debug)]
pub struct RollPolicy {
    /// Uncompressed bytes; `None` = off.
    pub bytes: Option<u64>,
    /// `None` = off.
    pub rows: Option<u64>,
    /// Since this process created or adopted the file; `None` = off.
    pub age: Option<Duration>,
    /// Azure allows 50,000 committed blocks.
    pub blocks: usize,
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
    /// The hour is over, and nothing of it is missing.
    HourEnd,
}

impl RollReason {
    pub const ALL: [Self; 7] =
        [Self::Hour, Self::Size, Self::Rows, Self::Age, Self::Blocks, Self::Metadata, Self::HourEnd];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Size => "size",
            Self::Rows => "rows",
            Self::Age => "age",
            Self::Blocks => "blocks",
            Self::Metadata => "metadata",
            Self::HourEnd => "hour_end",
        }
    }
}

//! Bugs that the end-to-end tests plant on purpose, to show that their ledger can fail.
//!
//! A ledger that never failed proves nothing. Test builds (cargo feature `seeded-bugs`) therefore carry a few
//! classic mistakes, one of which the environment variable `SEEDED_BUG` switches on. Without the feature
//! [`planted`] is a constant `false` and the compiler removes the branch: no release build can be made to lose
//! data by an environment variable.

use std::fmt;

/// One deliberate mistake. The name in `SEEDED_BUG` is the kebab-case form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeededBug {
    /// The source writes its token outside the transaction whose events it covers.
    TokenOutsideTransaction,
    /// The sink commits its offsets before the rows are durable.
    OffsetsBeforeFlush,
    /// The sink writes a file without the condition that nobody else was first.
    UnconditionalPut,
    /// The hour comes from the clock instead of the event.
    HourFromClock,
    /// A file is followed by the next without having been sealed.
    RollWithoutSeal,
    /// A record is skipped.
    DroppedRecord,
}

impl SeededBug {
    /// Every bug that can be planted.
    pub const ALL: [Self; 6] = [
        Self::TokenOutsideTransaction,
        Self::OffsetsBeforeFlush,
        Self::UnconditionalPut,
        Self::HourFromClock,
        Self::RollWithoutSeal,
        Self::DroppedRecord,
    ];

    /// The name that `SEEDED_BUG` knows it by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TokenOutsideTransaction => "token-outside-transaction",
            Self::OffsetsBeforeFlush => "offsets-before-flush",
            Self::UnconditionalPut => "unconditional-put",
            Self::HourFromClock => "hour-from-clock",
            Self::RollWithoutSeal => "roll-without-seal",
            Self::DroppedRecord => "dropped-record",
        }
    }
}

impl fmt::Display for SeededBug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether this process runs with this bug. `const false` without the cargo feature.
#[cfg(not(feature = "seeded-bugs"))]
#[must_use]
pub const fn planted(_bug: SeededBug) -> bool {
    false
}

/// Whether this process runs with this bug: `SEEDED_BUG` is read once, at the first call.
#[cfg(feature = "seeded-bugs")]
#[must_use]
pub fn planted(bug: SeededBug) -> bool {
    chosen::bug() == Some(bug)
}

/// To be called once at start: a process with a planted bug says so, loudly.
///
/// # Panics
/// In test builds, if `SEEDED_BUG` names no bug: a misspelt name would let the ledger pass for the wrong reason.
pub fn warn_if_planted() {
    #[cfg(feature = "seeded-bugs")]
    if let Some(bug) = chosen::bug() {
        tracing::warn!(%bug, "this process runs with a planted bug and will break its promises");
    }
}

#[cfg(feature = "seeded-bugs")]
mod chosen {
    use std::sync::OnceLock;

    use super::SeededBug;

    pub(super) fn bug() -> Option<SeededBug> {
        static CHOSEN: OnceLock<Option<SeededBug>> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let name = std::env::var("SEEDED_BUG").ok().filter(|name| !name.is_empty())?;
            let bug = SeededBug::ALL.into_iter().find(|bug| bug.name() == name);
            Some(bug.unwrap_or_else(|| panic!("SEEDED_BUG names no bug: {name}")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_planted_unless_chosen() {
        for bug in SeededBug::ALL {
            assert!(!planted(bug), "{bug}");
        }
    }
}

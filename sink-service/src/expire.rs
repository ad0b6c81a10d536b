//! `expire`: the lake's retention. Removes hours that are old enough, whole, and says so in the lake.
//!
//! ```text
//!   heads, files, manifests ─▶ plan ─▶ _chain/<topic>/expired.json ─▶ per hour: _SUCCESS ─ _manifest.json ─ reprints, data files
//!                                      what may be missing from here on     └ seen by readers of closed hours first
//! ```
//!
//! A rule of the store's own that deletes by age cannot do this: of an idle collection it also deletes the file that the chain's head names, and
//! the sink stops (25), and what it deletes cannot be told from damage.
//!
//! Invariants:
//! - Only hours that have closed. An hour goes whole or stays whole: where a head still names a file of it, it stays until the next time.
//! - What may be missing is written down before anything is removed: `verify` and `replay` know it by [`Expired`](crate::hours::expired::Expired).
//! - It may be stopped at any point, and typed again; the live sink goes on, and a rebuild keeps its hour.
//! - Chains and their bookkeeping stay. Kafka is not asked.

mod args;
mod command;
mod plan;
mod removal;
mod report;

pub use self::{
    args::{expire_command, expire_request},
    command::expire,
};
use crate::{event_hour::EventHour, verify::Output};

/// What to remove, and how to show it.
#[derive(Debug)]
pub struct ExpireRequest {
    /// Empty for all of the lake.
    pub topics: Vec<String>,
    /// Hours before this one.
    pub before: EventHour,
    /// Also hours that a replay has claimed and not finished: it never will.
    pub abandon_replays: bool,
    pub dry_run: bool,
    pub output: Output,
}

//! What the `check` commands of both services have in common: findings, their state, and the exit code that follows.

mod report;
mod rights;

use std::time::Duration;

pub use self::{
    report::Report,
    rights::{TopicRights, topic_rights},
};

/// How long one question may take. A start waits longer; who looks wants to know now.
pub const CONTACT_LIMIT: Duration = Duration::from_secs(10);

//! What only the source knows, on real servers: recovery from a torn commit, lost and refused positions, idle scopes, topics,
//! invalidates.
//!
//! Whether *every* change arrives exactly once is judged by the end-to-end tests, with a ledger of their own.

#![expect(clippy::unwrap_used, reason = "tests")]

mod check;
mod definitions;
mod idle;
mod images;
mod mongo_roles;
mod monitor;
mod oversize;
mod partitions;
mod pipeline;
mod position_lost;
mod privacy;
mod profiles;
mod recovery;
mod recovery_reads;
mod required_images;
mod rights;
mod scope;
mod servers;
mod snapshot;
mod snapshot_ends;
mod snapshot_requests;
mod snapshot_torn;
mod stage;
mod start;
mod stream;
mod token;
mod topics;
mod transactions;

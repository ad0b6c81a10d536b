//! What only the source knows, on real servers: recovery from a torn commit, lost and refused positions, topics, invalidates.
//!
//! Whether *every* change arrives exactly once is judged by the end-to-end tests, with a ledger of their own.

#![expect(clippy::unwrap_used, reason = "tests")]

mod definitions;
mod pipeline;
mod recovery;
mod scope;
mod stage;
mod stream;
mod topics;

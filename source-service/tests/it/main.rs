//! What only the source knows, on real servers: recovery from a torn commit, lost and refused positions, topics, invalidates.
//!
//! Whether *every* change arrives exactly once is judged by the end-to-end tests, with a ledger of their own.

#![expect(clippy::unwrap_used, reason = "tests")]

mod monitor;
mod recovery;
mod stage;
mod start;
mod stream;
mod token;
mod topics;

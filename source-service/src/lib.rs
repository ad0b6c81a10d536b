//! (in work)
pub mod envelope;
pub mod partitioner;
pub mod transcode;

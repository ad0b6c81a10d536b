//! What both services must agree on, and the process skeleton both run in.

pub mod cluster_time;
pub mod dead_letter;
pub mod escape;
pub mod kafka_position;
pub mod namespace;
pub mod topic_name;
pub mod wire;

//! What both services must agree on, and the process skeleton that both run in.
//!
//! The wire between the source and the sink:
//!
//! | module | subject |
//! |---|---|
//! | [`namespace`], [`topic_name`], [`escape`] | `db.coll` and the topic it maps to, both ways |
//! | [`cluster_time`], [`kafka_position`] | places in MongoDB's and in Kafka's order |
//! | [`wire`], [`dead_letter`] | header names, content types, members of the envelope; the `dlq-*` headers |
//! | [`source_watermark`], [`name_pattern`] | how far a source is and what it covers, as the sink reads it |
//! | [`avro`], [`iso_instant`] | the envelope in Avro, both ways; instants as text |
//!
//! The skeleton of a process:
//!
//! | module | subject |
//! |---|---|
//! | [`settings`] | one table of settings, one reader that finds every mistake |
//! | [`command_line`] | flags from that table, and the sub-command `config` |
//! | [`exit`], [`process`] | exit codes, the error that ends a process, and what it prints |
//! | [`telemetry`], [`admin`] | the log; `/livez`, `/readyz`, `/metrics`, `/status` |
//! | [`shutdown`], [`backoff`] | signals and the grace period; waits between attempts |
//! | [`kafka_client`], [`kafka_topics`], [`kafka_ffi`] | client configuration, topics, the three calls without a wrapper |
//! | [`served_producer`] | a producer with a thread that takes its reports |
//! | [`schema_registry`] | settings, the schema's id, what a record's id stands for |
//! | [`seeded_bug`] | bugs that tests plant, to show that their ledger can fail |
//!
//! This crate names neither service, and has no state of its own.

pub mod admin;
pub mod avro;
pub mod backoff;
pub mod check;
pub mod cluster_time;
pub mod command_line;
pub mod dead_letter;
pub mod escape;
pub mod exit;
pub mod iso_instant;
pub mod kafka_client;
pub mod kafka_ffi;
pub mod kafka_position;
pub mod kafka_topics;
pub mod name_pattern;
pub mod namespace;
pub mod process;
pub mod schema_registry;
pub mod seeded_bug;
pub mod served_producer;
pub mod settings;
pub mod shutdown;
pub mod source_watermark;
pub mod telemetry;
pub mod topic_name;
pub mod wire;

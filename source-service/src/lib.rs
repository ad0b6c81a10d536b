//! `source-service`: MongoDB change streams into Kafka, every change exactly once.
//!
//! ```text
//!  change_stream ──raw replies──▶ pump ──▶ batch ──▶ publisher ──▶ Kafka
//!  (stream_error, scope, pipeline) │       (envelope, transcode,     ▲
//!                                  │        partitioner, topics)     │
//!                                  └── recovery (kafka_log, token_record): what is really there
//! ```
//!
//! [`snapshot`] copies what was there before, between the events of the stream.
//!
//! Two threads of ours: the reader, and the pump, which owns the producer and the position and is the only one that decides. One
//! server reply and the resume token that covers it are one Kafka transaction. [`settings`], [`cli`], [`status`] and [`metrics`]
//! are what the outside sees.

pub mod batch;
pub mod broker_check;
pub mod change_stream;
pub mod check;
pub mod cli;
pub mod dead_letter;
pub mod envelope;
pub mod field_policy;
pub mod gap_marker;
pub mod kafka_log;
pub mod metrics;
pub mod monitor;
pub mod oversize;
pub mod partitioner;
pub mod pipeline;
pub mod publisher;
pub mod pump;
pub mod recovery;
pub mod row_event;
pub mod scope;
pub mod settings;
pub mod snapshot;
pub mod snapshot_command;
pub mod start_from;
pub mod status;
pub mod stream_error;
pub mod token;
pub mod token_record;
pub mod topics;
pub mod transactions;
pub mod transcode;
pub mod value_format;

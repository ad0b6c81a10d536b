//! `sink-service`: Kafka topics into hourly files in a data lake, every record exactly once.
//!
//! ```text
//!   consumer ──▶ writer ──▶ partition ──▶ buffer ── freeze ──▶ jobs ──▶ publish ──▶ chain ──▶ lake
//!      │           ▲  (record: line or dead letter, and its hour)         │
//!      │           └───────────── durable up to ◀──────────────────────────┘
//!   Kafka                                             dead_letters ──▶ Kafka
//! ```
//!
//! One thread, the [`writer`], owns the consumer and the state of every partition. [`chain`] decides, without I/O, what the
//! next compare-and-set is; [`publish`] does it against the [`lake`] and reads back when somebody else was first. [`verify`]
//! holds the lake against Kafka, [`compare`] against MongoDB, [`replay`] makes closed hours again from it, and [`export`]
//! makes Parquet of them; [`expire`] removes old ones; [`dlq`] shows dead letters and sends them back. [`check`] looks at all that a start needs.
//! [`settings`], [`cli`] and [`metrics`] are what the outside sees.

pub mod assignment;
pub mod buffer;
pub mod chain;
pub mod check;
pub mod cli;
pub mod compare;
pub mod compression;
pub mod consumer;
pub mod dead_letter_breaker;
pub mod dead_letter_topic;
pub mod dead_letters;
pub mod dlq;
pub mod event_hour;
pub mod expire;
pub mod export;
pub mod file_lines;
pub mod file_metadata;
pub mod gaps;
pub mod head;
pub mod hours;
pub mod jobs;
pub mod kafka_log;
pub mod known_partitions;
pub mod lake;
pub mod lake_account;
pub mod lake_layout;
pub mod lake_path;
pub mod lake_start;
pub mod layout;
pub mod line_format;
pub mod look_again;
pub mod look_error;
pub mod metrics;
pub mod open_files;
pub mod partition;
pub mod progress;
pub mod publish;
pub mod record;
pub mod record_reader;
pub mod repeats;
pub mod replay;
pub mod schema_check;
pub mod settings;
pub mod span;
pub mod standing;
pub mod topic_content;
pub mod topic_identity;
pub mod topic_patterns;
pub mod topic_reader;
pub mod uploads;
pub mod value_reader;
pub mod verify;
pub mod writer;

//! The proof: real servers, a seeded workload, and a ledger that judges what arrived.
//!
//! ```text
//!   servers (mongod, Kafka, Azurite) ◀── processes that die with the test ──▶ service (source, sink)
//!        ▲                  │                                                     │
//!     workload           ledger: the driver's own change stream                   ▼
//!                           └───────▶ judge ◀── kafka_reader, lake_reader: what is really there
//! ```
//!
//! Nothing here links the services: they run as the binaries that users run. Demo and benchmarks stand on the same
//! harness.

pub mod avro;
pub mod folders;
pub mod http;
pub mod json;
pub mod kafka_reader;
pub mod kafka_writer;
pub mod lake_reader;
pub mod latency;
pub mod ledger;
pub mod paths;
pub mod pipeline;
pub mod ports;
pub mod process;
pub mod servers;
pub mod service;
pub mod slow_lake;
pub mod wait;
pub mod workload;

//! The real servers, each a child process with its own folder and port.
//!
//! All of them can be killed, stopped and started again on the same port and data; a client sees what it would see of
//! a machine that was pulled from the wall and came back. Dropping one kills it and removes its folder.

pub mod azurite;
pub mod connect;
pub mod entra;
pub mod kafka;
mod kafka_java;
pub mod mongod;
pub mod registry;
mod server_process;

pub use azurite::{Azurite, AzuriteStorage};
pub use connect::{Connect, Connector};
pub use entra::Entra;
pub use kafka::{Kafka, KafkaOptions};
pub use kafka_java::KafkaJava;
pub use mongod::{Mongod, MongodOptions};
pub use registry::Registry;
pub use server_process::ServerProcess;
use server_process::is_a_server_process;

use std::time::Duration;

/// How long a server may take until it serves. They need 1 to 5 s; a busy machine with 2 cores needs several times that.
const START_LIMIT: Duration = Duration::from_secs(90);

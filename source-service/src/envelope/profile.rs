//! Records in the form of another connector, so that its consumers need not be touched.
//!
//! Events about documents are written so; those for the control topic, of which these connectors have none, keep the envelope.

mod debezium;
mod mongo_kafka;

pub(super) use debezium::{DebeziumEnvelope, write_key as write_debezium_key};
pub(super) use mongo_kafka::{write as write_mongo_kafka, write_key as write_mongo_kafka_key};

/// Whose records the source's are to be like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum EventProfile {
    /// Our own envelope.
    #[default]
    Atlas,
    /// Debezium's MongoDB connector with its JSON converter, without schemas.
    Debezium,
    /// MongoDB's Kafka connector with its string converter.
    MongoKafka,
}

impl EventProfile {
    /// As the setting has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Atlas => "atlas",
            Self::Debezium => "debezium",
            Self::MongoKafka => "mongo-kafka",
        }
    }
}

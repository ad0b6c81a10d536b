//! Parts of the settings, for commands that look at a source from outside: nobody has to give what a command does not use. What it uses
//! is read as `run` reads it, and every mistake in it comes at once.

use std::time::Duration;

use shared::{
    kafka_client::KafkaSettings,
    settings::{
        Effective, MONGO_URI, ProcessSettings, Reader, Secret, SettingsError, Sources, TOPIC_PREFIX,
        mongo_uri,
    },
    topic_name::TopicNames,
};

use super::{
    CATALOGUE, RecordForm, profile, read_dialect, read_field_policy, read_source_id, read_stream,
    read_token_interval, table::ADMIN_ADDR,
};
use crate::{change_stream::StreamOptions, envelope::JsonDialect, field_policy::FieldPolicy};

/// `token show`: Kafka, and what the stored fingerprint is held against.
#[derive(Clone, Debug)]
pub struct TokenShowSettings {
    pub process: ProcessSettings,
    pub kafka: KafkaSettings,
    pub names: TopicNames,
    pub source_id: String,
    pub stream: StreamOptions,
}

impl TokenShowSettings {
    /// # Errors
    /// All mistakes.
    pub fn read(sources: Sources) -> Result<Self, SettingsError> {
        let read = |reader: &mut Reader| {
            let process = ProcessSettings::read(reader, &ADMIN_ADDR);
            let kafka = KafkaSettings::read(reader);
            let names = reader.required(&TOPIC_PREFIX);
            let source_id = read_source_id(reader);
            let stream = read_stream(reader);
            Some(Self {
                process: process?,
                kafka: kafka?,
                names: names?,
                source_id: source_id?,
                stream: stream?,
            })
        };
        CATALOGUE.read(sources, read).map(without_effective)
    }
}

/// `snapshot`: Kafka, and the scope. MongoDB only if it is there.
#[derive(Clone, Debug)]
pub struct SnapshotCommandSettings {
    pub process: ProcessSettings,
    pub kafka: KafkaSettings,
    pub names: TopicNames,
    pub source_id: String,
    pub mongo_uri: Option<Secret>,
    pub stream: StreamOptions,
    pub token_interval: Duration,
}

impl SnapshotCommandSettings {
    /// # Errors
    /// All mistakes.
    pub fn read(sources: Sources) -> Result<Self, SettingsError> {
        let read = |reader: &mut Reader| {
            let process = ProcessSettings::read(reader, &ADMIN_ADDR);
            let kafka = KafkaSettings::read(reader);
            let names = reader.required(&TOPIC_PREFIX);
            let source_id = read_source_id(reader);
            let mongo_uri =
                if reader.is_given(&MONGO_URI) { mongo_uri(reader).map(Some) } else { Some(None) };
            let stream = read_stream(reader);
            let token_interval = read_token_interval(reader);
            Some(Self {
                process: process?,
                kafka: kafka?,
                names: names?,
                source_id: source_id?,
                mongo_uri: mongo_uri?,
                stream: stream?,
                token_interval: token_interval?,
            })
        };
        CATALOGUE.read(sources, read).map(without_effective)
    }
}

/// `monitor`: the topics. MongoDB only if it is there, for the oplog's headroom.
#[derive(Clone, Debug)]
pub struct TopicMonitorSettings {
    pub process: ProcessSettings,
    pub kafka: KafkaSettings,
    pub names: TopicNames,
    pub mongo_uri: Option<Secret>,
    pub stream: StreamOptions,
}

impl TopicMonitorSettings {
    /// # Errors
    /// All mistakes.
    pub fn read(sources: Sources) -> Result<Self, SettingsError> {
        let read = |reader: &mut Reader| {
            let process = ProcessSettings::read(reader, &ADMIN_ADDR);
            let kafka = KafkaSettings::read(reader);
            let names = reader.required(&TOPIC_PREFIX);
            let mongo_uri =
                if reader.is_given(&MONGO_URI) { mongo_uri(reader).map(Some) } else { Some(None) };
            let stream = read_stream(reader);
            Some(Self {
                process: process?,
                kafka: kafka?,
                names: names?,
                mongo_uri: mongo_uri?,
                stream: stream?,
            })
        };
        CATALOGUE.read(sources, read).map(without_effective)
    }
}

/// `monitor --stream`: MongoDB, and how its events are written.
#[derive(Clone, Debug)]
pub struct StreamMonitorSettings {
    pub process: ProcessSettings,
    pub mongo_uri: Secret,
    pub stream: StreamOptions,
    pub source_id: String,
    pub form: RecordForm,
    pub dialect: JsonDialect,
    pub field_policy: Option<FieldPolicy>,
}

impl StreamMonitorSettings {
    /// # Errors
    /// All mistakes.
    pub fn read(sources: Sources) -> Result<Self, SettingsError> {
        let read = |reader: &mut Reader| {
            let process = ProcessSettings::read(reader, &ADMIN_ADDR);
            let mongo_uri = mongo_uri(reader);
            let stream = read_stream(reader);
            let source_id = read_source_id(reader);
            let form = profile::read(reader, stream.as_ref(), false);
            let dialect = read_dialect(reader);
            let field_policy = read_field_policy(reader, stream.as_ref());
            Some(Self {
                process: process?,
                mongo_uri: mongo_uri?,
                stream: stream?,
                source_id: source_id?,
                form: form?,
                dialect: dialect?,
                field_policy: field_policy?,
            })
        };
        CATALOGUE.read(sources, read).map(without_effective)
    }
}

fn without_effective<T>((settings, _): (T, Effective)) -> T {
    settings
}

//! The source's settings: what becomes of the table's values.

mod commands;
mod field_policy;
mod profile;
mod table;

use std::{collections::BTreeMap, path::Path, time::Duration};

use bson::{Bson, Document};
use shared::{
    kafka_client::KafkaSettings,
    schema_registry::{RegistrySettings, SCHEMA_REGISTRY_URL},
    settings::{
        Catalogue, Effective, Expected, ProcessSettings, Reader, Secret, SettingsError, Sources,
        TOPIC_PREFIX, dead_letter_topic, mongo_uri,
    },
    topic_name::TopicNames,
};

pub use self::commands::{
    SnapshotCommandSettings, StreamMonitorSettings, TokenShowSettings, TopicMonitorSettings,
};
use self::field_policy::read_field_policy;
pub use self::profile::RecordForm;
use self::table::{
    ACCEPT_PARTITIONS, ADMIN_ADDR, BROKER_CHECK, DELIVERY, EVENT_PROFILE, FULL_DOCUMENT,
    FULL_DOCUMENT_BEFORE, JSON_DIALECT, KEY_FORMAT, MONGO_COLLECTIONS, MONGO_DATABASES, MONGO_EXCLUDE,
    OLD_NAMES, ON_POSITION_LOST, OPERATIONS, OVERSIZE, PIPELINE_FILE, SNAPSHOT_FILTER_FILE,
    SNAPSHOT_PARALLELISM, SNAPSHOT_RATE, SOURCE_ID, START_FROM, TABLE, TOKEN_INTERVAL, TOMBSTONES,
    TOPIC_MAX_MESSAGE_BYTES, TOPIC_MIN_ISR, TOPIC_PARTITIONS, TOPIC_REPLICATION, TOPIC_RETENTION,
    TOPICS_FILE, TRANSACTION_TIMEOUT, VALUE_FORMAT,
};
use crate::{
    change_stream::{FullDocument, FullDocumentBefore, Oversize, StreamOptions},
    envelope::{JsonDialect, KeyFormat},
    field_policy::FieldPolicy,
    pipeline::{self, Pipeline},
    publisher::Delivery,
    pump::{OnPositionLost, SnapshotSettings},
    scope::{
        Scope,
        operations::{Operations, parse_operation},
        parse_collection, parse_database, parse_exclude,
    },
    start_from::StartFrom,
    topics::{
        AcceptedCounts, MESSAGE_BYTES, PARTITIONS, REPLICAS, RETENTION, SetBy, TopicRules, TopicSettings,
    },
};

/// Everything that the source can be told.
pub const CATALOGUE: Catalogue = Catalogue { table: TABLE, old_names: OLD_NAMES };

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum KeyFormatName {
    Json,
    Plain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum DialectName {
    Relaxed,
    Canonical,
    Plain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ValueFormatName {
    Json,
    Avro,
}

/// `BROKER_CHECK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum BrokerCheck {
    On,
    Skip,
}

/// All settings, typed and within bounds.
#[derive(Clone, Debug)]
pub struct SourceSettings {
    pub process: ProcessSettings,
    pub kafka: KafkaSettings,
    pub mongo_uri: Secret,
    pub stream: StreamOptions,
    pub source_id: String,
    pub start_from: StartFrom,
    pub on_position_lost: OnPositionLost,
    pub snapshot: SnapshotSettings,
    pub form: RecordForm,
    pub dialect: JsonDialect,
    pub field_policy: Option<FieldPolicy>,
    /// With `VALUE_FORMAT=avro`: where the schema's id comes from.
    pub avro: Option<RegistrySettings>,
    pub token_interval: Duration,
    pub transaction_timeout: Duration,
    pub broker_check: BrokerCheck,
    pub delivery: Delivery,
    pub names: TopicNames,
    pub dead_letters: String,
    pub topics: TopicRules,
    pub accepted_counts: AcceptedCounts,
}

impl SourceSettings {
    /// Reads everything, and says every mistake at once.
    ///
    /// # Errors
    /// All mistakes.
    pub fn read(sources: Sources) -> Result<(Self, Effective), SettingsError> {
        CATALOGUE.read(sources, read)
    }
}

/// What holds, for `config show`, and the mistakes in it.
pub fn effective(sources: Sources) -> (Effective, Option<SettingsError>) {
    CATALOGUE.effective(sources, read)
}

fn read(reader: &mut Reader) -> Option<SourceSettings> {
    // Each is read before any is missed, so that all mistakes come together.
    let process = ProcessSettings::read(reader, &ADMIN_ADDR);
    let kafka = KafkaSettings::read(reader);
    let mongo_uri = mongo_uri(reader);
    let stream = read_stream(reader);
    let source_id = read_source_id(reader);
    let start_from = reader.parsed(&START_FROM, StartFrom::parse);
    if let (Some(StartFrom::Snapshot), Some(stream)) = (&start_from, &stream)
        && !stream.operations.has("insert")
    {
        reader.refuse(
            &START_FROM,
            "now, timestamp:… or token:… together with OPERATIONS without insert; rows of a snapshot are inserts",
        );
    }
    let on_position_lost = reader.choice(&ON_POSITION_LOST);
    if let (Some(OnPositionLost::Snapshot), Some(stream)) = (&on_position_lost, &stream)
        && !stream.operations.has("insert")
    {
        reader.refuse(
            &ON_POSITION_LOST,
            "stop or resume-at-oldest together with OPERATIONS without insert; rows of a snapshot are inserts",
        );
    }
    let snapshot = read_snapshot(reader);
    let dialect = read_dialect(reader);
    let field_policy = read_field_policy(reader, stream.as_ref());
    let avro = read_value_format(reader);
    let form = profile::read(reader, stream.as_ref(), avro.as_ref().is_some_and(Option::is_some));
    let token_interval = read_token_interval(reader);
    let transaction_timeout =
        reader.bounded(&TRANSACTION_TIMEOUT, Duration::from_secs(2)..=Duration::from_secs(900));
    let broker_check = reader.choice(&BROKER_CHECK);
    let delivery = reader.choice(&DELIVERY);
    let names = reader.required::<TopicNames>(&TOPIC_PREFIX);
    let dead_letters = names.as_ref().and_then(|names| dead_letter_topic(reader, names));
    let loopback = kafka.as_ref().is_some_and(KafkaSettings::is_loopback);
    let topics = read_topics(reader, loopback);
    let accepted_counts = read_accepted(reader);

    let names = names?;
    Some(SourceSettings {
        process: process?,
        kafka: kafka?,
        mongo_uri: mongo_uri?,
        stream: stream?,
        source_id: source_id?,
        start_from: start_from?,
        on_position_lost: on_position_lost?,
        snapshot: snapshot?,
        form: form?,
        dialect: dialect?,
        field_policy: field_policy?,
        avro: avro?,
        token_interval: token_interval?,
        transaction_timeout: transaction_timeout?,
        broker_check: broker_check?,
        delivery: delivery?,
        dead_letters: dead_letters?,
        names,
        topics: topics?,
        accepted_counts: accepted_counts?,
    })
}

fn read_snapshot(reader: &mut Reader) -> Option<SnapshotSettings> {
    let parallelism = reader.bounded(&SNAPSHOT_PARALLELISM, 1..=16);
    let rate = reader.optional_bounded(&SNAPSHOT_RATE, 1..=10_000_000);
    let filters = if reader.is_given(&SNAPSHOT_FILTER_FILE) {
        reader.parsed(&SNAPSHOT_FILTER_FILE, read_filters)
    } else {
        Some(BTreeMap::new())
    };
    Some(SnapshotSettings { parallelism: parallelism?, rate: rate?, filters: filters? })
}

/// A file of queries by `db.coll`.
///
/// # Errors
/// What was expected instead.
pub(crate) fn read_filters(path: &str) -> Result<BTreeMap<String, Document>, Expected> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Expected::exactly(format!("the path of a readable file; {error}")))?;
    let filters = pipeline::json::document(&text)
        .map_err(|error| Expected::exactly(format!("a file with one JSON object: {error}")))?;
    let filters = filters.into_iter().map(|(name, filter)| match filter {
        Bson::Document(filter) if name.contains('.') => Ok((name, filter)),
        _ => Err(Expected::exactly(format!(
            "for {name}, a query in Extended JSON, which is an object, under db.coll"
        ))),
    });
    filters.collect()
}

fn read_stream(reader: &mut Reader) -> Option<StreamOptions> {
    let databases = reader.list(&MONGO_DATABASES, parse_database);
    let collections = reader.list(&MONGO_COLLECTIONS, parse_collection);
    let excludes = reader.list(&MONGO_EXCLUDE, parse_exclude);
    let scope = databases.zip(collections).zip(excludes).and_then(|((databases, collections), excludes)| {
        let scope = Scope::new(databases.into_iter().chain(collections), excludes);
        scope.map_err(|error| reader.refuse(&MONGO_EXCLUDE, format!("to leave something, but {error}"))).ok()
    });
    let operations = reader.parsed(&OPERATIONS, |text| {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let wanted = names.map(parse_operation).collect::<Result<Vec<_>, _>>()?;
        if wanted.is_empty() { Err(Expected::AsDeclared) } else { Ok(Operations::only(&wanted)) }
    });
    let pipeline = if reader.is_given(&PIPELINE_FILE) {
        let read = |path: &str| {
            Pipeline::read(Path::new(path)).map_err(|error| Expected::exactly(error.to_string()))
        };
        reader.parsed(&PIPELINE_FILE, read).map(Some)
    } else {
        Some(None)
    };
    let full_document: Option<FullDocument> = reader.choice(&FULL_DOCUMENT);
    let full_document_before: Option<FullDocumentBefore> = reader.choice(&FULL_DOCUMENT_BEFORE);
    if let (Some(FullDocument::BatchedLookup), Some(Some(_))) = (full_document, &pipeline) {
        // Its stages run in MongoDB, before the source looks anything up.
        reader.refuse(
            &FULL_DOCUMENT,
            "default, updateLookup, whenAvailable or required together with PIPELINE_FILE; documents that the source looks up do not pass it",
        );
    }
    let oversize: Option<Oversize> = reader.choice(&OVERSIZE);
    if let (Some(Some(pipeline)), Some(operations), Some(full_document)) =
        (&pipeline, &operations, full_document)
    {
        for warning in pipeline.warnings(operations, full_document != FullDocument::Default) {
            reader.warn(format!("PIPELINE_FILE: {warning}"));
        }
    }
    Some(StreamOptions {
        scope: scope?,
        operations: operations?,
        pipeline: pipeline?,
        full_document: full_document?,
        full_document_before: full_document_before?,
        oversize: oversize?,
    })
}

fn read_source_id(reader: &mut Reader) -> Option<String> {
    reader.parsed(&SOURCE_ID, |text| {
        let legal =
            text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if legal && text.len() <= 64 { Ok(text.to_owned()) } else { Err(Expected::AsDeclared) }
    })
}

fn read_token_interval(reader: &mut Reader) -> Option<Duration> {
    reader.bounded(&TOKEN_INTERVAL, Duration::from_millis(100)..=Duration::from_secs(3600))
}

fn read_key_format(reader: &mut Reader) -> Option<KeyFormat> {
    reader.choice(&KEY_FORMAT).map(|name| match name {
        KeyFormatName::Json => KeyFormat::ExtendedJson,
        KeyFormatName::Plain => KeyFormat::Plain,
    })
}

fn read_dialect(reader: &mut Reader) -> Option<JsonDialect> {
    reader.choice(&JSON_DIALECT).map(|name| match name {
        DialectName::Relaxed => JsonDialect::Relaxed,
        DialectName::Canonical => JsonDialect::Canonical,
        DialectName::Plain => JsonDialect::Plain,
    })
}

/// The outer `None` if a mistake was recorded, the inner one if values are JSON.
fn read_value_format(reader: &mut Reader) -> Option<Option<RegistrySettings>> {
    let format = reader.choice(&VALUE_FORMAT);
    let registry = RegistrySettings::read(reader);
    match format? {
        // It may be set for the sink, which reads both formats.
        ValueFormatName::Json => registry.map(|_| None),
        ValueFormatName::Avro => match registry? {
            Some(registry) => Some(Some(registry)),
            None => {
                reader.refuse(&SCHEMA_REGISTRY_URL, SCHEMA_REGISTRY_URL.expects);
                None
            }
        },
    }
}

fn read_topics(reader: &mut Reader, loopback: bool) -> Option<TopicRules> {
    let partitions = reader.bounded(&TOPIC_PARTITIONS, PARTITIONS);
    let replication = reader.bounded_or(&TOPIC_REPLICATION, REPLICAS, if loopback { 1 } else { 3 });
    let min_isr = reader.bounded_or(&TOPIC_MIN_ISR, REPLICAS, if loopback { 1 } else { 2 });
    if let (Some(replication), Some(min_isr)) = (replication, min_isr)
        && min_isr > replication
    {
        reader.refuse(&TOPIC_MIN_ISR, format!("at most TOPIC_REPLICATION, which is {replication}"));
    }
    let retention = reader.bounded(&TOPIC_RETENTION, RETENTION);
    let bytes = reader.bounded(&TOPIC_MAX_MESSAGE_BYTES, MESSAGE_BYTES);
    let general = || {
        Some(TopicSettings {
            partitions: partitions?,
            replication: replication?,
            min_isr: min_isr?,
            retention: retention?,
            max_message_bytes: u32::try_from(bytes?.as_u64()).expect("bounded by 100 MiB"),
            set_by: SetBy::Settings,
        })
    };
    let general = general();
    if !reader.is_given(&TOPICS_FILE) {
        return general.map(TopicRules::general);
    }
    // The file is read whatever else is wrong, so that all mistakes come together.
    let rules = read_rules(reader, general.unwrap_or(STAND_IN));
    general.and(rules)
}

/// To look for mistakes in a file while those in the settings keep it from being used; nothing in a file goes badly with it.
const STAND_IN: TopicSettings = TopicSettings {
    partitions: 1,
    replication: 100,
    min_isr: 1,
    retention: Duration::from_secs(86_400),
    max_message_bytes: 1 << 20,
    set_by: SetBy::Settings,
};

/// Each mistake in the file is one of the settings.
fn read_rules(reader: &mut Reader, general: TopicSettings) -> Option<TopicRules> {
    let text = reader.parsed(&TOPICS_FILE, |path| {
        std::fs::read_to_string(path)
            .map_err(|error| Expected::exactly(format!("the path of a readable file; {error}")))
    })?;
    match TopicRules::parse(&text, general) {
        Ok(rules) => Some(rules),
        Err(mistakes) => {
            mistakes.into_iter().for_each(|mistake| reader.refuse(&TOPICS_FILE, mistake));
            None
        }
    }
}

fn read_accepted(reader: &mut Reader) -> Option<AcceptedCounts> {
    let items = reader.list(&ACCEPT_PARTITIONS, AcceptedCounts::parse_one)?;
    AcceptedCounts::new(items)
        .map_err(|topic| reader.refuse(&ACCEPT_PARTITIONS, format!("one number for {topic}, not two")))
        .ok()
}

#[cfg(test)]
mod tests;

//! The source's settings: the table, and what becomes of it.

use std::time::Duration;

use bytesize::ByteSize;
use shared::{
    kafka_client::{
        KAFKA_BROKERS, KAFKA_OLD_NAMES, KAFKA_OPTIONS, KAFKA_SASL_MECHANISM, KAFKA_SASL_PASSWORD,
        KAFKA_SASL_USERNAME, KAFKA_SECURITY_PROTOCOL, KAFKA_SSL_CA, KAFKA_SSL_CERT, KAFKA_SSL_KEY,
        KafkaSettings,
    },
    settings::{
        Answer, DLQ_TOPIC, Effective, Expected, LOG_FORMAT, LOG_LEVEL, OldName, ProcessSettings, Reader,
        SHUTDOWN_TIMEOUT, Secrecy, Secret, Setting, SettingsError, Sources, TOPIC_PREFIX, Table, admin_addr,
        dead_letter_topic,
    },
    topic_name::TopicNames,
};

use crate::{
    change_stream::{FullDocument, FullDocumentBefore, StreamOptions},
    envelope::{JsonDialect, KeyFormat},
    scope::{Scope, parse_collection, parse_database},
    topics::TopicSettings,
};

const MONGODB: &str = "MongoDB";
const SOURCE: &str = "Source";
const TOPICS: &str = "Topics";

const fn row(
    name: &'static str,
    default: Option<&'static str>,
    expects: &'static str,
    help: &'static str,
    group: &'static str,
) -> Setting {
    Setting { name, default, secret: Secrecy::Public, expects, help, group }
}

const MONGO_URI: Setting = Setting {
    name: "MONGO_URI",
    default: None,
    secret: Secrecy::Uri,
    expects: "mongodb://host:port/?replicaSet=name or mongodb+srv://host",
    help: "MongoDB replica set or sharded cluster to read from.",
    group: MONGODB,
};
const MONGO_DATABASES: Setting = row(
    "MONGO_DATABASES",
    None,
    "exact database names, separated by commas",
    "Databases to read whole; the whole deployment if neither this nor MONGO_COLLECTIONS is set.",
    MONGODB,
);
const MONGO_COLLECTIONS: Setting = row(
    "MONGO_COLLECTIONS",
    None,
    "exact names as database.collection, separated by commas",
    "Collections to read, beside those of MONGO_DATABASES.",
    MONGODB,
);
const FULL_DOCUMENT: Setting = row(
    "FULL_DOCUMENT",
    Some("updateLookup"),
    "default, updateLookup, whenAvailable or required",
    "The document that an update event carries: none, as it is now, or its post-image.",
    MONGODB,
);
const FULL_DOCUMENT_BEFORE: Setting = row(
    "FULL_DOCUMENT_BEFORE",
    Some("whenAvailable"),
    "off, whenAvailable or required",
    "The document before the change, where its collection keeps pre-images; off for servers before 6.0.",
    MONGODB,
);
const SOURCE_ID: Setting = row(
    "SOURCE_ID",
    Some("default"),
    "1 to 64 of a-z, 0-9 and '-'",
    "Name of this source: its position and its transactions go by it. A second instance with the same name takes over.",
    SOURCE,
);
const KEY_FORMAT: Setting = row(
    "KEY_FORMAT",
    Some("json"),
    "json or plain",
    "The document's _id as record key: relaxed Extended JSON, or bare text. To be changed only after an orderly stop.",
    SOURCE,
);
const JSON_DIALECT: Setting = row(
    "JSON_DIALECT",
    Some("relaxed"),
    "relaxed or canonical",
    "Extended JSON v2 of documents in the value.",
    SOURCE,
);
const TOKEN_INTERVAL: Setting = row(
    "TOKEN_INTERVAL",
    Some("10s"),
    "a duration between 100ms and 1h",
    "How often the position is committed while nothing happens in scope.",
    SOURCE,
);
const TRANSACTION_TIMEOUT: Setting = row(
    "TRANSACTION_TIMEOUT",
    Some("30s"),
    "a duration between 2s and 15m",
    "How long Kafka leaves a transaction of ours open when we are gone; not above the brokers' transaction.max.timeout.ms.",
    SOURCE,
);
const BROKER_CHECK: Setting = row(
    "BROKER_CHECK",
    Some("on"),
    "on or skip",
    "Whether every broker is asked for transaction.partition.verification.enable, which exactly-once rests on.",
    SOURCE,
);
const TOPIC_PARTITIONS: Setting = row(
    "TOPIC_PARTITIONS",
    Some("3"),
    "a number between 1 and 10000",
    "Partitions of a new data topic.",
    TOPICS,
);
const TOPIC_REPLICATION: Setting = row(
    "TOPIC_REPLICATION",
    None,
    "a number between 1 and 100",
    "Replicas of a new topic; 3 if not set, 1 when all brokers are on this machine.",
    TOPICS,
);
const TOPIC_MIN_ISR: Setting = row(
    "TOPIC_MIN_ISR",
    None,
    "a number between 1 and TOPIC_REPLICATION",
    "Replicas that have to confirm a write; 2 if not set, 1 when all brokers are on this machine.",
    TOPICS,
);
const TOPIC_RETENTION: Setting = row(
    "TOPIC_RETENTION",
    Some("14d"),
    "a duration between 1m and 10y",
    "How long a new topic keeps events, by their time.",
    TOPICS,
);
const TOPIC_MAX_MESSAGE_BYTES: Setting = row(
    "TOPIC_MAX_MESSAGE_BYTES",
    Some("16MiB"),
    "a size between 1MiB and 100MiB",
    "Largest record of a topic after compression.",
    TOPICS,
);

const ADMIN_ADDR: Setting = admin_addr("127.0.0.1:9464", "an IP address with a port, such as 127.0.0.1:9464");

/// Everything that can be set.
pub const TABLE: Table = &[
    &MONGO_URI,
    &MONGO_DATABASES,
    &MONGO_COLLECTIONS,
    &FULL_DOCUMENT,
    &FULL_DOCUMENT_BEFORE,
    &SOURCE_ID,
    &KEY_FORMAT,
    &JSON_DIALECT,
    &TOKEN_INTERVAL,
    &TRANSACTION_TIMEOUT,
    &BROKER_CHECK,
    &KAFKA_BROKERS,
    &TOPIC_PREFIX,
    &DLQ_TOPIC,
    &KAFKA_SECURITY_PROTOCOL,
    &KAFKA_SASL_MECHANISM,
    &KAFKA_SASL_USERNAME,
    &KAFKA_SASL_PASSWORD,
    &KAFKA_SSL_CA,
    &KAFKA_SSL_CERT,
    &KAFKA_SSL_KEY,
    &KAFKA_OPTIONS,
    &TOPIC_PARTITIONS,
    &TOPIC_REPLICATION,
    &TOPIC_MIN_ISR,
    &TOPIC_RETENTION,
    &TOPIC_MAX_MESSAGE_BYTES,
    &ADMIN_ADDR,
    &LOG_FORMAT,
    &LOG_LEVEL,
    &SHUTDOWN_TIMEOUT,
];

/// A setting that is planned; a value for it that had no effect would be found out too late.
const fn not_yet(name: &'static str) -> OldName {
    OldName { name, answer: Answer::Refused("nothing: this version does not have it yet; leave it unset") }
}

/// Names that users of similar scripts know, and those of later versions.
const OLD_NAMES: &[OldName] = &[
    OldName { name: "MONGO_DB", answer: Answer::Means(&MONGO_DATABASES) },
    OldName { name: "MONGO_COLL", answer: Answer::Refused("MONGO_COLLECTIONS=<database>.<collection>") },
    OldName { name: "MONGO_FULL_DOC", answer: Answer::Means(&FULL_DOCUMENT) },
    OldName {
        name: "RESUME_TOKEN_PATH",
        answer: Answer::Replaced("nothing: the position lies in Kafka, beside the events"),
    },
    not_yet("MONGO_EXCLUDE"),
    not_yet("OPERATIONS"),
    not_yet("PIPELINE_FILE"),
    not_yet("START_FROM"),
    not_yet("ON_POSITION_LOST"),
    not_yet("COMMIT_INTERVAL"),
    not_yet("VALUE_FORMAT"),
    not_yet("EVENT_PROFILE"),
    not_yet("TOMBSTONES"),
    not_yet("FIELD_POLICY_FILE"),
    not_yet("OVERSIZE"),
    not_yet("DELIVERY"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum KeyFormatName {
    Json,
    Plain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum DialectName {
    Relaxed,
    Canonical,
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
    pub key_format: KeyFormat,
    pub dialect: JsonDialect,
    pub token_interval: Duration,
    pub transaction_timeout: Duration,
    pub broker_check: BrokerCheck,
    pub names: TopicNames,
    pub dead_letters: String,
    pub topics: TopicSettings,
}

impl SourceSettings {
    /// Reads everything, and says every mistake at once.
    ///
    /// # Errors
    /// All mistakes.
    pub fn read(sources: Sources) -> Result<(Self, Effective), SettingsError> {
        let mut reader = reader(sources);
        let settings = read(&mut reader);
        reader.finish(settings)
    }
}

/// What holds, for `config show`, and the mistakes in it.
pub fn effective(sources: Sources) -> (Effective, Option<SettingsError>) {
    let mut reader = reader(sources);
    let settings = read(&mut reader);
    let effective = reader.effective();
    (effective, reader.finish(settings).err())
}

fn reader(sources: Sources) -> Reader {
    let old_names: Vec<OldName> = KAFKA_OLD_NAMES.iter().chain(OLD_NAMES).copied().collect();
    Reader::new(TABLE, &old_names, sources)
}

fn read(reader: &mut Reader) -> Option<SourceSettings> {
    // Each is read before any is missed, so that all mistakes come together.
    let process = ProcessSettings::read(reader, &ADMIN_ADDR);
    let kafka = KafkaSettings::read(reader);
    let mongo_uri = reader.parsed(&MONGO_URI, |text| {
        let known = text.starts_with("mongodb://") || text.starts_with("mongodb+srv://");
        if known { Ok(Secret::new(text)) } else { Err(Expected::AsDeclared) }
    });
    let databases = list(reader, &MONGO_DATABASES, parse_database);
    let collections = list(reader, &MONGO_COLLECTIONS, parse_collection);
    let full_document: Option<FullDocument> = reader.choice(&FULL_DOCUMENT);
    let full_document_before: Option<FullDocumentBefore> = reader.choice(&FULL_DOCUMENT_BEFORE);
    let source_id = reader.parsed(&SOURCE_ID, |text| {
        let legal =
            text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if legal && text.len() <= 64 { Ok(text.to_owned()) } else { Err(Expected::AsDeclared) }
    });
    let key_format = reader.choice(&KEY_FORMAT).map(|name| match name {
        KeyFormatName::Json => KeyFormat::ExtendedJson,
        KeyFormatName::Plain => KeyFormat::Plain,
    });
    let dialect = reader.choice(&JSON_DIALECT).map(|name| match name {
        DialectName::Relaxed => JsonDialect::Relaxed,
        DialectName::Canonical => JsonDialect::Canonical,
    });
    let token_interval =
        reader.bounded(&TOKEN_INTERVAL, Duration::from_millis(100)..=Duration::from_secs(3600));
    let transaction_timeout =
        reader.bounded(&TRANSACTION_TIMEOUT, Duration::from_secs(2)..=Duration::from_secs(900));
    let broker_check = reader.choice(&BROKER_CHECK);
    let names = reader.parsed(&TOPIC_PREFIX, |text| TopicNames::new(text).map_err(Expected::exactly));
    let dead_letters = names.as_ref().and_then(|names| dead_letter_topic(reader, names));
    let loopback = kafka.as_ref().is_some_and(KafkaSettings::is_loopback);
    let topics = read_topics(reader, loopback);

    let names = names?;
    Some(SourceSettings {
        process: process?,
        kafka: kafka?,
        mongo_uri: mongo_uri?,
        stream: StreamOptions {
            scope: Scope::new(databases?, collections?),
            full_document: full_document?,
            full_document_before: full_document_before?,
        },
        source_id: source_id?,
        key_format: key_format?,
        dialect: dialect?,
        token_interval: token_interval?,
        transaction_timeout: transaction_timeout?,
        broker_check: broker_check?,
        dead_letters: dead_letters?,
        names,
        topics: topics?,
    })
}

fn read_topics(reader: &mut Reader, loopback: bool) -> Option<TopicSettings> {
    const YEAR: u64 = 365 * 86_400;
    let partitions = reader.bounded(&TOPIC_PARTITIONS, 1..=10_000);
    let replication = or_default(reader, &TOPIC_REPLICATION, 1..=100, if loopback { 1 } else { 3 });
    let min_isr = or_default(reader, &TOPIC_MIN_ISR, 1..=100, if loopback { 1 } else { 2 });
    if let (Some(replication), Some(min_isr)) = (replication, min_isr)
        && min_isr > replication
    {
        reader.refuse(&TOPIC_MIN_ISR, format!("at most TOPIC_REPLICATION, which is {replication}"));
    }
    let retention =
        reader.bounded(&TOPIC_RETENTION, Duration::from_secs(60)..=Duration::from_secs(10 * YEAR));
    let bytes = reader.bounded(&TOPIC_MAX_MESSAGE_BYTES, ByteSize::mib(1)..=ByteSize::mib(100));
    Some(TopicSettings {
        partitions: partitions?,
        replication: replication?,
        min_isr: min_isr?,
        retention: retention?,
        max_message_bytes: u32::try_from(bytes?.as_u64()).expect("bounded by 100 MiB"),
    })
}

/// A number that may be left out. `None` if a mistake was recorded.
fn or_default(
    reader: &mut Reader,
    setting: &Setting,
    bounds: std::ops::RangeInclusive<u32>,
    default: u32,
) -> Option<u32> {
    if reader.is_given(setting) { reader.bounded(setting, bounds) } else { Some(default) }
}

/// A list that may be left out. `None` if a mistake was recorded.
fn list<T>(reader: &mut Reader, setting: &Setting, parse: fn(&str) -> Result<T, Expected>) -> Option<Vec<T>> {
    if !reader.is_given(setting) {
        return Some(Vec::new());
    }
    reader.parsed(setting, |text| {
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(parse).collect()
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn sources(values: &[(&str, &str)]) -> Sources {
        let environment =
            values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Sources { environment, ..Sources::default() }
    }

    const LEAST: [(&str, &str); 2] =
        [("MONGO_URI", "mongodb://localhost:27017/?replicaSet=rs0"), ("KAFKA_BROKERS", "localhost:9092")];

    #[test]
    fn two_settings_are_enough() {
        let (settings, effective) = SourceSettings::read(sources(&LEAST)).unwrap();
        assert_eq!(settings.source_id, "default");
        assert_eq!((settings.topics.replication, settings.topics.min_isr), (1, 1));
        assert_eq!(settings.topics.retention, Duration::from_secs(14 * 86_400));
        assert_eq!(settings.dead_letters, "atlas.dlq");
        assert!(effective.warnings.is_empty(), "{:?}", effective.warnings);
    }

    #[test]
    fn far_brokers_get_three_replicas() {
        let (settings, _) =
            SourceSettings::read(sources(&[LEAST[0], ("KAFKA_BROKERS", "broker-1:9092")])).unwrap();
        assert_eq!((settings.topics.replication, settings.topics.min_isr), (3, 2));
    }

    #[test]
    fn every_mistake_comes_at_once_and_no_secret() {
        let error = SourceSettings::read(sources(&[
            ("MONGO_URI", "postgres://ann:secret@db"),
            ("SOURCE_ID", "Orders"),
            ("MONGO_DATABASES", "shop,admin"),
            ("FULL_DOCUMENT", "sometimes"),
            ("TOPIC_REPLICATION", "1"),
            ("TOPIC_MIN_ISR", "2"),
        ]))
        .unwrap_err();
        let text = error.to_string();
        for name in
            ["MONGO_URI", "SOURCE_ID", "MONGO_DATABASES", "FULL_DOCUMENT", "TOPIC_MIN_ISR", "KAFKA_BROKERS"]
        {
            assert!(text.contains(name), "{name} is missing in {text}");
        }
        assert!(!text.contains("secret"), "{text}");
    }

    const PLANTED: &str = "geheim";

    /// Valid and invalid values; each holds the secret where one can be by intent or by mistake.
    #[test]
    fn no_setting_shows_a_secret() {
        for (name, value) in [
            ("MONGO_URI", "mongodb://ann:geheim@localhost:1/?replicaSet=rs0&x=geheim"),
            ("MONGO_URI", "mongodb://ann:ge?heim@geheim@localhost"),
            ("MONGO_URI", "postgres://ann:geheim@localhost/?geheim"),
            ("MONGO_URI", "geheim"),
            ("MONGO_URI_FILE", "mongodb://ann:geheim@localhost"),
            ("MONGO_URI_FILE", "geheim"),
            ("KAFKA_SASL_PASSWORD", "geheim"),
            ("KAFKA_SASL_PASSWORD_FILE", "geheim"),
            ("KAFKA_PASSWORD", "geheim"),
            ("KAFKA_SSL_CA", "-----BEGIN CERTIFICATE-----geheim"),
            ("KAFKA_SSL_CERT", "-----BEGIN CERTIFICATE-----geheim"),
            ("KAFKA_SSL_KEY", "-----BEGIN PRIVATE KEY-----geheim"),
            ("KAFKA_OPTIONS", "sasl.password=geheim"),
            ("KAFKA_OPTIONS", "sasl.password=a,geheim,geheim=,geheim=="),
            ("KAFKA_OPTIONS", "linger.ms=geheim,nonsense.ms=geheim"),
            ("KAFKA_OPTIONS", "sasl.oauthbearer.config=geheim,client.rack=geheim"),
        ] {
            let values = [&LEAST[..], &[(name, value)]].concat();
            let (effective, error) = effective(sources(&values));
            let shown = format!("{effective}{}{effective:?}{error:?}", effective.to_json());
            let mistakes = error.map(|error| error.to_string()).unwrap_or_default();
            assert!(!shown.contains(PLANTED) && !mistakes.contains(PLANTED), "{name}: {shown} {mistakes}");
            if let Ok((settings, _)) = SourceSettings::read(sources(&values)) {
                assert!(!format!("{settings:?}").contains(PLANTED), "{name}");
            }
        }
    }

    #[test]
    fn names_of_other_scripts_and_of_later_versions_are_answered() {
        let old = [("MONGO_DB", "shop"), ("MONGO_FULL_DOC", "required"), ("RESUME_TOKEN_PATH", "/token")];
        let (settings, effective) = SourceSettings::read(sources(&[&LEAST[..], &old].concat())).unwrap();
        assert_eq!(settings.stream.full_document, FullDocument::Required);
        assert_eq!(settings.stream.scope, Scope::new(vec!["shop".to_owned()], Vec::new()));
        assert_eq!(effective.warnings.len(), 3, "{:?}", effective.warnings);
        let refused: Vec<_> =
            OLD_NAMES.iter().filter(|old| matches!(old.answer, Answer::Refused(_))).collect();
        assert_eq!(refused.len(), 13);
        for old in refused {
            let error =
                SourceSettings::read(sources(&[&LEAST[..], &[(old.name, "x")]].concat())).unwrap_err();
            assert!(error.to_string().contains(&format!("\n{}=\"x\": expected ", old.name)), "{error}");
        }
    }
}

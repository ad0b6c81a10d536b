//! The table of the source's settings: names, defaults, and what people read about them.

use shared::{
    kafka_client::{
        KAFKA_BROKERS, KAFKA_OPTIONS, KAFKA_SASL_MECHANISM, KAFKA_SASL_PASSWORD, KAFKA_SASL_USERNAME,
        KAFKA_SECURITY_PROTOCOL, KAFKA_SSL_CA, KAFKA_SSL_CERT, KAFKA_SSL_KEY,
    },
    schema_registry::{
        SCHEMA_REGISTRY_PASSWORD, SCHEMA_REGISTRY_SSL_CA, SCHEMA_REGISTRY_URL, SCHEMA_REGISTRY_USERNAME,
    },
    settings::{
        Answer, DLQ_TOPIC, LOG_FORMAT, LOG_LEVEL, MONGO_URI, OldName, SHUTDOWN_TIMEOUT, Secrecy, Setting,
        TOPIC_PREFIX, Table, admin_addr,
    },
};

const MONGODB: &str = "MongoDB";
const SOURCE: &str = "Source";
const TOPICS: &str = "Topics";

pub(super) const MONGO_DATABASES: Setting = Setting::public(
    "MONGO_DATABASES",
    None,
    "names of databases, with * and ? as wildcards, separated by commas",
    "Databases to read whole; the whole deployment if neither this nor MONGO_COLLECTIONS is set.",
    MONGODB,
);
pub(super) const MONGO_COLLECTIONS: Setting = Setting::public(
    "MONGO_COLLECTIONS",
    None,
    "names as database.collection, with * and ? as wildcards, separated by commas",
    "Collections to read, beside those of MONGO_DATABASES.",
    MONGODB,
);
pub(super) const MONGO_EXCLUDE: Setting = Setting::public(
    "MONGO_EXCLUDE",
    None,
    "names as database or database.collection, with * and ? as wildcards, separated by commas",
    "Databases and collections that are not read, whatever else says so.",
    MONGODB,
);
pub(super) const OPERATIONS: Setting = Setting::public(
    "OPERATIONS",
    Some("insert,update,replace,delete"),
    "some of insert, update, replace and delete, separated by commas",
    "Changes of documents to publish. Drops, renames and the like always are.",
    MONGODB,
);
pub(super) const PIPELINE_FILE: Setting = Setting::public(
    "PIPELINE_FILE",
    None,
    "a file with a JSON array of stages",
    "Stages that filter, narrow or add to events on the server; see docs/scope-and-filter.md.",
    MONGODB,
);
pub(super) const FIELD_POLICY_FILE: Setting = Setting::public(
    "FIELD_POLICY_FILE",
    None,
    "a TOML file with a [[rule]] for each rule",
    "Fields that are dropped, masked or hashed before anything leaves the source; see docs/privacy.md.",
    SOURCE,
);
pub(super) const FIELD_POLICY_KEY: Setting = Setting {
    name: "FIELD_POLICY_KEY",
    default: None,
    secret: Secrecy::Whole,
    expects: "a text of at least 32 characters, such as openssl rand -hex 32 gives",
    help: "Key of the hashes in FIELD_POLICY_FILE. Another key gives other hashes.",
    group: SOURCE,
};
pub(super) const FULL_DOCUMENT: Setting = Setting::public(
    "FULL_DOCUMENT",
    Some("updateLookup"),
    "default, updateLookup, batchedLookup, whenAvailable or required",
    "The document that an update event carries: none, as it is now (looked up one by one by MongoDB, or many at once by the source), or its post-image.",
    MONGODB,
);
pub(super) const FULL_DOCUMENT_BEFORE: Setting = Setting::public(
    "FULL_DOCUMENT_BEFORE",
    Some("whenAvailable"),
    "off, whenAvailable or required",
    "The document before the change, where its collection keeps pre-images; off for servers before 6.0.",
    MONGODB,
);
pub(super) const OVERSIZE: Setting = Setting::public(
    "OVERSIZE",
    Some("stop"),
    "stop or stub",
    "An event that is larger than MongoDB can send, or than its topic takes even compressed: end with code 78, or publish it without its documents.",
    SOURCE,
);
pub(super) const SOURCE_ID: Setting = Setting::public(
    "SOURCE_ID",
    Some("default"),
    "1 to 64 of a-z, 0-9 and '-'",
    "Name of this source: its position and its transactions go by it. A second instance with the same name takes over.",
    SOURCE,
);
pub(super) const START_FROM: Setting = Setting::public(
    "START_FROM",
    Some("now"),
    "now, snapshot, timestamp:<RFC 3339 or seconds> or token:<resume token>",
    "Where the very first start begins; snapshot copies what is there already. It has no effect once the source has a position, which `token set` moves.",
    SOURCE,
);
pub(super) const ON_POSITION_LOST: Setting = Setting::public(
    "ON_POSITION_LOST",
    Some("stop"),
    "stop, resume-at-oldest or snapshot",
    "What to do when MongoDB's oplog no longer has the position: end with code 20, or go on behind a gap that a marker in the control topic tells of.",
    SOURCE,
);
pub(super) const SNAPSHOT_PARALLELISM: Setting = Setting::public(
    "SNAPSHOT_PARALLELISM",
    Some("4"),
    "a number between 1 and 16",
    "Ranges of _id that a snapshot reads at the same time; each may hold a reply of up to 16 MB.",
    SOURCE,
);
pub(super) const SNAPSHOT_RATE: Setting = Setting::public(
    "SNAPSHOT_RATE",
    None,
    "rows per second, a number between 1 and 10000000",
    "How fast a snapshot may copy at most; as fast as it goes if not set.",
    SOURCE,
);
pub(super) const SNAPSHOT_FILTER_FILE: Setting = Setting::public(
    "SNAPSHOT_FILTER_FILE",
    None,
    "the path of a file with one JSON object: {\"db.coll\": {a query in Extended JSON}, …}",
    "Which documents of a collection a snapshot copies; all if the collection is not in it.",
    SOURCE,
);
pub(super) const KEY_FORMAT: Setting = Setting::public(
    "KEY_FORMAT",
    Some("json"),
    "json or plain",
    "The document's _id as record key: relaxed Extended JSON, or bare text. To be changed only after an orderly stop.",
    SOURCE,
);
pub(super) const EVENT_PROFILE: Setting = Setting::public(
    "EVENT_PROFILE",
    Some("atlas"),
    "atlas, debezium or mongo-kafka",
    "Whose records these are like: our own envelope, or what one of the two connectors writes; see docs/switching.md. To be changed only after an orderly stop.",
    SOURCE,
);
pub(super) const TOMBSTONES: Setting = Setting::public(
    "TOMBSTONES",
    None,
    "on or off",
    "Whether a deletion is followed by a record without a value, for compaction; if not set, only with EVENT_PROFILE=debezium.",
    SOURCE,
);
pub(super) const VALUE_FORMAT: Setting = Setting::public(
    "VALUE_FORMAT",
    Some("json"),
    "json or avro",
    "The record's value: the envelope as JSON, or the same in Avro with its schema in a registry; see docs/avro.md.",
    SOURCE,
);
pub(super) const JSON_DIALECT: Setting = Setting::public(
    "JSON_DIALECT",
    Some("relaxed"),
    "relaxed, canonical or plain",
    "How values of documents are written: Extended JSON v2, or bare values; see docs/values.md.",
    SOURCE,
);
pub(super) const TOKEN_INTERVAL: Setting = Setting::public(
    "TOKEN_INTERVAL",
    Some("10s"),
    "a duration between 100ms and 1h",
    "How often the position is committed while nothing happens in scope.",
    SOURCE,
);
pub(super) const TRANSACTION_TIMEOUT: Setting = Setting::public(
    "TRANSACTION_TIMEOUT",
    Some("30s"),
    "a duration between 2s and 15m",
    "How long Kafka leaves a transaction of ours open when we are gone; not above the brokers' transaction.max.timeout.ms.",
    SOURCE,
);
pub(super) const DELIVERY: Setting = Setting::public(
    "DELIVERY",
    Some("exactly-once"),
    "exactly-once or at-least-once",
    "Whether records and position are one Kafka transaction. at-least-once is for brokers without transactions: after a crash events come again.",
    SOURCE,
);
pub(super) const BROKER_CHECK: Setting = Setting::public(
    "BROKER_CHECK",
    Some("on"),
    "on or skip",
    "Whether every broker is asked for transaction.partition.verification.enable, which exactly-once rests on.",
    SOURCE,
);
pub(super) const TOPIC_PARTITIONS: Setting = Setting::public(
    "TOPIC_PARTITIONS",
    Some("3"),
    "a number between 1 and 10000",
    "Partitions of a new data topic.",
    TOPICS,
);
pub(super) const TOPIC_REPLICATION: Setting = Setting::public(
    "TOPIC_REPLICATION",
    None,
    "a number between 1 and 100",
    "Replicas of a new topic; 3 if not set, 1 when all brokers are on this machine.",
    TOPICS,
);
pub(super) const TOPIC_MIN_ISR: Setting = Setting::public(
    "TOPIC_MIN_ISR",
    None,
    "a number between 1 and TOPIC_REPLICATION",
    "Replicas that have to confirm a write; 2 if not set, 1 when all brokers are on this machine.",
    TOPICS,
);
pub(super) const TOPIC_RETENTION: Setting = Setting::public(
    "TOPIC_RETENTION",
    Some("14d"),
    "a duration between 1m and 10y",
    "How long a new topic keeps events, by their time.",
    TOPICS,
);
pub(super) const TOPIC_MAX_MESSAGE_BYTES: Setting = Setting::public(
    "TOPIC_MAX_MESSAGE_BYTES",
    Some("16MiB"),
    "a size between 1MiB and 100MiB",
    "Largest record of a topic after compression.",
    TOPICS,
);
pub(super) const TOPICS_FILE: Setting = Setting::public(
    "TOPICS_FILE",
    None,
    "the path of a TOML file with a table per collection",
    "Other partitions, replicas, retention or size for the topics of some collections; see kafka/topics.example.toml.",
    TOPICS,
);
pub(super) const ACCEPT_PARTITIONS: Setting = Setting::public(
    "ACCEPT_PARTITIONS",
    None,
    "<topic>:<number>, several by comma, each topic once",
    "Confirms that a topic's number of partitions has changed: the number it has now switches after an orderly stop, the former one keeps keys where they are.",
    TOPICS,
);

pub(super) const ADMIN_ADDR: Setting =
    admin_addr("127.0.0.1:9464", "an IP address with a port, such as 127.0.0.1:9464");

/// Everything that can be set.
pub(super) const TABLE: Table = &[
    &MONGO_URI,
    &MONGO_DATABASES,
    &MONGO_COLLECTIONS,
    &MONGO_EXCLUDE,
    &OPERATIONS,
    &PIPELINE_FILE,
    &FULL_DOCUMENT,
    &FULL_DOCUMENT_BEFORE,
    &SOURCE_ID,
    &START_FROM,
    &ON_POSITION_LOST,
    &OVERSIZE,
    &SNAPSHOT_PARALLELISM,
    &SNAPSHOT_RATE,
    &SNAPSHOT_FILTER_FILE,
    &KEY_FORMAT,
    &EVENT_PROFILE,
    &TOMBSTONES,
    &VALUE_FORMAT,
    &JSON_DIALECT,
    &FIELD_POLICY_FILE,
    &FIELD_POLICY_KEY,
    &TOKEN_INTERVAL,
    &TRANSACTION_TIMEOUT,
    &DELIVERY,
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
    &SCHEMA_REGISTRY_URL,
    &SCHEMA_REGISTRY_USERNAME,
    &SCHEMA_REGISTRY_PASSWORD,
    &SCHEMA_REGISTRY_SSL_CA,
    &TOPIC_PARTITIONS,
    &TOPIC_REPLICATION,
    &TOPIC_MIN_ISR,
    &TOPIC_RETENTION,
    &TOPIC_MAX_MESSAGE_BYTES,
    &TOPICS_FILE,
    &ACCEPT_PARTITIONS,
    &ADMIN_ADDR,
    &LOG_FORMAT,
    &LOG_LEVEL,
    &SHUTDOWN_TIMEOUT,
];

/// Names that users of similar scripts know, and those of later versions.
pub(super) const OLD_NAMES: &[OldName] = &[
    OldName { name: "MONGO_DB", answer: Answer::Means(&MONGO_DATABASES) },
    OldName { name: "MONGO_COLL", answer: Answer::Refused("MONGO_COLLECTIONS=<database>.<collection>") },
    OldName { name: "MONGO_FULL_DOC", answer: Answer::Means(&FULL_DOCUMENT) },
    OldName {
        name: "RESUME_TOKEN_PATH",
        answer: Answer::Replaced("nothing: the position lies in Kafka, beside the events"),
    },
    OldName::not_yet("COMMIT_INTERVAL"),
];

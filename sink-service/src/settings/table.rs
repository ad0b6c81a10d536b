//! The table of the sink's settings: names, defaults, and what people read about them.

use shared::{
    kafka_client::{
        KAFKA_BROKERS, KAFKA_OPTIONS, KAFKA_SASL_MECHANISM, KAFKA_SASL_PASSWORD, KAFKA_SASL_USERNAME,
        KAFKA_SECURITY_PROTOCOL, KAFKA_SSL_CA, KAFKA_SSL_CERT, KAFKA_SSL_KEY,
    },
    schema_registry::{
        SCHEMA_REGISTRY_PASSWORD, SCHEMA_REGISTRY_SSL_CA, SCHEMA_REGISTRY_URL, SCHEMA_REGISTRY_USERNAME,
    },
    settings::{
        Answer, DLQ_TOPIC, LOG_FORMAT, LOG_LEVEL, OldName, SHUTDOWN_TIMEOUT, Secrecy, Setting, TOPIC_PREFIX,
        Table, admin_addr,
    },
};

/// For `compare` alone.
pub(super) const MONGO_URI: Setting = Setting {
    help: "MongoDB that the source reads; only compare and verify --source ask it.",
    ..shared::settings::MONGO_URI
};

const LAKE: &str = "Lake";
const SINK: &str = "Sink";
const FILES: &str = "Files";

/// What of it may be a secret, against its purpose, is not shown.
const fn address(name: &'static str, expects: &'static str, help: &'static str) -> Setting {
    Setting { secret: Secrecy::Address, ..Setting::public(name, None, expects, help, LAKE) }
}

pub(super) const LAKE_URL: Setting = address(
    "LAKE_URL",
    "file:///directory, abfss://container@account.dfs.core.windows.net/base or \
     https://account.blob.core.windows.net/container/base",
    "Where the files go.",
);
pub(super) const LAKE_AUTH: Setting = Setting::public(
    "LAKE_AUTH",
    None,
    "workload-identity, managed-identity, client-secret, client-certificate, azure-cli, sas or shared-key",
    "How to get in; not needed for a local directory. See docs/lake/azure.md.",
    LAKE,
);
pub(super) const LAKE_ENDPOINT: Setting = address(
    "LAKE_ENDPOINT",
    "the Blob service's address, such as http://127.0.0.1:10000/devstoreaccount1",
    "Replaces scheme and host of LAKE_URL: an emulator, or a private endpoint.",
);
pub(super) const ADLS_SAS: Setting = Setting {
    name: "ADLS_SAS",
    default: None,
    secret: Secrecy::Whole,
    expects: "a shared access signature's query string, which has sig=…, with LAKE_AUTH=sas",
    help: "Shared access signature, with or without the question mark; needs read, add, create, write and list.",
    group: LAKE,
};
pub(super) const ADLS_SHARED_KEY: Setting = Setting {
    name: "ADLS_SHARED_KEY",
    default: None,
    secret: Secrecy::Whole,
    expects: "a storage account's key, in base64, with LAKE_AUTH=shared-key",
    help: "Key of the storage account.",
    group: LAKE,
};
pub(super) const AZURE_TENANT_ID: Setting = Setting::public(
    "AZURE_TENANT_ID",
    None,
    "the tenant's id, with LAKE_AUTH=workload-identity, client-secret or client-certificate",
    "Microsoft Entra tenant; with azure-cli another one than the default.",
    LAKE,
);
pub(super) const AZURE_CLIENT_ID: Setting = Setting::public(
    "AZURE_CLIENT_ID",
    None,
    "an application's id, with LAKE_AUTH=workload-identity, client-secret or client-certificate",
    "Application that asks for tokens; with managed-identity the user-assigned identity, if it is not the machine's own.",
    LAKE,
);
pub(super) const AZURE_CLIENT_SECRET: Setting = Setting {
    name: "AZURE_CLIENT_SECRET",
    default: None,
    secret: Secrecy::Whole,
    expects: "the application's secret, with LAKE_AUTH=client-secret",
    help: "Secret of the application.",
    group: LAKE,
};
pub(super) const AZURE_CLIENT_CERTIFICATE_PATH: Setting = Setting::public(
    "AZURE_CLIENT_CERTIFICATE_PATH",
    None,
    "a PKCS #12 file with the application's certificate and key, with LAKE_AUTH=client-certificate",
    "Certificate of the application.",
    LAKE,
);
pub(super) const AZURE_CLIENT_CERTIFICATE_PASSWORD: Setting = Setting {
    name: "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    default: None,
    secret: Secrecy::Whole,
    expects: "the password of AZURE_CLIENT_CERTIFICATE_PATH",
    help: "Password of the certificate's file, if it has one.",
    group: LAKE,
};
pub(super) const AZURE_FEDERATED_TOKEN_FILE: Setting = Setting::public(
    "AZURE_FEDERATED_TOKEN_FILE",
    None,
    "the file with the service account's token, with LAKE_AUTH=workload-identity",
    "Set by Kubernetes where workload identity is on.",
    LAKE,
);
pub(super) const AZURE_AUTHORITY_HOST: Setting = address(
    "AZURE_AUTHORITY_HOST",
    "an address such as https://login.microsoftonline.com",
    "Where tokens are asked for; by the cloud of LAKE_URL's host if not set.",
);
pub(super) const SINK_GROUP: Setting = Setting::public(
    "SINK_GROUP",
    Some("atlas-lake"),
    "1 to 200 characters",
    "Kafka consumer group; its members share the partitions.",
    SINK,
);
pub(super) const SINK_TOPICS: Setting = Setting::public(
    "SINK_TOPICS",
    None,
    "names of data topics, such as atlas.shop.orders, or atlas.control, separated by commas, with * for any characters",
    "Data topics to write; all under the prefix if not set. The control topic is written beside them, named or not. New ones are found within seconds.",
    SINK,
);
pub(super) const SINK_EXCLUDE: Setting = Setting::public(
    "SINK_EXCLUDE",
    None,
    "topic names under the prefix, separated by commas, with * for any characters",
    "Topics that are not written; `atlas.control` for the control topic.",
    SINK,
);
pub(super) const START_AT: Setting = Setting::public(
    "START_AT",
    Some("earliest"),
    "earliest or an RFC 3339 instant such as 2026-11-20T00:00:00Z",
    "Where the chain of a partition begins that has none yet; never read again after that.",
    SINK,
);
pub(super) const GROUP_INSTANCE_ID: Setting = Setting::public(
    "GROUP_INSTANCE_ID",
    None,
    "1 to 200 characters",
    "Static membership: a restart with the same id gets its partitions back without a rebalance.",
    SINK,
);
pub(super) const MEMORY_LIMIT: Setting = Setting::public(
    "MEMORY_LIMIT",
    Some("256MiB"),
    "a size between 16MiB and 64GiB",
    "What all partitions together may hold of records that are not durable yet; the process takes more (docs/architecture.md).",
    SINK,
);
pub(super) const UPLOAD_CONCURRENCY: Setting = Setting::public(
    "UPLOAD_CONCURRENCY",
    Some("8"),
    "a number between 1 and 256",
    "Partitions that are written to the lake at the same time; of one topic three quarters of them at most.",
    SINK,
);
pub(super) const FLUSH_INTERVAL: Setting = Setting::public(
    "FLUSH_INTERVAL",
    Some("5s"),
    "a duration between 100ms and 1h",
    "Age of the oldest record at which a partition is written; the knob for the price of requests.",
    FILES,
);
pub(super) const FLUSH_BYTES: Setting = Setting::public(
    "FLUSH_BYTES",
    Some("8MiB"),
    "a size between 64KiB and 1GiB",
    "Bytes at which a partition is written.",
    FILES,
);
pub(super) const FLUSH_ROWS: Setting = Setting::public(
    "FLUSH_ROWS",
    None,
    "a number between 1 and 10000000",
    "Records at which a partition is written; off if not set.",
    FILES,
);
pub(super) const KAFKA_GROUP_PROTOCOL: Setting = Setting::public(
    "KAFKA_GROUP_PROTOCOL",
    Some("classic"),
    "classic or consumer",
    "How the group shares its partitions: cooperatively by its members, or by the broker (KIP-848, Kafka 4.0 and later). All sinks of a group the same.",
    SINK,
);
pub(super) const PUBLISH: Setting = Setting::public(
    "PUBLISH",
    Some("rolling"),
    "rolling or sealed",
    "How files appear: at once, growing with every flush, or once, when they have ended, never to change again.",
    FILES,
);
pub(super) const ALLOW_VERSIONED: Setting = Setting::public(
    "ALLOW_VERSIONED",
    Some("false"),
    "true or false",
    "Lets files grow (PUBLISH=rolling) in an account without hierarchical namespace that keeps what is written over: each flush leaves a copy of the file.",
    FILES,
);
pub(super) const ROLL_BYTES: Setting = Setting::public(
    "ROLL_BYTES",
    Some("128MiB"),
    "0 for off, or a size up to 1TiB",
    "Uncompressed size at which a file ends within its hour.",
    FILES,
);
pub(super) const ROLL_ROWS: Setting = Setting::public(
    "ROLL_ROWS",
    Some("0"),
    "0 for off, or a number of rows",
    "Rows at which a file ends within its hour.",
    FILES,
);
pub(super) const COMPRESSION: Setting = Setting::public(
    "COMPRESSION",
    Some("none"),
    "none, gzip or zstd",
    "How new files are packed: one gzip member or zstd frame per flush. Files that have begun go on as they are.",
    FILES,
);
pub(super) const LINE_FORMAT: Setting = Setting::public(
    "LINE_FORMAT",
    Some("envelope"),
    "envelope or flat",
    "Lines of new files: the record as it is, or the document at the top level with what the event says beside it. All sinks of a lake the same (docs/lake/files.md).",
    FILES,
);
pub(super) const ROLL_AGE: Setting = Setting::public(
    "ROLL_AGE",
    None,
    "a duration between 1s and 1h",
    "Age at which a file ends within its hour; off if not set, but 2 h with PUBLISH=sealed.",
    FILES,
);
pub(super) const HOUR_GRACE: Setting = Setting::public(
    "HOUR_GRACE",
    Some("15m"),
    "a duration between 1s and 7d",
    "How long after its end an hour of a collection closes that no source of ours reads, by a broker's clock.",
    FILES,
);
pub(super) const TOPIC_MAX_MESSAGE_BYTES: Setting = Setting::public(
    "TOPIC_MAX_MESSAGE_BYTES",
    Some("16MiB"),
    "a size between 1MiB and 100MiB, as the source has it",
    "Largest record of a topic after compression; the dead-letter topic, if it has to be made, takes such records.",
    SINK,
);
pub(super) const DLQ_MAX_RATIO: Setting = Setting::public(
    "DLQ_MAX_RATIO",
    Some("5%"),
    "a percentage such as 5%, a share such as 0.05, or off",
    "Share of dead letters among the last 10,000 records or 10 minutes at which the sink stops (26), from 20 letters on.",
    SINK,
);
pub(super) const SCHEMA_CHECK_DIR: Setting = Setting::public(
    "SCHEMA_CHECK_DIR",
    None,
    "a folder of JSON Schemas, one file <database>.<collection>.json per collection",
    "Documents of these collections that break their schema become dead letters; see docs/dead-letters.md.",
    SINK,
);
pub(super) const ADMIN_ADDR: Setting =
    admin_addr("127.0.0.1:9465", "an IP address with a port, such as 127.0.0.1:9465");

/// Everything that can be set.
pub(super) const TABLE: Table = &[
    &LAKE_URL,
    &LAKE_AUTH,
    &LAKE_ENDPOINT,
    &ADLS_SAS,
    &ADLS_SHARED_KEY,
    &AZURE_TENANT_ID,
    &AZURE_CLIENT_ID,
    &AZURE_CLIENT_SECRET,
    &AZURE_CLIENT_CERTIFICATE_PATH,
    &AZURE_CLIENT_CERTIFICATE_PASSWORD,
    &AZURE_FEDERATED_TOKEN_FILE,
    &AZURE_AUTHORITY_HOST,
    &SINK_GROUP,
    &SINK_TOPICS,
    &SINK_EXCLUDE,
    &START_AT,
    &GROUP_INSTANCE_ID,
    &KAFKA_GROUP_PROTOCOL,
    &MEMORY_LIMIT,
    &UPLOAD_CONCURRENCY,
    &TOPIC_MAX_MESSAGE_BYTES,
    &FLUSH_INTERVAL,
    &FLUSH_BYTES,
    &FLUSH_ROWS,
    &PUBLISH,
    &ALLOW_VERSIONED,
    &ROLL_BYTES,
    &ROLL_ROWS,
    &ROLL_AGE,
    &COMPRESSION,
    &LINE_FORMAT,
    &HOUR_GRACE,
    &KAFKA_BROKERS,
    &TOPIC_PREFIX,
    &DLQ_TOPIC,
    &DLQ_MAX_RATIO,
    &SCHEMA_CHECK_DIR,
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
    &ADMIN_ADDR,
    &LOG_FORMAT,
    &LOG_LEVEL,
    &SHUTDOWN_TIMEOUT,
    &MONGO_URI,
];

/// Names that users of similar scripts know.
pub(super) const OLD_NAMES: &[OldName] = &[
    OldName { name: "MAX_FILE_BYTES", answer: Answer::Means(&ROLL_BYTES) },
    OldName {
        name: "ADLS_ACCOUNT_URL",
        answer: Answer::Replaced("LAKE_URL, with container and base path in it"),
    },
    OldName { name: "ADLS_FILESYSTEM", answer: Answer::Replaced("LAKE_URL, where it is the container") },
    OldName { name: "ADLS_BASE_PATH", answer: Answer::Replaced("LAKE_URL, where it is the path") },
    OldName { name: "BATCH_SIZE", answer: Answer::Replaced("FLUSH_ROWS, FLUSH_BYTES and FLUSH_INTERVAL") },
    OldName {
        name: "ROLL_MAX_HOURS",
        answer: Answer::Replaced("nothing: a file never spans hours; see ROLL_AGE"),
    },
    OldName {
        name: "MAX_RETRIES",
        answer: Answer::Replaced("nothing: a dependency that is down is waited for"),
    },
    OldName {
        name: "RETRY_DELAY_MS",
        answer: Answer::Replaced("nothing: 1 s doubling to 30 s, with jitter"),
    },
    OldName {
        name: "CHECKPOINT_INTERVAL_MS",
        answer: Answer::Replaced("nothing: positions are part of each flush"),
    },
    OldName {
        name: "EARLY_CUTOFF_THRESHOLD",
        answer: Answer::Replaced("MEMORY_LIMIT, at 90 % of which it flushes early"),
    },
    OldName {
        name: "INCLUDE_BATCH_ID",
        answer: Answer::Replaced("nothing: a file's metadata names its writer"),
    },
];

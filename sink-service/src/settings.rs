//! The sink's settings: the table, and what becomes of it.

use std::time::Duration;

use bytesize::ByteSize;
use chrono::{DateTime, Utc};
use shared::{
    kafka_client::{
        KAFKA_BROKERS, KAFKA_OLD_NAMES, KAFKA_OPTIONS, KAFKA_SASL_MECHANISM, KAFKA_SASL_PASSWORD,
        KAFKA_SASL_USERNAME, KAFKA_SECURITY_PROTOCOL, KAFKA_SSL_CA, KAFKA_SSL_CERT, KAFKA_SSL_KEY,
        KafkaSettings,
    },
    settings::{
        Answer, DLQ_TOPIC, Effective, Expected, LOG_FORMAT, LOG_LEVEL, OldName, ProcessSettings, Reader,
        SHUTDOWN_TIMEOUT, Secrecy, Setting, SettingsError, Sources, TOPIC_PREFIX, Table, admin_addr,
        dead_letter_topic,
    },
    topic_name::TopicNames,
};

use crate::{
    chain::RollPolicy,
    lake::{LakeAuth, LakeTarget, TargetError},
    publish::StartAt,
    topic_patterns::{TopicChoice, parse_topic_glob},
    writer::FlushPolicy,
};

const LAKE: &str = "Lake";
const SINK: &str = "Sink";
const FILES: &str = "Files";

const fn row(
    name: &'static str,
    default: Option<&'static str>,
    expects: &'static str,
    help: &'static str,
    group: &'static str,
) -> Setting {
    Setting { name, default, secret: Secrecy::Public, expects, help, group }
}

/// What of it may be a secret, against its purpose, is not shown.
const fn address(name: &'static str, expects: &'static str, help: &'static str) -> Setting {
    Setting { secret: Secrecy::Address, ..row(name, None, expects, help, LAKE) }
}

const LAKE_URL: Setting = address(
    "LAKE_URL",
    "file:///directory, abfss://container@account.dfs.core.windows.net/base or \
     https://account.blob.core.windows.net/container/base",
    "Where the files go.",
);
const LAKE_AUTH: Setting =
    row("LAKE_AUTH", None, "sas or shared-key", "How to get in; not needed for a local directory.", LAKE);
const LAKE_ENDPOINT: Setting = address(
    "LAKE_ENDPOINT",
    "the Blob service's address, such as http://127.0.0.1:10000/devstoreaccount1",
    "Replaces scheme and host of LAKE_URL: an emulator, or a private endpoint.",
);
const ADLS_SAS: Setting = Setting {
    name: "ADLS_SAS",
    default: None,
    secret: Secrecy::Whole,
    expects: "a shared access signature's query string, which has sig=…, with LAKE_AUTH=sas",
    help: "Shared access signature, with or without the question mark; needs read, add, create, write and list.",
    group: LAKE,
};
const ADLS_SHARED_KEY: Setting = Setting {
    name: "ADLS_SHARED_KEY",
    default: None,
    secret: Secrecy::Whole,
    expects: "a storage account's key, in base64, with LAKE_AUTH=shared-key",
    help: "Key of the storage account.",
    group: LAKE,
};
const SINK_GROUP: Setting = row(
    "SINK_GROUP",
    Some("atlas-lake"),
    "1 to 200 characters",
    "Kafka consumer group; its members share the partitions.",
    SINK,
);
const SINK_TOPICS: Setting = row(
    "SINK_TOPICS",
    None,
    "topic names under the prefix, separated by commas, with * for any characters",
    "Data topics to write; all under the prefix if not set. New ones are found within seconds.",
    SINK,
);
const SINK_EXCLUDE: Setting = row(
    "SINK_EXCLUDE",
    None,
    "topic names under the prefix, separated by commas, with * for any characters",
    "Data topics that are not written.",
    SINK,
);
const START_AT: Setting = row(
    "START_AT",
    Some("earliest"),
    "earliest or an RFC 3339 instant such as 2026-11-20T00:00:00Z",
    "Where the chain of a partition begins that has none yet; never read again after that.",
    SINK,
);
const GROUP_INSTANCE_ID: Setting = row(
    "GROUP_INSTANCE_ID",
    None,
    "1 to 200 characters",
    "Static membership: a restart with the same id gets its partitions back without a rebalance.",
    SINK,
);
const MEMORY_LIMIT: Setting = row(
    "MEMORY_LIMIT",
    Some("256MiB"),
    "a size between 16MiB and 64GiB",
    "What all partitions together may hold of records that are not durable yet.",
    SINK,
);
const UPLOAD_CONCURRENCY: Setting = row(
    "UPLOAD_CONCURRENCY",
    Some("8"),
    "a number between 1 and 256",
    "Partitions that are written to the lake at the same time.",
    SINK,
);
const FLUSH_INTERVAL: Setting = row(
    "FLUSH_INTERVAL",
    Some("5s"),
    "a duration between 100ms and 1h",
    "Age of the oldest record at which a partition is written; the knob for the price of requests.",
    FILES,
);
const FLUSH_BYTES: Setting = row(
    "FLUSH_BYTES",
    Some("8MiB"),
    "a size between 64KiB and 1GiB",
    "Bytes at which a partition is written.",
    FILES,
);
const FLUSH_ROWS: Setting = row(
    "FLUSH_ROWS",
    None,
    "a number between 1 and 10000000",
    "Records at which a partition is written; off if not set.",
    FILES,
);
const ROLL_BYTES: Setting = row(
    "ROLL_BYTES",
    Some("128MiB"),
    "0 for off, or a size up to 1TiB",
    "Uncompressed size at which a file ends within its hour.",
    FILES,
);
const ROLL_AGE: Setting = row(
    "ROLL_AGE",
    None,
    "a duration between 1s and 1h",
    "Age at which a file ends within its hour; off if not set.",
    FILES,
);
const TOPIC_MAX_MESSAGE_BYTES: Setting = row(
    "TOPIC_MAX_MESSAGE_BYTES",
    Some("16MiB"),
    "a size between 1MiB and 100MiB, as the source has it",
    "Largest record to expect, and the largest value that becomes a line; larger ones are dead letters.",
    SINK,
);
const ADMIN_ADDR: Setting = admin_addr("127.0.0.1:9465", "an IP address with a port, such as 127.0.0.1:9465");

/// Everything that can be set.
pub const TABLE: Table = &[
    &LAKE_URL,
    &LAKE_AUTH,
    &LAKE_ENDPOINT,
    &ADLS_SAS,
    &ADLS_SHARED_KEY,
    &SINK_GROUP,
    &SINK_TOPICS,
    &SINK_EXCLUDE,
    &START_AT,
    &GROUP_INSTANCE_ID,
    &MEMORY_LIMIT,
    &UPLOAD_CONCURRENCY,
    &TOPIC_MAX_MESSAGE_BYTES,
    &FLUSH_INTERVAL,
    &FLUSH_BYTES,
    &FLUSH_ROWS,
    &ROLL_BYTES,
    &ROLL_AGE,
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
    not_yet("PUBLISH"),
    not_yet("COMPRESSION"),
    not_yet("HOUR_GRACE"),
    not_yet("DLQ_MAX_RATIO"),
    not_yet("KAFKA_GROUP_PROTOCOL"),
    not_yet("ALLOW_VERSIONED"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum AuthMode {
    Sas,
    SharedKey,
}

/// All settings, typed and within bounds.
#[derive(Clone, Debug)]
pub struct SinkSettings {
    pub process: ProcessSettings,
    pub kafka: KafkaSettings,
    pub names: TopicNames,
    pub dead_letters: String,
    pub lake: LakeTarget,
    pub auth: Option<LakeAuth>,
    pub group: String,
    pub instance_id: Option<String>,
    pub topics: TopicChoice,
    pub start_at: StartAt,
    pub flush: FlushPolicy,
    pub roll: RollPolicy,
    pub uploads: usize,
}

/// Azure allows 50,000 committed blocks; a margin for the append that reaches the limit.
const BLOCKS_MAX: usize = 45_000;

impl SinkSettings {
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

fn read(reader: &mut Reader) -> Option<SinkSettings> {
    // Each is read before any is missed, so that all mistakes come together.
    let process = ProcessSettings::read(reader, &ADMIN_ADDR);
    let kafka = KafkaSettings::read(reader);
    let names: Option<TopicNames> = reader.required(&TOPIC_PREFIX);
    let dead_letters = names.as_ref().and_then(|names| dead_letter_topic(reader, names));
    let lake = read_lake(reader);
    let auth = read_auth(reader, lake.as_ref());
    let short = |text: &str| match text.len() {
        1..=200 => Ok(text.to_owned()),
        _ => Err(Expected::AsDeclared),
    };
    let group = reader.parsed(&SINK_GROUP, short);
    let instance_id = if reader.is_given(&GROUP_INSTANCE_ID) {
        reader.parsed(&GROUP_INSTANCE_ID, short).map(Some)
    } else {
        Some(None)
    };
    let topics = read_topics(reader, names.as_ref());
    let start_at = reader.parsed(&START_AT, |text| match text {
        "earliest" => Ok(StartAt::Earliest),
        instant => match DateTime::parse_from_rfc3339(instant) {
            Ok(at) => Ok(StartAt::Time(at.with_timezone(&Utc))),
            Err(_) => Err(Expected::AsDeclared),
        },
    });
    let flush = read_flush(reader);
    let roll = read_roll(reader);
    let uploads = reader.bounded(&UPLOAD_CONCURRENCY, 1..=256);
    Some(SinkSettings {
        process: process?,
        kafka: kafka?,
        names: names?,
        dead_letters: dead_letters?,
        lake: lake?,
        auth: auth?,
        group: group?,
        instance_id: instance_id?,
        topics: topics?,
        start_at: start_at?,
        flush: flush?,
        roll: roll?,
        uploads: uploads?,
    })
}

fn read_lake(reader: &mut Reader) -> Option<LakeTarget> {
    let endpoint: Option<String> = reader.optional(&LAKE_ENDPOINT);
    let url: String = reader.required(&LAKE_URL)?;
    match LakeTarget::parse(&url, endpoint.as_deref()) {
        Ok(target) => Some(target),
        Err(error) => {
            let (setting, problem) = match error {
                TargetError::Endpoint { problem, .. } => (&LAKE_ENDPOINT, problem.to_owned()),
                TargetError::Url { problem, .. } => (&LAKE_URL, problem.to_owned()),
                other => (&LAKE_URL, other.to_string()),
            };
            reader.refuse(setting, format!("{}; {problem}", setting.expects));
            None
        }
    }
}

/// The outer `None` if a mistake was recorded, the inner one if no credential is needed.
fn read_auth(reader: &mut Reader, lake: Option<&LakeTarget>) -> Option<Option<LakeAuth>> {
    let mode: Option<AuthMode> = reader.optional_choice(&LAKE_AUTH);
    let credential = |reader: &mut Reader, setting, parse: fn(&str) -> Result<LakeAuth, TargetError>| {
        let given = reader.is_given(setting);
        given.then(|| reader.parsed(setting, |text| parse(text).map_err(|_| Expected::AsDeclared)))
    };
    // `Some(None)`: it is given, and a mistake was recorded.
    let sas = credential(reader, &ADLS_SAS, LakeAuth::sas);
    let key = credential(reader, &ADLS_SHARED_KEY, LakeAuth::shared_key);
    if matches!(lake, Some(LakeTarget::Directory(_)) | None) {
        return if reader.is_given(&LAKE_AUTH) && mode.is_none() { None } else { Some(None) };
    }
    match (mode, sas, key) {
        (Some(AuthMode::Sas), Some(auth), _) | (Some(AuthMode::SharedKey), _, Some(auth)) => auth.map(Some),
        (Some(AuthMode::Sas), None, _) => {
            reader.refuse(&ADLS_SAS, ADLS_SAS.expects);
            None
        }
        (Some(AuthMode::SharedKey), _, None) => {
            reader.refuse(&ADLS_SHARED_KEY, ADLS_SHARED_KEY.expects);
            None
        }
        (None, Some(_), Some(_)) => {
            reader.refuse(&LAKE_AUTH, "sas or shared-key, because both ADLS_SAS and ADLS_SHARED_KEY are set");
            None
        }
        (None, ..) if reader.is_given(&LAKE_AUTH) => None,
        (None, ..) => {
            reader.refuse(
                &LAKE_AUTH,
                "sas (with ADLS_SAS) or shared-key (with ADLS_SHARED_KEY) for a lake on Azure",
            );
            None
        }
    }
}

fn read_topics(reader: &mut Reader, names: Option<&TopicNames>) -> Option<TopicChoice> {
    let list = |reader: &mut Reader, setting: &Setting| {
        if !reader.is_given(setting) {
            return Some(Vec::new());
        }
        reader.parsed(setting, |text| {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            let prefix = names.map(TopicNames::prefix).unwrap_or_default();
            items.map(|glob| parse_topic_glob(prefix, glob).ok_or(Expected::AsDeclared)).collect()
        })
    };
    let (included, excluded) = (list(reader, &SINK_TOPICS), list(reader, &SINK_EXCLUDE));
    Some(TopicChoice::new(names?, included?, excluded?))
}

fn read_flush(reader: &mut Reader) -> Option<FlushPolicy> {
    let interval = reader.bounded(&FLUSH_INTERVAL, Duration::from_millis(100)..=Duration::from_secs(3600));
    let bytes = reader.bounded(&FLUSH_BYTES, ByteSize::kib(64)..=ByteSize::gib(1));
    let rows = if reader.is_given(&FLUSH_ROWS) {
        reader.bounded(&FLUSH_ROWS, 1..=10_000_000_usize).map(Some)
    } else {
        Some(None)
    };
    let memory = reader.bounded(&MEMORY_LIMIT, ByteSize::mib(16)..=ByteSize::gib(64));
    let value = reader.bounded(&TOPIC_MAX_MESSAGE_BYTES, ByteSize::mib(1)..=ByteSize::mib(100));
    if let (Some(bytes), Some(memory)) = (bytes, memory)
        && bytes > memory
    {
        reader.refuse(&FLUSH_BYTES, format!("at most MEMORY_LIMIT, which is {memory}"));
    }
    Some(FlushPolicy {
        interval: interval?,
        bytes: bytes_of(bytes?),
        rows: rows?,
        memory_limit: bytes_of(memory?),
        value_bytes_max: bytes_of(value?),
    })
}

fn read_roll(reader: &mut Reader) -> Option<RollPolicy> {
    let bytes = reader.bounded(&ROLL_BYTES, ByteSize::b(0)..=ByteSize::tib(1));
    let age = if reader.is_given(&ROLL_AGE) {
        reader.bounded(&ROLL_AGE, Duration::from_secs(1)..=Duration::from_secs(3600)).map(Some)
    } else {
        Some(None)
    };
    let bytes = bytes?.as_u64();
    Some(RollPolicy { bytes: (bytes > 0).then_some(bytes), age: age?, blocks: BLOCKS_MAX })
}

fn bytes_of(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).expect("sizes are bounded far below the address space")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Result<SinkSettings, SettingsError> {
        SinkSettings::read(sources(pairs)).map(|(settings, _)| settings)
    }

    #[test]
    fn a_directory_needs_no_credential() {
        let settings =
            settings(&[("LAKE_URL", "file:///lake"), ("KAFKA_BROKERS", "127.0.0.1:9092")]).unwrap();
        assert_eq!(settings.lake, LakeTarget::Directory("/lake".into()));
        assert!(settings.auth.is_none());
        assert_eq!(settings.roll.bytes, Some(128 << 20));
        assert_eq!(settings.flush.interval, Duration::from_secs(5));
    }

    #[test]
    fn all_mistakes_come_at_once() {
        let error = settings(&[
            ("LAKE_URL", "s3://bucket"),
            ("FLUSH_INTERVAL", "5"),
            ("MEMORY_LIMIT", "1MiB"),
            ("START_AT", "latest"),
            ("SINK_TOPICS", "other.topic"),
        ])
        .unwrap_err();
        let mut names: Vec<&str> = error.mistakes.iter().map(|mistake| mistake.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["FLUSH_INTERVAL", "KAFKA_BROKERS", "LAKE_URL", "MEMORY_LIMIT", "SINK_TOPICS", "START_AT"]
        );
    }

    #[test]
    fn two_credentials_need_a_choice() {
        let azure = [
            ("LAKE_URL", "abfss://lake@account.dfs.core.windows.net/base"),
            ("KAFKA_BROKERS", "127.0.0.1:9092"),
            ("ADLS_SAS", "?sv=1&sig=verysecret"),
            ("ADLS_SHARED_KEY", "c2VjcmV0"),
        ];
        let text = settings(&azure).unwrap_err().to_string();
        assert!(
            text.contains("LAKE_AUTH") && !text.contains("verysecret") && !text.contains("c2VjcmV0"),
            "{text}"
        );
        let chosen = [&azure[..], &[("LAKE_AUTH", "shared-key")]].concat();
        assert!(matches!(settings(&chosen).unwrap().auth, Some(LakeAuth::SharedKey(_))));
    }

    const PLANTED: &str = "geheim";
    const AZURE: [(&str, &str); 2] =
        [("LAKE_URL", "abfss://lake@account.dfs.core.windows.net/base"), ("KAFKA_BROKERS", "127.0.0.1:9092")];

    fn sources(pairs: &[(&str, &str)]) -> Sources {
        let environment =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Sources { environment, ..Sources::default() }
    }

    /// Valid and invalid values; each holds the secret where one can be by intent or by mistake.
    #[test]
    fn no_setting_shows_a_secret() {
        for (name, value) in [
            ("LAKE_URL", "https://account.blob.core.windows.net/lake?sig=geheim"),
            ("LAKE_URL", "https://account.blob.core.windows.net/lake?sig=ge@geheim"),
            ("LAKE_URL", "https://u:geheim@account.blob.core.windows.net/lake"),
            ("LAKE_URL", "https://geheim@account.blob.core.windows.net/lake"),
            ("LAKE_URL", "abfss://lake:geheim@account.dfs.core.windows.net/lake"),
            ("LAKE_URL", "s3://u:geheim@bucket#geheim"),
            ("LAKE_URL", "sv=1&sig=geheim"),
            ("LAKE_ENDPOINT", "http://u:geheim@127.0.0.1:1/account"),
            ("LAKE_ENDPOINT", "http://127.0.0.1:1/account?sig=geheim"),
            ("LAKE_ENDPOINT", "ftp://u:geheim@127.0.0.1"),
            ("ADLS_SAS", "?sv=1&sig=geheim"),
            ("ADLS_SAS", "geheim"),
            ("ADLS_SAS_FILE", "sig=geheim"),
            ("ADLS_SHARED_KEY", "geheimgeheim"),
            ("ADLS_SHARED_KEY", "geheim!"),
            ("ADLS_SHARED_KEY_FILE", "geheim=="),
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
            for auth in ["sas", "shared-key"] {
                let values = [&AZURE[..], &[("LAKE_AUTH", auth), (name, value)]].concat();
                let (effective, error) = effective(sources(&values));
                let shown = format!("{effective}{}{effective:?}{error:?}", effective.to_json());
                let mistakes = error.map(|error| error.to_string()).unwrap_or_default();
                assert!(
                    !shown.contains(PLANTED) && !mistakes.contains(PLANTED),
                    "{name}: {shown} {mistakes}"
                );
                if let Ok(settings) = settings(&values) {
                    assert!(!format!("{settings:?}").contains(PLANTED), "{name}");
                }
            }
        }
    }

    #[test]
    fn a_mistake_stands_under_its_own_name_and_once() {
        let line = |pairs: &[(&str, &str)]| {
            let pairs =
                [&AZURE[..], &[("LAKE_AUTH", "shared-key"), ("ADLS_SHARED_KEY", "a2V5")], pairs].concat();
            settings(&pairs).unwrap_err().to_string()
        };
        let expects = LAKE_URL.expects;
        assert_eq!(
            line(&[("LAKE_URL", "s3://x")]),
            format!(
                "1 mistake in the settings:\nLAKE_URL=\"s3://x\": expected {expects}; its scheme is not known"
            )
        );
        assert!(
            line(&[("LAKE_ENDPOINT", "ftp://h")]).contains("\nLAKE_ENDPOINT=\"ftp://h\": expected the Blob")
        );
        assert!(line(&[("ADMIN_ADDR", "x")]).contains("127.0.0.1:9465"));
        assert!(line(&[("ADLS_SHARED_KEY", "no base64!")]).contains("\nADLS_SHARED_KEY=\"***\": expected"));
        assert!(line(&[("ADLS_SAS", "sv=1&sp=r")]).contains("\nADLS_SAS=\"***\": expected"));
    }

    #[test]
    fn names_of_later_versions_are_refused() {
        let refused: Vec<_> =
            OLD_NAMES.iter().filter(|old| matches!(old.answer, Answer::Refused(_))).collect();
        assert_eq!(refused.len(), 6);
        for old in refused {
            let pairs = [("LAKE_URL", "file:///lake"), AZURE[1], (old.name, "x")];
            let error = settings(&pairs).unwrap_err().to_string();
            assert!(error.contains(&format!("\n{}=\"x\": expected nothing", old.name)), "{error}");
        }
    }
}

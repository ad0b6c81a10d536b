//! The sink's settings: what becomes of the table's values.

mod credentials;
mod table;

use std::{path::Path, time::Duration};

use bytesize::ByteSize;
use chrono::{DateTime, Utc};
use shared::{
    kafka_client::KafkaSettings,
    schema_registry::RegistrySettings,
    settings::{
        Catalogue, Effective, Expected, ProcessSettings, Reader, Secret, SettingsError, Sources,
        dead_letter_topic, mongo_uri,
    },
    topic_name::TopicNames,
};

use self::credentials::read_auth;
use self::table::{
    ADMIN_ADDR, ALLOW_VERSIONED, COMPRESSION, DLQ_MAX_RATIO, FLUSH_BYTES, FLUSH_INTERVAL, FLUSH_ROWS,
    GROUP_INSTANCE_ID, HOUR_GRACE, KAFKA_GROUP_PROTOCOL, LAKE_ENDPOINT, LAKE_URL, LINE_FORMAT, MEMORY_LIMIT,
    MONGO_URI, OLD_NAMES, PUBLISH, ROLL_AGE, ROLL_BYTES, ROLL_ROWS, SCHEMA_CHECK_DIR, SINK_EXCLUDE,
    SINK_GROUP, SINK_TOPICS, START_AT, TABLE, TOPIC_MAX_MESSAGE_BYTES, UPLOAD_CONCURRENCY,
};
use crate::{
    chain::{FilePolicy, Publishing},
    compression::Compression,
    consumer::GroupProtocol,
    dead_letter_breaker::MaxRatio,
    lake::{LakeAuth, LakeTarget, TargetError},
    lake_account::AccountUse,
    publish::StartAt,
    schema_check::SchemaChecks,
    topic_patterns::{TopicChoice, can_be_archived, parse_topic_glob},
    writer::FlushPolicy,
};

/// Everything that the sink can be told.
pub const CATALOGUE: Catalogue = Catalogue { table: TABLE, old_names: OLD_NAMES };

/// All settings, typed and within bounds.
#[derive(Clone, Debug)]
pub struct SinkSettings {
    pub process: ProcessSettings,
    pub kafka: KafkaSettings,
    /// Where the schemas of records in Avro are.
    pub registry: Option<RegistrySettings>,
    pub names: TopicNames,
    pub dead_letters: String,
    /// The MongoDB behind the source: only for looking at.
    pub mongo_uri: Option<Secret>,
    pub lake: LakeTarget,
    pub auth: Option<LakeAuth>,
    pub group: String,
    pub instance_id: Option<String>,
    pub group_protocol: GroupProtocol,
    pub topics: TopicChoice,
    pub start_at: StartAt,
    pub flush: FlushPolicy,
    /// The source's limit of a topic's records, in bytes.
    pub topic_message_bytes: u64,
    pub files: FilePolicy,
    pub compression: Compression,
    /// Files may grow where each flush leaves a version.
    pub allow_versioned: bool,
    pub hour_grace: Duration,
    /// `None`: the breaker never opens.
    pub dlq_max_ratio: Option<MaxRatio>,
    /// What documents must be; of no collection unless it is asked for.
    pub schema_checks: SchemaChecks,
    pub uploads: usize,
}

/// What is staged is kept by Kafka alone, and a source that stands still ends no hour: then the file ends by its age.
const STAGED_AGE_MAX: Duration = Duration::from_secs(2 * 3600);

impl SinkSettings {
    /// Reads everything, and says every mistake at once.
    ///
    /// # Errors
    /// All mistakes.
    pub fn read(sources: Sources) -> Result<(Self, Effective), SettingsError> {
        CATALOGUE.read(sources, read)
    }

    /// What of them a storage account bears on.
    pub fn account_use(&self) -> AccountUse {
        AccountUse { publishing: self.files.publishing, versions_allowed: self.allow_versioned }
    }
}

/// What holds, for `config show`, and the mistakes in it.
pub fn effective(sources: Sources) -> (Effective, Option<SettingsError>) {
    CATALOGUE.effective(sources, read)
}

fn read(reader: &mut Reader) -> Option<SinkSettings> {
    // Each is read before any is missed, so that all mistakes come together.
    let process = ProcessSettings::read(reader, &ADMIN_ADDR);
    let kafka = KafkaSettings::read(reader);
    let registry = RegistrySettings::read(reader);
    let names: Option<TopicNames> = reader.required(&shared::settings::TOPIC_PREFIX);
    let dead_letters = names.as_ref().and_then(|names| dead_letter_topic(reader, names));
    let mongo_uri = if reader.is_given(&MONGO_URI) { mongo_uri(reader).map(Some) } else { Some(None) };
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
    let group_protocol = reader.choice(&KAFKA_GROUP_PROTOCOL);
    let topics = read_topics(reader, names.as_ref());
    refuse_excludes(reader, group_protocol, topics.as_ref());
    let start_at = reader.parsed(&START_AT, |text| match text {
        "earliest" => Ok(StartAt::Earliest),
        instant => match DateTime::parse_from_rfc3339(instant) {
            Ok(at) => Ok(StartAt::Time(at.with_timezone(&Utc))),
            Err(_) => Err(Expected::AsDeclared),
        },
    });
    let flush = read_flush(reader);
    let topic_message_bytes = reader.bounded(&TOPIC_MAX_MESSAGE_BYTES, ByteSize::mib(1)..=ByteSize::mib(100));
    let files = read_files(reader);
    let compression = reader.choice(&COMPRESSION);
    let allow_versioned = reader.required(&ALLOW_VERSIONED);
    let hour_grace = reader.bounded(&HOUR_GRACE, Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600));
    let dlq_max_ratio =
        reader.parsed(&DLQ_MAX_RATIO, |text| MaxRatio::parse(text).ok_or(Expected::AsDeclared));
    let schema_checks = read_schema_checks(reader, names.as_ref());
    let uploads = reader.bounded(&UPLOAD_CONCURRENCY, 1..=256);
    Some(SinkSettings {
        process: process?,
        kafka: kafka?,
        registry: registry?,
        names: names?,
        dead_letters: dead_letters?,
        mongo_uri: mongo_uri?,
        lake: lake?,
        auth: auth?,
        group: group?,
        instance_id: instance_id?,
        group_protocol: group_protocol?,
        topics: topics?,
        start_at: start_at?,
        flush: flush?,
        topic_message_bytes: topic_message_bytes?.as_u64(),
        files: files?,
        compression: compression?,
        allow_versioned: allow_versioned?,
        hour_grace: hour_grace?,
        dlq_max_ratio: dlq_max_ratio?,
        schema_checks: schema_checks?,
        uploads: uploads?,
    })
}

/// Topics that are left out are left out by the client, which has no say where the broker assigns.
fn refuse_excludes(reader: &mut Reader, protocol: Option<GroupProtocol>, topics: Option<&TopicChoice>) {
    if protocol == Some(GroupProtocol::Consumer) && topics.is_some_and(|topics| !topics.excludes.is_empty()) {
        reader.refuse(
            &SINK_EXCLUDE,
            "nothing together with KAFKA_GROUP_PROTOCOL=consumer, where the broker goes by SINK_TOPICS alone; say there what is wanted",
        );
    }
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

fn read_topics(reader: &mut Reader, names: Option<&TopicNames>) -> Option<TopicChoice> {
    let prefix = names.map(TopicNames::prefix).unwrap_or_default();
    let parse = |glob: &str| parse_topic_glob(prefix, glob).ok_or(Expected::AsDeclared);
    let included = reader.list(&SINK_TOPICS, |glob| match names {
        Some(names) if !can_be_archived(names, glob) => Err(Expected::AsDeclared),
        _ => parse(glob),
    });
    let excluded = reader.list(&SINK_EXCLUDE, parse);
    Some(TopicChoice::new(names?, included?, excluded?))
}

fn read_schema_checks(reader: &mut Reader, names: Option<&TopicNames>) -> Option<SchemaChecks> {
    if !reader.is_given(&SCHEMA_CHECK_DIR) {
        return Some(SchemaChecks::default());
    }
    // The files are read whatever else is wrong, so that all mistakes come together; what a name means hardly depends on the prefix.
    let stand_in = TopicNames::new("atlas").expect("a prefix");
    let folder: String = reader.required(&SCHEMA_CHECK_DIR)?;
    match SchemaChecks::read(Path::new(&folder), names.unwrap_or(&stand_in)) {
        Ok(checks) => Some(checks),
        Err(mistakes) => {
            mistakes.into_iter().for_each(|mistake| reader.refuse(&SCHEMA_CHECK_DIR, mistake));
            None
        }
    }
}

fn read_flush(reader: &mut Reader) -> Option<FlushPolicy> {
    let interval = reader.bounded(&FLUSH_INTERVAL, Duration::from_millis(100)..=Duration::from_secs(3600));
    let bytes = reader.bounded(&FLUSH_BYTES, ByteSize::kib(64)..=ByteSize::gib(1));
    let rows = reader.optional_bounded(&FLUSH_ROWS, 1..=10_000_000_usize);
    let memory = reader.bounded(&MEMORY_LIMIT, ByteSize::mib(16)..=ByteSize::gib(64));
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
    })
}

fn read_files(reader: &mut Reader) -> Option<FilePolicy> {
    let bytes = reader.bounded(&ROLL_BYTES, ByteSize::b(0)..=ByteSize::tib(1));
    let age = reader.optional_bounded(&ROLL_AGE, Duration::from_secs(1)..=Duration::from_secs(3600));
    let rows = reader.bounded(&ROLL_ROWS, 0..=u64::MAX);
    let publishing = reader.choice(&PUBLISH);
    let line_format = reader.choice(&LINE_FORMAT);
    let bytes = bytes?.as_u64();
    let publishing = publishing?;
    let age_max = match publishing {
        Publishing::Rolling => None,
        Publishing::Sealed => Some(STAGED_AGE_MAX),
    };
    Some(FilePolicy {
        publishing,
        line_format: line_format?,
        rows: rows.map(|rows| (rows > 0).then_some(rows))?,
        bytes: (bytes > 0).then_some(bytes),
        age: age?.or(age_max),
        ..FilePolicy::default()
    })
}

fn bytes_of(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).expect("sizes are bounded far below the address space")
}

#[cfg(test)]
mod tests;

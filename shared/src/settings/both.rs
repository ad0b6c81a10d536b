//! The settings that both services have. Those of the Kafka client are beside it, in [`crate::kafka_client`].

use std::net::SocketAddr;
use std::time::Duration;

use super::{Expected, FromSetting, Reader, Secrecy, Secret, Setting};
use crate::telemetry::{LogFormat, parse_level};
use crate::topic_name::TopicNames;

/// The heading of what every process has.
pub const GROUP_PROCESS: &str = "Process";

/// `ADMIN_ADDR`, whose default port differs between the services; `expects` names it.
#[must_use]
pub const fn admin_addr(default: &'static str, expects: &'static str) -> Setting {
    Setting {
        name: "ADMIN_ADDR",
        default: Some(default),
        secret: Secrecy::Public,
        expects,
        help: "Where /livez, /readyz, /metrics and /status are served; port 0 takes a free one.",
        group: GROUP_PROCESS,
    }
}

/// Text or JSON.
pub const LOG_FORMAT: Setting = Setting {
    name: "LOG_FORMAT",
    default: None,
    secret: Secrecy::Public,
    expects: "json or human",
    help: "Form of the log lines on standard error; human on a terminal and json elsewhere if not set.",
    group: GROUP_PROCESS,
};

/// How much is logged.
pub const LOG_LEVEL: Setting = Setting {
    name: "LOG_LEVEL",
    default: Some("info"),
    secret: Secrecy::Public,
    expects: "error, warn, info, debug or trace, also per part: info,librdkafka=debug",
    help: "What is logged.",
    group: GROUP_PROCESS,
};

/// How long an orderly stop may take.
pub const SHUTDOWN_TIMEOUT: Setting = Setting {
    name: "SHUTDOWN_TIMEOUT",
    default: Some("30s"),
    secret: Secrecy::Public,
    expects: "a duration between 1s and 1h",
    help: "Time to drain after SIGTERM or SIGINT; the process is ended when it is over.",
    group: GROUP_PROCESS,
};

/// MongoDB. The source reads it, the sink's `compare` asks it.
pub const MONGO_URI: Setting = Setting {
    name: "MONGO_URI",
    default: None,
    secret: Secrecy::Uri,
    expects: "mongodb://host:port/?replicaSet=name or mongodb+srv://host",
    help: "MongoDB replica set or sharded cluster to read from.",
    group: "MongoDB",
};

/// Reads [`MONGO_URI`]; what is behind the scheme, the driver judges.
pub fn mongo_uri(reader: &mut Reader) -> Option<Secret> {
    reader.parsed(&MONGO_URI, |text| {
        let known = text.starts_with("mongodb://") || text.starts_with("mongodb+srv://");
        if known { Ok(Secret::new(text)) } else { Err(Expected::AsDeclared) }
    })
}

/// The first part of every topic name.
pub const TOPIC_PREFIX: Setting = Setting {
    name: "TOPIC_PREFIX",
    default: Some("atlas"),
    secret: Secrecy::Public,
    expects: "letters, digits, '.', '_' or '-', at most 100 characters, not starting with a dot",
    help: "First part of every topic name: <prefix>.<db>.<coll>.",
    group: "Kafka",
};

/// Where records go that cannot be written.
pub const DLQ_TOPIC: Setting = Setting {
    name: "DLQ_TOPIC",
    default: None,
    secret: Secrecy::Public,
    expects: "a topic name of Kafka's that is neither a data topic nor one of ours for another use",
    help: "Dead-letter topic; <prefix>.dlq if not set.",
    group: "Kafka",
};

impl FromSetting for TopicNames {
    fn from_setting(text: &str) -> Result<Self, Expected> {
        Self::new(text).map_err(Expected::exactly)
    }
}

/// The dead-letter topic: [`DLQ_TOPIC`], else the one under the prefix. `None` if a mistake was recorded.
///
/// A name that decodes to a namespace would be read back as data, and a dead letter would never come to rest.
pub fn dead_letter_topic(reader: &mut Reader, names: &TopicNames) -> Option<String> {
    if !reader.is_given(&DLQ_TOPIC) {
        return Some(names.dead_letters());
    }
    reader.parsed(&DLQ_TOPIC, |topic| {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let taken = names.decode(topic).is_some()
            || topic == names.control()
            || topic.starts_with(&names.resume_tokens(""));
        let valid = topic.len() <= 249 && topic != "." && topic != ".." && topic.chars().all(legal);
        if valid && !taken { Ok(topic.to_owned()) } else { Err(Expected::AsDeclared) }
    })
}

/// What every process needs before it does anything.
#[derive(Clone, Debug)]
pub struct ProcessSettings {
    pub admin_addr: SocketAddr,
    pub log_format: LogFormat,
    /// Checked env-filter text.
    pub log_level: String,
    pub shutdown_timeout: Duration,
}

impl ProcessSettings {
    /// `admin_addr` is the service's row made by [`admin_addr`]. `None` if a mistake was recorded.
    pub fn read(reader: &mut Reader, admin_addr: &'static Setting) -> Option<Self> {
        let admin_addr = reader.required(admin_addr);
        let log_format = reader.optional_choice(&LOG_FORMAT);
        let log_level = reader.parsed(&LOG_LEVEL, |text| match parse_level(text) {
            Ok(_) => Ok(text.to_owned()),
            Err(_) => Err(Expected::AsDeclared),
        });
        let shutdown_timeout =
            reader.bounded(&SHUTDOWN_TIMEOUT, Duration::from_secs(1)..=Duration::from_secs(3600));
        Some(Self {
            admin_addr: admin_addr?,
            log_format: log_format.unwrap_or_else(LogFormat::for_stderr),
            log_level: log_level?,
            shutdown_timeout: shutdown_timeout?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::super::{Sources, Table};
    use super::*;

    const ADMIN_ADDR: Setting = admin_addr("127.0.0.1:9464", "an IP address with a port");
    const TABLE: Table =
        &[&ADMIN_ADDR, &LOG_FORMAT, &LOG_LEVEL, &SHUTDOWN_TIMEOUT, &TOPIC_PREFIX, &DLQ_TOPIC];

    fn reader(pairs: &[(&str, &str)]) -> Reader {
        let environment = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Reader::new(TABLE, &[], Sources { environment: environment.collect(), ..Sources::default() })
    }

    #[test]
    fn the_defaults_are_valid() {
        let mut reader = reader(&[]);
        let process = ProcessSettings::read(&mut reader, &ADMIN_ADDR).unwrap();
        assert_eq!(process.admin_addr.to_string(), "127.0.0.1:9464");
        assert_eq!((process.log_level.as_str(), process.shutdown_timeout.as_secs()), ("info", 30));
        let names = reader.required::<TopicNames>(&TOPIC_PREFIX).unwrap();
        assert_eq!(dead_letter_topic(&mut reader, &names).unwrap(), "atlas.dlq");
    }

    #[test]
    fn a_dead_letter_topic_is_never_one_that_is_read_as_something_else() {
        let chosen = |topic| {
            let mut reader = reader(&[("DLQ_TOPIC", topic)]);
            let names = reader.required::<TopicNames>(&TOPIC_PREFIX).unwrap();
            dead_letter_topic(&mut reader, &names)
        };
        assert_eq!(chosen("letters").unwrap(), "letters");
        for topic in ["atlas.shop.orders", "atlas.control", "atlas.resume-tokens-default", "a b", ".."] {
            assert_eq!(chosen(topic), None, "{topic}");
        }
    }

    #[test]
    fn mistakes_of_the_process_come_together() {
        let mut reader = reader(&[
            ("ADMIN_ADDR", "localhost"),
            ("LOG_FORMAT", "xml"),
            ("LOG_LEVEL", "info=loud=very"),
            ("SHUTDOWN_TIMEOUT", "2h"),
        ]);
        assert!(ProcessSettings::read(&mut reader, &ADMIN_ADDR).is_none());
        assert_eq!(reader.finish(None::<()>).unwrap_err().mistakes.len(), 4);
    }
}

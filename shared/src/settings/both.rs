//! The settings that both services have. Those of the Kafka client are beside it, in [`crate::kafka_client`].

use std::net::SocketAddr;
use std::time::Duration;

use super::{Expected, Reader, Secrecy, Setting};
use crate::telemetry::{LogFormat, parse_level};

/// The heading of what every process has.
pub const GROUP_PROCESS: &str = "Process";

/// What `ADMIN_ADDR` must be.
pub const ADMIN_ADDR_EXPECTS: &str = "an IP address with a port, such as 127.0.0.1:9464";

/// `ADMIN_ADDR`, whose default port differs between the services.
#[must_use]
pub const fn admin_addr(default: &'static str) -> Setting {
    Setting {
        name: "ADMIN_ADDR",
        default: Some(default),
        secret: Secrecy::Public,
        expects: ADMIN_ADDR_EXPECTS,
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

/// The first part of every topic name.
pub const TOPIC_PREFIX: Setting = Setting {
    name: "TOPIC_PREFIX",
    default: Some("atlas"),
    secret: Secrecy::Public,
    expects: "1 to 64 of a-z, A-Z, 0-9, '-' and '_'",
    help: "First part of every topic name: <prefix>.<db>.<coll>.",
    group: "Kafka",
};

/// Where records go that cannot be written.
pub const DLQ_TOPIC: Setting = Setting {
    name: "DLQ_TOPIC",
    default: None,
    secret: Secrecy::Public,
    expects: "a topic name",
    help: "Dead-letter topic; <prefix>.dlq if not set.",
    group: "Kafka",
};

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

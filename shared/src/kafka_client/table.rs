//! The rows of the Kafka client in the table of settings.

use crate::settings::{Answer, OldName, Secrecy, Setting};

const GROUP: &str = "Kafka";

const fn public(
    name: &'static str,
    default: Option<&'static str>,
    expects: &'static str,
    help: &'static str,
) -> Setting {
    Setting { name, default, secret: Secrecy::Public, expects, help, group: GROUP }
}

/// Where the cluster is.
pub const KAFKA_BROKERS: Setting =
    public("KAFKA_BROKERS", None, "host:port, several by comma", "Kafka brokers to connect to first.");

/// `security.protocol`.
pub const KAFKA_SECURITY_PROTOCOL: Setting = public(
    "KAFKA_SECURITY_PROTOCOL",
    Some("plaintext"),
    "plaintext, ssl, sasl_plaintext or sasl_ssl",
    "How connections are secured.",
);

/// `sasl.mechanism`.
pub const KAFKA_SASL_MECHANISM: Setting = public(
    "KAFKA_SASL_MECHANISM",
    Some("scram-sha-512"),
    "plain, scram-sha-256 or scram-sha-512",
    "How to log in; plain only over TLS or on loopback.",
);

/// `sasl.username`.
pub const KAFKA_SASL_USERNAME: Setting = public(
    "KAFKA_SASL_USERNAME",
    None,
    "a user name, with KAFKA_SECURITY_PROTOCOL=sasl_ssl or sasl_plaintext",
    "Who logs in.",
);

/// `sasl.password`.
pub const KAFKA_SASL_PASSWORD: Setting = Setting {
    secret: Secrecy::Whole,
    ..public(
        "KAFKA_SASL_PASSWORD",
        None,
        "a password, with KAFKA_SECURITY_PROTOCOL=sasl_ssl or sasl_plaintext",
        "The password of KAFKA_SASL_USERNAME.",
    )
};

/// `ssl.ca.location`.
pub const KAFKA_SSL_CA: Setting = public(
    "KAFKA_SSL_CA",
    None,
    "the path of a readable PEM file",
    "Certificates that sign the brokers' ones; the system's if not set.",
);

/// `ssl.certificate.location`.
pub const KAFKA_SSL_CERT: Setting = public(
    "KAFKA_SSL_CERT",
    None,
    "the path of a readable PEM file, together with KAFKA_SSL_KEY",
    "Client certificate.",
);

/// `ssl.key.location`.
pub const KAFKA_SSL_KEY: Setting = public(
    "KAFKA_SSL_KEY",
    None,
    "the path of a readable PEM file, together with KAFKA_SSL_CERT",
    "Key of the client certificate, not encrypted.",
);

/// Anything else.
pub const KAFKA_OPTIONS: Setting = Setting {
    secret: Secrecy::Options,
    ..public(
        "KAFKA_OPTIONS",
        None,
        "name=value, several by comma",
        "Further librdkafka properties; what a promise rests on is refused.",
    )
};

/// Names from other tools for the settings above.
pub const KAFKA_OLD_NAMES: &[OldName] = &[
    OldName { name: "KAFKA_BOOTSTRAP_SERVERS", answer: Answer::Means(&KAFKA_BROKERS) },
    OldName { name: "KAFKA_USERNAME", answer: Answer::Means(&KAFKA_SASL_USERNAME) },
    OldName { name: "KAFKA_PASSWORD", answer: Answer::Means(&KAFKA_SASL_PASSWORD) },
    OldName { name: "KAFKA_SSL", answer: Answer::Replaced("use KAFKA_SECURITY_PROTOCOL=ssl or sasl_ssl") },
    OldName {
        name: "KAFKA_SASL",
        answer: Answer::Replaced("use KAFKA_SECURITY_PROTOCOL=sasl_ssl and KAFKA_SASL_MECHANISM"),
    },
];

/// All of them, for tests; a service lists them in its own table.
#[cfg(test)]
pub(super) const TABLE: crate::settings::Table = &[
    &KAFKA_BROKERS,
    &KAFKA_SECURITY_PROTOCOL,
    &KAFKA_SASL_MECHANISM,
    &KAFKA_SASL_USERNAME,
    &KAFKA_SASL_PASSWORD,
    &KAFKA_SSL_CA,
    &KAFKA_SSL_CERT,
    &KAFKA_SSL_KEY,
    &KAFKA_OPTIONS,
];

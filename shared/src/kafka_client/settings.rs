//! The settings of the Kafka client, and the librdkafka configuration that they make.

use std::path::PathBuf;

use clap::ValueEnum;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use super::options;
use super::table::{
    KAFKA_BROKERS, KAFKA_OPTIONS, KAFKA_SASL_MECHANISM, KAFKA_SASL_PASSWORD, KAFKA_SASL_USERNAME,
    KAFKA_SECURITY_PROTOCOL, KAFKA_SSL_CA, KAFKA_SSL_CERT, KAFKA_SSL_KEY,
};
use crate::settings::{Expected, HostPort, Reader, Secret, Setting};

/// `KAFKA_SECURITY_PROTOCOL`. `SASL_SSL` and `sasl-ssl` are taken too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SecurityProtocol {
    #[value(name = "plaintext")]
    Plaintext,
    #[value(name = "ssl")]
    Ssl,
    #[value(name = "sasl_plaintext", alias = "sasl-plaintext")]
    SaslPlaintext,
    #[value(name = "sasl_ssl", alias = "sasl-ssl")]
    SaslSsl,
}

impl SecurityProtocol {
    /// librdkafka's word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslSsl => "sasl_ssl",
        }
    }

    const fn has_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    const fn has_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

/// `KAFKA_SASL_MECHANISM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SaslMechanism {
    #[value(name = "plain")]
    Plain,
    #[value(name = "scram-sha-256")]
    ScramSha256,
    #[value(name = "scram-sha-512")]
    ScramSha512,
}

impl SaslMechanism {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// Which cluster, and how to get in. Needs no later check.
#[derive(Clone, Debug)]
pub struct KafkaSettings {
    brokers: Vec<HostPort>,
    protocol: SecurityProtocol,
    login: Option<Login>,
    ca: Option<PathBuf>,
    client_certificate: Option<ClientCertificate>,
    options: Vec<(String, Secret)>,
}

#[derive(Clone, Debug)]
struct Login {
    mechanism: SaslMechanism,
    username: String,
    password: Secret,
}

#[derive(Clone, Debug)]
struct ClientCertificate {
    certificate: PathBuf,
    key: PathBuf,
}

impl KafkaSettings {
    /// `None` if a mistake was recorded.
    pub fn read(reader: &mut Reader) -> Option<Self> {
        let brokers = reader.required::<Vec<HostPort>>(&KAFKA_BROKERS);
        let protocol = reader.choice::<SecurityProtocol>(&KAFKA_SECURITY_PROTOCOL);
        let options = if reader.is_given(&KAFKA_OPTIONS) {
            reader.parsed(&KAFKA_OPTIONS, options::parse)
        } else {
            Some(Vec::new())
        };
        let ca = pem(reader, &KAFKA_SSL_CA);
        let certificate = pem(reader, &KAFKA_SSL_CERT);
        let key = pem(reader, &KAFKA_SSL_KEY);
        // The rules below need the protocol; without brokers they can still find what else is wrong.
        let protocol = protocol?;
        let login = Self::read_login(reader, protocol, brokers.as_deref().unwrap_or_default());
        for setting in [&KAFKA_SSL_CA, &KAFKA_SSL_CERT, &KAFKA_SSL_KEY] {
            if !protocol.has_tls() && reader.is_given(setting) {
                reader.refuse(setting, "to be unset, or KAFKA_SECURITY_PROTOCOL=ssl or sasl_ssl");
            }
        }
        let client_certificate = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(ClientCertificate { certificate, key }),
            _ => {
                match (reader.is_given(&KAFKA_SSL_CERT), reader.is_given(&KAFKA_SSL_KEY)) {
                    (true, false) => reader.refuse(&KAFKA_SSL_KEY, KAFKA_SSL_KEY.expects),
                    (false, true) => reader.refuse(&KAFKA_SSL_CERT, KAFKA_SSL_CERT.expects),
                    // Both missing is fine; a file that cannot be read was recorded above.
                    (true, true) | (false, false) => {}
                }
                None
            }
        };
        Some(Self { brokers: brokers?, protocol, login: login?, ca, client_certificate, options: options? })
    }

    /// `Some(None)`: no login wanted. `None`: a mistake was recorded.
    fn read_login(
        reader: &mut Reader,
        protocol: SecurityProtocol,
        brokers: &[HostPort],
    ) -> Option<Option<Login>> {
        if !protocol.has_sasl() {
            // Someone who gives a password believes that it is asked for.
            for setting in [&KAFKA_SASL_MECHANISM, &KAFKA_SASL_USERNAME, &KAFKA_SASL_PASSWORD] {
                if reader.is_given(setting) {
                    reader.refuse(
                        setting,
                        "to be unset, or KAFKA_SECURITY_PROTOCOL=sasl_ssl or sasl_plaintext",
                    );
                }
            }
            return Some(None);
        }
        let mechanism = reader.choice(&KAFKA_SASL_MECHANISM);
        let username = reader.required(&KAFKA_SASL_USERNAME);
        let password = reader.required(&KAFKA_SASL_PASSWORD);
        let login = Login { mechanism: mechanism?, username: username?, password: password? };
        let in_clear = login.mechanism == SaslMechanism::Plain && !protocol.has_tls();
        if in_clear && !brokers.iter().all(HostPort::is_loopback) {
            reader.refuse(
                &KAFKA_SASL_MECHANISM,
                "scram-sha-512, or KAFKA_SECURITY_PROTOCOL=sasl_ssl: plain sends the password in clear",
            );
            return None;
        }
        Some(Some(login))
    }

    /// What every client of ours begins with. Each client adds what its own promise needs.
    #[must_use]
    pub fn client_config(&self, client_id: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.bootstrap())
            .set("client.id", client_id)
            .set("security.protocol", self.protocol.name())
            .set("socket.connection.setup.timeout.ms", "10000")
            .set("socket.timeout.ms", "30000")
            .set_log_level(RDKafkaLogLevel::Info);
        if let Some(login) = &self.login {
            config
                .set("sasl.mechanism", login.mechanism.name())
                .set("sasl.username", &login.username)
                .set("sasl.password", login.password.expose());
        }
        if self.protocol.has_tls() {
            // "probe" looks in the usual places: a bundled OpenSSL knows those of the machine it was built on.
            let ca = self.ca.as_deref().map_or("probe".into(), |path| path.to_string_lossy());
            config.set("ssl.ca.location", ca).set("ssl.endpoint.identification.algorithm", "https");
        }
        if let Some(client) = &self.client_certificate {
            config
                .set("ssl.certificate.location", client.certificate.to_string_lossy())
                .set("ssl.key.location", client.key.to_string_lossy());
        }
        for (name, value) in &self.options {
            config.set(name, value.expose());
            if name == "debug" {
                config.set_log_level(RDKafkaLogLevel::Debug);
            }
        }
        config
    }

    /// The brokers as one text, for messages.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        let brokers: Vec<String> = self.brokers.iter().map(ToString::to_string).collect();
        brokers.join(",")
    }

    #[must_use]
    pub fn brokers(&self) -> &[HostPort] {
        &self.brokers
    }

    /// The security protocol's name, for messages.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        self.protocol.name()
    }

    /// Whether the cluster is on this machine: then one replica is all there can be.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.brokers.iter().all(HostPort::is_loopback)
    }
}

/// A file that can be read now; librdkafka would say it later, and without the setting's name.
fn pem(reader: &mut Reader, setting: &'static Setting) -> Option<PathBuf> {
    if !reader.is_given(setting) {
        return None;
    }
    reader.parsed(setting, |text| match std::fs::read_to_string(text) {
        Ok(content) if content.contains("-----BEGIN ") => Ok(PathBuf::from(text)),
        Ok(_) => Err(Expected::AsDeclared),
        Err(error) => Err(Expected::exactly(format!("the path of a readable PEM file ({error})"))),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::io::Write as _;

    use super::super::table::{KAFKA_OLD_NAMES, TABLE};
    use super::*;
    use crate::settings::Sources;

    fn read(pairs: &[(&str, &str)]) -> Result<KafkaSettings, String> {
        let environment = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let sources = Sources { environment: environment.collect(), ..Sources::default() };
        let mut reader = Reader::new(TABLE, KAFKA_OLD_NAMES, sources);
        let settings = KafkaSettings::read(&mut reader);
        reader.finish(settings).map(|(settings, _)| settings).map_err(|error| error.to_string())
    }

    #[test]
    fn a_plain_cluster_needs_only_its_brokers() {
        let settings = read(&[("KAFKA_BROKERS", "a:1, b:2"), ("KAFKA_OPTIONS", "linger.ms=7")]).unwrap();
        let config = settings.client_config("me");
        assert_eq!(config.get("bootstrap.servers"), Some("a:1,b:2"));
        assert_eq!(config.get("client.id"), Some("me"));
        assert_eq!(config.get("linger.ms"), Some("7"));
        assert!(!settings.is_loopback());
        config.create_native_config().unwrap();
    }

    #[test]
    fn scram_over_tls_with_a_client_certificate() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"-----BEGIN CERTIFICATE-----").unwrap();
        let path = file.path().display().to_string();
        let settings = read(&[
            ("KAFKA_BROKERS", "a:1"),
            ("KAFKA_SECURITY_PROTOCOL", "SASL_SSL"),
            ("KAFKA_USERNAME", "me"),
            ("KAFKA_SASL_PASSWORD", "planted"),
            ("KAFKA_SSL_CA", &path),
            ("KAFKA_SSL_CERT", &path),
            ("KAFKA_SSL_KEY", &path),
        ])
        .unwrap();
        assert!(!format!("{settings:?}").contains("planted"));
        let config = settings.client_config("me");
        assert!(!format!("{config:?}").contains("planted"));
        assert_eq!(config.get("sasl.mechanism"), Some("SCRAM-SHA-512"));
        assert_eq!(config.get("ssl.ca.location"), Some(path.as_str()));
        config.create_native_config().unwrap();
    }

    #[test]
    fn a_password_is_never_sent_in_clear_to_another_machine() {
        let login = |brokers| {
            read(&[
                ("KAFKA_BROKERS", brokers),
                ("KAFKA_SECURITY_PROTOCOL", "sasl_plaintext"),
                ("KAFKA_SASL_MECHANISM", "PLAIN"),
                ("KAFKA_SASL_USERNAME", "me"),
                ("KAFKA_SASL_PASSWORD", "planted"),
            ])
        };
        login("localhost:1,127.0.0.1:2").unwrap();
        let text = login("localhost:1,kafka:2").unwrap_err();
        assert!(text.contains("KAFKA_SASL_MECHANISM") && text.contains("in clear"), "{text}");
        assert!(!text.contains("planted"));
    }

    #[test]
    fn settings_that_would_have_no_effect_are_refused() {
        let text = read(&[
            ("KAFKA_BROKERS", "a:1"),
            ("KAFKA_SASL_PASSWORD", "planted"),
            ("KAFKA_SSL_CERT", "/nowhere"),
            ("KAFKA_OPTIONS", "acks=1"),
        ])
        .unwrap_err();
        for part in ["KAFKA_SASL_PASSWORD=\"***\"", "KAFKA_SSL_CERT=\"/nowhere\"", "KAFKA_SSL_KEY", "no acks"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        let text = read(&[("KAFKA_BROKERS", "a:1"), ("KAFKA_SECURITY_PROTOCOL", "sasl_ssl")]).unwrap_err();
        assert!(text.contains("KAFKA_SASL_USERNAME") && text.contains("KAFKA_SASL_PASSWORD"), "{text}");
    }
}

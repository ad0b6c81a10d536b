//! `KAFKA_OPTIONS`: any librdkafka property, except those that a promise rests on.

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use crate::settings::{Expected, Secret, option_name};

const EXACTLY_ONCE: &str = "exactly-once delivery rests on it";
const POSITION: &str = "the position is kept by the service itself, never by the client";
const OWN_SETTING: &str = "it has a setting of its own";
const SECRET: &str = "secrets must not stand in KAFKA_OPTIONS, which is public on the command line";
const SIZES: &str = "every record that a topic accepts has to pass";
const GROUP: &str = "the sink's hand-over of partitions rests on it";
const TLS: &str = "certificates and host names are always verified";

/// Properties that are refused, with the reason. Aliases of one property are listed beside each other.
const REFUSED: &[(&str, &str)] = &[
    ("bootstrap.servers", OWN_SETTING),
    ("metadata.broker.list", OWN_SETTING),
    ("client.id", "logs and quotas go by it"),
    ("security.protocol", OWN_SETTING),
    ("sasl.mechanism", OWN_SETTING),
    ("sasl.mechanisms", OWN_SETTING),
    ("sasl.username", OWN_SETTING),
    ("sasl.password", SECRET),
    ("sasl.oauthbearer.client.secret", SECRET),
    ("sasl.oauthbearer.client.credentials.client.secret", SECRET),
    ("sasl.oauthbearer.assertion.private.key.passphrase", SECRET),
    ("sasl.oauthbearer.assertion.private.key.pem", SECRET),
    ("ssl.ca.location", OWN_SETTING),
    ("ssl.ca.pem", OWN_SETTING),
    ("ssl.certificate.location", OWN_SETTING),
    ("ssl.certificate.pem", OWN_SETTING),
    ("ssl.key.location", OWN_SETTING),
    ("ssl.key.pem", SECRET),
    ("ssl.key.password", SECRET),
    ("ssl.keystore.location", "use KAFKA_SSL_CERT and KAFKA_SSL_KEY"),
    ("ssl.keystore.password", SECRET),
    ("enable.ssl.certificate.verification", TLS),
    ("ssl.endpoint.identification.algorithm", TLS),
    ("acks", EXACTLY_ONCE),
    ("request.required.acks", EXACTLY_ONCE),
    ("enable.idempotence", EXACTLY_ONCE),
    ("enable.gapless.guarantee", EXACTLY_ONCE),
    ("transactional.id", EXACTLY_ONCE),
    ("transaction.timeout.ms", EXACTLY_ONCE),
    ("max.in.flight", EXACTLY_ONCE),
    ("max.in.flight.requests.per.connection", EXACTLY_ONCE),
    ("retries", EXACTLY_ONCE),
    ("message.send.max.retries", EXACTLY_ONCE),
    ("message.timeout.ms", EXACTLY_ONCE),
    ("delivery.timeout.ms", EXACTLY_ONCE),
    ("delivery.report.only.error", EXACTLY_ONCE),
    ("queuing.strategy", "records of one key must stay in order"),
    ("partitioner", "where a key goes must be the same for every producer"),
    ("msg_order_cmp", "records of one key must stay in order"),
    ("isolation.level", "records of aborted transactions must not be read"),
    ("check.crcs", "damaged records must be seen"),
    ("enable.auto.commit", POSITION),
    ("auto.commit.enable", POSITION),
    ("auto.commit.interval.ms", POSITION),
    ("enable.auto.offset.store", POSITION),
    ("auto.offset.reset", POSITION),
    ("offset.store.method", POSITION),
    ("offset.store.path", POSITION),
    ("offset.store.sync.interval.ms", POSITION),
    ("enable.partition.eof", POSITION),
    ("group.id", OWN_SETTING),
    ("group.instance.id", OWN_SETTING),
    ("group.protocol", OWN_SETTING),
    ("group.protocol.type", GROUP),
    ("group.remote.assignor", GROUP),
    ("partition.assignment.strategy", GROUP),
    ("message.max.bytes", SIZES),
    ("fetch.max.bytes", SIZES),
    ("max.partition.fetch.bytes", SIZES),
    ("fetch.message.max.bytes", SIZES),
    ("receive.message.max.bytes", SIZES),
    ("message.copy.max.bytes", SIZES),
    ("queued.max.messages.kbytes", "it follows from MEMORY_LIMIT"),
    ("statistics.interval.ms", "disturbed transactions are told by the statistics"),
    ("allow.auto.create.topics", "topics are made with settings that the promises need"),
    ("topic.blacklist", "a hidden topic would be skipped silently; see SINK_EXCLUDE"),
    ("plugin.library.paths", "no foreign code is loaded"),
    ("builtin.features", "it cannot be set"),
    ("test.mock.num.brokers", "a mock cluster keeps no promise"),
    ("test.mock.broker.rtt", "a mock cluster keeps no promise"),
    ("log_level", "see LOG_LEVEL"),
    ("log.queue", "see LOG_LEVEL"),
    ("log.connection.close", "lost connections must be seen"),
    ("enable.sasl.oauthbearer.unsecure.jwt", "unsigned tokens are no security"),
];

/// Why a property may not stand in `KAFKA_OPTIONS`; `None` if it may.
#[must_use]
pub fn refusal(property: &str) -> Option<&'static str> {
    REFUSED.iter().find(|(refused, _)| *refused == property).map(|(_, reason)| *reason)
}

/// `name=value,…` in the order given; each is known to librdkafka, has a valid value and breaks no promise.
///
/// All mistakes of the list come in one answer. Values are not repeated in it, nor what may be the rest of one: so
/// librdkafka's own words, which quote the value, are not used.
pub(super) fn parse(text: &str) -> Result<Vec<(String, Secret)>, Expected> {
    let mut options: Vec<(String, Secret)> = Vec::new();
    let mut mistakes = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let Some((name, value)) = item.split_once('=').map(|(name, value)| (name.trim(), value.trim()))
        else {
            mistakes.push("name=value between every two commas".to_owned());
            continue;
        };
        let shown = option_name(item).unwrap_or("option");
        if let Some(reason) = refusal(name) {
            mistakes.push(format!("no {name}: {reason}"));
        } else if options.iter().any(|(known, _)| known == name) {
            mistakes.push(format!("{shown} once"));
        } else if let Err(error) = ClientConfig::new().set(name, value).create_native_config() {
            mistakes.push(match error {
                KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..) => {
                    format!("no {shown}: librdkafka does not have it")
                }
                _ => format!("another value of {shown}: librdkafka refuses this one"),
            });
        } else {
            options.push((name.to_owned(), Secret::new(value)));
        }
    }
    if mistakes.is_empty() { Ok(options) } else { Err(Expected::exactly(mistakes.join("; "))) }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn harmless_properties_pass_in_order() {
        let options = parse("linger.ms=5, compression.codec = lz4,,fetch.min.bytes=1").unwrap();
        let names: Vec<&str> = options.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["linger.ms", "compression.codec", "fetch.min.bytes"]);
    }

    #[test]
    fn every_mistake_of_the_list_is_named_with_its_reason() {
        let Err(Expected::Exactly(text)) = parse(
            "acks=1,isolation.level=read_uncommitted,nonsense.ms=1,linger.ms=soon,plain,retry.backoff.ms=1,retry.backoff.ms=2",
        ) else {
            panic!("refused")
        };
        for part in [
            "no acks: exactly-once",
            "no isolation.level: records of aborted",
            "no nonsense.ms: librdkafka does not have it",
            "another value of linger.ms: librdkafka refuses this one",
            "name=value between every two commas",
            "retry.backoff.ms once",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        for value in ["soon", "plain", "uncommitted"] {
            assert!(!text.contains(value), "{value} in {text}");
        }
    }

    /// A misspelt row would let a property through that breaks a promise.
    #[test]
    fn every_refused_property_is_known_to_librdkafka() {
        for (name, _) in REFUSED {
            let known = match ClientConfig::new().set(*name, "").create_native_config() {
                Err(KafkaError::ClientConfig(_, reason, ..)) => !reason.contains("No such configuration"),
                _ => true,
            };
            assert!(known, "{name}");
        }
    }
}

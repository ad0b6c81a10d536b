#![expect(clippy::unwrap_used, reason = "tests")]

use shared::settings::Answer;

use super::*;

fn sources(values: &[(&str, &str)]) -> Sources {
    let environment = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
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
    assert_eq!(settings.stream.scope.to_string(), "shop.*");
    assert_eq!(effective.warnings.len(), 3, "{:?}", effective.warnings);
    let refused: Vec<_> = OLD_NAMES.iter().filter(|old| matches!(old.answer, Answer::Refused(_))).collect();
    assert_eq!(refused.len(), 10);
    for old in refused {
        let error = SourceSettings::read(sources(&[&LEAST[..], &[(old.name, "x")]].concat())).unwrap_err();
        assert!(error.to_string().contains(&format!("\n{}=\"x\": expected ", old.name)), "{error}");
    }
}

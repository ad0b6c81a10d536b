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
    let topics = settings.topics.of_kind(crate::topics::Kind::Control);
    assert_eq!((topics.replication, topics.min_isr), (1, 1));
    assert_eq!(topics.retention, Duration::from_secs(14 * 86_400));
    assert_eq!(settings.dead_letters, "atlas.dlq");
    assert!(effective.warnings.is_empty(), "{:?}", effective.warnings);
}

#[test]
fn far_brokers_get_three_replicas() {
    let (settings, _) =
        SourceSettings::read(sources(&[LEAST[0], ("KAFKA_BROKERS", "broker-1:9092")])).unwrap();
    let topics = settings.topics.of_kind(crate::topics::Kind::Control);
    assert_eq!((topics.replication, topics.min_isr), (3, 2));
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

#[test]
fn what_is_read_is_all_said_or_all_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pipeline.json");
    let path = file.display().to_string();
    std::fs::write(&file, r#"[{"$match": {"fullDocument.open": true}}, {"$set": {"at": "$$NOW"}}]"#).unwrap();
    let given = [
        ("MONGO_DATABASES", "crm, eu_*"),
        ("MONGO_COLLECTIONS", "shop.or*"),
        ("MONGO_EXCLUDE", "*.tmp,crm.audit"),
        ("OPERATIONS", "delete,insert"),
        ("PIPELINE_FILE", path.as_str()),
    ];
    let (settings, effective) = SourceSettings::read(sources(&[&LEAST[..], &given].concat())).unwrap();
    let stream = &settings.stream;
    assert_eq!(stream.scope.to_string(), "crm.*,eu_*.*,shop.or* without crm.audit,*.tmp");
    assert_eq!(stream.operations.to_string(), "insert,delete");
    assert_eq!(stream.pipeline.as_ref().map(|pipeline| pipeline.stages().len()), Some(2));
    let warnings = effective.warnings.join("\n");
    assert!(
        warnings.contains("PIPELINE_FILE: stage 1 ($match) asks for fullDocument.open, which a delete"),
        "{warnings}"
    );
    assert!(warnings.contains("PIPELINE_FILE: stage 2 ($set) uses $$NOW"), "{warnings}");

    std::fs::write(&file, r#"[{"$limit": 1}, {"$unset": "_id"}]"#).unwrap();
    let mistaken = [
        ("MONGO_DATABASES", "a b"),
        ("MONGO_COLLECTIONS", "shop"),
        ("MONGO_EXCLUDE", "*.a$"),
        ("OPERATIONS", "insert,drop"),
        ("PIPELINE_FILE", path.as_str()),
    ];
    let error = SourceSettings::read(sources(&[&LEAST[..], &mistaken].concat())).unwrap_err().to_string();
    for (name, _) in mistaken {
        assert!(error.contains(&format!("\n{name}=")), "{name} is missing in {error}");
    }
    assert!(
        error.contains("stage 1 ($limit) is none of") && error.contains("stage 2 ($unset) drops _id"),
        "{error}"
    );

    let nothing = [("MONGO_DATABASES", "shop"), ("MONGO_EXCLUDE", "shop,crm")];
    let error = SourceSettings::read(sources(&[&LEAST[..], &nothing].concat())).unwrap_err().to_string();
    assert!(error.contains("MONGO_EXCLUDE=\"shop,crm\": expected to leave something"), "{error}");
}

/// A token of another stream may not resume this one.
#[test]
fn whatever_decides_which_events_there_are_is_in_the_fingerprint() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let (one, same, other) = (
        pipeline("one", r#"[{"$set":{"a":1}}]"#),
        pipeline("same", r#" [ {"$set": {"a": 1}} ] "#),
        pipeline("other", r#"[{"$set":{"a":2}}]"#),
    );
    let of = |given: &[(&str, &str)]| {
        let (settings, _) = SourceSettings::read(sources(&[&LEAST[..], given].concat())).unwrap();
        settings.stream.fingerprint()
    };
    let streams = [
        of(&[]),
        of(&[("MONGO_DATABASES", "shop")]),
        of(&[("MONGO_EXCLUDE", "shop")]),
        of(&[("OPERATIONS", "insert")]),
        of(&[("PIPELINE_FILE", &one)]),
        of(&[("PIPELINE_FILE", &other)]),
        of(&[("FULL_DOCUMENT", "default")]),
        of(&[("FULL_DOCUMENT_BEFORE", "off")]),
    ];
    let different: std::collections::BTreeSet<&String> = streams.iter().collect();
    assert_eq!(different.len(), streams.len());
    assert_eq!(of(&[("PIPELINE_FILE", &one)]), of(&[("PIPELINE_FILE", &same)]));
    assert_eq!(of(&[]), of(&[("MONGO_DATABASES", "*"), ("OPERATIONS", "delete,insert,replace,update")]));
}

#[test]
fn a_field_policy_is_held_against_the_stream_and_its_pipeline() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let rule = |namespace: &str, action: &str| {
        format!("[[rule]]\nnamespace = \"{namespace}\"\npath = \"email\"\naction = \"{action}\"\n")
    };
    let policy = file("policy.toml", &(rule("shop.orders", "hash") + &rule("shop.ordres", "mask")));
    let key = ("FIELD_POLICY_KEY", "geheim-geheim-geheim-geheim-geheim");
    let given = [("MONGO_COLLECTIONS", "shop.orders"), ("FIELD_POLICY_FILE", policy.as_str())];
    let (settings, effective) =
        SourceSettings::read(sources(&[&LEAST[..], &given, &[key]].concat())).unwrap();
    assert_eq!(settings.field_policy.as_ref().map(FieldPolicy::rules), Some(2));
    assert_eq!(
        effective.warnings,
        ["FIELD_POLICY_FILE: rule 2 (line 5) is about shop.ordres, which is not read"]
    );
    assert!(!format!("{settings:?}{effective:?}").contains("geheim"));
    let same = [("MONGO_COLLECTIONS", "shop.orders")];
    let (without, _) = SourceSettings::read(sources(&[&LEAST[..], &same].concat())).unwrap();
    assert_eq!(without.stream.fingerprint(), settings.stream.fingerprint());

    for (given, expected) in [
        (vec![], "FIELD_POLICY_KEY is not set: expected a text of at least 32 characters"),
        (
            vec![("FIELD_POLICY_KEY", "geheim")],
            "FIELD_POLICY_KEY=\"***\": expected a text of at least 32 characters",
        ),
        (
            vec![
                key,
                ("PIPELINE_FILE", &*file("moves.json", r#"[{"$set": {"who": "$fullDocument.email"}}]"#)),
            ],
            "stage 1 ($set) reads fullDocument.email, which rule 1 (line 1) hides",
        ),
        (
            vec![
                key,
                ("FIELD_POLICY_FILE", &*file("wrong.toml", &rule("shop.orders", "encrypt"))),
                ("SOURCE_ID", "Ä"),
            ],
            "rule 1 (line 1) has the action \"encrypt\"",
        ),
    ] {
        let values = [&LEAST[..], &[("FIELD_POLICY_FILE", policy.as_str())], &given].concat();
        let error = SourceSettings::read(sources(&values)).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("geheim"), "{error}");
        assert!(
            !given.iter().any(|(name, _)| *name == "SOURCE_ID") || error.contains("SOURCE_ID"),
            "{error}"
        );
    }
    let (_, effective) = SourceSettings::read(sources(&[&LEAST[..], &[key]].concat())).unwrap();
    assert_eq!(effective.warnings, ["FIELD_POLICY_KEY is not used without FIELD_POLICY_FILE"]);
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
        ("FIELD_POLICY_KEY", "geheim"),
        ("FIELD_POLICY_KEY", "geheim-geheim-geheim-geheim-geheim"),
        ("FIELD_POLICY_KEY_FILE", "geheim"),
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
fn a_profile_decides_the_form_and_refuses_what_contradicts_it() {
    let form = |more: &[(&str, &str)]| SourceSettings::read(sources(&[&LEAST[..], more].concat()));
    let read = |more: &[(&str, &str)]| form(more).unwrap().0.form;
    assert_eq!(read(&[]), RecordForm::default());
    assert!(read(&[("TOMBSTONES", "on")]).tombstones);
    let debezium = read(&[("EVENT_PROFILE", "debezium")]);
    assert_eq!((debezium.key_format, debezium.tombstones), (KeyFormat::Debezium, true));
    assert!(!read(&[("EVENT_PROFILE", "debezium"), ("TOMBSTONES", "off")]).tombstones);
    let mongo_kafka = read(&[("EVENT_PROFILE", "mongo-kafka")]);
    assert_eq!((mongo_kafka.key_format, mongo_kafka.tombstones), (KeyFormat::MongoKafka, false));

    let all = [
        ("EVENT_PROFILE", "mongo-kafka"),
        ("KEY_FORMAT", "plain"),
        ("JSON_DIALECT", "plain"),
        ("VALUE_FORMAT", "avro"),
        ("SCHEMA_REGISTRY_URL", "http://registry:8081"),
        ("OVERSIZE", "stub"),
        ("TOMBSTONES", "on"),
    ];
    let mistakes = form(&all).unwrap_err().to_string();
    for name in ["KEY_FORMAT", "JSON_DIALECT", "VALUE_FORMAT", "OVERSIZE", "TOMBSTONES"] {
        assert!(mistakes.contains(&format!("\n{name}=")), "{name}: {mistakes}");
    }
}

#[test]
fn a_pipeline_that_computes_members_has_no_place_in_debezium() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pipeline.json");
    let read = |stages: &str, profile: &str| {
        std::fs::write(&file, stages).unwrap();
        let more = [("EVENT_PROFILE", profile), ("PIPELINE_FILE", file.to_str().unwrap())];
        SourceSettings::read(sources(&[&LEAST[..], &more].concat()))
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    let computes = r#"[{"$addFields": {"severity": "high"}}]"#;
    assert!(read(computes, "debezium").unwrap_err().contains("does not compute severity"));
    assert_eq!(read(computes, "mongo-kafka"), Ok(()));
    assert_eq!(read(r#"[{"$set": {"fullDocument.total": 1}}]"#, "debezium"), Ok(()));
}

#[test]
fn values_in_avro_need_a_registry() {
    let avro = [("VALUE_FORMAT", "avro")];
    let error = SourceSettings::read(sources(&[&LEAST[..], &avro].concat())).unwrap_err().to_string();
    assert!(error.contains("SCHEMA_REGISTRY_URL"), "{error}");
    let registry = [("SCHEMA_REGISTRY_URL", "http://registry:8081")];
    let (settings, _) = SourceSettings::read(sources(&[&LEAST[..], &avro, &registry].concat())).unwrap();
    assert!(settings.avro.is_some());
    // It may be set for both services at once.
    let (settings, _) = SourceSettings::read(sources(&[&LEAST[..], &registry].concat())).unwrap();
    assert!(settings.avro.is_none());
}

#[test]
fn names_of_other_scripts_and_of_later_versions_are_answered() {
    let old = [("MONGO_DB", "shop"), ("MONGO_FULL_DOC", "required"), ("RESUME_TOKEN_PATH", "/token")];
    let (settings, effective) = SourceSettings::read(sources(&[&LEAST[..], &old].concat())).unwrap();
    assert_eq!(settings.stream.full_document, FullDocument::Required);
    assert_eq!(settings.stream.scope.to_string(), "shop.*");
    assert_eq!(effective.warnings.len(), 3, "{:?}", effective.warnings);
    let refused: Vec<_> = OLD_NAMES.iter().filter(|old| matches!(old.answer, Answer::Refused(_))).collect();
    assert_eq!(refused.len(), 2);
    for old in refused {
        let error = SourceSettings::read(sources(&[&LEAST[..], &[(old.name, "x")]].concat())).unwrap_err();
        assert!(error.to_string().contains(&format!("\n{}=\"x\": expected ", old.name)), "{error}");
    }
}

#[test]
fn a_command_asks_for_what_it_uses_and_says_every_mistake_in_it() {
    let kafka = [LEAST[1], ("SOURCE_ID", "orders"), ("MONGO_DATABASES", "shop")];
    assert_eq!(TokenShowSettings::read(sources(&kafka)).unwrap().source_id, "orders");
    assert!(TopicMonitorSettings::read(sources(&kafka)).unwrap().mongo_uri.is_none());
    assert!(TopicMonitorSettings::read(sources(&LEAST)).unwrap().mongo_uri.is_some());
    assert!(StreamMonitorSettings::read(sources(&LEAST[..1])).is_ok());

    let wrong = [("MONGO_URI", "postgres://x"), ("TOPIC_PREFIX", "ä"), ("MONGO_DATABASES", "admin")];
    let text = TopicMonitorSettings::read(sources(&wrong)).unwrap_err().to_string();
    for name in ["MONGO_URI", "TOPIC_PREFIX", "MONGO_DATABASES", "KAFKA_BROKERS"] {
        assert!(text.contains(name), "{name} is missing in {text}");
    }
    let text = StreamMonitorSettings::read(sources(&[("SOURCE_ID", "Ä")])).unwrap_err().to_string();
    assert!(text.contains("MONGO_URI") && text.contains("SOURCE_ID") && !text.contains("KAFKA"), "{text}");
}

#[test]
fn mistakes_in_the_topics_file_come_with_all_others() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("topics.toml");
    std::fs::write(&file, "[\"shop.orders\"]\npartitions = 0\n\n[\"shop\"]\n").unwrap();
    let path = file.display().to_string();
    let given = [
        LEAST[0],
        LEAST[1],
        ("TOPICS_FILE", path.as_str()),
        ("TOPIC_RETENTION", "soon"),
        ("ACCEPT_PARTITIONS", "atlas.shop.orders:6,atlas.shop.orders:9"),
    ];
    let text = SourceSettings::read(sources(&given)).unwrap_err().to_string();
    for part in [
        "in line 2, as partitions",
        "in line 4, a name",
        "TOPIC_RETENTION",
        "one number for atlas.shop.orders",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    std::fs::write(&file, "[\"shop.orders\"]\npartitions = 12\n").unwrap();
    let (settings, _) = SourceSettings::read(sources(&given[..3])).unwrap();
    let orders = shared::namespace::Namespace::new("shop", "orders");
    assert_eq!(settings.topics.of(&orders).partitions, 12);
}

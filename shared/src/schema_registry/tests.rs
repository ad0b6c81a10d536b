#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::settings::Secret;

fn registered(schema: &str) -> RegisteredSchema {
    serde_json::from_value(serde_json::json!({
        "id": 1, "schema_type": "Avro", "schema": schema, "references": [], "version": 7
    }))
    .unwrap()
}

#[test]
fn a_schema_whose_records_ours_cannot_read_is_incompatible() {
    check_compatible(&registered(avro::SCHEMA)).unwrap();
    // A later version with one more field that has a default: its records can be read, the field is passed over.
    let later = avro::SCHEMA.replacen(
        r#"{"name": "documentKey""#,
        r#"{"name": "added", "type": "string", "default": ""}, {"name": "documentKey""#,
        1,
    );
    assert!(!avro::is_change_event(&later));
    check_compatible(&registered(&later)).unwrap();

    let other_type = avro::SCHEMA.replacen(
        r#"{"name": "eventId", "type": "string""#,
        r#"{"name": "eventId", "type": "long""#,
        1,
    );
    assert_ne!(other_type, avro::SCHEMA);
    for text in [other_type.as_str(), r#""string""#, "no schema"] {
        let error = check_compatible(&registered(text)).unwrap_err();
        assert!(
            matches!(&error, RegistryError::Incompatible(text) if text.contains("(version 7)")),
            "{error}"
        );
    }
}

#[test]
fn nobody_listening_is_waited_for_said_and_then_69() {
    let login = Some(settings::Login { username: "atlas".into(), password: Secret::new("planted") });
    let settings = RegistrySettings { url: "http://127.0.0.1:1".to_owned(), login, ca: None };
    let registry = SchemaRegistry::new(&settings).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut told = Vec::new();
    let stop = runtime
        .block_on(first_contact_within(
            &registry,
            Duration::from_millis(2500),
            async || registry.register().await,
            &mut |text| told.push(text.to_owned()),
        ))
        .unwrap_err();
    assert_eq!(stop.code, ExitCode::Unreachable, "{stop}");
    assert!(stop.message.contains("127.0.0.1:1") && stop.message.contains("refused"), "{stop}");
    assert!(told.iter().all(|text| text.contains("refused")), "{told:?}");
    assert!(!format!("{stop} {told:?} {registry:?}").contains("planted"));
}

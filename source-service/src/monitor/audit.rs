//! The audit view: who changed what. One line per change, of a document or of a collection.
//!
//! MongoDB's change stream does not say who: the user is in no event, but for a digest of the name in those of transactions (SHA-256 of
//! `<user>@<database>`, seen on 6.0.5). Where an application writes it into its documents, `--by <path>` shows it. Values of documents are not shown unless asked for.

use serde_json::{Map, Value, json};

use super::{
    event_view::EventView,
    json::kafka_member,
    render::{Line, Look, Paint, changed_text, list},
};

/// A value in a line is cut here.
const VALUE_CHARS_MAX: usize = 80;

/// What of an audit is shown beside names.
#[derive(Clone, Debug, Default)]
pub struct AuditOptions {
    /// Values that were set.
    pub values: bool,
    /// Where in the document its last editor stands.
    pub by: Option<String>,
}

/// The whole line, its line break included.
pub(super) fn audit_line(view: &EventView<'_>, options: &AuditOptions, look: Look) -> String {
    let observed = &view.observed;
    let mut line = Line::new(look);
    let time = observed.cluster_time.map(|time| time.to_string()).unwrap_or_default();
    line.column(Paint::Dim, &view.time(), 24)
        .column(Paint::Dim, &time, 14)
        .column(Paint::of_operation(observed.operation), observed.operation, 8)
        .column(Paint::Blue, observed.namespace, look.namespace_width);
    if let Some(key) = view.document_key() {
        line.push(Paint::None, " ").push(Paint::None, &text_of(&key));
    }
    let what = what_changed(view, options);
    if !what.is_empty() {
        line.push(Paint::None, "  ").push(Paint::None, &what);
    }
    if let Some(by) = options.by.as_deref().and_then(|path| view.value_at(path)) {
        line.push(Paint::Green, &format!("  by {}", text_of(by)));
    }
    if let Some(transaction) = view.transaction() {
        line.push(Paint::Dim, &format!("  txn {}/{}", transaction.session, transaction.number));
        if let Some(user) = &transaction.user {
            line.push(Paint::Dim, &format!("  user {}", user.get(..12).unwrap_or(user)));
        }
    }
    line.end()
}

/// As [`audit_line`], for pipes.
pub(super) fn audit_json(view: &EventView<'_>, options: &AuditOptions) -> Value {
    let observed = &view.observed;
    let changed = view.changed();
    let transaction = view.transaction();
    let mut json = json!({
        "time": view.time(),
        "clusterTime": observed.cluster_time.map(|time| time.to_string()),
        "operationType": observed.operation,
        "ns": observed.namespace,
        "documentKey": view.document_key(),
        "fields": match &changed {
            Some(changed) => json!({
                "updated": changed.updated,
                "removed": changed.removed,
                "truncated": changed.truncated.iter().map(|(field, _)| field).collect::<Vec<_>>(),
            }),
            None => json!({ "document": view.document_fields() }),
        },
        "transaction": transaction.map(|transaction| json!({
            "session": transaction.session,
            "txnNumber": transaction.number,
            "userDigest": transaction.user,
        })),
    });
    if options.values {
        json["values"] = match view.updated_values() {
            Some(values) => json!(values),
            None => view.document().cloned().unwrap_or(Value::Null),
        };
    }
    if let Some(path) = &options.by {
        json["by"] = view.value_at(path).cloned().unwrap_or(Value::Null);
    }
    if let Some(place) = &observed.place {
        json["_kafka"] = kafka_member(place);
    }
    json
}

fn what_changed(view: &EventView<'_>, options: &AuditOptions) -> String {
    let Some(changed) = view.changed() else {
        return match view.document().and_then(Value::as_object).filter(|_| options.values) {
            Some(values) => with_values(values),
            None => list(view.document_fields()),
        };
    };
    match view.updated_values().filter(|_| options.values) {
        Some(values) => {
            let names = changed_text(&super::event_view::Changed { updated: Vec::new(), ..changed });
            [with_values(values), names]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join(", ")
        }
        None => changed_text(&changed),
    }
}

fn with_values(values: &Map<String, Value>) -> String {
    list(values.iter().map(|(name, value)| format!("{name}={}", text_of(value))).collect())
}

fn text_of(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::event_view::{
        Place,
        tests::{TRANSACTION, UPDATE, observed},
    };

    const LOOK: Look = Look { colour: false, width: None, namespace_width: 0 };

    fn update() -> EventView<'static> {
        EventView::new(observed("update", "1", UPDATE))
    }

    #[test]
    fn a_change_is_told_without_its_values() {
        let line = audit_line(&update(), &AuditOptions::default(), LOOK);
        assert_eq!(
            line,
            "2025-08-22T22:00:00.123Z 1755900000.3   update   shop.orders  {\"_id\":{\"$oid\":\"66c1a0b2c3d4e5f60718293a\"},\"region\":\"eu\"}  lines.0.n, payment.status, -note, lines[..1]\n"
        );
        assert!(!line.contains("paid"));
        let json = audit_json(&update(), &AuditOptions::default());
        assert_eq!(json["fields"]["updated"], json!(["lines.0.n", "payment.status"]));
        assert_eq!(json["fields"]["removed"], json!(["note"]));
        assert!(!json.to_string().contains("paid"), "{json}");
    }

    #[test]
    fn values_are_told_when_asked_for() {
        let options = AuditOptions { values: true, by: Some("status".to_owned()) };
        let line = audit_line(&update(), &options, LOOK);
        assert!(
            line.contains(r#"lines.0.n=3, payment.status="paid", -note, lines[..1]  by "open""#),
            "{line}"
        );
        let json = audit_json(&update(), &options);
        assert_eq!((&json["values"]["payment.status"], &json["by"]), (&json!("paid"), &json!("open")));
    }

    #[test]
    fn a_transaction_is_named() {
        let place = Place { topic: "t", partition: 2, offset: 7, timestamp_ms: Some(5) };
        let mut event = observed("insert", "1", TRANSACTION);
        event.place = Some(place);
        let line = audit_line(&EventView::new(event), &AuditOptions::default(), LOOK);
        assert!(line.ends_with("_id  txn 07070707-0707-0707-0707-070707070707/5  user 010203\n"), "{line}");
        let json = audit_json(&EventView::new(event), &AuditOptions::default());
        assert_eq!(json["transaction"]["txnNumber"], "5");
        assert_eq!(json["_kafka"], json!({ "topic": "t", "partition": 2, "offset": 7, "timestamp": 5 }));
    }
}

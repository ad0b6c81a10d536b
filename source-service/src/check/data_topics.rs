//! The topics of collections: those that the source has written to, those that are there, and those that it would make.

use std::collections::BTreeSet;

use shared::{
    exit::ExitCode,
    kafka_topics::colliding,
    namespace::Namespace,
    topic_name::{DataTopic, Form, TopicNames},
};

use super::{
    Report, Step,
    kafka::{Kafka, failed},
};
use crate::{
    recovery::Remembered,
    settings::SourceSettings,
    snapshot::catalog::Listed,
    topics::{Kind, look_at_count},
};

/// Each costs a question to Kafka.
const TOPICS_MAX: usize = 1000;

const WHAT: &str = "topics of collections";

/// `listed` is `None` if nobody may say which collections there are.
pub(super) fn look(
    settings: &SourceSettings,
    kafka: &Kafka,
    remembered: &Remembered,
    listed: Option<&[Listed]>,
    report: &mut Report,
) {
    let existing = match kafka.runtime.block_on(kafka.admin.topic_names()) {
        Ok(existing) => existing,
        Err(error) => return failed(report, Step::DataTopics, WHAT.to_owned(), error.into()),
    };
    let namespaces = namespaces(settings, remembered, listed, &existing);
    let (mut there, mut as_must_be, mut to_make) = (Vec::new(), 0, BTreeSet::new());
    for namespace in namespaces.iter().take(TOPICS_MAX) {
        let recorded = remembered.topics.iter().find(|(_, record)| record.namespace == *namespace);
        let name = match recorded {
            Some((name, _)) => name.clone(),
            None => {
                let planned = planned(&settings.names, namespace, &existing, &to_make);
                if let Planned::Escaped { name, usual, others } = &planned {
                    let found =
                        format!("goes to {name}, because Kafka takes {usual} for the same name as {others}");
                    report.ok(format!("topic of {namespace}"), found);
                }
                match planned {
                    Planned::Usual(name) | Planned::Escaped { name, .. } => name,
                    Planned::Impossible { name, others } => {
                        let found =
                            format!("{name} cannot be made: for Kafka it is the same name as {others}");
                        let code = (Step::DataTopics, ExitCode::Configuration);
                        report.missing(code, format!("topic of {namespace}"), found, []);
                        continue;
                    }
                }
            }
        };
        match kafka.review(&settings.topics.of(namespace), &name, Kind::Data) {
            Ok(None) => {
                to_make.insert(name);
            }
            Ok(Some((found, review))) => {
                if let Some((_, record)) = recorded {
                    let drained = remembered.token.as_ref().is_some_and(|token| token.clean);
                    let (recorded, accepted) = (record.partitions, &settings.accepted_counts);
                    match look_at_count(&name, recorded, found.get(), accepted, drained) {
                        Ok(None) => {}
                        Ok(Some(what)) => {
                            let found = format!("has {found} partitions, {recorded} are recorded: {what}");
                            report.warning(format!("topic {name}"), found, []);
                        }
                        Err(stop) => report.stop(Step::Counts, format!("topic {name}"), &stop),
                    }
                }
                if !review.refused.is_empty() {
                    let code = (Step::DataTopics, ExitCode::Configuration);
                    report.missing(code, format!("topic {name}"), "would break a promise", review.refused);
                } else if !review.harmless.is_empty() {
                    report.warning(format!("topic {name}"), "differs from the settings", review.harmless);
                } else {
                    as_must_be += 1;
                }
                there.push(name);
            }
            Err(error) => failed(report, Step::DataTopics, format!("topic {name}"), error),
        }
    }
    report.ok(WHAT, format!("{as_must_be} are as they have to be; the source would make {}", to_make.len()));
    if !to_make.is_empty() {
        let found =
            format!("whether CREATE on topics under {}. is granted cannot be asked", settings.names.prefix());
        report.unknown("right to make topics", found, ["kafka/acls-source.conf has the line".to_owned()]);
    }
    if namespaces.len() > TOPICS_MAX {
        report.unknown(WHAT, format!("only {TOPICS_MAX} of {} were looked at", namespaces.len()), []);
    }
    if listed.is_none() {
        let found = "which collections there are cannot be told: only topics that are there were looked at";
        report.unknown(WHAT, found, []);
    }
    kafka.rights(&there, Step::DataTopics, report);
}

/// Every collection in scope that anybody knows of.
fn namespaces(
    settings: &SourceSettings,
    remembered: &Remembered,
    listed: Option<&[Listed]>,
    existing: &[String],
) -> BTreeSet<Namespace> {
    let scope = &settings.stream.scope;
    let decoded = existing.iter().filter_map(|topic| match settings.names.decode(topic)? {
        DataTopic::Named(namespace) => Some(namespace),
        DataTopic::Cut => None,
    });
    let recorded = remembered.topics.values().map(|record| record.namespace.clone());
    let listed = listed.into_iter().flatten().map(|collection| collection.namespace.clone());
    decoded.chain(recorded).chain(listed).filter(|name| scope.contains(&name.db, &name.coll)).collect()
}

/// The name that a start would choose.
#[derive(Debug, PartialEq, Eq)]
enum Planned {
    Usual(String),
    Escaped { name: String, usual: String, others: String },
    Impossible { name: String, others: String },
}

fn planned(
    names: &TopicNames,
    namespace: &Namespace,
    existing: &[String],
    to_make: &BTreeSet<String>,
) -> Planned {
    let usual = names.data(namespace, Form::Usual);
    let escaped = names.data(namespace, Form::FullyEscaped);
    let taken = |name: &str| existing.iter().any(|topic| topic == name);
    if taken(&usual) {
        return Planned::Usual(usual);
    }
    let all = existing.iter().chain(to_make).cloned().collect();
    let others = colliding(&usual, all).join(", ");
    if escaped != usual && (taken(&escaped) || !others.is_empty()) {
        let others = if others.is_empty() { "another one once".to_owned() } else { others };
        return Planned::Escaped { name: escaped, usual, others };
    }
    if others.is_empty() { Planned::Usual(usual) } else { Planned::Impossible { name: usual, others } }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_form_that_a_start_would_choose_is_told() {
        let names = TopicNames::new("atlas").unwrap();
        let plan = |namespace: &Namespace, existing: &[&str]| {
            let existing: Vec<String> = existing.iter().map(ToString::to_string).collect();
            planned(&names, namespace, &existing, &BTreeSet::new())
        };
        let (eu, orders) = (Namespace::new("shop", "eu_orders"), Namespace::new("shop_eu", "orders"));
        assert_eq!(plan(&eu, &[]), Planned::Usual("atlas.shop.eu_orders".into()));
        let escaped = plan(&orders, &["atlas.shop.eu_orders"]);
        assert!(
            matches!(&escaped, Planned::Escaped { name, .. } if name == "atlas.shop-x5feu.orders"),
            "{escaped:?}"
        );
        // What is there is kept.
        assert_eq!(plan(&orders, &["atlas.shop_eu.orders"]), Planned::Usual("atlas.shop_eu.orders".into()));
        let impossible = plan(&Namespace::new("a", "b"), &["atlas_a.b"]);
        assert!(matches!(impossible, Planned::Impossible { .. }), "{impossible:?}");
    }
}

//! What the user may do with topics that are there.

use crate::{
    check::Report,
    exit::ExitCode,
    kafka_ffi::KafkaRight,
    kafka_topics::{AdminError, TopicAdmin},
};

/// What a service needs on some topics.
pub struct TopicRights<'a> {
    pub wanted: &'a [KafkaRight],
    /// The file that lists all that the service needs.
    pub acls: &'a str,
}

/// One finding for all topics on which everything is granted, and one for each of the others. Topics that are gone are passed
/// over; for other errors `failed` says what they mean.
///
/// # Errors
/// If the request as a whole failed.
pub async fn topic_rights<S: Copy + Ord>(
    admin: &TopicAdmin,
    names: &[String],
    rights: &TopicRights<'_>,
    step: S,
    report: &mut Report<S>,
    mut failed: impl FnMut(&mut Report<S>, String, AdminError),
) -> Result<(), AdminError> {
    const WHAT: &str = "rights on topics";
    if names.is_empty() {
        return Ok(());
    }
    let (mut fine, mut silent) = (0, 0);
    for (name, answer) in admin.topic_rights(names).await? {
        match answer {
            Ok(None) => silent += 1,
            Ok(Some(allowed)) => {
                let lacking: Vec<&str> = rights
                    .wanted
                    .iter()
                    .filter(|right| !allowed.contains(right))
                    .map(|right| right.as_str())
                    .collect();
                if lacking.is_empty() {
                    fine += 1;
                } else {
                    let found = format!("{} is not granted on topic {name}", lacking.join(" and "));
                    let line = format!("{} has what is needed", rights.acls);
                    report.missing((step, ExitCode::NotAllowed), WHAT, found, [line]);
                }
            }
            // Deleted meanwhile.
            Err(AdminError::UnknownTopic { .. }) => {}
            Err(error) => failed(report, format!("topic {name}"), error),
        }
    }
    if fine > 0 {
        let words: Vec<&str> = rights.wanted.iter().map(|right| right.as_str()).collect();
        report.ok(WHAT, format!("{} on {fine} topic(s)", in_words(&words)));
    }
    if silent > 0 {
        report.unknown(WHAT, format!("the broker does not say for {silent} topic(s)"), []);
    }
    Ok(())
}

fn in_words(words: &[&str]) -> String {
    match words {
        [all @ .., before, last] => {
            let all: String = all.iter().map(|word| format!("{word}, ")).collect();
            format!("{all}{before} and {last}")
        }
        [] | [_] => words.concat(),
    }
}

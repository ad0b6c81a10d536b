//! Over how many partitions a topic's keys are spread, when their number is not the recorded one any more.
//!
//! With another number most keys go elsewhere, and the order per document is lost for whoever has not read to the end. So the recorded
//! number stays in force until somebody confirms another one, after an orderly stop (`docs/decisions/0013-partition-count-is-confirmed.md`).

use std::{collections::BTreeMap, num::NonZeroU32};

use shared::{
    exit::{ExitCode, Stop},
    settings::Expected,
};

use crate::token_record::TopicRecord;

/// `ACCEPT_PARTITIONS`: by topic, the number that somebody has confirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcceptedCounts(BTreeMap<String, u32>);

impl AcceptedCounts {
    /// `<topic>:<number>`.
    ///
    /// # Errors
    /// What was expected instead.
    pub fn parse_one(text: &str) -> Result<(String, u32), Expected> {
        let (topic, count) = text.rsplit_once(':').ok_or(Expected::AsDeclared)?;
        let count = count.parse().ok().filter(|count| *count > 0).ok_or(Expected::AsDeclared)?;
        if topic.is_empty() { Err(Expected::AsDeclared) } else { Ok((topic.to_owned(), count)) }
    }

    /// # Errors
    /// The topic that is named with two different numbers.
    pub fn new(items: Vec<(String, u32)>) -> Result<Self, String> {
        let mut accepted = BTreeMap::new();
        for (topic, count) in items {
            if accepted.insert(topic.clone(), count).is_some_and(|before| before != count) {
                return Err(topic);
            }
        }
        Ok(Self(accepted))
    }
}

/// What becomes of a number that is not the recorded one.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Keys stay where they are.
    Keep,
    Switch,
    Refuse(String),
}

fn judge(topic: &str, recorded: u32, found: u32, accepted: Option<u32>, drained: bool) -> Verdict {
    let what = format!(
        "topic {topic} has {found} partitions, but the source spreads its keys over {recorded}. Over {found}, most documents would go on \
         in another partition, and a consumer that has not read the others to their end would take their changes out of order"
    );
    let switch = format!("ACCEPT_PARTITIONS={topic}:{found}");
    let keep = format!("ACCEPT_PARTITIONS={topic}:{recorded}");
    // In fewer partitions there is no room to keep keys where they are.
    let fewer = found < recorded;
    match accepted {
        Some(accepted) if accepted == recorded && !fewer => Verdict::Keep,
        Some(accepted) if accepted == found && drained => Verdict::Switch,
        Some(accepted) if accepted == found && fewer => Verdict::Refuse(format!(
            "{what}. It is confirmed, but the source did not end in order, so events may be in doubt, and partitions of theirs are gone. Give \
             the topic {recorded} partitions first (kafka-topics --alter --partitions {recorded}), start, stop in order, then switch; or delete \
             it, and the source makes it again"
        )),
        Some(accepted) if accepted == found => Verdict::Refuse(format!(
            "{what}. It is confirmed, but the source did not end in order, so events may be in doubt, and their keys must not move. Start with \
             {keep}, which leaves keys where they are, stop in order, then start with {switch}"
        )),
        _ if drained => Verdict::Refuse(format!(
            "{what}. The source is drained. When every consumer has read the topic to its end, start with {switch}{}",
            if fewer { String::new() } else { format!("; or with {keep}, which leaves keys where they are") }
        )),
        _ if fewer => Verdict::Refuse(format!(
            "{what}. The source did not end in order, so events may be in doubt. Was the topic deleted and made again? Give it {recorded} \
             partitions (kafka-topics --alter --partitions {recorded}), or delete it, and the source makes it again"
        )),
        _ => Verdict::Refuse(format!(
            "{what}. The source did not end in order, so events may be in doubt. Start with {keep}, which leaves keys where they are. To use all \
             {found}, then stop in order, wait until every consumer has read the topic to its end, and start with {switch}"
        )),
    }
}

fn refused(text: String) -> Stop {
    Stop::new(ExitCode::Configuration, text)
}

/// What a start would do about one topic.
///
/// # Errors
/// [`ExitCode::Configuration`], with what to do.
pub fn look(
    topic: &str,
    recorded: u32,
    found: u32,
    accepted: &AcceptedCounts,
    drained: bool,
) -> Result<Option<&'static str>, Stop> {
    if recorded == found {
        return Ok(None);
    }
    match judge(topic, recorded, found, accepted.0.get(topic).copied(), drained) {
        Verdict::Keep => Ok(Some("keys stay where they are")),
        Verdict::Switch => Ok(Some("keys are spread over all of them from now on")),
        Verdict::Refuse(text) => Err(refused(text)),
    }
}

/// At a start: the records of topics whose keys are spread over another number from now on. Topics that are not there have no order to
/// lose.
pub(super) fn switched(
    committed: &BTreeMap<String, TopicRecord>,
    found: &BTreeMap<String, u32>,
    accepted: &AcceptedCounts,
    drained: bool,
) -> Result<Vec<(String, TopicRecord)>, Stop> {
    let mut switched = Vec::new();
    for (topic, record) in committed {
        let recorded = record.partitions;
        let Some(found) = found.get(topic).copied().filter(|found| *found != recorded) else { continue };
        match judge(topic, recorded, found, accepted.0.get(topic).copied(), drained) {
            Verdict::Keep => {
                tracing::warn!(
                    topic,
                    recorded,
                    found,
                    "partitions were added: keys stay where they are, as ACCEPT_PARTITIONS says"
                );
            }
            Verdict::Switch => {
                tracing::warn!(
                    topic,
                    recorded,
                    found,
                    "keys are spread over another number of partitions from now on, as ACCEPT_PARTITIONS says"
                );
                switched.push((topic.clone(), TopicRecord { partitions: found, ..record.clone() }));
            }
            Verdict::Refuse(text) => return Err(refused(text)),
        }
    }
    Ok(switched)
}

/// While it runs, and will have ended in order by the time that this is said.
pub(super) fn changed(
    committed: &BTreeMap<String, TopicRecord>,
    found: &BTreeMap<String, u32>,
    accepted: &AcceptedCounts,
) -> Option<Stop> {
    committed.iter().find_map(|(topic, record)| {
        let found = found.get(topic).copied().filter(|found| *found != record.partitions)?;
        let accepted = accepted.0.get(topic).copied();
        let kept = accepted == Some(record.partitions) && found > record.partitions;
        // That another number is confirmed already counts from the next start on.
        let text = match judge(topic, record.partitions, found, None, true) {
            Verdict::Refuse(text) if !kept => text,
            _ => return None,
        };
        Some(refused(text))
    })
}

/// Between two looks a number may grow: until it is seen keys stay where they are.
pub(super) fn kept(topic: &str, recorded: u32, found: NonZeroU32) -> Result<NonZeroU32, Stop> {
    match NonZeroU32::new(recorded).filter(|recorded| *recorded <= found) {
        Some(recorded) => Ok(recorded),
        None => match judge(topic, recorded, found.get(), None, false) {
            Verdict::Refuse(text) => Err(refused(text)),
            Verdict::Keep | Verdict::Switch => Ok(found),
        },
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use shared::{namespace::Namespace, topic_name::Form};

    use super::*;

    const TOPIC: &str = "atlas.shop.orders";

    fn record(partitions: u32) -> BTreeMap<String, TopicRecord> {
        let record =
            TopicRecord { namespace: Namespace::new("shop", "orders"), form: Form::Usual, partitions };
        BTreeMap::from([(TOPIC.to_owned(), record)])
    }

    fn accepted(count: Option<u32>) -> AcceptedCounts {
        AcceptedCounts::new(count.map(|count| (TOPIC.to_owned(), count)).into_iter().collect()).unwrap()
    }

    /// Recorded are 3: what a start does with so many, this confirmation, and this end of the former one. `None` is a refusal.
    #[test]
    fn every_case_of_a_start() {
        let rows = [
            (3, None, true, Some(vec![])),
            (3, Some(6), false, Some(vec![])),
            (6, None, true, None),
            (6, None, false, None),
            (6, Some(6), true, Some(vec![6])),
            (6, Some(6), false, None),
            (6, Some(3), true, Some(vec![])),
            (6, Some(3), false, Some(vec![])),
            (6, Some(5), true, None),
            (2, None, true, None),
            (2, Some(2), true, Some(vec![2])),
            (2, Some(2), false, None),
            (2, Some(3), true, None),
        ];
        for (found, confirmed, drained, expected) in rows {
            let counts = BTreeMap::from([(TOPIC.to_owned(), found)]);
            let switched = switched(&record(3), &counts, &accepted(confirmed), drained);
            let counts = switched
                .as_ref()
                .ok()
                .map(|all| all.iter().map(|(_, one)| one.partitions).collect::<Vec<_>>());
            assert_eq!(counts, expected, "{found} {confirmed:?} {drained}");
            if let Err(stop) = switched {
                assert_eq!(stop.code, ExitCode::Configuration);
                assert!(stop.message.contains(TOPIC) && stop.message.contains(&found.to_string()), "{stop}");
            }
        }
        // A topic that is not there any more.
        assert_eq!(switched(&record(3), &BTreeMap::new(), &accepted(None), false), Ok(vec![]));
    }

    #[test]
    fn a_running_source_ends_unless_it_is_told_to_keep() {
        let found = BTreeMap::from([(TOPIC.to_owned(), 6)]);
        assert!(changed(&record(6), &found, &accepted(None)).is_none());
        assert!(changed(&record(3), &found, &accepted(Some(3))).is_none());
        for confirmed in [None, Some(6)] {
            let stop = changed(&record(3), &found, &accepted(confirmed)).unwrap();
            assert!(
                stop.message.contains("is drained")
                    && stop.message.contains("ACCEPT_PARTITIONS=atlas.shop.orders:6"),
                "{stop}"
            );
        }
        let more = NonZeroU32::new(6).unwrap();
        assert_eq!(kept(TOPIC, 3, more).unwrap().get(), 3);
        assert!(kept(TOPIC, 7, more).is_err());
    }

    #[test]
    fn confirmations_are_read_strictly() {
        assert_eq!(AcceptedCounts::parse_one("atlas.shop.orders:6").unwrap(), (TOPIC.to_owned(), 6));
        for text in ["atlas.shop.orders", "atlas.shop.orders:", ":6", "a:0", "a:-1", "a:many"] {
            assert!(AcceptedCounts::parse_one(text).is_err(), "{text}");
        }
        let twice = vec![("a".to_owned(), 1), ("a".to_owned(), 2)];
        assert_eq!(AcceptedCounts::new(twice), Err("a".to_owned()));
    }
}

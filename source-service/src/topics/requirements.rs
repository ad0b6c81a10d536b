//! What a topic is made like, and what an existing one must be.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use shared::kafka_topics::{Configs, TopicSpec};

/// Where the settings of a topic come from, so that a refusal can name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetBy {
    /// `TOPIC_PARTITIONS` and its like.
    Settings,
    /// A table of `TOPICS_FILE`, by its line.
    File(u32),
}

/// The settings that decide how topics are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    pub partitions: u32,
    pub replication: u32,
    pub min_isr: u32,
    pub retention: Duration,
    /// Of a record after compression; producers and consumers are set to match.
    pub max_message_bytes: u32,
    pub set_by: SetBy,
}

/// What a topic is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Events of one collection.
    Data,
    /// DDL and gap markers, in one order.
    Control,
    /// The source's position.
    Tokens,
    DeadLetters,
}

/// A dead letter holds the record and a few headers about it.
const DEAD_LETTER_EXTRA_BYTES: u32 = 1024 * 1024;
/// Both services make it, so its number of partitions is no setting.
const DEAD_LETTER_PARTITIONS: u32 = 3;

impl TopicSettings {
    /// Where somebody would look for this setting.
    fn place(&self, name: &str) -> String {
        match self.set_by {
            SetBy::Settings => name.to_owned(),
            SetBy::File(line) => format!("{name}, or line {line} of TOPICS_FILE"),
        }
    }

    fn partitions_of(&self, kind: Kind) -> u32 {
        match kind {
            Kind::Data => self.partitions,
            Kind::Control | Kind::Tokens => 1,
            Kind::DeadLetters => DEAD_LETTER_PARTITIONS,
        }
    }

    fn max_message_bytes_of(&self, kind: Kind) -> u32 {
        match kind {
            Kind::DeadLetters => self.max_message_bytes.saturating_add(DEAD_LETTER_EXTRA_BYTES),
            Kind::Data | Kind::Control | Kind::Tokens => self.max_message_bytes,
        }
    }
}

pub(super) fn spec(settings: &TopicSettings, name: &str, kind: Kind) -> TopicSpec {
    let mut configs: Configs = BTreeMap::new();
    let mut set = |name: &str, value: String| configs.insert(name.to_owned(), value);
    set("min.insync.replicas", settings.min_isr.to_string());
    set("max.message.bytes", settings.max_message_bytes_of(kind).to_string());
    match kind {
        Kind::Tokens => {
            set("cleanup.policy", "compact".to_owned());
            // Small segments are compacted soon, so that a start has little to read.
            set("segment.bytes", "16777216".to_owned());
            set("segment.ms", "3600000".to_owned());
            set("min.cleanable.dirty.ratio", "0.1".to_owned());
        }
        Kind::Data | Kind::Control | Kind::DeadLetters => {
            set("cleanup.policy", "delete".to_owned());
            set("retention.ms", settings.retention.as_millis().to_string());
        }
    }
    // A record's time is its event's. Without limits a MongoDB clock that is hours ahead does not stop producing.
    set("message.timestamp.type", "CreateTime".to_owned());
    set("message.timestamp.before.max.ms", i64::MAX.to_string());
    set("message.timestamp.after.max.ms", i64::MAX.to_string());
    let count = |number: u32| i32::try_from(number).expect("settings bound it");
    TopicSpec {
        name: name.to_owned(),
        partitions: count(settings.partitions_of(kind)),
        replication: count(settings.replication),
        configs,
    }
}

/// How a topic that is there differs from what it would have been made like. Each text names the setting and both values.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Review {
    /// A promise would break.
    pub refused: Vec<String>,
    pub harmless: Vec<String>,
}

pub(super) fn review(
    settings: &TopicSettings,
    kind: Kind,
    partitions: NonZeroU32,
    found: &Configs,
) -> Review {
    let mut review = Review::default();
    let get = |name: &str| found.get(name).map_or("", String::as_str);
    let number = |name: &str| get(name).parse::<i64>().ok();

    let wanted = settings.partitions_of(kind);
    let one_order = matches!(kind, Kind::Control | Kind::Tokens);
    if partitions.get() < wanted || (one_order && partitions.get() != 1) {
        let by = if kind == Kind::Data {
            format!(" ({})", settings.place("TOPIC_PARTITIONS"))
        } else {
            String::new()
        };
        review.refused.push(format!("it has {partitions} partitions, expected {wanted}{by}"));
    } else if kind == Kind::Data && partitions.get() > wanted {
        let place = settings.place("TOPIC_PARTITIONS");
        review.harmless.push(format!("it has {partitions} partitions, expected {wanted} ({place})"));
    }
    let policy = get("cleanup.policy");
    if kind == Kind::Tokens && policy != "compact" {
        review
            .refused
            .push(format!("cleanup.policy is {policy:?}, expected \"compact\": the position would expire"));
    }
    if kind != Kind::Tokens && policy.contains("compact") {
        review
            .refused
            .push(format!("cleanup.policy is {policy:?}, expected \"delete\": compaction removes changes"));
    }
    let time = get("message.timestamp.type");
    if kind != Kind::DeadLetters && time == "LogAppendTime" {
        review.refused.push(format!(
            "message.timestamp.type is {time:?}, expected \"CreateTime\": the event's own time is needed"
        ));
    }
    let limit = i64::from(settings.max_message_bytes_of(kind));
    if let Some(bytes) = number("max.message.bytes").filter(|bytes| *bytes != limit) {
        let place = settings.place("TOPIC_MAX_MESSAGE_BYTES");
        let text = format!("max.message.bytes is {bytes}, expected {limit} ({place})");
        // The token record is small whatever events are.
        if bytes < limit && kind != Kind::Tokens {
            review.refused.push(text)
        } else {
            review.harmless.push(text)
        }
    }
    if kind != Kind::Tokens
        && let Some(ms) = number("retention.ms")
        && u128::try_from(ms).ok() != Some(settings.retention.as_millis())
    {
        let (wanted, place) = (settings.retention.as_millis(), settings.place("TOPIC_RETENTION"));
        review.harmless.push(format!("retention.ms is {ms}, expected {wanted} ({place})"));
    }
    if let Some(isr) = number("min.insync.replicas").filter(|isr| *isr < i64::from(settings.min_isr)) {
        let place = settings.place("TOPIC_MIN_ISR");
        review
            .harmless
            .push(format!("min.insync.replicas is {isr}, expected {} ({place})", settings.min_isr));
    }
    for name in ["message.timestamp.before.max.ms", "message.timestamp.after.max.ms"] {
        if let Some(ms) = number(name).filter(|ms| *ms != i64::MAX) {
            review.harmless.push(format!("{name} is {ms}: events beyond it would be refused"));
        }
    }
    review
}

/// How long brokers keep records of this topic; `None` if for ever by age.
pub(super) fn retention(configs: &Configs) -> Option<Duration> {
    if !configs.get("cleanup.policy")?.contains("delete") {
        return None;
    }
    configs.get("retention.ms")?.parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const SETTINGS: TopicSettings = TopicSettings {
        partitions: 3,
        replication: 1,
        min_isr: 1,
        retention: Duration::from_secs(14 * 86_400),
        max_message_bytes: 16 << 20,
        set_by: SetBy::Settings,
    };

    fn reviewed(kind: Kind, partitions: u32, change: Option<(&str, &str)>) -> Review {
        let mut configs = spec(&SETTINGS, "t", kind).configs;
        if let Some((name, value)) = change {
            configs.insert(name.to_owned(), value.to_owned());
        }
        review(&SETTINGS, kind, NonZeroU32::new(partitions).unwrap(), &configs)
    }

    #[test]
    fn what_we_make_is_what_we_want() {
        for (kind, partitions) in
            [(Kind::Data, 3), (Kind::Control, 1), (Kind::Tokens, 1), (Kind::DeadLetters, 3)]
        {
            assert_eq!(reviewed(kind, partitions, None), Review::default(), "{kind:?}");
        }
    }

    #[test]
    fn a_broken_promise_is_refused_naming_both_values() {
        let rows = [
            (Kind::Data, 3, ("cleanup.policy", "compact"), "delete"),
            (Kind::Data, 3, ("cleanup.policy", "compact,delete"), "delete"),
            (Kind::Tokens, 1, ("cleanup.policy", "delete"), "compact"),
            (Kind::Data, 3, ("message.timestamp.type", "LogAppendTime"), "CreateTime"),
            (Kind::Data, 3, ("max.message.bytes", "1048588"), "16777216"),
            (Kind::Data, 2, ("cleanup.policy", "delete"), "3"),
            (Kind::Control, 2, ("cleanup.policy", "delete"), "1"),
        ];
        for (kind, partitions, (name, value), expected) in rows {
            let review = reviewed(kind, partitions, Some((name, value)));
            assert_eq!(review.refused.len(), 1, "{kind:?} {name}={value}: {review:?}");
            assert!(review.refused[0].contains(expected), "{review:?}");
        }
    }

    #[test]
    fn harmless_differences_are_named() {
        for (name, value) in [
            ("retention.ms", "1000"),
            ("max.message.bytes", "20000000"),
            ("message.timestamp.after.max.ms", "3600000"),
        ] {
            let review = reviewed(Kind::Data, 3, Some((name, value)));
            assert!(review.refused.is_empty() && review.harmless.len() == 1, "{name}: {review:?}");
        }
        assert_eq!(reviewed(Kind::Data, 6, None).harmless.len(), 1);
    }

    #[test]
    fn retention_is_what_the_topic_says() {
        let configs = spec(&SETTINGS, "t", Kind::Data).configs;
        assert_eq!(retention(&configs), Some(SETTINGS.retention));
        assert_eq!(
            retention(&Configs::from([
                ("cleanup.policy".into(), "delete".into()),
                ("retention.ms".into(), "-1".into())
            ])),
            None
        );
    }
}

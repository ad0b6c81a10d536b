//! Topic settings of single collections: `TOPICS_FILE`.
//!
//! ```toml
//! ["shop.orders"]
//! partitions = 12
//!
//! ["shop.audit_*"]
//! retention = "365d"
//! ```
//!
//! A table's name is a namespace, or one with wildcards as in `MONGO_COLLECTIONS`. An exact name goes before every one with wildcards; of
//! these, the first in the file that matches. What a table does not say is as the settings say for all.

use std::{ops::RangeInclusive, time::Duration};

use bytesize::ByteSize;
use shared::{namespace::Namespace, settings::FromSetting};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::requirements::{Kind, SetBy, TopicSettings};
use crate::scope::{CollectionPattern, Item, parse_collection};

/// The bounds of `TOPIC_PARTITIONS`, and of the file's.
pub const PARTITIONS: RangeInclusive<u32> = 1..=10_000;
/// Those of `TOPIC_REPLICATION` and `TOPIC_MIN_ISR`.
pub const REPLICAS: RangeInclusive<u32> = 1..=100;
/// Those of `TOPIC_RETENTION`: a minute to ten years.
pub const RETENTION: RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(10 * 365 * 86_400);
/// Those of `TOPIC_MAX_MESSAGE_BYTES`.
pub const MESSAGE_BYTES: RangeInclusive<ByteSize> = ByteSize::mib(1)..=ByteSize::mib(100);

/// How topics are made, and what those that exist are held against.
#[derive(Clone, Debug)]
pub struct TopicRules {
    general: TopicSettings,
    /// Exact names first, then as the file has them.
    rules: Vec<(CollectionPattern, TopicSettings)>,
}

impl TopicRules {
    /// The same for all.
    pub const fn general(settings: TopicSettings) -> Self {
        Self { general: settings, rules: Vec::new() }
    }

    /// Reads a file over the settings for all.
    ///
    /// # Errors
    /// Every mistake, each with its line; each completes "expected …".
    pub fn parse(text: &str, general: TopicSettings) -> Result<Self, Vec<String>> {
        let mut reading = Reading { text, mistakes: Vec::new() };
        let (table, broken) = DeTable::parse_recoverable(text);
        for error in broken {
            let line = line_at(text, error.span().map_or(0, |span| span.start));
            reading.mistakes.push(format!("in line {line}, TOML: {}", error.message()));
        }
        let mut named: Vec<_> = table.get_ref().iter().collect();
        // The parser sorts names; which of two patterns comes first is for the file to say.
        named.sort_by_key(|(name, _)| name.span().start);
        let mut rules: Vec<_> =
            named.into_iter().filter_map(|(name, value)| reading.rule(name, value, general)).collect();
        rules.sort_by_key(|(pattern, _)| !is_exact(pattern));
        if reading.mistakes.is_empty() { Ok(Self { general, rules }) } else { Err(reading.mistakes) }
    }

    /// For the topic of a collection.
    pub fn of(&self, namespace: &Namespace) -> TopicSettings {
        let matching = self.rules.iter().find(|(pattern, _)| pattern.matches(&namespace.db, &namespace.coll));
        matching.map_or(self.general, |(_, settings)| *settings)
    }

    /// For a topic that belongs to no collection. A dead letter may hold the largest record of any.
    pub fn of_kind(&self, kind: Kind) -> TopicSettings {
        let mut settings = self.general;
        if kind == Kind::DeadLetters {
            let largest = self.rules.iter().map(|(_, settings)| settings.max_message_bytes).max();
            settings.max_message_bytes = settings.max_message_bytes.max(largest.unwrap_or(0));
        }
        settings
    }
}

fn is_exact(pattern: &CollectionPattern) -> bool {
    pattern.db.exact().is_some() && pattern.coll.exact().is_some()
}

/// Counted from 1.
fn line_at(text: &str, position: usize) -> u32 {
    let before = text.as_bytes().iter().take(position);
    u32::try_from(before.filter(|byte| **byte == b'\n').count() + 1).unwrap_or(u32::MAX)
}

struct Reading<'a> {
    text: &'a str,
    mistakes: Vec<String>,
}

impl Reading<'_> {
    fn expect(&mut self, position: usize, what: impl std::fmt::Display) {
        self.mistakes.push(format!("in line {}, {what}", line_at(self.text, position)));
    }

    fn rule(
        &mut self,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        general: TopicSettings,
    ) -> Option<(CollectionPattern, TopicSettings)> {
        let (name, at) = (name.get_ref(), name.span().start);
        let pattern = match parse_collection(name) {
            Ok(Item::Collections(pattern)) => Some(pattern),
            _ => {
                self.expect(
                    at,
                    format_args!(
                        "a name as [\"database.collection\"], with * and ? as wildcards, not {name:?}"
                    ),
                );
                None
            }
        };
        let Some(table) = value.get_ref().as_table() else {
            self.expect(at, format_args!("a table with settings for {name:?}"));
            return None;
        };
        let mut settings = TopicSettings { set_by: SetBy::File(line_at(self.text, at)), ..general };
        for (key, value) in table {
            let count = |reading: &mut Self, bounds: &RangeInclusive<u32>| {
                let number = value.get_ref().as_integer();
                let number =
                    number.and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok());
                let number = number.filter(|number| bounds.contains(number));
                if number.is_none() {
                    let (from, to) = (bounds.start(), bounds.end());
                    reading.expect(
                        value.span().start,
                        format_args!("as {key} a number between {from} and {to}", key = key.get_ref()),
                    );
                }
                number
            };
            match key.get_ref().as_ref() {
                "partitions" => settings.partitions = count(self, &PARTITIONS).unwrap_or(settings.partitions),
                "replication" => settings.replication = count(self, &REPLICAS).unwrap_or(settings.replication),
                "min_isr" => settings.min_isr = count(self, &REPLICAS).unwrap_or(settings.min_isr),
                "retention" => match text_of(value, &RETENTION) {
                    Some(retention) => settings.retention = retention,
                    None => self.expect(value.span().start, "as retention a duration between \"1m\" and \"10y\""),
                },
                "max_message_bytes" => match text_of(value, &MESSAGE_BYTES) {
                    Some(bytes) => {
                        settings.max_message_bytes = u32::try_from(bytes.as_u64()).expect("bounded by 100 MiB");
                    }
                    None => self.expect(value.span().start, "as max_message_bytes a size between \"1MiB\" and \"100MiB\""),
                },
                other => self.expect(
                    key.span().start,
                    format_args!("one of partitions, replication, min_isr, retention and max_message_bytes, not {other:?}"),
                ),
            }
        }
        if settings.min_isr > settings.replication {
            self.expect(
                at,
                format_args!(
                    "as min_isr of {name:?} at most its replication, which is {}, not {}",
                    settings.replication, settings.min_isr
                ),
            );
        }
        Some((pattern?, settings))
    }
}

/// A value written as in the environment, within bounds.
fn text_of<T: FromSetting + PartialOrd>(
    value: &Spanned<DeValue<'_>>,
    bounds: &RangeInclusive<T>,
) -> Option<T> {
    T::from_setting(value.get_ref().as_str()?).ok().filter(|value| bounds.contains(value))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const GENERAL: TopicSettings = TopicSettings {
        partitions: 3,
        replication: 3,
        min_isr: 2,
        retention: Duration::from_secs(14 * 86_400),
        max_message_bytes: 16 << 20,
        set_by: SetBy::Settings,
    };

    fn of(rules: &TopicRules, db: &str, coll: &str) -> TopicSettings {
        rules.of(&Namespace::new(db, coll))
    }

    #[test]
    fn an_exact_name_goes_before_a_glob_and_the_first_glob_before_the_next() {
        let text = "[\"shop.*\"]\nretention = \"30d\"\n\n[\"s*.audit\"]\npartitions = 1\n\n[\"shop.orders\"]\npartitions = 12\nmax_message_bytes = \"32MiB\"\n";
        let rules = TopicRules::parse(text, GENERAL).unwrap();
        let orders = of(&rules, "shop", "orders");
        // Nothing is taken from another table, only from the settings for all.
        assert_eq!(
            (orders.partitions, orders.retention, orders.set_by),
            (12, GENERAL.retention, SetBy::File(7))
        );
        let audit = of(&rules, "shop", "audit");
        assert_eq!((audit.partitions, audit.retention), (3, Duration::from_secs(30 * 86_400)));
        assert_eq!(of(&rules, "store", "audit").partitions, 1);
        assert_eq!(of(&rules, "crm", "people"), GENERAL);
        assert_eq!(rules.of_kind(Kind::DeadLetters).max_message_bytes, 32 << 20);
        assert_eq!(rules.of_kind(Kind::Control), GENERAL);
        assert_eq!(TopicRules::general(GENERAL).of(&Namespace::new("a", "b")), GENERAL);
    }

    #[test]
    fn all_mistakes_come_with_their_lines() {
        let text = "[\"shop\"]\n\n[\"shop.a\"]\npartitions = 0\nretention = 7\nsegments = 3\n\n[\"shop.b\"]\nmin_isr = 4\nmax_message_bytes = \"1KiB\"\n";
        let mistakes = TopicRules::parse(text, GENERAL).unwrap_err();
        let lines: Vec<&str> = mistakes.iter().map(|mistake| mistake.split(',').next().unwrap()).collect();
        let mut sorted = lines.clone();
        sorted.sort_unstable();
        assert_eq!(
            sorted,
            ["in line 1", "in line 10", "in line 4", "in line 5", "in line 6", "in line 8"],
            "{mistakes:#?}"
        );
        let broken = TopicRules::parse("[\"shop.a\"]\npartitions = \n", GENERAL).unwrap_err();
        assert!(broken.iter().any(|mistake| mistake.starts_with("in line 2, TOML")), "{broken:?}");
    }

    #[test]
    fn the_shipped_example_is_a_file_of_this_kind() {
        let text = include_str!("../../../kafka/topics.example.toml");
        let rules = TopicRules::parse(text, GENERAL).unwrap();
        assert_eq!(of(&rules, "shop", "orders").partitions, 12);
    }
}

//! Which topics the group subscribes to.
//!
//! librdkafka takes a subscription that begins with `^` for a regular expression, and never looks at topics that its
//! `topic.blacklist` matches. The globs of the settings become such expressions.
//!
//! The control topic belongs to every choice, since a collection's rows alone do not say that it was dropped. Only an exception leaves it out.

use shared::{name_pattern::NamePattern, topic_name::TopicNames};

use crate::topic_content::is_archived;

/// Subscriptions and exceptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicChoice {
    /// As regular expressions.
    pub patterns: Vec<String>,
    /// As regular expressions.
    pub excludes: Vec<String>,
    names: TopicNames,
    takes_control: bool,
    /// The same as they were given; empty for all data topics.
    included: Vec<NamePattern>,
    excluded: Vec<NamePattern>,
}

impl TopicChoice {
    /// All data topics under the prefix if nothing is included by name; the control topic always, unless an exception matches it. Each is a glob
    /// that [`parse_topic_glob`] accepts.
    pub fn new(names: &TopicNames, included: Vec<TopicGlob>, mut excluded: Vec<TopicGlob>) -> Self {
        let control = names.control();
        let takes_control = !excluded.iter().any(|glob| glob.pattern.matches(&control));
        // What nothing subscribes to need not be left out, and where the broker assigns it could not be.
        let subscribed = included.iter().any(|glob| glob.pattern.matches(&control));
        excluded.retain(|glob| subscribed || glob.pattern.text() != control);
        let split = |globs: Vec<TopicGlob>| -> (Vec<String>, Vec<NamePattern>) {
            globs.into_iter().map(|glob| (glob.regex, glob.pattern)).unzip()
        };
        let (mut patterns, included) = split(included);
        let (excludes, excluded) = split(excluded);
        if patterns.is_empty() {
            patterns.push(names.data_pattern());
        }
        let control = regex_of(&control);
        if takes_control && !patterns.contains(&control) {
            patterns.push(control);
        }
        Self { patterns, excludes, names: names.clone(), takes_control, included, excluded }
    }

    /// Whether the group would read a topic of this name.
    pub fn takes(&self, topic: &str) -> bool {
        let one_of = |patterns: &[NamePattern]| patterns.iter().any(|pattern| pattern.matches(topic));
        if topic == self.names.control() {
            return self.takes_control;
        }
        is_archived(&self.names, topic)
            && (self.included.is_empty() || one_of(&self.included))
            && !one_of(&self.excluded)
    }

    /// What was included by name, and nothing of it is among `topics`.
    pub fn without_topic<'a>(&'a self, topics: &'a [String]) -> impl Iterator<Item = &'a str> {
        let missing =
            self.included.iter().filter(|pattern| !topics.iter().any(|topic| pattern.matches(topic)));
        missing.map(NamePattern::text)
    }
}

/// A glob of topic names, and the regular expression that it becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicGlob {
    pattern: NamePattern,
    regex: String,
}

/// A topic name under the prefix, in which `*` stands for any characters. `None` if it is not below the prefix or has
/// characters that no topic has.
pub fn parse_topic_glob(prefix: &str, glob: &str) -> Option<TopicGlob> {
    let below = glob.strip_prefix(prefix)?.strip_prefix('.')?;
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'*');
    if below.is_empty() || !glob.bytes().all(legal) {
        return None;
    }
    Some(TopicGlob { pattern: NamePattern::new(glob), regex: regex_of(glob) })
}

/// Matches the whole name.
fn regex_of(glob: &str) -> String {
    format!("^{}$", glob.replace('.', "\\.").replace('*', ".*"))
}

/// Whether a glob can name a topic that a sink reads: dead letters and tokens have one part below the prefix, as the control topic has, and are none.
pub fn can_be_archived(names: &TopicNames, glob: &str) -> bool {
    is_archived(names, &glob.replace('*', "x.x"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_with_one_part_below_the_prefix_are_not_read_but_for_one() {
        let names = TopicNames::new("atlas").expect("a prefix");
        for glob in [
            "atlas.shop.orders",
            "atlas.*",
            "atlas.shop.*",
            "atlas.*.orders",
            "atlas.con*",
            "atlas.shop.a.b",
            "atlas.control",
        ] {
            assert!(can_be_archived(&names, glob), "{glob}");
        }
        for glob in ["atlas.dlq", "atlas.resume-tokens-default", "atlas..x", "other.shop.orders"] {
            assert!(!can_be_archived(&names, glob), "{glob}");
        }
    }

    #[test]
    fn globs_become_anchored_expressions() {
        let regex = |glob| parse_topic_glob("atlas", glob).map(|glob| glob.regex);
        assert_eq!(regex("atlas.shop.*").as_deref(), Some("^atlas\\.shop\\..*$"));
        assert_eq!(regex("atlas.shop.orders").as_deref(), Some("^atlas\\.shop\\.orders$"));
        for glob in ["", "atlas", "atlas.", "other.shop.orders", "atlasshop", "atlas.shop.(a|b)", "atlas.a b"]
        {
            assert_eq!(parse_topic_glob("atlas", glob), None, "{glob}");
        }
    }

    #[test]
    fn what_the_group_reads_can_be_told_by_name() {
        let names = TopicNames::new("atlas").expect("a prefix");
        let globs =
            |texts: &[&str]| texts.iter().map(|text| parse_topic_glob("atlas", text).expect(text)).collect();
        let all = TopicChoice::new(&names, Vec::new(), globs(&["atlas.shop.tmp*"]));
        assert!(all.takes("atlas.shop.orders") && all.takes("atlas.crm.a.b"));
        assert!(!all.takes("atlas.shop.tmp1") && !all.takes("other.shop.a") && !all.takes("atlas.dlq"));
        let some = TopicChoice::new(&names, globs(&["atlas.shop.*", "atlas.crm.people"]), Vec::new());
        assert!(some.takes("atlas.shop.orders") && !some.takes("atlas.hr.people"));
        let there = ["atlas.shop.orders".to_owned()];
        assert_eq!(some.without_topic(&there).collect::<Vec<_>>(), ["atlas.crm.people"]);

        // Definitions belong to every choice.
        let control = "^atlas\\.control$".to_owned();
        for (included, excluded, takes) in [
            (&[][..], &[][..], true),
            (&["atlas.shop.*"], &["atlas.shop.tmp*"], true),
            (&["atlas.control"], &[], true),
            (&["atlas.shop.*"], &["atlas.control"], false),
            (&[], &["atlas.con*"], false),
        ] {
            let choice = TopicChoice::new(&names, globs(included), globs(excluded));
            assert_eq!(choice.takes("atlas.control"), takes, "{included:?} {excluded:?}");
            assert_eq!(choice.patterns.contains(&control), takes);
            assert_eq!(choice.takes("atlas.shop.orders"), included != ["atlas.control"]);
            assert!(!choice.excludes.contains(&control), "nothing subscribes to it");
        }
        let alone = TopicChoice::new(&names, globs(&["atlas.control"]), Vec::new());
        assert_eq!(alone.patterns, std::slice::from_ref(&control));
        let everything = TopicChoice::new(&names, globs(&["atlas.*"]), globs(&["atlas.control"]));
        assert_eq!(everything.excludes, [control]);
    }
}

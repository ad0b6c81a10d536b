//! Which topics the group subscribes to.
//!
//! librdkafka takes a subscription that begins with `^` for a regular expression, and never looks at topics that its
//! `topic.blacklist` matches. The globs of the settings become such expressions.

use shared::topic_name::TopicNames;

/// Subscriptions and exceptions, as regular expressions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicChoice {
    pub patterns: Vec<String>,
    pub excludes: Vec<String>,
}

impl TopicChoice {
    /// All data topics under the prefix if nothing is included by name.
    pub fn new(names: &TopicNames, included: Vec<String>, excludes: Vec<String>) -> Self {
        let patterns = if included.is_empty() { vec![names.data_pattern()] } else { included };
        Self { patterns, excludes }
    }
}

/// A topic name under the prefix, in which `*` stands for any characters, as a regular expression. `None` if it is not
/// below the prefix or has characters that no topic has.
pub fn parse_topic_glob(prefix: &str, glob: &str) -> Option<String> {
    let below = glob.strip_prefix(prefix)?.strip_prefix('.')?;
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'*');
    if below.is_empty() || !glob.bytes().all(legal) {
        return None;
    }
    Some(format!("^{}$", glob.replace('.', "\\.").replace('*', ".*")))
}

/// Whether a glob can name a data topic: control, dead letters and tokens have one part below the prefix, and are none.
pub fn can_be_data(names: &TopicNames, glob: &str) -> bool {
    names.decode(&glob.replace('*', "x.x")).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_with_one_part_below_the_prefix_hold_no_data() {
        let names = TopicNames::new("atlas").expect("a prefix");
        for glob in
            ["atlas.shop.orders", "atlas.*", "atlas.shop.*", "atlas.*.orders", "atlas.con*", "atlas.shop.a.b"]
        {
            assert!(can_be_data(&names, glob), "{glob}");
        }
        for glob in
            ["atlas.control", "atlas.dlq", "atlas.resume-tokens-default", "atlas..x", "other.shop.orders"]
        {
            assert!(!can_be_data(&names, glob), "{glob}");
        }
    }

    #[test]
    fn globs_become_anchored_expressions() {
        assert_eq!(parse_topic_glob("atlas", "atlas.shop.*").as_deref(), Some("^atlas\\.shop\\..*$"));
        assert_eq!(
            parse_topic_glob("atlas", "atlas.shop.orders").as_deref(),
            Some("^atlas\\.shop\\.orders$")
        );
        for glob in ["", "atlas", "atlas.", "other.shop.orders", "atlasshop", "atlas.shop.(a|b)", "atlas.a b"]
        {
            assert_eq!(parse_topic_glob("atlas", glob), None, "{glob}");
        }
    }
}

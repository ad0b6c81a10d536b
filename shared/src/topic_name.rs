//! Kafka topic names and the namespaces in them.
//!
//! A data topic is `<prefix>.<db>.<coll>`. Kafka allows letters, digits, `.`, `_` and `-` and at most 249 characters;
//! MongoDB allows nearly everything. Bytes that Kafka forbids, and dots inside a name, are escaped (see
//! [`crate::escape`]), so no two namespaces share a topic. A name that is still too long is cut and closed with a
//! hash; such a name cannot be decoded, and the namespace is taken from the record's headers.
//!
//! Kafka also refuses a topic that equals another one after `.` → `_`. Then the source falls back to
//! [`Form::FullyEscaped`], where `_` is escaped too; it decodes to the same namespace.
//!
//! The other topics under the prefix have one part only, so they can never be taken for data.

use sha2::{Digest, Sha256};

use crate::{
    escape::{escape, unescape},
    namespace::Namespace,
};

/// Kafka's own bound on a topic's name.
pub const TOPIC_NAME_LEN_MAX: usize = 249;

/// `-h` and 32 hexadecimal digits close a name that was cut.
const CUT_SUFFIX_LEN: usize = 34;

/// How a namespace is written into a topic's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Usual,
    /// `_` is escaped too: for a namespace whose usual topic collides with another one.
    FullyEscaped,
}

/// What a topic under the prefix holds, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataTopic {
    Named(Namespace),
    /// The name was cut: only the records' headers say which namespace it is.
    Cut,
}

/// All topic names under one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicNames {
    prefix: String,
}

impl TopicNames {
    /// `prefix` with or without its closing dot.
    ///
    /// # Errors
    /// If it is empty, too long, or has a character that Kafka forbids; the text says what was expected.
    pub fn new(prefix: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str =
            "letters, digits, '.', '_' or '-', at most 100 characters, not starting with a dot";
        let prefix = prefix.strip_suffix('.').unwrap_or(prefix);
        let legal = prefix.bytes().all(|byte| byte == b'.' || is_plain(byte));
        if prefix.is_empty() || prefix.len() > 100 || prefix.starts_with('.') || !legal {
            return Err(EXPECTED);
        }
        Ok(Self { prefix: prefix.to_owned() })
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The topic of a collection's events.
    pub fn data(&self, namespace: &Namespace, form: Form) -> String {
        let mut name = format!("{}.", self.prefix);
        let keep = |_, byte| is_plain(byte) && (form == Form::Usual || byte != b'_');
        escape(&namespace.db, &mut name, keep);
        name.push('.');
        escape(&namespace.coll, &mut name, keep);
        if name.len() > TOPIC_NAME_LEN_MAX || is_cut(&name) {
            close_with_hash(&mut name, namespace);
        }
        name
    }

    /// DDL and gap markers, one partition.
    pub fn control(&self) -> String {
        format!("{}.control", self.prefix)
    }

    /// A record a minute, to learn a broker's clock from.
    pub fn clock(&self) -> String {
        format!("{}.clock", self.prefix)
    }

    /// Where dead letters go unless `DLQ_TOPIC` says otherwise.
    pub fn dead_letters(&self) -> String {
        format!("{}.dlq", self.prefix)
    }

    /// The compacted topic that holds one source's position.
    pub fn resume_tokens(&self, source_id: &str) -> String {
        format!("{}.resume-tokens-{source_id}", self.prefix)
    }

    /// Decodes the name of a data topic; total over all names with at least two parts after the prefix, whoever made
    /// them: what follows the second part of a name that is not in our form belongs to the collection. `None` for
    /// every other topic.
    pub fn decode(&self, topic: &str) -> Option<DataTopic> {
        let (db, coll) = topic.strip_prefix(&self.prefix)?.strip_prefix('.')?.split_once('.')?;
        if db.is_empty() || coll.is_empty() {
            return None;
        }
        if is_cut(topic) {
            return Some(DataTopic::Cut);
        }
        Some(DataTopic::Named(Namespace::new(decode_part(db), decode_part(coll))))
    }

    /// A regular expression, as librdkafka subscribes by, that every data topic matches. It also matches other topics
    /// under the prefix with a dot in their name; [`Self::decode`] decides.
    pub fn data_pattern(&self) -> String {
        format!("^{}\\.[^.]+\\..+", self.prefix.replace('.', "\\."))
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// The name that was escaped, or the text itself if it is not of our making.
fn decode_part(part: &str) -> String {
    match unescape(part) {
        Some(name) if is_ours(part, &name) => name,
        _ => part.to_owned(),
    }
}

fn is_ours(part: &str, name: &str) -> bool {
    let again = |escape_underscore: bool| {
        let mut text = String::with_capacity(part.len());
        escape(name, &mut text, |_, byte| is_plain(byte) && !(escape_underscore && byte == b'_'));
        text
    };
    part == again(false) || part == again(true)
}

fn is_cut(name: &str) -> bool {
    let Some(suffix) = name.len().checked_sub(CUT_SUFFIX_LEN).and_then(|at| name.get(at..)) else {
        return false;
    };
    name.len() == TOPIC_NAME_LEN_MAX
        && suffix
            .strip_prefix("-h")
            .is_some_and(|hash| hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

fn close_with_hash(name: &mut String, namespace: &Namespace) {
    let mut hasher = Sha256::new();
    hasher.update(namespace.db.as_bytes());
    hasher.update([0]);
    hasher.update(namespace.coll.as_bytes());
    // A name that looks cut may be shorter than the place where the hash goes only by being too long to begin with.
    name.truncate(TOPIC_NAME_LEN_MAX - CUT_SUFFIX_LEN);
    name.push_str("-h");
    for byte in &hasher.finalize()[..16] {
        use std::fmt::Write;
        write!(name, "{byte:02x}").expect("writing to a String cannot fail");
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn names() -> TopicNames {
        TopicNames::new("atlas").unwrap()
    }

    #[test]
    fn usual_names_stay_readable() {
        assert_eq!(names().data(&Namespace::new("shop", "orders"), Form::Usual), "atlas.shop.orders");
        assert_eq!(
            names().data(&Namespace::new("shop_eu", "orders-2"), Form::Usual),
            "atlas.shop_eu.orders-2"
        );
        assert_eq!(names().data(&Namespace::new("shop", "a.b c"), Form::Usual), "atlas.shop.a-x2eb-x20c");
        assert_eq!(names().data(&Namespace::new("shop_eu", "o"), Form::FullyEscaped), "atlas.shop-x5feu.o");
    }

    #[test]
    fn other_topics_are_not_data() {
        for topic in [names().control(), names().dead_letters(), names().resume_tokens("default")] {
            assert_eq!(names().decode(&topic), None, "{topic}");
        }
        for topic in [
            "atlas",
            "atlas.",
            "atlas.shop",
            "atlas.shop.",
            "atlas..orders",
            "atlasx.shop.orders",
            "b.shop.orders",
        ] {
            assert_eq!(names().decode(topic), None, "{topic}");
        }
    }

    #[test]
    fn foreign_names_decode_to_something() {
        let decoded = |topic: &str| match names().decode(topic) {
            Some(DataTopic::Named(namespace)) => namespace,
            other => panic!("{topic}: {other:?}"),
        };
        assert_eq!(decoded("atlas.shop.orders.eu"), Namespace::new("shop", "orders.eu"));
        // Not what we would have written for `orders eu.x`, so it is a name of its own.
        assert_eq!(decoded("atlas.shop.orders-x20eu.x"), Namespace::new("shop", "orders-x20eu.x"));
        assert_eq!(decoded("atlas.shop.-xff"), Namespace::new("shop", "-xff"));
    }

    #[test]
    fn long_names_are_cut_and_differ() {
        let long = |tail: &str| {
            names().data(&Namespace::new("db", format!("{}{tail}", "é".repeat(100))), Form::Usual)
        };
        assert_eq!(long("a").len(), TOPIC_NAME_LEN_MAX);
        assert_ne!(long("a"), long("b"));
        assert_eq!(names().decode(&long("a")), Some(DataTopic::Cut));
    }

    #[test]
    fn a_name_that_only_looks_cut_is_cut() {
        let coll = format!(
            "{}-h{}",
            "c".repeat(TOPIC_NAME_LEN_MAX - CUT_SUFFIX_LEN - "atlas.db.".len()),
            "0".repeat(32)
        );
        let topic = names().data(&Namespace::new("db", coll.clone()), Form::Usual);
        assert_eq!(names().decode(&topic), Some(DataTopic::Cut));
        assert!(!topic.ends_with(&coll[coll.len() - 32..]));
    }

    #[test]
    fn prefixes_are_checked() {
        assert_eq!(TopicNames::new("cdc.").unwrap().data(&Namespace::new("a", "b"), Form::Usual), "cdc.a.b");
        assert_eq!(TopicNames::new("eu.cdc").unwrap().data_pattern(), "^eu\\.cdc\\.[^.]+\\..+");
        for prefix in ["", ".", ".a", "a b", "ä"] {
            assert!(TopicNames::new(prefix).is_err(), "{prefix}");
        }
    }

    const NEAR: &str = "[ax25ef_.\\-]{1,5}";
    const DB_NEAR: &str = "[ax25ef_\\-]{1,5}";
    const NAME: &str = "[a-zA-Z0-9_.\\- éx5f]{1,12}|\\PC{1,20}";

    proptest! {
        #[test]
        fn topics_are_legal_and_read_back(db in "[^.]{1,12}", coll in NAME, fully in any::<bool>()) {
            let namespace = Namespace::new(db, coll);
            let form = if fully { Form::FullyEscaped } else { Form::Usual };
            let topic = names().data(&namespace, form);
            prop_assert!(topic.len() <= TOPIC_NAME_LEN_MAX);
            prop_assert!(topic.bytes().all(|byte| byte == b'.' || is_plain(byte)));
            match names().decode(&topic) {
                Some(DataTopic::Named(decoded)) => prop_assert_eq!(decoded, namespace),
                Some(DataTopic::Cut) => prop_assert_eq!(topic.len(), TOPIC_NAME_LEN_MAX),
                None => prop_assert!(false, "not a data topic: {}", topic),
            }
        }

        /// Names that differ in little, and in what escaping is about: random ones hardly ever come near each other.
        #[test]
        fn neighbours_never_share_a_topic(a in (DB_NEAR, NEAR), b in (DB_NEAR, NEAR)) {
            let a = Namespace::new(a.0, a.1);
            let b = Namespace::new(b.0, b.1);
            prop_assume!(a != b);
            let usual = |namespace| names().data(namespace, Form::Usual);
            let escaped = |namespace| names().data(namespace, Form::FullyEscaped);
            for topic in [usual(&a), escaped(&a)] {
                prop_assert_eq!(names().decode(&topic), Some(DataTopic::Named(a.clone())));
                prop_assert!(topic != usual(&b) && topic != escaped(&b), "{} {}", a, b);
            }
            // For Kafka two names are one if they are after `.` → `_`. Whoever comes second gets the escaped form, which is in nobody's way.
            let folded = |topic: String| topic.replace('.', "_");
            prop_assert_ne!(folded(escaped(&a)), folded(usual(&b)));
            prop_assert_ne!(folded(escaped(&a)), folded(escaped(&b)));
        }

        /// A prefix may have dots and underscores of its own.
        #[test]
        fn the_prefix_takes_no_part(
            prefix in "[a-z_][a-z_.\\-]{0,8}",
            db in DB_NEAR,
            coll in NEAR,
            fully in any::<bool>(),
        ) {
            let names = TopicNames::new(&prefix).unwrap();
            let form = if fully { Form::FullyEscaped } else { Form::Usual };
            let namespace = Namespace::new(db, coll);
            let decoded = names.decode(&names.data(&namespace, form));
            prop_assert_eq!(decoded, Some(DataTopic::Named(namespace)));
        }

        #[test]
        fn two_namespaces_never_share_a_topic(a in ("[^.]{1,6}", NAME), b in ("[^.]{1,6}", NAME)) {
            let a = Namespace::new(a.0, a.1);
            let b = Namespace::new(b.0, b.1);
            prop_assume!(a != b);
            for form_a in [Form::Usual, Form::FullyEscaped] {
                for form_b in [Form::Usual, Form::FullyEscaped] {
                    prop_assert_ne!(names().data(&a, form_a), names().data(&b, form_b));
                }
            }
        }
    }
}

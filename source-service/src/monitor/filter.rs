//! Which events are shown: by namespace, operation and key. What is not shown is not counted either.

use super::event_view::{Observed, bare};

/// Empty lists let everything through.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// `db.coll`, with `*` for any characters.
    pub namespaces: Vec<String>,
    /// As the events name them.
    pub operations: Vec<String>,
    /// As the topic has them, or bare: `66c1…` for `{"$oid":"66c1…"}`.
    pub keys: Vec<String>,
}

impl Filter {
    pub(super) fn lets(&self, event: &Observed<'_>) -> bool {
        self.lets_namespace(event.namespace)
            && any_of(&self.operations, |operation| operation.eq_ignore_ascii_case(event.operation))
            && any_of(&self.keys, |key| {
                key.as_bytes() == event.key || *key == bare(&String::from_utf8_lossy(event.key))
            })
    }

    /// Whether a topic may hold what is shown: the rest need not be read.
    pub(super) fn lets_namespace(&self, namespace: &str) -> bool {
        any_of(&self.namespaces, |pattern| matches(pattern, namespace))
    }
}

fn any_of(wanted: &[String], is: impl Fn(&String) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(is)
}

/// Whether the whole text has the form of the pattern, in which `*` stands for any characters, also none.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            // The last part ends the text; what stands before it, the star takes.
            return text.ends_with(part);
        }
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::event_view::tests::observed;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text) in [
            ("shop.orders", "shop.orders"),
            ("shop.*", "shop.orders"),
            ("*", ""),
            ("*.orders", "shop.orders"),
            ("s*p.o*s", "shop.orders"),
            ("*a*a*", "banana"),
            ("a*a", "aa"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("shop", "shop.orders"),
            ("shop.*", "shops.orders"),
            ("*.orders", "shop.orders2"),
            ("a*a", "a"),
            ("", "a"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn every_kind_of_condition_must_hold() {
        let list = |items: &[&str]| items.iter().map(ToString::to_string).collect::<Vec<_>>();
        let event = observed("update", r#"{"$oid":"66c1"}"#, b"{}");
        assert!(Filter::default().lets(&event));
        let filter = |namespaces: &[&str], operations: &[&str], keys: &[&str]| Filter {
            namespaces: list(namespaces),
            operations: list(operations),
            keys: list(keys),
        };
        assert!(filter(&["crm.*", "shop.*"], &["insert", "Update"], &["66c1"]).lets(&event));
        assert!(filter(&[], &[], &[r#"{"$oid":"66c1"}"#]).lets(&event));
        assert!(!filter(&["crm.*"], &[], &[]).lets(&event));
        assert!(!filter(&[], &["insert"], &[]).lets(&event));
        assert!(!filter(&[], &[], &["66c2"]).lets(&event));
    }
}

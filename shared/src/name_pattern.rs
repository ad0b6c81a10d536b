//! A name, or a name with wildcards: `*` stands for any characters (also none), `?` for exactly one.
//!
//! The same pattern is judged twice: here, by [`NamePattern::matches`], and on the server, by [`NamePattern::regex`]. Both must
//! say the same of every name; a property test holds them against each other on a real server.

/// A database or collection name as settings give it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamePattern {
    Exact(String),
    Glob(String),
}

impl NamePattern {
    pub fn new(text: &str) -> Self {
        if text.contains(['*', '?']) { Self::Glob(text.to_owned()) } else { Self::Exact(text.to_owned()) }
    }

    /// As it was given.
    pub fn text(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Glob(text) => text,
        }
    }

    /// The name, if it is one.
    pub fn exact(&self) -> Option<&str> {
        match self {
            Self::Exact(name) => Some(name),
            Self::Glob(_) => None,
        }
    }

    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(text) => text == name,
            Self::Glob(text) => glob_matches(text, name),
        }
    }

    /// Whether every name matches.
    pub fn is_everything(&self) -> bool {
        matches!(self, Self::Glob(text) if text.bytes().all(|byte| byte == b'*'))
    }

    /// Whether all that matches `other` matches this too, as far as it can be told without looking at names.
    pub fn covers(&self, other: &Self) -> bool {
        self == other || self.is_everything() || other.exact().is_some_and(|name| self.matches(name))
    }

    /// A name that matches.
    pub fn example(&self) -> String {
        let name = self.text().replace('*', "").replace('?', "x");
        if name.is_empty() { "x".to_owned() } else { name }
    }

    /// The regular expression that the same names match, without anchors; `None` of a name.
    pub fn regex(&self) -> Option<String> {
        match self {
            Self::Exact(_) => None,
            Self::Glob(text) => Some(regex(text)),
        }
    }
}

fn regex(glob: &str) -> String {
    let mut pattern = String::with_capacity(glob.len() + 8);
    for c in glob.chars() {
        match c {
            '*' => pattern.push_str(".*"),
            '?' => pattern.push('.'),
            // A backslash takes its meaning away from any of these, and gives none to the others.
            c if c.is_ascii_punctuation() && c != '_' => pattern.extend(['\\', c]),
            c => pattern.push(c),
        }
    }
    pattern
}

/// Without recursion: on a mismatch the last `*` takes one character more.
fn glob_matches(glob: &str, name: &str) -> bool {
    let (mut rest, mut name) = (glob, name);
    let mut last_star: Option<(&str, &str)> = None;
    loop {
        let mut after = rest.chars();
        match (after.next(), name.chars().next()) {
            (Some('*'), _) => {
                rest = after.as_str();
                last_star = Some((rest, name));
                continue;
            }
            (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                rest = after.as_str();
                name = &name[found.len_utf8()..];
                continue;
            }
            (None, None) => return true,
            _ => {}
        }
        let Some((behind_star, tried)) = last_star else { return false };
        let Some(skipped) = tried.chars().next() else { return false };
        name = &tried[skipped.len_utf8()..];
        rest = behind_star;
        last_star = Some((behind_star, name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_characters() {
        for (glob, yes, no) in [
            ("orders", vec!["orders"], vec!["order", "orders2", "Orders"]),
            ("or*", vec!["or", "orders", "or.ders"], vec!["o", "xor"]),
            ("*_v?", vec!["a_v1", "_v_v2", "_vé"], vec!["a_v", "a_v12"]),
            ("a*b*c", vec!["abc", "aXbYbc"], vec!["ab", "acb"]),
            ("*", vec!["", "a", "a\nb"], vec![]),
            ("a?", vec!["a?", "a*", "a\n", "aé"], vec!["a", "abc"]),
            ("a.+(", vec!["a.+("], vec!["ab+("]),
        ] {
            let pattern = NamePattern::new(glob);
            for name in yes {
                assert!(pattern.matches(name), "{glob} and {name:?}");
            }
            for name in no {
                assert!(!pattern.matches(name), "{glob} and {name:?}");
            }
        }
    }

    #[test]
    fn what_is_special_in_a_regular_expression_is_not() {
        let regex = NamePattern::new("a.b$c_[x]|(y)^{z}+\\é*").regex();
        assert_eq!(regex.as_deref(), Some(r"a\.b\$c_\[x\]\|\(y\)\^\{z\}\+\\é.*"));
        assert_eq!(NamePattern::new("a.b").regex(), None);
    }

    #[test]
    fn examples_match() {
        for text in ["*", "??", "shop_*", "a*b?c", "orders"] {
            let pattern = NamePattern::new(text);
            assert!(pattern.matches(&pattern.example()), "{text}");
        }
    }
}

//! The file: TOML, one `[[rule]]` after the other. Every mistake is found before any is said.

use std::path::Path;

use serde::Deserialize;
use toml::{Spanned, Table, Value};

use super::{
    Action, FieldPath, Rule, RulePlace,
    path_tree::{ANY, PathTree, STATES_MAX},
};
use crate::scope::{CollectionPattern, Item, parse_collection};

/// Larger than any policy that somebody can understand.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// MongoDB's own limit of nesting.
const NAMES_MAX: usize = 100;
/// In one path.
const STARS_MAX: usize = 4;

/// Members of an event that hold documents; not where a path begins.
pub(super) const PARTS: [&str; 4] =
    ["fullDocument", "fullDocumentBeforeChange", "updateDescription", "documentKey"];

/// Why a file is no policy, in words that complete "expected …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("a file that can be read: {0}")]
    Unreadable(String),
    #[error("a TOML file with a [[rule]] for each rule: {0}")]
    NoPolicy(String),
    #[error("rules that can be kept: {}", join(.0))]
    Refused(Vec<RefusedRule>),
}

/// One rule, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRule {
    pub place: RulePlace,
    pub reason: String,
}

fn join(refused: &[RefusedRule]) -> String {
    let texts: Vec<String> = refused.iter().map(|rule| format!("{} {}", rule.place, rule.reason)).collect();
    texts.join("; ")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<Spanned<Table>>,
}

pub(super) fn read(path: &Path) -> Result<Vec<Rule>, PolicyError> {
    let unreadable = |error: &dyn std::fmt::Display| PolicyError::Unreadable(error.to_string());
    let size = std::fs::metadata(path).map_err(|error| unreadable(&error))?.len();
    if size > FILE_BYTES_MAX {
        return Err(unreadable(&format!("it has {size} bytes, and 1 MiB is the most")));
    }
    parse(&std::fs::read_to_string(path).map_err(|error| unreadable(&error))?)
}

pub(super) fn parse(text: &str) -> Result<Vec<Rule>, PolicyError> {
    let line_of = |place: usize| text[..place.min(text.len())].matches('\n').count() + 1;
    let file: File = toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| format!("line {}: ", line_of(span.start))).unwrap_or_default();
        PolicyError::NoPolicy(format!("{line}{}", error.message()))
    })?;
    if file.rule.is_empty() {
        return Err(PolicyError::NoPolicy("it has none".to_owned()));
    }
    let (mut rules, mut refused) = (Vec::new(), Vec::new());
    for (index, table) in file.rule.into_iter().enumerate() {
        let place = RulePlace { number: index + 1, line: line_of(table.span().start) };
        match rule(place, table.into_inner()) {
            Ok(rule) => rules.push(rule),
            Err(reasons) => refused.extend(reasons.into_iter().map(|reason| RefusedRule { place, reason })),
        }
    }
    if !refused.is_empty() {
        return Err(PolicyError::Refused(refused));
    }
    // Any set of the rules has at most as many states as all of them.
    let all = rules.iter().flat_map(|rule: &Rule| rule.paths.iter().map(|path| (path, rule.action)));
    if PathTree::new(all).is_none() {
        let text =
            format!("its paths with * can be combined in more than {STATES_MAX} ways; name the fields");
        return Err(PolicyError::NoPolicy(text));
    }
    Ok(rules)
}

fn rule(place: RulePlace, mut table: Table) -> Result<Rule, Vec<String>> {
    let mut wrong = Vec::new();
    let namespaces = each(&mut table, "namespace", &mut wrong, namespace);
    let paths = each(&mut table, "path", &mut wrong, path);
    let action = match table.remove("action") {
        Some(Value::String(text)) => match Action::ALL.into_iter().find(|action| action.as_str() == text) {
            Some(action) => Some(action),
            None => {
                wrong.push(format!("has the action {text:?}, which is none of drop, mask and hash"));
                None
            }
        },
        Some(_) => {
            wrong.push("has an action that is no text".to_owned());
            None
        }
        None => {
            wrong.push("has no action: drop, mask or hash".to_owned());
            None
        }
    };
    wrong.extend(table.keys().map(|name| format!("has {name}, which is none of namespace, path and action")));
    match action {
        Some(action) if wrong.is_empty() => Ok(Rule { place, namespaces, paths, action }),
        _ => Err(wrong),
    }
}

/// A text, or an array of texts.
fn each<T>(
    table: &mut Table,
    name: &str,
    wrong: &mut Vec<String>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    let values = match table.remove(name) {
        Some(Value::Array(values)) => values,
        Some(value) => vec![value],
        None => Vec::new(),
    };
    if values.is_empty() {
        wrong.push(format!("has no {name}"));
    }
    let mut parsed = Vec::new();
    for value in values {
        match value.as_str().map_or_else(|| Err(format!("has a {name} that is no text")), &parse) {
            Ok(value) => parsed.push(value),
            Err(reason) => wrong.push(reason),
        }
    }
    parsed
}

fn namespace(text: &str) -> Result<CollectionPattern, String> {
    match parse_collection(text) {
        Ok(Item::Collections(pattern)) => Ok(pattern),
        _ => Err(format!(
            "has the namespace {text:?}, which is no database.collection (with * and ? as wildcards)"
        )),
    }
}

fn path(text: &str) -> Result<FieldPath, String> {
    let names: Vec<String> = text.split('.').map(ToOwned::to_owned).collect();
    let wrong = if names.iter().any(String::is_empty) {
        "has an empty name"
    } else if text.starts_with('$') {
        "begins with $: a path is written without it"
    } else if names[0] == "_id" {
        "is part of the record's key: keys identify documents and are published as they are"
    } else if names[0] == ANY {
        "begins with *, which would be _id too: name the fields"
    } else if names.iter().any(|name| name != ANY && name.contains('*')) {
        "has a * beside other characters: it stands for one whole name"
    } else if names.iter().filter(|name| *name == ANY).count() > STARS_MAX {
        "has more than four *"
    } else if names.len() > NAMES_MAX {
        "has more than 100 names, and MongoDB nests no deeper"
    } else {
        return Ok(FieldPath(names));
    };
    Err(format!("has the path {text:?}, which {wrong}"))
}

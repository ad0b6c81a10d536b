//! `SCHEMA_CHECK_DIR`: documents of some collections are held against a JSON Schema, and what breaks it is a dead letter.
//!
//! ```text
//!   folder ─▶ one schema per collection, compiled ─▶ the collection's partitions
//!   record ─▶ inspect ─▶ a line? ─▶ a repeat? ─▶ its `fullDocument` against the schema ─▶ line, or dead letter
//! ```
//!
//! | module | subject |
//! |---|---|
//! | [`folder`] | the folder's files, and every mistake in them |
//!
//! Invariants:
//! - A record is judged once, by the sink that publishes it; the chain says what came of it. A row stays a row, whatever schema comes later; a letter
//!   becomes a row when it holds, and somebody sends it back or makes its hour again.
//! - Nothing is fetched: a schema that points outside of its file is refused at the start.
//! - No document can make the check slow by itself: patterns are matched in linear time, and depth is bounded.
//! - What is said of a broken rule names places and rules, never values.
//! - Without a schema for a collection its records cost one comparison.

mod folder;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use jsonschema::{
    PatternOptions, ReferencingError, Retrieve, Uri, ValidationError, Validator, error::ValidationErrorKind,
};
use serde_json::Value;
use shared::{dead_letter::DeadLetterReason, namespace::Namespace, topic_name::TopicNames};

use crate::{
    line_format::each_member,
    record::{Inspected, Verdict},
    topic_content::TopicContent,
};

/// So many broken rules of one document are named; how many more there are is not counted.
const RULES_NAMED: usize = 4;
/// Of each place or name in an error text, in bytes.
const TEXT_BYTES_MAX: usize = 120;

/// Schemas by collection. A copy is cheap.
#[derive(Clone, Debug, Default)]
pub struct SchemaChecks {
    schemas: Arc<BTreeMap<Namespace, Arc<DocumentSchema>>>,
}

impl SchemaChecks {
    /// Reads a folder and compiles what is in it.
    ///
    /// # Errors
    /// Every mistake in every file; each completes "expected …".
    pub fn read(folder: &Path, names: &TopicNames) -> Result<Self, Vec<String>> {
        folder::read(folder, names).map(|schemas| Self { schemas: Arc::new(schemas) })
    }

    /// The schema of a collection's documents. Definitions have none.
    pub fn of(&self, content: &TopicContent) -> Option<&Arc<DocumentSchema>> {
        self.schemas.get(content.namespace()?)
    }

    /// The record as the sink judges it: a line of a collection with a schema is a dead letter if its document breaks it.
    #[must_use]
    pub fn judge<'a>(&self, content: &TopicContent, inspected: Inspected<'a>) -> Inspected<'a> {
        match self.of(content) {
            Some(schema) => schema.judge(inspected),
            None => inspected,
        }
    }

    pub fn collections(&self) -> impl ExactSizeIterator<Item = &Namespace> {
        self.schemas.keys()
    }
}

/// What the documents of a collection must be.
#[derive(Debug)]
pub struct DocumentSchema {
    validator: Validator,
}

impl DocumentSchema {
    /// # Errors
    /// If it is no JSON Schema, or points outside of itself; the text says where and why.
    fn compile(schema: &Value) -> Result<Self, String> {
        let options =
            jsonschema::options().with_retriever(Nothing).with_pattern_options(PatternOptions::regex());
        match options.build(schema) {
            Ok(validator) => Ok(Self { validator }),
            Err(error) => Err(refusal(&error)),
        }
    }

    /// See [`SchemaChecks::judge`]. Only a line changes, and nothing but its verdict.
    #[must_use]
    pub fn judge<'a>(&self, inspected: Inspected<'a>) -> Inspected<'a> {
        let Verdict::Line { object, .. } = inspected.verdict else { return inspected };
        match self.broken_by(object) {
            None => inspected,
            Some(error) => {
                let verdict = Verdict::DeadLetter { reason: DeadLetterReason::SchemaViolation, error };
                Inspected { verdict, ..inspected }
            }
        }
    }

    /// What the document of a record breaks, in words; `None` if it holds. A record without a document has nothing to break: a deletion, an update
    /// whose document was not asked for, a value that is no event.
    fn broken_by(&self, object: &str) -> Option<String> {
        let mut document = None;
        each_member(object, |name, value| {
            if name == r#""fullDocument""# {
                // Twice: as most readers do, the last one.
                document = Some(value);
            }
            Some(())
        });
        let document = document.filter(|text| *text != "null")?;
        let document: Value = match serde_json::from_str(document) {
            Ok(document) => document,
            // Valid JSON, or it were no line. The parser's own words may quote it.
            Err(error) => {
                return Some(format!(
                    "the document cannot be held against its schema: more than 127 levels, a number beyond a double, or half of a surrogate pair, at its line {} column {}",
                    error.line(),
                    error.column()
                ));
            }
        };
        if self.validator.is_valid(&document) {
            return None;
        }
        let mut broken = self.validator.iter_errors(&document);
        let named: Vec<String> = broken.by_ref().take(RULES_NAMED).map(|error| broken_rule(&error)).collect();
        let more = if broken.next().is_some() { "; and more" } else { "" };
        Some(format!("{}{more}", named.join("; ")))
    }
}

/// Place in the document, and the rule by its place in the schema; of names only what is missing or too many.
fn broken_rule(error: &ValidationError<'_>) -> String {
    let place = error.instance_path().as_str();
    let place = if place.is_empty() { "the document" } else { place };
    let names = match error.kind() {
        ValidationErrorKind::Required { property } => property.as_str().map(str::to_owned),
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => Some(unexpected.join(", ")),
        _ => None,
    };
    let names = names.map(|names| format!(" ({})", Short(&names))).unwrap_or_default();
    // It ends with the rule; a schema that is `false` has none.
    let rule = match error.schema_path().as_str() {
        "" => "the schema".to_owned(),
        path => format!("the schema's {}", Short(path)),
    };
    format!("{} breaks {rule}{names}", Short(place))
}

/// Why a schema is none.
fn refusal(error: &ValidationError<'_>) -> String {
    let what = match error.kind() {
        ValidationErrorKind::Referencing(ReferencingError::Unretrievable { uri, .. }) => format!(
            "{uri} is not in this file, and nothing is fetched: put what it has under $defs, and point there"
        ),
        ValidationErrorKind::Format { format } if format == "regex" => {
            "a regular expression that is matched in linear time: valid, without looking around and back-references"
                .to_owned()
        }
        _ => error.to_string(),
    };
    // Of a schema the document is the schema.
    match error.instance_path().as_str() {
        "" => what,
        place => format!("at {}: {what}", Short(place)),
    }
}

/// Refuses everything that is not in the file.
struct Nothing;

impl Retrieve for Nothing {
    fn retrieve(&self, _: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err("nothing is fetched".into())
    }
}

/// A text cut to [`TEXT_BYTES_MAX`].
struct Short<'a>(&'a str);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.floor_char_boundary(TEXT_BYTES_MAX);
        f.write_str(&self.0[..end])?;
        if end < self.0.len() { f.write_str("…") } else { Ok(()) }
    }
}

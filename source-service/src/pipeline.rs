//! `PIPELINE_FILE`: the user's own stages, behind our `$match`.
//!
//! What routes, keys and places an event ([`rules`]) has to come through as MongoDB sent it. That is looked after three times:
//!
//! | when | what | how |
//! |---|---|---|
//! | settings are read | each stage by its form: is it allowed, does it name a member that must stay | [`rules`] |
//! | the source starts | the stages on events made by us, one for each operation, where the server has `$documents` | [`proof`] |
//! | the stream runs | 280 (`_id` altered) and a stage that fails stop the source (78) and skip nothing | `stream_error` |
//!
//! Each one refuses; none of them repairs. Only a `$project` that includes gets what it does not name but the envelope's `_meta`
//! and the key are made of: it narrows documents, never events.

mod hidden;
pub(crate) mod json;
pub mod proof;
mod rules;
mod samples;

use std::{fmt, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bson::{Bson, Document, doc};

use crate::scope::operations::Operations;

/// Larger than any pipeline that somebody can understand.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Stages that may stand in a change stream and were not refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    stages: Vec<Document>,
}

/// Why a file is no pipeline, in words that complete "expected …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PipelineError {
    #[error("a file that can be read: {0}")]
    Unreadable(String),
    #[error("a JSON array of stages, such as [{{\"$match\": {{\"operationType\": \"insert\"}}}}]: {0}")]
    NoPipeline(String),
    #[error("stages that leave events whole: {}", join(.0))]
    Refused(Vec<Refusal>),
}

/// One stage, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub stage: StageName,
    pub reason: String,
}

/// For people: `stage 2 ($set)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageName {
    /// From 1.
    number: usize,
    operator: String,
}

impl StageName {
    pub(crate) fn of(index: usize, stage: &Document) -> Self {
        let operator = stage.keys().next().cloned().unwrap_or_default();
        Self { number: index + 1, operator }
    }
}

impl fmt::Display for StageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stage {} ({})", self.number, self.operator)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.stage, self.reason)
    }
}

fn join(refusals: &[Refusal]) -> String {
    refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Pipeline {
    /// # Errors
    /// See [`PipelineError`]; every stage that is refused is named.
    pub fn read(path: &Path) -> Result<Self, PipelineError> {
        let unreadable = |error: &dyn fmt::Display| PipelineError::Unreadable(error.to_string());
        let size = std::fs::metadata(path).map_err(|error| unreadable(&error))?.len();
        if size > FILE_BYTES_MAX {
            return Err(unreadable(&format!("it has {size} bytes, and 1 MiB is the most")));
        }
        Self::parse(&std::fs::read_to_string(path).map_err(|error| unreadable(&error))?)
    }

    /// # Errors
    /// As [`Self::read`].
    pub fn parse(text: &str) -> Result<Self, PipelineError> {
        let stages = json::documents(text).map_err(PipelineError::NoPipeline)?;
        let mut refused = Vec::new();
        let mut kept = Vec::with_capacity(stages.len());
        for (index, stage) in stages.into_iter().enumerate() {
            match rules::check(&stage) {
                Ok(stage) => kept.push(stage),
                Err(reason) => refused.push(Refusal { stage: StageName::of(index, &stage), reason }),
            }
        }
        if refused.is_empty() { Ok(Self { stages: kept }) } else { Err(PipelineError::Refused(refused)) }
    }

    pub fn stages(&self) -> &[Document] {
        &self.stages
    }

    /// A member that an event has only because a stage computes it; the first one's name.
    pub fn computed_member(&self) -> Option<&str> {
        self.stages.iter().find_map(rules::computed_member)
    }

    /// The same for two files that mean the same: blanks do not count, the order of names does, because documents are compared by it.
    pub fn text(&self) -> String {
        let stages = doc! { "stages": &self.stages };
        BASE64.encode(stages.to_vec().expect("what was read from JSON can be written"))
    }

    /// What works, but may not be what was meant. `looked_up`: whether updates carry a document.
    pub fn warnings(&self, operations: &Operations, looked_up: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        for (index, stage) in self.stages.iter().enumerate() {
            let name = StageName::of(index, stage);
            if let Ok(filter) = stage.get_document("$match") {
                let hidden = hidden::changes(filter, operations, looked_up);
                warnings.extend(hidden.map(|hidden| format!("{name} {hidden}")));
            }
            for variable in ["$$NOW", "$$CLUSTER_TIME"] {
                if mentions(stage, variable) {
                    warnings.push(format!(
                        "{name} uses {variable}, which in a change stream is the time at which the stream was opened, the same for every event; \
                         $clusterTime and $wallTime are the event's own"
                    ));
                }
            }
        }
        warnings
    }
}

/// Whether a string in the stage begins with this path: `$a` also in `$a.b`, but not in `$ab`.
fn mentions(stage: &Document, path: &str) -> bool {
    fn in_value(value: &Bson, path: &str) -> bool {
        match value {
            Bson::String(text) => {
                text.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            }
            Bson::Document(document) => mentions(document, path),
            Bson::Array(values) => values.iter().any(|value| in_value(value, path)),
            _ => false,
        }
    }
    stage.values().any(|value| in_value(value, path))
}

#[cfg(test)]
mod tests;

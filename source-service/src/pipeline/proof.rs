//! The pipeline is tried before the stream opens: on events made by us, which `$documents` puts in front of it.
//!
//! What the server does not check there (it takes stages that a stream refuses, and lets `_id` be altered) is checked here: each event
//! comes through with what it needs, or is filtered out. A `$match` on the content of documents is left out, so that the stages
//! behind it are tried too.
//!
//! The content of a sample is made up. So a stage that fails on it is refused only if it did not read that content: then it fails for
//! every such event. Else it is told, and a failure on a real event stops the source there (78, nothing skipped). Real events
//! are not asked for beforehand: the stream's first reply is them.

use bson::{Bson, Document, doc};
use mongodb::{
    Client,
    error::{Error, ErrorKind},
};
use shared::namespace::Namespace;

use super::{
    Pipeline, StageName, mentions,
    rules::{ENVELOPE, NEEDED, PARTS},
    samples::{self, Sample},
};
use crate::stream_error;

/// Where and on what a pipeline is tried.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Any database that the user may read.
    pub database: String,
    /// The samples' own.
    pub namespace: Namespace,
    /// Whether updates carry a document.
    pub looked_up: bool,
    /// Whether events carry the document before the change.
    pub before: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every sample came through, or failed on what only a sample has: that is told.
    Passed { doubts: Vec<String> },
    /// The server cannot try it; in its own words.
    NotTried(String),
    /// In words that go on from the file's name.
    Refused(String),
}

impl Pipeline {
    /// Runs the stages on samples.
    ///
    /// # Errors
    /// If the server is away or about to be: nothing is known then.
    pub async fn prove(&self, client: &Client, trial: &Trial) -> Result<Outcome, Error> {
        let server = Server { client, database: &trial.database };
        // A server that does not know the stage, or does not let this user use it, and one that answers with nothing.
        match server.run(&[doc! { "_id": 1 }], &[]).await? {
            Ok(events) if events.len() == 1 => {}
            Ok(_) => return Ok(Outcome::NotTried("$documents gives no documents".to_owned())),
            Err(text) => return Ok(Outcome::NotTried(text)),
        }
        // As it stands, on nothing: whatever the server finds wrong with it by reading.
        if let Err(text) = server.run(&[], self.stages()).await? {
            let name = server.first_failing(&[], self.stages()).await?;
            return Ok(Outcome::Refused(format!("{name} is refused by MongoDB: {text}")));
        }

        let samples = samples::all(&trial.namespace, trial.looked_up, trial.before);
        let mut events: Events<'_> = samples.iter().map(|sample| (sample, sample.event.clone())).collect();
        let mut doubts = Vec::new();
        let mut guarded = false;
        for (index, stage) in self.stages.iter().enumerate() {
            if stage.get_document("$match").is_ok_and(|filter| !is_of_operations(filter)) {
                guarded = true;
                continue;
            }
            let name = StageName::of(index, stage);
            events = match server.each(&events, stage).await? {
                Some(after) => after,
                // Together they do not say which of them it was.
                None => {
                    let mut after = Vec::new();
                    for (sample, event) in events {
                        match server.run(&[event], std::slice::from_ref(stage)).await? {
                            Ok(events) => after.extend(events.into_iter().map(|event| (sample, event))),
                            Err(text) => {
                                let text =
                                    format!("{name} fails for an event of type {}: {text}", sample.operation);
                                if !reads_content(stage, sample, guarded) {
                                    return Ok(Outcome::Refused(text));
                                }
                                doubts.push(text);
                            }
                        }
                    }
                    after
                }
            };
            let wrong = events.iter().find_map(|(sample, event)| wrong(event, sample));
            if let Some(wrong) = wrong {
                return Ok(Outcome::Refused(format!("{name} {wrong}")));
            }
        }
        doubts.extend(events.iter().filter_map(|(sample, event)| invented(event, sample)));
        Ok(Outcome::Passed { doubts })
    }
}

/// Samples, and what has become of them.
type Events<'s> = Vec<(&'s Sample, Document)>;

/// What is wrong with an event that came through, to go on from the stage's name.
fn wrong(after: &Document, sample: &Sample) -> Option<String> {
    let operation = sample.operation;
    if let Some(name) = NEEDED.into_iter().find(|name| after.get(name) != sample.event.get(name)) {
        let what = if after.contains_key(name) { "alters" } else { "drops" };
        let why = match name {
            "_id" => "the resume token: without it nobody can say where the stream is",
            _ => "which routing, key or position are made of",
        };
        return Some(format!("{what} {name}, {why} (seen for an event of type {operation})"));
    }
    if let Some(name) = ENVELOPE.into_iter().find(|name| after.contains_key(name)) {
        return Some(format!("computes {name}, a name that is the envelope's: take another"));
    }
    let is_part = |value: &Bson| matches!(value, Bson::Document(_) | Bson::Null);
    let name = PARTS.into_iter().find(|name| after.get(name).is_some_and(|value| !is_part(value)))?;
    Some(format!("makes {name} something else than a document (seen for an event of type {operation})"))
}

/// A content that the event did not have.
fn invented(after: &Document, sample: &Sample) -> Option<String> {
    let has = |event: &Document, name: &str| event.get(name).is_some_and(|value| *value != Bson::Null);
    let name = PARTS.into_iter().find(|name| has(after, name) && !has(&sample.event, name))?;
    Some(format!("an event of type {} gets a {name} that it did not have", sample.operation))
}

/// Whether the filter asks for nothing but the operation: then it says the same of a sample as of a real event.
fn is_of_operations(filter: &Document) -> bool {
    filter.iter().all(|(name, value)| match (name.as_str(), value) {
        ("operationType", _) => true,
        ("$and" | "$or" | "$nor", Bson::Array(branches)) => {
            branches.iter().all(|branch| branch.as_document().is_some_and(is_of_operations))
        }
        _ => false,
    })
}

/// Whether the stage reads what a sample can only make up. Behind a filter that was left out, that is also what the sample does not
/// have: real events without it may never get there.
fn reads_content(stage: &Document, sample: &Sample, guarded: bool) -> bool {
    let whole = ["$$ROOT", "$$CURRENT"].iter().any(|variable| mentions(stage, variable));
    // `$redact` descends into everything.
    whole
        || stage.contains_key("$redact")
        || samples::CONTENTS
            .into_iter()
            .any(|name| (guarded || sample.event.contains_key(name)) && mentions(stage, &format!("${name}")))
}

struct Server<'a> {
    client: &'a Client,
    database: &'a str,
}

impl Server<'_> {
    /// The stages on these events; the inner error is the server's answer to the pipeline.
    async fn run(
        &self,
        events: &[Document],
        stages: &[Document],
    ) -> Result<Result<Vec<Document>, String>, Error> {
        let mut pipeline = vec![doc! { "$documents": events }];
        pipeline.extend_from_slice(stages);
        let command = doc! { "aggregate": 1, "pipeline": pipeline, "cursor": {} };
        match self.client.database(self.database).run_command(command).await {
            Ok(reply) => {
                let batch = reply.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
                let events = batch.map(|batch| batch.iter().filter_map(Bson::as_document).cloned().collect());
                Ok(events.map_err(|error| error.to_string()))
            }
            Err(error) => match error.kind.as_ref() {
                ErrorKind::Command(command) if !stream_error::is_passing(&error) => {
                    Ok(Err(format!("{} ({})", command.message, command.code)))
                }
                _ => Err(error),
            },
        }
    }

    /// The stage on all of these; `None` if it fails, or if it cannot be told any more which event came of which.
    async fn each<'s>(&self, events: &Events<'s>, stage: &Document) -> Result<Option<Events<'s>>, Error> {
        let all: Vec<Document> = events.iter().map(|(_, event)| event.clone()).collect();
        let Ok(after) = self.run(&all, std::slice::from_ref(stage)).await? else { return Ok(None) };
        let sample_of = |event: &Document| {
            let id = event.get("_id")?;
            events.iter().map(|(sample, _)| *sample).find(|sample| sample.event.get("_id") == Some(id))
        };
        Ok(after.into_iter().map(|event| Some((sample_of(&event)?, event))).collect())
    }

    /// The stage at which a pipeline that fails begins to fail.
    async fn first_failing(&self, events: &[Document], stages: &[Document]) -> Result<String, Error> {
        for (index, stage) in stages.iter().enumerate() {
            if self.run(events, &stages[..=index]).await?.is_err() {
                return Ok(StageName::of(index, stage).to_string());
            }
        }
        Ok("the pipeline".to_owned())
    }
}

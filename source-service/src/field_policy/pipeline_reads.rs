//! Which parts of documents a pipeline's stages read in order to write something. What they make of a hidden field would stand where no
//! rule looks for it: beside the document, or under another name.

use bson::{Bson, Document};

use crate::pipeline::{Pipeline, StageName};

/// Stages that let through or take away, and write nothing.
const ONLY_NARROW: [&str; 3] = ["$match", "$unset", "$redact"];

/// Members of an event that hold documents, and the part of each that a path begins behind.
const CONTENTS: [&str; 4] =
    ["updateDescription.updatedFields", "updateDescription", "fullDocumentBeforeChange", "fullDocument"];

/// A part of a document that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    /// As people know it: `fullDocument.email`.
    pub(super) text: String,
    /// Inside the document; empty is all of it.
    pub(super) path: String,
}

pub(super) fn of(pipeline: &Pipeline) -> impl Iterator<Item = (StageName, Vec<Read>)> {
    pipeline.stages().iter().enumerate().map(|(index, stage)| (StageName::of(index, stage), of_stage(stage)))
}

fn of_stage(stage: &Document) -> Vec<Read> {
    let mut reads = Vec::new();
    let Some((operator, argument)) = stage.iter().next() else { return reads };
    match (operator.as_str(), argument) {
        (operator, _) if ONLY_NARROW.contains(&operator) => {}
        ("$replaceWith", new) => of_replacement(new, &mut reads),
        ("$replaceRoot", Bson::Document(argument)) => {
            argument.get("newRoot").into_iter().for_each(|new| of_replacement(new, &mut reads))
        }
        (_, Bson::Document(fields)) => of_fields(fields, &mut reads),
        (_, other) => of_value(other, &mut reads),
    }
    reads
}

/// The event itself may be passed on; what is merged into it is looked at.
fn of_replacement(new: &Bson, reads: &mut Vec<Read>) {
    let is_event = |value: &Bson| matches!(value.as_str(), Some("$$ROOT" | "$$CURRENT"));
    match new {
        new if is_event(new) => {}
        Bson::Document(new) => match new.get("$mergeObjects") {
            Some(Bson::Array(parts)) => {
                parts.iter().filter(|part| !is_event(part)).for_each(|part| match part {
                    Bson::Document(fields) => of_fields(fields, reads),
                    other => of_value(other, reads),
                })
            }
            _ => of_fields(new, reads),
        },
        other => of_value(other, reads),
    }
}

/// `{"fullDocument": "$fullDocument"}` leaves it where it is.
fn of_fields(fields: &Document, reads: &mut Vec<Read>) {
    for (name, value) in fields {
        let stays = value.as_str().and_then(|text| text.strip_prefix('$')) == Some(name);
        if !stays {
            of_member(name, value, reads);
        }
    }
}

fn of_member(name: &str, value: &Bson, reads: &mut Vec<Read>) {
    if name == "$getField" {
        of_get_field(value, reads);
    }
    of_value(value, reads);
}

fn of_value(value: &Bson, reads: &mut Vec<Read>) {
    match value {
        Bson::String(text) => reads.extend(read(text)),
        Bson::Array(values) => values.iter().for_each(|value| of_value(value, reads)),
        Bson::Document(document) => document.iter().for_each(|(name, value)| of_member(name, value, reads)),
        _ => {}
    }
}

/// It names a member of the event without a `$`, and can compute the name.
fn of_get_field(argument: &Bson, reads: &mut Vec<Read>) {
    let of_event = |field: &Bson| match field.as_str() {
        Some(name) => CONTENTS.contains(&name),
        None => true,
    };
    let whole = match argument {
        Bson::Document(argument) => match (argument.get("field"), argument.get("input")) {
            (Some(field), None) => of_event(field),
            // What it is taken from is looked at as a value.
            (_, Some(_)) => false,
            (None, None) => true,
        },
        other => of_event(other),
    };
    if whole {
        reads.push(Read { text: "a member of the event by $getField".to_owned(), path: String::new() });
    }
}

/// `$fullDocument.email`; `None` of a text that is no path, or of a path that is not in a document.
fn read(text: &str) -> Option<Read> {
    let event = ["$$ROOT", "$$CURRENT"].iter().find_map(|variable| text.strip_prefix(variable));
    let path = match event {
        Some("") => return Some(Read { text: text.to_owned(), path: String::new() }),
        Some(rest) => rest.strip_prefix('.')?,
        None => text.strip_prefix('$')?,
    };
    let inside = CONTENTS.iter().find_map(|content| {
        let rest = path.strip_prefix(content)?;
        if rest.is_empty() { Some("") } else { rest.strip_prefix('.') }
    })?;
    // Of an update's description as a whole, or of what is beside the updated fields, no path is known.
    let of_description = path.starts_with("updateDescription.") && !path.starts_with(CONTENTS[0]);
    let inside = if of_description { "" } else { inside };
    Some(Read { text: path.to_owned(), path: inside.to_owned() })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use crate::field_policy::FieldPolicy;
    use crate::pipeline::Pipeline;

    fn policy() -> FieldPolicy {
        let text =
            "[[rule]]\nnamespace = \"shop.*\"\npath = [\"email\", \"cards.number\"]\naction = \"mask\"";
        FieldPolicy::parse(text).unwrap()
    }

    fn reads(pipeline: &str) -> Vec<String> {
        policy().read_by(&Pipeline::parse(pipeline).unwrap())
    }

    #[test]
    fn stages_that_leave_hidden_fields_alone_are_free() {
        for pipeline in [
            r#"[{"$match": {"fullDocument.email": "a"}}, {"$unset": "fullDocument.email"}]"#,
            r#"[{"$match": {"$expr": {"$eq": ["$fullDocument.email", "x"]}}}]"#,
            r#"[{"$set": {"total": "$fullDocument.total", "price": "$5", "key": "$documentKey"}}]"#,
            r#"[{"$set": {"x": "$fullDocument.emails", "y": "$updateDescription.updatedFields.total"}}]"#,
            r#"[{"$replaceWith": {"$mergeObjects": ["$$ROOT", {"a": "$ns.db"}]}}]"#,
            r#"[{"$project": {"fullDocument.email": 1}}]"#,
            r#"[{"$set": {"x": {"$getField": "wallTime"}}}]"#,
        ] {
            assert_eq!(reads(pipeline), Vec::<String>::new(), "{pipeline}");
        }
    }

    #[test]
    fn stages_that_carry_a_hidden_field_elsewhere_are_named() {
        for (pipeline, read) in [
            (
                r#"[{"$match": {}}, {"$set": {"who": "$fullDocument.email"}}]"#,
                "stage 2 ($set) reads fullDocument.email",
            ),
            (r#"[{"$set": {"fullDocument.mail": "$fullDocument.email"}}]"#, "reads fullDocument.email"),
            (
                r#"[{"$set": {"who": "$fullDocumentBeforeChange.email.host"}}]"#,
                "reads fullDocumentBeforeChange.email.host",
            ),
            (
                r#"[{"$set": {"x": {"$concat": ["a", "$updateDescription.updatedFields.email"]}}}]"#,
                "reads updateDescription.updatedFields.email",
            ),
            (r#"[{"$set": {"x": {"$size": "$fullDocument.cards"}}}]"#, "reads fullDocument.cards"),
            (r#"[{"$project": {"copy": "$fullDocument"}}]"#, "reads fullDocument,"),
            (r#"[{"$set": {"x": "$$ROOT"}}]"#, "reads $$ROOT"),
            (r#"[{"$set": {"x": "$$CURRENT.fullDocument.email"}}]"#, "reads fullDocument.email"),
            (r#"[{"$set": {"x": "$updateDescription"}}]"#, "reads updateDescription,"),
            (
                r#"[{"$set": {"x": "$updateDescription.removedFields"}}]"#,
                "reads updateDescription.removedFields",
            ),
            (r#"[{"$set": {"x": {"$objectToArray": "$fullDocument"}}}]"#, "reads fullDocument,"),
            (
                r#"[{"$replaceWith": {"$mergeObjects": ["$$ROOT", {"a": "$fullDocument.email"}]}}]"#,
                "reads fullDocument.email",
            ),
            (
                r#"[{"$set": {"x": {"$getField": {"field": "email", "input": {"$getField": "fullDocument"}}}}}]"#,
                "by $getField",
            ),
            (
                r#"[{"$set": {"x": {"$getField": {"field": {"$concat": ["fullDocu", "ment"]}}}}}]"#,
                "by $getField",
            ),
        ] {
            let found = reads(pipeline);
            assert!(
                found
                    .iter()
                    .any(|found| found.contains(read) && found.contains("which rule 1 (line 1) hides")),
                "{pipeline}: {found:?}"
            );
        }
    }
}

//! What a stage may be and do, told by its form alone.

use bson::{Bson, Document};

/// Stages that leave one event one event, and that MongoDB takes in a change stream.
const ALLOWED: [&str; 8] =
    ["$match", "$project", "$addFields", "$set", "$unset", "$redact", "$replaceWith", "$replaceRoot"];

/// What routing, key and position are made of: it must come through as it is.
pub(super) const NEEDED: [&str; 5] = ["_id", "operationType", "ns", "clusterTime", "documentKey"];
/// Further members that MongoDB itself writes. They may be taken away, but nothing else may bear their name.
const OWN: [&str; 7] =
    ["wallTime", "lsid", "txnNumber", "to", "operationDescription", "collectionUUID", "splitEvent"];
/// Members with the content of documents: their fields may be changed.
pub(super) const PARTS: [&str; 3] = ["fullDocument", "fullDocumentBeforeChange", "updateDescription"];
/// Written by the source and the sink.
pub(super) const ENVELOPE: [&str; 4] = ["_meta", "transaction", "oversize", "_kafka"];
/// What a `$project` that includes keeps without naming it: the needed ones, and what else `_meta` and the control topic say.
const KEPT: [&str; 9] = [
    "operationType",
    "ns",
    "clusterTime",
    "documentKey",
    "wallTime",
    "lsid",
    "txnNumber",
    "to",
    "operationDescription",
];

/// The stage as it is sent to the server.
///
/// # Errors
/// Why it is refused, in words that go on from the stage's name.
pub(super) fn check(stage: &Document) -> Result<Document, String> {
    let mut names = stage.iter();
    let (Some((operator, argument)), None) = (names.next(), names.next()) else {
        return Err("has to have exactly one name, that of the stage".to_owned());
    };
    match operator.as_str() {
        "$match" | "$redact" => Ok(stage.clone()),
        "$addFields" | "$set" => {
            for (path, value) in argument.as_document().into_iter().flatten() {
                assigned(path, value)?;
            }
            Ok(stage.clone())
        }
        "$unset" => {
            let paths = match argument {
                Bson::Array(paths) => paths.iter().filter_map(Bson::as_str).collect(),
                path => Vec::from_iter(path.as_str()),
            };
            paths.into_iter().try_for_each(removed)?;
            Ok(stage.clone())
        }
        "$project" => match argument.as_document() {
            Some(fields) => Ok(bson::doc! { "$project": project(fields)? }),
            None => Ok(stage.clone()),
        },
        "$replaceWith" => replacement(argument).map(|()| stage.clone()),
        "$replaceRoot" => {
            let new = argument.as_document().and_then(|argument| argument.get("newRoot"));
            new.map_or(Ok(()), replacement).map(|()| stage.clone())
        }
        _ => Err(format!("is none of {}, the stages that a change stream may have", ALLOWED.join(", "))),
    }
}

fn root(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}

fn is_self(root: &str, value: &Bson) -> bool {
    value.as_str().and_then(|text| text.strip_prefix('$')) == Some(root)
}

fn alters(name: &str) -> String {
    match name {
        "_id" => {
            "alters _id, which is the resume token: without it nobody can say where the stream is".to_owned()
        }
        _ => format!("alters {name}, which routing, key or position are made of"),
    }
}

fn drops(name: &str) -> String {
    match name {
        "_id" => {
            "drops _id, which is the resume token: without it nobody can say where the stream is".to_owned()
        }
        _ => format!("drops {name}, which routing, key or position are made of"),
    }
}

fn reserved(name: &str) -> Result<(), String> {
    if ENVELOPE.contains(&name) {
        return Err(format!("computes {name}, a name that is the envelope's: take another"));
    }
    if OWN.contains(&name) {
        return Err(format!("computes {name}, a name that is MongoDB's own: take another"));
    }
    Ok(())
}

/// The first member of the event that the stage makes and that is none of MongoDB's.
pub(super) fn computed_member(stage: &Document) -> Option<&str> {
    let (name, argument) = stage.iter().next()?;
    let fields = argument.as_document()?;
    let is_new = |path: &str| {
        let root = root(path);
        !NEEDED.contains(&root) && !OWN.contains(&root) && !PARTS.contains(&root)
    };
    let mut paths = fields.iter().filter(|(path, value)| match name.as_str() {
        "$addFields" | "$set" | "$replaceWith" => is_new(path),
        "$project" => is_new(path) && leaf(value) == Leaf::Computes,
        _ => false,
    });
    paths.next().map(|(path, _)| root(path))
}

/// A path that gets a computed value.
fn assigned(path: &str, value: &Bson) -> Result<(), String> {
    let root = root(path);
    if NEEDED.contains(&root) && !(path == root && is_self(root, value)) {
        return Err(alters(root));
    }
    reserved(root)?;
    // `{"fullDocument": {"total": …}}` sets the path `fullDocument.total`; with an operator in it, it sets all.
    let is_path = path != root || value.as_document().is_some_and(|value| !is_expression(value));
    if PARTS.contains(&root) && !is_path {
        return Err(format!(
            "computes {root}, a name that is the envelope's: change its fields by their paths, such as {root}.total, or take another name"
        ));
    }
    Ok(())
}

fn removed(path: &str) -> Result<(), String> {
    let root = root(path);
    if NEEDED.contains(&root) { Err(drops(root)) } else { Ok(()) }
}

fn is_expression(value: &Document) -> bool {
    value.keys().next().is_some_and(|name| name.starts_with('$'))
}

/// What a value in `$project` does with its path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaf {
    Excludes,
    Includes,
    Computes,
}

fn leaf(value: &Bson) -> Leaf {
    let number = match value {
        Bson::Boolean(flag) => f64::from(u8::from(*flag)),
        Bson::Int32(number) => f64::from(*number),
        #[expect(clippy::cast_precision_loss, reason = "only zero matters")]
        Bson::Int64(number) => *number as f64,
        Bson::Double(number) => *number,
        // `{"a": {"b": 1}}` is `{"a.b": 1}`.
        Bson::Document(nested) if !is_expression(nested) => {
            return nested.values().map(leaf).find(|leaf| *leaf != Leaf::Includes).unwrap_or(Leaf::Includes);
        }
        _ => return Leaf::Computes,
    };
    if number == 0.0 { Leaf::Excludes } else { Leaf::Includes }
}

fn project(fields: &Document) -> Result<Document, String> {
    for (path, value) in fields {
        let (root, leaf) = (root(path), leaf(value));
        let is_whole = path == root && value.as_document().is_none_or(is_expression);
        match leaf {
            Leaf::Excludes => removed(path)?,
            // A part of it would be all that is left.
            Leaf::Includes if NEEDED.contains(&root) && !is_whole => return Err(alters(root)),
            Leaf::Includes => {}
            Leaf::Computes => assigned(path, value)?,
        }
    }
    let mut fields = fields.clone();
    // `_id` may be named in either kind.
    let mut others = fields.iter().filter(|(path, _)| *path != "_id").peekable();
    let only_id = others.peek().is_none() && !fields.is_empty();
    if only_id || others.any(|(_, value)| leaf(value) != Leaf::Excludes) {
        for name in KEPT {
            if !fields.keys().any(|path| root(path) == name) {
                fields.insert(name, 1);
            }
        }
    }
    Ok(fields)
}

/// The argument of `$replaceWith`.
fn replacement(new: &Bson) -> Result<(), String> {
    match new {
        Bson::String(path) if path == "$$ROOT" || path == "$$CURRENT" => Ok(()),
        Bson::String(path) => Err(format!("puts {path} in the event's place, and {}", drops("_id"))),
        Bson::Document(new) if !is_expression(new) => {
            for name in NEEDED {
                match new.get(name) {
                    Some(value) if is_self(name, value) => {}
                    Some(_) => return Err(alters(name)),
                    None => return Err(drops(name)),
                }
            }
            let own = |name: &str, value: &Bson| OWN.contains(&name) && is_self(name, value);
            new.iter().filter(|(name, value)| !own(name, value)).try_for_each(|(name, _)| reserved(name))
        }
        // `$mergeObjects` and the like are tried on events.
        _ => Ok(()),
    }
}

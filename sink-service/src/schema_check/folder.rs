//! The folder: `<db>.<coll>.json` for each collection that is checked. Every mistake is found before any is said.
//!
//! A file is named as the collection's topic, without the prefix: that is where names with odd characters have one form already
//! ([`shared::topic_name`]). Both forms of a topic's name are the same collection. Names that begin with a dot are passed over: a mounted
//! `ConfigMap` has such. Anything else is a mistake: it would check nothing, and nobody would know. A slip within a name, `shop.order` for
//! `shop.orders`, is the name of another collection, which may yet come: `check` warns where no topic is of a schema's collection.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;
use shared::{
    namespace::Namespace,
    topic_name::{DataTopic, TopicNames},
};

use super::DocumentSchema;

/// Larger than any schema that somebody can understand.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

pub(super) fn read(
    folder: &Path,
    names: &TopicNames,
) -> Result<BTreeMap<Namespace, Arc<DocumentSchema>>, Vec<String>> {
    let mut paths = match paths_in(folder) {
        Ok(paths) => paths,
        Err(error) => return Err(vec![format!("a folder that can be read; {error}")]),
    };
    paths.sort();
    let mut mistakes = Vec::new();
    let mut found: BTreeMap<Namespace, (String, Arc<DocumentSchema>)> = BTreeMap::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Hidden ones are of the mount, and a README is for people. Anything else may be a schema with a slip in its name.
        if name.starts_with('.') || name.starts_with("README") {
            continue;
        }
        if !name.ends_with(".json") {
            mistakes.push(format!("in {name}, a name that ends with .json: only schemas lie here, hidden files and a README are passed over"));
            continue;
        }
        let schema = schema_in(&path);
        let namespace = namespace_of(&name, names);
        for problem in [schema.as_ref().err(), namespace.as_ref().err()].into_iter().flatten() {
            mistakes.push(format!("in {name}, {problem}"));
        }
        let (Ok(schema), Ok(namespace)) = (schema, namespace) else { continue };
        if let Some((other, _)) = found.get(&namespace) {
            mistakes.push(format!("in {name}, another collection than {other} has: both are {namespace}"));
            continue;
        }
        found.insert(namespace, (name, Arc::new(schema)));
    }
    if found.is_empty() && mistakes.is_empty() {
        mistakes.push("a folder with a schema in it: <database>.<collection>.json".to_owned());
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    Ok(found.into_iter().map(|(namespace, (_, schema))| (namespace, schema)).collect())
}

fn paths_in(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

fn namespace_of(name: &str, names: &TopicNames) -> Result<Namespace, String> {
    let topic = name.strip_suffix(".json").map(|name| format!("{}.{name}", names.prefix()));
    match topic.and_then(|topic| names.decode(&topic)) {
        Some(DataTopic::Named(namespace)) => Ok(namespace),
        Some(DataTopic::Cut) => Err("the collection's own name: that of its topic was cut, and does not say which one it is".to_owned()),
        None => Err("a name as <database>.<collection>.json, written as in the topic's name; nothing else may lie here".to_owned()),
    }
}

fn schema_in(path: &Path) -> Result<DocumentSchema, String> {
    let unreadable = |error: std::io::Error| format!("a file that can be read: {error}");
    // Follows links: a mounted folder is made of them.
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err("a file".to_owned());
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(format!("at most 1 MiB, not {} bytes", metadata.len()));
    }
    let text = fs::read(path).map_err(unreadable)?;
    let schema: Value = serde_json::from_slice(&text).map_err(|error| format!("JSON: {error}"))?;
    DocumentSchema::compile(&schema).map_err(|problem| format!("a JSON Schema: {problem}"))
}

//! `docker-compose.yml` as data.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use pipeline_tests::paths;
use serde_json::{Map, Value};

/// The file, with anchors and merge keys resolved and `${…}` as written.
pub(super) struct Compose(Value);

/// One entry of `services`.
pub(super) struct ComposeService<'a> {
    name: &'a str,
    entry: &'a Map<String, Value>,
}

impl Compose {
    pub(super) fn read() -> Result<Self> {
        let text = std::fs::read_to_string(paths::repository().join("docker-compose.yml"));
        let text = text.context("read docker-compose.yml")?;
        Ok(Self(serde_saphyr::from_str(&text).context("parse docker-compose.yml")?))
    }

    pub(super) fn services(&self) -> Result<impl Iterator<Item = ComposeService<'_>>> {
        let services = self.0["services"].as_object().context("services is a mapping")?;
        Ok(services.iter().map(|(name, entry)| ComposeService {
            name,
            entry: entry.as_object().expect("Compose itself has read the file"),
        }))
    }

    pub(super) fn service(&self, name: &str) -> Result<ComposeService<'_>> {
        self.services()?.find(|service| service.name == name).with_context(|| format!("no service {name}"))
    }

    pub(super) fn volumes(&self) -> BTreeSet<&str> {
        self.0["volumes"].as_object().into_iter().flat_map(Map::keys).map(String::as_str).collect()
    }
}

impl ComposeService<'_> {
    pub(super) fn name(&self) -> &str {
        self.name
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entry.contains_key(key)
    }

    pub(super) fn image(&self) -> String {
        self.entry.get("image").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    pub(super) fn environment(&self) -> BTreeMap<String, String> {
        let pairs = self.entry.get("environment").and_then(Value::as_object);
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        pairs.into_iter().flatten().map(|(name, value)| (name.clone(), text(value))).collect()
    }

    /// `address:port:port`, with variables replaced by their defaults.
    pub(super) fn ports(&self) -> Vec<String> {
        self.strings("ports").iter().map(|port| default_of(port)).collect()
    }

    pub(super) fn volumes(&self) -> Vec<String> {
        self.strings("volumes")
    }

    /// Whom it waits for, and for what; an empty condition if there is none.
    pub(super) fn depends_on(&self) -> Vec<(String, String)> {
        match self.entry.get("depends_on") {
            Some(Value::Object(all)) => {
                let condition = |entry: &Value| entry["condition"].as_str().unwrap_or_default().to_owned();
                all.iter().map(|(name, entry)| (name.clone(), condition(entry))).collect()
            }
            _ => self.strings("depends_on").into_iter().map(|name| (name, String::new())).collect(),
        }
    }

    /// The words of `healthcheck.test`.
    pub(super) fn health_check(&self) -> Vec<String> {
        let test = self.entry.get("healthcheck").map_or(&Value::Null, |check| &check["test"]);
        strings(test)
    }

    fn strings(&self, key: &str) -> Vec<String> {
        self.entry.get(key).map(strings).unwrap_or_default()
    }
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What Compose makes of `${NAME:-default}` where nobody has set `NAME`.
pub(super) fn default_of(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (inside, after) = after.split_once('}').unwrap_or((after, ""));
        result.push_str(before);
        result.push_str(inside.split_once(":-").map_or("", |(_, default)| default));
        rest = after;
    }
    result + rest
}

/// Every `${NAME:-default}` of the file.
pub(super) fn variables_in(text: &str) -> BTreeMap<String, String> {
    let insides = text.split("${").skip(1).filter_map(|rest| rest.split_once('}'));
    let pairs = insides.map(|(inside, _)| inside.split_once(":-").unwrap_or((inside, "")));
    pairs.map(|(name, default)| (name.to_owned(), default.to_owned())).collect()
}

#[test]
fn variables_and_their_defaults_are_found() {
    let text = "127.0.0.1:${PORT:-80}:80 ${EMPTY:-}x";
    assert_eq!(default_of(text), "127.0.0.1:80:80 x");
    let expected = [("EMPTY".to_owned(), String::new()), ("PORT".to_owned(), "80".to_owned())];
    assert_eq!(variables_in(text), BTreeMap::from(expected));
}

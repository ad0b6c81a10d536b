//! Where each value comes from: the layers, in their order, and the names that nobody knows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::secret::is_path;
use super::{Answer, Mistake, OldName, Origin, Secrecy, Setting, Table};

/// Where values may come from. Injected, so that tests never touch the environment of their process.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// By setting name, from [`super::flags`].
    pub flags: BTreeMap<&'static str, String>,
    pub environment: BTreeMap<String, String>,
    /// The TOML file of `--config`.
    pub config_file: Option<PathBuf>,
}

impl Sources {
    /// This process' environment. What is no UTF-8 in it is replaced, and then refused by the parsers.
    #[must_use]
    pub fn of_process(flags: BTreeMap<&'static str, String>, config_file: Option<PathBuf>) -> Self {
        let environment = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .collect();
        Self { flags, environment, config_file }
    }
}

/// The value of one setting, before it has a type.
pub(super) struct Given {
    pub(super) text: Option<String>,
    pub(super) origin: Origin,
}

/// Every setting of the table with its value, and what was noticed on the way.
pub(super) struct Layers {
    table: Table,
    pub(super) given: BTreeMap<&'static str, Given>,
    pub(super) mistakes: Vec<Mistake>,
    pub(super) warnings: Vec<String>,
}

impl Layers {
    pub(super) fn new(table: Table, old_names: &[OldName], sources: &Sources) -> Self {
        let mut layers = Self { table, given: BTreeMap::new(), mistakes: Vec::new(), warnings: Vec::new() };
        let from_file = match &sources.config_file {
            Some(path) => layers.read_config_file(path, old_names),
            None => BTreeMap::new(),
        };
        for setting in table {
            let given = layers.resolve(setting, sources, &from_file, old_names);
            layers.given.insert(setting.name, given);
        }
        layers.answer_old_names(&sources.environment, old_names);
        layers.warn_of_near_misses(&sources.environment, old_names);
        layers
    }

    fn resolve(
        &mut self,
        setting: &'static Setting,
        sources: &Sources,
        from_file: &BTreeMap<String, String>,
        old_names: &[OldName],
    ) -> Given {
        let found = |text: String, origin| Given { text: Some(text), origin };
        if let Some(text) = sources.flags.get(setting.name).and_then(|value| given(value)) {
            return found(text, Origin::Flag);
        }
        if let Some((text, from_secret_file)) = self.environment_value(setting.name, setting, sources) {
            return found(text, if from_secret_file { Origin::SecretFile } else { Origin::Environment });
        }
        for old in old_names {
            if let Answer::Means(new) = old.answer
                && new.name == setting.name
                && let Some((text, _)) = self.environment_value(old.name, setting, sources)
            {
                return found(text, Origin::OldName(old.name.to_owned()));
            }
        }
        if let Some(text) = from_file.get(setting.name) {
            return found(text.clone(), Origin::ConfigFile);
        }
        match setting.default {
            Some(default) => found(default.to_owned(), Origin::Default),
            None => Given { text: None, origin: Origin::Unset },
        }
    }

    /// The value under `name`, or in the file that `name_FILE` points to, and whether it was the file.
    fn environment_value(
        &mut self,
        name: &str,
        setting: &Setting,
        sources: &Sources,
    ) -> Option<(String, bool)> {
        let environment = |name: &str| sources.environment.get(name).and_then(|value| given(value));
        let text = environment(name);
        let file = format!("{name}_FILE");
        if setting.secret.is_secret()
            && let Some(path) = environment(&file)
        {
            // A common slip is to put the secret itself where its path belongs.
            let shown = if is_path(&path) { path.as_str() } else { "***" };
            if text.is_some() {
                self.mistake(&file, shown, format!("either {name} or {file}, not both"));
            }
            match std::fs::read_to_string(&path) {
                Ok(content) => match given(&content) {
                    Some(secret) => return Some((secret, true)),
                    None => self.mistake(&file, shown, "the path of a file that is not empty"),
                },
                Err(error) => self.mistake(&file, shown, format!("the path of a readable file ({error})")),
            }
        }
        text.map(|text| (text, false))
    }

    fn mistake(&mut self, name: &str, value: &str, expected: impl Into<String>) {
        self.mistakes.push(Mistake {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            expected: expected.into(),
        });
    }

    /// The TOML file's values by setting name.
    fn read_config_file(&mut self, path: &Path, old_names: &[OldName]) -> BTreeMap<String, String> {
        let shown = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.mistake("--config", &shown, format!("the path of a readable TOML file ({error})"));
                return BTreeMap::new();
            }
        };
        let file: toml::Table = match text.parse() {
            Ok(file) => file,
            Err(error) => {
                // Only the message: the error's Display quotes the line, which may hold a secret.
                let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
                self.mistake("--config", &shown, format!("TOML; line {line}: {}", error.message()));
                return BTreeMap::new();
            }
        };
        let mut values = BTreeMap::new();
        for (key, value) in file {
            let name = key.to_ascii_uppercase();
            let known = self.table.iter().find(|setting| setting.name == name && key == key.to_lowercase());
            match (known, scalar(&value)) {
                (Some(_), Some(text)) => {
                    if let Some(text) = given(&text) {
                        values.insert(name, text);
                    }
                }
                (Some(setting), None) => {
                    let expected = format!("{} as a plain value or a list of them", setting.expects);
                    self.mistake(&format!("{key} in {shown}"), value.type_str(), expected);
                }
                (None, _) => {
                    let expected = self.instead_of_key(&key, &name, old_names);
                    self.mistake("--config", &shown, expected);
                }
            }
        }
        values
    }

    fn instead_of_key(&self, key: &str, name: &str, old_names: &[OldName]) -> String {
        match old_names.iter().find(|old| old.name == name).map(|old| old.answer) {
            Some(Answer::Means(new)) => format!("{} instead of its old name {key}", new.name.to_lowercase()),
            Some(Answer::Replaced(text) | Answer::Refused(text)) => format!("no {key}, but {text}"),
            // Capitals alone can be wrong with it.
            None if self.table.iter().any(|setting| setting.name == name) => {
                format!("{} instead of {key}", name.to_lowercase())
            }
            None => match nearest(name, self.table) {
                Some(near) => format!("{} instead of {key}", near.to_lowercase()),
                None => format!("settings' names in lower case instead of {key}"),
            },
        }
    }

    fn answer_old_names(&mut self, environment: &BTreeMap<String, String>, old_names: &[OldName]) {
        for old in old_names {
            let present = |name: &str| environment.get(name).is_some_and(|value| given(value).is_some());
            if !present(old.name) && !present(&format!("{}_FILE", old.name)) {
                continue;
            }
            let warning = match old.answer {
                Answer::Means(new) => {
                    let taken = self.given.get(new.name).map(|given| &given.origin);
                    if taken == Some(&Origin::OldName(old.name.to_owned())) {
                        format!("{} is taken for {}: please use that name", old.name, new.name)
                    } else {
                        format!("{} is ignored because {} is set", old.name, new.name)
                    }
                }
                Answer::Replaced(text) => format!("{} has no effect: {text}", old.name),
                Answer::Refused(text) => {
                    if let Some(value) = environment.get(old.name).and_then(|value| given(value)) {
                        self.mistake(old.name, &Secrecy::Public.mask(&value), text);
                    }
                    continue;
                }
            };
            self.warnings.push(warning);
        }
    }

    /// An environment is full of names that are none of our business, so a near miss is only a warning.
    fn warn_of_near_misses(&mut self, environment: &BTreeMap<String, String>, old_names: &[OldName]) {
        for name in environment.keys() {
            let base = name.strip_suffix("_FILE").unwrap_or(name);
            let known = |known: &str| known == name || known == base;
            if self.table.iter().any(|setting| known(setting.name))
                || old_names.iter().any(|old| known(old.name))
            {
                continue;
            }
            if let Some(near) = nearest(name, self.table) {
                self.warnings.push(format!("{name} is no setting: did you mean {near}?"));
            }
        }
    }
}

/// Blanks are trimmed, and what is empty then is not set.
fn given(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The text that a user would have put into the environment. Tables have no such form.
fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        toml::Value::Datetime(time) => Some(time.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<String>> = items
                .iter()
                .map(|item| scalar(item).filter(|text| !item.is_array() && !text.contains(',')))
                .collect();
            Some(items?.join(","))
        }
        toml::Value::Table(_) => None,
    }
}

/// The setting whose name is at most two edits away.
fn nearest(name: &str, table: Table) -> Option<&'static str> {
    let distances = table.iter().map(|setting| (edits(name, setting.name), setting.name));
    distances.filter(|(distance, _)| (1..=2).contains(distance)).min().map(|(_, name)| name)
}

/// Levenshtein's distance, by bytes: the names are ASCII.
fn edits(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.bytes().enumerate() {
            let replaced = diagonal + usize::from(l != r);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

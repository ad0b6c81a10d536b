//! The layered reader: finds the value of every setting, types it, and collects every mistake.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::{Answer, Effective, EffectiveSetting, Expected, FromSetting, OldName, Origin, Setting, Table};
use crate::exit::{ExitCode, Stop};

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

/// One value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    pub name: String,
    /// As given, secrets masked; `None` if nothing was given.
    pub value: Option<String>,
    /// Completes "expected …".
    pub expected: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value:?}: expected {}", self.name, self.expected),
            None => write!(f, "{} is not set: expected {}", self.name, self.expected),
        }
    }
}

/// Every mistake in the settings, one per line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.mistakes))]
pub struct SettingsError {
    pub mistakes: Vec<Mistake>,
}

fn lines(mistakes: &[Mistake]) -> String {
    let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

impl From<SettingsError> for Stop {
    fn from(error: SettingsError) -> Self {
        Self::new(ExitCode::Configuration, error.to_string())
    }
}

struct Given {
    text: Option<String>,
    origin: Origin,
}

/// Reads typed settings and never stops at the first mistake: a method that returns `None` has recorded one.
///
/// ```
/// # use shared::settings::{LOG_LEVEL, Reader, SHUTDOWN_TIMEOUT, Sources};
/// struct Mine { level: String, grace: std::time::Duration }
///
/// fn read(reader: &mut Reader) -> Option<Mine> {
///     let level = reader.required(&LOG_LEVEL);
///     let grace = reader.required(&SHUTDOWN_TIMEOUT);
///     Some(Mine { level: level?, grace: grace? })
/// }
///
/// let mut reader = Reader::new(&[&LOG_LEVEL, &SHUTDOWN_TIMEOUT], &[], Sources::default());
/// let mine = read(&mut reader);
/// let (mine, effective) = reader.finish(mine)?;
/// assert_eq!(mine.level, "info");
/// # Ok::<(), shared::settings::SettingsError>(())
/// ```
pub struct Reader {
    table: Table,
    given: BTreeMap<&'static str, Given>,
    mistakes: Vec<Mistake>,
    warnings: Vec<String>,
}

impl Reader {
    /// Finds the value of every setting in the table. Files that cannot be read, unknown keys in the TOML file
    /// and secrets given twice are recorded as mistakes.
    #[must_use]
    pub fn new(table: Table, old_names: &[OldName], sources: Sources) -> Self {
        let mut reader = Self { table, given: BTreeMap::new(), mistakes: Vec::new(), warnings: Vec::new() };
        let from_file = match &sources.config_file {
            Some(path) => reader.read_config_file(path, old_names),
            None => BTreeMap::new(),
        };
        for setting in table {
            let given = reader.resolve(setting, &sources, &from_file, old_names);
            reader.given.insert(setting.name, given);
        }
        reader.answer_old_names(&sources.environment, old_names);
        reader.warn_of_near_misses(&sources.environment, old_names);
        reader
    }

    /// A value that must be there, given or by default.
    pub fn required<T: FromSetting>(&mut self, setting: &Setting) -> Option<T> {
        self.parsed(setting, T::from_setting)
    }

    /// A value that may be missing. `None` if it is, or if a mistake was recorded.
    pub fn optional<T: FromSetting>(&mut self, setting: &Setting) -> Option<T> {
        self.text(setting)?;
        self.required(setting)
    }

    /// As [`Self::required`]; says at the call site that the table has a default.
    ///
    /// # Panics
    /// If it has none.
    pub fn with_default<T: FromSetting>(&mut self, setting: &Setting) -> Option<T> {
        assert!(setting.default.is_some(), "{} has no default", setting.name);
        self.required(setting)
    }

    /// A required value within bounds; the setting's `expects` names them.
    pub fn bounded<T: FromSetting + PartialOrd>(
        &mut self,
        setting: &Setting,
        bounds: RangeInclusive<T>,
    ) -> Option<T> {
        self.parsed(setting, |text| {
            let value = T::from_setting(text)?;
            if bounds.contains(&value) { Ok(value) } else { Err(Expected::AsDeclared) }
        })
    }

    /// A required value of an enumeration, in any case.
    pub fn choice<E: clap::ValueEnum>(&mut self, setting: &Setting) -> Option<E> {
        self.parsed(setting, |text| E::from_str(text, true).map_err(|_| one_of::<E>()))
    }

    /// A value of an enumeration that may be missing. `None` if it is, or if a mistake was recorded.
    pub fn optional_choice<E: clap::ValueEnum>(&mut self, setting: &Setting) -> Option<E> {
        self.text(setting)?;
        self.choice(setting)
    }

    /// A required value with a parser of its own.
    pub fn parsed<T>(
        &mut self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Result<T, Expected>,
    ) -> Option<T> {
        let Some(text) = self.text(setting).map(str::to_owned) else {
            // One setting may be read by two rules; it is one mistake all the same.
            if !self.mistakes.iter().any(|mistake| mistake.name == setting.name) {
                self.refuse(setting, setting.expects);
            }
            return None;
        };
        match parse(&text) {
            Ok(value) => Some(value),
            Err(Expected::AsDeclared) => {
                self.refuse(setting, setting.expects);
                None
            }
            Err(Expected::Exactly(expected)) => {
                self.refuse(setting, expected);
                None
            }
        }
    }

    /// Whether a value was given, rather than left to the default.
    #[must_use]
    pub fn is_given(&self, setting: &Setting) -> bool {
        self.given
            .get(setting.name)
            .is_some_and(|given| !matches!(given.origin, Origin::Default | Origin::Unset))
    }

    /// Records a mistake that only a rule over several settings can see. `expected` completes "expected …".
    pub fn refuse(&mut self, setting: &Setting, expected: impl Into<String>) {
        let value = self.text(setting).map(|text| setting.secret.mask(text));
        self.mistakes.push(Mistake { name: setting.name.to_owned(), value, expected: expected.into() });
    }

    /// Something that works but should be looked at; logged at start and shown by `config show`.
    pub fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    /// What holds so far, for `config show`.
    #[must_use]
    pub fn effective(&self) -> Effective {
        let settings = self.table.iter().filter_map(|setting| {
            let given = self.given.get(setting.name)?;
            let value = given.text.as_deref().map(|text| setting.secret.mask(text));
            Some(EffectiveSetting { name: setting.name, value, origin: given.origin.clone() })
        });
        Effective { settings: settings.collect(), warnings: self.warnings.clone() }
    }

    /// The settings, if nobody recorded a mistake.
    ///
    /// # Errors
    /// Every mistake.
    ///
    /// # Panics
    /// If `settings` is `None` and yet no mistake was recorded.
    pub fn finish<T>(self, settings: Option<T>) -> Result<(T, Effective), SettingsError> {
        if !self.mistakes.is_empty() {
            return Err(SettingsError { mistakes: self.mistakes });
        }
        let effective = self.effective();
        Ok((settings.expect("whoever returns None has recorded a mistake"), effective))
    }

    /// # Panics
    /// If the setting is not in the table: it would have no flag and no documentation.
    fn text(&self, setting: &Setting) -> Option<&str> {
        let given = self.given.get(setting.name);
        let given = given.unwrap_or_else(|| panic!("{} is not in the service's table", setting.name));
        given.text.as_deref()
    }

    fn resolve(
        &mut self,
        setting: &'static Setting,
        sources: &Sources,
        from_file: &BTreeMap<String, String>,
        old_names: &[OldName],
    ) -> Given {
        let environment = |name: &str| sources.environment.get(name).and_then(|value| given(value));
        let found = |text: String, origin| Given { text: Some(text), origin };
        if let Some(text) = sources.flags.get(setting.name).and_then(|value| given(value)) {
            return found(text, Origin::Flag);
        }
        let text = environment(setting.name);
        let file = format!("{}_FILE", setting.name);
        if setting.secret.is_secret()
            && let Some(path) = environment(&file)
        {
            if text.is_some() {
                self.mistake(&file, &path, format!("either {} or {file}, not both", setting.name));
            }
            match std::fs::read_to_string(&path) {
                Ok(content) => match given(&content) {
                    Some(secret) => return found(secret, Origin::SecretFile),
                    None => self.mistake(&file, &path, "a file that is not empty"),
                },
                Err(error) => self.mistake(&file, &path, format!("the path of a readable file ({error})")),
            }
        }
        if let Some(text) = text {
            return found(text, Origin::Environment);
        }
        for old in old_names {
            if let Answer::Means(new) = old.answer
                && new.name == setting.name
                && let Some(text) = environment(old.name)
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
                    let expected = self.known_key(&name, old_names);
                    self.mistake(&key, &format!("a key of {shown}"), expected);
                }
            }
        }
        values
    }

    fn known_key(&self, name: &str, old_names: &[OldName]) -> String {
        match old_names.iter().find(|old| old.name == name).map(|old| old.answer) {
            Some(Answer::Means(new)) => format!("its new name, {}", new.name.to_lowercase()),
            Some(Answer::Replaced(text)) => format!("that it is removed: {text}"),
            None => match nearest(name, self.table) {
                Some(near) => format!("a setting's name in lower case: {}?", near.to_lowercase()),
                None => "a setting's name in lower case".to_owned(),
            },
        }
    }

    fn answer_old_names(&mut self, environment: &BTreeMap<String, String>, old_names: &[OldName]) {
        for old in old_names {
            if environment.get(old.name).and_then(|value| given(value)).is_none() {
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

fn one_of<E: clap::ValueEnum>() -> Expected {
    let names: Vec<String> = E::value_variants()
        .iter()
        .filter_map(|variant| Some(variant.to_possible_value()?.get_name().to_owned()))
        .collect();
    match names.split_last() {
        Some((last, [])) => Expected::exactly(last.clone()),
        Some((last, others)) => Expected::exactly(format!("{} or {last}", others.join(", "))),
        None => Expected::AsDeclared,
    }
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

#[cfg(test)]
#[path = "reader/tests.rs"]
mod tests;

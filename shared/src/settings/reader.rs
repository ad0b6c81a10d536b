//! The reader: gives every value its type, and collects every mistake.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::layers::{Given, Layers};
use super::{
    Effective, EffectiveSetting, Expected, FromSetting, Mistake, OldName, Origin, Setting, SettingsError,
    Sources, Table,
};

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
        let Layers { given, mistakes, warnings, .. } = Layers::new(table, old_names, &sources);
        Self { table, given, mistakes, warnings }
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

    /// A value within bounds that may be left out: then it is `default`. `None` if a mistake was recorded.
    pub fn bounded_or<T: FromSetting + PartialOrd>(
        &mut self,
        setting: &Setting,
        bounds: RangeInclusive<T>,
        default: T,
    ) -> Option<T> {
        if self.is_given(setting) { self.bounded(setting, bounds) } else { Some(default) }
    }

    /// A value within bounds that may be left out. The outer `None` if a mistake was recorded.
    pub fn optional_bounded<T: FromSetting + PartialOrd>(
        &mut self,
        setting: &Setting,
        bounds: RangeInclusive<T>,
    ) -> Option<Option<T>> {
        if self.is_given(setting) { self.bounded(setting, bounds).map(Some) } else { Some(None) }
    }

    /// A list with commas between its items; empty if it is left out. `None` if a mistake was recorded.
    pub fn list<T>(
        &mut self,
        setting: &Setting,
        parse: impl FnMut(&str) -> Result<T, Expected>,
    ) -> Option<Vec<T>> {
        if !self.is_given(setting) {
            return Some(Vec::new());
        }
        self.parsed(setting, |text| {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(parse).collect()
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

#[cfg(test)]
#[path = "reader/tests.rs"]
mod tests;

//! What is wrong with the settings, all of it at once.

use std::fmt;

use crate::exit::{ExitCode, Stop};

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

/// Every mistake in the settings: how many, and then one per line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.mistakes))]
pub struct SettingsError {
    pub mistakes: Vec<Mistake>,
}

fn lines(mistakes: &[Mistake]) -> String {
    let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    let plural = if lines.len() == 1 { "" } else { "s" };
    format!("{} mistake{plural} in the settings:\n{}", lines.len(), lines.join("\n"))
}

impl From<SettingsError> for Stop {
    fn from(error: SettingsError) -> Self {
        Self::new(ExitCode::Configuration, error.to_string())
    }
}

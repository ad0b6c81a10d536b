//! `config show`: what holds, and where it came from.

use std::fmt;

/// Which layer a value came from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    Flag,
    Environment,
    /// The environment, under a name from another tool.
    OldName(String),
    /// The file that `NAME_FILE` points to.
    SecretFile,
    ConfigFile,
    Default,
    Unset,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment => f.write_str("environment"),
            Self::OldName(name) => write!(f, "environment, as {name}"),
            Self::SecretFile => f.write_str("secret file"),
            Self::ConfigFile => f.write_str("config file"),
            Self::Default => f.write_str("default"),
            Self::Unset => f.write_str("not set"),
        }
    }
}

/// One setting as it holds; the value is masked already.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct EffectiveSetting {
    pub name: &'static str,
    pub value: Option<String>,
    pub origin: Origin,
}

/// All settings as they hold, in the order of the table. Contains no secret. `Display` is the table for people.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Effective {
    pub settings: Vec<EffectiveSetting>,
    pub warnings: Vec<String>,
}

impl Effective {
    /// For `config show --json`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!(self)
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.settings.iter().map(|setting| setting.name.len()).max().unwrap_or(0);
        let shown = |setting: &EffectiveSetting| setting.value.clone().unwrap_or_else(|| "-".to_owned());
        // One very long value must not push all the origins off the screen.
        let values =
            self.settings.iter().map(|setting| shown(setting).chars().count().min(40)).max().unwrap_or(0);
        for setting in &self.settings {
            writeln!(f, "{:names$}  {:values$}  {}", setting.name, shown(setting), setting.origin)?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}

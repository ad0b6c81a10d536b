//! Settings: one table says what there is, one reader finds every mistake, and all texts come from the table.
//!
//! ```text
//!   flags ▷ environment ▷ NAME_FILE (secrets) ▷ TOML file (--config) ▷ default      the first that is set wins
//!                                   │
//!             Reader: trims, types, bounds, cross-field rules; collects mistakes
//!                                   │
//!            typed settings, or all mistakes at once and exit code 78
//! ```
//!
//! Each service lists its [`Setting`]s in one table. From it come the flags ([`arguments`]), `.env.example`
//! ([`env_example`]), the documentation ([`markdown`]) and `config show` ([`Effective`]); so a name that is in
//! one of them is in all of them. Blanks around a value are cut and an empty value means "not set".
//!
//! Secrets have no flag, because command lines are public on a machine (`ps`). They can be given as
//! `NAME_FILE`, a path to a file that holds the value. They are never printed: not by `config show`, not in a
//! mistake, not by `Debug`.

mod both;
mod catalogue;
mod effective;
mod layers;
mod mistake;
mod reader;
mod secret;
mod text;
mod value;

pub use both::{
    DLQ_TOPIC, GROUP_PROCESS, LOG_FORMAT, LOG_LEVEL, MONGO_URI, ProcessSettings, SHUTDOWN_TIMEOUT,
    TOPIC_PREFIX, admin_addr, dead_letter_topic, mongo_uri,
};
pub use catalogue::Catalogue;
pub use effective::{Effective, EffectiveSetting, Origin};
pub use layers::Sources;
pub use mistake::{Mistake, SettingsError};
pub use reader::Reader;
pub(crate) use secret::option_name;
pub use secret::{Secrecy, Secret};
pub use text::{CONFIG_FLAG, arguments, config_argument, env_example, flags, markdown};
pub use value::{Expected, FromSetting, HostPort};

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The environment variable, `UPPER_SNAKE`. The flag is `--upper-snake`, the TOML key `upper_snake`.
    pub name: &'static str,
    /// What holds when nothing is given, in the form in which a user would write it.
    pub default: Option<&'static str>,
    /// What of the value may be shown.
    pub secret: Secrecy,
    /// What a value must be, so that it completes "expected …".
    pub expects: &'static str,
    /// One sentence on what it does.
    pub help: &'static str,
    /// The heading under which people find it.
    pub group: &'static str,
}

impl Setting {
    /// A setting that everybody may see.
    #[must_use]
    pub const fn public(
        name: &'static str,
        default: Option<&'static str>,
        expects: &'static str,
        help: &'static str,
        group: &'static str,
    ) -> Self {
        Self { name, default, secret: Secrecy::Public, expects, help, group }
    }
}

/// All settings of one service, in the order in which people should read them.
pub type Table = &'static [&'static Setting];

/// A name that users of similar scripts know.
#[derive(Clone, Copy, Debug)]
pub struct OldName {
    pub name: &'static str,
    pub answer: Answer,
}

impl OldName {
    /// A setting that is planned: a value for it that had no effect would be found out too late.
    #[must_use]
    pub const fn not_yet(name: &'static str) -> Self {
        Self { name, answer: Answer::Refused("nothing: this version does not have it yet; leave it unset") }
    }
}

/// What happens to a value given under an [`OldName`].
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// It is taken for this setting, if that is not set itself; a warning names the new name.
    Means(&'static Setting),
    /// It has no effect; a warning says what takes its place.
    Replaced(&'static str),
    /// It is a mistake, because without it something else would be captured; completes "expected …".
    Refused(&'static str),
}

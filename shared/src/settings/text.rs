//! Everything that is generated from the table: flags, `.env.example`, the documentation.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Arg, ArgMatches};

use super::{Setting, Table};

/// The name of the flag, and its id, for the TOML file.
pub const CONFIG_FLAG: &str = "config";

/// `--config FILE`.
#[must_use]
pub fn config_argument() -> Arg {
    Arg::new(CONFIG_FLAG)
        .long(CONFIG_FLAG)
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("TOML file with settings: the same names in lower case")
}

/// One flag for each setting that is no secret. The id is the setting's name.
#[must_use]
pub fn arguments(table: Table) -> Vec<Arg> {
    let public = table.iter().filter(|setting| !setting.secret.is_secret());
    public
        .map(|setting| {
            let default = setting.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
            Arg::new(setting.name)
                .long(flag(setting))
                .value_name("VALUE")
                .help_heading(setting.group)
                .allow_hyphen_values(true)
                .help(format!("{}{default}", setting.help))
                .long_help(format!(
                    "{}\nExpected: {}\n[env: {}]{default}",
                    setting.help, setting.expects, setting.name
                ))
        })
        .collect()
}

/// The values of the flags made by [`arguments`], by setting name.
#[must_use]
pub fn flags(table: Table, matches: &ArgMatches) -> BTreeMap<&'static str, String> {
    let given = |setting: &&'static Setting| {
        let value = matches.try_get_one::<String>(setting.name).ok()??;
        Some((setting.name, value.clone()))
    };
    table.iter().filter_map(given).collect()
}

/// An `.env` file with every setting. What has a default, or may be left out, is commented out.
#[must_use]
pub fn env_example(table: Table) -> String {
    let mut text = String::new();
    let mut group = "";
    for setting in table {
        if setting.group != group {
            group = setting.group;
            let gap = if text.is_empty() { "" } else { "\n" };
            writeln!(text, "{gap}# --- {group} ---").expect("a String takes everything");
        }
        let file = if setting.secret.is_secret() {
            format!(" Secret: {}_FILE may name a file that holds it.", setting.name)
        } else {
            String::new()
        };
        writeln!(
            text,
            "\n# {} Expected: {}.{file}\n#{}={}",
            setting.help,
            setting.expects,
            setting.name,
            setting.default.unwrap_or_default()
        )
        .expect("a String takes everything");
    }
    text
}

/// One Markdown table per group.
#[must_use]
pub fn markdown(table: Table) -> String {
    let mut text = String::new();
    let mut group = "";
    for setting in table {
        if setting.group != group {
            group = setting.group;
            let gap = if text.is_empty() { "" } else { "\n" };
            writeln!(text, "{gap}**{group}**\n\n| Name | Default | Expected | Meaning |\n|---|---|---|---|")
                .expect("a String takes everything");
        }
        let default = setting.default.map(|default| format!("`{}`", cell(default))).unwrap_or_default();
        let secret = if setting.secret.is_secret() { " Secret, also as `…_FILE`." } else { "" };
        writeln!(
            text,
            "| `{}` | {default} | {} | {}{secret} |",
            setting.name,
            cell(setting.expects),
            cell(setting.help)
        )
        .expect("a String takes everything");
    }
    text
}

fn flag(setting: &Setting) -> String {
    setting.name.to_ascii_lowercase().replace('_', "-")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::super::{LOG_FORMAT, LOG_LEVEL, SHUTDOWN_TIMEOUT, Secrecy};
    use super::*;

    const PASSWORD: Setting = Setting {
        name: "PASSWORD",
        default: None,
        secret: Secrecy::Whole,
        expects: "a password",
        help: "Opens | closes.",
        group: "Doors",
    };
    const TABLE: Table = &[&LOG_FORMAT, &LOG_LEVEL, &SHUTDOWN_TIMEOUT, &PASSWORD];

    fn command() -> clap::Command {
        clap::Command::new("it").args(arguments(TABLE)).arg(config_argument())
    }

    #[test]
    fn every_public_setting_is_a_flag_and_no_secret_is() {
        let line = ["it", "--log-level", "debug", "--shutdown-timeout=5s", "--config", "a.toml"];
        let matches = command().try_get_matches_from(line).unwrap();
        let expected =
            BTreeMap::from([("LOG_LEVEL", "debug".to_owned()), ("SHUTDOWN_TIMEOUT", "5s".to_owned())]);
        assert_eq!(flags(TABLE, &matches), expected);
        assert_eq!(matches.get_one::<PathBuf>(CONFIG_FLAG), Some(&PathBuf::from("a.toml")));
        assert!(command().try_get_matches_from(["it", "--password", "x"]).is_err());
    }

    #[test]
    fn texts_name_every_setting_with_its_default() {
        let help = command().render_long_help().to_string();
        let (example, page) = (env_example(TABLE), markdown(TABLE));
        assert!(help.contains("[env: LOG_LEVEL] [default: info]"), "{help}");
        for setting in TABLE {
            let default = setting.default.unwrap_or_default();
            assert!(example.contains(&format!("\n#{}={default}\n", setting.name)), "{example}");
            assert!(page.contains(&format!("| `{}` | ", setting.name)), "{page}");
        }
        assert!(page.contains("Opens \\| closes. Secret, also as `…_FILE`."), "{page}");
        assert!(example.contains("PASSWORD_FILE"), "{example}");
    }
}

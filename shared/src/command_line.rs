//! What the command lines of both services have in common: flags from the table of settings, and `config`.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::settings::{self, Sources, Table};

const JSON: &str = "json";

/// `config show` or `config example`.
#[derive(Debug)]
pub enum ConfigRequest {
    Show { sources: Sources, json: bool },
    Example,
}

/// A flag that takes no value.
#[must_use]
pub fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// The command with `--config` and a flag for every setting that is no secret.
#[must_use]
pub fn with_settings(command: Command, table: Table) -> Command {
    command.arg(settings::config_argument()).args(settings::arguments(table))
}

/// The sub-command `config`.
#[must_use]
pub fn config_command(table: Table) -> Command {
    let show =
        Command::new("show").about("Every setting as it holds, and where it came from; secrets masked");
    let example = "An .env file with every setting, its default and what it expects";
    Command::new("config")
        .about("Settings: what holds, and a template")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(with_settings(show, table).arg(flag(JSON, "As JSON")))
        .subcommand(Command::new("example").about(example))
}

/// What was asked of `config`.
#[must_use]
pub fn config_request(table: Table, matches: &ArgMatches) -> ConfigRequest {
    match matches.subcommand() {
        Some(("show", matches)) => {
            ConfigRequest::Show { sources: sources(table, matches), json: matches.get_flag(JSON) }
        }
        _ => ConfigRequest::Example,
    }
}

/// Flags, environment and the file of `--config`.
#[must_use]
pub fn sources(table: Table, matches: &ArgMatches) -> Sources {
    let flags = settings::flags(table, matches);
    Sources::of_process(flags, matches.get_one::<PathBuf>(settings::CONFIG_FLAG).cloned())
}

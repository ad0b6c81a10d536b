//! The two ends of a process: what it prints without a log, and with which code it ends.

use std::{io::Write, process::ExitCode as ProcessExit};

use crate::{
    exit::{ExitCode, Stop},
    settings::{Effective, SettingsError},
};

/// Prints a result to standard output.
#[must_use]
pub fn print(text: &str) -> ProcessExit {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ProcessExit::SUCCESS,
        // Whoever reads has gone, as `head` does.
        Err(_) => ExitCode::Defect.into(),
    }
}

/// For what is wrong before there is a log, or where there is none.
#[must_use]
pub fn complain(service: &str, stop: &Stop) -> ProcessExit {
    match writeln!(std::io::stderr().lock(), "{service}: {stop}") {
        Ok(()) | Err(_) => stop.exit_code(),
    }
}

/// What clap has to say: help and version are no mistake.
#[must_use]
pub fn print_usage(error: &clap::Error) -> ProcessExit {
    let asked =
        matches!(error.kind(), clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion);
    match error.print() {
        Ok(()) if asked => ProcessExit::SUCCESS,
        _ => ExitCode::Usage.into(),
    }
}

/// `config show`: what holds, and then the mistakes in it.
#[must_use]
pub fn show_config(
    service: &str,
    effective: &Effective,
    mistakes: Option<SettingsError>,
    json: bool,
) -> ProcessExit {
    let text = if json { format!("{:#}\n", effective.to_json()) } else { effective.to_string() };
    let printed = print(&text);
    match mistakes {
        Some(error) => complain(service, &error.into()),
        None => printed,
    }
}

/// The last line of a process that stops for a reason.
#[must_use]
pub fn stopped(stop: &Stop) -> ProcessExit {
    tracing::error!(
        code = stop.code.number(),
        meaning = stop.code.meaning(),
        reason = stop.message,
        "stopped"
    );
    stop.exit_code()
}

//! `token`: a source's position, looked at, taken apart, moved, and tried.
//!
//! ```text
//!  show     Kafka            what is committed, whose it is, whether these settings resume it
//!  decode   nothing          the time inside a token
//!  check    Kafka, MongoDB   would a start from there be accepted? changes nothing
//!  set      Kafka, MongoDB   a new position, as one transaction of a producer that fences every other
//! ```
//!
//! All of them read the token topic as the source does: committed records, up to the high watermark.

mod args;
mod check;
mod decode;
mod guard;
pub(crate) mod report;
mod set;
mod show;
pub(crate) mod stored;

use std::process::ExitCode as ProcessExit;

use shared::{
    exit::{ExitCode, Stop},
    process,
    settings::{ProcessSettings, Sources},
    telemetry,
};

pub use self::args::{TokenRequest, command, request};
use crate::{
    cli::SERVICE,
    settings::{SourceSettings, TokenShowSettings},
};

/// Does what was asked, and says with which code the process ends.
pub fn run(sources: Sources, request: &TokenRequest) -> ProcessExit {
    let done = match request {
        TokenRequest::Decode(decode) => decode::run(decode),
        TokenRequest::Show { json } => with(TokenShowSettings::read(sources), |settings| {
            install_log(&settings.process)?;
            show::run(settings, *json)
        }),
        TokenRequest::Check { json } => with(read_all(sources), |settings| {
            install_log(&settings.process)?;
            check::run(settings, *json)
        }),
        TokenRequest::Set(set) => with(read_all(sources), |settings| {
            install_log(&settings.process)?;
            set::run(settings, set)
        }),
    };
    match done {
        Ok(Answer { text, code: ExitCode::Drained }) => process::print(&text),
        Ok(Answer { text, code }) => {
            // The code is the answer, whether or not somebody reads the words.
            let _printed = process::print(&text);
            code.into()
        }
        Err(stop) => process::complain(SERVICE, &stop),
    }
}

/// What a command prints, and the code that says it to scripts.
struct Answer {
    text: String,
    code: ExitCode,
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Self { text, code: ExitCode::Drained }
    }
}

fn read_all(sources: Sources) -> Result<SourceSettings, shared::settings::SettingsError> {
    SourceSettings::read(sources).map(|(settings, _)| settings)
}

fn with<T>(
    settings: Result<T, shared::settings::SettingsError>,
    command: impl FnOnce(&T) -> Result<Answer, Stop>,
) -> Result<Answer, Stop> {
    command(&settings?)
}

/// What goes wrong on the way is of interest; what goes right is the answer.
fn install_log(process: &ProcessSettings) -> Result<(), Stop> {
    telemetry::install(process.log_format, "warn", "token")
}

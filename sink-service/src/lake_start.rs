//! The first contact with the lake: opened, and waited for.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use shared::{
    backoff::Backoff,
    exit::{ExitCode, Stop},
};
use tokio::runtime::Runtime;

use crate::{
    lake::{Lake, LakeAuth, LakeError, LakeTarget},
    lake_account::refuse_unfit,
    settings::SinkSettings,
};

/// How long the lake may take to answer for the first time.
const LAKE_PREPARE_LIMIT: Duration = Duration::from_secs(60);

/// How often a wait for the lake is spoken of; no pause between two attempts is longer, unless the store asks for it.
const LAKE_WAIT_TOLD_EVERY: Duration = Duration::from_secs(10);

/// Opens the lake and makes it usable; a storage account that does not fit is refused. A lake that cannot be reached is tried again until [`LAKE_PREPARE_LIMIT`];
/// `on_wait` gets a sentence for people about each attempt that fails or takes long, and the log gets it too.
pub fn await_lake(
    settings: &SinkSettings,
    runtime: &Runtime,
    on_wait: &dyn Fn(String),
) -> Result<Lake, Stop> {
    let lake = Lake::open(&settings.lake, settings.auth.as_ref())
        .map_err(|error| Stop::new(ExitCode::Configuration, error.to_string()))?;
    let begun = Instant::now();
    let tell = |cause: &str| {
        let waited = Duration::from_secs(begun.elapsed().as_secs());
        tracing::warn!(lake = %settings.lake, cause, ?waited, "the lake does not answer yet");
        on_wait(format!("the lake does not answer yet: {cause}"));
    };
    let prepared = runtime.block_on(prepare(&lake, begun + LAKE_PREPARE_LIMIT, tell));
    prepared.map_err(|error| {
        let what = format!("cannot use the lake at {}: {error}", settings.lake);
        Stop::new(error.exit_code(ExitCode::Unreachable), what)
    })?;
    runtime.block_on(refuse_unfit(&lake, settings.account_use()))?;
    Ok(lake)
}

/// Opens a lake that must be there already: one that is only read, or mended, is not made.
///
/// # Errors
/// If there is none, or no way in.
pub fn open_existing_lake(target: &LakeTarget, auth: Option<&LakeAuth>) -> Result<Lake, Stop> {
    let cannot =
        |what: &str| Stop::new(ExitCode::Configuration, format!("cannot read the lake at {target}: {what}"));
    if let LakeTarget::Directory(root) = target
        && !root.is_dir()
    {
        return Err(cannot("there is no such directory"));
    }
    Lake::open(target, auth).map_err(|error| cannot(&error.to_string()))
}

/// The lake that `--into` names, not prepared yet. `otherwise` says what to do instead of naming the lake itself.
///
/// # Errors
/// If the address cannot be used, is that of the lake itself, or there is no way in.
pub fn open_other_lake(settings: &SinkSettings, url: &str, otherwise: &str) -> Result<Lake, Stop> {
    let target = settings
        .lake
        .another(url)
        .map_err(|error| Stop::new(ExitCode::Usage, format!("--into {url}: {error}")))?;
    if target == settings.lake {
        return Err(Stop::new(ExitCode::Usage, format!("--into names the lake itself: {otherwise}")));
    }
    Lake::open(&target, settings.auth.as_ref())
        .map_err(|error| Stop::new(ExitCode::Configuration, format!("cannot write to {target}: {error}")))
}

/// Repeats what may succeed later, until `deadline`; the last attempt's error is the one returned.
async fn prepare(lake: &Lake, deadline: Instant, tell: impl Fn(&str)) -> Result<(), LakeError> {
    let mut backoff = Backoff::default();
    let left = || deadline.saturating_duration_since(Instant::now());
    loop {
        let mut attempt = pin!(lake.prepare());
        let error = loop {
            match tokio::time::timeout(LAKE_WAIT_TOLD_EVERY.min(left()), &mut attempt).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => break error,
                Err(_) if left().is_zero() => {
                    return Err(LakeError::Unavailable { cause: "no answer".into(), retry_after: None });
                }
                Err(_) => tell("no answer"),
            }
        };
        let asked = match &error {
            LakeError::Unavailable { retry_after, .. } => *retry_after,
            LakeError::Unknown { .. } => None,
            LakeError::Conflict
            | LakeError::Denied { .. }
            | LakeError::Refused { .. }
            | LakeError::Damaged { .. } => return Err(error),
        };
        let pause = backoff.next_delay().min(LAKE_WAIT_TOLD_EVERY).max(asked.unwrap_or_default());
        if pause >= left() {
            return Err(error);
        }
        tell(&error.to_string());
        tokio::time::sleep(pause).await;
    }
}

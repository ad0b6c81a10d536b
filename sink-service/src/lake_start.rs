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
    lake::{Lake, LakeError, LakeTarget},
    lake_account::refuse_unfit,
    lake_layout::{OpenLake, agreed, begin, found},
    look_again::look_again,
    settings::SinkSettings,
};

/// How long the lake may take to answer for the first time.
const LAKE_PREPARE_LIMIT: Duration = Duration::from_secs(60);

/// How often a wait for the lake is spoken of; no pause between two attempts is longer, unless the store asks for it.
const LAKE_WAIT_TOLD_EVERY: Duration = Duration::from_secs(10);

/// Opens the lake, makes it usable, and begins it if nobody has; a storage account that does not fit is refused, and so is a lake of another layout.
/// A lake that cannot be reached is tried again until [`LAKE_PREPARE_LIMIT`]; `on_wait` gets a sentence for people about each attempt that fails or takes long, and the log gets it too.
pub fn await_lake(
    settings: &SinkSettings,
    runtime: &Runtime,
    on_wait: &dyn Fn(String),
) -> Result<OpenLake, Stop> {
    let lake = Lake::open(&settings.lake, settings.auth.as_ref())
        .map_err(|error| Stop::new(ExitCode::Configuration, error.to_string()))?;
    let begun = Instant::now();
    let tell = |cause: &str| {
        let waited = Duration::from_secs(begun.elapsed().as_secs());
        tracing::warn!(lake = %settings.lake, cause, ?waited, "the lake does not answer yet");
        on_wait(format!("the lake does not answer yet: {cause}"));
    };
    let cannot = |error: LakeError| {
        let what = format!("cannot use the lake at {}: {error}", settings.lake);
        Stop::new(error.exit_code(ExitCode::Unreachable), what)
    };
    let deadline = begun + LAKE_PREPARE_LIMIT;
    runtime.block_on(async {
        answered(async || lake.prepare().await, deadline, tell).await.map_err(cannot)?;
        refuse_unfit(&lake, settings.account_use()).await?;
        let has = answered(async || begin(&lake, &settings.layout).await, deadline, tell).await;
        let layout = agreed(&settings.lake, has.map_err(cannot)?, &settings.layout)?;
        tracing::info!(%layout, "lake opened");
        Ok(OpenLake::new(lake, layout))
    })
}

/// Opens a lake that must be there already, as it is laid out: one that is only read, or mended, is not made. `LAYOUT` need not be set, and must not say
/// otherwise.
///
/// # Errors
/// If there is none, or no way in, or if it is of another layout than the one that is set.
pub fn open_existing_lake(runtime: &Runtime, settings: &SinkSettings) -> Result<OpenLake, Stop> {
    let (target, told) = (&settings.lake, &settings.layout);
    let cannot =
        |what: &str| Stop::new(ExitCode::Configuration, format!("cannot read the lake at {target}: {what}"));
    if let LakeTarget::Directory(root) = target
        && !root.is_dir()
    {
        return Err(cannot("there is no such directory"));
    }
    let lake = Lake::open(target, settings.auth.as_ref()).map_err(|error| cannot(&error.to_string()))?;
    let has = runtime.block_on(look_again(async || found(&lake, told).await)).map_err(|error| {
        let what = format!("cannot read the lake at {target}: {error}");
        Stop::new(error.exit_code(ExitCode::Unreachable), what)
    })?;
    let layout = match has {
        Some(has) if told.given => agreed(target, has, told)?,
        Some(has) => has,
        None => told.layout.clone(),
    };
    Ok(OpenLake::new(lake, layout))
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
    if target.lies_in(&settings.lake) {
        let message =
            format!("--into {url} lies in the lake, whose readers would see both: name another place");
        return Err(Stop::new(ExitCode::Usage, message));
    }
    Lake::open(&target, settings.auth.as_ref())
        .map_err(|error| Stop::new(ExitCode::Configuration, format!("cannot write to {target}: {error}")))
}

/// Repeats what may succeed later, until `deadline`; the last attempt's error is the one returned.
async fn answered<T>(
    request: impl AsyncFn() -> Result<T, LakeError>,
    deadline: Instant,
    tell: impl Fn(&str),
) -> Result<T, LakeError> {
    let mut backoff = Backoff::default();
    let left = || deadline.saturating_duration_since(Instant::now());
    loop {
        let mut attempt = pin!(request());
        let error = loop {
            match tokio::time::timeout(LAKE_WAIT_TOLD_EVERY.min(left()), &mut attempt).await {
                Ok(Ok(answer)) => return Ok(answer),
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
            | LakeError::Damaged { .. }
            | LakeError::Foreign { .. } => return Err(error),
        };
        let pause = backoff.next_delay().min(LAKE_WAIT_TOLD_EVERY).max(asked.unwrap_or_default());
        if pause >= left() {
            return Err(error);
        }
        tell(&error.to_string());
        tokio::time::sleep(pause).await;
    }
}

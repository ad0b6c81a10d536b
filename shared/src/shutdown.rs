//! From signal to end: SIGTERM or SIGINT asks for an orderly stop, a second one ends the process at once.
//!
//! ```text
//!   first signal ──▶ token cancelled ──▶ the service drains ──▶ exit 0
//!         │                                     │
//!         └── SHUTDOWN_TIMEOUT passes ──────────┴── not done: exit 75
//!   second signal ────────────────────────────────────────▶ exit 75 at once
//! ```
//!
//! Ending at once is always safe: what was not committed is read again. Hence no clean-up runs then, and
//! nothing can act after it.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::{ExitCode, Stop};

/// Listens for signals on a thread of its own; the returned token is cancelled by the first one.
///
/// The thread lives as long as the process, and needs no runtime of the service's.
/// From the first signal on it also enforces `grace_period`: a process that has not ended by then is ended.
///
/// # Errors
/// [`ExitCode::Temporary`] if the handlers cannot be installed.
pub fn on_signals(grace_period: Duration) -> Result<CancellationToken, Stop> {
    let failed = |error: std::io::Error| {
        Stop::new(ExitCode::Temporary, format!("signal handlers cannot be installed: {error}"))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (terminate, interrupt) = {
        let _context = runtime.enter();
        (signal(SignalKind::terminate()).map_err(failed)?, signal(SignalKind::interrupt()).map_err(failed)?)
    };
    let token = CancellationToken::new();
    let requested = token.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || runtime.block_on(obey(terminate, interrupt, requested, grace_period)))
        .map_err(failed)?;
    Ok(token)
}

/// Waits for `work` for at most `grace_period`; `None` when it did not end in time.
pub async fn within<F: Future>(grace_period: Duration, work: F) -> Option<F::Output> {
    tokio::time::timeout(grace_period, work).await.ok()
}

async fn obey(
    mut terminate: Signal,
    mut interrupt: Signal,
    token: CancellationToken,
    grace_period: Duration,
) -> ! {
    let name = next_signal(&mut terminate, &mut interrupt).await;
    tracing::info!(signal = name, grace_period = %humantime::format_duration(grace_period), "stopping");
    token.cancel();
    match within(grace_period, next_signal(&mut terminate, &mut interrupt)).await {
        Some(name) => tracing::warn!(signal = name, "second signal: ending at once"),
        None => tracing::error!(
            grace_period = %humantime::format_duration(grace_period),
            "not drained within SHUTDOWN_TIMEOUT: ending; what was not committed is read again"
        ),
    }
    std::process::exit(i32::from(ExitCode::Temporary.number()))
}

async fn next_signal(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn work_that_outlives_the_grace_period_is_given_up() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            assert_eq!(within(Duration::from_secs(5), async { 7 }).await, Some(7));
            assert_eq!(within(Duration::from_millis(1), std::future::pending::<()>()).await, None);
        });
    }

    /// A real signal to this very process. The grace period outlives the test run, which is thus not ended.
    #[test]
    fn the_first_signal_cancels_the_token() {
        let token = on_signals(Duration::from_secs(3600)).unwrap();
        assert!(!token.is_cancelled());
        let process = std::process::id().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &process]).status().unwrap().success());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let cancelled = runtime.block_on(within(Duration::from_secs(10), token.cancelled()));
        assert_eq!(cancelled, Some(()));
    }
}

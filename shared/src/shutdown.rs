//! From signal to end: SIGTERM or SIGINT asks for an orderly stop, a second one ends the process at once.
//!
//! ```text
//!   while it starts: first signal ──────────────────────────▶ exit 0 at once
//!
//!   first signal ──▶ token cancelled ──▶ the service drains ──▶ exit 0
//!         │                                     │
//!         └── SHUTDOWN_TIMEOUT passes ──────────┴── not done: exit 75
//!   second signal ────────────────────────────────────────▶ exit 75 at once
//! ```
//!
//! Ending at once is always safe: what was not committed is read again. Hence no clean-up runs then, and
//! nothing can act after it. Until the service's loop runs ([`StartPhase`]) nothing is in flight either, and what
//! the start waits for (Kafka, MongoDB, the lake) may take a minute: there is nothing to drain.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::{ExitCode, Stop};

const STARTING: u8 = 0;
const STARTED: u8 = 1;
const ENDED: u8 = 2;

/// From the installation of the signal handlers to the first turn of the service's loop.
///
/// As long as this value lives, the first signal ends the process with 0. A start that fails drops it, and the
/// process ends with the code of its failure.
#[derive(Debug)]
#[must_use = "the start phase ends where this is dropped"]
pub struct StartPhase(Arc<AtomicU8>);

impl StartPhase {
    /// The service's loop begins: from now on a signal asks for a drain.
    pub fn over(self) {
        drop(self);
    }
}

impl Drop for StartPhase {
    fn drop(&mut self) {
        // The two sides agree on one of the two ends: nothing is begun, or logged, after `stopped`.
        if !advance(&self.0, STARTED) {
            loop {
                // The signal thread is ending the process.
                std::thread::park();
            }
        }
    }
}

/// Leaves `STARTING` for `next`, unless the other side has left it already.
fn advance(phase: &AtomicU8, next: u8) -> bool {
    phase.compare_exchange(STARTING, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

/// Listens for signals on a thread of its own; the returned token is cancelled by the first one, once the
/// returned [`StartPhase`] is over. Before that the first one ends the process with 0.
///
/// The thread lives as long as the process, and needs no runtime of the service's.
/// From the first signal on it also enforces `grace_period`: a process that has not ended by then is ended.
///
/// # Errors
/// [`ExitCode::Temporary`] if the handlers cannot be installed.
pub fn on_signals(grace_period: Duration) -> Result<(CancellationToken, StartPhase), Stop> {
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
    let phase = Arc::new(AtomicU8::new(STARTING));
    let start = StartPhase(Arc::clone(&phase));
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || runtime.block_on(obey(terminate, interrupt, &phase, requested, grace_period)))
        .map_err(failed)?;
    Ok((token, start))
}

/// Waits for `work` for at most `grace_period`; `None` when it did not end in time.
pub async fn within<F: Future>(grace_period: Duration, work: F) -> Option<F::Output> {
    tokio::time::timeout(grace_period, work).await.ok()
}

async fn obey(
    mut terminate: Signal,
    mut interrupt: Signal,
    phase: &AtomicU8,
    token: CancellationToken,
    grace_period: Duration,
) -> ! {
    let name = next_signal(&mut terminate, &mut interrupt).await;
    if advance(phase, ENDED) {
        let code = ExitCode::Drained.number();
        tracing::info!(
            signal = name,
            code,
            detail = "it was still starting: nothing was in flight",
            "stopped"
        );
        std::process::exit(i32::from(code));
    }
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

    #[test]
    fn the_start_phase_has_one_end() {
        let phase = Arc::new(AtomicU8::new(STARTING));
        StartPhase(Arc::clone(&phase)).over();
        assert!(!advance(&phase, ENDED), "a signal after it must ask for a drain");
        assert!(advance(&AtomicU8::new(STARTING), ENDED), "a signal during it ends the process");
    }

    /// A real signal to this very process. The grace period outlives the test run, which is thus not ended.
    #[test]
    fn the_first_signal_cancels_the_token() {
        let (token, start) = on_signals(Duration::from_secs(3600)).unwrap();
        start.over();
        assert!(!token.is_cancelled());
        let process = std::process::id().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &process]).status().unwrap().success());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let cancelled = runtime.block_on(within(Duration::from_secs(10), token.cancelled()));
        assert_eq!(cancelled, Some(()));
    }
}

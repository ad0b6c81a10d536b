//! `monitor`: changes as they come, for a person at a terminal or for a pipe.
//!
//! ```text
//!  topic_tail  ─┐                      ┌─ rates ──▶ board (status line, table at the end)
//!               ├─▶ Observed ─▶ filter ┤
//!  stream_tail ─┘                      └─ event_view ─▶ render | audit | json ──▶ screen
//! ```
//!
//! It only reads. Its consumer belongs to no group, and the change stream's position is kept nowhere.

mod args;
mod audit;
mod board;
mod event_view;
mod filter;
mod json;
mod oplog_gauge;
mod rates;
mod render;
mod screen;
mod stream_tail;
mod topic_tail;

use std::{
    process::ExitCode as ProcessExit,
    time::{Duration, Instant},
};

use shared::{
    exit::Stop,
    process,
    settings::{ProcessSettings, Secret, Sources},
    shutdown, telemetry,
};
use tokio_util::sync::CancellationToken;

pub use self::{
    args::{Begin, Colour, MonitorRequest, View, command, request},
    audit::AuditOptions,
    filter::Filter,
};
use self::{
    event_view::Observed, oplog_gauge::OplogGauge, rates::Rates, screen::Screen, stream_tail::StreamTail,
    topic_tail::TopicTail,
};
use crate::{
    batch::now_ms,
    change_stream::StreamOptions,
    cli::SERVICE,
    settings::{StreamMonitorSettings, TopicMonitorSettings},
};

/// The screen is drawn, and a signal seen, at least this often.
const SLICE: Duration = Duration::from_millis(200);
/// After a signal the table is printed at once; more than this it cannot take.
const GRACE: Duration = Duration::from_secs(10);

/// Whether there is more at once.
enum Turn {
    More,
    /// Nothing came for now.
    Idle,
    /// The end that was asked for is reached.
    End,
}

/// Shows what was asked for, until it ends; says with which code the process does.
pub fn run(sources: Sources, request: &MonitorRequest) -> ProcessExit {
    let done = if request.stream { watch_stream(sources, request) } else { watch_topics(sources, request) };
    match done {
        Ok(()) => ProcessExit::SUCCESS,
        Err(stop) => process::complain(SERVICE, &stop),
    }
}

fn watch_topics(sources: Sources, request: &MonitorRequest) -> Result<(), Stop> {
    let settings = TopicMonitorSettings::read(sources)?;
    let signals = begin(&settings.process)?;
    let tail =
        TopicTail::start(&settings, &request.topics, &request.filter, &request.from, request.until_end)?;
    let seen_by = Watch { uri: settings.mongo_uri.as_ref(), options: &settings.stream };
    watch(Tail::Topics(Box::new(tail)), request, signals, &seen_by)
}

fn watch_stream(sources: Sources, request: &MonitorRequest) -> Result<(), Stop> {
    let settings = StreamMonitorSettings::read(sources)?;
    let signals = begin(&settings.process)?;
    let tail = StreamTail::start(&settings, &request.from, request.until_end)?;
    let seen_by = Watch { uri: Some(&settings.mongo_uri), options: &settings.stream };
    watch(Tail::Stream(Box::new(tail)), request, signals, &seen_by)
}

type Signals = (CancellationToken, shutdown::StartPhase);

fn begin(process: &ProcessSettings) -> Result<Signals, Stop> {
    telemetry::install(process.log_format, "warn", "monitor")?;
    shutdown::on_signals(GRACE)
}

enum Tail {
    Topics(Box<TopicTail>),
    Stream(Box<StreamTail>),
}

impl Tail {
    fn turn(&mut self, limit: Duration, mut take: impl FnMut(&Observed<'_>)) -> Result<Turn, Stop> {
        match self {
            Self::Topics(tail) => tail.turn(limit, &mut take),
            Self::Stream(tail) => tail.turn(limit, &mut take),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Topics(tail) => tail.describe(),
            Self::Stream(tail) => tail.describe(),
        }
    }
}

/// Whose oplog is looked at.
struct Watch<'a> {
    uri: Option<&'a Secret>,
    options: &'a StreamOptions,
}

fn watch(
    mut tail: Tail,
    request: &MonitorRequest,
    (stop, start): Signals,
    mongo: &Watch<'_>,
) -> Result<(), Stop> {
    let mut screen = Screen::new(request);
    // Only the status line says it.
    let oplog = OplogGauge::start(mongo.uri.filter(|_| screen.has_status()), mongo.options);
    let begun = Instant::now();
    let mut rates = Rates::new(begun);
    let mut drawn = begun;
    screen.status(format!("waiting for changes: {}", tail.describe()));
    start.over();
    loop {
        let over = request.duration.is_some_and(|limit| begun.elapsed() >= limit);
        if stop.is_cancelled() || over {
            break;
        }
        let turn = tail.turn(SLICE, |event| {
            if request.filter.lets(event) {
                rates.count(event.namespace, event.operation, event.cluster_time, Instant::now());
                screen.add(event);
            }
        })?;
        // Whoever read has gone, as `head` does: there is nothing more to do.
        if screen.flush().is_err() {
            return Ok(());
        }
        let now = Instant::now();
        if now.duration_since(drawn) >= SLICE && (rates.events() > 0 || oplog.newest().is_some()) {
            drawn = now;
            screen.status(board::status(&mut rates, oplog.newest().as_ref(), now, now_ms()));
        }
        if matches!(turn, Turn::End) {
            break;
        }
    }
    if let Err(error) = screen.end(&board::summary(&rates, Instant::now())) {
        tracing::debug!(%error, "nobody reads the summary");
    }
    Ok(())
}

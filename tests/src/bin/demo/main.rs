//! `make demo`: real flights travel MongoDB → Kafka → lake, and the demo proves that each change arrived once.
//!
//! ```text
//!   replay (counts what MongoDB acknowledges) ─▶ mongod ─▶ source ─▶ Kafka ─▶ sink ─▶ lake
//!                                                                      │               │
//!   progress, summary ◀────────────────────────── kafka_counter ◀──────┘  lake_watcher ◀┘
//! ```
//!
//! Nothing that is shown comes from the product's own figures: changes are counted where MongoDB acknowledges them, by a
//! consumer of the demo's own, and by what stands in the lake. Exit code 0 only if all of it passed; 130 after Ctrl-C.

mod flights;
mod gauges;
mod kafka_counter;
mod lake_watcher;
mod pace;
mod play;
mod progress;
mod replay;
mod run_folder;
mod settings;
mod stage;
mod summary;
mod table;
mod tally;

use std::{io, process::ExitCode, sync::Arc};

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    flights::Data, gauges::Gauges, progress::say, replay::Replay, run_folder::RunFolder, settings::Settings,
    stage::Stage,
};

/// What a shell expects of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(code) => code,
        Err(error) => {
            say(&format!("\nFAILED: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<ExitCode> {
    let settings = Settings::read()?;
    let mut interrupts = Interrupts::new()?;
    let folder = RunFolder::make()?;
    let gauges = Arc::new(Gauges::default());
    say("starting mongod, Kafka and the services");
    let started = tokio::select! {
        started = start(settings, &folder, &gauges) => Some(started?),
        () = interrupts.next() => None,
    };
    let Some((mut stage, replay)) = started else {
        return Ok(interrupted());
    };
    let outcome = tokio::select! {
        outcome = play::play(&replay, &mut stage, settings, &folder, &gauges) => Some(outcome),
        () = interrupts.next() => None,
    };
    let Some(outcome) = outcome else {
        say("\nending the services; Ctrl-C again ends at once");
        tokio::select! {
            stopped = stage.stop_services() => stopped?,
            () = interrupts.next() => {}
        }
        return Ok(interrupted());
    };
    stage.keep_logs(&folder)?;
    let outcome = outcome.with_context(|| format!("see {}", folder.logs().display()))?;
    drop(stage);
    summary::print(&outcome, settings, &folder, &mut io::stdout()).context("print the summary")?;
    Ok(ExitCode::SUCCESS)
}

async fn start(settings: Settings, folder: &RunFolder, gauges: &Arc<Gauges>) -> Result<(Stage, Arc<Replay>)> {
    let data = tokio::task::spawn_blocking(Data::read);
    let stage = Stage::start(settings.lake, folder).await?;
    let data = data.await.context("read the data")??;
    let client = stage.mongod.client().await?;
    Ok((stage, Arc::new(Replay::new(client, data, gauges.clone()))))
}

fn interrupted() -> ExitCode {
    say("interrupted");
    ExitCode::from(INTERRUPTED)
}

/// Ctrl-C and SIGTERM.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("listen to signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

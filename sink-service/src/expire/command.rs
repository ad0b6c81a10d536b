//! The command: plans, removal with progress, result.

use std::{
    pin::pin,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use shared::exit::{ExitCode, Stop};
use tokio::runtime::Runtime;

use super::{
    ExpireRequest,
    plan::{Kept, Plan, topics},
    removal::Removal,
    report::print,
};
use crate::{
    lake::LakeError, lake_layout::OpenLake, lake_start::open_existing_lake, metrics::SinkMetrics,
    progress::Progress, settings::SinkSettings,
};

const TICK: Duration = Duration::from_millis(200);

/// Removes what was asked for, and prints it.
///
/// # Errors
/// If it cannot be done; what was removed until then stays removed.
pub fn expire(runtime: &Runtime, settings: &SinkSettings, request: &ExpireRequest) -> Result<(), Stop> {
    let lake = open_existing_lake(runtime, settings)?;
    let plans = runtime.block_on(run(&lake, settings, request))?;
    print(&plans, request, &mut std::io::stdout().lock())
        .map_err(|error| Stop::new(ExitCode::Defect, format!("the result cannot be printed: {error}")))?;
    let changed = plans.iter().flat_map(|plan| &plan.kept).any(|kept| kept.why == Kept::Changed);
    if changed {
        let what = "somebody changed an hour meanwhile: it stays. Type the command again";
        return Err(Stop::new(ExitCode::Temporary, what.to_owned()));
    }
    Ok(())
}

async fn run(lake: &OpenLake, settings: &SinkSettings, request: &ExpireRequest) -> Result<Vec<Plan>, Stop> {
    let there = topics(lake).await.map_err(cannot)?;
    let control = settings.names.control();
    let asked: Vec<&String> = if request.topics.is_empty() {
        // An old file of a collection may stay, where its chain stands: `compare` has to know whether the collection was dropped since.
        there.iter().filter(|topic| **topic != control).collect()
    } else {
        request.topics.iter().collect()
    };
    if let Some(unknown) = asked.iter().find(|topic| !there.contains(**topic)) {
        let what = format!("{unknown} has no chain in this lake: check LAKE_URL and the topic's name");
        return Err(Stop::new(ExitCode::Usage, what));
    }
    let mut plans = Vec::new();
    for topic in asked {
        plans.extend(Plan::of(lake, topic, request.before).await.map_err(cannot)?);
    }
    if !request.dry_run {
        remove(lake, &mut plans, request.abandon_replays).await.map_err(|error| {
            let stop = cannot(error);
            Stop::new(
                stop.code,
                format!("{}. What was removed stays removed; type the command again", stop.message),
            )
        })?;
    }
    Ok(plans)
}

async fn remove(lake: &OpenLake, plans: &mut [Plan], abandons_replays: bool) -> Result<(), LakeError> {
    let metrics = SinkMetrics::register();
    let done = Arc::new(AtomicU64::new(0));
    let hours = plans.iter().flat_map(|plan| &plan.hours);
    let files: usize = hours.map(|old| old.files.len() + old.reprints.len()).sum();
    let mut progress = Progress::over("expire", "files", files as u64, Arc::clone(&done));
    let removal = Removal { lake, metrics: &metrics, abandons_replays, done: &done };
    let result = {
        let mut work = pin!(async {
            for plan in plans.iter_mut().filter(|plan| !plan.hours.is_empty()) {
                removal.carry_out(plan).await?;
            }
            Ok(())
        });
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                result = &mut work => break result,
                _ = ticks.tick() => progress.tick(),
            }
        }
    };
    progress.over_and_out();
    result
}

fn cannot(error: LakeError) -> Stop {
    let code = error.exit_code(ExitCode::Unreachable);
    let hint = match &error {
        LakeError::Denied { .. } => {
            ": `expire` needs the right to delete, which the live sink does not have to have"
        }
        LakeError::Damaged { .. } => ": `replay` makes closed hours again, from Kafka",
        _ => "",
    };
    Stop::new(code, format!("{error}{hint}"))
}

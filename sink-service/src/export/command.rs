//! The command: plan, hours side by side, result.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use shared::exit::{ExitCode, Stop};
use tokio::{runtime::Runtime, task::JoinSet};

use super::{
    ExportError, ExportRequest,
    hour::{Deed, Exported},
    plan::{OpenHours, Plan, PlannedHour, Planner},
    report::{print_plan, print_result},
};
use crate::{
    event_hour::EventHour,
    lake::Lake,
    lake_layout::OpenLake,
    lake_start::{open_existing_lake, open_other_lake},
    progress::Progress,
    settings::SinkSettings,
    span::Span,
};

/// So many hours are read and written at a time. Each has a row group in memory.
const HOURS_AT_ONCE: usize = 2;

const TICK: Duration = Duration::from_millis(200);

/// Exports what was asked for, and prints the plan or the result.
///
/// # Errors
/// If it cannot be done, and if hours that were asked for by name have not closed; what was exported until then stays.
pub fn export(runtime: &Runtime, settings: &SinkSettings, request: &ExportRequest) -> Result<(), Stop> {
    let lake = Arc::new(open_existing_lake(runtime, settings)?);
    let otherwise = "readers of its folders would take both files for the hour; name another place";
    let into = Arc::new(open_other_lake(settings, &request.into, otherwise)?);
    runtime.block_on(run(&lake, &into, settings, request)).map_err(Stop::from)
}

async fn run(
    lake: &Arc<OpenLake>,
    into: &Arc<Lake>,
    settings: &SinkSettings,
    request: &ExportRequest,
) -> Result<(), ExportError> {
    let done = Arc::new(AtomicU64::new(0));
    if !request.dry_run {
        into.prepare().await?;
    }
    let planner = Planner { lake, into, names: &settings.names, done: &done };
    let mut plans = Vec::new();
    for topic in &request.topics {
        plans.push(planner.plan(topic, &request.span).await?);
    }
    if request.dry_run {
        print_plan(&plans, request.output, &mut std::io::stdout().lock()).map_err(unprintable)?;
        return Ok(());
    }
    let open: Vec<(String, Vec<OpenHours>)> =
        plans.iter().map(|plan| (plan.topic.clone(), plan.open.clone())).collect();
    let (exported, failed) = export_hours(plans, &done).await;
    if let Some(error) = failed {
        for each in exported.iter().filter(|each| each.deed != Deed::Current) {
            eprintln!("{}: {}", each.deed.as_str(), each.path);
        }
        return Err(error);
    }
    print_result(&exported, &open, request.output, &mut std::io::stdout().lock()).map_err(unprintable)?;
    let hours: Vec<EventHour> = exported.iter().map(|each| each.edition.hour).collect();
    still_open(&request.span, &open, &hours)
}

/// Hours that were named and have not closed.
fn still_open(
    span: &Span,
    open: &[(String, Vec<OpenHours>)],
    exported: &[EventHour],
) -> Result<(), ExportError> {
    if !matches!(span, Span::Day { .. }) {
        return Ok(());
    }
    let named =
        open.iter().flat_map(|(topic, hours)| hours.iter().map(move |hours| format!("{topic} {hours}")));
    let named: Vec<String> = named.collect();
    if named.is_empty() {
        return Ok(());
    }
    let what = format!(
        "not closed yet: {}. {}. Type the same command again {}. A schedule that should end with 0 takes --all, or --from and --to: they \
         export what has closed",
        named.join(", "),
        match (exported.iter().min(), exported.iter().max()) {
            (Some(first), Some(last)) if first == last => format!("{first} is exported"),
            (Some(first), Some(last)) => {
                format!("{} hours from {first} to {last} are exported", exported.len())
            }
            _ => "Nothing has closed that could be exported".to_owned(),
        },
        match open.iter().flat_map(|(_, hours)| hours).filter_map(|hours| hours.last.next()).max() {
            Some(end) => format!("when they have closed, which is after {end}:00 UTC"),
            None => "later".to_owned(),
        }
    );
    Err(Stop::new(ExitCode::Temporary, what).into())
}

/// All hours, in their order, or those that were done until one could not be.
async fn export_hours(plans: Vec<Plan>, done: &Arc<AtomicU64>) -> (Vec<Exported>, Option<ExportError>) {
    let mut exported = Vec::new();
    let mut waiting = Vec::new();
    for planned in plans.into_iter().flat_map(|plan| plan.hours) {
        match planned.export.current(&planned.look) {
            Some(current) => exported.push(current),
            None => waiting.push(planned),
        }
    }
    waiting.reverse();
    let total = waiting.iter().map(|planned| planned.look.edition.rows).sum();
    let mut progress = Progress::over("export", "rows", total, Arc::clone(done));
    let mut jobs: JoinSet<Result<Exported, ExportError>> = JoinSet::new();
    let mut first_error = None;
    let mut ticks = tokio::time::interval(TICK);
    loop {
        while jobs.len() < HOURS_AT_ONCE
            && first_error.is_none()
            && let Some(PlannedHour { export, .. }) = waiting.pop()
        {
            // Packing columns takes a processor, and files of this machine block.
            let runtime = tokio::runtime::Handle::current();
            jobs.spawn_blocking(move || runtime.block_on(export.run()));
        }
        tokio::select! {
            ended = jobs.join_next() => match ended {
                None => break,
                Some(Ok(Ok(hour))) => exported.push(hour),
                Some(Ok(Err(error))) => {
                    first_error.get_or_insert(error);
                }
                Some(Err(defect)) => std::panic::resume_unwind(defect.into_panic()),
            },
            _ = ticks.tick() => progress.tick(),
        }
    }
    progress.over_and_out();
    exported.sort_by(|a, b| (&a.edition.topic, a.edition.hour).cmp(&(&b.edition.topic, b.edition.hour)));
    (exported, first_error)
}

fn unprintable(error: std::io::Error) -> Stop {
    Stop::new(ExitCode::Defect, format!("the result cannot be printed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_that_is_not_over_says_what_was_exported_and_when_to_come_again() {
        let hour = |hour| EventHour::from_calendar(2026, 11, 20, hour).expect("an hour");
        let day = chrono::NaiveDate::from_ymd_opt(2026, 11, 20).expect("a day");
        let span = Span::Day { day, hours: Vec::new() };
        let open = [("atlas.a.b".to_owned(), vec![OpenHours { first: hour(7), last: hour(23) }])];
        let exported: Vec<EventHour> = (0..7).map(hour).collect();
        let error = still_open(&span, &open, &exported).expect_err("hours are open");
        let stop = Stop::from(error);
        assert_eq!(stop.code, ExitCode::Temporary);
        for part in [
            "not closed yet: atlas.a.b 2026-11-20 07 to 2026-11-20 23",
            "7 hours from 2026-11-20 00 to 2026-11-20 06 are exported",
            "after 2026-11-21 00:00 UTC",
        ] {
            assert!(stop.message.contains(part), "{}", stop.message);
        }
        assert!(still_open(&Span::All, &open, &exported).is_ok());
        assert!(still_open(&span, &[], &exported).is_ok());
    }
}

//! What is shown: a table for people, one JSON object for pipes.

use std::io::{self, Write};

use bytesize::ByteSize;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use super::{ExpireRequest, plan::Plan};
use crate::{event_hour::EventHour, verify::Output};

/// So many hours that stay are named one by one.
const KEPT_SHOWN: usize = 10;

struct Sums {
    files: usize,
    rows: u64,
    bytes: u64,
}

impl Sums {
    fn of(plan: &Plan) -> Self {
        let mut sums = Self { files: 0, rows: 0, bytes: 0 };
        for file in plan.hours.iter().flat_map(|old| &old.files) {
            sums.files += 1;
            sums.rows += file.metadata.rows;
            sums.bytes += file.metadata.stored_size;
        }
        for bytes in plan.hours.iter().flat_map(|old| old.reprints.values()) {
            sums.files += 1;
            sums.bytes += bytes;
        }
        sums
    }
}

pub(super) fn print(plans: &[Plan], request: &ExpireRequest, to: &mut impl Write) -> io::Result<()> {
    match request.output {
        Output::Json => print_json(plans, request, to),
        Output::Human => print_table(plans, request, to),
    }
}

fn print_json(plans: &[Plan], request: &ExpireRequest, to: &mut impl Write) -> io::Result<()> {
    let topics = plans.iter().map(|plan| {
        let Sums { files, rows, bytes } = Sums::of(plan);
        let kept = plan.kept.iter().map(|kept| json!({ "hour": kept.hour, "why": kept.why.to_string() }));
        json!({
            "topic": plan.topic,
            "before": plan.before,
            "hours": plan.hours.len(),
            "files": files,
            "rows": rows,
            "bytes": bytes,
            "kept": kept.collect::<Vec<_>>(),
        })
    });
    let topics: Vec<_> = topics.collect();
    writeln!(to, "{}", json!({ "dryRun": request.dry_run, "before": request.before, "topics": topics }))
}

fn print_table(plans: &[Plan], request: &ExpireRequest, to: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["topic", "before", "hours", "files", "rows", "size", "hours that stay"]);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut all = Sums { files: 0, rows: 0, bytes: 0 };
    for plan in plans {
        let Sums { files, rows, bytes } = Sums::of(plan);
        table.add_row([
            plan.topic.clone(),
            plan.before.to_string(),
            plan.hours.len().to_string(),
            files.to_string(),
            rows.to_string(),
            ByteSize::b(bytes).to_string(),
            plan.kept.len().to_string(),
        ]);
        all = Sums { files: all.files + files, rows: all.rows + rows, bytes: all.bytes + bytes };
    }
    writeln!(to, "{table}")?;
    for plan in plans {
        for kept in plan.kept.iter().take(KEPT_SHOWN) {
            writeln!(to, "{}: hour {} stays: {}", plan.topic, kept.hour, kept.why)?;
        }
        if let Some(more) = plan.kept.len().checked_sub(KEPT_SHOWN).filter(|more| *more > 0) {
            writeln!(to, "{}: and {more} more stay", plan.topic)?;
        }
        if plan.before < request.before {
            match plan.before {
                EventHour::EPOCH => writeln!(to, "{}: no hour has closed yet", plan.topic)?,
                before => writeln!(to, "{}: only hours before {before} have closed", plan.topic)?,
            }
        }
    }
    let hours: usize = plans.iter().map(|plan| plan.hours.len()).sum();
    let what =
        format!("{hours} hours with {} files, {} rows, {}", all.files, all.rows, ByteSize::b(all.bytes));
    if request.dry_run {
        writeln!(to, "Would remove {what}. Nothing was changed.")
    } else {
        writeln!(to, "OK: removed {what}.")
    }
}

//! What is shown: tables for people, one JSON object a line for pipes.

use std::io::{self, Write};

use bytesize::ByteSize;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use super::{
    hour::{Deed, Exported},
    plan::{OpenHours, Plan, PlannedHour},
};
use crate::verify::Output;

/// What would be done with an hour.
fn deed_of(planned: &PlannedHour) -> Deed {
    match &planned.look.there {
        _ if planned.look.is_current() => Deed::Current,
        Some(_) => Deed::Replaced,
        None => Deed::Written,
    }
}

const fn to_do(deed: Deed) -> &'static str {
    match deed {
        Deed::Written => "write",
        Deed::Replaced => "replace",
        Deed::Current => "nothing",
    }
}

pub(super) fn print_plan(plans: &[Plan], output: Output, to: &mut impl Write) -> io::Result<()> {
    for plan in plans {
        match output {
            Output::Json => {
                let hours = plan.hours.iter().map(|planned| {
                    let edition = &planned.look.edition;
                    json!({
                        "hour": edition.hour,
                        "revision": edition.revision,
                        "generation": edition.generation,
                        "files": planned.look.manifest.chain_files().len(),
                        "rows": edition.rows,
                        "bytes": planned.look.manifest.originalsize,
                        "do": to_do(deed_of(planned)),
                    })
                });
                let hours: Vec<_> = hours.collect();
                writeln!(to, "{}", json!({ "plan": plan.topic, "hours": hours, "open": plan.open }))?;
            }
            Output::Human => {
                let mut table = table(
                    &["hour", "to do", "revision", "generation", "files", "rows", "size of the lines"],
                    2,
                );
                for planned in &plan.hours {
                    let edition = &planned.look.edition;
                    table.add_row([
                        edition.hour.to_string(),
                        to_do(deed_of(planned)).to_owned(),
                        edition.revision.to_string(),
                        edition.generation.to_string(),
                        planned.look.manifest.chain_files().len().to_string(),
                        edition.rows.to_string(),
                        ByteSize::b(planned.look.manifest.originalsize).to_string(),
                    ]);
                }
                writeln!(to, "{}: to be exported", plan.topic)?;
                writeln!(to, "{table}")?;
                print_open(&plan.topic, &plan.open, to)?;
            }
        }
    }
    Ok(())
}

pub(super) fn print_result(
    exported: &[Exported],
    open: &[(String, Vec<OpenHours>)],
    output: Output,
    to: &mut impl Write,
) -> io::Result<()> {
    let rows: u64 = exported.iter().map(|each| each.edition.rows).sum();
    let count = |deed| exported.iter().filter(|each| each.deed == deed).count();
    match output {
        Output::Json => {
            let hours = exported.iter().map(|each| {
                json!({
                    "topic": each.edition.topic,
                    "hour": each.edition.hour,
                    "path": each.path,
                    "done": each.deed.as_str(),
                    "revision": each.edition.revision,
                    "generation": each.edition.generation,
                    "rows": each.edition.rows,
                    "rowGroups": each.row_groups,
                    "bytes": each.bytes,
                })
            });
            let hours: Vec<_> = hours.collect();
            let open = open.iter().filter(|(_, hours)| !hours.is_empty());
            let open: Vec<_> = open.map(|(topic, hours)| json!({ "topic": topic, "hours": hours })).collect();
            writeln!(to, "{}", json!({ "rows": rows, "hours": hours, "open": open }))
        }
        Output::Human => {
            let header = ["topic", "hour", "done", "revision", "generation", "rows", "row groups", "size"];
            let mut table = table(&header, 3);
            for each in exported {
                table.add_row([
                    each.edition.topic.clone(),
                    each.edition.hour.to_string(),
                    each.deed.as_str().to_owned(),
                    each.edition.revision.to_string(),
                    each.edition.generation.to_string(),
                    each.edition.rows.to_string(),
                    each.row_groups.to_string(),
                    ByteSize::b(each.bytes).to_string(),
                ]);
            }
            writeln!(to, "{table}")?;
            for (topic, hours) in open {
                print_open(topic, hours, to)?;
            }
            if exported.is_empty() {
                return writeln!(to, "No hour of those asked for has closed: there was nothing to export.");
            }
            writeln!(
                to,
                "OK: {} hours, {rows} rows: {} written, {} replaced, each checked against its manifest and read back; {} were current.",
                exported.len(),
                count(Deed::Written),
                count(Deed::Replaced),
                count(Deed::Current)
            )
        }
    }
}

fn print_open(topic: &str, open: &[OpenHours], to: &mut impl Write) -> io::Result<()> {
    for hours in open {
        writeln!(to, "{topic}: not closed yet: {hours}")?;
    }
    Ok(())
}

/// Columns from `numbers` on are numbers.
fn table(header: &[&str], numbers: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(header);
    for column in table.column_iter_mut().skip(numbers) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

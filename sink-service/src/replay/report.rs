//! What is shown: the plan before, the result after; tables for people, one JSON object a line for pipes.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use bytesize::ByteSize;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use super::{PlannedFile, plan::Plan, rebuild::Rebuilt};
use crate::{event_hour::EventHour, verify::Output};

/// How many files that are not whole are named one by one.
const TROUBLES_SHOWN: usize = 20;

pub(super) fn print_plan(plans: &[Plan], output: Output, to: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Json => {
            for plan in plans {
                let files = plan.files.iter().map(|file| {
                    json!({
                        "path": file.path,
                        "partition": file.partition.partition,
                        "hour": file.hour,
                        "first": file.first,
                        "next": file.next,
                        "rows": file.rows(),
                        "bytes": file.bytes(),
                        "trouble": file.trouble(),
                    })
                });
                let files: Vec<_> = files.collect();
                writeln!(to, "{}", json!({ "plan": plan.topic, "files": files, "notes": plan.notes }))?;
            }
        }
        Output::Human => {
            for plan in plans {
                print_plan_of_topic(plan, to)?;
            }
        }
    }
    Ok(())
}

fn print_plan_of_topic(plan: &Plan, to: &mut impl Write) -> io::Result<()> {
    let mut partitions: BTreeMap<i32, Vec<&PlannedFile>> = BTreeMap::new();
    for file in &plan.files {
        partitions.entry(file.partition.partition).or_default().push(file);
    }
    let mut table = table(&["partition", "hours", "files", "offsets", "rows", "size", "not whole"]);
    for (partition, files) in &partitions {
        table.add_row(plan_row(partition.to_string(), files));
    }
    if partitions.len() > 1 {
        table.add_row(plan_row("all".to_owned(), &plan.files.iter().collect::<Vec<_>>()));
    }
    writeln!(to, "{}: to be made again", plan.topic)?;
    writeln!(to, "{table}")?;
    let troubled: Vec<&PlannedFile> = plan.files.iter().filter(|file| file.trouble().is_some()).collect();
    for file in troubled.iter().take(TROUBLES_SHOWN) {
        writeln!(to, "{}: {}", file.path, file.trouble().unwrap_or_default())?;
    }
    if troubled.len() > TROUBLES_SHOWN {
        writeln!(to, "and {} more", troubled.len() - TROUBLES_SHOWN)?;
    }
    for note in &plan.notes {
        writeln!(to, "Note: {note}")?;
    }
    Ok(())
}

fn plan_row(what: String, files: &[&PlannedFile]) -> [String; 7] {
    // A plus: there are files of which nobody knows it before they are read.
    let unknown = if files.iter().any(|file| file.rows().is_none()) { "+" } else { "" };
    let sum = |of: fn(&PlannedFile) -> Option<u64>| files.iter().filter_map(|file| of(file)).sum::<u64>();
    [
        what,
        hours_of(files.iter().map(|file| file.hour)),
        files.len().to_string(),
        files.iter().map(|file| file.offsets()).sum::<u64>().to_string(),
        format!("{}{unknown}", sum(PlannedFile::rows)),
        format!("{}{unknown}", ByteSize::b(sum(PlannedFile::bytes))),
        files.iter().filter(|file| file.trouble().is_some()).count().to_string(),
    ]
}

/// One file, and what came of it.
pub(super) struct Outcome {
    pub topic: String,
    pub file: PlannedFile,
    pub generation: u64,
    pub rebuilt: Rebuilt,
}

pub(super) fn print_result(outcomes: &[Outcome], output: Output, to: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Json => {
            let files = outcomes.iter().map(|outcome| {
                let Rebuilt { rows, bytes, dead_letters, crc, was_done, taken_in, changed } =
                    &outcome.rebuilt;
                json!({
                    "topic": outcome.topic,
                    "path": outcome.file.path,
                    "hour": outcome.file.hour,
                    "generation": outcome.generation,
                    "rows": rows,
                    "bytes": bytes,
                    "deadLetters": dead_letters,
                    "crc": crc.to_string(),
                    "wasDone": was_done,
                    "takenIn": taken_in,
                    "changed": changed,
                })
            });
            let files: Vec<_> = files.collect();
            let rows: u64 = outcomes.iter().map(|outcome| outcome.rebuilt.rows).sum();
            writeln!(to, "{}", json!({ "ok": true, "rows": rows, "files": files }))
        }
        Output::Human => print_result_table(outcomes, to),
    }
}

fn print_result_table(outcomes: &[Outcome], to: &mut impl Write) -> io::Result<()> {
    let mut hours: BTreeMap<(&str, EventHour), Vec<&Outcome>> = BTreeMap::new();
    for outcome in outcomes {
        hours.entry((&outcome.topic, outcome.file.hour)).or_default().push(outcome);
    }
    let mut table =
        table(&["topic", "hour", "generation", "files", "rows", "size", "dead letters", "were not whole"]);
    for ((topic, hour), outcomes) in &hours {
        let sum = |of: fn(&Rebuilt) -> u64| outcomes.iter().map(|outcome| of(&outcome.rebuilt)).sum::<u64>();
        table.add_row([
            (*topic).to_owned(),
            hour.to_string(),
            outcomes.iter().map(|outcome| outcome.generation).max().unwrap_or_default().to_string(),
            outcomes.len().to_string(),
            sum(|rebuilt| rebuilt.rows).to_string(),
            ByteSize::b(sum(|rebuilt| rebuilt.bytes)).to_string(),
            sum(|rebuilt| rebuilt.dead_letters).to_string(),
            outcomes.iter().filter(|outcome| outcome.file.trouble().is_some()).count().to_string(),
        ]);
    }
    writeln!(to, "{table}")?;
    for Outcome { file, rebuilt, .. } in outcomes {
        if rebuilt.taken_in > 0 {
            writeln!(to, "{}: {} dead letters of before are rows now", file.path, rebuilt.taken_in)?;
        }
        if rebuilt.changed {
            writeln!(to, "{}: its lines are not those of before: {} rows now", file.path, rebuilt.rows)?;
        }
    }
    let done = outcomes.iter().filter(|outcome| outcome.rebuilt.was_done).count();
    if done > 0 {
        writeln!(to, "{done} files had been made again by an earlier run already; they were checked.")?;
    }
    let rows: u64 = outcomes.iter().map(|outcome| outcome.rebuilt.rows).sum();
    writeln!(to, "OK: {rows} rows in {} files, written from Kafka and read back.", outcomes.len())
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(header);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn hours_of(hours: impl Iterator<Item = EventHour>) -> String {
    let (mut first, mut last): (Option<EventHour>, Option<EventHour>) = (None, None);
    for hour in hours {
        first = Some(first.map_or(hour, |first| first.min(hour)));
        last = last.max(Some(hour));
    }
    match (first, last) {
        (Some(first), Some(last)) if first == last => first.to_string(),
        (Some(first), Some(last)) => format!("{first} to {last}"),
        _ => String::new(),
    }
}

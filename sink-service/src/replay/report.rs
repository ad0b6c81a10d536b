//! What is shown: the plan before, the result after; tables for people, one JSON object a line for pipes.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use bytesize::ByteSize;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use super::{PlannedFile, by_time::ReadRange, hour_claim::Manner, plan::Plan, rebuild::Rebuilt};
use crate::{event_hour::EventHour, file_metadata::FileMetadata, verify::Output};

/// How many files that are not whole are named one by one.
const TROUBLES_SHOWN: usize = 20;

pub(super) fn print_plan(
    plans: &[Plan],
    manner: Manner,
    output: Output,
    to: &mut impl Write,
) -> io::Result<()> {
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
                writeln!(to, "{}", plan_in_json(plan, manner, files))?;
            }
        }
        Output::Human => {
            for plan in plans {
                print_plan_of_topic(plan, manner, to)?;
            }
        }
    }
    Ok(())
}

fn plan_in_json(plan: &Plan, manner: Manner, files: Vec<serde_json::Value>) -> serde_json::Value {
    let mut object =
        json!({ "plan": plan.topic, "manner": manner.to_string(), "files": files, "notes": plan.notes });
    if !plan.read_by_time.is_empty() {
        let ranges = plan.read_by_time.iter().map(|range| {
            let ReadRange { partition, log_start, from, to } = range;
            json!({ "partition": partition, "logStart": log_start, "from": from, "to": to })
        });
        object["readByTime"] = ranges.collect();
    }
    object
}

fn print_plan_of_topic(plan: &Plan, manner: Manner, to: &mut impl Write) -> io::Result<()> {
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
    match manner {
        _ if !plan.read_by_time.is_empty() => writeln!(
            to,
            "{}: this lake has no chain of it: to be made from Kafka by time, elsewhere",
            plan.topic
        )?,
        Manner::InPlace => writeln!(to, "{}: to be made again", plan.topic)?,
        Manner::Beside | Manner::Reformat(_) => writeln!(to, "{}: to be made again {manner}", plan.topic)?,
    }
    writeln!(to, "{table}")?;
    let troubled: Vec<&PlannedFile> = plan.files.iter().filter(|file| file.trouble().is_some()).collect();
    for file in troubled.iter().take(TROUBLES_SHOWN) {
        writeln!(to, "{}: {}", file.path, file.trouble().unwrap_or_default())?;
    }
    if troubled.len() > TROUBLES_SHOWN {
        writeln!(to, "and {} more", troubled.len() - TROUBLES_SHOWN)?;
    }
    for ReadRange { partition, log_start, from, to: end } in &plan.read_by_time {
        writeln!(
            to,
            "Partition {partition}: every record from offset {from} to {end} was looked at; Kafka has it from {log_start} on"
        )?;
    }
    for note in &plan.notes {
        writeln!(to, "Note: {note}")?;
    }
    Ok(())
}

fn plan_row(what: String, files: &[&PlannedFile]) -> [String; 7] {
    // A plus: there are files of which nobody knows it before they are read.
    let unknown = |of: fn(&PlannedFile) -> Option<u64>| {
        if files.iter().any(|file| of(file).is_none()) { "+" } else { "" }
    };
    let sum = |of: fn(&PlannedFile) -> Option<u64>| files.iter().filter_map(|file| of(file)).sum::<u64>();
    [
        what,
        hours_of(files.iter().map(|file| file.hour)),
        files.len().to_string(),
        files.iter().map(|file| file.offsets()).sum::<u64>().to_string(),
        format!("{}{}", sum(PlannedFile::rows), unknown(PlannedFile::rows)),
        format!("{}{}", ByteSize::b(sum(PlannedFile::bytes)), unknown(PlannedFile::bytes)),
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

impl Outcome {
    pub(super) fn is_reprint(&self) -> bool {
        self.file.path.is_in_a_generation()
    }
}

pub(super) fn print_result(outcomes: &[Outcome], output: Output, to: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Json => {
            let files = outcomes.iter().map(|outcome| {
                let Rebuilt { metadata, was_done, kept, taken_in, changed } = &outcome.rebuilt;
                json!({
                    "topic": outcome.topic,
                    "path": outcome.file.path,
                    "hour": outcome.file.hour,
                    "generation": metadata.generation,
                    "rows": metadata.rows,
                    "bytes": metadata.original_size,
                    "deadLetters": metadata.dead_letters.count(),
                    "crc": metadata.crc.to_string(),
                    "wasDone": was_done,
                    "kept": kept,
                    "takenIn": taken_in,
                    "changed": changed,
                })
            });
            let files: Vec<_> = files.collect();
            let rows: u64 = by_hour(outcomes).values().map(|hour| hour.sum(|metadata| metadata.rows)).sum();
            writeln!(to, "{}", json!({ "ok": true, "rows": rows, "files": files }))
        }
        Output::Human => print_result_table(outcomes, to),
    }
}

/// What came of an hour.
#[derive(Default)]
struct HourOutcome<'a> {
    chain: Vec<&'a Outcome>,
    reprint: Vec<&'a Outcome>,
}

impl HourOutcome<'_> {
    /// Those that readers of the manifest take.
    fn files(&self) -> &[&Outcome] {
        if self.reprint.is_empty() { &self.chain } else { &self.reprint }
    }

    fn sum(&self, of: fn(&FileMetadata) -> u64) -> u64 {
        self.files().iter().map(|outcome| of(&outcome.rebuilt.metadata)).sum()
    }
}

fn by_hour(outcomes: &[Outcome]) -> BTreeMap<(&str, EventHour), HourOutcome<'_>> {
    let mut hours: BTreeMap<(&str, EventHour), HourOutcome<'_>> = BTreeMap::new();
    for outcome in outcomes {
        let hour = hours.entry((&outcome.topic, outcome.file.hour)).or_default();
        if outcome.is_reprint() { hour.reprint.push(outcome) } else { hour.chain.push(outcome) }
    }
    hours
}

fn print_result_table(outcomes: &[Outcome], to: &mut impl Write) -> io::Result<()> {
    let hours = by_hour(outcomes);
    let mut table =
        table(&["topic", "hour", "generation", "files", "rows", "size", "dead letters", "were not whole"]);
    for ((topic, hour), outcome) in &hours {
        let generation = outcome.files().iter().map(|outcome| outcome.generation).max();
        table.add_row([
            (*topic).to_owned(),
            hour.to_string(),
            generation.unwrap_or_default().to_string(),
            outcome.files().len().to_string(),
            outcome.sum(|metadata| metadata.rows).to_string(),
            ByteSize::b(outcome.sum(|metadata| metadata.original_size)).to_string(),
            outcome.sum(|metadata| metadata.dead_letters.count()).to_string(),
            outcome.chain.iter().filter(|outcome| outcome.file.trouble().is_some()).count().to_string(),
        ]);
    }
    writeln!(to, "{table}")?;
    for Outcome { file, rebuilt, .. } in outcomes {
        if rebuilt.taken_in > 0 {
            writeln!(to, "{}: {} dead letters of before are rows now", file.path, rebuilt.taken_in)?;
        }
        if rebuilt.changed {
            let rows = rebuilt.metadata.rows;
            writeln!(to, "{}: its lines are not those of before: {rows} rows now", file.path)?;
        }
    }
    let count = |is: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| is(outcome)).count();
    let done = count(|outcome| outcome.rebuilt.was_done);
    if done > 0 {
        writeln!(to, "{done} files had been made again by an earlier run already; they were checked.")?;
    }
    if count(Outcome::is_reprint) > 0 {
        let kept = count(|outcome| outcome.rebuilt.kept);
        let chain = count(|outcome| !outcome.is_reprint());
        writeln!(to, "{kept} of the chain's {chain} files stay as they are.")?;
    }
    let rows: u64 = hours.values().map(|hour| hour.sum(|metadata| metadata.rows)).sum();
    let files: usize = hours.values().map(|hour| hour.files().len()).sum();
    if files == 0 {
        return writeln!(to, "No file was made again: these hours have none.");
    }
    writeln!(to, "OK: {rows} rows in {files} files, written from Kafka and read back.")
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

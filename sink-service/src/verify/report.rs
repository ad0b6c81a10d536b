//! How a verification is shown: a table and a verdict for people, one JSON object for pipes.

use std::io::{self, Write};

use bytesize::ByteSize;
use clap::ArgMatches;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use super::PartitionResult;
use crate::span::Span;

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Human,
    Json,
}

impl Output {
    /// By the flag `--json`.
    pub fn asked_for(matches: &ArgMatches) -> Self {
        if matches.get_flag("json") { Self::Json } else { Self::Human }
    }
}

/// Prints all results; whether everything agreed.
///
/// # Errors
/// If the output cannot be written.
pub(super) fn print(
    results: &[PartitionResult],
    span: &Span,
    output: Output,
    to: &mut impl Write,
) -> io::Result<bool> {
    let differences: u64 = results.iter().map(|result| result.differences).sum();
    match output {
        Output::Json => {
            let sum = |of: fn(&PartitionResult) -> u64| results.iter().map(of).sum::<u64>();
            let report = json!({
                "ok": differences == 0,
                "rows": sum(|result| result.rows),
                "files": results.iter().map(|result| result.files).sum::<usize>(),
                "bytes": sum(|result| result.bytes),
                "deadLetters": sum(|result| result.dead_letters),
                "repeats": sum(|result| result.repeats),
                "repeatedSnapshotRows": sum(|result| result.repeated_snapshot_rows),
                "lost": sum(|result| result.lost),
                "pending": sum(|result| result.pending),
                "differences": differences,
                "partitions": results,
            });
            writeln!(to, "{report}")?;
        }
        Output::Human => print_table(results, span, differences, to)?,
    }
    Ok(differences == 0)
}

fn print_table(
    results: &[PartitionResult],
    span: &Span,
    differences: u64,
    to: &mut impl Write,
) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "topic",
        "files",
        "rows",
        "size",
        "dead letters",
        "tombstones",
        "not yet in the lake",
        "differences",
    ]);
    let mut index = 0;
    while index < results.len() {
        let topic = &results[index].topic;
        let of_topic: Vec<&PartitionResult> =
            results[index..].iter().take_while(|result| result.topic == *topic).collect();
        let sum = |of: fn(&PartitionResult) -> u64| of_topic.iter().map(|result| of(result)).sum::<u64>();
        table.add_row([
            topic.clone(),
            of_topic.iter().map(|result| result.files).sum::<usize>().to_string(),
            sum(|result| result.rows).to_string(),
            ByteSize::b(sum(|result| result.bytes)).to_string(),
            sum(|result| result.dead_letters).to_string(),
            sum(|result| result.tombstones).to_string(),
            sum(|result| result.pending).to_string(),
            sum(|result| result.differences).to_string(),
        ]);
        index += of_topic.len();
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(to, "{table}")?;
    for result in results.iter().filter(|result| result.differences > 0) {
        for shown in &result.shown {
            writeln!(to, "{}/{}: {shown}", result.topic, result.partition)?;
        }
        let more = result.differences - result.shown.len() as u64;
        if more > 0 {
            writeln!(to, "{}/{}: and {more} more", result.topic, result.partition)?;
        }
    }
    let unconfirmed: u64 = results.iter().map(|result| result.unconfirmed).sum();
    if unconfirmed > 0 {
        writeln!(
            to,
            "{unconfirmed} rows are older than what Kafka still has; only their files were checked."
        )?;
    }
    for result in results.iter().filter(|result| result.lost > 0) {
        let (topic, partition, lost) = (&result.topic, result.partition, result.lost);
        writeln!(
            to,
            "{topic}/{partition}: {lost} offsets were lost in Kafka and given up (_chain/{topic}/gaps.json)."
        )?;
    }
    let reprinted: usize = results.iter().map(|result| result.reprinted).sum();
    if reprinted > 0 {
        writeln!(to, "{reprinted} files of reprints were compared too.")?;
    }
    let repeats: u64 = results.iter().map(|result| result.repeats).sum();
    if repeats > 0 {
        writeln!(to, "{repeats} records of Kafka repeat an event that is there already: no rows.")?;
    }
    let repeated: u64 = results.iter().map(|result| result.repeated_snapshot_rows).sum();
    if repeated > 0 {
        writeln!(to, "{repeated} rows of snapshots are there more than once.")?;
    }
    let rows: u64 = results.iter().map(|result| result.rows).sum();
    let files: usize = results.iter().map(|result| result.files).sum();
    let partitions = results.len();
    let hours = if *span == Span::All { "" } else { " of the hours asked for" };
    if differences == 0 && files == 0 {
        writeln!(to, "The lake has no file{hours}: 0 rows, there was nothing to compare.")
    } else if differences == 0 {
        writeln!(
            to,
            "OK: {rows} rows in {files} files{hours} of {partitions} partitions are what Kafka has, each once, without gap."
        )
    } else {
        writeln!(to, "{differences} DIFFERENCES in {partitions} partitions. Nothing was changed.")?;
        let mut topics: Vec<&str> = results
            .iter()
            .filter(|result| result.differences > 0)
            .map(|result| result.topic.as_str())
            .collect();
        topics.dedup();
        for topic in topics {
            writeln!(
                to,
                "What is damaged or missing in hours that have closed, `replay` makes again from Kafka; this shows what it would do:\n  \
                 sink-service replay --topic {topic} --day <YYYY-MM-DD> --dry-run"
            )?;
        }
        Ok(())
    }
}

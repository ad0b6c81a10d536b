//! How a comparison is shown: a table and a verdict for people, one JSON object for pipes.

use std::io::{self, Write};

use bson::Bson;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::json;

use crate::verify::Output;

/// How many differences of one collection are kept for showing; all are counted.
const DIFFERENCES_SHOWN: usize = 10;

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CollectionResult {
    pub topic: String,
    pub namespace: String,
    /// Documents in MongoDB, of the sample.
    #[serde(rename = "inMongoDB")]
    pub in_mongodb: u64,
    /// Documents that the lake's changes leave, of the sample.
    pub in_lake: u64,
    /// Lines that are no change events: they were left out.
    pub not_changes: u64,
    /// Documents that changed in every round.
    pub undecided: u64,
    pub differences: u64,
    /// The first of them.
    pub shown: Vec<String>,
}

impl CollectionResult {
    pub(super) fn differs(&mut self, id: &Bson, what: &str) {
        self.differences += 1;
        if self.shown.len() < DIFFERENCES_SHOWN {
            self.shown.push(format!("_id {}: {what}", id.clone().into_relaxed_extjson()));
        }
    }
}

/// # Errors
/// If the output cannot be written.
pub(super) fn print(
    results: &[CollectionResult],
    sample: f64,
    output: Output,
    to: &mut impl Write,
) -> io::Result<()> {
    let sum = |of: fn(&CollectionResult) -> u64| results.iter().map(of).sum::<u64>();
    let (differences, undecided) = (sum(|each| each.differences), sum(|each| each.undecided));
    if output == Output::Json {
        let report = json!({
            "ok": differences == 0 && undecided == 0,
            "samplePercent": sample,
            "differences": differences,
            "undecided": undecided,
            "collections": results,
        });
        return writeln!(to, "{report}");
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["topic", "in MongoDB", "in the lake", "undecided", "differences"]);
    for each in results {
        table.add_row([
            each.topic.clone(),
            each.in_mongodb.to_string(),
            each.in_lake.to_string(),
            each.undecided.to_string(),
            each.differences.to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(to, "{table}")?;
    for each in results {
        for shown in &each.shown {
            writeln!(to, "{}: {shown}", each.topic)?;
        }
        let more = each.differences - each.shown.len() as u64;
        if more > 0 {
            writeln!(to, "{}: and {more} more", each.topic)?;
        }
        if each.not_changes > 0 {
            writeln!(
                to,
                "{}: {} lines are no change events in our envelope; they were left out.",
                each.topic, each.not_changes
            )?;
        }
    }
    let of = if sample < 100.0 { format!(" ({sample} % of them)") } else { String::new() };
    let documents = sum(|each| each.in_mongodb);
    let collections = results.len();
    match (differences, undecided) {
        (0, 0) if documents == 0 && sum(|each| each.in_lake) == 0 => writeln!(
            to,
            "There are no documents{of}, neither in MongoDB nor in the lake: there was nothing to compare."
        ),
        (0, 0) => {
            writeln!(to, "OK: {documents} documents{of} of {collections} collections are what the lake says.")
        }
        (0, _) => writeln!(to, "{undecided} documents changed too often to be compared; all others agree."),
        _ => {
            writeln!(to, "{differences} DIFFERENCES in {collections} collections. Nothing was changed.")?;
            for each in results.iter().filter(|each| each.differences > 0) {
                writeln!(
                    to,
                    "Changes that are open dead letters are no rows of the lake; whether there are some: sink-service dlq list --topic {} --state open",
                    each.topic
                )?;
            }
            Ok(())
        }
    }
}

//! What is shown: tables for people, lines for pipes, JSON for programs.

use std::io::{self, Write};

use bytesize::ByteSize;
use chrono::SecondsFormat;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use super::{
    Output,
    filter::State,
    letter::{Content, HeaderOfRecord, Letter, Mark, Marked},
};

/// Of a value that is shown to people, at most so many bytes.
const SHOWN_BYTES_MAX: usize = 4096;
/// Of an error's text in a table.
const ERROR_CHARS_MAX: usize = 60;

/// One letter, and what is known of it.
pub(super) struct Row<'a> {
    pub letter: &'a Letter,
    pub state: State,
    pub mark: Option<&'a Mark>,
}

pub(super) fn print_list(rows: &[Row<'_>], output: Output, to: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Json => rows.iter().try_for_each(|row| writeln!(to, "{}", json_of(row))),
        Output::Lines => rows.iter().try_for_each(|row| {
            let Row { letter, state, .. } = row;
            let columns = [
                state.as_str(),
                letter.reason.as_str(),
                letter.key.as_str(),
                letter.collection.as_deref().unwrap_or_default(),
                &letter.bytes().to_string(),
                &failed_at(letter),
                &letter.error,
            ];
            writeln!(to, "{}", columns.map(plain).join("\t"))
        }),
        Output::Table => {
            let mut table = table(&["state", "reason", "key", "collection", "size", "failed at", "error"]);
            table.column_mut(4).expect("it has a header").set_cell_alignment(CellAlignment::Right);
            for Row { letter, state, .. } in rows {
                table.add_row([
                    state.as_str().to_owned(),
                    letter.reason.clone(),
                    plain(&letter.key),
                    plain(letter.collection.as_deref().unwrap_or_default()),
                    ByteSize::b(letter.bytes()).to_string(),
                    failed_at(letter),
                    plain(&letter.error).chars().take(ERROR_CHARS_MAX).collect(),
                ]);
            }
            if !rows.is_empty() {
                writeln!(to, "{table}")?;
            }
            let counts =
                State::ALL.map(|state| (state, rows.iter().filter(|row| row.state == state).count()));
            let counts = counts.iter().filter(|(_, count)| *count > 0);
            let counts: Vec<String> =
                counts.map(|(state, count)| format!("{count} {}", state.as_str())).collect();
            match rows.len() {
                0 => writeln!(to, "no letters"),
                1 => writeln!(to, "1 letter: {}", counts.join(", ")),
                count => writeln!(to, "{count} letters: {}", counts.join(", ")),
            }
        }
    }
}

pub(super) fn print_content(
    row: &Row<'_>,
    content: Option<&Content>,
    output: Output,
    to: &mut impl Write,
) -> io::Result<()> {
    if output == Output::Json {
        let mut object = json_of(row);
        if let Some(content) = content {
            let headers = |headers: &[HeaderOfRecord]| -> Vec<Value> {
                let pair = |(name, value): &HeaderOfRecord| {
                    json!([name, value.as_deref().map(String::from_utf8_lossy)])
                };
                headers.iter().map(pair).collect()
            };
            object["headers"] = headers(&content.headers).into();
            object["letterHeaders"] = headers(&content.ours).into();
            object["originalKey"] = json!(content.key.as_deref().map(String::from_utf8_lossy));
            object["value"] = json!(content.value.as_deref().map(String::from_utf8_lossy));
        }
        return writeln!(to, "{object}");
    }
    let Row { letter, state, mark } = row;
    writeln!(to, "letter       {}", plain(&letter.key))?;
    writeln!(to, "state        {}", state.as_str())?;
    if let Some(mark) = mark {
        let because = match &mark.what {
            Marked::Dropped { because } => format!(": {}", plain(because)),
            Marked::Retried => String::new(),
        };
        writeln!(to, "marked       {}{because}", plain(&mark.at))?;
    }
    if letter.parts > 1 {
        writeln!(to, "parts        {} of {}", letter.pieces.len(), letter.parts)?;
    }
    let Some(content) = content else {
        return writeln!(to, "value        no longer in Kafka\n");
    };
    for (title, headers) in [("of the letter", &content.ours), ("of the record", &content.headers)] {
        for (name, value) in headers {
            let value = value.as_deref().map_or("(none)".into(), String::from_utf8_lossy);
            writeln!(to, "{title}  {}: {}", plain(name), plain(&value))?;
        }
    }
    match &content.value {
        None => writeln!(to, "value        none"),
        Some(value) => {
            let shown = &value[..value.len().min(SHOWN_BYTES_MAX)];
            writeln!(to, "value        {} bytes", value.len())?;
            writeln!(to, "{}", plain(&String::from_utf8_lossy(shown)))?;
            if shown.len() < value.len() {
                writeln!(to, "(cut; all of it with --value)")?;
            }
            Ok(())
        }
    }?;
    writeln!(to)
}

/// What is to be done, or why not.
pub(super) enum Outlook {
    /// The text says what comes of it.
    Do(String),
    /// The text says why nothing is done.
    Leave(String),
}

pub(super) fn print_plan(
    doing: &str,
    plan: &[(&Letter, State, Outlook)],
    output: Output,
    to: &mut impl Write,
) -> io::Result<()> {
    let row = |(letter, state, outlook): &(&Letter, State, Outlook)| {
        let (verb, text) = match outlook {
            Outlook::Do(text) => (doing, text),
            Outlook::Leave(text) => ("leave", text),
        };
        [verb.to_owned(), state.as_str().to_owned(), plain(&letter.key), plain(text)]
    };
    match output {
        Output::Json => plan.iter().try_for_each(|each| {
            let [plan, state, key, text] = row(each);
            writeln!(to, "{}", json!({ "plan": plan, "state": state, "key": key, "what": text }))
        }),
        Output::Lines => plan.iter().try_for_each(|each| writeln!(to, "{}", row(each).join("\t"))),
        Output::Table if plan.is_empty() => writeln!(to, "no letters"),
        Output::Table => {
            let mut table = table(&["plan", "state", "key", "what"]);
            for each in plan {
                table.add_row(row(each));
            }
            writeln!(to, "{table}")
        }
    }
}

/// The last line of a command that writes.
pub(super) fn print_done(
    done: &str,
    count: usize,
    by_others: usize,
    output: Output,
    to: &mut impl Write,
) -> io::Result<()> {
    if output == Output::Json {
        return writeln!(to, "{}", json!({ "result": done, "letters": count, "doneByOthers": by_others }));
    }
    let others = if by_others > 0 { format!(", {by_others} were marked meanwhile") } else { String::new() };
    writeln!(to, "{count} {done}{others}")
}

fn json_of(row: &Row<'_>) -> Value {
    let Row { letter, state, mark } = row;
    let origin = letter.origin.as_ref();
    let because = mark.and_then(|mark| match &mark.what {
        Marked::Dropped { because } => Some(because),
        Marked::Retried => None,
    });
    json!({
        "key": letter.key,
        "state": state.as_str(),
        "reason": letter.reason,
        "stage": letter.stage,
        "error": letter.error,
        "topic": origin.map(|origin| &*origin.partition.topic),
        "partition": origin.map(|origin| origin.partition.partition),
        "offset": origin.map(|origin| origin.offset),
        "eventId": letter.event_id,
        "collection": letter.collection,
        "timestamp": letter.original_timestamp,
        "failedAt": letter.failed_at.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true)),
        "bytes": letter.bytes(),
        "parts": letter.parts,
        "partsFound": letter.pieces.len(),
        "markedAt": mark.map(|mark| &mark.at),
        "because": because,
    })
}

fn failed_at(letter: &Letter) -> String {
    letter.failed_at.map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true)).unwrap_or_default()
}

/// What others have written must not steer a terminal, nor look like another column or line.
fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(header);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_steer_the_terminal() {
        assert_eq!(plain("a\u{1b}[31m\tb\nc"), "a\u{fffd}[31m\u{fffd}b\u{fffd}c");
    }
}

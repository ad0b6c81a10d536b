//! What was found, line by line, and what follows from it.

use std::fmt;

use console::Style;
use serde_json::{Map, Value, json};

use crate::exit::{ExitCode, Stop};

/// A longer name breaks the column instead of widening it.
const WIDTH_MAX: usize = 40;

/// How a precondition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State<S> {
    Ok,
    /// A start goes on.
    Warning,
    /// It cannot be asked.
    Unknown,
    /// A start would end so.
    Missing(S, ExitCode),
}

impl<S> State<S> {
    const fn word(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
            Self::Missing(..) => "missing",
        }
    }

    /// Only on a terminal, and only if colours are wanted there.
    fn style(&self) -> Style {
        let style = Style::new();
        match self {
            Self::Ok => style.green(),
            Self::Warning => style.yellow(),
            Self::Unknown => style.cyan(),
            Self::Missing(..) => style.red(),
        }
    }
}

struct Finding<S> {
    what: String,
    state: State<S>,
    found: String,
    /// Sentences, or lines to copy.
    to_do: Vec<String>,
}

/// All findings. `S` is the service's list of what a start meets, in that order.
pub struct Report<S>(Vec<Finding<S>>);

impl<S> Default for Report<S> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<S: Copy + Ord> Report<S> {
    /// Nothing to do.
    pub fn ok(&mut self, what: impl Into<String>, found: impl Into<String>) {
        self.add(what, State::Ok, found, []);
    }

    /// A start would go on; `to_do` are sentences, or lines to copy.
    pub fn warning(
        &mut self,
        what: impl Into<String>,
        found: impl Into<String>,
        to_do: impl IntoIterator<Item = String>,
    ) {
        self.add(what, State::Warning, found, to_do);
    }

    /// It cannot be asked.
    pub fn unknown(
        &mut self,
        what: impl Into<String>,
        found: impl Into<String>,
        to_do: impl IntoIterator<Item = String>,
    ) {
        self.add(what, State::Unknown, found, to_do);
    }

    /// A start would end with this code.
    pub fn missing(
        &mut self,
        (step, code): (S, ExitCode),
        what: impl Into<String>,
        found: impl Into<String>,
        to_do: impl IntoIterator<Item = String>,
    ) {
        self.add(what, State::Missing(step, code), found, to_do);
    }

    /// A start would end with exactly this.
    pub fn stop(&mut self, step: S, what: impl Into<String>, stop: &Stop) {
        let mut lines = stop.message.lines().map(str::to_owned);
        let found = lines.next().unwrap_or_default();
        self.add(what, State::Missing(step, stop.code), found, lines);
    }

    fn add(
        &mut self,
        what: impl Into<String>,
        state: State<S>,
        found: impl Into<String>,
        to_do: impl IntoIterator<Item = String>,
    ) {
        let to_do = to_do.into_iter().collect();
        self.0.push(Finding { what: what.into(), state, found: found.into(), to_do });
    }

    /// What `run` would end with; of several reasons, the first that it would meet.
    pub fn code(&self) -> ExitCode {
        self.first_missing().map_or(ExitCode::Drained, |(_, code, _)| code)
    }

    fn first_missing(&self) -> Option<(S, ExitCode, &str)> {
        let missing = self.0.iter().filter_map(|finding| match finding.state {
            State::Missing(step, code) => Some((step, code, finding.what.as_str())),
            _ => None,
        });
        missing.min_by_key(|(step, ..)| *step)
    }

    fn count(&self, word: &str) -> usize {
        self.0.iter().filter(|finding| finding.state.word() == word).count()
    }

    fn verdict(&self) -> String {
        match self.first_missing() {
            Some((_, code, what)) => format!("a start would end with {code}: {what}"),
            None => "a start would go on".to_owned(),
        }
    }

    /// One line. `who` names the instance that would start, by its setting in camel case.
    pub fn to_json(&self, who: (&str, &str)) -> String {
        let findings = self.0.iter().map(|finding| {
            let code = if let State::Missing(_, code) = finding.state { Some(code.number()) } else { None };
            json!({
                "what": finding.what,
                "state": finding.state.word(),
                "found": finding.found,
                "toDo": finding.to_do,
                "code": code,
            })
        });
        let findings: Vec<_> = findings.collect();
        let code = self.code();
        let json = [
            (who.0, json!(who.1)),
            ("ok", json!(code == ExitCode::Drained)),
            ("code", json!(code.number())),
            ("verdict", json!(self.verdict())),
            ("findings", Value::Array(findings)),
        ];
        let json: Map<String, Value> =
            json.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        format!("{}\n", Value::Object(json))
    }
}

impl<S: Copy + Ord> fmt::Display for Report<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width =
            self.0.iter().map(|finding| finding.what.chars().count()).max().unwrap_or(0).min(WIDTH_MAX);
        for Finding { what, state, found, to_do } in &self.0 {
            let word = state.style().apply_to(format!("{:7}", state.word()));
            writeln!(f, "{word}  {what:width$}  {found}")?;
            for line in to_do {
                writeln!(f, "{:9}{:width$}  → {line}", "", "")?;
            }
        }
        writeln!(
            f,
            "\n{} ok, {} warning, {} unknown, {} missing: {}",
            self.count("ok"),
            self.count("warning"),
            self.count("unknown"),
            self.count("missing"),
            self.verdict()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    enum Step {
        Stream,
        DataTopics,
    }

    #[test]
    fn the_code_is_that_of_the_first_reason_a_start_would_meet() {
        let mut report = Report::default();
        report.ok("Kafka", "1 broker");
        report.warning("images", "none", ["turn them on".to_owned()]);
        assert_eq!((report.code(), report.verdict()), (ExitCode::Drained, "a start would go on".to_owned()));
        report.missing((Step::DataTopics, ExitCode::Configuration), "topic atlas.a.b", "compacted", []);
        report.stop(Step::Stream, "right to watch", &Stop::new(ExitCode::NotAllowed, "no\ngrant it"));
        assert_eq!(report.code(), ExitCode::NotAllowed);
        let text = report.to_string();
        assert!(text.contains("missing  right to watch   no\n"), "{text}");
        assert!(text.contains("→ grant it\n"), "{text}");
        assert!(
            text.ends_with("1 ok, 1 warning, 0 unknown, 2 missing: a start would end with 77 (not allowed): right to watch\n"),
            "{text}"
        );
        let json = report.to_json(("sourceId", "orders"));
        assert!(
            json.contains(r#""code":77"#) && json.contains(r#""sourceId":"orders""#) && json.ends_with("}\n"),
            "{json}"
        );
    }
}

//! Where lines go: standard output, above a status line if a person is watching.
//!
//! Lines are gathered and written once per turn. A reader that has gone, as `head` does, is an end in order.

use std::io::{self, IsTerminal as _, Write as _};

use console::{Term, measure_text_width};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    args::{Colour, MonitorRequest, View},
    audit::{audit_json, audit_line},
    event_view::{EventView, Observed},
    json::json_line,
    render::{Look, event_line},
};

/// A longer namespace breaks the column instead of widening it.
const NAMESPACE_WIDTH_MAX: usize = 32;

pub(super) struct Screen {
    view: View,
    json: bool,
    colour: bool,
    /// Only a terminal has a width, and only if lines may be cut.
    terminal: Option<Term>,
    bar: Option<ProgressBar>,
    /// The widest so far, so that columns stay where they are; only where a person looks.
    namespace_width: usize,
    lines: Vec<u8>,
    /// What `--json` had no line for.
    left_out: u64,
}

impl Screen {
    pub(super) fn new(request: &MonitorRequest) -> Self {
        let stdout = io::stdout().is_terminal();
        let colour = match request.colour {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => stdout && wants_colour(|name| std::env::var(name).ok()),
        };
        // Over a pipe's other end nothing may be drawn, so both have to be the person's.
        let bar = (stdout && io::stderr().is_terminal()).then(status_line);
        Self {
            view: request.view.clone(),
            json: request.json,
            colour,
            terminal: (stdout && !request.wrap).then(Term::stdout),
            bar,
            namespace_width: 0,
            lines: Vec::new(),
            left_out: 0,
        }
    }

    /// Whether a status line is shown.
    pub(super) fn has_status(&self) -> bool {
        self.bar.is_some()
    }

    pub(super) fn add(&mut self, event: &Observed<'_>) {
        if self.json && matches!(self.view, View::Events) {
            match json_line(event) {
                Some(line) => self.lines.extend_from_slice(&line),
                None => self.left_out += 1,
            }
            return;
        }
        let view = EventView::new(*event);
        if self.terminal.is_some() {
            let width = measure_text_width(event.namespace).min(NAMESPACE_WIDTH_MAX);
            self.namespace_width = self.namespace_width.max(width);
        }
        let look = Look { colour: self.colour, width: self.width(), namespace_width: self.namespace_width };
        match &self.view {
            View::Events => self.lines.extend_from_slice(event_line(&view, look).as_bytes()),
            View::Audit(options) if self.json => {
                self.lines.extend_from_slice(format!("{}\n", audit_json(&view, options)).as_bytes());
            }
            View::Audit(options) => self.lines.extend_from_slice(audit_line(&view, options, look).as_bytes()),
        }
    }

    /// Writes what was added.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let write = || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&self.lines)?;
            stdout.flush()
        };
        let written = match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        };
        self.lines.clear();
        written
    }

    pub(super) fn status(&self, text: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(text);
        }
    }

    /// The table at the end goes beside the answer, not into it.
    pub(super) fn end(self, summary: &str) -> io::Result<()> {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let mut stderr = io::stderr().lock();
        write!(stderr, "{summary}")?;
        if self.left_out > 0 {
            writeln!(
                stderr,
                "{} records have no JSON object and no line (tombstones, other formats)",
                self.left_out
            )?;
        }
        Ok(())
    }

    /// Asked each time: windows change their size.
    fn width(&self) -> Option<usize> {
        let (_, columns) = self.terminal.as_ref()?.size_checked()?;
        (columns > 0).then_some(usize::from(columns))
    }
}

/// By the conventions of <https://no-color.org> and of terminals that cannot.
fn wants_colour(variable: impl Fn(&str) -> Option<String>) -> bool {
    let no_colour = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    !no_colour && variable("TERM").as_deref() != Some("dumb")
}

fn status_line() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template("{wide_msg}").expect("the template is right"));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_can_be_refused() {
        let with = |pairs: &'static [(&str, &str)]| {
            wants_colour(|name| {
                pairs.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(with(&[]) && with(&[("TERM", "xterm")]) && with(&[("NO_COLOR", "")]));
        assert!(!with(&[("NO_COLOR", "1")]) && !with(&[("TERM", "dumb")]));
    }
}

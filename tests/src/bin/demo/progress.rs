//! How far it is: one line that refreshes on a terminal, plain lines every few seconds elsewhere. On standard error.

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use crate::gauges::Gauges;

const REFRESH_TERMINAL: Duration = Duration::from_millis(200);
const REFRESH_ELSEWHERE: Duration = Duration::from_secs(5);

/// Shows the gauges until it is dropped, which also clears the terminal's line.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    task: JoinHandle<()>,
}

impl Progress {
    /// `part` is the name of what is going on.
    pub(crate) fn show(part: &str, gauges: Arc<Gauges>) -> Self {
        let terminal = stderr().is_terminal();
        let style = ProgressStyle::with_template("{spinner} {wide_msg}").expect("a constant template");
        let bar = if terminal { ProgressBar::new_spinner().with_style(style) } else { ProgressBar::hidden() };
        let (line, part) = (bar.clone(), part.to_owned());
        let task = tokio::spawn(async move {
            let mut ticks =
                tokio::time::interval(if terminal { REFRESH_TERMINAL } else { REFRESH_ELSEWHERE });
            // The rate is taken over seconds: bulk writes make shorter spans jump.
            let (mut since, mut before, mut rate) = (Instant::now(), gauges.written.get(), 0);
            // The first tick is at once.
            ticks.tick().await;
            loop {
                ticks.tick().await;
                let written = gauges.written.get();
                if since.elapsed() >= Duration::from_secs(1) {
                    let milliseconds = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                    rate = (written - before) * 1000 / milliseconds;
                    (since, before) = (Instant::now(), written);
                }
                let text = text(&part, &gauges, rate);
                if terminal {
                    line.set_message(text);
                    line.tick();
                } else {
                    say(&text);
                }
            }
        });
        Self { bar, task }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}

/// A line that stays. A closed standard error is no reason to stop.
pub(crate) fn say(line: &str) {
    drop(writeln!(stderr(), "{line}"));
}

fn text(part: &str, gauges: &Gauges, rate: u64) -> String {
    let (written, kafka, lake) = (gauges.written.get(), gauges.in_kafka.get(), gauges.in_lake.get());
    format!(
        "{part}: written {}, in Kafka {}, in the lake {}, behind {}, {}/s",
        grouped(written),
        grouped(kafka),
        grouped(lake),
        grouped(written.saturating_sub(lake)),
        grouped(rate),
    )
}

/// Digits in groups of three.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1000, 336_776].map(grouped), ["0", "999", "1,000", "336,776"]);
    }
}

//! How far the snapshot is, as a bar on a terminal.

use std::time::Duration;

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use shared::telemetry;

use super::plan::Progress;

/// Nothing where the log does not go to a terminal.
#[derive(Default)]
pub struct SnapshotBar(Option<ProgressBar>);

impl SnapshotBar {
    /// Draws it. Returns whether somebody sees it; else the log has to say it.
    pub fn show(&mut self, progress: Progress, eta: Option<Duration>) -> bool {
        let Some(bars) = telemetry::bars() else { return false };
        if progress.collections == progress.collections_done {
            if let Some(bar) = self.0.take() {
                bar.finish_and_clear();
            }
            return false;
        }
        let bar = self.0.get_or_insert_with(|| bars.add(ProgressBar::no_length().with_style(style())));
        bar.set_length(progress.estimate);
        bar.set_position(progress.rows);
        bar.set_message(text(progress, eta));
        true
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("snapshot {wide_bar} {percent:>3} %  {msg}").expect("a constant template")
}

fn text(progress: Progress, eta: Option<Duration>) -> String {
    let eta = eta.map_or_else(|| "-".to_owned(), |eta| HumanDuration(eta).to_string());
    format!(
        "{} of about {} rows, {} of {} collections, ETA {eta}",
        HumanCount(progress.rows),
        HumanCount(progress.estimate),
        progress.collections_done,
        progress.collections
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_how_far_it_is() {
        let progress = Progress { collections: 3, collections_done: 1, rows: 1_234, estimate: 27_000 };
        assert_eq!(
            text(progress, Some(Duration::from_secs(75))),
            "1,234 of about 27,000 rows, 1 of 3 collections, ETA 75 seconds"
        );
        assert!(text(progress, None).ends_with("ETA -"));
    }
}

//! How far a command is: a bar with the time that is left on a terminal, a line now and then in a pipe.

use std::{
    io::IsTerminal as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Counts something whose total is known before the work begins.
pub struct Progress {
    command: &'static str,
    /// What is counted, for people: `offsets`.
    unit: &'static str,
    done: Arc<AtomicU64>,
    total: u64,
    begun: Instant,
    bar: ProgressBar,
    told: Instant,
}

impl Progress {
    pub fn over(command: &'static str, unit: &'static str, total: u64, done: Arc<AtomicU64>) -> Self {
        let bar = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template(&format!(
                "{{bar:30}} {{percent}} %  {{human_pos}} of {{human_len}} {unit}  {{eta}} left"
            ));
            bar.set_style(style.expect("the template is right"));
            bar
        } else {
            ProgressBar::hidden()
        };
        Self { command, unit, done, total, begun: Instant::now(), bar, told: Instant::now() }
    }

    /// Shows it; to be called several times a second.
    pub fn tick(&mut self) {
        let done = self.done.load(Ordering::Relaxed).min(self.total);
        self.bar.set_position(done);
        if self.bar.is_hidden() && self.told.elapsed() >= LINE_INTERVAL {
            self.told = Instant::now();
            let share = done as f64 / self.total.max(1) as f64;
            let left = if share > 0.0 {
                HumanDuration(self.begun.elapsed().mul_f64((1.0 - share) / share)).to_string()
            } else {
                "?".to_owned()
            };
            let Self { command, unit, total, .. } = self;
            eprintln!("{command}: {:.0} %, {done} of {total} {unit}, {left} left", share * 100.0);
        }
    }

    pub fn over_and_out(self) {
        self.bar.finish_and_clear();
    }
}

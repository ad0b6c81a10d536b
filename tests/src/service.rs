//! One running `source-service` or `sink-service`: the binary that users run, with an environment of its own.
//!
//! ```no_run
//! # async fn example(uri: String, brokers: String, folder: &std::path::Path) -> anyhow::Result<()> {
//! use pipeline_tests::service::{Binary, Environment, Service};
//!
//! let environment = Environment::new().set("MONGO_URI", uri).set("KAFKA_BROKERS", brokers);
//! let mut source = Service::start(Binary::Source, "source-1", environment, folder)?;
//! source.wait_until_ready().await?;
//! source.kill9()?;
//! # Ok(())
//! # }
//! ```

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    http, paths,
    ports::free_port,
    process::{Process, Signal},
    wait,
};

/// How long a service may take until `/readyz` answers 200. A start after a kill waits for the open transaction of the
/// one before, up to its timeout of 30 s.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A program of the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    Source,
    Sink,
    /// The source, built with planted bugs; `SEEDED_BUG` chooses one.
    SourceWithSeededBugs,
    /// The sink, likewise.
    SinkWithSeededBugs,
}

impl Binary {
    fn file_name(self) -> &'static str {
        match self {
            Self::Source | Self::SourceWithSeededBugs => "source-service",
            Self::Sink | Self::SinkWithSeededBugs => "sink-service",
        }
    }

    /// Where it was built.
    ///
    /// # Errors
    /// If it was not; the message has the line to type.
    pub fn path(self) -> Result<PathBuf> {
        let (folder, line) = match self {
            Self::Source | Self::Sink => (paths::binaries()?, "make build"),
            Self::SourceWithSeededBugs | Self::SinkWithSeededBugs => {
                (paths::seeded_bug_binaries(), "make build-seeded-bugs")
            }
        };
        let path = folder.join(self.file_name());
        if !path.is_file() {
            bail!("{} is not built; type: {line} (ATLAS_BIN_DIR moves the folder)", path.display());
        }
        Ok(path)
    }
}

/// What a service finds in its environment, and nothing else. A name set twice has its last value.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.0.insert(name.to_owned(), value.to_string());
        self
    }

    #[must_use]
    pub fn with(mut self, settings: impl IntoIterator<Item = (String, String)>) -> Self {
        self.0.extend(settings);
        self
    }

    /// For a process that is not a [`Service`].
    pub fn into_pairs(self) -> Vec<(String, String)> {
        self.0.into_iter().collect()
    }
}

/// A running service. Dropping it kills it.
#[derive(Debug)]
pub struct Service {
    process: Process,
    name: String,
    admin_port: u16,
}

impl Service {
    /// Starts `<binary> run` on a free admin port; its log, standard error included, is appended to `<name>.log` in
    /// `folder`.
    ///
    /// # Errors
    /// If the binary is not built or cannot be started.
    pub fn start(binary: Binary, name: &str, environment: Environment, folder: &Path) -> Result<Self> {
        Self::start_with(binary, name, &["run"], environment, folder)
    }

    /// The same with other arguments than `run`, for one-shot commands and `run --until-end`.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub fn start_with(
        binary: Binary,
        name: &str,
        arguments: &[&str],
        environment: Environment,
        folder: &Path,
    ) -> Result<Self> {
        let program = binary.path()?;
        let admin_port = free_port()?;
        let environment = environment.set("ADMIN_ADDR", format!("127.0.0.1:{admin_port}"));
        let environment = environment.into_pairs();
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let log = folder.join(format!("{name}.log"));
        let process = Process::start(name, &program, &arguments, &environment, folder, &log)?;
        Ok(Self { process, name: name.to_owned(), admin_port })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn admin_port(&self) -> u16 {
        self.admin_port
    }

    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// The log so far. It outlives restarts that use the same name and folder.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn log_text(&self) -> Result<String> {
        let bytes = std::fs::read(self.log()).with_context(|| format!("read the log of {}", self.name))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The end of the log, for messages.
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Errors
    /// If it ends first, or is not ready within a minute; with the log's tail.
    pub async fn wait_until_ready(&mut self) -> Result<()> {
        let port = self.admin_port;
        self.process.wait_until_ready(READY_LIMIT, || async move { is_ready(port) }).await
    }

    /// Whether `/readyz` answers 200 now.
    pub fn is_ready(&self) -> bool {
        is_ready(self.admin_port)
    }

    /// Waits until `/readyz` answers something else than 200.
    ///
    /// # Errors
    /// If it stays ready.
    pub async fn wait_until_not_ready(&self, limit: Duration) -> Result<()> {
        let what = format!("{} stops being ready", self.name);
        wait::until(&what, limit, || async { Ok((!self.is_ready()).then_some(())) }).await
    }

    /// The body of `/metrics`.
    ///
    /// # Errors
    /// If it does not answer, or not with 200.
    pub fn metrics(&self) -> Result<Metrics> {
        let answer = http::get(self.admin_port, "/metrics")
            .with_context(|| format!("ask {} for metrics", self.name))?;
        if answer.status != 200 {
            bail!("{} answers /metrics with {}", self.name, answer.status);
        }
        Ok(Metrics(answer.text()))
    }

    /// The body of `/status`.
    ///
    /// # Errors
    /// If it does not answer, or not with 200.
    pub fn status(&self) -> Result<String> {
        let answer =
            http::get(self.admin_port, "/status").with_context(|| format!("ask {} for status", self.name))?;
        if answer.status != 200 {
            bail!("{} answers /status with {}", self.name, answer.status);
        }
        Ok(answer.text())
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill_and_wait()
    }

    /// `SIGTERM`: the orderly way.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn sigterm(&mut self) -> Result<()> {
        self.process.signal(Signal::Term)
    }

    /// `SIGSTOP`: frozen, its connections stay open.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn sigstop(&mut self) -> Result<()> {
        self.process.signal(Signal::Stop)
    }

    /// `SIGCONT`.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn sigcont(&mut self) -> Result<()> {
        self.process.signal(Signal::Cont)
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// If the system cannot tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.process.has_ended()?.is_none())
    }

    /// Waits for the end and returns the exit code.
    ///
    /// # Errors
    /// If it has not ended within `limit`, or was ended by a signal; with the log's tail.
    pub async fn exit_code(&mut self, limit: Duration) -> Result<i32> {
        let status: ExitStatus = self.process.wait_for_end(limit).await?;
        let code = status.code();
        code.with_context(|| {
            format!("{} was ended by a signal: {status}\n{}", self.name, self.process.log_tail())
        })
    }

    /// SIGTERM, then exit code 0 within `limit`.
    ///
    /// # Errors
    /// If it ends in any other way; with the log's tail.
    pub async fn stop(&mut self, limit: Duration) -> Result<()> {
        self.sigterm()?;
        let code = self.exit_code(limit).await?;
        if code != 0 {
            bail!("{} ended with {code} after SIGTERM, not 0\n{}", self.name, self.process.log_tail());
        }
        Ok(())
    }

    /// Fails if it does not run any more; for use between the steps of a test.
    ///
    /// # Errors
    /// Its exit code and the log's tail.
    pub fn assert_running(&mut self) -> Result<()> {
        if let Some(status) = self.process.has_ended()? {
            bail!("{} ended unexpectedly: {status}\n{}", self.name, self.process.log_tail());
        }
        Ok(())
    }
}

fn is_ready(port: u16) -> bool {
    http::get(port, "/readyz").is_ok_and(|answer| answer.status == 200)
}

/// Prometheus text.
#[derive(Clone, Debug)]
pub struct Metrics(String);

impl Metrics {
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The sum over all series of this name; `None` if there is none.
    pub fn sum(&self, name: &str) -> Option<f64> {
        self.sum_where(name, "")
    }

    /// The sum over the series whose labels contain this text, such as `roll_reason="hour"`.
    pub fn sum_where(&self, name: &str, label: &str) -> Option<f64> {
        let series = self.0.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (own, labels) = series.split_once('{').unwrap_or((series, ""));
            (own == name && labels.contains(label)).then(|| value.parse::<f64>().ok())?
        });
        series.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_name_and_label() {
        let text = "# HELP a x\na_total{op=\"insert\",db=\"x y\"} 3\na_total{op=\"delete\"} 4.5\na_total_more 9\nb 1\n";
        let metrics = Metrics(text.to_owned());
        assert_eq!(metrics.sum("a_total"), Some(7.5));
        assert_eq!(metrics.sum_where("a_total", "op=\"delete\""), Some(4.5));
        assert_eq!((metrics.sum("b"), metrics.sum("c")), (Some(1.0), None));
    }
}

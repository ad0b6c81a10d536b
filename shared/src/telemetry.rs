//! The log: `tracing` to standard error, as JSON lines for machines or as text for people.
//!
//! Each JSON line is one object: `timestamp` (UTC, RFC 3339, milliseconds), `level`, `target`, `run` (random
//! per process, so that lines of two restarts cannot be confused), `message`, and the event's own fields.
//! Standard output is left to the answers of commands.
//!
//! Field values are never payloads of documents; `message` is constant text, so that it can be searched for.

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::OnceLock;

use chrono::{DateTime, SecondsFormat, Utc};
use indicatif::MultiProgress;
use serde::ser::SerializeMap as _;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::exit::{ExitCode, Stop};

/// `LOG_FORMAT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Coloured text on a terminal.
    Human,
}

impl LogFormat {
    /// People sit at terminals; everything else is a collector.
    #[must_use]
    pub fn for_stderr() -> Self {
        if std::io::stderr().is_terminal() { Self::Human } else { Self::Json }
    }
}

/// Installs the process-wide log. `level` is `LOG_LEVEL`, in env-filter syntax (`info`, `debug,librdkafka=warn`).
///
/// # Errors
/// [`ExitCode::Configuration`] if `level` cannot be parsed; [`ExitCode::Defect`] if a log is installed already.
pub fn install(format: LogFormat, level: &str, run: &str) -> Result<(), Stop> {
    let filter = parse_level(level)?;
    let installed = match format {
        LogFormat::Json => json(filter, run, std::io::stderr).try_init(),
        LogFormat::Human => tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_timer(UtcMillis)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(AboveBars)
            .finish()
            .try_init(),
    };
    if format == LogFormat::Human && std::io::stderr().is_terminal() {
        // Once per process, as the log itself.
        BARS.get_or_init(MultiProgress::new);
    }
    installed.map_err(|error| Stop::new(ExitCode::Defect, format!("the log was installed twice: {error}")))
}

/// What is drawn below the log. Standard error is one for the whole process, and so is this.
static BARS: OnceLock<MultiProgress> = OnceLock::new();

/// Where a progress bar may be drawn; `None` if people do not read the log on a terminal.
#[must_use]
pub fn bars() -> Option<&'static MultiProgress> {
    BARS.get()
}

/// Writes lines to standard error, above the bars that are drawn there.
struct AboveBars;

impl std::io::Write for AboveBars {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let write = || std::io::stderr().lock().write_all(line);
        match BARS.get() {
            Some(bars) => bars.suspend(write),
            None => write(),
        }?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().lock().flush()
    }
}

impl MakeWriter<'_> for AboveBars {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

/// Checks `LOG_LEVEL`.
///
/// # Errors
/// [`ExitCode::Configuration`], naming the directive that cannot be parsed.
pub fn parse_level(level: &str) -> Result<EnvFilter, Stop> {
    EnvFilter::builder().parse(level).map_err(|error| {
        Stop::new(
            ExitCode::Configuration,
            format!("LOG_LEVEL: {error}; expected info, or debug,librdkafka=warn"),
        )
    })
}

fn json<W>(filter: EnvFilter, run: &str, writer: W) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .event_format(JsonLine { run: run.to_owned() })
        .finish()
}

/// UTC with milliseconds: enough for people, and sorts as text.
struct UtcMillis;

impl FormatTime for UtcMillis {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        w.write_str(&timestamp(Utc::now()))
    }
}

fn timestamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// One flat object per event. The crate's own JSON format nests the fields and has no place for the run id.
struct JsonLine {
    run: String,
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let line = self.line(event).map_err(|_| fmt::Error)?;
        writeln!(writer, "{}", String::from_utf8(line).map_err(|_| fmt::Error)?)
    }
}

impl JsonLine {
    fn line(&self, event: &Event<'_>) -> serde_json::Result<Vec<u8>> {
        use serde::Serializer as _;

        let mut line = Vec::with_capacity(256);
        let mut serializer = serde_json::Serializer::new(&mut line);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", &timestamp(Utc::now()))?;
        map.serialize_entry("level", event.metadata().level().as_str())?;
        map.serialize_entry("target", event.metadata().target())?;
        map.serialize_entry("run", &self.run)?;
        let mut fields = Fields { map: &mut map, failed: None };
        event.record(&mut fields);
        if let Some(error) = fields.failed {
            return Err(error);
        }
        map.end()?;
        Ok(line)
    }
}

/// Writes an event's fields as members of the object; remembers the first failure, which `Visit` cannot return.
struct Fields<'m, M: serde::ser::SerializeMap> {
    map: &'m mut M,
    failed: Option<M::Error>,
}

impl<M: serde::ser::SerializeMap> Fields<'_, M> {
    fn member<V: serde::Serialize + ?Sized>(&mut self, field: &Field, value: &V) {
        // A field named like one of the fixed members would make the object ambiguous.
        let name = match field.name() {
            fixed @ ("timestamp" | "level" | "target" | "run") => format!("field_{fixed}"),
            other => other.to_owned(),
        };
        if self.failed.is_none() {
            self.failed = self.map.serialize_entry(&name, value).err();
        }
    }
}

impl<M: serde::ser::SerializeMap> Visit for Fields<'_, M> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.member(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field, &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field, value);
    }

    /// The log site prints the chain of causes; Display of an error prints only itself.
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        self.member(field, &text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.member(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::io::Write;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// Hands each written piece to the test.
    #[derive(Clone)]
    struct Capture(SyncSender<Vec<u8>>);

    impl Write for Capture {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(std::io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn captured(log: impl FnOnce()) -> String {
        let (sender, receiver): (_, Receiver<Vec<u8>>) = sync_channel(64);
        let capture = Capture(sender);
        let subscriber = json(parse_level("info").unwrap(), "run-1", move || capture.clone());
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(receiver.into_iter().flatten().collect()).unwrap()
    }

    #[test]
    fn a_json_line_is_one_flat_object_with_run_and_utc_time() {
        let text = captured(|| {
            tracing::info!(
                topic = "atlas.shop.orders",
                offset = 7_i64,
                run = "mine",
                "partition \"assigned\""
            );
            tracing::debug!("not at this level");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["run"], "run-1");
        assert_eq!(line["field_run"], "mine");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "partition \"assigned\"");
        assert_eq!(line["topic"], "atlas.shop.orders");
        assert_eq!(line["offset"], 7);
        let time = line["timestamp"].as_str().unwrap();
        assert_eq!((time.len(), time.ends_with('Z')), (24, true), "{time}");
    }

    #[test]
    fn an_error_field_shows_its_whole_chain() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);

        let text = captured(|| {
            let error = Outer(std::io::Error::other("inner"));
            tracing::error!(error = &error as &dyn std::error::Error, "failed");
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["error"], "outer: inner");
    }

    #[test]
    fn a_wrong_level_is_a_configuration_mistake() {
        assert_eq!(parse_level("info=loud=very").unwrap_err().code, ExitCode::Configuration);
    }
}

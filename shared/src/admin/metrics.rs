//! The Prometheus side of the admin port.
//!
//! Metrics of the pipeline go through the `metrics` crate's macros; those of the process are read from `/proc`
//! at each scrape, under the names that Prometheus' client libraries have agreed on.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::BuildInfo;
use crate::exit::{ExitCode, Stop};

/// Upper bounds of every histogram whose name ends in `_seconds`: from a transaction on one machine (1 ms) to a
/// lake that is reached late (5 min), with the bounds of the service levels (0.1, 0.5, 1 s) among them.
pub const SECONDS_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Histograms keep samples until upkeep folds them into buckets: without it memory grows until the next scrape.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Installs the process-wide recorder behind the `metrics` macros.
///
/// # Errors
/// [`ExitCode::Defect`] if one is installed already.
pub fn install_recorder() -> Result<PrometheusHandle, Stop> {
    builder().install_recorder().map_err(|error| {
        Stop::new(ExitCode::Defect, format!("the metrics recorder cannot be installed: {error}"))
    })
}

pub(super) fn builder() -> PrometheusBuilder {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS_BUCKETS)
        .expect("the list of buckets is not empty")
}

pub(super) async fn upkeep(recorder: PrometheusHandle) {
    let mut turn = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        turn.tick().await;
        recorder.run_upkeep();
    }
}

/// Linux counts CPU time for user space in hundredths of a second on every architecture (`USER_HZ`, man 7 time).
const TICKS_PER_SECOND: f64 = 100.0;

/// `cdc_build_info` and `process_*` in the text format. What cannot be read is left out.
pub(super) fn of_process(build: BuildInfo) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, labels: &str, value: Option<f64>| {
        if let Some(value) = value {
            write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{labels} {value}\n")
                .expect("a String takes everything");
        }
    };
    let commit = build.commit.map(|commit| format!(",commit=\"{commit}\"")).unwrap_or_default();
    let labels = format!("{{service=\"{}\",version=\"{}\"{commit}}}", build.service, build.version);
    metric("cdc_build_info", "gauge", "What runs.", &labels, Some(1.0));

    let read = |path| fs::read_to_string(path).ok();
    let stat = read("/proc/self/stat");
    let status = read("/proc/self/status");
    let ticks = |field| field_of_stat(stat.as_deref()?, field);
    let cpu = ticks(14).zip(ticks(15)).map(|(user, system)| (user + system) / TICKS_PER_SECOND);
    metric("process_cpu_seconds_total", "counter", "CPU time, user and system.", "", cpu);
    let kilobytes = |name| Some(after(status.as_deref()?, name)? * 1024.0);
    metric("process_resident_memory_bytes", "gauge", "Resident memory.", "", kilobytes("VmRSS:"));
    metric("process_resident_memory_peak_bytes", "gauge", "Most resident memory.", "", kilobytes("VmHWM:"));
    metric("process_virtual_memory_bytes", "gauge", "Virtual memory.", "", kilobytes("VmSize:"));
    let threads = after(status.as_deref().unwrap_or_default(), "Threads:");
    metric("process_threads", "gauge", "Threads.", "", threads);
    // The directory that is being read is one of them.
    let descriptors = fs::read_dir("/proc/self/fd").ok().and_then(|all| u32::try_from(all.count()).ok());
    let descriptors = descriptors.map(|count| f64::from(count.saturating_sub(1)));
    metric("process_open_fds", "gauge", "Open file descriptors.", "", descriptors);
    let limit = read("/proc/self/limits").and_then(|limits| after(&limits, "Max open files"));
    metric("process_max_fds", "gauge", "Limit of open file descriptors.", "", limit);
    let booted = read("/proc/stat").and_then(|stat| after(&stat, "btime"));
    let started = booted.zip(ticks(22)).map(|(booted, ticks)| booted + ticks / TICKS_PER_SECOND);
    metric("process_start_time_seconds", "gauge", "Start, in seconds since 1970.", "", started);
    text
}

/// A field of `/proc/self/stat` by its number in man 5 proc. The second is the program's name, may contain blanks
/// and brackets, and ends at the last bracket; the third is the first after it.
fn field_of_stat(stat: &str, number: usize) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

/// The first word after a line's beginning.
fn after(text: &str, beginning: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(beginning))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_process_is_described() {
        let text = of_process(BuildInfo { service: "it", version: "1.2.3", commit: Some("abc") });
        assert!(
            text.contains("cdc_build_info{service=\"it\",version=\"1.2.3\",commit=\"abc\"} 1\n"),
            "{text}"
        );
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
            line.split_once(' ').unwrap().1.parse::<f64>().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") > value("process_open_fds"));
        assert!(value("process_cpu_seconds_total") >= 0.0);
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let age = now - value("process_start_time_seconds");
        assert!((-5.0..3600.0).contains(&age), "{age}");
    }

    #[test]
    fn a_program_name_with_blanks_and_brackets_is_one_field() {
        assert_eq!(field_of_stat("7 (a ) b) S 1 2 3", 4), Some(1.0));
    }

    #[test]
    fn durations_are_histograms_around_the_service_levels() {
        let recorder = builder().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            metrics::histogram!("cdc_it_duration_seconds").record(0.15);
        });
        let text = recorder.handle().render();
        assert!(text.contains("cdc_it_duration_seconds_bucket{le=\"0.1\"} 0"), "{text}");
        assert!(text.contains("cdc_it_duration_seconds_bucket{le=\"0.2\"} 1"), "{text}");
        for level in ["0.001", "0.5", "1", "60"] {
            assert!(text.contains(&format!("le=\"{level}\"")), "{text}");
        }
    }
}

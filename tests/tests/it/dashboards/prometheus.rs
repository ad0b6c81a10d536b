//! A real Prometheus with the repository's configuration.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use pipeline_tests::{http, paths, ports::free_port, process::Process};
use serde_json::Value;

/// Grafana gives four scrape intervals at least; here one is a second.
const RATE_INTERVAL: &str = "15s";

pub(super) fn promtool() -> Result<PathBuf> {
    tool("promtool")
}

fn tool(name: &str) -> Result<PathBuf> {
    let path = paths::servers().join("prometheus/bin").join(name);
    if !path.exists() {
        bail!("{} is missing; type: make tools", path.display());
    }
    Ok(path)
}

/// Running until it is dropped.
pub(super) struct Prometheus {
    port: u16,
    _process: Process,
}

impl Prometheus {
    /// Starts it with `grafana/prometheus.yml`, in which only the addresses of `targets` and the intervals are changed,
    /// and waits until all targets are up.
    pub(super) async fn start(targets: &[(&str, u16)], folder: &Path) -> Result<Self> {
        let port = free_port()?;
        let original = fs::read_to_string(paths::repository().join("grafana/prometheus.yml"));
        let mut config = original.context("read prometheus.yml")?;
        for (inside, here) in targets.iter().chain(&[("127.0.0.1:9090", port)]) {
            ensure!(config.contains(inside), "prometheus.yml does not scrape {inside}");
            config = config.replace(inside, &format!("127.0.0.1:{here}"));
        }
        ensure!(config.contains("_interval: 15s"), "prometheus.yml scrapes every 15 s");
        config = config.replace("_interval: 15s", "_interval: 1s");
        let path = folder.join("prometheus.yml");
        fs::write(&path, config).context("write Prometheus' configuration")?;

        let arguments = [
            format!("--config.file={}", path.display()),
            format!("--web.listen-address=127.0.0.1:{port}"),
            format!("--storage.tsdb.path={}", folder.join("prometheus").display()),
            "--log.level=warn".to_owned(),
        ];
        let log = folder.join("prometheus.log");
        let mut process = Process::start("prometheus", &tool("prometheus")?, &arguments, &[], folder, &log)?;
        let expected = targets.len() + 1;
        process
            .wait_until_ready(Duration::from_secs(60), || async move {
                let up = query(port, "count(up == 1)").ok();
                up.and_then(|answer| values(&answer).first().copied()).is_some_and(|up| up >= small(expected))
            })
            .await?;
        Ok(Self { port, _process: process })
    }

    /// The answer to a panel's expression as text, for messages.
    pub(super) fn query(&self, expression: &str) -> Result<String> {
        Ok(query(self.port, expression)?.to_string())
    }

    /// Whether a panel's expression answers with at least one series, and a number in it.
    pub(super) fn has_numbers(&self, expression: &str) -> Result<bool> {
        Ok(values(&query(self.port, expression)?).iter().any(|value| !value.is_nan()))
    }

    /// The names of all metrics that were ever scraped.
    pub(super) fn metric_names(&self) -> Result<BTreeSet<String>> {
        let answer = get(self.port, "/api/v1/label/__name__/values")?;
        let names = answer["data"].as_array().context("a list of names")?;
        Ok(names.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    }
}

fn small(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("a handful of targets"))
}

/// As Grafana asks, with its variables filled in: Prometheus does not know them.
fn query(port: u16, expression: &str) -> Result<Value> {
    let expression = expression.replace("$__rate_interval", RATE_INTERVAL);
    ensure!(!expression.contains('$'), "{expression} has a variable that only Grafana knows");
    let encoded: String = expression
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect();
    get(port, &format!("/api/v1/query?query={encoded}"))
}

fn get(port: u16, path: &str) -> Result<Value> {
    let answer = http::get(port, path)?;
    let text = answer.text();
    ensure!(answer.status == 200, "{path}: {} {text}", answer.status);
    let value: Value = serde_json::from_str(&text).with_context(|| format!("{path}: {text}"))?;
    ensure!(value["status"] == "success", "{path}: {text}");
    Ok(value)
}

/// The numbers of an instant query's answer.
fn values(answer: &Value) -> Vec<f64> {
    let series = answer["data"]["result"].as_array().into_iter().flatten();
    series.filter_map(|one| one["value"][1].as_str()?.parse().ok()).collect()
}

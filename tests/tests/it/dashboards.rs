//! Dashboards without Grafana: a real Prometheus scrapes both running services, and every panel finds data.
//!
//! A panel that shows nothing looks exactly like a panel that shows "nothing happened". So each expression is asked as
//! Grafana would ask it, and must answer with values; and each metric that is named must be one that is exported.
//! What the page looks like is not tested: Grafana itself does not run here.

mod prometheus;

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Document, doc};
use pipeline_tests::{
    http, paths,
    servers::{Kafka, KafkaOptions, Mongod, MongodOptions},
    service::{Binary, Environment, Service},
    wait,
};
use serde_json::Value;

use prometheus::{Prometheus, promtool};

/// One panel of a dashboard, rows apart.
struct Panel {
    id: i64,
    title: String,
    description: String,
    /// Left, top, width, height, in Grafana's grid of 24 columns.
    area: [i64; 4],
    data_sources: Vec<String>,
    expressions: Vec<String>,
}

fn panels() -> Result<Vec<Panel>> {
    let path = paths::repository().join("grafana/dashboards/overview.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(&path).context("read overview.json")?)?;
    let panels = dashboard["panels"].as_array().context("a dashboard has panels")?;
    Ok(panels.iter().map(panel).collect())
}

fn panel(panel: &Value) -> Panel {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let targets: Vec<&Value> = panel["targets"].as_array().into_iter().flatten().collect();
    let with_sources = std::iter::once(panel).chain(targets.iter().copied());
    Panel {
        id: panel["id"].as_i64().unwrap_or_default(),
        title: text(&panel["title"]),
        description: text(&panel["description"]),
        area: ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_i64().unwrap_or(-1)),
        data_sources: with_sources
            .filter(|value| !value["datasource"].is_null())
            .map(|value| text(&value["datasource"]["uid"]))
            .collect(),
        expressions: targets.iter().map(|target| text(&target["expr"])).collect(),
    }
}

/// The metrics that an expression names: ours, the processes' and Prometheus' own `up`.
fn metrics_in(expression: &str) -> BTreeSet<&str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("cdc_") || word.starts_with("process_") || *word == "up").collect()
}

fn yaml(path: &str) -> Result<Value> {
    let text = fs::read_to_string(paths::repository().join(path)).with_context(|| format!("read {path}"))?;
    serde_saphyr::from_str(&text).with_context(|| format!("parse {path}"))
}

#[test]
fn panels_are_distinct_described_and_side_by_side() -> Result<()> {
    let panels = panels()?;
    let ids: BTreeSet<i64> = panels.iter().map(|panel| panel.id).collect();
    assert_eq!(ids.len(), panels.len(), "panel ids are unique");
    for (index, one) in panels.iter().enumerate() {
        let [x, y, width, height] = one.area;
        assert!(
            x >= 0 && y >= 0 && width > 0 && height > 0 && x + width <= 24,
            "{}: {:?}",
            one.title,
            one.area
        );
        for other in &panels[index + 1..] {
            let [left, top, other_width, other_height] = other.area;
            let apart =
                x + width <= left || left + other_width <= x || y + height <= top || top + other_height <= y;
            assert!(apart, "{} lies over {}", one.title, other.title);
        }
    }
    for panel in panels.iter().filter(|panel| !panel.expressions.is_empty()) {
        assert!(panel.description.len() > 40, "{} says what it shows", panel.title);
    }
    Ok(())
}

#[test]
fn provisioning_and_scrape_targets_fit_the_compose_file() -> Result<()> {
    let source = yaml("grafana/provisioning/datasources/prometheus.yml")?;
    let source = &source["datasources"][0];
    for panel in panels()? {
        assert!(
            panel.data_sources.iter().all(|uid| Some(uid.as_str()) == source["uid"].as_str()),
            "{}",
            panel.title
        );
    }
    assert_eq!(source["url"].as_str(), Some("http://prometheus:9090"));

    let (compose, config) = (yaml("docker-compose.yml")?, yaml("grafana/prometheus.yml")?);
    for service in ["source-service", "sink-service"] {
        let jobs = config["scrape_configs"].as_array().context("scrape_configs is a list")?;
        let job = jobs.iter().find(|job| job["job_name"] == service).context("each service has a job")?;
        let address = compose["services"][service]["environment"]["ADMIN_ADDR"].as_str().unwrap_or_default();
        let port = address.rsplit(':').next().unwrap_or_default();
        assert_eq!(
            job["static_configs"][0]["targets"][0].as_str(),
            Some(format!("{service}:{port}").as_str())
        );
    }
    // Where Grafana finds the dashboards is where Compose puts them.
    let provider = yaml("grafana/provisioning/dashboards/atlas-lake.yml")?;
    let folder = provider["providers"][0]["options"]["path"].as_str().context("the provider has a path")?;
    let mounts = compose["services"]["grafana"]["volumes"].as_array().context("Grafana has mounts")?;
    let mount = format!("./grafana/dashboards:{folder}:ro");
    assert!(mounts.iter().any(|volume| *volume == mount.as_str()), "{mount} is none of {mounts:?}");
    Ok(())
}

#[test]
fn promtool_accepts_the_configuration() -> Result<()> {
    let config = paths::repository().join("grafana/prometheus.yml");
    let output = Command::new(promtool()?).args(["check", "config"]).arg(&config).output();
    let output = output.context("run promtool")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Fails on a metric without help, with a name against the conventions, or twice.
fn lint_metrics(of: &str, text: &str) -> Result<()> {
    let mut child = Command::new(promtool()?)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run promtool")?;
    child.stdin.take().context("promtool reads")?.write_all(text.as_bytes()).context("write the metrics")?;
    let output = child.wait_with_output().context("wait for promtool")?;
    ensure!(
        output.status.success(),
        "metrics of {of}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Goal: no panel is empty while the pipeline works. Method: changes flow all the time, Prometheus scrapes each second,
/// and each expression is asked until it answers with a number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_panel_finds_data() -> Result<()> {
    let (mongod, kafka) =
        tokio::try_join!(Mongod::start(MongodOptions::default()), Kafka::start(KafkaOptions::default()))?;
    let folder = tempfile::tempdir().context("make a folder")?;
    let source = Environment::new()
        .set("MONGO_URI", mongod.uri())
        .set("KAFKA_BROKERS", kafka.bootstrap())
        .set("MONGO_DATABASES", "shop")
        .set("TOKEN_INTERVAL", "1s");
    let sink = Environment::new()
        .set("KAFKA_BROKERS", kafka.bootstrap())
        .set("LAKE_URL", format!("file://{}", folder.path().join("lake").display()))
        .set("FLUSH_INTERVAL", "1s");
    let mut source = Service::start(Binary::Source, "source", source, folder.path())?;
    let mut sink = Service::start(Binary::Sink, "sink", sink, folder.path())?;
    source.wait_until_ready().await?;
    sink.wait_until_ready().await?;

    let targets = [("source-service:9464", source.admin_port()), ("sink-service:9465", sink.admin_port())];
    let prometheus = Prometheus::start(&targets, folder.path()).await?;
    let orders = mongod.client().await?.database("shop").collection::<Document>("orders");
    let traffic = tokio::spawn(async move {
        for id in 0_i64.. {
            orders.insert_one(doc! { "_id": id }).await?;
            orders.update_one(doc! { "_id": id }, doc! { "$set": { "paid": true } }).await?;
            orders.delete_one(doc! { "_id": id - 10 }).await?;
            // The rate of a quiet system; nothing waits for it.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    });

    let mut named = BTreeSet::new();
    let panels = panels()?;
    for panel in &panels {
        for expression in &panel.expressions {
            let what = format!("panel {:?} finds data: {expression}", panel.title);
            wait::until(&what, Duration::from_secs(90), || async {
                Ok(prometheus.has_numbers(expression)?.then_some(()))
            })
            .await
            .with_context(|| {
                format!("Prometheus answers {}", prometheus.query(expression).unwrap_or_default())
            })?;
            named.extend(metrics_in(expression));
        }
    }
    assert!(named.len() > 20, "{named:?}");
    let exported = prometheus.metric_names()?;
    let unknown: Vec<&&str> = named.iter().filter(|metric| !exported.contains(**metric)).collect();
    assert!(unknown.is_empty(), "no service exports {unknown:?}");

    for (name, port) in targets {
        lint_metrics(name, &http::get(port, "/metrics")?.text())?;
    }
    traffic.abort();
    source.assert_running()?;
    sink.assert_running()?;
    Ok(())
}

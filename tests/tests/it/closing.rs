//! Hours that close when a test says so: it commits the position of a source that does not run.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use pipeline_tests::{kafka_writer::NewRecord, pipeline::Pipeline, service::Service, wait};
use serde_json::{Value, json};

use crate::stage::LIMIT;

const SOURCE: &str = "w";
pub(crate) const HOUR_S: i64 = 3600;

/// The position of a source that does not run.
pub(crate) struct Positions<'a> {
    pipeline: &'a Pipeline,
    source: &'static str,
    database: String,
    topic: String,
}

impl<'a> Positions<'a> {
    pub(crate) async fn new(pipeline: &'a Pipeline) -> Result<Self> {
        Self::of(pipeline, SOURCE, pipeline.database()).await
    }

    /// Of a source that reads this database.
    pub(crate) async fn of(pipeline: &'a Pipeline, source: &'static str, database: &str) -> Result<Self> {
        let topic = format!("{}resume-tokens-{source}", pipeline.topics().prefix());
        pipeline.kafka_writer().create_topic(&topic, 1, &[("cleanup.policy", "compact")]).await?;
        Ok(Self { pipeline, source, database: database.to_owned(), topic })
    }

    pub(crate) async fn commit(&self, seconds: i64) -> Result<()> {
        let value = json!({
            "version": 1, "instance": "i", "run": 1, "token": null, "keyFormat": "json",
            "clusterTime": {"$timestamp": {"t": seconds, "i": 0}},
            "scope": {"databases": [self.database], "collections": [], "excludes": []},
        });
        self.send(Some(value.to_string().into_bytes())).await
    }

    pub(crate) async fn retire(&self) -> Result<()> {
        self.send(None).await
    }

    async fn send(&self, value: Option<Vec<u8>>) -> Result<()> {
        let record = NewRecord { key: Some(self.source.as_bytes().to_vec()), value, ..NewRecord::default() };
        self.pipeline.kafka_writer().send(&self.topic, 0, vec![record]).await
    }
}

pub(crate) fn instant(seconds: i64) -> String {
    chrono::DateTime::from_timestamp(seconds, 0).expect("a date").format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

pub(crate) fn folder(pipeline: &Pipeline, seconds: i64) -> String {
    format!("{}/orders/{}", pipeline.database(), folder_of(seconds))
}

/// An hour's folder below its collection's.
pub(crate) fn folder_of(seconds: i64) -> String {
    let at = chrono::DateTime::from_timestamp(seconds, 0).expect("a date");
    at.format("year=%Y/month=%m/day=%d/hour=%H").to_string()
}

pub(crate) async fn manifest(pipeline: &Pipeline, hour: i64) -> Result<Option<Value>> {
    let path = format!("{}/_manifest.json", folder(pipeline, hour));
    let document = pipeline.lake().document(&path).await?;
    document.map(|bytes| serde_json::from_slice(&bytes).context("a manifest")).transpose()
}

/// Waits for the mark; the manifest was there before it.
pub(crate) async fn closed(pipeline: &Pipeline, hour: i64) -> Result<Value> {
    let mark = format!("{}/_SUCCESS", folder(pipeline, hour));
    wait::until(&format!("{} closes", instant(hour)), LIMIT, || async {
        Ok(pipeline.lake().document(&mark).await?.map(drop))
    })
    .await?;
    manifest(pipeline, hour).await?.context("_SUCCESS without a manifest")
}

/// Waits until all files of the hour are sealed and the manifest names them, each as its metadata has it.
pub(crate) async fn named_as_they_are(
    pipeline: &Pipeline,
    hour: i64,
    sinks: &mut [&mut Service],
) -> Result<()> {
    let folder = folder(pipeline, hour);
    let agreed = wait::until(&format!("the manifest of {} is right", instant(hour)), LIMIT, || async {
        let files = pipeline.lake().files().await?;
        let mut there = BTreeMap::new();
        for file in files.iter().filter(|file| file.path.starts_with(&folder)) {
            let name = file.path.rsplit('/').next().unwrap_or_default().to_owned();
            if file.text("sealed")? != "true" {
                return Ok(None);
            }
            there.insert(name, (file.number("rows")?, file.text("crc")?.to_owned(), file.number("next")?));
        }
        let Some(manifest) = manifest(pipeline, hour).await? else { return Ok(None) };
        let mut named = BTreeMap::new();
        for file in manifest["files"].as_array().context("files")? {
            let number = |name: &str| file[name].as_i64().context("a number");
            let text = |name: &str| anyhow::Ok(file[name].as_str().context("a text")?.to_owned());
            named.insert(text("name")?, (number("rows")?, text("crc")?, number("next")?));
        }
        let rows: i64 = named.values().map(|(rows, ..)| rows).sum();
        Ok((named == there && manifest["rows"] == rows).then_some(()))
    })
    .await;
    for sink in sinks.iter_mut() {
        sink.assert_running()?;
    }
    agreed.with_context(|| sinks.iter().map(|sink| sink.log_tail()).collect::<String>())
}

/// What `/status` says of each partition.
pub(crate) fn partitions_of(sink: &Service) -> Result<Vec<Value>> {
    let mut status: Value = serde_json::from_str(&sink.status()?)?;
    let Value::Array(partitions) = status["partitions"].take() else { bail!("no partitions: {status}") };
    Ok(partitions)
}

/// Waits until all partitions of the sink know which hours are over.
pub(crate) async fn wait_for_hours(sink: &Service) -> Result<()> {
    let over = |partition: &Value| !partition["lastHourOver"].is_null();
    let all = || {
        let partitions = partitions_of(sink)?;
        anyhow::Ok(!partitions.is_empty() && partitions.iter().all(over))
    };
    wait::until("all partitions know which hours are over", LIMIT, || async { Ok(all()?.then_some(())) })
        .await
}

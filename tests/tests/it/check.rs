//! `sink-service check`: says what a start would end with, and writes nothing.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    pipeline::Pipeline,
    ports::free_port,
    servers::azurite::ACCOUNT,
    service::{Binary, Environment, Service},
};
use serde_json::Value;

use crate::{
    records::{LONG_AGO_S, event},
    stage::{LIMIT, Stage},
};

/// What one `check --json` said.
pub(crate) struct Checked(Value);

impl Checked {
    pub(crate) async fn with(pipeline: &Pipeline, name: &str, environment: Environment) -> Result<Self> {
        let arguments = ["check", "--json"];
        let mut command =
            Service::start_with(Binary::Sink, name, &arguments, environment, pipeline.folder())?;
        let code = command.exit_code(LIMIT).await?;
        let text = command.log_text()?;
        let answer: Value = serde_json::from_str(&text).with_context(|| format!("{name}: {code}\n{text}"))?;
        ensure!(answer["code"] == code, "{name}: the code is {code}, the answer {answer:#}");
        Ok(Self(answer))
    }

    pub(crate) fn code(&self) -> i64 {
        self.0["code"].as_i64().unwrap_or(-1)
    }

    fn findings(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let findings = self.0["findings"].as_array().into_iter().flatten();
        findings.map(|finding| {
            let text = |name: &str| finding[name].as_str().unwrap_or_default();
            (text("what"), text("state"), text("found"))
        })
    }

    pub(crate) fn in_state(&self, wanted: &str) -> BTreeSet<&str> {
        self.findings().filter(|(_, state, _)| *state == wanted).map(|(what, ..)| what).collect()
    }

    /// That it ends so, for these reasons and no others.
    pub(crate) fn ends_with(&self, code: i64, missing: &[&str]) -> Result<()> {
        let expected: BTreeSet<&str> = missing.iter().copied().collect();
        ensure!(self.code() == code && self.in_state("missing") == expected, "{:#}", self.0);
        Ok(())
    }

    pub(crate) fn says(&self, what: &str, state: &str, text: &str) -> Result<()> {
        let mut all = self.findings();
        ensure!(
            all.any(|(which, how, found)| which == what && how == state && found.contains(text)),
            "no {state} {what} with {text:?}: {:#}",
            self.0
        );
        Ok(())
    }
}

/// Goal: each reason has the code that `run` would end with, what cannot be asked is not called fine, and nothing is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_start_needs_is_looked_at_and_nothing_is_made() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline("checkdir")?;
    let prefix = pipeline.topics().prefix();
    let environment = || pipeline.sink_environment();

    let empty = Checked::with(&pipeline, "empty", environment()).await?;
    empty.ends_with(0, &[])?;
    empty.says("data topics", "warning", "a sink waits for the first one")?;
    empty.says("lake", "ok", "the start makes it")?;
    empty.says("right on the group", "ok", "READ")?;
    empty.says(&format!("topic {prefix}dlq"), "ok", "the first dead letter makes it")?;
    ensure!(empty.in_state("unknown") == BTreeSet::from(["right to make topics"]), "{:#}", empty.0);
    ensure!(pipeline.kafka().topics(&prefix).await?.is_empty(), "a topic was made");
    ensure!(pipeline.lake_folder().is_some_and(|folder| !folder.exists()), "the lake was made");

    // Beside a sink that runs.
    let topic = pipeline.data_topic("orders");
    let writer = pipeline.kafka_writer();
    writer.create_topic(&topic, 2, &[]).await?;
    writer.create_topic(&format!("{prefix}dlq"), 1, &[("max.message.bytes", "18000000")]).await?;
    writer.create_topic(&format!("{prefix}resume-tokens-shop"), 1, &[("cleanup.policy", "compact")]).await?;
    // A source makes it, so that it is missed beside one.
    let control = format!("{prefix}control");
    let what = format!("topic {control}");
    let unseen = Checked::with(&pipeline, "unseen", environment()).await?;
    unseen.says(&what, "warning", "may not describe it")?;
    writer.create_topic(&control, 1, &[]).await?;
    writer.send(&topic, 0, vec![event(&pipeline, 0, LONG_AGO_S)]).await?;
    let mut sink = pipeline.ready_sink().await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    let members = pipeline.kafka().group_members(&pipeline.sink_group()).await?;
    let all = Checked::with(&pipeline, "all", environment()).await?;
    all.ends_with(0, &[])?;
    all.says("data topics", "ok", "1 with 2 partition(s)")?;
    all.says("rights on topics", "ok", "READ and DESCRIBE_CONFIGS on 1 topic(s)")?;
    all.says(&what, "ok", "archived in _control/")?;
    all.says("sources", "ok", "1 say how far they are: shop")?;
    all.says("lake", "ok", "is there")?;
    all.says("right to write", "ok", "granted")?;
    ensure!(all.in_state("warning").is_empty() && all.in_state("unknown").is_empty(), "{:#}", all.0);
    ensure!(pipeline.kafka().group_members(&pipeline.sink_group()).await? == members, "it joined");
    sink.stop(LIMIT).await?;

    // For people.
    let mut command =
        Service::start_with(Binary::Sink, "text", &["check"], environment(), pipeline.folder())?;
    let (code, text) = (command.exit_code(LIMIT).await?, command.log_text()?);
    ensure!(code == 0 && text.trim_end().ends_with("0 missing: a start would go on"), "{code}\n{text}");

    // What a start would refuse, or could not reach.
    let compacted = pipeline.data_topic("compacted");
    writer.create_topic(&compacted, 1, &[("cleanup.policy", "compact")]).await?;
    let what = format!("topic {compacted}");
    let refused = Checked::with(&pipeline, "compacted", environment()).await?;
    refused.ends_with(78, &[&what])?;
    let spared = environment().set("SINK_EXCLUDE", &compacted);
    Checked::with(&pipeline, "excluded", spared).await?.ends_with(0, &[])?;
    let spared = environment().set("SINK_EXCLUDE", format!("{compacted},{control}"));
    let spared = Checked::with(&pipeline, "no-control", spared).await?;
    spared.ends_with(0, &[])?;
    spared.says(&format!("topic {control}"), "ok", "SINK_EXCLUDE leaves it out")?;
    let only = environment().set("SINK_TOPICS", format!("{topic},{}", pipeline.data_topic("later")));
    Checked::with(&pipeline, "only", only).await?.says("data topics", "warning", "no such topic yet")?;
    let away = environment().set("KAFKA_BROKERS", "127.0.0.1:1");
    Checked::with(&pipeline, "away", away).await?.ends_with(69, &["Kafka"])?;
    let registry = environment().set("SCHEMA_REGISTRY_URL", format!("http://127.0.0.1:{}", free_port()?));
    let registry = Checked::with(&pipeline, "registry", registry).await?;
    // Met before the topic.
    registry.ends_with(69, &["schema registry", &what])
}

/// The same of a storage account. Azurite says neither whether the namespace is hierarchical nor whether blobs have versions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_account_is_asked_what_it_is() -> Result<()> {
    let stage = Stage::shared().await?;
    let pipeline = stage.pipeline_into_azurite("checkazure").await?;
    // A group that the broker shares out answers in another way.
    let environment = || {
        let options = "topic.metadata.refresh.interval.ms=2000";
        pipeline.sink_environment().set("KAFKA_GROUP_PROTOCOL", "consumer").set("KAFKA_OPTIONS", options)
    };
    for name in ["first", "second"] {
        let missing = Checked::with(&pipeline, name, environment()).await?;
        missing.ends_with(0, &[])?;
        missing.says("lake", "ok", "is not there: the start makes it")?;
        missing.says("right to make it", "unknown", "")?;
        missing.says("versions", "unknown", "nothing of a sink is there yet")?;
    }
    let writer = pipeline.kafka_writer();
    let topic = pipeline.data_topic("orders");
    writer.create_topic(&topic, 1, &[]).await?;
    writer.send(&topic, 0, vec![event(&pipeline, 0, LONG_AGO_S)]).await?;
    let mut sink = pipeline.start(Binary::Sink, environment())?;
    sink.wait_until_ready().await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    let there = Checked::with(&pipeline, "there", environment()).await?;
    there.ends_with(0, &[])?;
    sink.stop(LIMIT).await?;
    for what in ["right on the group", "lake", "right to write", "immutability", "versions"] {
        there.says(what, "ok", "")?;
    }
    for what in ["account", "soft delete", "lifecycle rules"] {
        there.says(what, "unknown", "")?;
    }
    let wrong = environment().set("ADLS_SHARED_KEY", "d3Jvbmc=");
    Checked::with(&pipeline, "wrong", wrong).await?.ends_with(77, &["lake"])?;
    let nobody = environment().set("LAKE_ENDPOINT", format!("http://127.0.0.1:{}/{ACCOUNT}", free_port()?));
    Checked::with(&pipeline, "nobody", nobody).await?.ends_with(69, &["lake"])
}

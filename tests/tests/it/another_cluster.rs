//! A sink that is started against another Kafka cluster.
//!
//! Goal: it ends with 23, names both clusters, and publishes nothing, although offsets would let it go on. Method: the other cluster has a topic of the
//! same name with more records. Commands say the same. Where the head does not know its cluster, because it was written before, both causes are named.

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    pipeline::Pipeline,
    servers::{Kafka, KafkaOptions},
    service::{Binary, Service},
};
use serde_json::Value;

use crate::{
    records::{LONG_AGO_S, events, make_topic},
    stage::{LIMIT, Stage},
};

const OTHER_CLUSTER: &str = "b3RoZXItY2x1c3Rlci1pZA";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_with_23_and_names_both_clusters() -> Result<()> {
    let stage = Stage::shared().await?;
    let options = KafkaOptions { cluster_id: Some(OTHER_CLUSTER.to_owned()), ..KafkaOptions::default() };
    let other = Kafka::start(options).await?;
    let directory = stage.pipeline("otherclusterdir")?;
    is_told_apart(&directory, &other).await?;
    is_told_apart(&stage.pipeline_into_azurite("otherclusterazure").await?, &other).await?;
    a_head_of_before_leaves_it_open(&directory, &other).await
}

async fn is_told_apart(pipeline: &Pipeline, other: &Kafka) -> Result<()> {
    let topic = make_topic(pipeline).await?;
    pipeline.kafka_writer().send(&topic, 0, events(pipeline, 0..20, LONG_AGO_S)).await?;
    let mut sink = pipeline.ready_sink().await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    sink.stop(LIMIT).await?;
    let before = pipeline.lake().read().await?;
    let cluster = cluster_of_head(pipeline, &topic).await?.context("the head names no cluster")?;
    ensure!(cluster != OTHER_CLUSTER, "the two brokers are of one cluster");

    let writer = pipeline_tests::kafka_writer::KafkaWriter::new(other.bootstrap());
    writer.create_topic(&topic, 1, &[]).await?;
    writer.send(&topic, 0, events(pipeline, 1_000..1_060, LONG_AGO_S)).await?;
    let says = format!("was written from cluster {cluster}, and this is cluster {OTHER_CLUSTER}");
    for (name, arguments, expected) in
        [("other-run", vec!["run"], 23), ("other-verify", vec!["verify", "--topic", &topic], 25)]
    {
        let (code, text) = run_against(pipeline, other, name, &arguments).await?;
        ensure!(code == expected && text.contains(&says), "{name}: {code}\n{text}");
        ensure!(name != "other-run" || text.contains("Check KAFKA_BROKERS"), "{text}");
    }
    let after = pipeline.lake().read().await?;
    ensure!(after.files == before.files, "something of the other cluster was published");
    ensure!(after.heads == before.heads, "a head was written");
    Ok(())
}

/// After [`is_told_apart`].
async fn a_head_of_before_leaves_it_open(pipeline: &Pipeline, other: &Kafka) -> Result<()> {
    let topic = pipeline.data_topic("orders");
    let path = head_path(&topic);
    let bytes = pipeline.lake().document(&path).await?.context("the head")?;
    let mut head: Value = serde_json::from_slice(&bytes)?;
    head.as_object_mut().and_then(|members| members.remove("clusterid")).context("clusterid")?;
    pipeline.lake().overwrite(&path, serde_json::to_vec(&head)?).await?;
    let (code, text) = run_against(pipeline, other, "other-before", &["run"]).await?;
    ensure!(code == 23 && text.contains("made again, or this is another Kafka cluster"), "{code}\n{text}");

    // In its own cluster it goes on, and the next write of the head says which one that is.
    let mut sink = pipeline.ready_sink().await?;
    ensure!(cluster_of_head(pipeline, &topic).await?.is_none(), "the head was written for this alone");
    pipeline.kafka_writer().send(&topic, 0, events(pipeline, 20..30, LONG_AGO_S + 7_200)).await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    ensure!(cluster_of_head(pipeline, &topic).await?.is_some(), "the head names no cluster");
    Ok(())
}

async fn run_against(
    pipeline: &Pipeline,
    other: &Kafka,
    name: &str,
    arguments: &[&str],
) -> Result<(i32, String)> {
    let environment = pipeline.sink_environment().set("KAFKA_BROKERS", other.bootstrap());
    let mut service = Service::start_with(Binary::Sink, name, arguments, environment, pipeline.folder())?;
    let code = service.exit_code(LIMIT).await?;
    Ok((code, service.log_text()?))
}

fn head_path(topic: &str) -> String {
    format!("_chain/{topic}/p0.json")
}

async fn cluster_of_head(pipeline: &Pipeline, topic: &str) -> Result<Option<String>> {
    let head = pipeline.lake().document(&head_path(topic)).await?.context("the head")?;
    let head: Value = serde_json::from_slice(&head)?;
    Ok(head["clusterid"].as_str().map(str::to_owned))
}

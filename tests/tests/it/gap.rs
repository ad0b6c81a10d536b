//! Records that Kafka expired before the sink had written them.
//!
//! Goal: the sink stops with 21 and goes on only where it is told to, behind what is lost and without losing more; what is lost is written down and named.
//! Method: records are deleted in front of a sink that is down, in a partition with an open file and in one that has none yet.

use anyhow::{Context, Result, ensure};
use pipeline_tests::{
    pipeline::Pipeline,
    service::{Binary, Service},
};
use serde_json::Value;

use crate::{
    check::Checked,
    records::{LONG_AGO_S, changes},
    stage::{LIMIT, Stage},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_passed_when_told_in_a_directory() -> Result<()> {
    is_passed_when_told(&Stage::shared().await?.pipeline("gapdir")?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_passed_when_told_in_azurite() -> Result<()> {
    is_passed_when_told(&Stage::shared().await?.pipeline_into_azurite("gapazure").await?).await
}

async fn is_passed_when_told(pipeline: &Pipeline) -> Result<()> {
    let topic = pipeline.data_topic("orders");
    let writer = pipeline.kafka_writer();
    writer.create_topic(&topic, 2, &[]).await?;
    writer.send(&topic, 0, changes(pipeline, 0..20, LONG_AGO_S)).await?;
    let mut sink = pipeline.ready_sink().await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    sink.stop(LIMIT).await?;
    // A marker is behind each of these.
    writer.send(&topic, 0, changes(pipeline, 20..40, LONG_AGO_S)).await?;
    writer.send(&topic, 1, changes(pipeline, 100..110, LONG_AGO_S)).await?;
    writer.delete_records(&topic, 0, 30).await?;
    writer.delete_records(&topic, 1, 5).await?;

    // What a start would say is known before it.
    let checked = Checked::with(pipeline, "check", pipeline.sink_environment()).await?;
    checked.ends_with(21, &[&format!("chain of {topic}")])?;

    let verify = ["verify", "--topic", &topic];
    let environment = pipeline.sink_environment();
    let mut verified = Service::start_with(Binary::Sink, "verify", &verify, environment, pipeline.folder())?;
    let code = verified.exit_code(LIMIT).await?;
    let text = verified.log_text()?;
    ensure!(code == 25 && text.contains("no longer in Kafka and not in the lake"), "verify: {code}\n{text}");

    let run = |name: &str, arguments: &[&str]| {
        Service::start_with(Binary::Sink, name, arguments, pipeline.sink_environment(), pipeline.folder())
    };
    let another = pipeline.data_topic("another");
    for (name, arguments) in [("stops", vec!["run"]), ("not-told", vec!["run", "--accept-gap", &another])] {
        let mut sink = run(name, &arguments)?;
        let code = sink.exit_code(LIMIT).await?;
        let text = sink.log_text()?;
        ensure!(code == 21 && text.contains("--accept-gap"), "{name}: {code}\n{text}");
    }
    ensure!(
        pipeline.lake().document(&format!("_chain/{topic}/gaps.json")).await?.is_none(),
        "it gave up unasked"
    );

    let mut sink = run("told", &["run", "--accept-gap", &topic])?;
    sink.wait_until_ready().await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    let gaps = pipeline.lake().document(&format!("_chain/{topic}/gaps.json")).await?.context("gaps.json")?;
    let gaps: Value = serde_json::from_slice(&gaps)?;
    let mut lost: Vec<(i64, i64, i64)> = gaps["gaps"]
        .as_array()
        .context("gaps")?
        .iter()
        .map(|gap| {
            let number = |name: &str| gap[name].as_i64().context("a number");
            Ok((number("partition")?, number("from")?, number("to")?))
        })
        .collect::<Result<_>>()?;
    lost.sort_unstable();
    ensure!(lost == [(0, 21, 30), (1, 0, 5)], "{gaps}");

    // Behind it as ever, also in a process that is told nothing.
    sink.stop(LIMIT).await?;
    let mut sink = pipeline.ready_sink().await?;
    writer.send(&topic, 0, changes(pipeline, 40..50, LONG_AGO_S + 3600)).await?;
    writer.send(&topic, 1, changes(pipeline, 110..120, LONG_AGO_S + 7200)).await?;
    pipeline.wait_for_lake(&mut [&mut sink]).await?;
    let rows: i64 =
        pipeline.lake().files().await?.iter().map(|file| file.number("rows")).sum::<Result<i64>>()?;
    ensure!(rows == 20 + 11 + 10 + 5 + 10, "{rows} rows");
    let mut verify = run("verify", &["verify", "--all", "--drained"])?;
    let code = verify.exit_code(LIMIT).await?;
    let text = verify.log_text()?;
    let named = |partition: i32, offsets: u64| {
        text.contains(&format!("{topic}/{partition}: {offsets} offsets were lost"))
    };
    ensure!(code == 0 && named(0, 9) && named(1, 5), "{code}\n{text}");
    sink.assert_running()
}

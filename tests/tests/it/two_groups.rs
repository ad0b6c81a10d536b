//! Two consumer groups on one lake.
//!
//! Goal: whoever is told to write the same topics into the same lake a second time, by mistake or while moving from one group
//! to another, makes no second chain and no second row. Method: two sinks of different groups start at once on an empty lake
//! and go on side by side; one is killed and comes back.

use anyhow::{Result, ensure};
use pipeline_tests::{
    pipeline::Pipeline,
    service::{Binary, Service},
    wait,
};

use crate::{
    records::{LONG_AGO_S, events, judge},
    stage::{LIMIT, Stage},
};

const PARTITIONS: i32 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn into_a_directory() -> Result<()> {
    two_groups(&Stage::shared().await?.pipeline("twogroupsdir")?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn into_azurite() -> Result<()> {
    two_groups(&Stage::shared().await?.pipeline_into_azurite("twogroupsazure").await?).await
}

async fn two_groups(pipeline: &Pipeline) -> Result<()> {
    let topic = pipeline.data_topic("orders");
    let writer = pipeline.kafka_writer();
    writer.create_topic(&topic, PARTITIONS, &[]).await?;
    let environment = pipeline.sink_environment().set("FLUSH_INTERVAL", "100ms").set("ROLL_BYTES", "20KiB");
    let start = |group: &str| {
        pipeline.start(
            Binary::Sink,
            environment.clone().set("SINK_GROUP", format!("{}-{group}", pipeline.database())),
        )
    };
    let send = async |rounds: std::ops::Range<i64>| -> Result<()> {
        for round in rounds {
            for partition in 0..PARTITIONS {
                // Hours change too, so that files are sealed and followed all the time.
                let rows = events(pipeline, round * 20..round * 20 + 20, LONG_AGO_S + round * 900);
                writer.send(&topic, partition, rows).await?;
            }
        }
        Ok(())
    };

    send(0..5).await?;
    let (mut one, mut two) = (start("sink")?, start("other")?);
    one.wait_until_ready().await?;
    two.wait_until_ready().await?;
    send(5..15).await?;
    two.kill9()?;
    let mut two = start("other")?;
    send(15..20).await?;
    two.wait_until_ready().await?;
    let (evidence, violations) = judge(pipeline, &mut [&mut one, &mut two]).await?;
    violations.none()?;
    ensure!(evidence.data_records() == usize::try_from(PARTITIONS)? * 400, "{}", evidence.data_records());

    let refused = |sink: &Service| -> Result<f64> {
        let count = sink.metrics()?.sum_where("cdc_sink_publish_conflicts_total", "kind=\"refused\"");
        Ok(count.unwrap_or_default())
    };
    ensure!(refused(&one)? + refused(&two)? > 0.0, "they never met");

    // What one group has written the other passes as well: neither is stuck, and the lake does not need both.
    let groups = ["sink", "other"].map(|group| format!("{}-{group}", pipeline.database()));
    let has_all = async |group: &str| -> Result<bool> {
        let committed = pipeline.kafka().committed(group, [topic.clone()]).await?;
        let positions = pipeline.lake().positions().await?;
        Ok(committed.len() == usize::try_from(PARTITIONS)? && committed == positions)
    };
    for group in &groups {
        let what = format!("{group} has committed what the lake has");
        wait::until(&what, LIMIT, || async { Ok(has_all(group).await?.then_some(())) }).await?;
    }
    for sink in [&mut one, &mut two] {
        sink.stop(LIMIT).await?;
    }
    for group in &groups {
        ensure!(has_all(group).await?, "{group}: a stop has moved what it had committed");
    }
    Ok(())
}
